"""Pair lists as Arrow tables: the one form that the rows of every data set end in.

A selection of millions of pairs is row numbers over such a table, which is mapped from the disk, not read into memory.
"""

from __future__ import annotations

from bisect import bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from typing import Any, NamedTuple, final, overload

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Float, Int64, UInt64

from skygen.data.pair import Box, Pair
from skygen.data.skyscript import OBJECT_TYPES, SOURCES, locate_image, parse_file_name, parse_part
from skygen.errors import DataError

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

KEY_HASH = "key_hash"
"""Column of an index beside those of ``SCHEMA``: ``hash_keys`` of each key."""

ROWS_AT_A_TIME = 65_536
"""Rows that are gathered together: some 20 MB."""

UNIT, RECORD = "\x1f", "\x1e"
"""ASCII's separators, which no caption holds: between the texts of a pair, and after a pair."""


@final
@dataclass(frozen=True, slots=True)
class PairTable:
    """All rows of one data set, and where its images lie.

    Args:
        root: folder of the data set.
        table: with columns of ``SCHEMA``.
        again: makes the same table in another process, which maps the file that this one is mapped from; None for a table in
            memory, of which the other process receives a copy.
    """

    root: Path
    table: pa.Table
    again: Callable[[], PairTable] | None = None

    def __reduce__(self) -> tuple[Any, ...]:
        return (PairTable, (self.root, self.table)) if self.again is None else (_call, (self.again,))


def _call(again: Callable[[], PairTable]) -> PairTable:
    return again()


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
        """Put two lists one after the other; each is drawn as often as its length says, its pairs as their weights say."""
        shift = self._starts[-1]
        rows = np.concatenate([self.rows, other.rows + shift])
        weights = None
        if self.weights is not None or other.weights is not None:
            weights = np.concatenate([_weights_of_mean_1(part) for part in (self, other)])
        return PairList((*self.tables, *other.tables), rows, weights)

    def __reduce__(self) -> tuple[Any, ...]:
        return PairList, (self.tables, self.rows, self.weights)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return one column of the chosen rows, in their order."""
        return pa.chunked_array([batch.column(0) for batch in self._taken([name])], SCHEMA.field(name).type)

    def batches(self) -> Iterator[pa.RecordBatch]:
        """Yield the chosen rows with all columns, some ten thousands at a time."""
        return self._taken(SCHEMA.names)

    def fingerprint(self) -> str:
        """Hash keys, captions, order and weights: 16 hexadecimal digits of SHA-256."""
        digest = sha256()
        for batch in self._taken(["key", "captions"]):
            texts = pc.binary_join(batch["captions"], UNIT)
            digest.update(_content(pc.binary_join_element_wise(batch["key"], UNIT, texts, RECORD, "")))
        if self.weights is not None:
            digest.update(np.ascontiguousarray(self.weights, dtype="<f8").tobytes())
        return digest.hexdigest()[:16]

    def split_fingerprint(self) -> str:
        """Say which images these are, whatever their order and captions, so that two people can tell they used the same split.

        Returns:
            16 hexadecimal digits: the sum of ``hash_keys`` of all keys, modulo 2**64.
        """
        total = 0
        hashed = all(KEY_HASH in part.table.column_names for part in self.tables)
        for batch in self._taken([KEY_HASH if hashed else "key"]):
            values = batch[KEY_HASH].to_numpy() if hashed else hash_keys(batch["key"].to_pylist())
            total += int(values.sum(dtype=np.uint64))
        return f"{total % 2**64:016x}"

    def _taken(self, names: Sequence[str]) -> Iterator[pa.RecordBatch]:
        return take_rows([batch.select(names) for _, batch in self._batches], self.rows)


def _weights_of_mean_1(pairs: PairList) -> Float[np.ndarray, " pairs"]:
    return np.ones(len(pairs)) if pairs.weights is None else pairs.weights * (len(pairs) / pairs.weights.sum())


class Block(NamedTuple):
    """Some rows of a data set that were read together.

    Args:
        batch: those that can be used, with the columns of ``SCHEMA``, and for a CSV one ``captions:NAME`` for each of its
            columns of captions; that which is used is there twice, which costs nothing in memory.
        rows: how many there were.
        bad: how many cannot be used; the ledger has them.
    """

    batch: pa.RecordBatch
    rows: int
    bad: int


def take_rows(batches: Sequence[pa.RecordBatch], rows: Int64[np.ndarray, " rows"]) -> Iterator[pa.RecordBatch]:
    """Gather rows by number from batches, in the order they are named, a window of them at a time.

    Arrow's own ``take`` on a table puts all its texts together first: a gigabyte for a list of millions.

    Args:
        batches: whose rows are numbered through.
        rows: any of them, in any order, and any number of times.
    """
    starts = np.cumsum([0, *(batch.num_rows for batch in batches)])
    for first in range(0, len(rows), ROWS_AT_A_TIME):
        window = rows[first : first + ROWS_AT_A_TIME]
        places = np.searchsorted(starts, window, side="right") - 1
        order = np.argsort(places, kind="stable")
        ends = np.flatnonzero(np.diff(places[order])) + 1
        groups = np.split(order, ends)
        pieces = [batches[places[group[0]]].take(pa.array(window[group] - starts[places[group[0]]])) for group in groups]
        taken = pa.Table.from_batches(pieces).combine_chunks().to_batches()[0]
        if len(groups) > 1 and not np.array_equal(order, np.arange(len(order))):
            taken = taken.take(pa.array(np.argsort(order)))
        yield taken


def hash_keys(keys: Iterable[str]) -> UInt64[np.ndarray, " keys"]:
    """Hash each key to the first 8 bytes of its SHA-256, as a big-endian integer."""
    return np.frombuffer(b"".join(sha256(key.encode()).digest()[:8] for key in keys), dtype=">u8").astype(np.uint64)


def _content(texts: pa.Array) -> memoryview:
    """Return the bytes of an array of texts, one after the other, as they lie in memory."""
    _, offsets, data = texts.buffers()
    ends = np.frombuffer(offsets, dtype=np.int32)[texts.offset : texts.offset + len(texts) + 1]
    return memoryview(data)[ends[0] : ends[-1]] if len(texts) else memoryview(b"")


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
        try:
            return batch.column(_PLACE[name])[row].as_py()
        except (UnicodeDecodeError, OverflowError, SystemError) as error:  # Arrow believes what stands in a file that it maps
            raise DataError(f"{root}: its index is damaged; run `skygen index {root}` again.") from error

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
