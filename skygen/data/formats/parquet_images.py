"""Parquet files that hold the images themselves, as Hugging Face's data sets do: a column of bytes beside captions or labels.

``data/train-00000-of-00003.parquet`` with ``image`` {bytes, path} and ``captions``, ``caption`` or ``text``; its row 17 has the
path ``data/train-00000-of-00003.parquet/17``, which ``skygen.data.archives.read_bytes`` opens. Captions are read without the
column of images.
"""

from __future__ import annotations

import json
from collections import OrderedDict
from collections.abc import Iterable, Iterator
from functools import lru_cache
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from skygen.data.formats.annotations import (
    CAPTION_NAMES,
    CLASS_NAMES,
    PLACE_NAMES,
    SPLIT_NAMES,
    TIME_NAMES,
    keep_captions,
    name_class,
    note_problems,
    read_annotation,
)  # fmt: skip
from skygen.data.formats.folder_listing import find_files
from skygen.data.pair import CLASS_TEMPLATE, Pair, name_split
from skygen.data.rejects import Rejects
from skygen.errors import ArchiveError, ConfigError

IMAGE_NAMES = ("image", "img", "picture", "jpg", "jpeg", "png", "tif", "webp", "image_bytes")
"""Columns that may hold images, as bytes or as {bytes, path}; else the first {bytes, path}."""
FILE_NAMES = ("filename", "file_name", "img_name", "image_name")
CACHED_BYTES = 128 << 20
"""Of images kept by a process, in whole row groups; the one in use is kept whatever its size."""
LARGEST_GROUP = 2 << 30
"""Bytes of images in one row group, all of which are read for any one of them."""
BATCH = 16_384

_groups: OrderedDict[tuple[Path, int, int], pa.ChunkedArray] = OrderedDict()


def find_image_parquet(root: Path) -> list[Path]:
    """Find the Parquet files that hold images: in the folder itself, or else in its subfolders, such as ``data``.

    A Parquet file that lists pairs by their path, and holds no image, is not among them: the schema tells.
    """
    return [path for path in find_files(root, lambda name: name.lower().endswith(".parquet")) if holds_images(path)]


def holds_images(path: Path) -> bool:
    """Say whether a Parquet file has a column of images; a file that is damaged has none."""
    try:
        return _image_column(pq.read_schema(path)) is not None
    except (pa.ArrowException, OSError):
        return False


def read_image_parquet(
    paths: Iterable[Path], root: Path, caption_column: str | None, rejects: Rejects
) -> Iterator[Pair | None]:
    """Read the rows of Parquet files, a batch at a time; the images are not read.

    Captions come from ``captions``, ``caption`` or ``text``, or else from the class and ``CLASS_TEMPLATE``. A class that is a
    number is named by the list in the file's metadata, as Hugging Face's ClassLabel has it. The split is that of the row,
    or else of the file's or the folder's name.

    Args:
        paths: the files.
        root: of the data set, which keys are relative to.
        caption_column: the column to take captions from.
        rejects: where a row that cannot be used is noted, and a file that is damaged: its rows before that are kept.

    Yields:
        A pair; None for a rejected row or the rest of a damaged file.

    Raises:
        ConfigError: a file has neither captions nor classes.
    """
    for path in paths:
        prefix = path.relative_to(root).as_posix()
        parents = [name_split(part, whole=True) for part in prefix.split("/")[:-1]]
        split = name_split(path.stem) or next(filter(None, parents), None)
        try:
            for row, fields in enumerate(_read_rows(path, caption_column)):
                key, where = f"{prefix}/{row}", f"{path}, row {row}"
                try:
                    yield _to_pair(key, root / key, fields, split, caption_column, rejects, where)
                except ValueError as error:
                    rejects.add(key, str(error), where)
                    yield None
        except (pa.ArrowException, OSError, UnicodeDecodeError) as error:
            rejects.add(prefix, f"cannot be read: {' '.join(str(error).split())}", str(path))
            yield None


def read_parquet_image(path: Path, row: int) -> bytes:
    """Read the image of one row.

    Parquet is read by row groups, so that the others of its group are kept for a while: reading in order is fast, reading at
    random costs a whole group for each image.

    Args:
        path: of the Parquet file.
        row: counted from 0 through the whole file.

    Raises:
        FileNotFoundError: it has no such row.
        ArchiveError: it cannot be read, or the row holds no image.
    """
    try:
        status = path.stat()
        metadata, ends = _open_metadata(path, status.st_mtime_ns)
        if row >= (ends[-1] if len(ends) else 0):
            raise FileNotFoundError(f"{path}/{row}")
        group = int(np.searchsorted(ends, row, side="right"))
        images = _read_group(path, metadata, status.st_mtime_ns, group)
        data = images[row - int(ends[group - 1] if group else 0)].as_py()
    except FileNotFoundError:
        raise
    except (pa.ArrowException, OSError) as error:
        raise ArchiveError(f"the Parquet file {path} cannot be read: {' '.join(str(error).split())}") from error
    if not data:
        raise ArchiveError("the row holds no image")
    return bytes(data)


@lru_cache(maxsize=1024)
def _open_metadata(path: Path, modified: int) -> tuple[pq.FileMetaData, np.ndarray[Any, np.dtype[np.int64]]]:
    """Read a file's footer once; with it the row after each row group's last."""
    metadata = pq.read_metadata(path)
    counts = [metadata.row_group(group).num_rows for group in range(metadata.num_row_groups)]
    return metadata, np.cumsum(np.array(counts, dtype=np.int64))


def _read_group(path: Path, metadata: pq.FileMetaData, modified: int, group: int) -> pa.ChunkedArray:
    """Read the images of a row group, or take them from those kept; a process has its own, and shares no open file."""
    place = (path, modified, group)
    images = _groups.pop(place, None)
    if images is None:
        name = _image_column(metadata.schema.to_arrow_schema())
        if name is None:
            raise ArchiveError(f"the Parquet file {path} has no column of images")
        size = _group_size(metadata, group, name)
        if size > LARGEST_GROUP:
            raise ArchiveError(
                f"its row group has {size:,} bytes of images, more than the {LARGEST_GROUP:,} that are read at once; write "
                "the file anew with smaller row groups"
            )
        with pq.ParquetFile(path, metadata=metadata, pre_buffer=False) as file:
            images = file.read_row_group(group, columns=[name], use_threads=False).column(0)
        if pa.types.is_struct(images.type):
            images = pc.struct_field(images, "bytes")
    _groups[place] = images
    while len(_groups) > 1 and sum(kept.nbytes for kept in list(_groups.values())) > CACHED_BYTES:
        _groups.popitem(last=False)
    return images


def _group_size(metadata: pq.FileMetaData, group: int, name: str) -> int:
    columns = metadata.row_group(group)
    every = (columns.column(place) for place in range(columns.num_columns))
    return sum(column.total_uncompressed_size for column in every if column.path_in_schema == name)


def _image_column(schema: pa.Schema) -> str | None:
    """Return the path of the column of image bytes, such as ``image.bytes``."""
    ordered = sorted(schema, key=lambda field: IMAGE_NAMES.index(field.name) if field.name in IMAGE_NAMES else len(IMAGE_NAMES))
    for field in ordered:
        if pa.types.is_struct(field.type):
            inner = {child.name: child.type for child in field.type}
            if _is_binary(inner.get("bytes")) and (field.name in IMAGE_NAMES or "path" in inner):
                return f"{field.name}.bytes"
        elif field.name in IMAGE_NAMES and _is_binary(field.type):
            return str(field.name)
    return None


def _is_binary(kind: pa.DataType | None) -> bool:
    return kind is not None and (pa.types.is_binary(kind) or pa.types.is_large_binary(kind))


def _read_rows(path: Path, caption_column: str | None) -> Iterator[dict[str, Any]]:
    """Yield what each row says, without its image."""
    with pq.ParquetFile(path) as file:
        schema = file.schema_arrow
        texts = [caption_column] if caption_column else CAPTION_NAMES
        places = [name for pair in PLACE_NAMES for name in pair]
        others = (*CLASS_NAMES, *SPLIT_NAMES, *TIME_NAMES, *FILE_NAMES, *places, "gsd", "center_coordinates")
        labels = _label_names(schema)
        if not any(name in schema.names for name in (*texts, *(() if caption_column else CLASS_NAMES))):
            raise ConfigError(
                f"{path} has no column {' or '.join(texts)}; its columns are: {', '.join(schema.names)}; name one of captions "
                "with --pairs.caption_column"
            )
        wanted = [name for name in schema.names if name in texts or name in others]
        for batch in file.iter_batches(BATCH, columns=wanted, use_threads=False):
            for row in batch.to_pylist():
                for name, names in labels.items():
                    number = row.get(name)
                    row[name] = names[number] if isinstance(number, int) and 0 <= number < len(names) else None
                yield row


def _label_names(schema: pa.Schema) -> dict[str, list[str]]:
    """Read the names of numbered classes that Hugging Face writes in a schema's metadata."""
    try:
        features = json.loads((schema.metadata or {})[b"huggingface"])["info"]["features"]
        found = {name: features[name]["names"] for name in CLASS_NAMES if name in features and "names" in features[name]}
    except (KeyError, TypeError, ValueError, RecursionError):
        return {}
    return {name: names for name, names in found.items() if isinstance(names, list) and all(isinstance(n, str) for n in names)}


def _to_pair(
    key: str, image: Path, fields: dict[str, Any], split: str | None, caption_column: str | None, rejects: Rejects, where: str
) -> Pair:
    """Make the pair of one row; a ValueError carries the reason why there is none."""
    known = read_annotation(fields, caption_column)
    note_problems(known, key, where, rejects)
    named = next((fields[name] for name in FILE_NAMES if isinstance(fields.get(name), str)), "")
    captions = known.captions
    if not captions and known.class_name and not caption_column:
        captions = (CLASS_TEMPLATE.format(known.class_name),)
    return Pair(
        key=key,
        image=image,
        captions=keep_captions(captions, key, where, rejects),
        split=known.split or split,
        class_name=known.class_name or name_class(named),
        year=known.year,
        gsd=known.gsd,
        box=known.box,
        time=known.time,
    )
