"""The values in a pickle of plain data, made from the file's bytes: text, integers, numpy's numbers, ``datetime``.

Numpy and Python write some values as a call: ``scalar(dtype("f8"), bytes)``. Here the five names in such calls are members of
``Maker``, and ``call`` works the value out from the bytes; no object of the file is ever called or given attributes.
"""

from __future__ import annotations

import enum
import re
from dataclasses import dataclass
from struct import Struct
from typing import Any, final

_INTEGERS = range(-(2**63), 2**64)  # many larger ones collide as keys, and filling a dictionary takes quadratic time
_LONGEST_CALL = 16  # bytes; numbers have up to 8 and dates 10, and 20,000 calls may share one long argument
_ESCAPED = re.compile(rb"""(?:[^\\]|\\[\\'"nrt]|\\x[0-9a-f]{2})*+""", re.DOTALL)  # what Python 2's repr writes
_DATETIME = Struct(">HBBBBB3s")  # year, month, day, hour, minute, second, microsecond
_FORMATS = {
    "b1": "?", "i1": "b", "i2": "h", "i4": "i", "i8": "q", "u1": "B", "u2": "H", "u4": "I", "u8": "Q",
    "f2": "e", "f4": "f", "f8": "d",
}  # fmt: skip


@final
class PickleRefused(ValueError):
    """A pickle is damaged or more than plain data; the message is a predicate, such as ``is damaged: it ends too early``."""


@final
class Maker(enum.Enum):
    """The names that a file may hold; each only stands for what ``call`` does with bytes."""

    DATETIME = ("datetime", "datetime")
    DTYPE = ("numpy", "dtype")
    ENCODE = ("_codecs", "encode")  # how protocols 0 to 2 write bytes
    SCALAR = ("numpy.core.multiarray", "scalar")
    SCALAR_2 = ("numpy._core.multiarray", "scalar")  # since NumPy 2


_MAKERS = {maker.value: maker for maker in Maker}


@final
@dataclass(slots=True)
class Dtype:
    """A numpy number type, as struct's format and byte order; a file gives the order in a later operation."""

    format: str
    order: str = "<"


def find_maker(module: Any, name: Any, made_at_once: bool = False) -> Maker:
    """Look up a name of the file among the five.

    Args:
        module: such as ``numpy``; anything but text is refused.
        name: in the module.
        made_at_once: whether the operation would also call it, as no usual file does.

    Raises:
        PickleRefused: if it is another one.
    """
    maker = _MAKERS.get((module, name)) if isinstance(module, str) and isinstance(name, str) else None
    if maker is None or made_at_once:
        raise PickleRefused(f"is not plain data: it names {_show(module)}.{_show(name)}")
    return maker


def call(maker: Any, arguments: Any) -> Any:
    """Work out the value that a call in the file stands for.

    Returns:
        bytes, a ``Dtype``, an int, float or bool, or the tuple (year, month, day, hour, minute, second).

    Raises:
        PickleRefused: if it is any other call.
    """
    match maker, arguments:
        case Maker.ENCODE, (str(text), "latin1" | "latin-1") if len(text) <= _LONGEST_CALL:
            return text.encode("latin-1")
        case Maker.DTYPE, (str(kind), *_):
            if kind not in _FORMATS:
                raise PickleRefused(f"is not plain data: it holds a numpy value of type {_show(kind)}")
            return Dtype(_FORMATS[kind])
        case ((Maker.SCALAR | Maker.SCALAR_2), (Dtype() as dtype, (bytes() | str()) as raw)) if len(raw) <= _LONGEST_CALL:
            return Struct(dtype.order + dtype.format).unpack(_to_bytes(raw))[0]
        case Maker.DATETIME, ((bytes() | str()) as raw,) if len(raw) <= _LONGEST_CALL:
            year, month, *rest, _ = _DATETIME.unpack(_to_bytes(raw))
            return (year, month & 0x7F, *rest)  # the top bit tells apart the two equal hours when summer time ends
    raise PickleRefused("is not plain data: it holds a call that makes no number and no date")


def set_byte_order(dtype: Any, state: Any) -> Dtype:
    """Give a number type the byte order in its state; everything else that would get a state is refused.

    Raises:
        PickleRefused: if it is no ``Dtype``, or the state not that of a number type.
    """
    match dtype, state:
        case Dtype(), (int(), ("<" | ">" | "|" | "=") as order, None, None, None, *_):
            dtype.order = "<" if order == "|" else order
            return dtype
    raise PickleRefused("is not plain data: it sets the state of an object")


def to_text(raw: bytes) -> str | bytes:
    """Decode UTF-8; what is not UTF-8 stays bytes, so that it costs one tag and not the file."""
    try:
        return str(raw, "utf-8")
    except UnicodeDecodeError:
        return raw


def to_unquoted_text(line: bytes) -> str | bytes:
    """Decode the text of protocol 0: Latin-1 with backslash-u escapes; half a character (a lone surrogate) leaves bytes."""
    text = str(line, "raw-unicode-escape")
    try:
        text.encode()
    except UnicodeEncodeError:
        return line
    return text


def to_quoted_text(line: bytes) -> str | bytes:
    """Decode the byte string of protocol 0 as Python 2 wrote it, in quotes and with escapes.

    Raises:
        PickleRefused: if it is not such a string.
    """
    body = line.strip()
    if len(body) < 2 or body[0] != body[-1] or body[0] not in b"'\"" or not _ESCAPED.fullmatch(body[1:-1]):
        raise PickleRefused("is damaged: it holds a text without its quotes or with unknown escapes")
    return to_text(str(body[1:-1], "unicode-escape").encode("latin-1"))


def to_written_integer(line: bytes) -> int | bool:
    """Read the decimal integer of protocol 0; 00 and 01 are False and True."""
    return line == b"01" if line in (b"00", b"01") else to_integer(line)


def to_integer(line: bytes) -> int:
    """Read a decimal integer, which an L may follow.

    Raises:
        PickleRefused: if it has more than 64 bits.
    """
    return _within_64_bits(int(line.removesuffix(b"L"))) if len(line) <= 32 else _within_64_bits(_INTEGERS.stop)


def to_long(raw: bytes) -> int:
    """Read an integer of any number of bytes, two's complement, the lowest byte first.

    Raises:
        PickleRefused: if it has more than 64 bits.
    """
    return _within_64_bits(int.from_bytes(raw, "little", signed=True))


def to_float(line: bytes) -> float:
    """Read a decimal float; infinite and not-a-number are floats too."""
    return float(line)


def _within_64_bits(number: int) -> int:
    if number not in _INTEGERS:
        raise PickleRefused("holds an integer of more than 64 bits")
    return number


def _to_bytes(raw: str | bytes) -> bytes:
    """Undo ``to_text``: Python 2 wrote bytes and text alike."""
    return raw.encode() if isinstance(raw, str) else raw


def _show(name: Any) -> str:
    """Return a name as it may stand in a log: short, printable ASCII."""
    return ascii(name[:60])[1:-1] if isinstance(name, str) else "?"
