"""Small things that stand in many scenes: trees, houses, cars, boats, roads."""

from __future__ import annotations

import math
from collections.abc import Sequence
from itertools import pairwise

from PIL import Image

from skygen.miniature.drawing import Canvas, Colour, Frame, Point, band, rectangle, scale_colour

WHITE: Colour = (238, 238, 232)
GRASS: tuple[Colour, ...] = ((104, 138, 70), (122, 142, 82), (92, 126, 74), (134, 146, 88))
ASPHALT: Colour = (88, 89, 93)
CONCRETE: Colour = (184, 181, 172)
LEAF: Colour = (54, 92, 42)
CARS: tuple[Colour, ...] = ((235, 235, 235), (200, 40, 36), (40, 72, 150), (30, 30, 34), (150, 154, 160), (225, 225, 228))
ROOFS: tuple[Colour, ...] = ((172, 82, 58), (128, 84, 62), (112, 112, 116), (150, 120, 96))
SURFACES: dict[str, Colour] = {
    "asphalt": ASPHALT,
    "concrete": CONCRETE,
    "grass": (116, 158, 74),
    "gravel": (172, 156, 130),
    "paving_stones": (186, 132, 108),
    "wood": (132, 88, 52),
}
WATERS: dict[str, Colour] = {"blue": (42, 92, 142), "green": (34, 102, 80), "brown": (134, 106, 68)}


def grass(canvas: Canvas) -> Image.Image:
    """Make a lawn."""
    return canvas.texture(canvas.vary(canvas.pick(GRASS), 6), rough=0.07, grain=0.07)


def water(canvas: Canvas, colour: Colour) -> Image.Image:
    """Make a calm water surface."""
    return canvas.texture(canvas.vary(colour, 5), rough=0.05, grain=0.03, cells=9)


def cast_shadow(canvas: Canvas, points: Sequence[Point], length: float, colour: Colour = (44, 50, 48)) -> None:
    """Darken the ground where an upright block of this outline throws its shadow."""
    dx, dy = canvas.shade[0] * length, canvas.shade[1] * length
    moved = [(x + dx, y + dy) for x, y in points]
    for k in range(len(points)):
        j = (k + 1) % len(points)
        canvas.polygon([points[k], points[j], moved[j], moved[k]], colour)
    canvas.polygon(moved, colour)


def tree(canvas: Canvas, x: float, y: float, radius: float, colour: Colour = LEAF) -> None:
    """Draw a crown with its shadow and its lit side."""
    crown = canvas.vary(colour, 8)
    dx, dy = canvas.shade[0] * radius, canvas.shade[1] * radius
    canvas.circle(x + dx * 0.6, y + dy * 0.6, radius, (38, 48, 36))
    canvas.circle(x, y, radius, crown)
    canvas.circle(x - dx * 0.28, y - dy * 0.28, radius * 0.6, scale_colour(crown, 1.28))


def gabled_house(canvas: Canvas, frame: Frame, width: float, depth: float, roof: Colour, height: float = 0.05) -> None:
    """Draw a house with a ridge along its width, one slope lit and one in shade."""
    outline = frame.place(rectangle(width, depth))
    cast_shadow(canvas, outline, height)
    lit = frame.place([(0, 1)])[0]
    towards_shade = (lit[0] - frame.x) * canvas.shade[0] + (lit[1] - frame.y) * canvas.shade[1] > 0
    lower, upper = (0.72, 1.12) if towards_shade else (1.12, 0.72)
    canvas.polygon(frame.place(rectangle(width, depth / 2, 0, -depth / 4)), scale_colour(roof, upper))
    canvas.polygon(frame.place(rectangle(width, depth / 2, 0, depth / 4)), scale_colour(roof, lower))
    canvas.line(frame.place([(-width / 2, 0), (width / 2, 0)]), 0.008, scale_colour(roof, 1.35))


def hipped_house(canvas: Canvas, frame: Frame, width: float, depth: float, roof: Colour, height: float = 0.05) -> None:
    """Draw a house whose roof slopes to all four sides."""
    corners = rectangle(width, depth)
    ridge = [(-(width - depth) / 2, 0.0), ((width - depth) / 2, 0.0)]
    cast_shadow(canvas, frame.place(corners), height)
    faces = [
        [corners[0], corners[1], ridge[1], ridge[0]],
        [corners[1], corners[2], ridge[1]],
        [corners[2], corners[3], ridge[0], ridge[1]],
        [corners[3], corners[0], ridge[0]],
    ]
    for face, side in zip(faces, (-math.pi / 2, 0.0, math.pi / 2, math.pi), strict=True):
        direction = frame.angle + side
        facing = math.cos(direction) * canvas.shade[0] + math.sin(direction) * canvas.shade[1]
        canvas.polygon(frame.place(face), scale_colour(roof, 0.95 - 0.28 * facing))


def flat_house(canvas: Canvas, frame: Frame, width: float, depth: float, roof: Colour, height: float = 0.05) -> None:
    """Draw a flat-roofed building: a parapet, and a box on the roof."""
    outline = frame.place(rectangle(width, depth))
    cast_shadow(canvas, outline, height)
    canvas.polygon(outline, scale_colour(roof, 1.25))
    canvas.polygon(frame.place(rectangle(width * 0.9, depth * 0.86)), roof)
    canvas.polygon(frame.place(rectangle(width * 0.2, depth * 0.24, width * 0.2, depth * 0.1)), scale_colour(roof, 0.62))


def car(canvas: Canvas, frame: Frame, length: float) -> None:
    """Draw a car that points along the frame's x axis."""
    paint = canvas.pick(CARS)
    body = frame.place(rectangle(length, length * 0.48))
    cast_shadow(canvas, body, length * 0.16, (40, 40, 44))
    canvas.polygon(body, paint)
    canvas.polygon(frame.place(rectangle(length * 0.46, length * 0.36, -length * 0.04)), scale_colour(paint, 0.55))


def boat(canvas: Canvas, frame: Frame, length: float) -> None:
    """Draw a white boat whose bow points along the frame's x axis."""
    half, beam = length / 2, length * 0.17
    hull = [(half, 0.0), (half * 0.3, beam), (-half, beam), (-half, -beam), (half * 0.3, -beam)]
    canvas.polygon(frame.place(hull), canvas.vary((240, 240, 238), 5))
    canvas.polygon(frame.place(rectangle(length * 0.34, beam, -length * 0.12)), canvas.pick(((60, 90, 130), (120, 80, 50))))


def road(canvas: Canvas, path: Sequence[Point], width: float, colour: Colour = ASPHALT, *, centre: bool = True) -> None:
    """Draw a road with pale verges and a dashed centre line."""
    canvas.polygon(band(path, width * 1.28), (168, 162, 146))
    canvas.polygon(band(path, width), colour)
    if centre:
        dashes(canvas, path, 0.05, 0.05, 0.013)


def dashes(canvas: Canvas, path: Sequence[Point], on: float, off: float, width: float, colour: Colour = WHITE) -> None:
    """Draw a dashed line along a path."""
    travelled = 0.0
    for (x0, y0), (x1, y1) in pairwise(path):
        length = math.hypot(x1 - x0, y1 - y0)
        start = -(travelled % (on + off))
        while start < length:
            a, b = max(0.0, start) / length, min(length, start + on) / length
            if b > a:
                ends = [(x0 + (x1 - x0) * t, y0 + (y1 - y0) * t) for t in (a, b)]
                canvas.line(ends, width, colour)
            start += on + off
        travelled += length
