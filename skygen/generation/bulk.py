"""A whole set of pictures by any number of processes: the plan, a first batch that says how long it will take, the rest."""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Protocol, final, runtime_checkable

from skygen.generation.plan import Estimate, Plan
from skygen.generation.records import begin_process, end_process, merge_records, wait_for_processes
from skygen.generation.sampling import Sample, samples_to_draw, share_of
from skygen.storage import require_room

_LOG = logging.getLogger("skygen")
AHEAD: Final = 2
"""Batches that may wait to be written while the next is drawn; they are all that a slow disk makes memory hold."""


@runtime_checkable
class Draw(Protocol):
    """``sampling.draw_samples`` with the models, the prompts and the settings given."""

    def __call__(self, indices: Sequence[int], *, rank: int, ahead: int) -> Iterator[Sample]:
        """Draw pictures and save them with their records."""
        ...


@final
@dataclass(frozen=True, slots=True)
class BulkDrawing:
    """The drawing of a set, as one of several processes sees it.

    Args:
        plan: the same in every process.
        folder: of the run; the pictures go to ``samples`` in it.
        draw: draws pictures.
        trial: pictures of the first batch, from which time and disk space are reckoned.
        side: of the pictures, in pixels.
        rank: of this process, from 0; the first one keeps the plan and the list.
        processes: that share the work, unit by unit.
        unit: pictures that are drawn together, see ``Candidates.unit``.
    """

    plan: Plan
    folder: Path
    draw: Draw
    trial: int
    side: int
    rank: int = 0
    processes: int = 1
    unit: int = 1

    @property
    def samples(self) -> Path:
        """Where the pictures go."""
        return self.folder / "samples"

    def prepare(self) -> None:
        """Keep the plan; all processes are to be waited for after it.

        Raises:
            ConfigError: the run was begun with another plan.
        """
        if self.rank == 0:
            self.plan.keep(self.folder)
        begin_process(self.samples, self.rank)

    def draw_share(self, progress: Callable[[int, int], None]) -> None:
        """Draw what is missing of this process's share.

        Args:
            progress: is told the pictures of the share that are there and those in all.

        Raises:
            ConfigError: memory does not suffice for one picture.
            StorageError: the disk has no room for the pictures, or refuses.
        """
        total = len(self.plan.prompts)
        share = len(share_of(total, self.rank, self.processes, self.unit))
        missing = samples_to_draw(self.samples, total, self.rank, self.processes, self.unit)
        done = share - len(missing)
        progress(done, share)
        first, rest = missing[: self.trial], missing[self.trial :]
        begun = time.monotonic()
        drawn = []
        for sample in self.draw(first, rank=self.rank, ahead=0):
            drawn.append(sample)
            progress(done + len(drawn), share)
        if rest and self.rank == 0:
            self._tell(drawn, time.monotonic() - begun, len(rest) * self.processes)
        for number, _ in enumerate(self.draw(rest, rank=self.rank, ahead=AHEAD), start=1):
            progress(done + len(first) + number, share)
        end_process(self.samples, self.rank)

    def complete(self) -> list[dict[str, Any]]:
        """Wait for the other processes, and make their records into one list; for the first process alone.

        Raises:
            DataError: pictures are missing, or are not as they were written.
        """
        wait_for_processes(self.samples, self.processes)
        return merge_records(self.samples, range(len(self.plan.prompts)))

    def _tell(self, drawn: Sequence[Sample], seconds: float, pictures: int) -> None:
        size = sum(int(sample.record["size"]) for sample in drawn)
        estimate = Estimate.of_trial(
            len(drawn),
            seconds,
            size,
            min(pictures, len(self.plan.prompts) - len(drawn)),
            side=self.side,
            candidates=self.plan.candidates,
            processes=self.processes,
        )
        _LOG.info(str(estimate))
        estimate.keep(self.folder)
        require_room(self.samples, estimate.size_bytes, "free disk space or take another --run.root")
