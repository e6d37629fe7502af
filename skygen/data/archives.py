"""Images and metas inside archives, read without unpacking them: a path may lead through a ``.zip``, ``.tar`` or ``.parquet``.

``DATA/images2.zip/images2/a1_CH_19.jpg`` is the member ``images2/a1_CH_19.jpg`` of ``DATA/images2.zip``. A member is read
with one ``pread`` at an offset from an index of our own, which is memory-mapped: no file position is shared, so any number of
forked and spawned processes may read at once, and 870,000 members take 30 MB instead of the 570 MB of ``zipfile``'s objects.

Format: PKWARE APPNOTE 6.3.10, with Zip64; methods 0 (stored) and 8 (deflated); the CRC-32 of every member is checked.
"""

from __future__ import annotations

import os
import stat
import struct
import weakref
import zlib
from bisect import bisect_left
from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from pathlib import Path
from typing import final

from skygen.data.archive_members import COLUMNS, FOLDER, LISTING_ERRORS, Member, hash_name, list_members, load_index
from skygen.data.formats.parquet_images import read_parquet_image
from skygen.errors import ArchiveError

LARGEST_MEMBER = 512 << 20
"""Bytes of one file, packed or not: far above any image that is read here, far below what would exhaust a machine."""
_LOCAL_HEADER = struct.Struct("<4s5H3L2H")
_ROOM_FOR_EXTRA_FIELD = 64
_STORED, _DEFLATED = 0, 8


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
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            raise ArchiveError("not a file")
        if status.st_size > LARGEST_MEMBER:
            raise ArchiveError(f"too large: {status.st_size} bytes (at most {LARGEST_MEMBER})")
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    except OSError as error:  # a failing disk
        raise ArchiveError(f"cannot be read: {error.strerror}") from error
    finally:
        os.close(descriptor)


def is_there(path: Path) -> bool:
    """Say whether there is such a file, in a folder or in an archive that its path leads through."""
    try:
        if path.is_file():
            return True
        place = split_at_archive(path)
        return place is not None and place[1] in open_archive(os.fspath(place[0]))
    except (OSError, ValueError, ArchiveError):
        return False


def split_at_archive(path: Path) -> tuple[Path, str] | None:
    """Split a path at the archive it leads through; None where it leads through none."""
    for parent in path.parents:
        if parent.suffix.lower() in (".zip", ".tar") and parent.is_file():
            return parent, path.relative_to(parent).as_posix()
    return None


def _read_through(path: Path) -> bytes:
    file, ending, row = os.fspath(path).rpartition(".parquet/")
    if ending and row.isdecimal() and _is_archive(f"{file}.parquet"):
        return read_parquet_image(Path(f"{file}.parquet"), int(row))
    place = _split_quickly(os.fspath(path))
    if place is not None:
        return open_archive(place[0]).read(place[1])
    folder = path.parent
    if _is_archive(f"{folder}.zip"):  # a folder that was not wholly unpacked, beside the archive it is unpacked from
        return open_archive(f"{folder}.zip").read(f"{folder.name}/{path.name}")
    raise FileNotFoundError(path)


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


def open_archive(path: str) -> Archive:
    """Open an archive once in a process, however many of its members are read.

    Raises:
        ArchiveError: it is none, or damaged.
    """
    opened = _open_once(path)
    if isinstance(opened, str):
        raise ArchiveError(opened)
    return opened


def forget_archives() -> None:
    """Open archives anew when they are next read: they may have changed. Those in use stay as they are."""
    _is_archive.cache_clear()
    _open_once.cache_clear()


def close_archives() -> None:
    """Let go of the archives that this process has open, and of the memory that their mapped indices take."""
    _open_once.cache_clear()
    _is_archive.cache_clear()


@lru_cache(maxsize=256)
def _open_once(path: str) -> Archive | str:
    """Open an archive, or say why not: a damaged one must not be listed anew for each of its 870,000 images."""
    try:
        return Archive(Path(path))
    except ArchiveError as error:
        return str(error)


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
        with _as_archive_error(path):
            table = load_index(path)
        self._folder = table.schema.metadata[FOLDER].decode("utf-8", "surrogateescape")
        columns = [table.column(name).to_numpy() for name in COLUMNS]
        # memoryviews: bisect and indexing on them take a fifth of the time that NumPy's scalars take
        views: list[memoryview] = [memoryview(column) for column in columns]
        self._hash, self._offset, self._packed, self._size, self._crc, self._method = views

    def __len__(self) -> int:
        return len(self._hash)

    def __contains__(self, name: str) -> bool:
        return self._find(name) is not None

    def members(self) -> Iterator[Member]:
        """List the members in the order they lie in, read from the archive itself; folders and what macOS adds are left out."""
        with _as_archive_error(self.path):
            yield from list_members(self.path)

    def read(self, name: str) -> bytes:
        """Read one member.

        A name that is not there is also looked for without its first folder, and in the folder that all members share:
        ``images2.zip`` may hold ``images2/x.jpg``, ``x.jpg`` or ``images2/images2/x.jpg``. Further folders count: for
        ``trees/1.jpg`` nobody gets ``roads/1.jpg``.

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
            data = self._pread(packed, offset) if method < _STORED else self._read_from_zip(name, offset, packed)
        except OSError as error:
            raise ArchiveError(f"the archive {self.path} cannot be read: {error.strerror}") from error
        if method == _DEFLATED:
            data = _inflate(data, size)
        elif method > _STORED:
            raise ArchiveError(f"packed by method {method}, which is not read here; pack the archive anew, stored or deflated")
        if len(data) != size:
            raise ArchiveError(f"cut short: {len(data)} of {size} bytes")
        if method >= _STORED and zlib.crc32(data) != self._crc[place]:
            raise ArchiveError("damaged: its CRC-32 is not that of the archive's directory")
        return data

    def _find(self, name: str) -> int | None:
        place = self._look_up(name)
        if place is None:
            inner = name.partition("/")[2] or name
            candidates = map(self._look_up, (inner, self._folder + inner, self._folder + name))
            place = next((found for found in candidates if found is not None), None)
        return place

    def _look_up(self, name: str) -> int | None:
        wanted = hash_name(name)
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


@contextmanager
def _as_archive_error(path: Path) -> Iterator[None]:
    try:
        yield
    except LISTING_ERRORS as error:
        raise ArchiveError(f"the archive {path} cannot be read: {error}; download or pack it again") from error
