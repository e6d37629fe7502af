"""Images without a likeness among them, and the pairs that they are of."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import numpy as np
from PIL import Image

from skygen.data.pair import Pair
from skygen.data.table import PairList
from skygen.seeding import Seeds


def lay_pictures(root: Path, sizes: Iterable[tuple[int, int]]) -> PairList:
    """Write an image of each width and height, none of them alike when turned, and return their pairs."""
    root.mkdir()
    draw = Seeds(0).numpy("pictures")
    for number, (width, height) in enumerate(sizes):
        picture = Image.fromarray(draw.integers(0, 256, (height, width, 3), dtype=np.uint8))
        picture.save(root / f"{number:02d}.png")
    return list_pictures(root)


def list_pictures(root: Path) -> PairList:
    """Return the pairs of a folder's images, in the order of their names."""
    paths = sorted(root.glob("*.png"))
    return PairList.of([Pair(path.name, path, (f"picture {path.stem}",)) for path in paths], root)
