"""A pair: one overhead image and what is said about it; and the words that data sets use for splits, paths and classes."""

from __future__ import annotations

import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple

from skygen.storage import LONGEST_NAME, can_be_named

SUFFIXES = frozenset({".jpg", ".jpeg", ".png", ".tif", ".tiff", ".webp", ".bmp", ".gif"})
"""Of the image files that ``skygen.data.images`` reads."""

CLASS_TEMPLATE = "a satellite image of {}"
"""The caption of an image of which only the class is known."""

_SPLITS = {
    **dict.fromkeys(("train", "training"), "train"),
    **dict.fromkeys(("val", "valid", "validation", "dev"), "val"),
    **dict.fromkeys(("test", "testing"), "test"),
}
_WORD_BREAK = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])|[_\s]+")
_PLAIN_PATH = re.compile(r"(?:\w[\w-]*/)*\w[\w-]*\.\w+")


class Box(NamedTuple):
    """A place on the ground, in degrees: west and east longitude in [-180, 180], south and north latitude in [-90, 90]."""

    west: float
    south: float
    east: float
    north: float


@dataclass(frozen=True, slots=True)
class Pair:
    """One image with its captions, and what is known of it.

    Args:
        key: names the pair within its data set: the image's path relative to the root, with forward slashes.
        image: where the image lies; the path may lead through a ``.zip`` or ``.tar`` (``skygen.data.archives``).
        captions: one or more, as the data set has them (a view prefix included); never empty, none blank.
        split: ``train``, ``val`` or ``test``; None where the data set does not say.
        class_name: the scene or focus object in words, such as ``tennis court``; None where it is not known.
        source: SkyScript's two-character alias of the image collection, such as ``CH``.
        year: of capture.
        similarity: image-text cosine that came with the pair, from whichever CLIP filtered it.
        gsd: ground sample distance in metres a pixel; the coarsest of the source where it has several.
        box: on the ground.
        time: of capture, UTC.
        center_tags: OpenStreetMap tags of the focus object.
        surrounding_tags: the same of each object around it.
    """

    key: str
    image: Path
    captions: tuple[str, ...]
    split: str | None = None
    class_name: str | None = None
    source: str | None = None
    year: int | None = None
    similarity: float | None = None
    gsd: float | None = None
    box: Box | None = None
    time: datetime | None = None
    center_tags: Mapping[str, str] | None = None
    surrounding_tags: tuple[Mapping[str, str], ...] | None = None


def name_split(name: str, *, whole: bool = False) -> str | None:
    """Read ``train``, ``val`` or ``test`` from a name such as ``SkyScript_val_5K`` or ``validation``; else None.

    Args:
        name: of a file, a folder or a split.
        whole: the name must be that of the split alone.
    """
    words = [name.strip().lower()] if whole else re.split(r"[^a-z]+", name.lower())
    return next((_SPLITS[word] for word in words if word in _SPLITS), None)


def hash_split(key: str) -> str:
    """Assign a split that depends on the key alone: SHA-256 modulo 10, where 0 is test, 1 is val, the rest train."""
    remainder = int.from_bytes(sha256(os.fsencode(key)).digest(), "big") % 10
    return {0: "test", 1: "val"}.get(remainder, "train")


def relative_key(path: str) -> str:
    """Bring an image's path in a list to the form of ``Pair.key``.

    Raises:
        ValueError: with the reason, if it is empty, leaves the data set, or does not name an image.
    """
    if _PLAIN_PATH.fullmatch(path):
        parts = path.split("/")
    else:
        text = path.strip().replace("\\", "/")
        parts = [part for part in text.split("/") if part not in ("", ".")]
        if text.startswith("/") or re.match(r"[A-Za-z]:|\w+://", text) or ".." in parts:
            raise ValueError(f"the path {path!r} leads out of the data set; it must be relative to its folder")
        if not parts or not text.isprintable():
            raise ValueError(f"the path {path!r} is no file's name" if parts else "the path is empty")
    if not can_be_named("/".join(parts)):
        raise ValueError(f"the path {path[:60]!r}… has a name of more than {LONGEST_NAME} bytes, which no disk takes")
    within = any(part.lower().endswith((".tar", ".parquet")) for part in parts[:-1])  # whose images may have other names
    if not within and f".{parts[-1].rpartition('.')[2].lower()}" not in SUFFIXES:
        raise ValueError(f"the path {path!r} is not that of an image ({', '.join(sorted(SUFFIXES))})")
    return "/".join(parts)


def to_words(name: str) -> str:
    """Turn a class's or folder's name into words: ``AnnualCrop`` and ``annual_crop`` into ``annual crop``."""
    return " ".join(filter(None, _WORD_BREAK.split(name))).lower()
