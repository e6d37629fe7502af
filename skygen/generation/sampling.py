"""Sampling in bulk: picture ``i`` follows from the run's seed and ``i`` alone, so a broken run goes on where it stopped.

On the CPU that holds to the last bit, whatever the batches, the processes and the interruptions: sums round otherwise in other
batches and with other numbers of threads, so pictures are computed there in units of fixed size and content, with
``generation.threads`` threads; a unit of which one picture is missing is computed again as a whole.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from skygen.errors import SkygenError
from skygen.generation.choice import Candidates, Chosen
from skygen.generation.provenance import save_synthetic
from skygen.generation.records import METADATA as METADATA
from skygen.generation.records import RecordShard, describe_file, find_finished, name_some
from skygen.generation.records import read_metadata as read_metadata

_LOG = logging.getLogger("skygen")
WRITERS: Final = 2
"""Threads that compress and write pictures; zlib lets others run meanwhile."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished picture: its number and the line of ``metadata.jsonl``."""

    index: int
    record: dict[str, Any]


def share_of(count: int, rank: int, processes: int, unit: int = 1) -> list[int]:
    """List the pictures that are one process's to draw: every so many units of them."""
    return [index for index in range(count) if index // unit % processes == rank]


def samples_to_draw(folder: Path, count: int, rank: int = 0, processes: int = 1, unit: int = 1) -> list[int]:
    """List the numbers that this process still has to draw: its share, less what an earlier run finished.

    A picture whose file is not, byte for byte, the one of its record is drawn again, and the log says so.
    """
    share = share_of(count, rank, processes, unit)
    finished, damaged = find_finished(folder, share)
    if damaged:
        _LOG.warning(f"{folder}: {len(damaged):,} pictures are drawn again ({name_some(damaged)})")
    return [index for index in share if index not in finished]


def draw_samples(
    candidates: Candidates, indices: Sequence[int], folder: Path, at_a_time: int, *, rank: int = 0, ahead: int = 0
) -> Iterator[Sample]:
    """Draw, select and save pictures, a batch at a time.

    Args:
        candidates: draws them.
        indices: numbers of the pictures to draw.
        folder: gets ``images/NNNNNN.png`` and, batch by batch, this process's records.
        at_a_time: pictures between two writes of the records, or the few more that fill a unit.
        rank: of this process.
        ahead: batches that may be drawn while an earlier one is still being written; with 0 each is on the disk first.

    Yields:
        Each picture when it and its record are on the disk. Whatever was drawn before an error or an interruption is, too.
    """
    waiting: deque[list[Future[Sample]]] = deque()
    with RecordShard(folder, rank) as shard, ThreadPoolExecutor(WRITERS, thread_name_prefix="pictures") as pool:
        try:
            for batch in _batches(indices, at_a_time, candidates.unit):
                waiting.append([])
                for chosen in _draw_batch(candidates, batch):
                    waiting[-1].append(pool.submit(_save, chosen, folder))
                while len(waiting) > ahead:
                    yield from _finish(waiting.popleft(), shard)
            while waiting:
                yield from _finish(waiting.popleft(), shard)
        finally:
            while waiting:
                with suppress(SkygenError, OSError):  # the first error is the one to hear of
                    _finish(waiting.popleft(), shard)


def _batches(indices: Sequence[int], at_a_time: int, unit: int) -> Iterator[list[int]]:
    """Divide pictures into batches that end where a unit does."""
    batch: list[int] = []
    for index in indices:
        if len(batch) >= at_a_time and index // unit != batch[-1] // unit:
            yield batch
            batch = []
        batch.append(index)
    if batch:
        yield batch


def _draw_batch(candidates: Candidates, batch: Sequence[int]) -> Iterator[Chosen]:
    """Draw a batch: at once where the bytes may depend on it, else unit by unit, each in full."""
    if candidates.unit == 1 and not candidates.is_exact:
        yield from candidates.draw(batch)
        return
    wanted = set(batch)
    for unit in sorted({index // candidates.unit for index in batch}):
        whole = range(unit * candidates.unit, (unit + 1) * candidates.unit)
        for index, chosen in zip(whole, candidates.draw(whole), strict=True):
            if index in wanted:
                yield chosen


def _save(chosen: Chosen, folder: Path) -> Sample:
    path = folder / chosen.record["file_name"]
    save_synthetic(chosen.image, path, chosen.record)
    return Sample(chosen.record["index"], chosen.record | describe_file(path))


def _finish(saving: Sequence[Future[Sample]], shard: RecordShard) -> list[Sample]:
    """Wait until pictures are written, and add their records; where some cannot be, still those of the others."""
    samples, errors = [], []
    for future in saving:
        try:
            samples.append(future.result())
        except (SkygenError, OSError) as error:
            errors.append(error)
    shard.add([sample.record for sample in samples])
    if errors:
        raise errors[0]
    return samples
