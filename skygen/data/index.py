"""The index of a data set: its whole list as an Arrow file that is mapped, not read, and as Parquet for other tools.

It lies in ``.skygen/index`` of the data set and holds what the list and the metas say. It is made in one pass over the list in
a few hundred megabytes of memory, and is stale, and then not used, when a file it was made from has another size or date.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, suppress
from dataclasses import asdict, dataclass
from functools import lru_cache, partial
from hashlib import sha256
from itertools import accumulate
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, final

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skygen.data.archives import close_archives
from skygen.data.formats.pair_csv import CAPTION_COLUMNS
from skygen.data.joining import Joining, KeyIndex, find_joining, row_reader
from skygen.data.layouts import Layout
from skygen.data.metas.columns import add_countries, add_metas
from skygen.data.rejects import Rejects
from skygen.data.table import CAPTIONS_OF, KEY_HASH, SCHEMA, PairTable, hash_keys
from skygen.errors import DataError
from skygen.storage import alone, cache_folders, remove_halves, writing

VERSION = 1
"""Of what is written; an index of another version is made anew."""
ROWS_A_BATCH = 65_536
FINDINGS = ".checked.arrow"
"""Ending of the file beside an index that holds what a check found."""
IDENTITY = b"identity"
"""Key under which such a file names the index that it belongs to."""
_ABOUT = b"skygen"


@dataclass(frozen=True, slots=True)
class Counts:
    """What became of the rows of a list; ``pairs + joined + repeated + bad`` is ``rows``.

    Args:
        rows: below the column names.
        pairs: images with at least one caption.
        joined: rows that added a caption to an image of an earlier row.
        repeated: rows that said nothing new.
        bad: rows that cannot be used.
    """

    rows: int
    pairs: int
    joined: int
    repeated: int
    bad: int


@final
@dataclass(frozen=True, slots=True)
class Index:
    """A whole list, in memory or mapped.

    Args:
        table: every pair of it.
        counts: what became of its rows.
        path: of the index, beside which the ledger lies and what a check found; None for a list that has just been read.
        identity: tells one state of the list from another; empty for a list in memory.
    """

    table: PairTable
    counts: Counts
    path: Path | None = None
    identity: str = ""

    @property
    def ledger(self) -> Path | None:
        """The bad rows, where the list was indexed."""
        return None if self.path is None else self.path.with_suffix(".jsonl")


def index_path(layout: Layout) -> Path:
    """Return where the index of a list lies, or would lie: the Arrow file; Parquet and ledger have the same stem."""
    return _index_paths(layout)[0]


def _index_paths(layout: Layout) -> list[Path]:
    return [folder / "index" / f"{layout.name}.arrow" for folder in cache_folders(layout.root)]


def open_index(layout: Layout, caption_column: str | None = None) -> Index | None:
    """Map the index of a list; None where there is none, it is stale, or it lacks the column of captions."""
    for path in _index_paths(layout):
        with suppress(OSError, pa.ArrowException, LookupError, ValueError, TypeError, AttributeError, DataError):
            about = _read_about(path)
            if about["version"] == VERSION and about["signature"] == sign(layout):
                part = map_pairs(layout.root, path, caption_column or about["caption_column"])
                counts = {name: int(count) for name, count in about["counts"].items()}
                return Index(part, Counts(**counts), path, about["identity"])
    return None


@lru_cache(maxsize=32)
def _mapped(path: Path, modified: int) -> pa.Table:
    table = pa.ipc.open_file(pa.memory_map(str(path))).read_all()
    table.validate()  # lengths and the ends of offsets; what lies between them is not read
    return table


def map_table(path: Path) -> pa.Table:
    """Map an Arrow file: nothing is read before it is asked for, and all processes share what was."""
    return _mapped(path, path.stat().st_mtime_ns)


def map_pairs(root: Path, path: Path, caption_column: str | None) -> PairTable:
    """Map an index that is known to be fresh, with the captions of one column."""
    table = choose_captions(map_table(path), caption_column)
    if table is None:
        raise DataError(f"{path}: has no captions of the column {caption_column}; index the data set again")
    findings = read_findings(path)
    if findings is not None:
        for name in findings.column_names:
            table = table.set_column(table.schema.get_field_index(name), SCHEMA.field(name), findings.column(name))
    return PairTable(root, table, partial(map_pairs, root, path, caption_column))


def read_findings(path: Path) -> pa.Table | None:
    """Map what ``skygen check`` found on the images of an index: size and problem of each row; None before a check."""
    found = path.with_suffix(FINDINGS)
    try:
        table = map_table(found)
        return table if table.schema.metadata[IDENTITY].decode() == _read_about(path)["identity"] else None
    except (OSError, pa.ArrowException, KeyError, TypeError, ValueError):
        return None


def choose_captions(table: pa.Table, caption_column: str | None) -> pa.Table | None:
    """Give an index's table the columns of ``SCHEMA``, with the captions of one column; None if it has no such column.

    By default a row has the first of its columns that says something, which is mapped too where that is the same for all.
    """
    named = {name.removeprefix(CAPTIONS_OF): table.column(name) for name in table.column_names if name.startswith(CAPTIONS_OF)}
    if not named:
        return None if caption_column else table.select([*SCHEMA.names, KEY_HASH])
    if caption_column is not None:
        captions = named.get(caption_column)
    else:
        defaults = [named[name] for name in CAPTION_COLUMNS if name in named] or list(named.values())
        captions = defaults[0] if defaults[0].null_count == 0 else pc.coalesce(*defaults)
    if captions is None:
        return None
    schema = SCHEMA.append(table.schema.field(KEY_HASH))
    arrays = [captions if name == "captions" else table.column(name) for name in schema.names]
    return pa.table(dict(zip(schema.names, arrays, strict=True)), schema=schema)


def build_index(layout: Layout, caption_column: str | None, progress: Callable[[int, int], None]) -> Index:
    """Read a list with its metas, and write its index: whole or not at all.

    Args:
        layout: of the data set.
        caption_column: the one that a reader gets who asks for none.
        progress: is told the rows done and in all; 0 where it is not known how many there will be.

    Raises:
        StorageError: the disk is full or refuses.
        DataError: the list cannot be read.
        ConfigError: another process is writing it.
    """
    path = index_path(layout)
    path.parent.mkdir(parents=True, exist_ok=True)  # first: it gives the data set's folder, which is signed, another date
    signature = sign(layout)
    with ExitStack() as stack:
        stack.enter_context(alone(path.with_name(f".{path.stem}.lock"), f"the index of {layout.root}", "index another list"))
        _clear_away(path)
        arrow, parquet, ledger = (stack.enter_context(writing(path.with_suffix(s))) for s in (".arrow", ".parquet", ".jsonl"))
        staged = Path(stack.enter_context(TemporaryDirectory(prefix=f".{path.stem}.staged.", dir=path.parent))) / "rows.arrow"
        rows, bad, starts, joining = _stage(layout, staged, Rejects(ledger), progress)
        counts = Counts(rows, starts[-1] - len(joining.dropped), joining.joined, joining.repeated, bad)
        about = {"version": VERSION, "signature": signature, "caption_column": caption_column, "counts": asdict(counts)}
        identity = sha256(json.dumps(about).encode()).hexdigest()[:16]
        _write(staged, joining, {**about, "identity": identity}, parquet, arrow)
    index = open_index(layout)
    if index is None:
        raise DataError(f"{path}: the data set changed while it was indexed; index it again when nothing writes to it")
    return index


def _clear_away(path: Path) -> None:
    """Remove what an indexing that was killed has left beside an index; it may be as large as the data."""
    remove_halves(path.parent, path.stem)
    for leftover in path.parent.glob(f".{path.stem}.staged.*"):
        shutil.rmtree(leftover)


def read_whole(layout: Layout, rejects: Rejects, enough: Callable[[pa.RecordBatch], bool] | None = None) -> Index:
    """Read a list into memory, without its metas.

    Args:
        layout: of the data set.
        rejects: where rows that cannot be used are noted.
        enough: is shown each batch, and says when no more are needed.
    """
    keys, batches, rows, bad = KeyIndex(), [], 0, 0
    for block in layout.blocks(rejects):
        batch = block.batch.select(SCHEMA.names)
        keys.add(hash_keys(batch.column("key").to_pylist()))
        batches.append(batch)
        rows, bad = rows + block.rows, bad + block.bad
        if enough is not None and enough(batch):
            break
    starts = list(accumulate((batch.num_rows for batch in batches), initial=0))
    joining = find_joining(keys, row_reader(batches.__getitem__, starts), rejects, str(layout.root))
    joined = [joining.apply(batch, start) for batch, start in zip(batches, starts, strict=False)]
    table = pa.Table.from_batches(joined, SCHEMA).combine_chunks()
    counts = Counts(rows, len(table), joining.joined, joining.repeated, bad)
    return Index(PairTable(layout.root, table), counts)


def sign(layout: Layout) -> dict[str, Any]:
    """Describe the files that an index is made from, so that a change is seen: names, sizes and dates."""
    metas = sorted(path for path in layout.root.glob("meta[0-9]*") if path.suffix in ("", ".zip"))
    described = {}
    folder = [] if layout.is_list else [layout.root]  # images that are put there later may be looked for elsewhere
    for path in (*layout.files, *metas, *folder):
        status = path.stat()
        described[os.path.relpath(path, layout.root)] = [0 if path.is_dir() else status.st_size, status.st_mtime_ns]
    return described


def _read_about(path: Path) -> dict[str, Any]:
    schema = pa.ipc.open_file(pa.memory_map(str(path))).schema
    about: dict[str, Any] = json.loads(schema.metadata[_ABOUT])
    return about


def _stage(
    layout: Layout, staged: Path, rejects: Rejects, progress: Callable[[int, int], None]
) -> tuple[int, int, list[int], Joining]:
    """Write the rows with their metas as they come, and find out which of them share an image."""
    keys, rows, bad, starts = KeyIndex(), 0, 0, [0]
    total = sum(map(_count_lines, layout.files)) if layout.is_list else 0
    schema = _staged_schema(layout.caption_columns)
    with pa.OSFile(str(staged), "wb") as sink, pa.ipc.new_file(sink, schema) as writer:
        for block in layout.blocks(rejects):
            batch = add_countries(add_metas(block.batch, layout.root, rejects))
            hashes = hash_keys(batch.column("key").to_pylist())
            writer.write_batch(_conform(batch.append_column(KEY_HASH, pa.array(hashes)), schema))
            keys.add(hashes)
            starts.append(starts[-1] + batch.num_rows)
            rows, bad = rows + block.rows, bad + block.bad
            progress(rows, max(total, rows) if total else 0)
    close_archives()  # the metas have been read; what follows needs the memory
    with pa.OSFile(str(staged), "rb") as source:
        joining = find_joining(keys, row_reader(pa.ipc.open_file(source).get_batch, starts), rejects, str(layout.root))
    return rows, bad, starts, joining


def _staged_schema(caption_columns: Sequence[str]) -> pa.Schema:
    """With several columns of captions, each has its name, and none is called ``captions`` alone."""
    captions = SCHEMA.field("captions")
    key_hash = pa.field(KEY_HASH, pa.uint64())
    if not caption_columns:
        return SCHEMA.append(key_hash)
    named = [captions.with_name(CAPTIONS_OF + name) for name in caption_columns]
    return pa.schema([*(field for field in SCHEMA if field.name != "captions"), *named, key_hash])


def _conform(batch: pa.RecordBatch, schema: pa.Schema) -> pa.RecordBatch:
    known = set(batch.schema.names)
    arrays = [batch.column(f.name) if f.name in known else pa.nulls(batch.num_rows, f.type) for f in schema]
    return pa.RecordBatch.from_arrays(arrays, schema=schema)


def _write(staged: Path, joining: Joining, about: dict[str, Any], parquet: Path, arrow: Path) -> None:
    """Copy the staged rows into both files, without those that were joined to others."""
    with ExitStack() as stack:
        source = pa.ipc.open_file(stack.enter_context(pa.OSFile(str(staged), "rb")))
        schema = source.schema.with_metadata({_ABOUT: json.dumps(about).encode()})
        sink = stack.enter_context(pa.OSFile(str(arrow), "wb"))
        arrow_writer = stack.enter_context(pa.ipc.new_file(sink, schema))
        parquet_writer = stack.enter_context(pq.ParquetWriter(parquet, schema, compression="zstd"))
        for batch in _regroup(_joined(source, joining)):
            arrow_writer.write_batch(batch.replace_schema_metadata(schema.metadata))
            parquet_writer.write_batch(batch)


def _joined(source: pa.RecordBatchFileReader, joining: Joining) -> Iterator[pa.RecordBatch]:
    first = 0
    for number in range(source.num_record_batches):
        batch = source.get_batch(number)
        yield joining.apply(batch, first)
        first += batch.num_rows


def _regroup(batches: Iterator[pa.RecordBatch]) -> Iterator[pa.RecordBatch]:
    """Put small batches together: a row is found sooner among few, and Parquet's row groups compress better."""
    waiting: list[pa.RecordBatch] = []
    count = 0
    for batch in batches:
        waiting.append(batch)
        count += batch.num_rows
        if count >= ROWS_A_BATCH:
            yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]
            waiting, count = [], 0
    if count:
        yield pa.Table.from_batches(waiting).combine_chunks().to_batches()[0]


def _count_lines(path: Path) -> int:
    if path.suffix != ".csv":
        return 0
    with path.open("rb") as file:
        return max(0, sum(block.count(b"\n") for block in iter(lambda: file.read(1 << 22), b"")) - 1)
