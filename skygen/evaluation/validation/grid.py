"""Prompts down, models across: real images, the base's pictures and the tuned model's, side by side on one PNG."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Final, final

from PIL import Image, ImageDraw, ImageFont
from PIL.PngImagePlugin import PngInfo

from skygen.evaluation.search.contact_sheet import wrap_text
from skygen.storage import writing

THUMBNAIL: Final = 224
"""Side of a picture on the grid in pixels."""
_GAP, _MARGIN, _HEADING, _LABEL = 12, 24, 40, 260
_TEXT, _LINE, _LINES = 15, 20, 10
_PIXELATED_SIDE: Final = 112
"""Pictures up to this side are enlarged pixel by pixel: smoothing would show more than the model has drawn."""
_PAPER, _INK, _FAINT = "#f6f7f5", "#18222c", "#dfe3e4"


@final
@dataclass(frozen=True, slots=True)
class GridRow:
    """One prompt.

    Args:
        prompt: its label.
        pictures: one a column; None leaves the place empty.
    """

    prompt: str
    pictures: tuple[Image.Image | None, ...]


def draw_grid(rows: Sequence[GridRow], columns: Sequence[str]) -> Image.Image:
    """Draw the grid.

    Args:
        rows: a prompt each.
        columns: their headings, such as ``real``, ``base``, ``step 100``.

    Returns:
        An RGB image.
    """
    width = 2 * _MARGIN + _LABEL + len(columns) * (THUMBNAIL + _GAP)
    grid = Image.new("RGB", (width, 2 * _MARGIN + _HEADING + len(rows) * (THUMBNAIL + _GAP)), _PAPER)
    draw = ImageDraw.Draw(grid)
    lefts = [_MARGIN + _LABEL + place * (THUMBNAIL + _GAP) for place in range(len(columns))]
    for left, column in zip(lefts, columns, strict=True):
        draw.text((left, _MARGIN), column, fill=_INK, font=_font())
    for place, row in enumerate(rows):
        top = _MARGIN + _HEADING + place * (THUMBNAIL + _GAP)
        for line, text in enumerate(wrap_text(row.prompt, _font(), _LABEL - _GAP, _LINES)):
            draw.text((_MARGIN, top + line * _LINE), text, fill=_INK, font=_font())
        for left, picture in zip(lefts, row.pictures, strict=True):
            draw.rectangle((left, top, left + THUMBNAIL - 1, top + THUMBNAIL - 1), fill=_FAINT)
            if picture is not None:
                small = max(picture.size) <= _PIXELATED_SIDE
                filtering = Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS
                grid.paste(picture.resize((THUMBNAIL, THUMBNAIL), filtering), (left, top))
    return grid


def save_noted(image: Image.Image, path: Path, record: dict[str, object]) -> None:
    """Save a picture as PNG, whole or not at all, with its record inside.

    Raises:
        StorageError: the disk is full or refuses.
    """
    notes = PngInfo()
    notes.add_itxt("skygen", json.dumps({"synthetic": True, **record}, sort_keys=True))
    with writing(path) as temporary:
        image.save(temporary, "PNG", pnginfo=notes)


def read_noted(path: Path, record: dict[str, object]) -> Image.Image | None:
    """Read a picture that ``save_noted`` has written with this very record; None where it is missing, damaged or another."""
    try:
        with Image.open(path, formats=("PNG",)) as image:
            noted = getattr(image, "text", {}).get("skygen")
            return image.convert("RGB") if noted == json.dumps({"synthetic": True, **record}, sort_keys=True) else None
    except (OSError, SyntaxError, ValueError):  # SyntaxError is Pillow's for a broken PNG
        return None


@cache
def _font() -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters."""
    import matplotlib

    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / "DejaVuSans.ttf"), _TEXT)
