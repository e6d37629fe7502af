from __future__ import annotations

import copy
import datetime
import math
import operator
import re
from collections.abc import Callable
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skygen.data import conditions
from skygen.data.conditions import COLUMNS, KINDS
from skygen.data.expressions import DEEPEST, LONGEST, parse_expression
from skygen.data.table import SCHEMA
from skygen.errors import ConfigError
from skygen.seeding import Seeds

Row = dict[str, Any]
Truth = bool | None
Test = Callable[[Row], Truth]
ROWS = 400
SIGNS = {
    "==": operator.eq, "!=": operator.ne, "<": operator.lt, "<=": operator.le, ">": operator.gt, ">=": operator.ge,
}  # fmt: skip
NAMES = {
    "source": ["US", "CH", "S2"],
    "class_name": ["tennis court", "Golf course", "river", "Äcker am Fluß"],
    "split": ["train", "val", "test"],
    "object_type": ["area", "way", "node"],
    "country": ["CH", "US", "IN", "NA"],
    "continent": ["Africa", "South America", "Europe"],
}
TAGS = ["building", "sport", "landuse", "addr:street"]
TAG_VALUES = ["yes", "tennis", "grass", "a=b"]
WORDS = ["river", "Rivers", "a", "tennis", "court,", "Court", "upriver", "im", "Äcker", "c++", "river_bed", "(lake)"]
CLASS_WORDS = ["TENNIS court", "river", "course", "fluß", "acker"]


def fabricate_rows(count: int) -> pa.Table:
    rng = Seeds(11).numpy("rows")

    def maybe(value: Any, share: float = 0.15) -> Any:
        return None if rng.random() < share else value

    def tags() -> list[tuple[str, str]]:
        return [(key, str(rng.choice(TAG_VALUES))) for key in rng.choice(TAGS, rng.integers(0, 4), replace=False)]

    def caption() -> str:
        gap = "  " if rng.random() < 0.1 else " "
        return gap.join(rng.choice(WORDS, rng.integers(1, 7)))

    rows = []
    for number in range(count):
        west, south = rng.uniform(-180, 180), rng.uniform(-89, 88)
        east = west + rng.choice([0.5, 40.0])
        row: Row = {"key": f"images{number % 3}/a{number}_CH_19.jpg"}
        row |= {name: maybe(str(rng.choice(words))) for name, words in NAMES.items()}
        row |= {name: maybe(int(rng.integers(low, high))) for name, low, high in [
            ("year", 2015, 2023), ("part", 2, 8), ("osm_id", 0, 50), ("width", 100, 140), ("height", 100, 140),
        ]}  # fmt: skip
        row |= {
            "gsd": maybe(rng.choice([0.1, 0.3, 0.5, 1.0, 10.0, math.nan])),
            "similarity": maybe(rng.choice([0.1, 0.2, 0.25, 0.3])),
            "west": maybe(west, 0.05),
            "south": maybe(south, 0.05),
            "east": maybe(east if east <= 180 else east - 360, 0.05),
            "north": maybe(south + 1, 0.05),
            "time": maybe(datetime.datetime(2019, 5, 30) + datetime.timedelta(minutes=int(rng.integers(0, 400_000)))),
            "captions": maybe([maybe(caption(), 0.05) for _ in range(rng.integers(0, 4))]),
            "center_tags": maybe(tags()),
            "surrounding_tags": maybe([maybe(tags()) for _ in range(rng.integers(0, 4))]),
        }
        rows.append(row)
    return pa.Table.from_pylist(rows, SCHEMA)


TABLE = fabricate_rows(ROWS)
ROW_LIST: list[Row] = TABLE.to_pylist()


# The same language a second time, one row and one value at a time.


def value_of(row: Row, name: str) -> Any:
    """Return a field's value as a plain Python one; None if it is not known."""
    captions = row["captions"]
    first = captions[0] if captions else None
    match name:
        case "longitude":
            if row["west"] is None or row["east"] is None:
                return None
            middle = (row["west"] + row["east"] + 360 * (row["west"] > row["east"])) / 2
            return middle - 360 if middle > 180 else middle
        case "latitude":
            return None if row["south"] is None or row["north"] is None else (row["south"] + row["north"]) / 2
        case "month" | "hour":
            return None if row["time"] is None else getattr(row["time"], name)
        case "captions":
            return None if captions is None else len(captions)
        case "words":
            return None if first is None else len(first.split())
        case "characters":
            return None if first is None else len(first)
    value = row[COLUMNS.get(name, (name,))[0]]
    return None if isinstance(value, float) and math.isnan(value) else value


def compare(name: str, sign: str, literal: Any) -> Test:
    def test(row: Row) -> Truth:
        value = value_of(row, name)
        if value is None:
            return None
        if KINDS[name] == "name":
            return bool(SIGNS[sign](value.lower(), literal.lower()))
        return bool(SIGNS[sign](value, np.float32(literal) if name in ("gsd", "similarity") else literal))

    return test


def has_tag(name: str, tag: str) -> Test:
    key, sign, value = tag.partition("=")

    def test(row: Row) -> Truth:
        objects = [value_of(row, name)] if name == "tag" else value_of(row, name)
        if objects is None or (name == "tag" and objects == [None]):
            return None
        return any(key == k and (not sign or value == v) for tags in objects for k, v in tags or [])

    return test


def holds(name: str, text: str) -> Test:
    words = r"\s+".join(map(re.escape, text.split()))

    def test(row: Row) -> Truth:
        value = value_of(row, name)
        if value is None:
            return None
        if name == "key":
            return text in value
        texts = value if name == "caption" else [value]
        return any(re.search(rf"(?<!\w){words}(?!\w)", each, re.IGNORECASE) is not None for each in texts if each is not None)

    return test


def in_period(sign: str, begins: datetime.datetime, ends: datetime.datetime) -> Test:
    def test(row: Row) -> Truth:
        time = row["time"]
        if time is None:
            return None
        return bool({
            "==": begins <= time < ends, "!=": not begins <= time < ends, "<": time < begins, ">=": time >= begins,
            "<=": time < ends, ">": time >= ends,
        }[sign])  # fmt: skip

    return test


def known(name: str) -> Test:
    return lambda row: value_of(row, name) is not None


def opposite(test: Test) -> Test:
    def inverted(row: Row) -> Truth:
        truth = test(row)
        return None if truth is None else not truth

    return inverted


def every(*tests: Test) -> Test:
    def test(row: Row) -> Truth:
        truths = [test(row) for test in tests]
        return False if False in truths else None if None in truths else True

    return test


def some(*tests: Test) -> Test:
    return opposite(every(*map(opposite, tests)))


def within(west: float, south: float, east: float, north: float) -> Test:
    sides = (compare("longitude", ">=", west), compare("longitude", "<=", east))
    inside = every(*sides) if west <= east else some(*sides)
    return every(inside, compare("latitude", ">=", south), compare("latitude", "<=", north))


def is_one_of(name: str, *values: Any) -> Test:
    return some(*(compare(name, "==", value) for value in values))


def day(*date: int) -> datetime.datetime:
    return datetime.datetime(*date)  # type: ignore[arg-type]


CASES: dict[str, Test] = {
    "source in (US, CH) and year >= 2018": every(is_one_of("source", "US", "CH"), compare("year", ">=", 2018)),
    "gsd <= 1": compare("gsd", "<=", 1),
    "gsd == 0.1": compare("gsd", "==", 0.1),
    "gsd <= 0.1": compare("gsd", "<=", 0.1),
    "gsd in (0.1, 10, 1e300)": is_one_of("gsd", 0.1, 10),
    "gsd != .5": compare("gsd", "!=", 0.5),
    "0.1 < gsd <= 1": every(compare("gsd", ">", 0.1), compare("gsd", "<=", 1)),
    "1 > gsd": compare("gsd", "<", 1),
    "part in (2, 3)": is_one_of("part", 2, 3),
    "part in (2, 3.5, 1000, 1e30)": compare("part", "==", 2),
    "part < 1000 and part > -1e30 and part >= 3.5": compare("part", ">=", 3.5),
    "year == 2018.0": compare("year", "==", 2018),
    "split == train": compare("split", "==", "train"),
    "split != TRAIN": compare("split", "!=", "train"),
    'class_name == "tennis court"': compare("class_name", "==", "tennis court"),
    "class_name == Tennis_Court": compare("class_name", "==", "tennis court"),
    'class_name not in ("GOLF COURSE", river)': opposite(is_one_of("class_name", "golf course", "river")),
    "class_name in ('ÄCKER AM fluß', river)": is_one_of("class_name", "äcker am fluß", "river"),
    '"court" in class_name': holds("class_name", "court"),
    '"äcker AM" in class_name': holds("class_name", "äcker am"),
    "object_type == area": compare("object_type", "==", "area"),
    "osm_id not in (1, 2, 3, 9223372036854775807)": opposite(is_one_of("osm_id", 1, 2, 3)),
    "osm_id < 24.5": compare("osm_id", "<", 24.5),
    "similarity >= 0.25": compare("similarity", ">=", 0.25),
    "similarity > 0.3 or similarity <= 0.2": compare("similarity", "<=", 0.2),
    "width >= 128 and height >= 128": every(compare("width", ">=", 128), compare("height", ">=", 128)),
    "country == ch": compare("country", "==", "CH"),
    "country in (IN, NA)": is_one_of("country", "IN", "NA"),
    "country != CH or not known(country)": some(compare("country", "!=", "CH"), opposite(known("country"))),
    'continent in (Africa, "South America")': is_one_of("continent", "Africa", "South America"),
    "continent == south_america": compare("continent", "==", "South America"),
    "tag == building": has_tag("tag", "building"),
    'tag == "sport=tennis"': has_tag("tag", "sport=tennis"),
    'tag in ("sport=tennis", landuse)': some(has_tag("tag", "sport=tennis"), has_tag("tag", "landuse")),
    'tag == "sport=a=b"': has_tag("tag", "sport=a=b"),
    "tag != building": opposite(has_tag("tag", "building")),
    'tag not in ("addr:street", sport)': opposite(some(has_tag("tag", "addr:street"), has_tag("tag", "sport"))),
    "surrounding_tag == landuse": has_tag("surrounding_tag", "landuse"),
    'surrounding_tag in (building, "sport=grass")': some(
        has_tag("surrounding_tag", "building"), has_tag("surrounding_tag", "sport=grass")
    ),
    "surrounding_tag != landuse": opposite(has_tag("surrounding_tag", "landuse")),
    "box(-20, -40.5, 60, 40)": within(-20, -40.5, 60, 40),
    "box(150, -90, -150, 90)": within(150, -90, -150, 90),
    "not box(150, -90, -150, 90)": opposite(within(150, -90, -150, 90)),
    "longitude > 0": compare("longitude", ">", 0),
    "-30 <= latitude < 30": every(compare("latitude", ">=", -30), compare("latitude", "<", 30)),
    "west < 0": compare("west", "<", 0),
    "south >= 0": compare("south", ">=", 0),
    "east > 0": compare("east", ">", 0),
    "north <= 10": compare("north", "<=", 10),
    "words >= 3": compare("words", ">=", 3),
    "characters in (1, 5, 12, 20)": is_one_of("characters", 1, 5, 12, 20),
    "captions >= 2": compare("captions", ">=", 2),
    '"river" in caption': holds("caption", "river"),
    '"RIVER  a" in caption': holds("caption", "river a"),
    '"court" not in caption': opposite(holds("caption", "court")),
    '"äcker" in caption': holds("caption", "äcker"),
    '"c++" in caption': holds("caption", "c++"),
    "'(lake)' in caption": holds("caption", "(lake)"),
    'key >= "images1/" and key < images2': every(compare("key", ">=", "images1/"), compare("key", "<", "images2")),
    'key in ("images0/a0_CH_19.jpg", "images0/A3_CH_19.jpg")': compare("key", "==", "images0/a0_CH_19.jpg"),
    '"images2/" in key': holds("key", "images2/"),
    "time == 2019": in_period("==", day(2019, 1, 1), day(2020, 1, 1)),
    "2019-06 < time <= 2019-08": every(compare("time", ">=", day(2019, 7, 1)), compare("time", "<", day(2019, 9, 1))),
    'time >= "2019-06-01"': compare("time", ">=", day(2019, 6, 1)),
    "time < 2019-09-30T12:30": compare("time", "<", day(2019, 9, 30, 12, 30)),
    'time > "2019-09-30 12:30"': compare("time", ">=", day(2019, 9, 30, 12, 31)),
    "time >= 2019-09-30T12:30:15Z": compare("time", ">=", day(2019, 9, 30, 12, 30, 15)),
    "time not in (2019-06, 2019-08, 2020)": opposite(
        some(
            in_period("==", day(2019, 6, 1), day(2019, 7, 1)),
            in_period("==", day(2019, 8, 1), day(2019, 9, 1)),
            in_period("==", day(2020, 1, 1), day(2021, 1, 1)),
        )
    ),
    "month in (6,7,8)": is_one_of("month", 6, 7, 8),
    "6 <= hour < 12": every(compare("hour", ">=", 6), compare("hour", "<", 12)),
    "not year < 2018 and year != 2019 or part == 7": some(
        every(opposite(compare("year", "<", 2018)), compare("year", "!=", 2019)), compare("part", "==", 7)
    ),
    "year<2018 and(part==7 or not(not(part==6)))": every(compare("year", "<", 2018), is_one_of("part", 6, 7)),
}
CASES |= {f"known({name})": known(name) for name in KINDS if name not in ("caption", "key")}
CASES |= {f"not known({name})": opposite(known(name)) for name in ("caption", "gsd", "tag", "words", "month")}
CASES |= {"known(caption)": known("caption")}


def expected(test: Test, rows: list[Row] = ROW_LIST) -> list[bool]:
    return [test(row) is True for row in rows]


def rows_without(names: frozenset[str]) -> list[Row]:
    return [row | dict.fromkeys(names) for row in ROW_LIST]


@pytest.mark.parametrize("text", CASES)
def test_an_expression_chooses_the_rows_that_a_loop_over_them_chooses(text: str) -> None:
    wanted = expected(CASES[text])
    mask = parse_expression(text).mask(TABLE)
    assert mask.dtype == np.bool_
    assert mask.tolist() == wanted
    assert 0 < sum(wanted) < ROWS  # else the case says nothing


def test_every_field_is_in_a_case_besides_known() -> None:
    compared = " ".join(text for text in CASES if "known" not in text)
    assert len(KINDS) == 29
    assert [name for name in KINDS if not re.search(rf"\b{name}\b", compared)] == []


def test_the_columns_that_an_expression_needs() -> None:
    wanted = {
        "year >= 2018 and (source == CH or year == 3)": {"year", "source"},
        "not box(1, 2, 3, 4)": {"west", "south", "east", "north"},
        "longitude > 0 or known(latitude)": {"west", "south", "east", "north"},
        'tag == a and surrounding_tag == b and "c" in caption': {"center_tags", "surrounding_tags", "captions"},
        "words > 1 and characters > 1 and captions > 1": {"captions"},
        "month == 1 and hour == 1 and time == 2019": {"time"},
        '"a" in key': {"key"},
    }
    assert {text: set(parse_expression(text).columns) for text in wanted} == wanted
    named = set().union(*(parse_expression(f"known({name})").columns for name in KINDS))
    assert named == set(SCHEMA.names) - {"problem"}


@pytest.mark.parametrize("text", CASES)
def test_slices_chunks_blocks_and_batches(text: str, monkeypatch: pytest.MonkeyPatch) -> None:
    expression, wanted = parse_expression(text), expected(CASES[text])
    (batch,) = TABLE.combine_chunks().to_batches()
    assert expression.mask(batch).tolist() == wanted
    assert expression.mask(batch.slice(17, 101)).tolist() == wanted[17:118]
    chunks = pa.Table.from_batches([batch.slice(*part) for part in [(5, 1), (6, 0), (6, 94), (100, 250)]])
    assert chunks.column("year").num_chunks == 4
    assert expression.mask(chunks).tolist() == wanted[5:350]
    assert expression.mask(chunks.slice(3, 200)).tolist() == wanted[8:208]
    assert expression.mask(batch.slice(3, 0)).shape == (0,)
    assert expression.mask(SCHEMA.empty_table()).shape == (0,)
    monkeypatch.setattr(conditions, "_BLOCK", 7)
    assert expression.mask(chunks).tolist() == wanted[5:350]


@pytest.mark.parametrize("text", CASES)
def test_a_column_that_is_not_there_is_null_throughout(text: str) -> None:
    expression = parse_expression(text)
    absent = expression.columns - {"key"}
    if not absent:  # a table without keys is none
        absent = frozenset({"year"})
    wanted = expected(CASES[text], rows_without(absent))
    less = TABLE.drop_columns(sorted(absent))
    assert expression.mask(less).tolist() == wanted
    assert expression.mask(less.combine_chunks().to_batches()[0]).tolist() == wanted
    nulls = pa.Table.from_pylist(rows_without(absent), SCHEMA)
    assert expression.mask(nulls).tolist() == wanted
    if "known" not in text and "key" not in text:
        assert not any(wanted)


def test_what_is_not_known_is_neither_true_nor_false() -> None:
    table = pa.table({"key": ["a", "b", "c"], "year": pa.array([2018, 2019, None], pa.int16()), "country": ["CH", None, None]})
    wanted = {
        "year == 2018": [True, False, False],
        "year != 2018": [False, True, False],
        "not year == 2018": [False, True, False],
        "year == 2018 or year != 2018": [True, True, False],
        "year == 2018 and country == CH": [True, False, False],
        "not (year == 2018 and country == CH)": [False, True, False],  # false and unknown is false
        "year == 2019 or country == CH": [True, True, False],  # true or unknown is true
        "country not in (US)": [True, False, False],
        "country != US or not known(country)": [True, True, True],
        "gsd <= 1 or gsd > 1 or known(gsd)": [False, False, False],
        "not known(gsd)": [True, True, True],
    }
    assert {text: parse_expression(text).mask(table).tolist() for text in wanted} == wanted


def test_a_value_that_is_not_a_number_is_not_known() -> None:
    table = pa.table({"gsd": pa.array([math.nan, 1.0, None, math.inf], pa.float32())})
    for text in ("not gsd <= 5", "gsd != 1", "not gsd in (1)"):
        assert parse_expression(text).mask(table).tolist() == [False, False, False, True]
    assert parse_expression("known(gsd)").mask(table).tolist() == [False, True, False, True]


def test_what_lies_under_a_null_list_does_not_count() -> None:
    """Arrow allows a null list that spans values, and one slice of a list array begins in the middle of them."""
    captions = pa.ListArray.from_arrays(
        pa.array([0, 1, 3, 3, 4], pa.int32()), pa.array(["river", "river a", "river b", "a lake"]),
        mask=pa.array([False, True, False, False]),
    )  # fmt: skip
    table = pa.table({"captions": captions})
    wanted = {
        '"river" in caption': [True, False, False, False],
        '"river" not in caption': [False, False, True, True],
        "words >= 1": [True, False, False, True],
        "captions == 0": [False, False, True, False],
        "known(words)": [True, False, False, True],
    }
    for text, truths in wanted.items():
        assert parse_expression(text).mask(table).tolist() == truths, text
        assert parse_expression(text).mask(table.slice(1, 3)).tolist() == truths[1:], text


def test_a_tag_without_a_value_has_the_key_alone() -> None:
    table = pa.table({"center_tags": pa.array([[("sport", None)], [("sport", "tennis")]], SCHEMA.field("center_tags").type)})
    assert parse_expression("tag == sport").mask(table).tolist() == [True, True]
    assert parse_expression('tag == "sport=tennis"').mask(table).tolist() == [False, True]
    assert parse_expression('tag != "sport=tennis"').mask(table).tolist() == [True, False]


def test_columns_of_kindred_types_are_read_too() -> None:
    table = pa.table(
        {
            "year": pa.array([2018, 2019], pa.int64()),
            "gsd": pa.array([0.1, 2.0], pa.float64()),
            "source": pa.array(["CH", "US"]).dictionary_encode(),
            "key": pa.array(["a", "b"], pa.large_string()),
            "captions": pa.array([["one"], ["one two"]], pa.large_list(pa.large_string())),
            "time": pa.array([day(2019, 6, 1, 12, 30), day(2020, 1, 1)], pa.timestamp("us")),
        }
    )
    for text in ("year == 2018", "gsd == 0.1", "source == ch", "key == a", "words == 1", "time == 2019-06-01T12:30"):
        assert parse_expression(text).mask(table).tolist() == [True, False], text


def test_numbers_as_large_as_the_columns_hold() -> None:
    table = pa.table({"osm_id": pa.array([2**53, 2**53 + 1, 2**63 - 1, -(2**63)], pa.int64())})
    wanted = {
        "osm_id == 9007199254740993": [False, True, False, False],
        "osm_id > 9007199254740992": [False, True, True, False],
        "osm_id in (9007199254740992, 0.5)": [True, False, False, False],
        "osm_id > 0.5": [True, True, True, False],
        "osm_id < 1e30": [True, True, True, True],
        "osm_id == 99999999999999999999": [False, False, False, False],
    }
    assert {text: parse_expression(text).mask(table).tolist() for text in wanted} == wanted


def test_an_expression_keeps_its_text_and_can_be_sent_to_another_process() -> None:
    text = ' source in (US, CH)  and "river" in caption and time < 2020 and not known(gsd) and 2018 <= year'
    expression = parse_expression(text)
    assert expression.text == text
    assert expression == parse_expression(text)
    again = copy.deepcopy(expression)
    assert again.mask(TABLE).tolist() == expression.mask(TABLE).tolist()


def random_atom(rng: np.random.Generator) -> tuple[str, Test]:
    def pick(values: Any) -> Any:
        return values[int(rng.integers(len(values)))]

    match int(rng.integers(7)):
        case 0 | 1:
            name = str(pick([name for name, kind in KINDS.items() if kind == "number"]))
            values = sorted({value_of(row, name) for row in ROW_LIST if value_of(row, name) is not None})
            literal, sign = round(float(pick(values)), 2), str(pick(list(SIGNS)))
            return f"{name}{sign}{literal}", compare(name, sign, literal)
        case 2:
            name = str(pick(list(NAMES)))
            chosen = [str(pick(NAMES[name])) for _ in range(rng.integers(1, 4))]
            listed = ", ".join(f'"{word.swapcase()}"' if word.isascii() else f"'{word}'" for word in chosen)
            return f"{name} not in ({listed})", opposite(is_one_of(name, *chosen))
        case 3:
            name, tag = str(pick(["tag", "surrounding_tag"])), str(pick(TAGS))
            tag += f"={pick(TAG_VALUES)}" if rng.random() < 0.5 else ""
            return f'{name} == "{tag}"', has_tag(name, tag)
        case 4:
            name = str(pick(["caption", "class_name"]))
            text = " ".join(rng.choice(WORDS if name == "caption" else CLASS_WORDS, rng.integers(1, 3)))
            return f'"{text}" in {name}', holds(name, text)
        case 5:
            sign, month = str(pick(list(SIGNS))), int(rng.integers(6, 12))
            return f"time {sign} 2019-{month:02}", in_period(sign, day(2019, month, 1), day(2019, month + 1, 1))
        case _:
            west, east = (int(degrees) for degrees in rng.integers(-180, 181, 2))
            return f"box({west}, -60, {east}, 60.5)", within(west, -60, east, 60.5)


def random_expression(rng: np.random.Generator, depth: int) -> tuple[str, Test]:
    if depth == 0 or rng.random() < 0.2:
        return random_atom(rng)
    if rng.random() < 0.25:
        text, test = random_expression(rng, depth - 1)
        return f"not ({text})", opposite(test)
    texts, tests = zip(*(random_expression(rng, depth - 1) for _ in range(rng.integers(2, 4))), strict=True)
    if rng.random() < 0.5:
        return " and ".join(f"({text})" for text in texts), every(*tests)
    return f"({' or '.join(texts)})", some(*tests)  # `and` and `not` within bind closer, so no parentheses are needed


def test_300_random_expressions_agree_with_a_loop() -> None:
    telling = 0
    for number in range(300):
        text, test = random_expression(Seeds(5).numpy("expression", number), 3)
        wanted = expected(test)
        assert parse_expression(text).mask(TABLE).tolist() == wanted, text
        telling += 0 < sum(wanted) < ROWS
    assert telling > 250


FIELDS = (
    "the fields are caption, captions, characters, class_name, continent, country, east, gsd, height, hour, key, latitude, "
    "longitude, month, north, object_type, osm_id, part, similarity, source, south, split, surrounding_tag, tag, time, west, "
    "width, words, year"
)
ANY_SIGN = "`==`, `!=`, `<`, `<=`, `>`, `>=`, `in` or `not in` is expected"
NO_MEANING = "has no meaning; a value that is more than letters, digits and _ goes in quotes"
ONE_SIGN = '`=` has no meaning; compare with `==`, and put a tag and its value in quotes, such as "sport=tennis"'
WRONG: dict[str, tuple[int, str]] = {
    "": (1, "a condition such as `year >= 2018` is expected, not the end"),
    "year >= 2018 adn gsd < 1": (14, "`and`, `or` or the end is expected, not `adn`"),
    "year >= 2018 and": (17, "a condition such as `year >= 2018` is expected, not the end"),
    "in (2, 3)": (1, "a condition such as `year >= 2018` is expected, not `in`"),
    "contry == CH": (1, f"there is no field `contry` (perhaps `country`); {FIELDS}"),
    "year >= 2018 and problem == x": (18, f"there is no field `problem`; {FIELDS}"),
    "year": (5, f"{ANY_SIGN}, not the end"),
    "country CH": (9, f"{ANY_SIGN}, not `CH`"),
    '"a"': (4, f"{ANY_SIGN}, not the end"),
    "year ==": (8, "a value for `year` is expected, not the end"),
    "year == CH": (9, "`year` is a number and cannot be compared with `CH`"),
    'year in (2018, "2019")': (16, '`year` is a number and cannot be compared with `"2019"`'),
    "year == 2018-06": (9, "`year` is a number and cannot be compared with `2018-06`"),
    "west < east": (8, "`west` is a number and cannot be compared with `east`; two fields cannot be compared"),
    "gsd == nan": (8, "`gsd` is a number and cannot be compared with `nan`"),
    "source == 3": (11, "`source` is a name and cannot be compared with `3`; put it in quotes if it is one"),
    "source < CH": (8, "`source` holds names, which have no order; use `==`, `!=`, `in` or `not in`"),
    "tag >= building": (5, "`tag` holds names, which have no order; use `==`, `!=`, `in` or `not in`"),
    "tag == sport=tennis": (13, ONE_SIGN),
    "source = CH": (8, ONE_SIGN),
    'caption contains "river"': (1, '`caption` is a text to look in; write "river" in caption'),
    '"river" == caption': (12, '`caption` is a text to look in; write "river" in caption'),
    '"river" in source': (12, "a text is looked for in caption, class_name or key, not in `source`"),
    '" " in caption': (1, 'a text in quotes is expected, such as "river", not `" "`'),
    "5 in caption": (1, 'a text in quotes is expected, such as "river", not `5`'),
    'class_name == "tennis': (15, "the quoted text is empty, or its second quote is missing"),
    "country == Switzerland": (12, "`country` takes two letters of ISO 3166-1, such as CH, not `Switzerland`"),
    "continent in (Europa)": (
        15,
        "`continent` is one of Africa, Antarctica, Asia, Europe, North America, Oceania, South America, not `Europa`",
    ),
    "object_type == building": (16, "`object_type` is one of area, way, node, relation, not `building`"),
    "time >= spring": (9, "`time` takes a date such as 2019, 2019-06-01 or 2019-06-01T12:30, not `spring`"),
    "time in (2019, 2019-02-30)": (16, "`time` takes a date such as 2019, 2019-06-01 or 2019-06-01T12:30, not `2019-02-30`"),
    "part in 2": (9, "`(` and values with commas between them is expected, not `2`"),
    "part in ()": (10, "a value for `part` is expected, not `)`"),
    "part in (2 3)": (12, "`,` or `)` is expected, not `3`"),
    "(year == 1": (11, "`)`, `and` or `or` is expected, not the end"),
    "year == 1)": (10, "`and`, `or` or the end is expected, not `)`"),
    "1 <= 2 <= gsd": (6, "a field is expected, not `2`"),
    "known()": (7, "a field is expected, not `)`"),
    "known(gsd": (10, "`)` is expected, not the end"),
    "box(1, 2, 3)": (12, "`,` in box(west, south, east, north) is expected, not `)`"),
    "box(1, CH, 3, 4)": (8, "a number of degrees in box(west, south, east, north) is expected, not `CH`"),
    "box(1, 20, 3, 4)": (5, "box takes west and east in [-180, 180] and south <= north in [-90, 90], not 1, 20, 3, 4"),
    "year == ٣": (9, f"'٣' {NO_MEANING}"),
    "key == x\x1b[31m": (9, f"'\\x1b' {NO_MEANING}"),
    # code instead of a condition
    '__import__("os")': (1, f"there is no field `__import__`; {FIELDS}"),
    "key.__class__ == x": (4, f"'.' {NO_MEANING}"),
    "lambda: 1": (7, f"':' {NO_MEANING}"),
    "[x for x in key]": (1, f"'[' {NO_MEANING}"),
    'f"{key}"': (1, f"there is no field `f`; {FIELDS}"),
    "(key := 1)": (6, f"':' {NO_MEANING}"),
    "year == 1e400": (9, "the number is larger or longer than any in the data"),
    "year == 10**9**9": (11, f"'*' {NO_MEANING}"),
}


@pytest.mark.parametrize("text", WRONG)
def test_a_wrong_expression_is_explained_where_it_fails(text: str) -> None:
    column, what = WRONG[text]
    with pytest.raises(ConfigError) as caught:
        parse_expression(text)
    assert str(caught.value) == f"the expression {text!r} at column {column}: {what}."
    assert caught.value.exit_code == 2


def test_an_error_in_a_long_expression_shows_its_surroundings() -> None:
    text = "year in (" + "2018, " * 100 + "CH, " + "2018, " * 100
    with pytest.raises(ConfigError) as caught:
        parse_expression(text)
    shown = f"…{text[549:669]}…"
    assert str(caught.value) == (
        f"the expression {shown!r} at column 610: `year` is a number and cannot be compared with `CH`."
    )


def test_huge_expressions_are_refused_or_read() -> None:
    for text, sentence in {
        "(" * 4000 + "year == 1" + ")" * 4000: "more than 50 levels of parentheses and `not`; write it flatter.",
        "not " * 2000 + "year == 1": "more than 50 levels of parentheses and `not`; write it flatter.",
        "year == " + "9" * 9000: "the number is larger or longer than any in the data.",
        "year == " + "0" * 9000 + "1": "the number is larger or longer than any in the data.",
        "year == 1" + "(" * 9000: "`and`, `or` or the end is expected, not `(`.",
        "year == " + "1" * 9000 + "x": "'1' has no meaning; a value that is more than letters, digits and _ goes in quotes.",
    }.items():
        with pytest.raises(ConfigError) as caught:
            parse_expression(text)
        assert str(caught.value).endswith(f": {sentence}")
        assert len(str(caught.value)) < 300
    with pytest.raises(ConfigError) as caught:
        parse_expression("a" * (LONGEST + 1))
    assert str(caught.value) == "the expression has 10001 characters; 10000 are allowed, so choose by fewer values."
    with pytest.raises(ConfigError) as caught:
        parse_expression('key == "\udc00"')
    assert str(caught.value) == (
        "the expression 'key == \"\\udc00\"' holds half a character (a lone surrogate); write it in UTF-8."
    )
    deepest = "(year == 1 or not " * (DEEPEST // 2) + "part == 2" + ")" * (DEEPEST // 2)
    assert parse_expression(deepest).mask(TABLE).shape == (ROWS,)
    widest = " or ".join(["year == 2018"] * 600)
    assert parse_expression(widest).mask(TABLE).tolist() == expected(compare("year", "==", 2018))
    longest = f'"{"river " * 1600}" in caption'
    assert not parse_expression(longest).mask(TABLE).any()
    assert not parse_expression('"\0 #-&~.\\d" in caption').mask(TABLE).any()
