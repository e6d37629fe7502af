"""The one language that chooses pairs: ``--pairs.where "…"`` in every config, ``skygen index DIR --where "…"``.

Examples::

    source in (US, CH) and year >= 2018          0.1 <= gsd <= 2 and not (split == test or class_name == "golf course")
    tag in ("sport=tennis", landuse)             "river" in caption and words >= 5 and box(5.9, 45.8, 10.5, 47.8)
    2019-06 <= time < 2020 and hour != 12        country == CH or not known(country)

A condition is ``FIELD sign VALUE`` with ``== != < <= > >=``, ``FIELD in (VALUE, …)``, ``FIELD not in (VALUE, …)``, or a
range ``VALUE <= FIELD <= VALUE``; ``not``, ``and``, ``or`` (in this order) and parentheses join conditions. A value is a
number, a date or a name; a name that is more than letters, digits and _ goes in quotes of either kind.

Numbers: ``year part osm_id gsd similarity width height``; ``west south east north``, the box in degrees, ``longitude
latitude``, its centre; ``month hour`` of the capture in UTC; ``captions``, how many; ``words characters``, the length of
the first caption. A number is compared in the column's precision: ``gsd == 0.1`` finds float32's 0.1.
Names, whatever their case: ``source class_name split object_type country`` (ISO 3166-1 alpha-2) ``continent``; in
class_name and continent an unquoted _ is a space, ``tennis_court``.
``key``: the image's path, case and all; it can be ordered.
``time`` of capture, UTC, as exact as it is written: ``time == 2019`` is that year, ``time <= 2019-06-01`` takes in that
day, ``time > 2019-06-01T12:30`` begins with the next minute.
``tag``: the focus object has the key, ``tag == building``, or the key with this very value, ``tag == "sport=tennis"``;
``surrounding_tag``: any object around it has. Case counts, as in OpenStreetMap.
``"…" in caption``, ``"…" in class_name``: these words stand there one after the other, whole and whatever their case, in
any of the captions. ``"…" in key``: the path holds these letters, case and all.
``box(west, south, east, north)``: the centre of the pair's box lies in these degrees, edges included; west > east runs
across the antimeridian. ``known(FIELD)``: the pair has a value there.

What is not known makes a condition neither true nor false (Kleene's logic, as in SQL): ``country != CH`` does not choose
a pair without a country, ``country != CH or not known(country)`` does.
"""

from __future__ import annotations

import difflib
import math
import re
from collections.abc import Iterator
from dataclasses import dataclass, field, replace
from typing import NoReturn, final

import numpy as np
import pyarrow as pa
from jaxtyping import Bool

from skygen.data import conditions
from skygen.data.conditions import CHOICES, COLUMNS, DATE, KINDS, Condition
from skygen.errors import ConfigError

LONGEST = 10_000
"""Characters that an expression may have."""

DEEPEST = 50
"""Levels of parentheses and ``not``; each takes a few of Python's 1000 stack frames."""

_MIRROR = {"<": ">", "<=": ">=", ">": "<", ">=": "<=", "==": "==", "!=": "!="}
_SIGNS = "`==`, `!=`, `<`, `<=`, `>`, `>=`, `in` or `not in`"
_TOKEN = re.compile(
    rf"""(?P<date>{DATE}(?![\w.:-]))
    |(?P<number>[+-]?(?:[0-9]+(?:\.[0-9]*)?|\.[0-9]+)(?:[eE][+-]?[0-9]+)?(?![\w.]))
    |(?P<name>[^\W\d]\w*)
    |(?P<quoted>"[^"]+"|'[^']+')
    |(?P<sign><=|>=|==|!=|[<>(),])
    |(?P<space>\s+)""",
    re.VERBOSE,
)


@final
@dataclass(frozen=True, slots=True)
class Expression:
    """A condition on pairs, ready to be evaluated; it can be sent to another process.

    Args:
        text: as it was written.
        columns: of SCHEMA, those that its evaluation needs; where the data have none of them, nothing is chosen.
    """

    text: str
    columns: frozenset[str]
    _condition: Condition = field(repr=False, compare=False)

    def mask(self, batch: pa.RecordBatch | pa.Table) -> Bool[np.ndarray, " rows"]:
        """Evaluate the condition on rows with columns of SCHEMA; a column that is not there counts as null throughout.

        Returns:
            True where the condition holds, (rows,) bool; False where it does not, or where that is not known.
        """
        return conditions.evaluate(self._condition, batch)


def parse_expression(text: str) -> Expression:
    """Read an expression in the language that this module describes.

    Raises:
        ConfigError: with the expression, the column where it fails, counted from 1, and what is expected there.
    """
    if len(text) > LONGEST:
        raise ConfigError(f"the expression has {len(text)} characters; {LONGEST} are allowed, so choose by fewer values.")
    if any("\ud800" <= letter <= "\udfff" for letter in text):
        raise ConfigError(f"the expression {text[:60]!a} holds half a character (a lone surrogate); write it in UTF-8.")
    parser = _Parser(text)
    condition = parser.read_all()
    return Expression(text, frozenset(parser.columns), condition)


@final
@dataclass(frozen=True, slots=True)
class _Token:
    kind: str  # date, number, name, quoted, sign, end
    text: str  # a quoted one without its quotes
    column: int
    shown: str


@final
class _Parser:
    """Goes through an expression from left to right: ``or`` binds least, then ``and``, then ``not``."""

    def __init__(self, text: str) -> None:
        self.text = text
        self.columns: set[str] = set()
        self._tokens = list(self._split())
        self._position = 0

    def read_all(self) -> Condition:
        condition = self._either(0)
        if self._next.kind != "end":
            self._expected("`and`, `or` or the end")
        return condition

    def _split(self) -> Iterator[_Token]:
        start = 0
        while start < len(self.text):
            match = _TOKEN.match(self.text, start)
            if match is None:
                raise self._error(start, _explain_letter(self.text[start]))
            kind, shown = str(match.lastgroup), match.group()
            brief = f"`{repr(shown[:40])[1:-1]}{'…' * (len(shown) > 40)}`"
            if kind != "space":
                yield _Token(kind, shown[1:-1] if kind == "quoted" else shown, start, brief)
            start = match.end()
        yield _Token("end", "", len(self.text), "the end")

    def _error(self, column: int, what: str) -> ConfigError:
        start, end = max(column - 60, 0), column + 60
        excerpt = "…" * (start > 0) + self.text[start:end] + "…" * (end < len(self.text))
        return ConfigError(f"the expression {excerpt!r} at column {column + 1}: {what}.")

    def _expected(self, what: str) -> NoReturn:
        raise self._error(self._next.column, f"{what} is expected, not {self._next.shown}")

    @property
    def _next(self) -> _Token:
        return self._tokens[self._position]

    def _take(self) -> _Token:
        self._position += 1
        return self._tokens[self._position - 1]

    def _goes_on(self, *words: str) -> bool:
        """Step over these words if they come next; a quoted one is none of them."""
        coming = self._tokens[self._position : self._position + len(words)]
        found = tuple(token.text for token in coming if token.kind != "quoted") == words
        self._position += len(words) * found
        return found

    def _need(self, sign: str, what: str) -> None:
        if not self._goes_on(sign):
            self._expected(what)

    def _either(self, depth: int) -> Condition:
        parts = [self._both(depth)]
        while self._goes_on("or"):
            parts.append(self._both(depth))
        return conditions.join("or", parts)

    def _both(self, depth: int) -> Condition:
        parts = [self._condition(depth)]
        while self._goes_on("and"):
            parts.append(self._condition(depth))
        return conditions.join("and", parts)

    def _condition(self, depth: int) -> Condition:
        if depth > DEEPEST:
            raise self._error(self._next.column, f"more than {DEEPEST} levels of parentheses and `not`; write it flatter")
        if self._goes_on("not"):
            return conditions.Not(self._condition(depth + 1))
        if self._goes_on("("):
            condition = self._either(depth + 1)
            self._need(")", "`)`, `and` or `or`")
            return condition
        if self._goes_on("known", "("):
            name = self._field()
            self._need(")", "`)`")
            return conditions.Known(name)
        if self._goes_on("box", "("):
            return self._box()
        if self._next.kind in ("sign", "end") or (self._next.kind == "name" and self._next.text in ("and", "or", "in")):
            self._expected("a condition such as `year >= 2018`")
        return self._field_first() if self._next.kind == "name" else self._value_first(self._take())

    def _field(self) -> str:
        token = self._next
        if token.kind != "name":
            self._expected("a field")
        if token.text not in KINDS:
            near = difflib.get_close_matches(token.text.lower()[:40], KINDS, n=1, cutoff=0.5)
            perhaps = f" (perhaps `{near[0]}`)" if near else ""
            what = f"there is no field {token.shown}{perhaps}; the fields are {', '.join(sorted(KINDS))}"
            raise self._error(token.column, what)
        self._position += 1
        self.columns.update(COLUMNS.get(token.text, (token.text,)))
        return token.text

    def _comparable_field(self) -> str:
        column, name = self._next.column, self._field()
        if KINDS[name] == "text":
            raise self._error(column, f'`{name}` is a text to look in; write "river" in {name}')
        return name

    def _field_first(self) -> Condition:
        name, column = self._comparable_field(), self._next.column
        excluded = self._goes_on("not", "in")
        if excluded or self._goes_on("in"):
            self._need("(", "`(` and values with commas between them")
            equal = _Token("sign", "==", column, "`in`")
            parts = [self._compare(name, equal, self._take())]
            while self._goes_on(","):
                parts.append(self._compare(name, equal, self._take()))
            self._need(")", "`,` or `)`")
            values = [value for part in parts if isinstance(part, conditions.Among) for value in part.values]
            found = conditions.Among(name, tuple(values)) if values else conditions.join("or", parts)
            return conditions.Not(found) if excluded else found
        return self._compare(name, self._sign(), self._take())

    def _value_first(self, value: _Token) -> Condition:
        excluded = self._goes_on("not", "in")
        if excluded or self._goes_on("in"):
            return conditions.Not(self._search(value)) if excluded else self._search(value)
        sign = self._sign()
        name = self._comparable_field()
        condition = self._compare(name, replace(sign, text=_MIRROR[sign.text]), value)
        if self._next.kind == "sign" and self._next.text in _MIRROR:
            condition = conditions.Joined("and", (condition, self._compare(name, self._sign(), self._take())))
        return condition

    def _search(self, value: _Token) -> Condition:
        token, name = self._next, self._field()
        if name not in ("caption", "class_name", "key"):
            raise self._error(token.column, f"a text is looked for in caption, class_name or key, not in {token.shown}")
        if value.kind != "quoted" or not value.text.strip():
            raise self._error(value.column, f'a text in quotes is expected, such as "river", not {value.shown}')
        return conditions.Found(name, value.text)

    def _sign(self) -> _Token:
        if self._next.kind != "sign" or self._next.text not in _MIRROR:
            self._expected(_SIGNS)
        return self._take()

    def _compare(self, name: str, sign: _Token, value: _Token) -> Condition:
        if sign.text == "!=":
            return conditions.Not(self._compare(name, replace(sign, text="=="), value))
        if KINDS[name] in ("name", "tag") and sign.text != "==":
            raise self._error(sign.column, f"`{name}` holds names, which have no order; use `==`, `!=`, `in` or `not in`")
        if value.kind in ("sign", "end"):
            raise self._error(value.column, f"a value for `{name}` is expected, not {value.shown}")
        if KINDS[name] == "date":
            try:
                return conditions.compare_dates(name, sign.text, value.text)
            except ValueError:
                what = f"`{name}` takes a date such as 2019, 2019-06-01 or 2019-06-01T12:30, not {value.shown}"
                raise self._error(value.column, what) from None
        wanted = self._number(name, value) if KINDS[name] == "number" else self._name(name, value)
        return conditions.Among(name, (wanted,)) if sign.text == "==" else conditions.Ordered(name, sign.text, wanted)

    def _number(self, name: str, token: _Token) -> float:
        if token.kind != "number":
            hint = "; two fields cannot be compared" if token.kind == "name" and token.text in KINDS else ""
            raise self._error(token.column, f"`{name}` is a number and cannot be compared with {token.shown}{hint}")
        value = float(token.text)
        if not math.isfinite(value) or len(token.text) > 40:
            raise self._error(token.column, "the number is larger or longer than any in the data")
        if not value.is_integer() or abs(value) >= 1 << 63:
            return value
        return int(token.text) if re.fullmatch("[+-]?[0-9]+", token.text) else int(value)

    def _name(self, name: str, token: _Token) -> str:
        if token.kind not in ("name", "quoted"):
            what = f"`{name}` is a name and cannot be compared with {token.shown}; put it in quotes if it is one"
            raise self._error(token.column, what)
        text = token.text.replace("_", " ") if name in ("class_name", "continent") and token.kind == "name" else token.text
        if name == "country" and not re.fullmatch("[A-Za-z]{2}", text):
            raise self._error(token.column, f"`country` takes two letters of ISO 3166-1, such as CH, not {token.shown}")
        if name in CHOICES and text.lower() not in map(str.lower, CHOICES[name]):
            raise self._error(token.column, f"`{name}` is one of {', '.join(CHOICES[name])}, not {token.shown}")
        return text

    def _box(self) -> Condition:
        column = self._next.column
        degrees = []
        for end in (",", ",", ",", ")"):
            if self._next.kind != "number":
                self._expected("a number of degrees in box(west, south, east, north)")
            degrees.append(self._number("box", self._take()))
            self._need(end, f"`{end}` in box(west, south, east, north)")
        west, south, east, north = degrees
        if not (-180 <= west <= 180 and -180 <= east <= 180 and -90 <= south <= north <= 90):
            what = "box takes west and east in [-180, 180] and south <= north in [-90, 90]"
            raise self._error(column, f"{what}, not {west}, {south}, {east}, {north}")
        self.columns.update(COLUMNS["longitude"] + COLUMNS["latitude"])
        return conditions.enclose(west, south, east, north)


def _explain_letter(letter: str) -> str:
    """Say what may be meant by a letter that begins nothing of the language."""
    if letter == "=":
        return '`=` has no meaning; compare with `==`, and put a tag and its value in quotes, such as "sport=tennis"'
    if letter in "\"'":
        return "the quoted text is empty, or its second quote is missing"
    return f"{letter!r} has no meaning; a value that is more than letters, digits and _ goes in quotes"
