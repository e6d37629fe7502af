"""Images with some bytes changed, and what becomes of them."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from skygen.data.images import open_image
from skygen.errors import ImageError


def damage(data: bytes, count: int, draw: np.random.Generator) -> Iterator[bytes]:
    """Yield copies of a file in which one to five bytes are others."""
    for _ in range(count):
        damaged = bytearray(data)
        for position in draw.integers(0, len(data), size=int(draw.integers(1, 6))):
            damaged[position] = draw.integers(256)
        yield bytes(damaged)


def open_damaged(data: bytes) -> str:
    """Return the mode of the image, or ``rejected``."""
    try:
        return open_image(data).mode
    except ImageError:
        return "rejected"
