"""Pair lists as Arrow tables: the one form that the rows of every data set end in.

A selection of millions of pairs is row numbers over such a table, which is mapped from the disk, not read into memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int64

from skygen.data.pair import Box, Pair
from skygen.data.skyscript import OBJECT_TYPES, SOURCES, locate_image, parse_file_name, parse_part

TAGS = pa.map_(pa.string(), pa.string())
"""OpenStreetMap tags of one object."""

SCHEMA = pa.schema(
    [
        pa.field("key", pa.string(), nullable=False),  # the image's path relative to the root, with forward slashes
        pa.field("captions", pa.list_(pa.string())),  # at least one; none blank, none twice
        pa.field("split", pa.string()),  # train, val, test
        pa.field("class_name", pa.string()),  # the scene or focus object in words
        pa.field("source", pa.string()),  # alias of the image collection, such as CH
        pa.field("year", pa.int16()),  # of capture
        pa.field("part", pa.int8()),  # 2 to 7: which of SkyScript's archives
        pa.field("object_type", pa.string()),  # area, way, node, relation
        pa.field("osm_id", pa.int64()),  # unique together with object_type
        pa.field("gsd", pa.float64()),  # metres a pixel; the coarsest of the source where it has several
        pa.field("similarity", pa.float64()),  # image-text cosine that came with the pair
        pa.field("west", pa.float64()),  # the box on the ground, in degrees
        pa.field("south", pa.float64()),
        pa.field("east", pa.float64()),
        pa.field("north", pa.float64()),
        pa.field("time", pa.timestamp("s")),  # of capture, UTC
        pa.field("center_tags", TAGS),  # of the focus object
        pa.field("surrounding_tags", pa.list_(TAGS)),  # of each object around it
        pa.field("country", pa.string()),  # ISO 3166-1 alpha-2; null at sea and where there is no box
        pa.field("continent", pa.string()),  # Africa, Antarctica, Asia, Europe, North America, Oceania, South America
        pa.field("width", pa.int32()),  # pixels; null before `skygen check`
        pa.field("height", pa.int32()),
        pa.field("problem", pa.string()),  # why the image cannot be used; null where it can, and before `skygen check`
    ]
)
"""Every column but ``key`` may be null; a table without a column has it null throughout."""

CAPTIONS_OF = "captions:"
"""Stands before the name of a list's column of captions, where a table holds several of them."""

UNIT, RECORD = "\x1f", "\x1e"
"""ASCII's separators, which no caption holds: between the texts of a pair, and after a pair."""


@final
@dataclass(frozen=True, slots=True)
class PairTable:
    """All rows of one data set, and where its images lie.

    Args:
        root: folder of the data set.
        table: with columns of ``SCHEMA``.
        path: of the index that ``table`` is mapped from, which another process then maps instead of receiving a copy; None
            for a table in memory.
        caption_column: of the index, that ``captions`` are.
    """

    root: Path
    table: pa.Table
    path: Path | None = None
    caption_column: str | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        """Hand a mapped table to another process by its name."""
        if self.path is None:
            return PairTable, (self.root, self.table)
        from skygen.data.index import map_pairs

        return map_pairs, (self.root, self.path, self.caption_column)


@final
class PairList(Sequence[Pair]):
    """Pairs chosen from tables: a sequence that makes each ``Pair`` when it is asked for.

    Five million pairs take 40 MB: their row numbers. Slices are pair lists too.

    Args:
        tables: whose rows are numbered through, in order.
        rows: numbers of the chosen rows, in the order of the list.
        weights: how often each pair is drawn for training, relative to the others; None for all alike.
    """

    def __init__(
        self, tables: Sequence[PairTable], rows: Int64[np.ndarray, " pairs"], weights: Float[np.ndarray, " pairs"] | None = None
    ) -> None:
        self.tables = tuple(tables)
        self.rows = rows
        self.weights = weights
        self._batches = [(part.root, batch) for part in self.tables for batch in part.table.to_batches()]
        self._starts = list(accumulate((batch.num_rows for _, batch in self._batches), initial=0))

    @classmethod
    def of(cls, pairs: Sequence[Pair], root: Path) -> PairList:
        """Make a list in memory of pairs whose images lie below ``root``."""
        table = pa.Table.from_batches([to_batch(pairs)], SCHEMA)
        return cls([PairTable(root, table)], np.arange(len(table), dtype=np.int64))

    def __len__(self) -> int:
        return len(self.rows)

    @overload
    def __getitem__(self, index: int) -> Pair: ...
    @overload
    def __getitem__(self, index: slice) -> PairList: ...
    def __getitem__(self, index: int | slice) -> Pair | PairList:
        if isinstance(index, slice):
            return PairList(self.tables, self.rows[index], None if self.weights is None else self.weights[index])
        row = int(self.rows[index])
        place = bisect_right(self._starts, row) - 1
        root, batch = self._batches[place]
        return to_pair(batch, row - self._starts[place], root)

    def __iter__(self) -> Iterator[Pair]:
        return map(self.__getitem__, range(len(self)))

    def __eq__(self, other: object) -> bool:
        return isinstance(other, Sequence) and len(self) == len(other) and all(a == b for a, b in zip(self, other, strict=True))

    __hash__ = None  # type: ignore[assignment]  # as a list's

    def __add__(self, other: PairList) -> PairList:
        """Put two lists one after the other; weights carry over, those of the list without any being 1."""
        shift = self._starts[-1]
        rows = np.concatenate([self.rows, other.rows + shift])
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = np.concatenate([np.ones(len(p)) if p.weights is None else p.weights for p in (self, other)])
        return PairList((*self.tables, *other.tables), rows, weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return PairList, (self.tables, self.rows, self.weights)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column of the chosen rows, in their order."""
        columns = [part.table.column(name) for part in self.tables]
        chunks = [chunk for column in columns for chunk in column.chunks]
        return pa.chunked_array(chunks, SCHEMA.field(name).type).take(pa.array(self.rows))

    def batches(self, size: int = 65_536) -> Iterator[pa.RecordBatch]:
        """Yield the chosen rows with all columns, ``size`` at a time."""
        whole = pa.concat_tables([part.table for part in self.tables])
        for start in range(0, len(self.rows), size):
            chosen = whole.take(pa.array(self.rows[start : start + size])).combine_chunks()
            yield from chosen.to_batches() or [pa.RecordBatch.from_pylist([], chosen.schema)]

    def fingerprint(self) -> str:
        """Hash keys, captions, order and weights: 16 hexadecimal digits of SHA-256."""
        digest = sha256()
        for batch in self._key_batches("key", "captions"):
            texts = pc.binary_join(pc.fill_null(batch["captions"].combine_chunks(), []), UNIT)
            lines = pc.binary_join_element_wise(batch["key"], texts, UNIT).to_pylist()
            digest.update((RECORD.join(lines) + RECORD).encode() if lines else b"")
        if self.weights is not None:
            digest.update(np.ascontiguousarray(self.weights, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def split_fingerprint(self) -> str:
        """Hash which images these are, whatever their order: 16 digits of the SHA-256 of the sorted keys, a line each.

        ``sort`` and ``sha256sum`` give the same, so that two people can tell that they used the same split.
        """
        digest = sha256()
        keys = sorted(key for batch in self._key_batches("key") for key in batch["key"].to_pylist())
        for start in range(0, len(keys), 65_536):
            digest.update("".join(f"{key}\n" for key in keys[start : start + 65_536]).encode("utf-8", "surrogateescape"))
        return digest.hexdigest()[:16]

    def _key_batches(self, *names: str) -> Iterator[pa.Table]:
        whole = pa.concat_tables([part.table.select(names) for part in self.tables])
        for start in range(0, len(self.rows), 65_536):
            yield whole.take(pa.array(self.rows[start : start + 65_536]))


def to_batch(pairs: Sequence[Pair]) -> pa.RecordBatch:
    """Turn pairs into rows of ``SCHEMA``; what SkyScript's file names say is filled in."""
    columns: dict[str, list[Any]] = {name: [] for name in SCHEMA.names}
    for pair in pairs:
        name = parse_file_name(pair.key)
        box = pair.box or (None,) * 4
        row = {
            "key": pair.key,
            "captions": pair.captions,
            "split": pair.split,
            "class_name": pair.class_name,
            "source": pair.source,
            "year": pair.year,
            "part": parse_part(pair.key),
            "object_type": OBJECT_TYPES[name.kind] if name else None,
            "osm_id": name.osm_id if name else None,
            "gsd": pair.gsd if pair.gsd is not None else coarsest_gsd(pair.source),
            "similarity": pair.similarity,
            **dict(zip(("west", "south", "east", "north"), box, strict=True)),
            "time": pair.time,
            "center_tags": _items(pair.center_tags),
            "surrounding_tags": None if pair.surrounding_tags is None else list(map(_items, pair.surrounding_tags)),
        }
        for column, values in columns.items():
            values.append(row.get(column))
    arrays = [pa.array(values, SCHEMA.field(name).type) for name, values in columns.items()]
    return pa.RecordBatch.from_arrays(arrays, schema=SCHEMA)


def _items(tags: Mapping[str, str] | None) -> list[tuple[str, str]] | None:
    return None if tags is None else list(tags.items())


def coarsest_gsd(source: str | None) -> float | None:
    """Return the ground sample distance of an image collection in metres a pixel; None where it is not known."""
    known = SOURCES.get(source or "")
    return known.gsd[1] if known else None


def to_pair(batch: pa.RecordBatch, row: int, root: Path) -> Pair:
    """Make the pair of one row."""

    def value(name: str) -> Any:
        return batch.column(_PLACE[name])[row].as_py()

    key, west, center, around = value("key"), value("west"), value("center_tags"), value("surrounding_tags")
    time: datetime | None = value("time")
    return Pair(
        key=key,
        image=locate_image(root, key),
        captions=tuple(value("captions") or ()),
        split=value("split"),
        class_name=value("class_name"),
        source=value("source"),
        year=value("year"),
        similarity=value("similarity"),
        gsd=value("gsd"),
        box=None if west is None else Box(west, value("south"), value("east"), value("north")),
        time=time,
        center_tags=None if center is None else dict(center),
        surrounding_tags=None if around is None else tuple(map(dict, around)),
    )


_PLACE = {name: place for place, name in enumerate(SCHEMA.names)}
