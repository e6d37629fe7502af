"""SkyScript's caption grammar: OpenStreetMap tags to rule-made captions, and captions without their view prefix."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

PREFIX = "a satellite image of "
"""Stands before every rule-made caption (schema A), aerial sources included."""

AERIAL_PREFIX = "An aerial image. It shows: "
"""Stands before a polished caption (schema B) of an image taken from an aeroplane."""

SATELLITE_PREFIX = "A satellite image. It shows: "
"""Stands before a polished caption (schema B) of an image taken from orbit."""

VIEW_PREFIX_PATTERN = "|".join(re.escape(p) for p in (PREFIX, AERIAL_PREFIX, SATELLITE_PREFIX))
"""Matches each of them, without regard to case: a pattern for Python's ``re`` and for RE2 alike."""

_VIEW_PREFIX = re.compile(VIEW_PREFIX_PATTERN, re.IGNORECASE)
_DIRECTION = re.compile(
    r"\b(?:left|right|upper|lower|top|bottom|horizontal(?:ly)?|vertical(?:ly)?|(?:counter)?clockwise"
    r"|(?:north|south)(?:ern|wards?)?|(?:north|south)?-?(?:east|west)(?:ern|wards?)?)\b",
    re.IGNORECASE,
)
_KEYS_WITHOUT_CONNECTOR = frozenset({"power", "man_made", "natural"})
_RENAMED_KEYS = {"highway": "road", "aeroway": "airport"}
_PRIMARY_ROADS = frozenset({"primary", "primary_link"})  # published captions keep `highway` for these two


def tag_text(key: str, value: str) -> str:
    """Say one OpenStreetMap tag as SkyScript's captions do.

    Args:
        key: such as ``plant:source``.
        value: such as ``solar``; ``yes`` leaves the key alone.

    Returns:
        For instance ``plant source of solar``, ``power pole``, ``road of residential``, ``shelter``.
    """
    words = _RENAMED_KEYS.get(key, key)
    if key == "highway" and value in _PRIMARY_ROADS:
        words = key
    elif key.endswith(":aeroway"):
        words = key.replace("aeroway", "airport")
    words = _spaced(words)
    if value == "yes":
        return words
    connector = " " if key in _KEYS_WITHOUT_CONNECTOR else " of "
    return f"{words}{connector}{_spaced(value)}"


def title(tags: Mapping[str, str]) -> str:
    """Caption the focus object alone (column ``title`` of schema A).

    Args:
        tags: of the focus object, the naming tag first.

    Returns:
        For instance ``a satellite image of sport of tennis, surface of clay``.
    """
    return PREFIX + ", ".join(tag_text(key, value) for key, value in tags.items())


def title_multi_objects(center: Mapping[str, str], surroundings: Sequence[Mapping[str, str]] = ()) -> str:
    """Caption the focus object and what surrounds it (column ``title_multi_objects`` of schema A).

    Args:
        center: tags of the focus object.
        surroundings: tags of each surrounding object; with none, the caption is the focus object's own.

    Returns:
        For instance ``a satellite image of sport of tennis with surface of clay, surrounded by natural tree; building``.
    """
    caption = PREFIX + _object_text(center)
    if surroundings:
        caption += ", surrounded by " + "; ".join(_object_text(tags) for tags in surroundings)
    return caption


def strip_view_prefix(caption: str) -> str:
    """Take off the words that say only that this is an overhead image, whichever schema they come from.

    Args:
        caption: with or without a view prefix, in any case.

    Returns:
        The caption's body, its own case kept.
    """
    return _VIEW_PREFIX.sub("", caption, count=1) if _VIEW_PREFIX.match(caption) else caption


def names_a_direction(caption: str) -> bool:
    """Say whether a caption may be true of its image only as it lies: it says left, top, north, vertical and the like.

    The words alone decide, so that a "right of way" counts too: an image turned less often costs less than a wrong caption.
    """
    return _DIRECTION.search(caption) is not None


def _object_text(tags: Mapping[str, str]) -> str:
    """Join an object's tags: the first ``with`` the others, those joined by ``and``."""
    first, *others = (tag_text(key, value) for key, value in tags.items())
    return f"{first} with {' and '.join(others)}" if others else first


def _spaced(text: str) -> str:
    return text.replace("_", " ").replace(":", " ")
