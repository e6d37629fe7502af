"""What SkyScript's metas say of a pair, put beside its row: where and when, the tags, the country."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime
from pathlib import Path
from typing import Any

import pyarrow as pa

from skygen.data.archives import read_bytes
from skygen.data.geography import locate
from skygen.data.metas.meta import Meta, MetaError, read_meta
from skygen.data.rejects import Rejects
from skygen.data.skyscript import has_part, locate_image
from skygen.data.table import SCHEMA
from skygen.errors import ArchiveError, UnavailableError

_META_FIELDS = ("west", "south", "east", "north", "time", "center_tags", "surrounding_tags")


def add_metas(batch: pa.RecordBatch, root: Path, rejects: Rejects) -> pa.RecordBatch:
    """Fill the columns that metas know, from ``metaN/`` or ``metaN.zip``; a batch without parts is returned as it is.

    Args:
        batch: with the columns of ``SCHEMA``.
        root: folder of the data set.
        rejects: a meta that is missing or cannot be read is noted there as a part: the pair is kept.
    """
    parts = batch.column("part").to_pylist()
    here = {part: has_part(root, f"meta{part}") for part in set(parts) if part is not None}
    if not any(here.values()):
        return batch
    columns: dict[str, list[Any]] = {name: [] for name in _META_FIELDS}
    for key, part in zip(batch.column("key").to_pylist(), parts, strict=True):
        meta = _find_meta(root, key, rejects) if here.get(part) else None
        for name, value in zip(_META_FIELDS, _to_row(meta), strict=True):
            columns[name].append(value)
    for name, values in columns.items():
        batch = _replace(batch, name, pa.array(values, SCHEMA.field(name).type))
    return batch


def add_countries(batch: pa.RecordBatch) -> pa.RecordBatch:
    """Fill in the country and continent of the box's centre, where there is a box and the look-up is installed."""
    west, east = batch.column("west"), batch.column("east")
    if west.null_count == batch.num_rows:
        return batch
    longitude = (west.to_numpy(zero_copy_only=False) + east.to_numpy(zero_copy_only=False)) / 2
    south, north = (batch.column(name).to_numpy(zero_copy_only=False) for name in ("south", "north"))
    try:
        places = locate(longitude, (south + north) / 2)
    except UnavailableError:
        return batch
    batch = _replace(batch, "country", places.country.cast(pa.string()))
    return _replace(batch, "continent", places.continent.cast(pa.string()))


def meta_path(key: str) -> str:
    """Return where the meta of an image lies: ``images2/a1_CH_19.jpg`` has ``meta2/a1_CH_19.pickle``."""
    folder, _, rest = key.partition("/")
    return f"meta{folder.removeprefix('images')}/{rest.rpartition('.')[0]}.pickle"


def _find_meta(root: Path, key: str, rejects: Rejects) -> Meta | None:
    path = locate_image(root, meta_path(key))
    try:
        meta = read_meta(read_bytes(path))
    except FileNotFoundError:
        rejects.add(key, "the meta is missing: no such file", str(path), part="meta")
        return None
    except (ArchiveError, MetaError) as error:
        rejects.add(key, str(error), str(path), part="meta")
        return None
    for problem in meta.problems:
        rejects.add(key, problem, str(path), part=f"meta: {problem}")
    return meta


def _to_row(meta: Meta | None) -> Iterable[Any]:
    if meta is None:
        return (None,) * len(_META_FIELDS)
    time: datetime | None = meta.time
    around = [list(tags.items()) for tags in meta.surrounding_tags]
    return (*(meta.box or (None,) * 4), time, list(meta.center_tags.items()), around)


def _replace(batch: pa.RecordBatch, name: str, values: pa.Array) -> pa.RecordBatch:
    return batch.set_column(batch.schema.get_field_index(name), SCHEMA.field(name), values)
