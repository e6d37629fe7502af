"""What a search has found, to look at: thumbnails with caption and cosine, as one PNG or as one self-contained HTML page."""

from __future__ import annotations

import importlib.metadata
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any, Final, final

from PIL import Image, ImageDraw, ImageFont

from skygen.data.images import open_image
from skygen.errors import ConfigError, ImageError
from skygen.evaluation.pages.page import write_page
from skygen.evaluation.reports.figures import PIXELATED_SIDE, encode_thumbnail
from skygen.storage import writing

COLUMNS: Final = 5
THUMBNAIL: Final = 224
"""Side of a thumbnail in pixels."""
GAP: Final = 24
MARGIN: Final = 36
CAPTION_LINES: Final = 4
_TITLE, _QUERY, _TEXT = 30, 23, 16
"""Heights of the letters in pixels."""
_LINE: Final = 21
_UNDER: Final = 10 + _LINE * (1 + CAPTION_LINES)
"""Room beneath a thumbnail: the cosine, and the caption."""
_TITLE_ROOM, _QUERY_ROOM = 54, 52
_PICTURE: Final = 112
"""Side of the picture of a query."""
TALLEST: Final = 30_000
"""Pixels; 2 KB a line of them make 100 MB, and many a viewer opens no taller picture."""
_PAPER, _INK, _SOFT, _ACCENT, _FAINT = "#f6f7f5", "#18222c", "#56626f", "#0b6e8a", "#dfe3e4"


@final
@dataclass(frozen=True, slots=True)
class Match:
    """One image that was found.

    Args:
        image: its path, which may lead through an archive.
        caption: beneath it; empty where nothing is said of it.
        cosine: with the query, in [-1, 1].
    """

    image: Path
    caption: str
    cosine: float


@final
@dataclass(frozen=True, slots=True)
class Found:
    """What was found for one query.

    Args:
        query: the text that was looked for, or the name of the picture.
        picture: that was looked for; None where it was a text.
        matches: nearest first.
    """

    query: str
    picture: Path | None
    matches: tuple[Match, ...]


def write_sheet(results: Sequence[Found], path: Path, title: str, note: str = "") -> None:
    """Write a contact sheet.

    Args:
        results: a section each.
        path: ends with ``.png`` or ``.html``, which says what is written.
        title: of the sheet.
        note: a line below it.

    Raises:
        ConfigError: the path ends otherwise, or the PNG would be taller than ``TALLEST``.
        StorageError: the file cannot be written.
    """
    check_suffix(path)
    if path.suffix.lower() == ".png":
        sheet = draw_sheet(results, title, note)
        with writing(path) as temporary:
            sheet.save(temporary, "PNG", optimize=True)
    else:
        write_page(path, "contact_sheet.html.jinja", build_page(results, title, note))


def check_suffix(path: Path) -> None:
    """Check that a contact sheet can be written under a name.

    Raises:
        ConfigError: it ends neither with ``.png`` nor with ``.html``.
    """
    if path.suffix.lower() not in (".png", ".html"):
        raise ConfigError(f"--output {path}: a contact sheet is a .png or an .html file; let the name end with one of them.")


def build_page(results: Sequence[Found], title: str, note: str = "") -> dict[str, Any]:
    """Encode what the HTML page shows, images and all: it asks for nothing over the network."""
    return {
        "title": title,
        "note": note,
        "version": importlib.metadata.version("skygen"),
        "sections": [
            {
                "query": found.query,
                "picture": _encode(found.picture) if found.picture is not None else None,
                "matches": [(match, _encode(match.image)) for match in found.matches],
            }
            for found in results
        ],
    }


def measure_sheet(results: Sequence[Found]) -> tuple[int, int]:
    """Return the width and height of the PNG in pixels."""
    width = 2 * MARGIN + COLUMNS * THUMBNAIL + (COLUMNS - 1) * GAP
    return width, 2 * MARGIN + _TITLE_ROOM + sum(_heading_height(found) + _grid_height(found) for found in results)


def draw_sheet(results: Sequence[Found], title: str, note: str = "") -> Image.Image:
    """Draw the PNG: five thumbnails side by side, the cosine and up to four lines of the caption beneath each.

    Raises:
        ConfigError: it would be taller than ``TALLEST``.
    """
    size = measure_sheet(results)
    if size[1] > TALLEST:
        raise ConfigError(
            f"the PNG would be {size[1]:,} pixels high, more than {TALLEST:,}; give a smaller --count, or write .html instead."
        )
    sheet = Image.new("RGB", size, _PAPER)
    draw = ImageDraw.Draw(sheet)
    inner = size[0] - 2 * MARGIN
    draw.rectangle((0, 0, size[0], 6), fill=_ACCENT)
    heading = wrap_text(title, _font(_TITLE, bold=True), inner, 1)[0]
    draw.text((MARGIN, MARGIN - 8), heading, fill=_INK, font=_font(_TITLE, bold=True))
    if note:
        draw.text((MARGIN, MARGIN + 28), wrap_text(note, _font(_TEXT), inner, 1)[0], fill=_SOFT, font=_font(_TEXT))
    top = MARGIN + _TITLE_ROOM
    for found in results:
        _draw_heading(sheet, draw, found, top)
        top += _heading_height(found)
        for place, match in enumerate(found.matches):
            row, column = divmod(place, COLUMNS)
            corner = (MARGIN + column * (THUMBNAIL + GAP), top + row * (THUMBNAIL + _UNDER + GAP))
            _draw_match(sheet, draw, match, place + 1, corner)
        top += _grid_height(found)
    return sheet


def wrap_text(text: str, font: ImageFont.FreeTypeFont, width: int, lines: int) -> list[str]:
    """Break a text into lines of a width in pixels; what does not fit ends with an ellipsis.

    A word that is wider than a line, such as the path of a file, is broken anywhere.
    """
    words: list[str] = []
    for word in text.split():
        while font.getlength(word) > width:
            fits = next(
                length for length in range(len(word) - 1, 0, -1) if length == 1 or font.getlength(word[:length]) <= width
            )
            words.append(word[:fits])
            word = word[fits:]
            if not word:
                break
        if word:
            words.append(word)
    broken = [""]
    for word in words:
        longer = f"{broken[-1]} {word}".strip()
        if font.getlength(longer) <= width or not broken[-1]:
            broken[-1] = longer
        else:
            broken.append(word)
    if len(broken) > lines:
        last = broken[lines - 1]
        while last and font.getlength(f"{last}…") > width:
            last = last[:-1]
        broken[lines - 1 :] = [f"{last.rstrip(' ,.;')}…"]
    return broken


def _draw_heading(sheet: Image.Image, draw: ImageDraw.ImageDraw, found: Found, top: int) -> None:
    left, middle = MARGIN, top + _QUERY_ROOM // 2
    if found.picture is not None:
        _paste(sheet, draw, found.picture, (left, top + 8), _PICTURE)
        left, middle = left + _PICTURE + 16, top + 8 + _PICTURE // 2
    text = wrap_text(found.query, _font(_QUERY, bold=True), sheet.width - MARGIN - left, 1)[0]
    draw.text((left, middle), text, fill=_ACCENT, font=_font(_QUERY, bold=True), anchor="lm")


def _draw_match(sheet: Image.Image, draw: ImageDraw.ImageDraw, match: Match, rank: int, corner: tuple[int, int]) -> None:
    left, top = corner
    _paste(sheet, draw, match.image, corner, THUMBNAIL)
    draw.text((left, top + THUMBNAIL + 6), f"{rank}.", fill=_SOFT, font=_font(_TEXT))
    right = left + THUMBNAIL
    draw.text((right, top + THUMBNAIL + 6), f"{match.cosine:.3f}", fill=_INK, font=_font(_TEXT, bold=True), anchor="ra")
    for line, text in enumerate(wrap_text(match.caption, _font(_TEXT), THUMBNAIL, CAPTION_LINES), start=1):
        draw.text((left, top + THUMBNAIL + 6 + line * _LINE), text, fill=_INK, font=_font(_TEXT))


def _paste(sheet: Image.Image, draw: ImageDraw.ImageDraw, path: Path, corner: tuple[int, int], side: int) -> None:
    """Put an image, its proportions kept, on a square; a small one is enlarged pixel by pixel, as the pages do."""
    left, top = corner
    draw.rectangle((left, top, left + side - 1, top + side - 1), fill=_FAINT)
    try:
        image = open_image(path)
    except ImageError:
        draw.text((left + side // 2, top + side // 2), "no image", fill=_SOFT, font=_font(_TEXT), anchor="mm")
        return
    scale = side / max(image.size)
    size = (max(1, round(image.width * scale)), max(1, round(image.height * scale)))
    small = max(image.size) <= PIXELATED_SIDE
    image = image.resize(size, Image.Resampling.NEAREST if small else Image.Resampling.LANCZOS)
    sheet.paste(image, (left + (side - size[0]) // 2, top + (side - size[1]) // 2))


def _heading_height(found: Found) -> int:
    return _QUERY_ROOM if found.picture is None else _PICTURE + 24


def _grid_height(found: Found) -> int:
    return -(-len(found.matches) // COLUMNS) * (THUMBNAIL + _UNDER + GAP)


@cache
def _font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """Return DejaVu Sans, which comes with matplotlib and has Latin, Greek and Cyrillic letters."""
    import matplotlib

    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def _encode(path: Path) -> dict[str, Any]:
    try:
        uri, small = encode_thumbnail(path)
    except ImageError as error:
        return {"uri": "", "small": False, "reason": str(error)}
    return {"uri": uri, "small": small, "reason": ""}
