"""Short English sentences about a tile, as SkyScript's polished captions are."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence

from skygen.miniature.world import NEIGHBOURS, SCENES

_NUMBERS = ("no", "one", "two", "three", "four", "five", "six", "seven", "eight", "nine")
_WORDS = {
    "crop=alfalfa": "light green alfalfa",
    "crop=corn": "dark green corn",
    "crop=wheat": "golden wheat",
    "material=wood": "wooden",
    "meadow=agricultural": "mown",
    "meadow=pasture": "grazed",
    "natural=bare_rock": "bare grey rock",
    "natural=sand": "bright sand",
    "natural=wood": "green woods",
    "surface=acrylic": "blue acrylic",
    "surface=clay": "red clay",
    "surface=pebblestone": "grey pebble",
    "surface=wood": "wooden",
}
_JOINTS = ("next to {}", "near {}", "beside {}")
_BARE = 4
"""Variants that are the class's name alone: SkyScript's polished captions are often that, four words at the median."""
_FIELD = re.compile(r"\{(s#|#)?([^}]+)\}")


def variants(class_name: str) -> int:
    """Tell how many different sentences a class can be described with."""
    return len(SCENES[class_name].phrases) * len(_JOINTS) + _BARE


def describe(class_name: str, tags: Mapping[str, str], neighbours: Sequence[str], variant: int) -> str:
    """Write one sentence about a tile.

    Args:
        class_name: one of the world's classes.
        tags: of the focus object.
        neighbours: names of what stands around it.
        variant: chooses the wording, in [0, variants).

    Returns:
        For instance ``Three red clay tennis courts next to some trees and a residential road.``
    """
    phrases = SCENES[class_name].phrases
    if variant >= len(phrases) * len(_JOINTS):
        return class_name[0].upper() + class_name[1:] + "."
    sentence = _FIELD.sub(lambda field: _fill(field[1], field[2], tags[field[2]]), phrases[variant % len(phrases)])
    if neighbours:
        around = [NEIGHBOURS[name].phrase for name in neighbours]
        joint = _JOINTS[variant // len(phrases) % len(_JOINTS)]
        sentence += " " + joint.format(" and ".join(filter(None, (", ".join(around[:-1]), around[-1]))))
    sentence = re.sub(r"\b([Aa]) (?=[aeiu]|o(?!ne\b))", r"\1n ", sentence)
    return sentence[0].upper() + sentence[1:] + "."


def _fill(kind: str | None, key: str, value: str) -> str:
    """Turn a tag's value into a number word (``#``), a plural ending (``s#``) or plain words."""
    if kind == "#":
        return _NUMBERS[int(value)]
    if kind == "s#":
        return "" if value == "1" else "s"
    return _WORDS.get(f"{key}={value}", value).replace("_", " ")
