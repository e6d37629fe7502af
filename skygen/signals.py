"""What a run does when a scheduler, a launcher or a person asks it to end."""

from __future__ import annotations

import ctypes
import os
import signal
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType
from typing import Any, ClassVar, Final, final

from skygen.errors import Preempted

PR_SET_PDEATHSIG = 1
NOTED = (signal.SIGTERM, signal.SIGUSR1)
"""SLURM sends the first at the end of a job's time, and the second before it where `--signal=USR1@seconds` asks for that."""

SECONDS_BETWEEN_LOOKS: Final = 0.2


@final
class StopSignal:
    """Notes SIGTERM and SIGUSR1 while it listens, so that the work in hand is ended, kept, and the run ends with code 75.

    A second signal ends the process at once.
    """

    listening: ClassVar[list[StopSignal]] = []
    """Signals belong to the process: whoever waits in it asks these."""

    def __init__(self) -> None:
        self.requested = False
        self._before: dict[int, Any] = {}

    def listen(self) -> None:
        """Take over both signals; only the main thread of a process can."""
        if threading.current_thread() is threading.main_thread() and not self._before:
            self._before = {number: signal.signal(number, self._note) for number in NOTED}
            self.listening.append(self)

    def leave(self) -> None:
        """Give both signals back to whoever had them."""
        for number, handler in self._before.items():
            signal.signal(number, handler)
        self._before = {}
        if self in self.listening:
            self.listening.remove(self)

    def heed(self, after: str) -> None:
        """Stop where that was asked for.

        Args:
            after: what has been done, in words that end the sentence.

        Raises:
            Preempted: it was.
        """
        if self.requested:
            raise Preempted(f"stopped by a signal after {after}; the same command continues.")

    def _note(self, number: int, frame: FrameType | None) -> None:
        if self.requested:
            sys.exit(Preempted.exit_code)
        self.requested = True


def wait_until(is_done: Callable[[], bool]) -> None:
    """Wait for what other processes write; a barrier of torch's would give up on a slower one after minutes.

    Raises:
        Preempted: a signal has asked for the end meanwhile.
    """
    while not is_done():
        for stop in StopSignal.listening:
            stop.heed("its own share, while the other processes were at theirs")
        time.sleep(SECONDS_BETWEEN_LOOKS)


def end_with_launcher() -> None:
    """Have the kernel send SIGTERM here when the launcher dies (Linux).

    Without it a killed ``accelerate launch`` would leave its child training on, never told. A recipe started by a shell is
    left alone: it may be meant to outlive that shell.
    """
    if sys.platform == "linux" and not {"ACCELERATE_MIXED_PRECISION", "LOCAL_RANK"}.isdisjoint(os.environ):
        ctypes.CDLL(None).prctl(PR_SET_PDEATHSIG, signal.SIGTERM)
