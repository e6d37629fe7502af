"""Random changes to an image that leave its caption true: turned, cut a little, in another light."""

from __future__ import annotations

import math

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

_CROP_AREA, _CROP_ASPECT = (0.67, 1.0), (0.5, 2.0)
_CROP_TRIES = 10


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


def random_resized_crop(image: Image.Image, resolution: int, generator: np.random.Generator) -> Image.Image:
    """Cut a rectangle out of an image at random and squash it into a square (Szegedy et al. 2015, section 6).

    The rectangle has 67 to 100 % of the area and an aspect ratio of 1:2 to 2:1, log-uniform, as in SkyCLIP's training. Where
    ten draws do not fit into the image, the whole of it is taken.

    Args:
        image: of any size.
        resolution: side of the result in pixels.
        generator: of the draws.
    """
    width, height = image.size
    box = (0, 0, width, height)
    for _ in range(_CROP_TRIES):
        area = width * height * generator.uniform(*_CROP_AREA)
        aspect = math.exp(generator.uniform(math.log(_CROP_ASPECT[0]), math.log(_CROP_ASPECT[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(generator.integers(width - wide + 1)), int(generator.integers(height - high + 1))
            box = (left, top, left + wide, top + high)
            break
    return image.resize((resolution, resolution), Image.Resampling.BICUBIC, box=box)


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
