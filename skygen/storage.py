"""Files written whole or not at all, line by line by many at once, or by one alone; the folder for what skygen keeps."""

from __future__ import annotations

import errno
import json
import logging
import os
import shutil
import socket
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from glob import escape
from hashlib import sha256
from io import BufferedRandom
from pathlib import Path
from uuid import uuid4

from skygen.errors import ConfigError, StorageError

try:
    import fcntl
except ImportError:  # Windows: two processes may then write the same line, and whoever reads counts keys, not lines
    fcntl = None  # type: ignore[assignment]

_LOG = logging.getLogger("skygen")

STORAGE_FAULTS = frozenset({errno.ENOSPC, errno.EDQUOT, errno.EIO, errno.EROFS, errno.EFBIG})
"""Errors of the operating system that say: this disk cannot take it."""

LONGEST_NAME = 255
"""Of a file or folder in bytes, on the usual file systems."""


def can_be_named(path: str) -> bool:
    """Say whether a disk could hold a file of this path: no part of it is too long, and none has a NUL."""
    if "\0" in path:
        return False
    if 4 * len(path) <= LONGEST_NAME:  # most are; no character takes more than 4 bytes
        return True
    return all(len(part.encode(errors="surrogatepass")) <= LONGEST_NAME for part in path.split("/"))


def skygen_home() -> Path:
    """Return the folder of downloads and caches: ``$SKYGEN_HOME``, else ``~/.cache/skygen``."""
    return Path(os.environ.get("SKYGEN_HOME") or Path.home() / ".cache" / "skygen")


@contextmanager
def writing(path: Path) -> Iterator[Path]:
    """Give a name beside ``path`` to write to, and rename it to ``path`` when all went well.

    A reader sees the old file, the new one, or none, never a half; after a failure or a kill ``path`` is as it was.

    Args:
        path: of the file; folders above it are made.

    Yields:
        The temporary path, on the same file system.

    Raises:
        StorageError: the disk is full or refuses.
    """
    temporary = path.with_name(f".{path.name}.{uuid4().hex[:12]}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        temporary.touch()  # so that a folder that refuses is told from an input that does, which the caller may read
    except OSError as error:
        raise storage_error(path, error) from error
    written = False
    try:
        yield temporary
        written = True
        flush_to_disk(temporary)
        temporary.replace(path)
        flush_to_disk(path.parent)
    except OSError as error:
        if not written and error.errno not in STORAGE_FAULTS:
            raise
        raise storage_error(path, error) from error
    finally:
        temporary.unlink(missing_ok=True)


def remove_halves(folder: Path, name: str = "") -> None:
    """Remove what ``writing`` has left where it was killed, as large as what it wrote; nobody else may be writing there.

    Args:
        folder: of the files.
        name: of the one that is meant; all in the folder and below it when left out.
    """
    for half in folder.glob(f".{escape(name)}.*.part") if name else folder.rglob(".*.part"):
        half.unlink(missing_ok=True)


def flush_to_disk(path: Path) -> None:
    """Have the operating system write a file, or a folder's list of names, through to the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        with suppress(OSError):  # some network file systems cannot flush a folder
            os.fsync(descriptor)
    finally:
        os.close(descriptor)


def storage_error(path: Path | str, error: OSError) -> StorageError:
    """Put an operating system's refusal to write into a sentence."""
    return StorageError(f"{path}: cannot be written ({error.strerror}); free disk space or choose another place.")


def require_room(folder: Path, size_bytes: int, mend: str) -> int:
    """Return how many bytes are free on the disk of a folder.

    Args:
        folder: that is to be written to; it need not be there yet.
        size_bytes: what is to be written.
        mend: what could be done about too little, as the last words of the error.

    Raises:
        StorageError: there is not so much room.
    """
    place = next(path for path in (folder.absolute(), *folder.absolute().parents) if path.exists())
    free = shutil.disk_usage(place).free
    if size_bytes > free:
        raise StorageError(f"{folder}: {to_words(size_bytes)} are needed and {to_words(free)} are free; {mend}.")
    return free


def to_words(size: int) -> str:
    """Write a number of bytes with three digits and a unit, such as ``9.72 GB``; a kB is 1,000 bytes."""
    number, units = float(size), ["bytes", "kB", "MB", "GB", "TB"]
    while number >= 999.5 and len(units) > 1:
        number /= 1000
        units.pop(0)
    return f"{size} bytes" if units[0] == "bytes" else f"{number:.3g} {units[0]}"


def cache_folder(root: Path) -> Path:
    """Return the folder for what is derived from a data set: ``.skygen`` in it, or in ``skygen_home`` where it is read-only."""
    return cache_folders(root)[0]


def cache_folders(root: Path) -> list[Path]:
    """List where to look for what is derived from a data set, the place that is written to first.

    One person may have indexed a data set that many share and only read.
    """
    own = root / ".skygen"
    place = own if own.is_dir() else root
    # The superuser may write everywhere; a folder whose mode lets nobody write is meant to be left as it is.
    if os.access(place, os.W_OK) and place.stat().st_mode & 0o222:
        return [own]
    return [skygen_home() / "derived" / sha256(os.fsencode(root.resolve())).hexdigest()[:16], own]


@contextmanager
def locked(descriptor: int, *, shared: bool = False) -> Iterator[None]:
    """Keep other processes from an open file, until it is closed.

    Args:
        descriptor: of the file.
        shared: others may read it meanwhile.
    """
    if fcntl is not None:
        with suppress(OSError):  # a file system without locks: a line is one write all the same
            fcntl.flock(descriptor, fcntl.LOCK_SH if shared else fcntl.LOCK_EX)  # closing the file lets go
    yield


def append_lines(descriptor: int, lines: bytes) -> None:
    """Append whole lines in one write; a line before them that a kill or a full disk has cut short is ended first.

    Args:
        descriptor: of a file opened with ``O_RDWR | O_APPEND``, and locked.
        lines: each with its newline.
    """
    size = os.lseek(descriptor, 0, os.SEEK_END)
    if size:
        os.lseek(descriptor, size - 1, os.SEEK_SET)  # the write goes to the end all the same: O_APPEND
        lines = lines if os.read(descriptor, 1) == b"\n" else b"\n" + lines
    while lines:  # one write, unless the disk is full
        lines = lines[os.write(descriptor, lines) :]


@contextmanager
def appending(path: Path) -> Iterator[int]:
    """Open a file that many append to, for ``append_lines``, and keep the others from it meanwhile.

    Args:
        path: of the file; it and the folders above it are made.

    Yields:
        Its descriptor.

    Raises:
        StorageError: the disk is full or refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(path, os.O_RDWR | os.O_APPEND | os.O_CREAT, 0o644)
        try:
            with locked(descriptor):
                yield descriptor
        finally:
            os.close(descriptor)
    except OSError as error:
        raise storage_error(path, error) from error


@contextmanager
def alone(path: Path, what: str, otherwise: str) -> Iterator[None]:
    """Keep other processes from something for as long as this one is at it.

    The lock is the kernel's: a process that is killed lets go of it, and its children do not have it. The file says who holds
    it, and stays: to remove it would let two processes hold two files of one name.

    Args:
        path: of the file.
        what: it stands for, the first words of an error.
        otherwise: what else could be done, its last words.

    Raises:
        ConfigError: another process is at it.
        StorageError: the disk is full or refuses.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("r+b" if path.exists() else "w+b")
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        if fcntl is not None:
            try:
                fcntl.lockf(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except (BlockingIOError, PermissionError):
                raise ConfigError(
                    f"{what}: {_read_owner(file)} is at work there; wait until it has ended, stop it, or {otherwise}."
                ) from None
            except OSError as error:
                _LOG.debug("%s: no locks here (%s)", path, error)  # two processes must be kept apart by hand
        if before := _read_owner(file):
            _LOG.warning(f"{what}: {before} was at work there and has ended without a word; this one goes on in its place")
        _write_owner(file, path)
        try:
            yield
        finally:
            file.truncate(0)


def _read_owner(file: BufferedRandom) -> str:
    """Say who holds a lock, or held it when it was killed; nothing where it was let go of."""
    file.seek(0)
    try:
        owner = json.loads(file.read(1000) or b"{}")
        return f"process {owner['process']} on {owner['host']} (since {owner['since']})" if owner else ""
    except (ValueError, TypeError, KeyError):
        return "another process"


def _write_owner(file: BufferedRandom, path: Path) -> None:
    owner = {"process": os.getpid(), "host": socket.gethostname(), "since": f"{datetime.now(UTC):%Y-%m-%d %H:%M:%S} UTC"}
    try:
        file.seek(0)
        file.truncate(0)
        file.write(json.dumps(owner).encode() + b"\n")
        file.flush()
    except OSError as error:
        raise storage_error(path, error) from error
