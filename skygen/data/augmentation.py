"""Random changes to an image that leave its caption true: turned, in another light."""

from __future__ import annotations

import numpy as np
from PIL import Image, ImageEnhance

_DIHEDRAL = (
    None,
    Image.Transpose.ROTATE_90,
    Image.Transpose.ROTATE_180,
    Image.Transpose.ROTATE_270,
    Image.Transpose.FLIP_LEFT_RIGHT,
    Image.Transpose.TRANSPOSE,
    Image.Transpose.FLIP_TOP_BOTTOM,
    Image.Transpose.TRANSVERSE,
)
DIHEDRAL = len(_DIHEDRAL)
"""How many variants ``dihedral`` has."""
QUARTER_TURNS = 4
"""The first so many variants of ``dihedral`` turn the image and do not flip it."""


def dihedral(image: Image.Image, variant: int) -> Image.Image:
    """Turn and flip an image in one of the eight ways that map a square onto itself: an overhead view has no up.

    Args:
        image: of any size.
        variant: 0 as it is; 1 to 3 that many quarter turns to the left; 4 to 7 flips along the four axes.
    """
    if not 0 <= variant < len(_DIHEDRAL):
        raise ValueError(f"variant is {variant}; there are eight, 0 to 7")
    method = _DIHEDRAL[variant]
    return image if method is None else image.transpose(method)


def color_jitter(image: Image.Image, strength: float, generator: np.random.Generator) -> Image.Image:
    """Change brightness, contrast and saturation, in an order and by factors drawn at random.

    Args:
        image: RGB.
        strength: factors are uniform in [1 - strength, 1 + strength].
        generator: of the draws.
    """
    changes = (ImageEnhance.Brightness, ImageEnhance.Contrast, ImageEnhance.Color)
    for place in generator.permutation(len(changes)):
        image = changes[int(place)](image).enhance(float(generator.uniform(max(0.0, 1 - strength), 1 + strength)))
    return image
