"""The one source of randomness: every draw is named by what it is for and where it stands.

Nothing here has a state that could be lost: a generator is made anew from (seed, purpose, position), so step 4711 draws the
same numbers in an unbroken run, after a resume, and in a test that looks at step 4711 alone.
"""

from __future__ import annotations

import hashlib
import random
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from jaxtyping import Int

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True, slots=True)
class Seeds:
    """Named random generators that all follow from one seed.

    Args:
        seed: the number a user sets with ``--run.seed``.
    """

    seed: int

    def derive(self, purpose: str, *position: int | str) -> int:
        """Hash (seed, purpose, position) to an integer in [0, 2**63).

        Args:
            purpose: what the numbers are for, such as ``"noise"``; two purposes never share a stream.
            position: where the draw stands, such as ``step, rank``.
        """
        name = "\x1f".join(map(str, (self.seed, purpose, *position)))
        return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") >> 1

    def generator(self, purpose: str, *position: int | str) -> torch.Generator:
        """Make a CPU generator for one draw.

        It is a CPU generator on every device, so that a picture made on a GPU starts from the same noise as on a laptop.
        """
        import torch

        return torch.Generator().manual_seed(self.derive(purpose, *position))

    def for_item(self, purpose: str, index: int) -> torch.Generator:
        """Make the generator of item ``index`` alone: the same on 1 or 8 processes and in any batch size."""
        return self.generator(purpose, "item", index)

    def numpy(self, purpose: str, *position: int | str) -> np.random.Generator:
        """Make a NumPy generator for one draw; its stream is fixed by NumPy's compatibility policy for ``Philox``."""
        return np.random.Generator(np.random.Philox(self.derive(purpose, *position)))

    def reset_global(self, purpose: str, *position: int | str) -> None:
        """Set torch's global generators, for library code that takes none of ours (dropout, parameter initialisation)."""
        import torch

        torch.manual_seed(self.derive(purpose, *position))


def published_permutation(seed: int, count: int) -> Int[np.ndarray, " count"]:
    """Return the permutation that a published protocol names by a seed of Python's own generator.

    Args:
        seed: as ``random.Random`` takes it.
        count: of the items.

    Returns:
        ``random.Random(seed).shuffle`` of ``range(count)``; some items may stay in their place.
    """
    order = list(range(count))
    random.Random(seed).shuffle(order)  # no secret
    return np.array(order, dtype=np.int64)
