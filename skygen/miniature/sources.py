"""How each image collection looks: sharpness, colour cast, haze, noise and JPEG quality, and where it was taken.

The ground sample distances are SkyScript's; the looks are invented, each far enough from the others to be told apart.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from jaxtyping import UInt8
from PIL import Image, ImageFilter

from skygen.miniature.drawing import Colour, Generator


@dataclass(frozen=True, slots=True)
class Source:
    """One image collection.

    Args:
        metres_per_pixel: ground sample distance.
        aerial: taken from an aeroplane, not from orbit.
        region: (west, south, east, north) in degrees.
        cast: factor of red, green and blue.
        contrast: factor around mid grey.
        saturation: 0 is grey, 1 unchanged.
        haze: colour that veils the ground.
        veil: share of the haze, in [0, 1].
        blur: Gaussian radius, in pixels of a tile whose shorter side is 100.
        noise: deviation in grey levels.
        quality: of the JPEG.
    """

    metres_per_pixel: float
    aerial: bool
    region: tuple[float, float, float, float]
    cast: tuple[float, float, float] = (1.0, 1.0, 1.0)
    contrast: float = 1.0
    saturation: float = 1.0
    haze: Colour = (200, 208, 216)
    veil: float = 0.0
    blur: float = 0.0
    noise: float = 1.5
    quality: int = 92


SOURCES: dict[str, Source] = {
    "CH": Source(0.1, True, (6.2, 46.0, 10.2, 47.6), contrast=1.1, saturation=1.1, quality=95),
    "DE": Source(0.2, True, (11.5, 51.5, 14.6, 53.4), cast=(0.98, 0.98, 1.06), contrast=0.96, saturation=0.72, noise=2.5),
    "US": Source(
        0.6, True, (-122.0, 31.0, -76.0, 46.0), cast=(1.16, 1.02, 0.84), contrast=1.04, blur=0.3, noise=3.0, quality=86
    ),
    "FI": Source(0.5, True, (21.5, 60.2, 29.5, 66.0), cast=(0.76, 0.88, 0.94), contrast=1.08, blur=0.3, noise=3.0, quality=88),
    "P3": Source(
        0.8, False, (-70.0, -34.0, 140.0, 48.0), contrast=0.92, saturation=0.9, veil=0.1, blur=0.7, noise=2.0, quality=84
    ),
    "S2": Source(
        10.0,
        False,
        (-70.0, -34.0, 140.0, 60.0),
        saturation=0.86,
        haze=(186, 204, 226),
        veil=0.28,
        blur=1.15,
        noise=2.0,
        quality=80,
    ),
}


def apply_look(image: Image.Image, source: Source, rng: Generator) -> Image.Image:
    """Make a tile look as its collection does.

    Args:
        image: RGB, at its final size.
        source: the collection.
        rng: for the light of the day and the sensor's noise.
    """
    if source.blur:
        image = image.filter(ImageFilter.GaussianBlur(source.blur * min(image.size) / 100))
    pixels = np.asarray(image, dtype=np.float32)
    grey = pixels.mean(axis=-1, keepdims=True)
    pixels = (grey + (pixels - grey) * source.saturation) * np.asarray(source.cast, dtype=np.float32)
    pixels = 118 + (pixels - 118) * source.contrast
    pixels = pixels * (1 - source.veil) + np.asarray(source.haze, dtype=np.float32) * source.veil
    pixels = pixels * np.float32(rng.uniform(0.93, 1.07))
    pixels += rng.standard_normal(pixels.shape[:2], dtype=np.float32)[..., None] * source.noise
    return Image.fromarray(_to_bytes(pixels))


def _to_bytes(pixels: np.ndarray) -> UInt8[np.ndarray, "height width 3"]:
    rounded: UInt8[np.ndarray, "height width 3"] = np.clip(pixels, 0, 255).astype(np.uint8)
    return rounded
