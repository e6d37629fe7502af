"""SkyScript's metas: one pickled dictionary for each image, with where and when it was taken and what the map has there.

They are millions of files from an unsigned bucket, so they are read by ``skygen.data.metas.plain_pickles``, which runs nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any

from skygen.data.metas.plain_pickles import read_plain
from skygen.data.metas.plain_values import PickleRefused
from skygen.errors import DataError

MOST_LETTERS = 1_000_000
"""Of all tags of one image; a file of few bytes can repeat a tag any number of times. SkyScript's have about a thousand."""

_TEXT = frozenset({str})
_WRITABLE = frozenset({str, int, float, bool})


@dataclass(frozen=True, slots=True)
class Meta:
    """What SkyScript says of one image; all of it may be missing.

    Args:
        box: west, south, east, north on the ground, in degrees: -180 <= west < east <= 180, -90 <= south < north <= 90.
        time: of capture, UTC without a zone, to the minute.
        center_tags: OpenStreetMap tags of the focus object.
        surrounding_tags: of each object around it.
        problems: what was there and could not be used, at most one entry a key, each a reason for the ledger.
    """

    box: tuple[float, float, float, float] | None = None
    time: datetime | None = None
    center_tags: dict[str, str] = field(default_factory=dict)
    surrounding_tags: tuple[dict[str, str], ...] = ()
    problems: tuple[str, ...] = ()


class MetaError(DataError):
    """A meta cannot be used at all; the message is a reason for the ledger."""


def read_meta(data: bytes) -> Meta:
    """Read the pickled meta of one image; nothing that it names is imported or called.

    A wrong box, time or tag is named in ``problems`` and costs nothing else; a missing one, or None, is no problem. A tag
    that is a number becomes text.

    Args:
        data: the whole file. Its dictionary may have ``box`` (or ``bbox``), ``time`` (year, month, day, hour, minute and
            perhaps more; or a ``datetime``), ``center_tags`` and ``surrounding_tags``; other keys are ignored.

    Raises:
        MetaError: if it is no pickle, is damaged or too large, or holds anything but None, bool, int, float, str, bytes,
            tuple, list, dict, numpy's numbers and ``datetime``. No other exception leaves this function.
    """
    try:
        value = read_plain(data)
    except PickleRefused as reason:
        raise MetaError(f"the meta {reason}") from None
    if type(value) is not dict:
        raise MetaError(f"the meta is a {_name_type(value)} instead of a dict")
    problems: list[str] = []
    box = value.get("box")
    return Meta(
        box=_read_box(value.get("bbox") if box is None else box, problems),
        time=_read_time(value.get("time"), problems),
        center_tags=_read_center(value.get("center_tags"), problems),
        surrounding_tags=_read_surroundings(value.get("surrounding_tags"), problems),
        problems=tuple(problems),
    )


def _read_box(value: Any, problems: list[str]) -> tuple[float, float, float, float] | None:
    if value is None:
        return None
    if type(value) in (tuple, list) and len(value) == 4 and all(map(_is_number, value)):
        west, south, east, north = map(float, value)
        if -180 <= west < east <= 180 and -90 <= south < north <= 90:
            return west, south, east, north
    problems.append(f"the box {_show(value)} is not west < east within ±180 and south < north within ±90 degrees")
    return None


def _read_time(value: Any, problems: list[str]) -> datetime | None:
    if value is None:
        return None
    if type(value) in (tuple, list) and len(value) >= 5 and all(_is_number(number) and number % 1 == 0 for number in value[:5]):
        try:
            year, month, day, hour, minute = map(int, value[:5])
            return datetime(year, month, day, hour, minute)
        except (ValueError, OverflowError):
            pass  # a 13th month, or a year 0
    problems.append(f"the time {_show(value)} is not year, month, day, hour and minute of a date")
    return None


def _read_center(value: Any, problems: list[str]) -> dict[str, str]:
    objects = [] if value is None else _read_objects([value], "center_tags", problems)
    return objects[0] if objects else {}


def _read_surroundings(value: Any, problems: list[str]) -> tuple[dict[str, str], ...]:
    if value is None:
        return ()
    if type(value) not in (tuple, list):
        problems.append(f"surrounding_tags is a {_name_type(value)} instead of a list")
        return ()
    return tuple(_read_objects(value, "surrounding_tags", problems))


def _read_objects(values: Sequence[Any], key: str, problems: list[str]) -> list[dict[str, str]]:
    """Read the tags of each object, and put what cannot be used into one problem.

    Raises:
        MetaError: if they have more than ``MOST_LETTERS``, a tag counting as one more.
    """
    objects: list[dict[str, str]] = []
    dropped, example, letters = 0, "", 0
    for value in values:
        if type(value) is not dict:
            dropped, example = dropped + 1, example or f"a {_name_type(value)} instead of a dict"
            continue
        if _TEXT.issuperset(map(type, value)) and _TEXT.issuperset(map(type, value.values())):
            tags = dict(value)
        else:
            tags = {name: str(tag) for name, tag in value.items() if type(name) is str and type(tag) in _WRITABLE}
            if wrong := len(value) - len(tags):
                dropped, example = dropped + wrong, example or _describe_wrong_tag(value)
        letters += len(value) + sum(map(len, tags)) + sum(map(len, tags.values()))
        if letters > MOST_LETTERS:
            raise MetaError(f"the meta has more than {MOST_LETTERS:,} letters in its {key}")
        objects.append(tags)
    if dropped:
        problems.append(f"{key}: {dropped} left out, the first being {example}")
    return objects


def _describe_wrong_tag(tags: dict[Any, Any]) -> str:
    for name, tag in tags.items():
        if type(name) is not str:
            return f"a {_name_type(name)} as a key"
        if type(tag) not in _WRITABLE:
            return f"a {_name_type(tag)} under {name[:40]!a}"
    raise AssertionError("called with tags that are all usable")


def _is_number(value: Any) -> bool:
    return type(value) in (int, float) and math.isfinite(value)


def _name_type(value: Any) -> str:
    return "None" if value is None else type(value).__name__.lower()


def _show(value: Any) -> str:
    """Return numbers as they are, and of anything else its type: the message must stay short."""
    if type(value) in (tuple, list) and len(value) <= 8 and all(type(number) in (int, float) for number in value):
        return f"({', '.join(map(str, value))})"
    return f"(a {_name_type(value)})"
