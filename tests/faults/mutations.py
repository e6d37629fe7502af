"""Ways in which a file comes to harm: on a disk, in a transfer, in an editor, or on purpose."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

TROUBLE = (
    b"\0",
    b"\xff\xfe",
    b"\xc3",
    b'"',
    b"\\",
    b"{",
    b"}",
    b"[" * 2000,
    b'{"a":' * 2000,
    b"null",
    b"NaN",
    b"-1",
    b"1e999",
    b"9" * 400,
    b"true",
    b"[]",
    b"{}",
    b'""',
    b"../../../x",
    b"/dev/zero",
    b"\xed\xa0\x80",
    b"\\ud800",
    b"\r\n",
    b"\xef\xbb\xbf",
    b"\x1b[31m",
    b"<script>alert(1)</script>",
    b"\xff" * 8,
    b"\x7f\xff\xff\xff\xff\xff\xff\xff",
)
"""What parsers stumble over."""
BEGINNINGS = (
    b"\xff\xd8\xff\xe0",
    b"\x89PNG\r\n\x1a\n",
    b"RIFF\0\0\0\0WEBP",
    b"II*\0",
    b"PK\3\4",
    b"PAR1",
    b"ARROW1\0\0",
    b"\x80\4",
)
"""Of JPEG, PNG, WebP, TIFF, zip, Parquet, Arrow and a pickle."""


def _flip_bits(content: bytes, draw: np.random.Generator) -> bytes:
    damaged = bytearray(content)
    for place in draw.integers(len(content), size=int(draw.integers(1, 9))):
        damaged[place] ^= 1 << int(draw.integers(8))
    return bytes(damaged)


def _cut_short(content: bytes, draw: np.random.Generator) -> bytes:
    return content[: int(draw.integers(len(content)))]


def _cut_out(content: bytes, draw: np.random.Generator) -> bytes:
    start, length = int(draw.integers(len(content))), int(draw.integers(1, 64))
    return content[:start] + content[start + length :]


def _put_in(content: bytes, draw: np.random.Generator) -> bytes:
    place = int(draw.integers(len(content) + 1))
    return content[:place] + draw.bytes(int(draw.integers(1, 40))) + content[place:]


def _repeat(content: bytes, draw: np.random.Generator) -> bytes:
    start, length = int(draw.integers(len(content))), int(draw.integers(1, 400))
    block = content[start : start + length]
    return content[:start] + block * int(draw.integers(2, 20)) + content[start:]


def _zero(content: bytes, draw: np.random.Generator) -> bytes:
    start = int(draw.integers(len(content)))
    length = min(int(draw.integers(1, 600)), len(content) - start)
    return content[:start] + bytes(length) + content[start + length :]


def _swap_beginning(content: bytes, draw: np.random.Generator) -> bytes:
    """Put the first bytes of another kind of file in the place of these."""
    begin = BEGINNINGS[int(draw.integers(len(BEGINNINGS)))]
    return begin + content[len(begin) :]


def _make_trouble(content: bytes, draw: np.random.Generator) -> bytes:
    """Put what parsers stumble over in the place of some bytes."""
    place, length = int(draw.integers(len(content))), int(draw.integers(0, 12))
    return content[:place] + TROUBLE[int(draw.integers(len(TROUBLE)))] + content[place + length :]


def _replace_value(content: bytes, draw: np.random.Generator) -> bytes:
    """Put another value in the place of one between the marks that texts have."""
    marks = [place for place, byte in enumerate(content) if byte in b',:"\n{}[]=']
    if len(marks) < 2:
        return _make_trouble(content, draw)
    first = int(draw.integers(len(marks) - 1))
    return content[: marks[first] + 1] + TROUBLE[int(draw.integers(len(TROUBLE)))] + content[marks[first + 1] :]


def _swap_blocks(content: bytes, draw: np.random.Generator) -> bytes:
    first, second = sorted(int(place) for place in draw.integers(len(content), size=2))
    return content[second:] + content[first:second] + content[:first]


def _leave_nothing(content: bytes, draw: np.random.Generator) -> bytes:
    return b"" if draw.integers(4) == 0 else draw.bytes(len(content))


MUTATIONS: tuple[Callable[[bytes, np.random.Generator], bytes], ...] = (
    _flip_bits,
    _cut_short,
    _cut_out,
    _put_in,
    _repeat,
    _zero,
    _swap_beginning,
    _make_trouble,
    _replace_value,
    _swap_blocks,
    _flip_bits,
    _replace_value,
    _leave_nothing,
)


def mutate(content: bytes, draw: np.random.Generator) -> bytes:
    """Damage the content of a file, in one way or in two."""
    for _ in range(1 + int(draw.integers(4) == 0)):
        if content:
            content = MUTATIONS[int(draw.integers(len(MUTATIONS)))](content, draw)
    return content
