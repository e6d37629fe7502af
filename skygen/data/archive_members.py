"""What lies where in an archive: its members, listed once and kept as an index that is mapped."""

from __future__ import annotations

import tarfile
from array import array
from collections.abc import Iterator
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple

import numpy as np
import pyarrow as pa

from skygen.data.zip_directory import zip_members
from skygen.errors import StorageError
from skygen.storage import cache_folders, writing

FEWEST_TO_KEEP = 2_000
"""Members above which the index is kept beside the archive: fewer are listed anew in milliseconds."""
COLUMNS = ("hash", "offset", "packed", "size", "crc", "method")
"""Of an index: ``hash_name``, then as in ``Member``."""
FOLDER = b"folder"
"""Key under which an index names the folder that all members share."""
LISTING_ERRORS = (tarfile.TarError, OSError, EOFError, ValueError, OverflowError)
"""What damaged archives end in; ``tarfile`` raises the last two as well."""


class Member(NamedTuple):
    """Where a file lies in its archive.

    Args:
        name: with forward slashes.
        offset: of a zip's local header, or of a tar's data, in bytes.
        packed: bytes in the archive.
        size: bytes of the file.
        crc: CRC-32 of the file; of a tar, which has none, 0.
        method: 0 stored, 8 deflated, -1 in a tar.
    """

    name: str
    offset: int
    packed: int
    size: int
    crc: int
    method: int


def hash_name(name: str) -> int:
    """Hash a member's name to 64 bits, among which a million names do not meet."""
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def list_members(path: Path) -> Iterator[Member]:
    """List the members in the order they lie in; folders and what macOS adds are left out.

    Raises:
        LISTING_ERRORS: it is no archive, or damaged.
    """
    if path.suffix.lower() == ".tar":
        yield from _tar_members(path)
        return
    for fields in zip_members(path):
        member = Member(*fields)
        if not member.name.endswith("/") and not _is_hidden(member.name):
            yield member


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith((".DS_Store", "._"))


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            if entry.isreg() and not entry.issparse() and entry.size >= 0 and not _is_hidden(entry.name):
                yield Member(entry.name.removeprefix("./"), entry.offset_data, entry.size, entry.size, 0, -1)
            archive.members = []  # type: ignore[attr-defined]  # else it keeps an object for every member


_UNKNOWN_METHOD = 0x7FFF
_FOUR_BYTES = 0xFFFFFFFF
"""Of a member that is larger, far above what is read here, no more is kept than that it is."""


def load_index(path: Path) -> pa.Table:
    """Give the index of an archive: the columns ``COLUMNS``, sorted by hash; mapped where one is kept, else made.

    Raises:
        LISTING_ERRORS: it is no archive, or damaged.
    """
    return _read_index(path) or _build_index(path)


def _build_index(path: Path) -> pa.Table:
    """List an archive's members by the hash of their name; of several with one name, the last counts, as unzip has it."""
    columns = [array(code) for code in "QqIIIh"]  # a list of tuples of Python's own numbers would take ten times the memory
    shared: str | None = None
    for name, offset, packed, size, crc, method in list_members(path):
        place = (hash_name(name), offset, min(packed, _FOUR_BYTES), min(size, _FOUR_BYTES), crc, min(method, _UNKNOWN_METHOD))
        for column, value in zip(columns, place, strict=True):
            column.append(value)
        shared = name[: name.rfind("/") + 1] if shared is None else _shared_folder(shared, name)
    numbers = [np.frombuffer(column, dtype=column.typecode) for column in columns]
    _, last = np.unique(numbers[0][::-1], return_index=True)
    kept = len(numbers[0]) - 1 - last
    table = pa.table({name: column[kept] for name, column in zip(COLUMNS, numbers, strict=True)})
    table = table.replace_schema_metadata({**_signature(path), FOLDER: (shared or "").encode("utf-8", "surrogateescape")})
    if len(table) < FEWEST_TO_KEEP:
        return table.combine_chunks()
    _keep_index(path, table)
    return _read_index(path) or table.combine_chunks()  # mapped: all processes share it, and it is no memory of theirs


def _shared_folder(folder: str, name: str) -> str:
    while not name.startswith(folder):
        folder = folder[: folder.rfind("/", 0, -1) + 1]
    return folder


def _signature(path: Path) -> dict[bytes, bytes]:
    status = path.stat()
    return {b"size": str(status.st_size).encode(), b"mtime": str(status.st_mtime_ns).encode()}


def _index_paths(path: Path) -> list[Path]:
    return [folder / f"{path.name}.members.arrow" for folder in cache_folders(path.parent)]


def _keep_index(path: Path, table: pa.Table) -> None:
    with (
        suppress(StorageError, OSError),  # no place for it: the next process lists the members again
        writing(_index_paths(path)[0]) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def _read_index(path: Path) -> pa.Table | None:
    """Map the index that is kept of an archive; None where there is none, or the archive has changed since."""
    for place in _index_paths(path):
        with suppress(OSError, pa.ArrowInvalid):
            table = pa.ipc.open_file(pa.memory_map(str(place))).read_all()
            kept = table.schema.metadata or {}
            fresh = all(kept.get(name) == value for name, value in _signature(path).items())
            if fresh and FOLDER in kept and table.column_names == list(COLUMNS):
                return table
    return None
