"""Every image of a data set opened once: what cannot be used is known before a training begins, and each row accounted for."""

from __future__ import annotations

import multiprocessing
import re
import signal
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import FIRST_COMPLETED, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from pathlib import Path
from shutil import rmtree
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int32, Int64

from skygen.data.images import open_image
from skygen.data.index import FINDINGS, IDENTITY, Index, read_findings
from skygen.data.pairs import NO_CAPTION, absent_parts
from skygen.data.rejects import Reject, read_rejects, write_rejects
from skygen.data.skyscript import locate_image
from skygen.data.table import SCHEMA, PairTable, take_rows
from skygen.errors import DataError, ImageError
from skygen.storage import writing

SMALLEST_TASK, LARGEST_TASK = 32, 2048
"""Images that a worker opens at a time, after which they need not be opened again."""

Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class Report:
    """What became of every row; ``usable + joined + repeated + absent`` and the sum of ``rejected`` is ``rows``.

    Args:
        rows: of the list.
        usable: pairs whose image can be read.
        joined: rows that added a caption to an image of another row.
        repeated: rows that said nothing new.
        absent: pairs of SkyScript's parts that are not on this machine, by part.
        rejected: rows that cannot be used, by reason.
    """

    rows: int
    usable: int
    joined: int
    repeated: int
    absent: Mapping[int, int]
    rejected: Mapping[str, int]


def check_images(index: Index, progress: Progress, *, workers: int = 1, again: bool = False) -> None:
    """Open every image of an index, and keep beside it what was found: a size or a problem.

    A check that was broken off goes on where it was; one that is repeated opens the images that had a problem, and those of
    parts that were not here.

    Args:
        index: of the data set, on the disk.
        progress: is told the images looked at and in all.
        workers: processes that decode; 1 is this one.
        again: open all images again.

    Raises:
        StorageError: the findings cannot be written.
        DataError: the system killed a worker.
    """
    path = _index_file(index)
    working = path.with_suffix(f".checking-{index.identity}")
    if again:
        rmtree(working, ignore_errors=True)
    findings = Findings.begin(index, None if again else read_findings(path))
    for finished in sorted(working.glob("*.arrow")):
        findings.take_in(pa.ipc.open_file(pa.memory_map(str(finished))).read_all())
    todo = np.flatnonzero((findings.width == 0) & _is_here(index.table))
    done = total = len(findings.width) - int((~_is_here(index.table)).sum())
    done -= len(todo)
    progress(done, total)
    for found in _look(index.table, todo, workers):
        with writing(working / f"{found['row'][0].as_py():012d}.arrow") as temporary:
            _write_table(temporary, found)
        findings.take_in(found)
        done += len(found)
        progress(done, total)
    with writing(path.with_suffix(FINDINGS)) as temporary:
        _write_table(temporary, findings.table().replace_schema_metadata({IDENTITY: index.identity.encode()}))
    rmtree(working, ignore_errors=True)


@final
@dataclass(frozen=True, slots=True)
class Findings:
    """What is known of the image of each row.

    Args:
        width: in pixels; 0 where it has not been looked at, -1 where it cannot be used.
        height: the same.
        problems: why not, by row.
    """

    width: Int32[np.ndarray, " rows"]
    height: Int32[np.ndarray, " rows"]
    problems: dict[int, str]

    @classmethod
    def begin(cls, index: Index, before: pa.Table | None) -> Findings:
        """Begin with what an earlier check found to be good; what it found bad may have been mended."""
        if before is None:
            count = len(index.table.table)
            return cls(np.zeros(count, np.int32), np.zeros(count, np.int32), {})
        width, height = (before.column(name).fill_null(0).to_numpy().copy() for name in ("width", "height"))
        return cls(width, height, {})

    def take_in(self, found: pa.Table) -> None:
        """Note what one task found."""
        rows = found.column("row").to_numpy()
        self.width[rows] = found.column("width").fill_null(-1).to_numpy()
        self.height[rows] = found.column("height").fill_null(-1).to_numpy()
        self.problems.update(
            (row, why) for row, why in zip(rows.tolist(), found.column("problem").to_pylist(), strict=True) if why
        )

    def table(self) -> pa.Table:
        """Return the columns as a table of pairs has them."""
        bad = np.fromiter(sorted(self.problems), np.int64, len(self.problems))
        place = np.full(len(self.width), -1, np.int64)
        place[bad] = np.arange(len(bad))
        reasons = pa.array([self.problems[row] for row in bad.tolist()], pa.string())
        columns = [pa.array(values, pa.int32(), mask=values <= 0) for values in (self.width, self.height)]
        problem = reasons.take(pa.array(place, mask=place < 0))
        return pa.table([*columns, problem], schema=pa.schema([SCHEMA.field(name) for name in ("width", "height", "problem")]))


def _look(part: PairTable, rows: Int64[np.ndarray, " todo"], workers: int) -> Iterator[pa.Table]:
    """Open the images of rows, in tasks small enough that all workers end together."""
    size = min(LARGEST_TASK, max(SMALLEST_TASK, len(rows) // (8 * workers)))
    tasks = [rows[start : start + size] for start in range(0, len(rows), size)]
    if workers <= 1 or len(tasks) <= 1:
        yield from (_look_at(part, task) for task in tasks)
        return
    # spawned, not forked: Arrow has threads running, which a fork would tear
    context = multiprocessing.get_context("spawn")
    pool = ProcessPoolExecutor(workers, context, initializer=_begin_worker, initargs=(part,))
    try:
        waiting = {pool.submit(_work, task) for task in tasks[: workers * 4]}
        rest = iter(tasks[workers * 4 :])
        while waiting:
            finished, waiting = wait(waiting, return_when=FIRST_COMPLETED)
            waiting |= {pool.submit(_work, task) for _, task in zip(finished, rest, strict=False)}
            yield from (future.result() for future in finished)
    except BrokenProcessPool as error:
        raise DataError(
            "a process of the check was killed, perhaps for lack of memory; check again with fewer --workers: what was "
            "looked at is kept"
        ) from error
    finally:
        pool.shutdown(cancel_futures=True)


_own_part: PairTable


def _begin_worker(part: PairTable) -> None:
    global _own_part
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C goes to all; the parent ends the pool
    _own_part = part


def _work(rows: Int64[np.ndarray, " task"]) -> pa.Table:
    return _look_at(_own_part, rows)


def _look_at(part: PairTable, rows: Int64[np.ndarray, " task"]) -> pa.Table:
    keys = [key for some in take_rows(part.table.select(["key"]).to_batches(), rows) for key in some["key"].to_pylist()]
    sizes: list[tuple[int | None, int | None]] = []
    problems: list[str | None] = []
    for key in keys:
        try:
            image = open_image(locate_image(part.root, key))
        except ImageError as error:
            sizes.append((None, None))
            problems.append(str(error))
        else:
            sizes.append(image.size)
            problems.append(None)
    widths, heights = zip(*sizes, strict=True)
    arrays = [pa.array(rows), pa.array(widths, pa.int32()), pa.array(heights, pa.int32()), pa.array(problems, pa.string())]
    return pa.table(arrays, names=["row", "width", "height", "problem"])


def _write_table(path: Path, table: pa.Table) -> None:
    with pa.OSFile(str(path), "wb") as sink, pa.ipc.new_file(sink, table.schema) as writer:
        writer.write_table(table)


def report(index: Index, ledger: Path) -> Report:
    """Account for every row of an index that has been checked, and write each one that cannot be used to a ledger.

    Args:
        index: opened after the check.
        ledger: ``rejects.jsonl``.
    """
    table, counts = index.table.table, index.counts
    absent = {part: 0 for part in absent_parts(index.table)}
    if absent:
        found = pc.value_counts(table.column("part").drop_null()).to_pylist()
        absent = {entry["values"]: entry["counts"] for entry in found if entry["values"] in absent}
    rejected: Counter[str] = Counter()
    write_rejects(ledger, _entries(index, absent, rejected))
    usable = int((_is_here(index.table) & _is_usable(table)).sum())
    return Report(counts.rows, usable, counts.joined, counts.repeated, absent, dict(rejected.most_common()))


def format_report(report: Report) -> str:
    """Lay the account out for a person to read, its rows adding up to the rows of the list."""
    lines = [(report.usable, "pairs can be used")]
    lines += [(report.joined, "rows give an image of another row a further caption")] * bool(report.joined)
    lines += [(report.repeated, "rows repeat another row (duplicate key)")] * bool(report.repeated)
    lines += [(count, f"pairs of part {part}: images{part} is not here") for part, count in report.absent.items()]
    lines += [(count, f"rejected: {reason}") for reason, count in report.rejected.items()]
    width = len(f"{report.rows:,}")
    body = [f"{count:>{width},}  {text}" for count, text in lines]
    return "\n".join([*body, "─" * width, f"{report.rows:>{width},}  rows in all"])


def name_reason(reason: str) -> str:
    """Group reasons by what is wrong, without the sizes and names that differ from image to image."""
    head = (
        reason.partition(": ")[0]
        if re.match(r"(?:damaged|missing|too large|too small|cut short|the path)\b", reason)
        else reason
    )
    return re.sub(r"'[^']*'|(?<!UTF-)\b\d[\d,.]*", "…", head.partition(" (")[0])


def _entries(index: Index, absent: Mapping[int, int], rejected: Counter[str]) -> Iterator[Reject]:
    """Yield the rows that the list lost, the images that cannot be used, and a line for each part that is not here."""
    if index.ledger is not None:
        for entry in read_rejects(index.ledger):
            if entry.part is None:
                rejected[name_reason(entry.reason)] += 1
            yield entry
    table, root = index.table.table, index.table.root
    bad = pa.array(_is_here(index.table) & ~_is_usable(table))
    for batch in table.select(["key", "problem"]).filter(bad).to_batches():
        for row in batch.to_pylist():
            reason = row["problem"] or NO_CAPTION
            rejected[name_reason(reason)] += 1
            yield Reject(row["key"], reason, str(locate_image(root, row["key"])))
    for part, count in absent.items():
        yield Reject(f"images{part}/*", f"missing: {count} images, images{part} is not here", str(root / f"images{part}"))


def _is_usable(table: pa.Table) -> Bool[np.ndarray, " rows"]:
    usable: Bool[np.ndarray, " rows"] = (
        table.column("problem").is_null().to_numpy() & table.column("captions").is_valid().to_numpy()
    )
    return usable


def _is_here(part: PairTable) -> Bool[np.ndarray, " rows"]:
    absent = absent_parts(part)
    numbers = part.table.column("part").fill_null(-1).to_numpy()
    here: Bool[np.ndarray, " rows"] = ~np.isin(numbers, absent)
    return here


def _index_file(index: Index) -> Path:
    if index.path is None:
        raise ValueError("only an index on the disk can be checked; build it first")
    return index.path
