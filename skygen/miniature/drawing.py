"""Primitives of the miniature world: a canvas, textures, and the small things that every place has."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import numpy as np
from jaxtyping import Float
from PIL import Image, ImageDraw

Generator = np.random.Generator
"""A name for annotations: generators themselves come from ``skygen.seeding``."""

Colour = tuple[int, int, int]
Point = tuple[float, float]

OCCUPANCY = 48
"""Cells along the shorter side of the grid that remembers where the focus object stands."""


@dataclass(frozen=True, slots=True)
class Frame:
    """A place and a direction on the canvas: shapes are written around (0, 0) and put down here.

    Args:
        x: of the origin, in units (the canvas' shorter side is 1).
        y: of the origin, downwards.
        angle: by which shapes turn, in radians.
    """

    x: float
    y: float
    angle: float = 0.0

    def place(self, points: Iterable[Point]) -> list[Point]:
        """Turn and shift points of this frame to the canvas."""
        cosine, sine = math.cos(self.angle), math.sin(self.angle)
        return [(self.x + u * cosine - v * sine, self.y + u * sine + v * cosine) for u, v in points]

    def at(self, u: float, v: float, turn: float = 0.0) -> Frame:
        """Make the frame whose origin is (u, v) of this one."""
        ((x, y),) = self.place([(u, v)])
        return Frame(x, y, self.angle + turn)


class Canvas:
    """An oversampled picture whose shorter side is one unit long, and a memory of what is taken on it.

    Args:
        size: (width, height) of the finished tile in pixels.
        oversampling: canvas pixels per tile pixel.
        rng: every draw of the tile comes from it.
    """

    def __init__(self, size: tuple[int, int], oversampling: int, rng: Generator) -> None:
        self.rng = rng
        self.unit = min(size) * oversampling
        self.width, self.height = size[0] / min(size), size[1] / min(size)
        self.image = Image.new("RGB", (size[0] * oversampling, size[1] * oversampling))
        self.pen = ImageDraw.Draw(self.image)
        self.reach = math.hypot(self.width, self.height)
        self._taken = Image.new("L", (round(OCCUPANCY * self.width), round(OCCUPANCY * self.height)))
        self._taken_pen = ImageDraw.Draw(self._taken)
        sun = rng.uniform(0, 2 * math.pi)
        self.shade = (math.cos(sun), math.sin(sun))

    def uniform(self, low: float, high: float) -> float:
        """Draw a float from [low, high)."""
        return float(self.rng.uniform(low, high))

    def chance(self, probability: float) -> bool:
        """Decide something that happens with this probability."""
        return bool(self.rng.random() < probability)

    def pick(self, options: Sequence[Colour]) -> Colour:
        """Choose one of some colours."""
        return options[int(self.rng.integers(len(options)))]

    def frame(self, spread: float = 0.1, angle: float | None = None) -> Frame:
        """Choose a place moderately off the centre.

        Args:
            spread: largest shift from the centre on either axis.
            angle: direction; any where it is not given.
        """
        x = self.width / 2 + self.uniform(-spread, spread)
        y = self.height / 2 + self.uniform(-spread, spread)
        return Frame(x, y, self.uniform(0, 2 * math.pi) if angle is None else angle)

    def vary(self, colour: Colour, amount: float = 10.0) -> Colour:
        """Shift a colour a little, in brightness and in hue."""
        shift = self.rng.normal(0, amount) + self.rng.normal(0, amount / 3, 3)
        red, green, blue = (int(min(255, max(0, c + s))) for c, s in zip(colour, shift, strict=True))
        return red, green, blue

    def polygon(self, points: Iterable[Point], colour: Colour | Image.Image) -> None:
        """Fill a polygon with a colour or with a texture as large as the canvas."""
        corners = [(x * self.unit, y * self.unit) for x, y in points]
        if isinstance(colour, tuple):
            self.pen.polygon(corners, fill=colour)
            return
        mask = Image.new("L", self.image.size)
        ImageDraw.Draw(mask).polygon(corners, fill=255)
        self.image.paste(colour, mask=mask)

    def circle(self, x: float, y: float, radius: float, colour: Colour | Image.Image) -> None:
        """Fill a disc."""
        if not isinstance(colour, tuple):
            self.polygon(disc(x, y, radius), colour)
            return
        u, r = self.unit, radius * self.unit
        self.pen.ellipse((x * u - r, y * u - r, x * u + r, y * u + r), fill=colour)

    def line(self, points: Iterable[Point], width: float, colour: Colour) -> None:
        """Draw a line of some width in units."""
        path = [(x * self.unit, y * self.unit) for x, y in points]
        self.pen.line(path, fill=colour, width=max(1, round(width * self.unit)), joint="curve")

    def reserve(self, points: Iterable[Point]) -> None:
        """Keep surrounding objects off a polygon."""
        self._taken_pen.polygon([(x * OCCUPANCY, y * OCCUPANCY) for x, y in points], fill=255)

    def taken(self, left: float, top: float, right: float, bottom: float) -> float:
        """Tell which share of a box is reserved."""
        cells = np.asarray(self._taken)
        rows = slice(max(0, math.floor(top * OCCUPANCY)), max(1, math.ceil(bottom * OCCUPANCY)))
        columns = slice(max(0, math.floor(left * OCCUPANCY)), max(1, math.ceil(right * OCCUPANCY)))
        return float((cells[rows, columns] > 0).mean())

    def fill(self, texture: Image.Image) -> None:
        """Cover the whole canvas with a texture."""
        self.image.paste(texture)

    def noise(self, cells: float) -> Float[np.ndarray, "height width"]:
        """Draw a smooth random field: float32, mean 0, deviation about 1, with ``cells`` bumps along one unit."""
        shape = max(2, round(cells * self.height)), max(2, round(cells * self.width))
        field = self.rng.standard_normal(shape, dtype=np.float32)
        return np.asarray(Image.fromarray(field).resize(self.image.size, Image.Resampling.BICUBIC))

    def texture(self, colour: Colour, rough: float = 0.08, grain: float = 0.06, cells: float = 6) -> Image.Image:
        """Make a surface of one colour that varies in brightness.

        Args:
            colour: its mean.
            rough: relative deviation of the large patches.
            grain: relative deviation of the fine grain.
            cells: patches along one unit.
        """
        light = 1 + rough * self.noise(cells) + grain * self.noise(64)
        pixels = np.asarray(colour, dtype=np.float32) * light[..., None]
        return Image.fromarray(np.clip(pixels, 0, 255).astype(np.uint8))


def rectangle(width: float, height: float, x: float = 0.0, y: float = 0.0) -> list[Point]:
    """Give the corners of a rectangle around (x, y)."""
    w, h = width / 2, height / 2
    return [(x - w, y - h), (x + w, y - h), (x + w, y + h), (x - w, y + h)]


def disc(x: float, y: float, radius: float, corners: int = 48) -> list[Point]:
    """Give a polygon that passes for a circle."""
    steps = (2 * math.pi * k / corners for k in range(corners))
    return [(x + radius * math.cos(t), y + radius * math.sin(t)) for t in steps]


def blob(canvas: Canvas, radius: float, stretch: float = 1.0, wobble: float = 0.14) -> list[Point]:
    """Give a smooth irregular outline around (0, 0), ``stretch`` times as wide as high."""
    waves = [(k, canvas.uniform(0, wobble) / k**0.6, canvas.uniform(0, 2 * math.pi)) for k in (2, 3, 4, 5)]
    points = []
    for step in range(56):
        t = 2 * math.pi * step / 56
        r = radius * (1 + sum(a * math.cos(k * t + p) for k, a, p in waves))
        points.append((r * math.cos(t) * math.sqrt(stretch), r * math.sin(t) / math.sqrt(stretch)))
    return points


def band(path: Sequence[Point], width: float) -> list[Point]:
    """Give the outline of a strip of some width along a path."""
    line = np.asarray(path)
    along = np.gradient(line, axis=0)
    normal = np.stack([-along[:, 1], along[:, 0]], axis=1) / np.linalg.norm(along, axis=1, keepdims=True)
    sides = np.concatenate([line + normal * width / 2, (line - normal * width / 2)[::-1]])
    return [(float(x), float(y)) for x, y in sides]


def meander(canvas: Canvas, amplitude: float, waves: float) -> list[Point]:
    """Give a winding path along the x axis of a frame, longer than any canvas."""
    reach, phase, second = canvas.reach, canvas.uniform(0, 6.3), canvas.uniform(0, 6.3)
    points = []
    for step in range(49):
        x = reach * (step / 24 - 1)
        y = math.sin(waves * 2 * math.pi * x + phase) + 0.4 * math.sin(waves * 3.4 * math.pi * x + second)
        points.append((x, amplitude * y))
    return points


def scale_colour(colour: Colour, factor: float) -> Colour:
    """Make a colour darker (factor below 1) or lighter."""
    red, green, blue = (int(min(255, max(0, c * factor))) for c in colour)
    return red, green, blue
