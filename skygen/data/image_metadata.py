"""What a data set knows of how and where an image was taken, as a generator can be told it: in numbers, or in words."""

from __future__ import annotations

import math
from typing import NamedTuple

from skygen.data.pair import Pair
from skygen.data.skyscript import SOURCES

_MONTHS = (
    "January",
    "February",
    "March",
    "April",
    "May",
    "June",
    "July",
    "August",
    "September",
    "October",
    "November",
    "December",
)
"""In English whatever the machine's locale, which ``calendar.month_name`` follows."""


class ImageMetadata(NamedTuple):
    """How and where one image was taken; None for what is not known.

    Args:
        gsd: ground sample distance in metres a pixel, of the picture as it is shown: after resizing.
        source: SkyScript's two-character alias of the image collection, such as ``CH``.
        month: of capture, 1 to 12.
        latitude: of the middle of the image, in degrees, north positive.
        longitude: of the same, east positive.
    """

    gsd: float | None = None
    source: str | None = None
    month: int | None = None
    latitude: float | None = None
    longitude: float | None = None


UNKNOWN = ImageMetadata()


def describe_image(pair: Pair, scale: float = 1.0) -> ImageMetadata:
    """Collect what is known of a pair's image.

    Args:
        pair: of the image.
        scale: pixels that are shown for one of the file: 2 where the image is enlarged to twice its size, which halves what a
            pixel covers on the ground.
    """
    box = pair.box
    return ImageMetadata(
        gsd=None if pair.gsd is None else pair.gsd / scale,
        source=pair.source,
        month=None if pair.time is None else pair.time.month,
        latitude=None if box is None else (box.south + box.north) / 2,
        longitude=None if box is None else (box.west + box.east) / 2,
    )


def describe_in_words(metadata: ImageMetadata) -> str:
    """Say how an image was taken as a caption may end: for generators that are told it in their prompt alone.

    Args:
        metadata: of the image.

    Returns:
        Such as ``0.6 m resolution, National Agriculture Imagery Program, June``: metres a pixel to two digits, the source by
        its full name, the month. What is not known is left out; of a source that SkyScript does not have, so is its alias. The
        place is never said. Empty where nothing is known.
    """
    words = []
    if metadata.gsd is not None and 0 < metadata.gsd < math.inf:
        words.append(f"{float(f'{metadata.gsd:.2g}'):g} m resolution")
    if known := SOURCES.get(metadata.source or ""):
        words.append(known.name)
    if metadata.month is not None:
        words.append(_MONTHS[metadata.month - 1])
    return ", ".join(words)
