"""The images of a report: which rows are shown, and their thumbnails; one that cannot be shown costs a note."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, TypeVar, final

from skygen.errors import ImageError
from skygen.evaluation.reports.figures import encode_thumbnail
from skygen.evaluation.reports.records import CaptionedImage, RunRecord, ScoredPair

ROWS_SHOWN: Final = 12
"""Captioned images, and prompts with their pictures."""

Row = TypeVar("Row")
ImageRow = TypeVar("ImageRow", ScoredPair, CaptionedImage)


@final
@dataclass(frozen=True, slots=True)
class Thumbnail:
    """An image as the page shows it: a data URI, empty where the image cannot be shown, and the page then says so."""

    uri: str
    small: bool = False


def space_out(rows: Sequence[Row]) -> list[Row]:
    """Take evenly spaced rows, ``ROWS_SHOWN`` at most."""
    count = min(ROWS_SHOWN, len(rows))
    return [rows[index * len(rows) // count] for index in range(count)]


def show_images(record: RunRecord, file: str, rows: Sequence[ImageRow]) -> tuple[tuple[Thumbnail, ImageRow], ...]:
    """Put the thumbnail of its image before each row.

    Args:
        record: of the run.
        file: that the rows are from, for the note on images that are missing.
        rows: that name an image each.
    """
    missing: list[str] = []
    shown = tuple((show_image(record, row.image, missing), row) for row in rows)
    note_missing(record, file, missing)
    return shown


def show_image(record: RunRecord, path: str, missing: list[str]) -> Thumbnail:
    """Make a thumbnail; the path of one that cannot be made is added to ``missing``."""
    try:
        found = record.find_image(path)
        if found is not None:
            return Thumbnail(*encode_thumbnail(found))
    except (ImageError, OSError, ValueError):  # ValueError: a null byte in the path
        pass
    missing.append(path)
    return Thumbnail("")


def note_missing(record: RunRecord, file: str, missing: Sequence[str]) -> None:
    """Say in one note how many images of a file could not be shown."""
    if missing:
        images = "1 image is" if len(missing) == 1 else f"{len(missing)} images are"
        record.notes.append(f"{file}: {images} missing or damaged, such as {missing[0]!r}.")
