"""A checksum inside a file, where readers of its format do not mind it: a flipped bit anywhere is found out.

A file that is to be sealed has ``BLANK`` near its end, as a value of its metadata or behind all else. The checksum is of the
whole file, with these digits as zeros, and takes their place.
"""

from __future__ import annotations

import re
import zlib
from functools import cache
from pathlib import Path
from typing import Final

import numpy as np

from skygen.errors import StorageError

BLANK: Final = b"crc32:00000000"
_SEALED = re.compile(rb"crc32:[0-9a-f]{8}")
_DIGITS = 8
_TAIL = 1 << 20
"""Bytes at the end in which the seal is looked for; metadata of Parquet has it in the last few thousand."""


def seal(path: Path) -> None:
    """Write a file's checksum over the zeros of its last ``BLANK``."""
    place = _find(path)
    if place is None:
        raise ValueError(f"{path} has no place for a seal")
    with path.open("r+b") as file:
        file.seek(place)
        file.write(_digest(path, place))


def check_seal(path: Path) -> None:
    """Hold a file against its seal, once in a process; one of an earlier version has none, and passes.

    Raises:
        OSError: it cannot be read.
        StorageError: its bytes are not those that were written.
    """
    _check(path, path.stat().st_mtime_ns)


@cache
def _check(path: Path, modified: int) -> None:
    place = _find(path)
    if place is not None and np.memmap(path, np.uint8, "r")[place : place + _DIGITS].tobytes() != _digest(path, place):
        raise StorageError(f"{path}: its bytes are not those that were written; delete it, and run again what made it.")


def _find(path: Path) -> int | None:
    """Return where the digits of a file's seal begin."""
    with path.open("rb") as file:
        start = max(0, path.stat().st_size - _TAIL)
        file.seek(start)
        seals = list(_SEALED.finditer(file.read()))
    return start + seals[-1].end() - _DIGITS if seals else None


def _digest(path: Path, place: int) -> bytes:
    """Compute the CRC-32 of a file with zeros as the digits of its seal."""
    content = np.memmap(path, np.uint8, "r")
    digest = zlib.crc32(content[:place].data)
    digest = zlib.crc32(content[place + _DIGITS :].data, zlib.crc32(b"0" * _DIGITS, digest))
    return b"%08x" % digest
