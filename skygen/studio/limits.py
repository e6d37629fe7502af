"""All bounds of what a studio is asked for, checked here: a page's own limits do not hold for its programming interface."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any, Final, get_args

from skygen.errors import ConfigError
from skygen.models.diffusions.schedulers import SchedulerName

LONGEST_PROMPT: Final = 300
"""Characters of a prompt, of a text that a picture is scored against, and of what is looked for."""
MOST_PICTURES: Final = 8
"""Drawn for one prompt."""
MOST_CANDIDATES: Final = 8
"""Of a picture, and of a caption."""
MOST_STEPS: Final = 100
GUIDANCE: Final = (1, 15)
RESCALE: Final = (0.0, 1.0)
LORA_SCALE: Final = (0.0, 2.0)
SMALLEST_SIDE: Final = 32
"""Pixels."""
LARGEST_SIDE: Final = 1024
"""Pixels; of what a model draws, twice its own side at most."""
LARGEST_SEED: Final = 2**31 - 1
MOST_IMAGES: Final = 32
"""Captioned in one call."""
MOST_TEXTS: Final = 16
"""A picture is scored against."""
MOST_CLASSES: Final = 200
LONGEST_CLASS_NAME: Final = 80
MOST_FOUND: Final = 48
"""Images of one search."""
SCHEDULERS: Final[tuple[SchedulerName, ...]] = get_args(SchedulerName)


def check_number(what: str, value: object, least: float, most: float) -> float:
    """Refuse a number that is missing, not one, or out of its bounds.

    Args:
        what: its name in a sentence.
        value: as it was given.
        least: allowed.
        most: allowed.

    Returns:
        The number.

    Raises:
        ConfigError: it is refused.
    """
    if value is None:
        raise ConfigError(f"The {what} is missing; choose {least:g} to {most:.10g}.")
    if isinstance(value, bool) or not isinstance(value, int | float):
        raise ConfigError(f"The {what} is no number; choose {least:g} to {most:.10g}.")
    if not least <= value <= most:
        raise ConfigError(f"The {what} is {value:.10g}; choose {least:g} to {most:.10g}.")
    return value


def check_whole(what: str, value: object, least: int, most: int) -> int:
    """Refuse what is no whole number within its bounds; 4.0 is one, as JSON may write it.

    Raises:
        ConfigError: it is refused.
    """
    number = check_number(what, value, least, most)
    if not float(number).is_integer():
        raise ConfigError(f"The {what} is {number:g}; choose a whole number, {least} to {most}.")
    return int(number)


def check_text(what: str, text: object) -> str:
    """Return a text without the space around it; control characters become spaces, what is no character is left out.

    Args:
        what: its name in a sentence, such as ``prompt``.
        text: as it was given.

    Raises:
        ConfigError: it is empty or too long.
    """
    if not isinstance(text, str):
        raise ConfigError(f"The {what} is no text; write 1 to {LONGEST_PROMPT} characters.")
    whole = text.encode("utf-8", "ignore").decode("utf-8")  # a lone surrogate fits into no file
    clean = "".join(character if character.isprintable() else " " for character in whole).strip()
    if not clean or len(clean) > LONGEST_PROMPT:
        raise ConfigError(f"Write a {what} of 1 to {LONGEST_PROMPT} characters; this one has {len(clean)}.")
    return clean


def check_side(what: str, value: float | None, step: int, own: int) -> int | None:
    """Return the side of a picture in pixels, or None where the model's own is meant.

    Args:
        what: ``width`` or ``height``.
        value: in pixels; None and 0 are the model's own.
        step: sides are multiples of it.
        own: side of the pictures that the model has learned.

    Raises:
        ConfigError: it is out of bounds, or no multiple.
    """
    if not value or (isinstance(value, float) and math.isnan(value)):
        return None
    side = check_whole(what, value, SMALLEST_SIDE, max(own, min(2 * own, LARGEST_SIDE)))
    if side % step:
        raise ConfigError(f"The {what} is {side}; choose a multiple of {step}.")
    return side


def check_lines(what: str, text: str | None, most: int, longest: int) -> list[str]:
    """Return the lines of a text that are not empty, each once.

    Args:
        what: what a line is, in the plural.
        text: one a line.
        most: lines.
        longest: characters of a line.

    Raises:
        ConfigError: too many, or one is too long.
    """
    whole = (text or "").encode("utf-8", "ignore").decode("utf-8")
    found = list(dict.fromkeys(line for raw in whole.splitlines() if (line := " ".join(raw.split()))))
    if len(found) > most:
        raise ConfigError(f"These are {len(found)} {what}; write {most} at most, one a line.")
    for line in found:
        if len(line) > longest:
            raise ConfigError(f"One of the {what} has {len(line)} characters; write {longest} at most.")
    return found


def check_count(what: str, given: Sequence[Any], most: int) -> None:
    """Refuse none, or more than are worked on in one call.

    Raises:
        ConfigError: it is refused.
    """
    if not 1 <= len(given) <= most:
        raise ConfigError(f"There are {len(given)} {what}; give 1 to {most}.")


def check_choice(what: str, value: object, choices: Sequence[str]) -> str:
    """Refuse what is none of the choices.

    Raises:
        ConfigError: it is refused.
    """
    for choice in choices:
        if value == choice:
            return choice
    raise ConfigError(f"There is no such {what}; choose among {', '.join(choices)}.")
