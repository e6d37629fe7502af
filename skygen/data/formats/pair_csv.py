"""Pair lists as CSV, read as they stream past: SkyScript's two schemas, and lists of one's own.

A row is a line: a stray quote spoils its own line, not the thousand that follow it. Blocks in which every row is as published
are parsed by Arrow, which is faster; a block with anything odd in it is read line by line, to the same rows.
"""

from __future__ import annotations

import csv
import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
from pyarrow import csv as arrow_csv

from skygen.data.captions import VIEW_PREFIX_PATTERN, strip_view_prefix
from skygen.data.pair import Pair, name_split, relative_key
from skygen.data.rejects import Rejects
from skygen.data.skyscript import END_OF_TAG_PATTERN, OBJECT_TYPES, SOURCES, leading_tag, parse_file_name, read_header
from skygen.data.table import CAPTIONS_OF, SCHEMA, Block, coarsest_gsd, to_batch
from skygen.errors import ConfigError, DataError

pa.enable_signal_handlers(False)  # else Arrow takes a SIGTERM to itself while it reads, and a run that is to stop fails

BLOCK = 1 << 20
"""Bytes read at a time: some 5,000 rows, which are read line by line if one of them is odd."""
CAPTION_COLUMNS = ("title_multi_objects", "title")
"""Where captions are looked for, in this order."""
_MORE_CAPTION_COLUMNS = ("title_raw",)
_FILE_PATH = (
    r"^images(?P<part>[0-9]{1,2})/(?P<kind>[awnr])(?P<osm_id>[0-9]{1,18})_(?P<source>[A-Z0-9]{2})_(?P<year>[0-9]{2})\.jpe?g$"
)


@dataclass(frozen=True, slots=True)
class Columns:
    """Where in a row each thing stands; None for what the file lacks.

    Args:
        count: cells in a row.
        filepath: the image's.
        captions: name and place of each column of captions; the first is the one that is used.
        title: which names the focus object.
        label: the class.
        split: where the list has one of its own.
        similarity: the first column whose name begins so.
        chosen: how many of ``captions`` are asked in turn for the text of a row: one that was named, or the default ones.
    """

    count: int
    filepath: int
    captions: tuple[tuple[str, int], ...]
    title: int | None
    label: int | None
    split: int | None
    similarity: int | None
    chosen: int = 1


def find_columns(path: Path, caption_column: str | None = None) -> Columns:
    """Find the columns by the names in the first row.

    Args:
        path: of the CSV.
        caption_column: the one to take captions from; by default ``title_multi_objects``, or else ``title``.

    Raises:
        ConfigError: if ``filepath`` or the caption column is missing; it names the columns there are.
    """
    names = read_header(path)
    place = {name: number for number, name in reversed(list(enumerate(names)))}
    listed = ", ".join(names)[:300] if any(names) else "none"
    if "filepath" not in place:
        raise ConfigError(
            f"{path} has no column filepath in its first row; its columns are: {listed}; "
            "a pair list needs filepath and one column of captions"
        )
    wanted = [caption_column] if caption_column else list(CAPTION_COLUMNS)
    chosen = next((name for name in wanted if name in place), None)
    if chosen is None:
        raise ConfigError(
            f"{path} has no column {' or '.join(wanted)}; its columns are: {listed}; name the one that holds the "
            "captions with --pairs.caption_column"
        )
    captions = dict.fromkeys((chosen, *CAPTION_COLUMNS, *_MORE_CAPTION_COLUMNS))
    similarity = next((number for number, name in enumerate(names) if name.startswith("similarity")), None)
    return Columns(
        count=len(names),
        filepath=place["filepath"],
        captions=tuple((name, place[name]) for name in captions if name in place),
        title=place.get("title"),
        label=place.get("label"),
        split=place.get("split"),
        similarity=similarity,
        chosen=1 if caption_column else sum(name in place for name in CAPTION_COLUMNS),
    )


def read_csv(path: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Block]:
    """Read a pair list; images are not opened, and rows on one image not yet joined.

    Args:
        path: of the CSV.
        caption_column: see ``find_columns``.
        rejects: where a row that cannot be used is noted, by its number in the file.

    Yields:
        About a megabyte of rows at a time, in the order of the file.
    """
    columns = find_columns(path, caption_column)
    split = name_split(path.stem)
    try:
        for first_row, data in _read_blocks(path):
            batch = _read_clean(data, columns, split)
            if batch is not None:
                yield Block(batch, batch.num_rows, 0)
            else:
                yield _read_lines(data, first_row, path, columns, split, rejects)
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}") from error


def _read_blocks(path: Path) -> Iterator[tuple[int, bytes]]:
    """Yield whole lines, and the number of the first of them, the row of column names being 1."""
    row = 2
    with path.open("rb") as file:
        file.readline()
        while data := file.read(BLOCK):
            data += file.readline()
            yield row, data
            row += _count_lines(data)


def _count_lines(data: bytes) -> int:
    return data.count(b"\n") + (not data.endswith(b"\n"))


def _read_lines(data: bytes, first_row: int, path: Path, columns: Columns, split: str | None, rejects: Rejects) -> Block:
    """Read rows one by one, each to a pair or to a line of the ledger."""
    pairs: list[Pair] = []
    captions: list[list[str]] = []
    rows = 0
    for number, line in enumerate(data.decode("utf-8", "surrogateescape").split("\n"), start=first_row):
        if not line.strip():
            continue
        rows += 1
        try:
            pair, texts = _read_row(line.removesuffix("\r"), columns, split)
        except (ValueError, csv.Error) as error:
            reason = f"not a row of CSV: {error}" if isinstance(error, csv.Error) else str(error)
            rejects.add(f"{path.name}:{number}", reason, f"{path}, row {number}")
        else:
            pairs.append(pair)
            captions.append(texts)
    return Block(_with_captions(to_batch(pairs), columns, captions), rows, rows - len(pairs))


def _read_row(line: str, columns: Columns, split: str | None) -> tuple[Pair, list[str]]:
    """Make the pair of one line, and its text in each column of captions; a ValueError or csv.Error says why there is none."""
    cells = next(csv.reader([line], strict=True))
    if len(cells) != columns.count:
        raise ValueError(f"{len(cells)} cells where the first row has {columns.count}")
    key = relative_key(cells[columns.filepath])
    texts = [cells[place].strip() for _, place in columns.captions]
    if not any(texts):
        raise ValueError("the caption is empty")
    try:
        line.encode()
    except UnicodeEncodeError:
        raise ValueError("not valid UTF-8") from None
    name = parse_file_name(key)
    pair = Pair(
        key=key,
        image=Path(key),
        captions=(),
        split=(name_split(cells[columns.split]) if columns.split is not None else None) or split,
        class_name=_name_class(cells, columns, is_skyscript=name is not None),
        source=name.source if name else None,
        year=name.year if name else None,
        similarity=_to_similarity(cells[columns.similarity]) if columns.similarity is not None else None,
    )
    return pair, texts


def _name_class(cells: list[str], columns: Columns, *, is_skyscript: bool) -> str | None:
    if columns.label is not None and (label := cells[columns.label].strip()):
        return label
    title = cells[columns.title if columns.title is not None else columns.captions[0][1]]
    # A caption of another data set is a sentence, whose opening names nothing.
    return leading_tag(title) if is_skyscript or strip_view_prefix(title) != title else None


def _to_similarity(cell: str) -> float | None:
    try:
        value = float(cell)
    except ValueError:
        return None
    return value if math.isfinite(value) else None


def _with_captions(batch: pa.RecordBatch, columns: Columns, captions: Sequence[Sequence[str]]) -> pa.RecordBatch:
    """Put the texts of each caption column in; an empty one is null."""
    kind = SCHEMA.field("captions").type
    for place, name in enumerate(caption_fields(columns)):
        batch = batch.append_column(name, pa.array([[texts[place]] if texts[place] else None for texts in captions], kind))
    first = (next(filter(None, texts[: columns.chosen]), None) for texts in captions)
    chosen = pa.array([None if text is None else [text] for text in first], kind)
    return batch.set_column(batch.schema.get_field_index("captions"), SCHEMA.field("captions"), chosen)


def caption_fields(columns: Columns) -> list[str]:
    """Name the Arrow columns that hold the captions of each CSV column."""
    return [CAPTIONS_OF + name for name, _ in columns.captions]


def _read_clean(data: bytes, columns: Columns, split: str | None) -> pa.RecordBatch | None:
    """Read a block in which every row is one of SkyScript's as published; None where one of them is not."""
    if columns.split is not None or not _is_plain(data):
        return None
    try:
        cells = arrow_csv.read_csv(
            pa.BufferReader(data),
            read_options=arrow_csv.ReadOptions(
                use_threads=False, block_size=len(data) + 1, column_names=[str(place) for place in range(columns.count)]
            ),
            convert_options=arrow_csv.ConvertOptions(
                column_types={str(place): pa.string() for place in range(columns.count)}, strings_can_be_null=False
            ),
        ).combine_chunks()
    except pa.ArrowInvalid:  # another number of cells, or not UTF-8
        return None
    if cells.num_rows != _count_lines(data) or any(map(_is_odd, cells.itercolumns())):
        return None
    return _to_columns(cells, columns, split)


def _is_plain(data: bytes) -> bool:
    """Say whether every quote opens or closes a cell, and lines end in one way."""
    if b"\0" in data or b"\r" in data or b'""' in data:
        return False
    opening = data.count(b',"') + data.count(b'\n"') + data.startswith(b'"')
    closing = data.count(b'",') + data.count(b'"\n') + data.endswith(b'"')
    return opening == closing and data.count(b'"') == opening + closing


def _to_columns(cells: pa.Table, columns: Columns, split: str | None) -> pa.RecordBatch | None:
    def cell(place: int) -> pa.Array:
        return cells.column(place).combine_chunks()

    count = cells.num_rows
    name = pc.extract_regex(cell(columns.filepath), _FILE_PATH)
    captions = [pc.utf8_trim_whitespace(cell(place)) for _, place in columns.captions]
    lengths = [pc.min(pc.binary_length(texts)).as_py() for texts in captions]
    if name.null_count or not count or not all(lengths):
        return None
    title = cell(columns.title if columns.title is not None else columns.captions[0][1])
    tag = pc.replace_substring_regex(title, f"(?i)^(?:{VIEW_PREFIX_PATTERN})", "")
    tag = _to_lower(pc.utf8_trim(pc.replace_substring_regex(tag, f"(?s)(?:{END_OF_TAG_PATTERN}).*$", ""), " ."))
    if columns.label is not None or pc.any(pc.equal(tag, "")).as_py():
        return None
    try:
        similarity = None if columns.similarity is None else pc.cast(cell(columns.similarity), pa.float64())
    except pa.ArrowInvalid:
        return None
    if similarity is not None and not pc.all(pc.is_finite(similarity)).as_py():
        return None
    part, kind, osm_id, source, year = name.flatten()
    known = {
        "key": cell(columns.filepath),
        "split": pa.repeat(pa.scalar(split, pa.string()), count),
        "class_name": tag,
        "source": source,
        "year": pc.add(pc.cast(year, pa.int16()), pa.scalar(2000, pa.int16())),
        "part": pc.cast(part, pa.int8()),
        "object_type": pa.array(OBJECT_TYPES.values()).take(pc.index_in(kind, pa.array(OBJECT_TYPES))),
        "osm_id": pc.cast(osm_id, pa.int64()),
        "gsd": pa.array(map(coarsest_gsd, SOURCES), pa.float64()).take(pc.index_in(source, pa.array(SOURCES))),
        "similarity": similarity,
    }
    lists = [_in_lists(texts) for texts in captions]
    arrays = [lists[0] if field.name == "captions" else known.get(field.name) for field in SCHEMA]
    filled = [pa.nulls(count, field.type) if array is None else array for field, array in zip(SCHEMA, arrays, strict=True)]
    batch = pa.RecordBatch.from_arrays(filled, schema=SCHEMA)
    for field_name, values in zip(caption_fields(columns), lists, strict=True):
        batch = batch.append_column(field_name, values)
    return batch


def _is_odd(cells: pa.ChunkedArray) -> bool:
    """Say whether Python's reader would see one of these cells otherwise: with a stray quote, or longer than it allows."""
    stray = pc.any(pc.match_substring(cells, '"')).as_py()
    return bool(stray or pc.max(pc.binary_length(cells)).as_py() > csv.field_size_limit())


def _to_lower(texts: pa.Array) -> pa.Array:
    """Lower the letters as Python does, whose Unicode is of another year than Arrow's."""
    encoded = texts.dictionary_encode()
    return pa.array([text.lower() for text in encoded.dictionary.to_pylist()], pa.string()).take(encoded.indices)


def _in_lists(texts: pa.Array) -> pa.Array:
    """Make a list of one of each text."""
    return pa.ListArray.from_arrays(pa.array(range(len(texts) + 1), pa.int32()), texts)
