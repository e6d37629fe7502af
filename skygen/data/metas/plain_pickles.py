"""Pickles of plain values, read without Python's unpickler.

``pickle.load`` runs whatever code a file names. Its unpickler with ``find_class`` closed still does as a hostile file says in
other ways: 9 bytes that store a value under number 2 ** 32 - 1 take 64 GB, a tuple of shared tuples used as a key is hashed
2 ** 40 times, and an extension code that was used before gets past ``find_class``. So this is an interpreter of those
operations alone that plain values are written with, protocols 0 to 5, as the standard library's ``pickletools`` describes
them. It imports nothing and calls nothing that a file names: numpy's numbers and ``datetime`` are taken apart as bytes.
"""

from __future__ import annotations

from collections.abc import Callable
from struct import Struct
from struct import error as StructError
from typing import Any

from skygen.data.metas.plain_values import (
    PickleRefused,
    call,
    find_maker,
    set_byte_order,
    to_float,
    to_integer,
    to_long,
    to_quoted_text,
    to_text,
    to_unquoted_text,
    to_written_integer,
)

MOST_BYTES = 1_000_000
"""Of a file."""

MOST_OPERATIONS = 100_000
"""Of a file; it bounds the values, their nesting and the time, which is 0.1 s for the slowest file."""

_KEY_TYPES = frozenset({str, int, float, bool, bytes, type(None)})  # a tuple's hash follows all that is shared in it


def read_plain(data: bytes) -> Any:
    """Read a pickle of None, bool, int, float, str, bytes, tuple, list and dict.

    What is shared in the file is shared in the value, and a list may hold itself: whoever walks the value must count.

    Args:
        data: the whole file, of any protocol from 0 to 5.

    Returns:
        The value. A numpy number is an int, float or bool; a ``datetime`` without a zone is the tuple (year, month, day,
        hour, minute, second), not checked to be a date; text that is not UTF-8 is bytes.

    Raises:
        PickleRefused: if it is no pickle, damaged, larger than ``MOST_BYTES`` or ``MOST_OPERATIONS``, has an integer of more
            than 64 bits, or holds anything else. No other exception leaves this function.
    """
    if len(data) > MOST_BYTES:
        raise PickleRefused(f"has {len(data):,} bytes, more than {MOST_BYTES:,}")
    try:
        return _interpret(data)
    except PickleRefused:
        raise
    except KeyError:
        reason = "it refers to a value that it has not stored"
    except (IndexError, StructError):
        reason = "it ends too early, or takes more values than it has"
    except Exception as error:  # whatever else a file brings about must not end a run over five million others
        reason = f"it holds a value that cannot be read ({type(error).__name__})"
    raise PickleRefused(f"is damaged: {reason}")


def _interpret(data: bytes) -> Any:
    """Run a pickle's operations; those that make up nine tenths of a usual one are written out here."""
    stack: list[Any] = []
    marked: list[list[Any]] = []  # the stack below each mark
    memo: dict[int, Any] = {}
    position = 0
    for _ in range(MOST_OPERATIONS):
        code = data[position]
        position += 1
        if code == 0x8C or code == 0x58:  # SHORT_BINUNICODE, BINUNICODE, and the usual MEMOIZE or BINPUT behind it
            start = position + (1 if code == 0x8C else 4)
            position = start + (data[position] if code == 0x8C else _SIZE_4.unpack_from(data, position)[0])
            text = to_text(data[start:position])
            stack.append(text)
            code = data[position]
            if code == 0x94:
                memo[len(memo)] = text
                position += 1
            elif code == 0x71:
                memo[data[position + 1]] = text
                position += 2
        elif code == 0x68:  # BINGET
            stack.append(memo[data[position]])
            position += 1
        elif code == 0x94:  # MEMOIZE
            memo[len(memo)] = stack[-1]
        elif code == 0x71:  # BINPUT
            memo[data[position]] = stack[-1]
            position += 1
        elif code == 0x7D:  # EMPTY_DICT
            stack.append({})
        elif code == 0x28:  # MARK
            marked.append(stack)
            stack = []
        elif code in _CLOSING:
            items, stack = stack, marked.pop()
            _close(code, items, stack)
        elif code == 0x30 and not stack:  # POP of a mark
            stack = marked.pop()
        elif code == 0x2E:  # STOP
            if marked or len(stack) != 1:
                raise PickleRefused("is damaged: it ends with more or less than one value")
            if position != len(data):
                raise PickleRefused(f"is damaged: {len(data) - position:,} bytes follow its end")
            return stack[0]
        else:
            position = _step(code, data, position, stack, memo)
    raise PickleRefused(f"takes more than {MOST_OPERATIONS:,} operations to read")


def _close(code: int, items: list[Any], stack: list[Any]) -> None:
    """Do what takes all values since the last mark."""
    if code == 0x75:  # SETITEMS
        _put(stack[-1], items)
    elif code == 0x65:  # APPENDS
        _extend(stack[-1], items)
    elif code == 0x74:  # TUPLE
        stack.append(tuple(items))
    elif code == 0x6C:  # LIST
        stack.append(items)
    elif code == 0x64:  # DICT
        stack.append({})
        _put(stack[-1], items)
    # else POP_MARK, which forgets them


def _step(code: int, data: bytes, position: int, stack: list[Any], memo: dict[int, Any]) -> int:
    """Run one of the rarer operations; return where the next one is."""
    if code in _NUMBERS:
        stack += _NUMBERS[code].unpack_from(data, position)
        return position + _NUMBERS[code].size
    if code in _EMPTY:
        stack.append(_EMPTY[code]())
    elif code in _CONSTANTS:
        stack.append(_CONSTANTS[code])
    elif code in _COUNTED:
        length, convert = _COUNTED[code]
        start = position + length.size
        position = start + length.unpack_from(data, position)[0]
        if position > len(data):
            raise IndexError
        stack.append(convert(data[start:position]))
    elif code in _LINES:
        line, position = _read_line(data, position)
        stack.append(_LINES[code](line))
    elif code in b"rj":  # LONG_BINPUT, LONG_BINGET
        _remember(code == 0x72, _SIZE_4.unpack_from(data, position)[0], stack, memo)
        position += _SIZE_4.size
    elif code in b"pg":  # PUT, GET
        line, position = _read_line(data, position)
        _remember(code == 0x70, to_integer(line), stack, memo)
    elif code == 0x80:  # PROTO
        if data[position] > 5:
            raise PickleRefused(f"is a pickle of protocol {data[position]}, and 0 to 5 are known")
        position += 1
    elif code == 0x95:  # FRAME: so many bytes may be read at once
        position += _SIZE_8.size
        if position + _SIZE_8.unpack_from(data, position - _SIZE_8.size)[0] > len(data):
            raise IndexError
    elif code in b"ci":  # GLOBAL, INST
        module, position = _read_line(data, position)
        name, position = _read_line(data, position)
        stack.append(find_maker(to_text(module), to_text(name), made_at_once=code == 0x69))
    else:
        _combine(code, position, stack)
    return position


def _combine(code: int, position: int, stack: list[Any]) -> None:
    """Run an operation that takes nothing from the file, and a fixed number of values from the stack."""
    if code in b"\x85\x86\x87":  # TUPLE1, TUPLE2, TUPLE3
        stack.append(tuple(_pop(stack, code - 0x84)))
    elif code == 0x73:  # SETITEM
        items = _pop(stack, 2)
        _put(stack[-1], items)
    elif code == 0x61:  # APPEND
        items = _pop(stack, 1)
        _extend(stack[-1], items)
    elif code == 0x30:  # POP
        stack.pop()
    elif code == 0x32:  # DUP
        stack.append(stack[-1])
    elif code == 0x93:  # STACK_GLOBAL
        stack.append(find_maker(*_pop(stack, 2)))
    elif code == 0x52:  # REDUCE
        stack.append(call(*_pop(stack, 2)))
    elif code == 0x62:  # BUILD
        stack.append(set_byte_order(*_pop(stack, 2)))
    elif code in _REFUSED:
        raise PickleRefused(f"is not plain data: it uses the pickle operation {_REFUSED[code]}")
    elif position == 1:
        raise PickleRefused(f"is not a pickle: it begins with the byte 0x{code:02x}")
    else:
        raise PickleRefused(f"is damaged: its byte {position - 1}, 0x{code:02x}, is no pickle operation")


def _pop(stack: list[Any], count: int) -> list[Any]:
    items = stack[-count:]
    if len(items) < count:
        raise IndexError
    del stack[-count:]
    return items


def _put(target: Any, items: list[Any]) -> None:
    keys = items[::2]
    if type(target) is not dict or len(items) % 2:
        raise PickleRefused("is damaged: it sets a key of what is no dictionary, or a key without a value")
    if not _KEY_TYPES.issuperset(map(type, keys)):
        wrong = next(type(key).__name__ for key in keys if type(key) not in _KEY_TYPES)
        raise PickleRefused(f"is not plain data: a key is a {wrong.strip('_').lower()}")
    target.update(zip(keys, items[1::2], strict=True))


def _extend(target: Any, items: list[Any]) -> None:
    if type(target) is not list:
        raise PickleRefused("is damaged: it appends to what is no list")
    target += items


def _remember(store: bool, number: int, stack: list[Any], memo: dict[int, Any]) -> None:
    if store:
        memo[number] = stack[-1]
    else:
        stack.append(memo[number])


def _read_line(data: bytes, position: int) -> tuple[bytes, int]:
    end = data.find(b"\n", position)
    if end < 0:
        raise IndexError
    return data[position:end], end + 1


# The operations by code, grouped by how they are read. Their names in pickletools stand behind them.
_SIZE_1, _SIZE_4, _SIZE_8 = Struct("<B"), Struct("<I"), Struct("<Q")
_CLOSING = frozenset(b"uetld1")
_NUMBERS = {0x4B: Struct("<B"), 0x4D: Struct("<H"), 0x4A: Struct("<i"), 0x47: Struct(">d")}  # BININT1 BININT2 BININT BINFLOAT
_EMPTY: dict[int, type] = {0x7D: dict, 0x5D: list, 0x29: tuple}  # EMPTY_DICT EMPTY_LIST EMPTY_TUPLE
_CONSTANTS = {0x4E: None, 0x88: True, 0x89: False}  # NONE NEWTRUE NEWFALSE
_COUNTED: dict[int, tuple[Struct, Callable[[bytes], Any]]] = {
    0x8D: (_SIZE_8, to_text),  # BINUNICODE8
    0x55: (_SIZE_1, to_text),  # SHORT_BINSTRING, Python 2's
    0x54: (_SIZE_4, to_text),  # BINSTRING
    0x43: (_SIZE_1, bytes),  # SHORT_BINBYTES
    0x42: (_SIZE_4, bytes),  # BINBYTES
    0x8E: (_SIZE_8, bytes),  # BINBYTES8
    0x8A: (_SIZE_1, to_long),  # LONG1
    0x8B: (_SIZE_4, to_long),  # LONG4
}
_LINES: dict[int, Callable[[bytes], Any]] = {
    0x49: to_written_integer,  # INT
    0x4C: to_integer,  # LONG
    0x46: to_float,  # FLOAT
    0x53: to_quoted_text,  # STRING, Python 2's
    0x56: to_unquoted_text,  # UNICODE
}
_REFUSED = {
    0x6F: "OBJ",
    0x81: "NEWOBJ",
    0x92: "NEWOBJ_EX",
    0x50: "PERSID",
    0x51: "BINPERSID",
    0x82: "EXT1",
    0x83: "EXT2",
    0x84: "EXT4",
    0x8F: "EMPTY_SET",
    0x90: "ADDITEMS",
    0x91: "FROZENSET",
    0x96: "BYTEARRAY8",
    0x97: "NEXT_BUFFER",
    0x98: "READONLY_BUFFER",
}
