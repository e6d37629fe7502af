"""Which images and references a score is of, so that two scores are compared only where they are of the same ones."""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Any, Final

_LOG = logging.getLogger("skygen")

DIGITS: Final = 16
"""Hexadecimal digits of SHA-256 that are kept."""

OFFICIAL: Final = {
    "6042cffbb2c006e9": ("RSICD train", 8734),
    "3192e361d4d8b2de": ("RSICD val", 1094),
    "41e6fac015ea9ee7": ("RSICD test", 1093),
    "4d363406a624b6f0": ("Sydney-captions train", 497),
    "b36f9471ae34ea64": ("Sydney-captions val", 58),
    "4b07240408414256": ("Sydney-captions test", 58),
}
"""Published splits by ``hash_file_names``: RSICD of Lu et al. 2017, Sydney-captions of Qu et al. 2016."""


@dataclass(frozen=True, slots=True)
class EvaluatedSplit:
    """The images and references that were scored.

    Args:
        name: ``train``, ``val``, ``test``, or ``all``.
        images: how many.
        fingerprint: of keys and references in order, 16 hexadecimal digits.
        official: such as ``RSICD test (1,093 images)``; None where it is no published split that is known here.
    """

    name: str
    images: int
    fingerprint: str
    official: str | None

    def to_json(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds under ``split``."""
        return {"name": self.name, "images": self.images, "fingerprint": self.fingerprint, "official": self.official}


def identify_split(name: str, keys: Sequence[str], references: Sequence[Sequence[str]]) -> EvaluatedSplit:
    """Say which images and references these are, and log whether they are a published split.

    A split that lacks one image, unreadable perhaps, is not the official one any more.

    Args:
        name: that the user gave the split.
        keys: of the images, in the order in which they are scored.
        references: of each.
    """
    published = OFFICIAL.get(hash_file_names(keys))
    official = f"{published[0]} ({published[1]:,} images)" if published and published[1] == len(keys) else None
    split = EvaluatedSplit(name, len(keys), fingerprint_references(keys, references), official)
    what = official or f"{split.images:,} images, not an official split that is known here"
    _LOG.info(f"split {name}: {what}; fingerprint {split.fingerprint}")
    return split


def fingerprint_references(keys: Sequence[str], references: Sequence[Sequence[str]]) -> str:
    """Hash keys and references in their order: SHA-256, of which 16 hexadecimal digits are kept."""
    digest = hashlib.sha256()
    for key, texts in zip(keys, references, strict=True):
        for part in (key, str(len(texts)), *texts):
            data = part.encode("utf-8", "surrogateescape")
            digest.update(b"%d:" % len(data) + data)  # with the length, so that no two lists run together to the same bytes
    return digest.hexdigest()[:DIGITS]


def hash_file_names(keys: Iterable[str]) -> str:
    """Hash the names of the image files, whatever their order and folder: SHA-256 of the sorted names, a line each."""
    names = sorted(key.rpartition("/")[2] for key in keys)
    return hashlib.sha256("\n".join(names).encode("utf-8", "surrogateescape")).hexdigest()[:DIGITS]
