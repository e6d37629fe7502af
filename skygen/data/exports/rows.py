"""What an export that copies images needs: rows by split, what is said of each, its image, room, and a folder of its own."""

from __future__ import annotations

import json
import os
import re
import shutil
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, suppress
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from skygen.data.archives import read_bytes
from skygen.data.images import open_image
from skygen.data.pair import Pair, relative_key
from skygen.data.skyscript import locate_image
from skygen.data.table import SCHEMA, PairList
from skygen.errors import ArchiveError, ConfigError, ImageError, StorageError
from skygen.storage import storage_error, to_words, writing

try:
    import fcntl
except ImportError:  # Windows: two exports to one folder must be kept apart by hand
    fcntl = None  # type: ignore[assignment]

WITHOUT_SPLIT = "pairs"
"""Name of the folder, or start of the names of the shards, of pairs of which no split is known."""
ROWS_A_BATCH = 4096
SAMPLE = 200
"""Images whose sizes tell how much room all of them need."""
ROOM_TO_SPARE = 1.05
"""The mean of 200 JPEGs is that of all of them to a few per cent."""
LEDGER = "rejects.jsonl"

_PLAIN_NAMES = {"class_name": "class"}
_NOT_TOLD = frozenset({"captions", "west", "south", "east", "north", "width", "height", "problem", "part"})
"""What ``describe`` puts otherwise; or, as the size, depends on whether the images have been checked."""

Row = Mapping[str, Any]
"""One row of ``SCHEMA`` in Python's own types."""


class Group(NamedTuple):
    """The pairs of one split.

    Args:
        name: of a folder, or at the start of a file's name: that of the split, or ``WITHOUT_SPLIT``.
        pairs: in the order of the selection.
    """

    name: str
    pairs: PairList


def group_by_split(pairs: PairList, unsplit: str = WITHOUT_SPLIT) -> list[Group]:
    """Part a selection by split, in the order in which they appear; ``unsplit`` names the pairs of which none is known."""
    column = pairs.column("split")
    names: dict[str, list[str | None]] = {}
    for split in column.unique().to_pylist():
        names.setdefault(re.sub(r"\W+", "_", split or "") or unsplit, []).append(split)
    groups = []
    for name, splits in names.items():
        mask = pc.is_in(column, pa.array(splits, pa.string())).to_numpy()
        groups.append(Group(name, PairList(pairs.tables, pairs.rows[mask])))
    return groups


def known_columns(pairs: PairList) -> list[str]:
    """Name the columns of ``SCHEMA`` that hold something in at least one row of the tables, what a check found aside."""
    names = [name for name in SCHEMA.names if name not in ("width", "height", "problem")]
    return [name for name in names if any(part.table.column(name).null_count < len(part.table) for part in pairs.tables)]


def rows_of(pairs: PairList) -> Iterator[Row]:
    """Yield the rows of a selection, read a few thousand at a time."""
    for batch in pairs.batches():
        for start in range(0, batch.num_rows, ROWS_A_BATCH):
            yield from batch.slice(start, ROWS_A_BATCH).to_pylist()


def describe(row: Row, columns: list[str] | None = None) -> dict[str, Any]:
    """Turn a row into what JSON can hold; captions, then whatever else is known.

    The names are those that ``formats.imagefolder`` reads: ``text`` is the first caption, ``class`` the class; ``box`` is
    west, south, east, north in degrees; ``time`` is ISO 8601 in UTC; tags are texts such as ``landuse=forest``, since an object
    would make a column of each of OpenStreetMap's thousands of keys.

    Args:
        row: of ``SCHEMA``.
        columns: to tell, null where not known; by default those that are known of this row.
    """
    captions = list(row["captions"] or ())
    told: dict[str, Any] = {"text": captions[0] if captions else "", "captions": captions}
    wanted = [name for name in SCHEMA.names if row[name] is not None] if columns is None else columns
    told |= {_PLAIN_NAMES.get(name, name): _plain(name, row[name]) for name in wanted if name not in _NOT_TOLD}
    if "west" in wanted:
        box = [row[side] for side in ("west", "south", "east", "north")]
        told["box"] = None if box[0] is None else box
    return told


def _plain(name: str, value: Any) -> Any:
    if value is None:
        return None
    if name == "time":
        return f"{value.isoformat()}Z"
    if name == "center_tags":
        return [f"{key}={text}" for key, text in value]
    if name == "surrounding_tags":
        return [[f"{key}={text}" for key, text in tags] for tags in value]
    return value


def read_image(row: Row, root: Path) -> bytes:
    """Read the file of an image, which is decoded too, unless ``skygen check`` has done that.

    Raises:
        ImageError: with a short reason, if it cannot be used.
    """
    check_key(row["key"])
    try:
        data = read_bytes(locate_image(root, row["key"]))
    except FileNotFoundError:
        raise ImageError("missing: no such file") from None
    except ArchiveError as error:
        raise ImageError(str(error)) from error
    if row["width"] is None:
        open_image(data)
    return data


def check_key(key: str) -> None:
    """Make sure that a key stays below the folder it is put in.

    Raises:
        ImageError: it does not; readers make no such keys, but a list made in Python may have them.
    """
    try:
        plain = relative_key(key)
    except ValueError as error:
        raise ImageError(str(error)) from error
    if plain != key:
        raise ImageError(f"the path {key!r} is not in its plain form {plain!r}")


def check_room(destination: Path, pairs: PairList, count: int, is_here: Callable[[Pair], bool], extra: int = 0) -> None:
    """Compare the room that images need, by a sample of them, with what is free.

    Args:
        destination: of the export.
        pairs: of which the sample is drawn, evenly.
        count: of pairs that are to be written.
        is_here: says whether an image need not be written again.
        extra: bytes for each pair besides its image.

    Raises:
        StorageError: it does not suffice.
    """
    places = np.unique(np.linspace(0, len(pairs) - 1, min(SAMPLE, len(pairs))).astype(np.int64)).tolist()
    sizes = [0 if is_here(pair) else _size_of(pair.image) + extra for pair in map(pairs.__getitem__, places)]
    needed = round(sum(sizes) / max(len(sizes), 1) * count * ROOM_TO_SPARE)
    folder = next(path for path in (destination.absolute(), *destination.absolute().parents) if path.exists())
    free = shutil.disk_usage(folder).free
    if needed > free:
        raise StorageError(
            f"{destination}: about {to_words(needed)} are needed for {count:,} pairs, judging by {len(sizes)} of them, and "
            f"{to_words(free)} are free; free disk space, choose another place, or choose fewer pairs."
        )


def _size_of(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        with suppress(FileNotFoundError, ArchiveError):
            return len(read_bytes(path))
    return 0


def fingerprint_export(pairs: PairList, form: str, pairs_a_shard: int, records: str = "") -> str:
    """Hash what decides the bytes of an export: captions, order, splits, known columns, form and shards; 16 digits.

    ``records`` is the fingerprint of what is told of synthetic pictures.
    """
    said = [pairs.fingerprint(), known_columns(pairs), form, pairs_a_shard, *filter(None, [records])]
    digest = sha256(json.dumps(said).encode())
    digest.update("\n".join(pairs.column("split").fill_null("").to_pylist()).encode())
    return digest.hexdigest()[:16]


@contextmanager
def claimed(destination: Path, manifest: str, fingerprint: str) -> Iterator[dict[str, Any]]:
    """Make a folder one's own: new, empty, or that of the same export, which then goes on; what a kill has left is removed.

    Args:
        destination: the folder.
        manifest: name of the file that tells an export from another; it is written here if it is not there.
        fingerprint: of the export.

    Yields:
        What the manifest says.

    Raises:
        ConfigError: the folder holds something else, or another process exports to it.
        StorageError: it cannot be made or written to.
    """
    try:
        destination.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        raise storage_error(destination, error) from error
    with _alone(destination):
        path = destination / manifest
        about = _read_manifest(path, fingerprint)
        if about is None:
            others = sorted(e.name for e in os.scandir(destination) if not e.name.startswith(".") and e.name != LEDGER)
            if others:
                raise ConfigError(
                    f"{destination} holds other files already ({', '.join(others[:3])}); choose a new folder for the export"
                )
            about = {"fingerprint": fingerprint}
            write_manifest(path, about)
        for leftover in (*destination.glob(".*.part"), *destination.glob("*/.*.part")):
            leftover.unlink(missing_ok=True)
        yield about


def write_manifest(path: Path, about: Mapping[str, Any]) -> None:
    """Write a manifest, whole or not at all."""
    with writing(path) as temporary:
        temporary.write_text(json.dumps(about, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _read_manifest(path: Path, fingerprint: str) -> dict[str, Any] | None:
    try:
        about = json.loads(path.read_bytes())
    except FileNotFoundError:
        return None
    except (OSError, ValueError):
        about = None
    if not isinstance(about, dict) or about.get("fingerprint") != fingerprint:
        raise ConfigError(
            f"{path.parent} holds another export, or one of the same pairs with other captions, splits or shards ({path.name} "
            "says so); choose a new folder, or remove that one"
        )
    return about


@contextmanager
def _alone(folder: Path) -> Iterator[None]:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        if fcntl is not None:
            try:
                fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise ConfigError(f"{folder}: another process exports to it; wait until it has ended, or stop it") from None
            except OSError:  # a file system without locks
                pass
        yield
    finally:
        os.close(descriptor)
