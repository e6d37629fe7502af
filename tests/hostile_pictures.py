"""Pictures that nobody should have to decode."""

from __future__ import annotations

import io
import struct
import zipfile
import zlib

from PIL import Image


def chunk(kind: bytes, data: bytes) -> bytes:
    return struct.pack(">I", len(data)) + kind + data + struct.pack(">I", zlib.crc32(kind + data))


def bomb_png(side: int = 13_000) -> bytes:
    """Some 20 kB that unpack to 169 megapixels."""
    header = struct.pack(">IIBBBBB", side, side, 1, 0, 0, 0, 0)
    rows = zlib.compress(bytes(side * ((side + 7) // 8 + 1)), 9)
    return b"\x89PNG\r\n\x1a\n" + chunk(b"IHDR", header) + chunk(b"IDAT", rows) + chunk(b"IEND", b"")


def picture(kind: str, side: int = 64) -> bytes:
    """A picture that is fine, of noise, so that cutting it loses something."""
    file = io.BytesIO()
    Image.effect_noise((side, side), 80).convert("RGB").save(file, kind)
    return file.getvalue()


def bomb_gif() -> bytes:
    """65,535 pixels a side, in 40 bytes."""
    frame = b"\x2c" + struct.pack("<HHHHB", 0, 0, 65_535, 65_535, 0) + b"\x02\x02\x4c\x01\x00\x3b"
    return b"GIF89a" + struct.pack("<HHBBB", 65_535, 65_535, 0x80, 0, 0) + bytes(6) + frame


def absurd_tiff() -> bytes:
    """Tags that point beyond the file, count 4 billion values, and name a strip of 4 GB; the list of them leads to itself."""
    tags = [(256, 4, 1, 64), (257, 4, 1, 64), (258, 3, 2**32 - 1, 2**32 - 9), (259, 3, 1, 65_000), (262, 3, 1, 99)]
    tags += [(273, 4, 2**31, 2**31), (277, 3, 1, 60_000), (279, 4, 1, 2**32 - 1), (34_665, 4, 1, 8)]
    entries = b"".join(struct.pack("<HHII", *tag) for tag in tags)
    return b"II*\x00" + struct.pack("<IH", 8, len(tags)) + entries + struct.pack("<I", 8)


def huge_bmp() -> bytes:
    header = struct.pack("<IiiHHIIiiII", 40, 2**31 - 1, -(2**31) + 1, 1, 24, 0, 0, 0, 0, 0, 0)
    return b"BM" + struct.pack("<IHHI", 54, 0, 0, 54) + header


def damaged_png() -> bytes:
    whole = picture("PNG")
    return whole[:60] + bytes(40) + whole[100:]


def archive() -> bytes:
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as members:
        members.writestr("a.png", picture("PNG"))
    return file.getvalue()


SVG = b'<svg xmlns="http://www.w3.org/2000/svg"><script>alert(1)</script><image href="file:///etc/passwd"/></svg>'
HOSTILE = {
    "a PNG of 169 megapixels": bomb_png(),
    "a PNG that is cut short": picture("PNG")[:-2000],
    "a JPEG that is cut short": picture("JPEG")[:-1000],
    "a damaged PNG": damaged_png(),
    "a text called PNG": b"words, and nothing else",
    "a PNG without content": b"\x89PNG\r\n\x1a\n",
    "an SVG with a script": SVG,
    "a page of HTML": b"<html><script>alert(1)</script></html>",
    "a GIF of 4 gigapixels": bomb_gif(),
    "a TIFF with absurd tags": absurd_tiff(),
    "a BMP of 2 billion pixels a side": huge_bmp(),
    "an empty file": b"",
    "a picture of one pixel": picture("PNG", 1),
    "an archive": archive(),
    "a program of PostScript": b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 64 64\n(/etc/passwd) run\n",
}
