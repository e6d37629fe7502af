"""What a JSON object or a table's row says of an image, under the names in use: captions, class, place, date.

There is no standard. The names are those of EcoMapper, RS5M, RSTeller, GAIA, img2dataset, DiffusionSat's fMoW and the data
sets of Hugging Face.
"""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any, TypeGuard

from skygen.data.pair import Box, name_split, to_words
from skygen.data.rejects import Rejects

CAPTION_NAMES = ("captions", "caption", "text")
CLASS_NAMES = ("class_name", "class", "label", "category", "type")
SPLIT_NAMES = ("split",)
PLACE_NAMES = (("latitude", "longitude"), ("lat", "lon"), ("lat", "lng"))
"""Degrees; beside them ``center_coordinates``, a list of latitude and longitude."""
TIME_NAMES = ("time", "datetime", "timestamp", "date", "year")
FEWEST_LETTERS = 2
"""Of a caption that says something: RSICD has captions that are ``.`` or ``1 .``."""
YEARS = range(1850, 2101)
"""Of capture; what lies outside is a slip: the first picture from the air is of 1858."""

_NUMBERED = re.compile(r"([A-Za-z][A-Za-z_-]*?)_?\d+\.\w+", re.ASCII)
_NO_CLASS = frozenset({"image", "images", "img", "tile", "patch", "scene", "chip", "crop", "sample", "picture", "photo"})
_COMPOUNDS = {
    "bareland": "bare land",
    "baseballfield": "baseball field",
    "denseresidential": "dense residential",
    "mediumresidential": "medium residential",
    "railwaystation": "railway station",
    "sparseresidential": "sparse residential",
    "storagetanks": "storage tanks",
}
"""Of RSICD's 30 classes, those that are two words written as one."""
_YEAR_AND_MONTH = re.compile(r"(\d{4})(?:[-/](\d{1,2}))?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Annotation:
    """What is known of an image beside its pixels; None where nothing is said.

    Args:
        captions: as they stand, dirt included; ``keep_captions`` sorts them.
        class_name: in words.
        split: ``train``, ``val``, ``test`` or another that the data set has.
        year: of capture.
        time: of capture, UTC; the first day of the month where only the month is known.
        gsd: ground sample distance in metres a pixel.
        box: on the ground; a point where only the centre is known.
        problems: what was said and makes no sense, as name and reason.
    """

    captions: tuple[str, ...] = ()
    class_name: str | None = None
    split: str | None = None
    year: int | None = None
    time: datetime | None = None
    gsd: float | None = None
    box: Box | None = None
    problems: tuple[tuple[str, str], ...] = ()


def read_annotation(fields: Mapping[str, Any], caption_column: str | None = None) -> Annotation:
    """Read what is said of an image.

    Args:
        fields: by name; what lies under ``metadata`` counts too, after what lies beside it.
        caption_column: the name to take captions from; by default ``captions``, ``caption``, ``text``, or the texts under
            ``annotations``.

    Raises:
        ValueError: with the reason, if the captions are no texts.
    """
    inner = fields.get("metadata")
    every: Mapping[str, Any] = {**inner, **fields} if isinstance(inner, Mapping) else fields
    problems: list[tuple[str, str]] = []
    year, time = _read_time(every, problems)
    gsd, named = every.get("gsd"), _first_text(every, SPLIT_NAMES)
    class_name = _first_text(every, CLASS_NAMES)
    return Annotation(
        captions=tuple(_read_captions(every, caption_column)),
        class_name=to_words(class_name) if class_name else None,
        split=(name_split(named) or named) if named else None,
        year=year,
        time=time,
        gsd=float(gsd) if _is_number(gsd) and gsd > 0 else None,
        box=_read_place(every, problems),
        problems=tuple(problems),
    )


def decode_text(data: bytes, name: str) -> str:
    """Decode a file of text; a ValueError carries the reason why it is none."""
    try:
        return data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise ValueError(f"{name} is not valid UTF-8") from None


def parse_object(text: str, name: str) -> Mapping[str, Any]:
    """Parse a JSON object that describes an image; a ValueError carries the reason why it does not."""
    try:
        content = json.loads(text)
    except json.JSONDecodeError as error:
        raise ValueError(f"{name} is not valid JSON: {error}") from None
    except RecursionError:
        raise ValueError(f"{name} is nested too deeply") from None
    if not isinstance(content, dict):
        raise ValueError(f"{name} holds no object with a caption or a class")
    return content


def keep_captions(texts: Iterable[object], key: str, where: str, rejects: Rejects) -> tuple[str, ...]:
    """Keep the captions that say something, each once; the others go to the ledger, as parts of the pair.

    Line breaks and other control characters within a caption become spaces.

    Raises:
        ValueError: with the reason, if none is left.
    """
    kept: dict[str, None] = {}
    faults = []
    for number, text in enumerate(texts, start=1):
        try:
            kept[_clean(text)] = None
        except ValueError as error:
            faults.append((number, str(error)))
    if not kept:
        raise ValueError(faults[0][1] if faults else "there is no caption")
    for number, reason in faults:
        rejects.add(key, reason, where, part=f"caption {number}")
    return tuple(kept)


def note_problems(annotation: Annotation, key: str, where: str, rejects: Rejects) -> None:
    """Put what makes no sense in an annotation in the ledger; the pair is kept without it."""
    for name, reason in annotation.problems:
        rejects.add(key, reason, where, part=name)


def name_class(file_name: str) -> str | None:
    """Read the class from names such as RSICD's ``airport_1.jpg``; None for numbers and for names that say nothing."""
    match = _NUMBERED.fullmatch(file_name.rpartition("/")[2])
    name = match[1].lower() if match else ""
    return None if not name or name in _NO_CLASS else _COMPOUNDS.get(name) or to_words(name)


def _clean(text: object) -> str:
    if not isinstance(text, str):
        raise ValueError("the caption is not a text")
    plain = text.strip()
    if not plain.isprintable():
        plain = " ".join(plain.split())
    if not plain:
        raise ValueError("the caption is empty")
    if any("\ud800" <= letter <= "\udfff" for letter in plain):
        raise ValueError("a caption holds half a character (a lone surrogate)")
    if sum(map(str.isalpha, plain)) < FEWEST_LETTERS:
        raise ValueError(f"the caption {plain[:20]!r} has no words")
    return plain


def _read_captions(fields: Mapping[str, Any], caption_column: str | None) -> list[str]:
    names = [caption_column] if caption_column else CAPTION_NAMES
    value = next((fields[name] for name in names if fields.get(name) is not None), None)
    if value is None and not caption_column and isinstance(entries := fields.get("annotations"), list):
        value = [entry["text"] for entry in entries if isinstance(entry, Mapping) and isinstance(entry.get("text"), str)]
    texts = [value] if isinstance(value, str) else [] if value is None else value
    if not isinstance(texts, list) or not all(isinstance(text, str) for text in texts):
        raise ValueError(f"no text or list of texts under {' or '.join(map(json.dumps, names))}")
    return texts


def _first_text(fields: Mapping[str, Any], names: Iterable[str]) -> str | None:
    texts = (fields.get(name) for name in names)
    return next((text.strip() for text in texts if isinstance(text, str) and text.strip() not in ("", "null")), None)


def _read_place(fields: Mapping[str, Any], problems: list[tuple[str, str]]) -> Box | None:
    center = fields.get("center_coordinates")
    places = [center] if center is not None else []
    places += [[fields[north], fields[east]] for north, east in PLACE_NAMES if fields.get(north) is not None and east in fields]
    for place in places[:1]:
        if isinstance(place, list | tuple) and len(place) == 2 and all(map(_is_number, place)):
            latitude, longitude = map(float, place)
            if abs(latitude) <= 90 and abs(longitude) <= 180:
                return Box(longitude, latitude, longitude, latitude)
        problems.append(("place", f"{str(place)[:60]} is not a latitude and a longitude in degrees"))
    return None


def _read_time(fields: Mapping[str, Any], problems: list[tuple[str, str]]) -> tuple[int | None, datetime | None]:
    said = next((fields[name] for name in TIME_NAMES if fields.get(name) not in (None, "", "null")), None)
    if said is None:
        return None, None
    try:
        if isinstance(said, datetime):
            time: datetime | None = said
        elif match := _YEAR_AND_MONTH.fullmatch(str(said).strip()):
            time = datetime(int(match[1]), int(match[2] or 1), 1)  # raises on a month 13
            if match[2] is None:
                return (time.year, None) if time.year in YEARS else _no_time(said, problems)
        else:
            time = datetime.fromisoformat(said.strip() if isinstance(said, str) else "")
        if time is not None and time.year in YEARS:
            plain = time.astimezone(UTC).replace(tzinfo=None) if time.tzinfo else time
            return plain.year, plain.replace(microsecond=0)
    except ValueError:
        pass
    return _no_time(said, problems)


def _no_time(said: object, problems: list[tuple[str, str]]) -> tuple[None, None]:
    problems.append(("time", f"{str(said)[:60]!r} is not a date such as 2019-05 or 2019-05-17T10:30:00Z"))
    return None, None


def _is_number(value: object) -> TypeGuard[float]:
    return isinstance(value, int | float) and not isinstance(value, bool) and abs(value) <= sys.float_info.max
