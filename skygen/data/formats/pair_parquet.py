"""Pair lists as Parquet: what ``skygen index`` writes, and any table with a key and captions."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skygen.data.formats.parquet_images import holds_images
from skygen.data.pair import relative_key
from skygen.data.rejects import Rejects
from skygen.data.table import CAPTIONS_OF, SCHEMA, Block
from skygen.errors import ConfigError, DataError

KEY_COLUMNS = ("key", "filepath", "file_name")
CAPTION_COLUMNS = ("captions", "title_multi_objects", "title", "caption", "text")
BATCH = 16_384
LARGEST_ROW = 20_000
"""Bytes of text in a row, on the mean of a row group; SkyScript has 60."""


def find_pair_parquet(root: Path) -> list[Path]:
    """Find the Parquet files in a folder that list pairs, and do not hold the images themselves."""
    lists = (path for path in sorted(root.glob("*.parquet")) if any(name in _names(path) for name in KEY_COLUMNS))
    return [path for path in lists if not holds_images(path)]


def read_pair_parquet(path: Path, caption_column: str | None, rejects: Rejects) -> Iterator[Block]:
    """Read a pair list, a batch at a time; columns of ``SCHEMA`` that it lacks are null.

    Raises:
        ConfigError: it has no column of keys or of captions.
        DataError: it cannot be read.
    """
    names = _names(path)
    key = next((name for name in KEY_COLUMNS if name in names), None)
    wanted = [caption_column] if caption_column else CAPTION_COLUMNS
    captions = next((name for column in wanted for name in (column, CAPTIONS_OF + column) if name in names), None)
    if key is None or captions is None:
        lacking = " or ".join(KEY_COLUMNS if key is None else wanted)
        raise ConfigError(
            f"{path} has no column {lacking}; its columns are: {', '.join(names)}; name one of captions with "
            "--pairs.caption_column, or rename a column"
        )
    for name in (key, captions):
        _require_text(path, name, pq.read_schema(path).field(name).type)
    known = [name for name in SCHEMA.names if name in names and name not in ("key", "captions")]
    _refuse_bomb(path, (key, captions))
    row = 0
    try:
        for batch in pq.ParquetFile(path).iter_batches(BATCH, columns=[key, captions, *known]):
            yield _to_block(batch, key, captions, path, row, rejects)
            row += batch.num_rows
    except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}); write or download it again") from error


def _require_text(path: Path, name: str, kind: pa.DataType) -> None:
    if pa.types.is_list(kind) or pa.types.is_large_list(kind):
        kind = kind.value_type
    if pa.types.is_dictionary(kind):
        kind = kind.value_type
    if not (pa.types.is_string(kind) or pa.types.is_large_string(kind) or pa.types.is_null(kind)):
        raise ConfigError(f"{path}: the column {name} holds {kind} instead of text; name another with --pairs.caption_column")


def _to_block(batch: pa.RecordBatch, key: str, captions: str, path: Path, first_row: int, rejects: Rejects) -> Block:
    texts = batch.column(captions)
    if not pa.types.is_list(texts.type) and not pa.types.is_large_list(texts.type):
        texts = pa.array([[text] if text else None for text in texts.to_pylist()], SCHEMA.field("captions").type)
    kept, keys, lists = [], [], []
    for place, (name, some) in enumerate(zip(batch.column(key).to_pylist(), texts.to_pylist(), strict=True)):
        try:
            keys.append(relative_key(name or ""))
        except ValueError as error:
            rejects.add(f"{path.name}:{first_row + place}", str(error), f"{path}, row {first_row + place}")
            continue
        kept.append(place)
        lists.append(list(dict.fromkeys(text.strip() for text in some or () if text and text.strip())) or None)
    arrays = {"key": pa.array(keys, pa.string()), "captions": pa.array(lists, SCHEMA.field("captions").type)}
    chosen = batch.take(pa.array(kept, pa.int64()))
    for field in SCHEMA:
        if field.name not in arrays:
            own = chosen.schema.get_field_index(field.name)
            arrays[field.name] = pa.nulls(len(kept), field.type) if own < 0 else _cast(chosen.column(own), field.type)
    batch_read = pa.RecordBatch.from_arrays([arrays[name] for name in SCHEMA.names], schema=SCHEMA)
    return Block(batch_read, batch.num_rows, batch.num_rows - len(kept))


def _cast(array: pa.Array, wanted: pa.DataType) -> pa.Array:
    try:
        return pc.cast(array, wanted)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"a column has type {array.type} where {wanted} is wanted ({error})") from error


def _refuse_bomb(path: Path, names: tuple[str, ...]) -> None:
    """Refuse texts that unpack to more than fits: 400 MB of one letter are packed into a few kilobytes."""
    metadata = pq.read_metadata(path)
    for group in map(metadata.row_group, range(metadata.num_row_groups)):
        columns = map(group.column, range(group.num_columns))
        size = sum(each.total_uncompressed_size for each in columns if each.path_in_schema.split(".")[0] in names)
        if size > max(group.num_rows, 1) * LARGEST_ROW:
            raise DataError(f"{path} holds {size:,} bytes of text in {group.num_rows:,} rows; it is no list of pairs.")


def _names(path: Path) -> list[str]:
    try:
        return list(pq.read_schema(path).names)
    except (pa.ArrowException, OSError) as error:
        raise DataError(f"{path} cannot be read ({' '.join(str(error).split())}); write or download it again") from error
