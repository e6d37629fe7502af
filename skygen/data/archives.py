"""Images and metas inside archives, read without unpacking them: a path may lead through a ``.zip`` or ``.tar``.

``DATA/images2.zip/images2/a1_CH_19.jpg`` is the member ``images2/a1_CH_19.jpg`` of ``DATA/images2.zip``. A member is read
with one ``pread`` at an offset from an index of our own, which is memory-mapped: no file position is shared, so any number of
forked and spawned processes may read at once, and 870,000 members take 30 MB instead of the 570 MB of ``zipfile``'s objects.

Format: PKWARE APPNOTE 6.3.10, with Zip64; methods 0 (stored) and 8 (deflated); the CRC-32 of every member is checked.
"""

from __future__ import annotations

import json
import os
import stat
import struct
import tarfile
import weakref
import zlib
from array import array
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import suppress
from functools import lru_cache
from hashlib import blake2b
from pathlib import Path
from typing import NamedTuple, final

import numpy as np
import pyarrow as pa

from skygen.data.zip_directory import ZipDirectoryError, zip_members
from skygen.errors import DataError, StorageError
from skygen.storage import cache_folder, writing

LARGEST_MEMBER = 512 << 20
"""Bytes of one file, packed or not: far above any image that is read here, far below what would exhaust a machine."""
FEWEST_TO_KEEP = 2_000
"""Members above which the index is kept beside the archive: fewer are listed anew in milliseconds."""
MOST_FOLDERS = 16
"""Folders of an archive that a name is looked for in."""
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ROOM_FOR_EXTRA_FIELD = 64
_STORED, _DEFLATED = 0, 8
_COLUMNS = ("hash", "offset", "packed", "size", "crc", "method")


class ArchiveError(DataError):
    """A file or a member cannot be read; the message is a short reason for the ledger of rejects."""


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


def read_bytes(path: Path) -> bytes:
    """Read a file, wherever it lies: in a folder, or in an archive that its path leads through.

    Raises:
        FileNotFoundError: there is no such file or member.
        ArchiveError: with the reason, if it cannot be read, is damaged, or is no file.
    """
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK)  # a pipe must not hold everything up
    except (FileNotFoundError, NotADirectoryError):
        return _read_through(path)
    except (OSError, ValueError) as error:
        raise ArchiveError(f"cannot be opened: {getattr(error, 'strerror', None) or error}") from error
    with os.fdopen(descriptor, "rb") as file:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("not a file")
        if status.st_size > LARGEST_MEMBER:
            raise ArchiveError(f"too large: {status.st_size} bytes (at most {LARGEST_MEMBER})")
        return file.read()


def split_at_archive(path: Path) -> tuple[Path, str] | None:
    """Split a path at the archive it leads through; None where it leads through none."""
    for parent in path.parents:
        if parent.suffix.lower() in (".zip", ".tar") and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def _read_through(path: Path) -> bytes:
    place = _split_quickly(os.fspath(path))
    if place is None:
        raise FileNotFoundError(path)
    return open_archive(place[0]).read(place[1])


def _split_quickly(path: str) -> tuple[str, str] | None:
    """Split at the first ``.zip/`` or ``.tar/`` that is an archive: pathlib would take longer than the reading."""
    for ending in (".zip/", ".tar/"):
        place = path.find(ending)
        if place >= 0 and (archive := path[: place + 4]) and _is_archive(archive):
            return archive, path[place + 5 :]
    found = split_at_archive(Path(path))
    return (os.fspath(found[0]), found[1]) if found else None


@lru_cache(maxsize=1024)
def _is_archive(path: str) -> bool:
    return os.path.isfile(path)  # noqa: PTH113  # the argument is a string, for speed


@lru_cache(maxsize=256)
def open_archive(path: str) -> Archive:
    """Open an archive once in a process, however many of its members are read."""
    return Archive(Path(path))


@final
class Archive:
    """The members of a ``.zip`` or an uncompressed ``.tar``.

    Args:
        path: of the archive.

    Raises:
        ArchiveError: it is none, or damaged.
    """

    def __init__(self, path: Path) -> None:
        self.path = path
        try:
            self._descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
        except OSError as error:
            raise ArchiveError(f"the archive {path} cannot be opened: {error.strerror}") from error
        weakref.finalize(self, os.close, self._descriptor)
        table = _read_index(path) or _build_index(path)
        self._folders: list[str] = json.loads(table.schema.metadata[b"folders"])
        columns = [table.column(name).to_numpy() for name in _COLUMNS]
        # memoryviews: bisect and indexing on them take a fifth of the time that NumPy's scalars take
        views: list[memoryview] = [memoryview(column) for column in columns]
        self._hash, self._offset, self._packed, self._size, self._crc, self._method = views

    def __len__(self) -> int:
        return len(self._hash)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def members(self) -> Iterator[Member]:
        """List the members in the order they lie in, read from the archive itself; folders and what macOS adds are left out."""
        return _list_members(self.path)

    def read(self, name: str) -> bytes:
        """Read one member.

        A name that is not there is also looked for without its folder, and in the archive's other folders: ``images2.zip``
        may hold ``images2/x.jpg``, ``x.jpg`` or ``images2/images2/x.jpg``.

        Args:
            name: with forward slashes.

        Raises:
            FileNotFoundError: there is no such member.
            ArchiveError: it is damaged, encrypted, too large, or packed by an unknown method.
        """
        place = self._find(name)
        if place is None:
            raise FileNotFoundError(f"{self.path}/{name}")
        offset, packed, size, method = self._offset[place], self._packed[place], self._size[place], self._method[place]
        if max(packed, size) > LARGEST_MEMBER:
            raise ArchiveError(f"too large: {size} bytes (at most {LARGEST_MEMBER})")
        try:
            data = self._pread(packed, offset) if method < 0 else self._read_from_zip(name, offset, packed)
        except OSError as error:
            raise ArchiveError(f"the archive {self.path} cannot be read: {error.strerror}") from error
        if method == _DEFLATED:
            data = _inflate(data, size)
        elif method > 0:
            raise ArchiveError(f"packed by method {method}, which is not read here; pack the archive anew, stored or deflated")
        if len(data) != size:
            raise ArchiveError(f"cut short: {len(data)} of {size} bytes")
        if method >= 0 and zlib.crc32(data) != self._crc[place]:
            raise ArchiveError("damaged: its CRC-32 is not that of the archive's directory")
        return data

    def _find(self, name: str) -> int | None:
        place = self._look_up(name)
        if place is None:
            base = name.rpartition("/")[2]
            candidates = (self._look_up(folder + base) for folder in self._folders)
            place = next((found for found in candidates if found is not None), None)
        return place

    def _look_up(self, name: str) -> int | None:
        wanted = _hash(name)
        place = bisect_left(self._hash, wanted)
        return place if place < len(self._hash) and self._hash[place] == wanted else None

    def _read_from_zip(self, name: str, offset: int, packed: int) -> bytes:
        guess = _LOCAL_HEADER.size + len(name.encode("utf-8", "surrogateescape")) + _ROOM_FOR_EXTRA_FIELD
        block = self._pread(guess + packed, offset)
        if len(block) < _LOCAL_HEADER.size or block[:4] != b"PK\x03\x04":
            raise ArchiveError(f"damaged: the archive {self.path} has no member where its directory says")
        header = _LOCAL_HEADER.unpack_from(block)
        if header[2] & 1:
            raise ArchiveError("encrypted")
        start = _LOCAL_HEADER.size + header[9] + header[10]
        if start > guess:
            return self._pread(packed, offset + start)
        return block[start : start + packed]

    def _pread(self, count: int, offset: int) -> bytes:
        return os.pread(self._descriptor, count, offset)


def _inflate(data: bytes, size: int) -> bytes:
    unpacker = zlib.decompressobj(-zlib.MAX_WBITS)
    try:
        plain = unpacker.decompress(data, size + 1)  # a member that unpacks to more than it says is not unpacked further
    except zlib.error as error:
        raise ArchiveError(f"damaged: {error}") from error
    if len(plain) > size:
        raise ArchiveError(f"damaged: unpacks to more than its {size} bytes")
    return plain


def _hash(name: str) -> int:
    return int.from_bytes(blake2b(name.encode("utf-8", "surrogateescape"), digest_size=8).digest(), "little")


def _list_members(path: Path) -> Iterator[Member]:
    try:
        if path.suffix.lower() == ".tar":
            yield from _tar_members(path)
        else:
            for fields in zip_members(path):
                member = Member(*fields)
                if not member.name.endswith("/") and not _is_hidden(member.name):
                    yield member
    except (ZipDirectoryError, tarfile.TarError, OSError, EOFError) as error:
        raise ArchiveError(f"the archive {path} cannot be read: {error}; download or pack it again") from error


def _is_hidden(name: str) -> bool:
    return name.startswith("__MACOSX/") or name.rpartition("/")[2].startswith((".DS_Store", "._"))


def _tar_members(path: Path) -> Iterator[Member]:
    with tarfile.open(path, "r:") as archive:
        for entry in archive:
            if entry.isreg() and not _is_hidden(entry.name):
                yield Member(entry.name.removeprefix("./"), entry.offset_data, entry.size, entry.size, 0, -1)
            archive.members = []  # type: ignore[attr-defined]  # else it keeps an object for every member


def _build_index(path: Path) -> pa.Table:
    """List an archive's members by the hash of their name; of several with one name, the last counts, as unzip has it."""
    columns = [array(code) for code in "QqqqLh"]  # a list of tuples of Python's own numbers would take ten times the memory
    folders: dict[str, None] = {}
    for name, *place in _list_members(path):
        for column, value in zip(columns, (_hash(name), *place), strict=True):
            column.append(value)
        if len(folders) < MOST_FOLDERS:
            folders[name[: name.rfind("/") + 1]] = None
    numbers = [np.frombuffer(column, dtype=column.typecode) for column in columns]
    _, last = np.unique(numbers[0][::-1], return_index=True)
    kept = len(numbers[0]) - 1 - last
    table = pa.table({name: column[kept] for name, column in zip(_COLUMNS, numbers, strict=True)})
    table = table.replace_schema_metadata({**_signature(path), b"folders": json.dumps(list(folders)).encode()})
    if len(table) >= FEWEST_TO_KEEP:
        _keep_index(path, table)
    return table.combine_chunks()


def _signature(path: Path) -> dict[bytes, bytes]:
    status = path.stat()
    return {b"size": str(status.st_size).encode(), b"mtime": str(status.st_mtime_ns).encode()}


def _index_path(path: Path) -> Path:
    return cache_folder(path.parent) / f"{path.name}.members.arrow"


def _keep_index(path: Path, table: pa.Table) -> None:
    with (
        suppress(StorageError),  # no place for it: the next process lists the members again
        writing(_index_path(path)) as temporary,
        pa.OSFile(str(temporary), "wb") as sink,
        pa.ipc.new_file(sink, table.schema) as writer,
    ):
        writer.write_table(table)


def _read_index(path: Path) -> pa.Table | None:
    """Map the index that is kept of an archive; None where there is none, or the archive has changed since."""
    try:
        table = pa.ipc.open_file(pa.memory_map(str(_index_path(path)))).read_all()
        kept = table.schema.metadata or {}
        fresh = all(kept.get(name) == value for name, value in _signature(path).items())
        return table if fresh and table.column_names == list(_COLUMNS) else None
    except (OSError, pa.ArrowInvalid):
        return None
