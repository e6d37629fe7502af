from __future__ import annotations

import copyreg
import gzip
import pickle
import re
import time
from collections.abc import Iterator
from datetime import datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_pickles import FIRING, HOSTILE, apply, binary, call, named, text, under

from skygen.data.metas.meta import Meta, MetaError, read_meta
from skygen.data.metas.plain_pickles import read_plain
from skygen.seeding import Seeds

PLAIN = {
    "box": (7.1, 46.2, 7.2, 46.3),
    "time": (2019, 6, 12, 18, 44),
    "center_tags": {"building": "yes", "name": "Grünes Haus"},
    "surrounding_tags": [{"highway": "track"}, {"natural": "water", "water": "lake"}],
}
EXPECTED = Meta(
    box=(7.1, 46.2, 7.2, 46.3),
    time=datetime(2019, 6, 12, 18, 44),
    center_tags={"building": "yes", "name": "Grünes Haus"},
    surrounding_tags=({"highway": "track"}, {"natural": "water", "water": "lake"}),
)
BUFFER_SIZE = 2**62


@pytest.mark.parametrize("protocol", range(6))
def test_a_meta_reads_in_every_protocol(protocol: int) -> None:
    assert read_meta(pickle.dumps(PLAIN, protocol)) == EXPECTED


@pytest.mark.parametrize("protocol", range(6))
def test_every_plain_value_reads_as_pickle_reads_it(protocol: int) -> None:
    numbers = [0, 1, -1, 255, 256, 65_535, 65_536, -(2**31), 2**31, -(2**63), 2**64 - 1, 0.1, -0.0, 1e308, float("inf"), True]
    shared = {"a": "b"}
    value = {
        "numbers": numbers,
        "texts": ["", "a\\b\n'\"\tc", "ü", "\u2028", "🛰", "x" * 300, "y" * 70_000, "\\u0041"],
        "bytes": [b"1234567890", b"\xff" * 16],
        "tuples": [(), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4)],
        "many": [str(number) for number in range(2500)],  # numbers above 255 in the memo, and more than one batch
        "keys": {1: 2, None: 3, 2.5: 4, b"k": 5, False: 6},
        "nothing": [None, False, [], {}],
        "shared": [shared, shared],
    }
    read = read_plain(pickle.dumps(value, protocol))
    assert read == value
    assert list(map(type, read["numbers"])) == list(map(type, numbers))
    assert read["shared"][0] is read["shared"][1]


@pytest.mark.parametrize("protocol", range(6))
def test_numpy_numbers_and_datetimes_read_in_every_protocol(protocol: int) -> None:
    meta = PLAIN | {
        "box": (np.float64(7.5), np.float32(46.25), np.int64(8), np.float16(46.5)),
        "time": datetime(2019, 6, 12, 18, 44, 31, 999, fold=1),
        "center_tags": {"levels": np.uint8(3), "roof": np.bool_(True), "height": np.dtype(">f4").type(2.5)},
    }
    read = read_meta(pickle.dumps(meta, protocol))
    assert (read.box, read.time) == ((7.5, 46.25, 8.0, 46.5), datetime(2019, 6, 12, 18, 44))
    assert read.center_tags == {"levels": "3", "roof": "True", "height": "2.5"}
    assert read.problems == ()


@pytest.mark.parametrize("kind", ["b1", "i1", "i2", "i4", "i8", "u1", "u2", "u4", "u8", "f2", "f4", "f8"])
@pytest.mark.parametrize("order", "<>")
def test_each_numpy_number_type_reads_in_both_byte_orders(kind: str, order: str) -> None:
    dtype = np.dtype(order + kind)
    raw = np.array([1], dtype).tobytes()
    written = pickle.dumps(dtype, 2)[2:-1]  # without the protocol before and the stop behind
    assert read_plain(call("numpy.core.multiarray", "scalar", written, binary(raw)) + b".") == 1


def test_what_python_2_wrote_reads() -> None:
    text = (
        b"(dp0\nS'box'\np1\n(F7.1\nF46.2\nF7.2\nF46.3\ntp2\nsS'time'\np3\n(I2019\nI6\nL12L\nI18\nI44\ntp4\n"
        b"sS'center_tags'\np5\n(dp6\nS'building'\np7\nS'yes'\np8\nsS'name'\np9\nS'Gr\\xc3\\xbcnes Haus'\np10\nss"
        b"S'surrounding_tags'\np11\n(lp12\n(dp13\nVhighway\np14\nS\"track\"\np15\nsa"
        b"(dp16\nS'natural'\np17\nS'water'\np18\nsg18\nS'lake'\np19\nsas."
    )
    assert read_meta(text) == EXPECTED
    binary_time = b"\x80\x02}U\x04timecdatetime\ndatetime\nU\n\x07\xe3\x06\x0c\x12\x2c\x00\x00\x00\x00\x85Rs."
    assert read_meta(binary_time).time == datetime(2019, 6, 12, 18, 44)


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"box": [7, 46, 8, 47]}, Meta(box=(7.0, 46.0, 8.0, 47.0))),
        ({"bbox": (7.0, 46.0, 8.0, 47.0), "box": None}, Meta(box=(7.0, 46.0, 8.0, 47.0))),
        ({"box": (-180, -90, 180, 90)}, Meta(box=(-180.0, -90.0, 180.0, 90.0))),
        ({"time": [2019, 2, 28, 23, 59, 61, "Z"]}, Meta(time=datetime(2019, 2, 28, 23, 59))),
        ({"time": (2019.0, 2.0, 28.0, 23.0, 59.0)}, Meta(time=datetime(2019, 2, 28, 23, 59))),
        ({"center_tags": {"levels": 3, "height": 2.5, "oneway": True}},
         Meta(center_tags={"levels": "3", "height": "2.5", "oneway": "True"})),
        ({"surrounding_tags": ({"a": "b"}, {})}, Meta(surrounding_tags=({"a": "b"}, {}))),
        ({"box": None, "time": None, "center_tags": None, "surrounding_tags": None}, Meta()),
        ({"title": ["unknown"], 3: [[[]]]}, Meta()),
        ({}, Meta()),
    ],
)  # fmt: skip
def test_what_is_missing_or_written_otherwise_is_no_problem(change: dict[Any, Any], expected: Meta) -> None:
    assert read_meta(pickle.dumps(change)) == expected


BOX = " is not west < east within ±180 and south < north within ±90 degrees"
TIME = " is not year, month, day, hour and minute of a date"


@pytest.mark.parametrize(
    ("key", "value", "problem"),
    [
        ("box", (8, 46, 7, 47), "the box (8, 46, 7, 47)" + BOX),
        ("box", (7, 47, 8, 46), "the box (7, 47, 8, 46)" + BOX),
        ("box", (7, 46, 7, 47), "the box (7, 46, 7, 47)" + BOX),
        ("box", (7, 46, 180.5, 47), "the box (7, 46, 180.5, 47)" + BOX),
        ("box", (7, -91, 8, 47), "the box (7, -91, 8, 47)" + BOX),
        ("box", (7, 46, 8), "the box (7, 46, 8)" + BOX),
        ("box", (7, 46, float("inf"), 47), "the box (7, 46, inf, 47)" + BOX),
        ("box", (7, 46, float("nan"), 47), "the box (7, 46, nan, 47)" + BOX),
        ("box", (7, 46, "8", 47), "the box (a tuple)" + BOX),
        ("box", (False, False, True, True), "the box (a tuple)" + BOX),
        ("box", {"west": 7}, "the box (a dict)" + BOX),
        ("box", "7,46,8,47", "the box (a str)" + BOX),
        ("time", (2019, 13, 1, 0, 0), "the time (2019, 13, 1, 0, 0)" + TIME),
        ("time", (2019, 2, 29, 0, 0), "the time (2019, 2, 29, 0, 0)" + TIME),
        ("time", (0, 1, 1, 0, 0), "the time (0, 1, 1, 0, 0)" + TIME),
        ("time", (2**64 - 1, 1, 1, 0, 0), "the time (18446744073709551615, 1, 1, 0, 0)" + TIME),
        ("time", (2019, 1, 1.5, 0, 0), "the time (2019, 1, 1.5, 0, 0)" + TIME),
        ("time", (2019, 1, 1), "the time (2019, 1, 1)" + TIME),
        ("time", "2019-06-12T18:44", "the time (a str)" + TIME),
        ("center_tags", ["a"], "center_tags: 1 left out, the first being a list instead of a dict"),
        ("surrounding_tags", {"a": "b"}, "surrounding_tags is a dict instead of a list"),
        ("surrounding_tags", "lake", "surrounding_tags is a str instead of a list"),
    ],
)  # fmt: skip
def test_a_wrong_value_is_named_and_costs_nothing_else(key: str, value: object, problem: str) -> None:
    read = read_meta(pickle.dumps(PLAIN | {key: value}))
    lost: Any = {"box": None, "time": None, "center_tags": {}, "surrounding_tags": ()}[key]
    fields = ("box", "time", "center_tags", "surrounding_tags")
    assert {name: getattr(read, name) for name in fields} == {name: getattr(EXPECTED, name) for name in fields} | {key: lost}
    assert read.problems == (problem,)


def test_a_wrong_tag_costs_itself_alone() -> None:
    itself: list[Any] = []
    itself.append(itself)
    nested: Any = "deep"
    for _ in range(50):
        nested = [nested]
    meta = PLAIN | {
        "center_tags": {"a": "b", "n" * 90: ["c"], 3: "d", "none": None, "f": b"\xff"},
        "surrounding_tags": [{"a": "b"}, "lake", itself, {"xxxxx": nested}, {1: "one"}],
    }
    read = read_meta(pickle.dumps(meta))
    assert read.center_tags == {"a": "b"}
    assert read.surrounding_tags == ({"a": "b"}, {}, {})
    assert read.problems == (
        f"center_tags: 4 left out, the first being a list under '{'n' * 40}'",
        "surrounding_tags: 4 left out, the first being a str instead of a dict",
    )
    assert (read.box, read.time) == (EXPECTED.box, EXPECTED.time)
    broken = pickle.dumps(PLAIN, 4).replace("Grünes".encode(), b"Gr\xff\xffnes")
    assert read_meta(broken).center_tags == {"building": "yes"}
    assert read_meta(broken).problems == ("center_tags: 1 left out, the first being a bytes under 'name'",)
    surrogate = read_meta(b"(dVcenter_tags\n(dVa\nV\\udc00\nsVb\nVc\nss.")
    assert (surrogate.center_tags, len(surrogate.problems)) == ({"b": "c"}, 1)


OPERATION = "the meta is not plain data: it uses the pickle operation "


@pytest.mark.parametrize("kind", HOSTILE)
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    for data in (under("box", HOSTILE[kind].value(str(canary))), HOSTILE[kind].value(str(canary)) + b"."):
        with pytest.raises(MetaError) as error:
            read_meta(data)
        names = HOSTILE[kind].names
        reason = f"it names {names}" if names else "it uses the pickle operation PERSID"
        assert str(error.value) == f"the meta is not plain data: {reason}"
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize("kind", FIRING)
def test_the_same_pickle_does_run_where_pickle_reads_it(kind: str, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    pickle.loads(under("box", HOSTILE[kind].value(str(canary))))  # noqa: TID251  # shows that the canary can die
    assert canary.is_dir()


def test_there_are_enough_hostile_pickles() -> None:
    assert (len(HOSTILE), len(FIRING), len(REFUSED)) == (38, 19, 72)


@pytest.fixture
def extension() -> Iterator[int]:
    """An extension code for ``os.mkdir`` that was used before, and so gets past every ``find_class``."""
    copyreg.add_extension("os", "mkdir", 241)
    pickle.loads(b"\x80\x02\x82\xf1.")  # noqa: TID251  # fills the cache
    yield 241
    copyreg.remove_extension("os", "mkdir", 241)


def test_a_registered_extension_does_not_run(extension: int, tmp_path: Path) -> None:
    canary = tmp_path / "ran"
    for code, name in ((b"\x82\xf1", "EXT1"), (b"\x83\xf1\x00", "EXT2"), (b"\x84\xf1\x00\x00\x00", "EXT4")):
        data = under("box", apply(code, text(str(canary))))
        with pytest.raises(MetaError, match=f"^{OPERATION}{name}$"):
            read_meta(data)
        assert not canary.exists()
        pickle.loads(data)  # noqa: TID251  # shows that it would
        canary.rmdir()


EARLY = "the meta is damaged: it ends too early, or takes more values than it has"
CALL = "the meta is not plain data: it holds a call that makes no number and no date"
STATE = "the meta is not plain data: it sets the state of an object"
LARGE = "the meta holds an integer of more than 64 bits"
OPERATIONS = "the meta takes more than 100,000 operations to read"
MISS = "the meta is damaged: it refers to a value that it has not stored"
COUNT = "the meta is damaged: it ends with more or less than one value"
DTYPE = call("numpy", "dtype", text("f8"), b"\x89\x88")
GOOD = pickle.dumps(PLAIN, 4)
REFUSED = {
    "persistent": (under("box", b"Pevil\n"), OPERATION + "PERSID"),
    "binary persistent": (under("box", text("evil") + b"Q"), OPERATION + "BINPERSID"),
    "object": (under("box", b"(" + named("numpy", "dtype") + text("f8") + b"o"), OPERATION + "OBJ"),
    "made at once": (under("box", b"(" + text("f8") + b"inumpy\ndtype\n"), "the meta is not plain data: it names numpy.dtype"),
    "new": (under("box", named("numpy", "dtype") + text("f8") + b"\x85\x81"), OPERATION + "NEWOBJ"),
    "new with names": (under("box", named("numpy", "dtype") + text("f8") + b"\x85}\x92"), OPERATION + "NEWOBJ_EX"),
    "set": (under("box", b"\x8f"), OPERATION + "EMPTY_SET"),
    "added": (under("box", b"](\x90"), OPERATION + "ADDITEMS"),
    "frozen set": (under("box", b"(\x91"), OPERATION + "FROZENSET"),
    "array": (under("box", b"\x96" + b"\xff" * 8), OPERATION + "BYTEARRAY8"),
    "buffer": (under("box", b"\x97"), OPERATION + "NEXT_BUFFER"),
    "read-only buffer": (under("box", b"\x97\x98"), OPERATION + "NEXT_BUFFER"),
    "state of a dict": (under("box", b"}}" + text("a") + b"K\x01sb"), STATE),
    "state of a name": (under("box", named("numpy", "dtype") + b"N}" + text("__class__") + b"K\x01s\x86b"), STATE),
    "state of a number": (under("box", call("numpy._core.multiarray", "scalar", DTYPE, binary(bytes(8))) + b"}b"), STATE),
    "state with fields": (under("box", DTYPE + b"(K\x03" + text("|") + b"N" + text("a") + b"}tb"), STATE),
    "state of another order": (under("box", DTYPE + b"(K\x03" + text("!") + b"NNNtb"), STATE),
    "object array": (under("box", call("numpy", "dtype", text("O8"), b"\x89\x88")),
                     "the meta is not plain data: it holds a numpy value of type O8"),
    "void": (under("box", call("numpy", "dtype", text("V8\n" + "x" * 99), b"\x89\x88")),
             "the meta is not plain data: it holds a numpy value of type V8\\n" + "x" * 57),
    "subarray": (under("box", call("numpy", "dtype", text("f8") + b"K\x63\x86")), CALL),
    "object scalar": (under("box", call("numpy._core.multiarray", "scalar", named("builtins", "object"))),
                      "the meta is not plain data: it names builtins.object"),
    "short scalar": (under("box", call("numpy._core.multiarray", "scalar", DTYPE, binary(bytes(7)))), EARLY),
    "scalar of a scalar": (under("box", call("numpy._core.multiarray", "scalar", b"]", binary(bytes(8)))), CALL),
    "long scalar": (under("box", call("numpy._core.multiarray", "scalar", DTYPE, binary(bytes(10**5)))), CALL),
    "zone": (under("time", call("datetime", "datetime", binary(bytes(10)), b"N")), CALL),
    "short date": (under("time", call("datetime", "datetime", binary(bytes(9)))), EARLY),
    "codec": (under("box", call("_codecs", "encode", text("a"), text("zip"))), CALL),
    "shared bytes": (b"\x80\x04](" + text("x" * 900_000) + text("latin1") + b"t\x940" + named("_codecs", "encode")
                     + b"\x940(" + b"h\x01h\x00R" * 15_000 + b"e.", CALL),
    "call of a dict": (under("box", b"})R"), CALL),
    "call without a tuple": (under("box", named("numpy", "dtype") + text("f8") + b"R"), CALL),
    "large": (under("name", text("x" * 2_000_000)), "the meta has 2,000,019 bytes, more than 1,000,000"),
    "nested lists": (b"]" * 200_000 + b"a" * 199_999 + b".", OPERATIONS),
    "nested tuples": (b")" + b"\x85" * 200_000 + b".", OPERATIONS),
    "nested marks": (b"(" * 200_000 + b"t" * 200_000 + b".", OPERATIONS),
    "laughs": (b"\x80\x04}" + text("surrounding_tags") + b"](}\x94(" + b"".join(text(f"{key}") + b"N" for key in range(3000))
               + b"u" + b"h\x00" * 50_000 + b"es.", "the meta has more than 1,000,000 letters in its surrounding_tags"),
    "long laughs": (under("surrounding_tags", b"](}\x94" + text("a") + text("x" * 900_000) + b"s" + b"h\x00" * 3 + b"e"),
                    "the meta has more than 1,000,000 letters in its surrounding_tags"),
    "laughing list": (b"]\x940" + b"".join(b"](" + b"h%c" % level * 9 + b"e\x940" for level in range(40)) + b"h\x28.",
                      "the meta is a list instead of a dict"),
    "laughing key": (b"}K\x01\x85" + b"2\x86" * 60 + b"Ns.", "the meta is not plain data: a key is a tuple"),
    "list as a key": (b"}]Ns.", "the meta is not plain data: a key is a list"),
    "name as a key": (b"}" + named("numpy", "dtype") + b"Ns.", "the meta is not plain data: a key is a maker"),
    "digits": (under("box", b"I" + b"9" * 5000 + b"\n"), LARGE),
    "long digits": (under("box", b"L" + b"9" * 25 + b"L\n"), LARGE),
    "long": (under("box", b"\x8a\xff" + b"\x7f" * 255), LARGE),
    "longer": (under("box", b"\x8b\x00\x01\x00\x00" + b"\x7f" * 256), LARGE),
    "longer than the file": (under("box", b"\x8b\xff\xff\xff\x7f\x01"), EARLY),
    "text longer than the file": (under("box", b"\x8d" + BUFFER_SIZE.to_bytes(8, "little")), EARLY),
    "bytes longer than the file": (under("box", b"\x8e" + b"\xff" * 8), EARLY),
    "frame longer than the file": (b"\x80\x04\x95" + b"\xff" * 8 + GOOD[11:], EARLY),
    "itself": (b"]\x94h\x00a.", "the meta is a list instead of a dict"),
    "list": (pickle.dumps([PLAIN]), "the meta is a list instead of a dict"),
    "nothing": (pickle.dumps(None), "the meta is a None instead of a dict"),
    "truncated": (GOOD[: len(GOOD) // 2], EARLY),
    "no end": (GOOD[:-1].replace(GOOD[:11], b"\x80\x04"), EARLY),
    "empty": (b"", EARLY),
    "page": (b"<!DOCTYPE html><html><body>404</body></html>", "the meta is not a pickle: it begins with the byte 0x3c"),
    "gzip": (gzip.compress(GOOD), "the meta is not a pickle: it begins with the byte 0x1f"),
    "more": (GOOD + b"rm", "the meta is damaged: 2 bytes follow its end"),
    "protocol": (b"\x80\x09}.", "the meta is a pickle of protocol 9, and 0 to 5 are known"),
    "operation": (b"}\xfe.", "the meta is damaged: its byte 1, 0xfe, is no pickle operation"),
    "underflow": (b"}s.", EARLY),
    "memo": (b"h\x07.", MISS),
    "written memo": (b"g7\n.", MISS),
    "two values": (b"}}.", COUNT),
    "open mark": (b"(}.", COUNT),
    "no mark": (b"}u.", EARLY),
    "half an item": (b"}(Nu.", "the meta is damaged: it sets a key of what is no dictionary, or a key without a value"),
    "items of a list": (b"](NNu.", "the meta is damaged: it sets a key of what is no dictionary, or a key without a value"),
    "append to a dict": (b"}Na.", "the meta is damaged: it appends to what is no list"),
    "no number": (b"Isix\n.", "the meta is damaged: it holds a value that cannot be read (ValueError)"),
    "no quotes": (b"Sabc\n.", "the meta is damaged: it holds a text without its quotes or with unknown escapes"),
    "unknown escape": (b"S'\\d'\n.", "the meta is damaged: it holds a text without its quotes or with unknown escapes"),
    "cut escape": (b"V\\u12\n.", "the meta is damaged: it holds a value that cannot be read (UnicodeDecodeError)"),
}  # fmt: skip


@pytest.mark.parametrize("kind", REFUSED)
def test_what_is_not_plain_or_not_whole_is_refused_with_its_reason(kind: str) -> None:
    data, message = REFUSED[kind]
    started = time.perf_counter()
    with pytest.raises(MetaError, match=f"^{re.escape(message)}$"):
        read_meta(data)
    assert time.perf_counter() - started < 30  # 0.3 s at most without run-time types; a bomb would take hours


def test_numbers_in_the_memo_cost_no_memory() -> None:
    """Nine bytes take 64 GB where the memo is an array, as it is in Python's own unpickler."""
    assert read_meta(b"\x80\x02}r\xff\xff\xff\xffj\xff\xff\xff\xff0.") == Meta()
    assert read_meta(b"}p18446744073709551615\n0g18446744073709551615\n.") == Meta()


def test_a_thousand_mutants_read_or_are_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    dated = PLAIN | {"time": datetime(2020, 1, 2, 3, 4), "box": tuple(map(np.float64, (1, 2, 3, 4)))}
    parents = [pickle.dumps(meta, protocol) for meta in (PLAIN, dated) for protocol in range(6)]
    evil = [HOSTILE[kind].value("ran") for kind in FIRING]
    read = refused = 0
    for index in range(1000):
        rng = Seeds(11).numpy("mutant", index)
        data = bytearray(parents[index % len(parents)])
        for _ in range(int(rng.integers(1, 4))):
            at = int(rng.integers(len(data) + 1))
            other = parents[int(rng.integers(len(parents)))]
            match int(rng.integers(6)):
                case 0 | 1 if at < len(data):
                    data[at] ^= 1 << int(rng.integers(8))
                case 2:
                    data[at:at] = rng.bytes(int(rng.integers(1, 9)))
                case 3:
                    data[at : at + int(rng.integers(1, 9))] = b""
                case 4:
                    data[at:] = other[int(rng.integers(len(other))) :]
                case 5:
                    data[at:at] = evil[int(rng.integers(len(evil)))]
                case _:
                    del data[at:]
        try:
            assert isinstance(read_meta(bytes(data)), Meta)
            read += 1
        except MetaError as error:
            assert str(error).startswith("the meta ")
            assert len(str(error)) < 200
            refused += 1
    assert read + refused == 1000
    assert read > 50
    assert refused > 500
    assert list(tmp_path.iterdir()) == []
