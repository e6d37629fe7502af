"""Rows on one image become one pair: its captions are gathered, each once, and an image stays on one side of a split."""

from __future__ import annotations

from array import array
from bisect import bisect_right
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import lru_cache
from typing import Any, final

import numpy as np
import pyarrow as pa
from jaxtyping import UInt64

from skygen.data.rejects import Rejects

Row = Mapping[str, Any]
"""Key, split and captions of one row, by column."""

_SPLIT_STRENGTH = {"test": 0, "val": 1, "train": 2}
"""An image that is listed for testing is never trained on, wherever else it is listed."""


@final
@dataclass(slots=True)
class Joining:
    """Which rows go, and which captions the remaining ones gain.

    Args:
        dropped: row numbers.
        captions: the new lists, by column and row number.
        joined: rows whose caption went to an earlier row of the image.
        repeated: rows that say what another row says, or stand on the other side of a split.
    """

    dropped: set[int] = field(default_factory=set)
    captions: dict[str, dict[int, list[str]]] = field(default_factory=dict)
    joined: int = 0
    repeated: int = 0

    def apply(self, batch: pa.RecordBatch, first_row: int) -> pa.RecordBatch:
        """Carry it out on the rows ``first_row`` and onward."""
        rows = range(first_row, first_row + batch.num_rows)
        for name, gained in self.captions.items():
            places = [row for row in rows if row in gained]
            if places:
                lists = batch.column(name).to_pylist()
                for row in places:
                    lists[row - first_row] = gained[row]
                column = batch.schema.get_field_index(name)
                batch = batch.set_column(column, batch.schema.field(column), pa.array(lists, batch.schema.field(column).type))
        dropped = [row - first_row for row in rows if row in self.dropped] if self.dropped else []
        if not dropped:
            return batch
        kept = np.ones(batch.num_rows, dtype=bool)
        kept[dropped] = False
        return batch.filter(pa.array(kept))


@final
class KeyIndex:
    """Finds the keys that stand in several rows: 8 bytes a row, gathered as rows go past."""

    def __init__(self) -> None:
        self._hashes = array("Q")

    def add(self, hashes: UInt64[np.ndarray, " rows"]) -> None:
        """Take in the hashed keys of the next rows."""
        self._hashes.frombytes(hashes.tobytes())

    def repeated_rows(self) -> Iterator[list[int]]:
        """Yield the row numbers that may share one key, at least two at a time, in order."""
        hashes = np.frombuffer(self._hashes, dtype=np.uint64)
        order = np.argsort(hashes, kind="stable")
        same = np.flatnonzero(hashes[order][1:] == hashes[order][:-1])
        if len(same):
            for run in np.split(same, np.flatnonzero(np.diff(same) > 1) + 1):
                yield order[run[0] : run[-1] + 2].tolist()


def find_joining(index: KeyIndex, row_at: Callable[[int], Row], rejects: Rejects, where: str) -> Joining:
    """Decide what becomes of the rows that share an image.

    Args:
        index: that has seen every row.
        row_at: gives the columns of a row by its number.
        rejects: a row that says nothing new is noted there, as a part: its pair is kept.
        where: names the list in those notes.
    """
    joining = Joining()
    for candidates in index.repeated_rows():
        by_key: dict[str, list[int]] = {}
        rows = {row: row_at(row) for row in candidates}
        for row, values in rows.items():
            by_key.setdefault(str(values["key"]), []).append(row)
        for key, same in by_key.items():
            if len(same) > 1:
                _join(key, {row: rows[row] for row in same}, joining, rejects, where)
    return joining


def _join(key: str, rows: dict[int, Row], joining: Joining, rejects: Rejects, where: str) -> None:
    keeper = min(rows, key=lambda row: (_SPLIT_STRENGTH.get(str(rows[row]["split"]), 3), row))
    split = rows[keeper]["split"]
    names = [name for name in rows[keeper] if name.startswith("captions")]
    lists = {name: list(rows[keeper][name] or ()) for name in names}
    for place, (row, values) in enumerate(rows.items(), start=1):
        if row == keeper:
            continue
        joining.dropped.add(row)
        new = {name: [text for text in values[name] or () if text not in lists[name]] for name in names}
        if values["split"] == split and any(new.values()):
            joining.joined += 1
            for name, texts in new.items():
                lists[name] += texts
        else:
            joining.repeated += 1
            reason = "the image and its caption are" if values["split"] == split else f"the image is in the split {split}, and"
            rejects.add(key, f"duplicate key: {reason} listed in another row", where, part=f"occurrence {place}")
    for name, texts in lists.items():
        if texts != (rows[keeper][name] or []):
            joining.captions.setdefault(name, {})[keeper] = texts


def row_reader(batch_at: Callable[[int], pa.RecordBatch], starts: list[int]) -> Callable[[int], Row]:
    """Make a ``row_at`` for ``find_joining`` from numbered batches.

    Args:
        batch_at: gives a batch by its number.
        starts: the first row of each batch.
    """
    cached = lru_cache(maxsize=8)(batch_at)

    def row_at(row: int) -> Row:
        number = bisect_right(starts, row) - 1
        batch = cached(number)
        names = [name for name in batch.schema.names if name in ("key", "split") or name.startswith("captions")]
        return {name: batch.column(name)[row - starts[number]].as_py() for name in names}

    return row_at
