"""The directory of a zip, read as it stands: ``zipfile`` makes an object of every entry, 570 MB for 870,000.

Source: PKWARE APPNOTE 6.3.10, sections 4.3.12 (central directory), 4.3.14 and 4.3.15 (Zip64), 4.5.3 (Zip64 extra field).
"""

from __future__ import annotations

import os
import struct
from collections.abc import Iterator
from pathlib import Path

_END = struct.Struct("<4s4H2LH")
_END64_LOCATOR = struct.Struct("<4sLQL")
_END64 = struct.Struct("<4sQ2H2L4Q")
_ENTRY = struct.Struct("<4s6H3L5H2L")
_MOST_COMMENT = 1 << 16
_IN_EXTRA_FIELD = 0xFFFFFFFF
_UTF8 = 1 << 11
_MOST = 1 << 62
"""Damaged Zip64 numbers do not fit a file's offsets; such a member is then found to be damaged or too large when it is read."""
_COUNT_WRAPS = 1 << 16
"""Some writers know no Zip64 and let the 16 bits of the count overflow."""


class ZipDirectoryError(ValueError):
    """The file is no zip, or its directory is damaged."""


def zip_members(path: Path) -> Iterator[tuple[str, int, int, int, int, int]]:
    """List a zip's members in the order of its directory.

    Yields:
        Name, offset of the local header, packed size and size in bytes, CRC-32, method; folders end in ``/``.

    Raises:
        ZipDirectoryError: with the reason.
        OSError: the file cannot be read.
    """
    with path.open("rb") as file:
        start, size, count, shift = _find_directory(file.fileno(), os.fstat(file.fileno()).st_size)
        file.seek(start)
        directory = file.read(size)
    position = found = 0
    while position + _ENTRY.size <= len(directory) and directory[position : position + 4] == b"PK\x01\x02":
        entry = _ENTRY.unpack_from(directory, position)
        flags, method, crc, packed, plain = entry[3], entry[4], entry[7], entry[8], entry[9]
        name_end = position + _ENTRY.size + entry[10]
        extra_end = name_end + entry[11]
        offset = entry[16]
        if _IN_EXTRA_FIELD in (packed, plain, offset):
            plain, packed, offset = _read_extra(directory[name_end:extra_end], plain, packed, offset)
        name = directory[position + _ENTRY.size : name_end]
        numbers = (min(number, _MOST) for number in (offset + shift, packed, plain))
        yield _decode(name, flags), *numbers, crc, method
        position = extra_end + entry[12]
        found += 1
    if (found - count) % _COUNT_WRAPS:
        raise ZipDirectoryError(f"its directory lists {found} of {count} members")


def _decode(name: bytes, flags: int) -> str:
    text = name.decode("utf-8", "surrogateescape") if flags & _UTF8 or name.isascii() else name.decode("cp437")
    return text.replace("\\", "/")


def _find_directory(descriptor: int, size: int) -> tuple[int, int, int, int]:
    """Return the directory's start and size in bytes, its entries, and how many bytes stand before the zip proper."""
    tail_start = max(0, size - _END.size - _MOST_COMMENT)
    tail = os.pread(descriptor, size - tail_start, tail_start)
    place = tail.rfind(b"PK\x05\x06")
    if place < 0 or place + _END.size > len(tail):
        raise ZipDirectoryError("it has no directory at its end: it is cut short, or no zip")
    end = _END.unpack_from(tail, place)
    count, length, start, position = end[4], end[5], end[6], tail_start + place
    locator = os.pread(descriptor, _END64_LOCATOR.size, max(0, position - _END64_LOCATOR.size))
    if locator[:4] == b"PK\x06\x07" and len(locator) == _END64_LOCATOR.size:
        directly_before = position - _END64_LOCATOR.size - _END64.size  # where bytes stand before the zip
        for position in (min(_END64_LOCATOR.unpack(locator)[2], size), max(0, directly_before)):
            block = os.pread(descriptor, _END64.size, position)
            if len(block) == _END64.size and block[:4] == b"PK\x06\x06":
                break
        else:
            raise ZipDirectoryError("its Zip64 directory is not where it says")
        end64 = _END64.unpack(block)
        count, length, start = end64[7], end64[8], end64[9]
    shift = position - length - start
    if shift < 0 or length > size:
        raise ZipDirectoryError("its directory is not where it says: it is cut short or damaged")
    return start + shift, length, count, shift


def _read_extra(extra: bytes, plain: int, packed: int, offset: int) -> tuple[int, int, int]:
    """Take the sizes and the offset that do not fit 32 bits from the Zip64 extra field, in its fixed order."""
    position = 0
    while position + 4 <= len(extra):
        kind, length = struct.unpack_from("<2H", extra, position)
        if kind == 1:
            room = min(length, len(extra) - position - 4) // 8
            numbers = iter(struct.unpack_from(f"<{room}Q", extra, position + 4))
            try:
                plain = next(numbers) if plain == _IN_EXTRA_FIELD else plain
                packed = next(numbers) if packed == _IN_EXTRA_FIELD else packed
                offset = next(numbers) if offset == _IN_EXTRA_FIELD else offset
            except StopIteration:
                raise ZipDirectoryError("a Zip64 field of its directory is too short") from None
        position += 4 + length
    return plain, packed, offset
