"""Slows down whoever guesses passwords: after some failures each further try of an address waits, and longer each time."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable
from typing import Final, final

FREE: Final = 3
"""Tries without a wait; people mistype."""
FIRST_WAIT: Final = 0.5
"""Seconds; each further failure doubles it."""
LONGEST_WAIT: Final = 8.0
"""Seconds; behind a proxy all come from one address, and nobody must be locked out by another's guesses."""
FORGOTTEN_AFTER: Final = 600.0
"""Seconds without a try."""
MOST_ADDRESSES: Final = 4096


@final
class Brake:
    """Counts the tries of each address that have not succeeded; those still under way are among them.

    Args:
        clock: tells seconds.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._tried: OrderedDict[str, tuple[int, float]] = OrderedDict()

    def begin(self, address: str) -> float:
        """Count a try before it is made, so that many at once are no quicker.

        Args:
            address: of whoever tries.

        Returns:
            Seconds that it has to wait.
        """
        now = self._clock()
        count, last = self._tried.pop(address, (0, now))
        count = 1 if now - last > FORGOTTEN_AFTER else count + 1
        self._tried[address] = (count, now)
        if len(self._tried) > MOST_ADDRESSES:
            self._tried.popitem(last=False)
        return 0.0 if count <= FREE else min(FIRST_WAIT * 2.0 ** min(count - FREE - 1, 16), LONGEST_WAIT)

    def succeed(self, address: str) -> None:
        """Forget the failures of an address: the password was right."""
        self._tried.pop(address, None)
