"""Which rectangle of an image is trained on, and at what size: recorded, so that a model can be told of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cache, lru_cache
from typing import NamedTuple

import numpy as np
from PIL import Image

from skygen.data.augmentation import DIHEDRAL, QUARTER_TURNS, dihedral
from skygen.errors import ConfigError

WIDEST = 2.0
"""Buckets reach from 1:2 to 2:1; what is longer is cut to that."""
_CROP_AREA, _CROP_ASPECT, _CROP_TRIES = (0.67, 1.0), (0.5, 2.0), 10

Size = tuple[int, int]
_Point = Callable[[float, float, float, float], tuple[float, float]]
_TURNED: tuple[_Point, ...] = (
    lambda x, y, width, height: (x, y),
    lambda x, y, width, height: (y, width - x),
    lambda x, y, width, height: (width - x, height - y),
    lambda x, y, width, height: (height - y, x),
    lambda x, y, width, height: (width - x, y),
    lambda x, y, width, height: (y, x),
    lambda x, y, width, height: (x, height - y),
    lambda x, y, width, height: (height - y, width - x),
)
"""Where a point of an image lies after each change of ``augmentation.dihedral``."""


@dataclass(frozen=True)
class ImageSettings:
    """How an image becomes the rectangle of pixels that a model is trained on."""

    resolution: int = 0
    """Side of the training image in pixels; 0 is the model's own."""
    crop: bool = True
    """Resize the short side and crop at random along the long one; off: squash the whole image into the square."""
    center_crop: bool = False
    """Crop the middle, the same each time, in the place of a random part."""
    aspect_buckets: bool = False
    """In the place of the square: of a set of rectangles with about its area, the one nearest to the image's own shape, which
    the middle of the image fills."""
    bucket_step: int = 0
    """Sides of the buckets are multiples of so many pixels; 0 is the model's own."""
    random_resized_crop: bool = False
    """In the place of both: a random 67 to 100 % of the picture, of aspect 1:2 to 2:1, squashed into the square."""
    random_dihedral: bool = True
    """One of the eight flips and quarter turns at random: an overhead image has no up. An image whose caption says left, right,
    north and the like stays as it is."""
    random_rotation: bool = False
    """One of the four quarter turns at random, without flips; goes without random_dihedral."""
    color_jitter: float = 0.0
    """Brightness, contrast and saturation change by factors of up to 1 plus or minus this; 0 is off."""

    def __post_init__(self) -> None:
        if self.random_dihedral and self.random_rotation:
            raise ConfigError("images.random_rotation turns without flips: set images.random_dihedral to false with it")
        if not 0 <= self.color_jitter <= 1:
            raise ConfigError(f"images.color_jitter is {self.color_jitter}; it must be in [0, 1], 0 for none")
        for name, unset in (("resolution", "the model's own"), ("bucket_step", "the model's own")):
            if getattr(self, name) < 0:
                raise ConfigError(f"images.{name} is {getattr(self, name)}; it must be at least 1, or 0 for {unset}")
        if self.aspect_buckets and (self.random_resized_crop or not self.crop):
            raise ConfigError("images.aspect_buckets keeps the shape: set images.crop to true and random_resized_crop to false")

    def for_model(self, own: int, bucket_step: int = 0) -> ImageSettings:
        """Return the settings with the model's own resolution and bucket step where none is set.

        Args:
            own: side in pixels of the images that the model was made for.
            bucket_step: what the sides of its images must be multiples of; 0 for a model that takes squares alone.

        Raises:
            ConfigError: buckets are asked for and the model takes squares alone, or none of their sides.
        """
        if self.aspect_buckets and not bucket_step:
            raise ConfigError("images.aspect_buckets: this model looks at squares alone; set it to false")
        if self.aspect_buckets and self.bucket_step % bucket_step:
            raise ConfigError(
                f"images.bucket_step is {self.bucket_step}; this model takes sides that are multiples of {bucket_step}: set a "
                "multiple of that, or 0 for the model's own"
            )
        return replace(self, resolution=self.resolution or own, bucket_step=self.bucket_step or bucket_step)

    @property
    def is_fixed(self) -> bool:
        """Whether the same image always becomes the same pixels, turned and flipped ones apart."""
        cut_at_random = self.crop and not self.center_crop and not self.aspect_buckets
        return not (cut_at_random or self.random_resized_crop or self.color_jitter)

    @property
    def variants(self) -> int:
        """In how many ways an image may be turned and flipped: the first so many of ``augmentation.dihedral``."""
        return DIHEDRAL if self.random_dihedral else QUARTER_TURNS if self.random_rotation else 1


class Framing(NamedTuple):
    """What is shown of one image.

    Args:
        original: width and height of the image, upright, in pixels.
        box: left, top, right and bottom of what is shown, in its pixels.
        target: width and height that the box is resized to, before it is turned.
        variant: how it is then turned, see ``augmentation.dihedral``.
    """

    original: Size
    box: tuple[int, int, int, int]
    target: Size
    variant: int = 0

    @property
    def scale(self) -> float:
        """Pixels that are shown for one of the file, along the side that is enlarged more: above 1 detail is made up."""
        left, top, right, bottom = self.box
        return max(self.target[0] / (right - left), self.target[1] / (bottom - top))

    @property
    def shape(self) -> Size:
        """Width and height of the result."""
        return (self.target[1], self.target[0]) if self.variant % 2 else self.target

    @property
    def sizes(self) -> tuple[int, int, int, int, int, int]:
        """What SDXL is told (Podell et al. 2023, sections 2.2 and 2.3), of the image as it is after turning.

        Height and width of the file, top and left of the crop in pixels of the resized image, height and width of the result.
        """
        (width, height), (left, top, right, bottom) = self.original, self.box
        across, down = self.target[0] / (right - left), self.target[1] / (bottom - top)
        turned = _TURNED[self.variant]
        whole = (width * across, height * down)
        corners = [turned(x * across, y * down, *whole) for x, y in ((left, top), (right, bottom))]
        seen = (height, width) if self.variant % 2 == 0 else (width, height)
        return (*seen, round(min(y for _, y in corners)), round(min(x for x, _ in corners)), self.shape[1], self.shape[0])

    def apply(self, image: Image.Image) -> Image.Image:
        """Cut, resize (Pillow's bicubic, antialiased when it makes smaller) and turn an image of size ``original``."""
        # One step by way of `box`: the whole of an 8 x 16,384 strip enlarged to 512 would be 537 megapixels.
        return dihedral(image.resize(self.target, Image.Resampling.BICUBIC, box=self.box), self.variant)


def frame(size: Size, settings: ImageSettings, draw: np.random.Generator | None = None) -> Framing:
    """Decide what is shown of an image that is not turned.

    Where ``settings.is_fixed``, or with the proportions of a random crop alone, the answer's target and scale are the same
    with and without a draw.

    Args:
        size: width and height of the image, upright.
        settings: with resolution and, for buckets, bucket step set.
        draw: places a random crop; without it, the middle is shown, and of a random resized crop all of the image.
    """
    square = (settings.resolution, settings.resolution)
    if settings.random_resized_crop:
        return Framing(size, (0, 0, *size) if draw is None else draw_box(size, draw), square)
    if settings.aspect_buckets:
        target = nearest_bucket(size, settings.resolution, settings.bucket_step)
        return Framing(size, crop_box(size, target), target)
    if not settings.crop:
        return Framing(size, (0, 0, *size), square)
    return Framing(size, crop_box(size, square, None if settings.center_crop else draw), square)


def draw_box(size: Size, draw: np.random.Generator) -> tuple[int, int, int, int]:
    """Draw left, top, right and bottom of a rectangle in an image (Szegedy et al. 2015, section 6).

    It has 67 to 100 % of the area and an aspect ratio of 1:2 to 2:1, log-uniform, as in SkyCLIP's training. Where ten draws do
    not fit into the image, the whole of it is taken.

    Args:
        size: width and height of the image.
        draw: of the numbers.
    """
    width, height = size
    for _ in range(_CROP_TRIES):
        area = width * height * draw.uniform(*_CROP_AREA)
        aspect = math.exp(draw.uniform(math.log(_CROP_ASPECT[0]), math.log(_CROP_ASPECT[1])))
        wide, high = round(math.sqrt(area * aspect)), round(math.sqrt(area / aspect))
        if 0 < wide <= width and 0 < high <= height:
            left, top = int(draw.integers(width - wide + 1)), int(draw.integers(height - high + 1))
            return (left, top, left + wide, top + high)
    return (0, 0, width, height)


def crop_box(size: Size, target: Size, draw: np.random.Generator | None = None) -> tuple[int, int, int, int]:
    """Return left, top, right and bottom of the largest box of ``target``'s proportions in an image.

    Args:
        size: width and height of the image.
        target: width and height of the result.
        draw: places the box along the side that is cut; without it, it is in the middle.
    """
    (width, height), (wide, high) = size, target
    # Whole source pixels, so that a picture already of the right height is cut, not blurred.
    across = min(width, max(1, round(height * wide / high)))
    down = min(height, max(1, round(width * high / wide)))
    slack = max(width - across, height - down)
    offset = slack // 2 if draw is None else int(draw.integers(slack + 1))
    left, top = (offset, 0) if width > across else (0, offset)
    return (left, top, left + across, top + down)


def list_buckets(resolution: int, step: int) -> list[Size]:
    """List the widths and heights that images are brought to: multiples of ``step``, at most ``resolution`` squared in area.

    For each width from 1:2 to 2:1 the largest height that keeps the area; each bucket's turned twin is one too, and so is the
    largest square.

    Raises:
        ConfigError: the step is larger than the resolution.
    """
    if step < 1:
        raise ValueError(f"the bucket step is {step}; ImageSettings.for_model sets the model's own")
    area, buckets = resolution * resolution, set()
    lowest, highest = resolution / math.sqrt(WIDEST), resolution * math.sqrt(WIDEST)
    for width in range(step, int(highest) + step, step):
        height = area // width // step * step
        if lowest <= width + step / 2 and width <= highest and height and max(width, height) <= WIDEST * min(width, height):
            buckets |= {(width, height), (height, width)}
    # Of a resolution that is no multiple of the step, the rule above gives a square none, and so no bucket its own twin.
    if side := resolution // step * step:
        buckets.add((side, side))
    if not buckets:
        raise ConfigError(f"images.bucket_step is {step}; it must be at most the resolution, {resolution}")
    return sorted(buckets)


@lru_cache(maxsize=1 << 16)
def nearest_bucket(size: Size, resolution: int, step: int) -> Size:
    """Return the bucket whose proportions are nearest to those of an image, in the logarithm.

    Of equally near ones it is the larger, then the one nearer to a square, so that a turned image has the turned bucket.
    """
    aspect = math.log(size[0] / size[1])
    ranked = (
        (round(abs(own - aspect), 9), -bucket[0] * bucket[1], round(abs(own), 9), bucket)
        for own, bucket in _log_aspects(resolution, step)
    )
    return min(ranked)[-1]


@cache
def _log_aspects(resolution: int, step: int) -> tuple[tuple[float, Size], ...]:
    return tuple((math.log(width / height), (width, height)) for width, height in list_buckets(resolution, step))
