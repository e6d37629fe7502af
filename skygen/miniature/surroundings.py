"""What stands at the edges of a tile: drawn only where the focus object leaves room."""

from __future__ import annotations

from collections.abc import Callable

from skygen.miniature.drawing import Canvas, Frame, Point, blob, rectangle
from skygen.miniature.objects import ASPHALT, ROOFS, WHITE, car, dashes, gabled_house, tree, water

Box = tuple[float, float, float, float]
TRIES = 8
"""Places looked at before a neighbour is left out."""


def place(canvas: Canvas, name: str) -> bool:
    """Draw a neighbour somewhere at the edge, if there is room.

    Args:
        canvas: with the focus object drawn and its place reserved.
        name: in ``skygen.miniature.world.NEIGHBOURS``.

    Returns:
        Whether it was drawn: only then may a caption name it.
    """
    draw, length, depth = _NEIGHBOURS[name]
    for _ in range(TRIES):
        box = _edge_box(canvas, length, depth)
        if canvas.taken(*box) <= 0.02:
            draw(canvas, box)
            left, top, right, bottom = box
            canvas.reserve([(left, top), (right, top), (right, bottom), (left, bottom)])
            return True
    return False


def _edge_box(canvas: Canvas, length: float, depth: float) -> Box:
    """Choose a box of some length along one of the four edges, reaching ``depth`` into the tile."""
    edge = int(canvas.rng.integers(4))
    horizontal = edge < 2
    side, other = (canvas.width, canvas.height) if horizontal else (canvas.height, canvas.width)
    extent = min(length, side)
    start = canvas.uniform(0, side - extent) if canvas.chance(0.4) else float(canvas.rng.integers(2)) * (side - extent)
    near = 0.0 if edge % 2 == 0 else other - depth
    if horizontal:
        return start, near, start + extent, near + depth
    return near, start, near + depth, start + extent


def _axis(box: Box) -> tuple[Frame, float, float]:
    """Give the frame of a box with its x axis along the longer side, and the box's length and depth."""
    left, top, right, bottom = box
    width, height = right - left, bottom - top
    turned = height > width
    frame = Frame((left + right) / 2, (top + bottom) / 2, 1.5707963 if turned else 0.0)
    return frame, max(width, height), min(width, height)


def _corners(box: Box) -> list[Point]:
    left, top, right, bottom = box
    return [(left, top), (right, top), (right, bottom), (left, bottom)]


def _trees(canvas: Canvas, box: Box) -> None:
    left, top, right, bottom = box
    for _ in range(6):
        radius = canvas.uniform(0.04, 0.055)
        x, y = canvas.uniform(left + 0.03, right - 0.03), canvas.uniform(top + 0.03, bottom - 0.03)
        tree(canvas, x, y, radius, (58, 104, 44))


def _wood(canvas: Canvas, box: Box) -> None:
    left, top, right, bottom = box
    canvas.polygon(_corners(box), canvas.texture((36, 58, 34)))
    for _ in range(round(60 * (right - left + bottom - top))):
        tree(canvas, canvas.uniform(left, right), canvas.uniform(top, bottom), canvas.uniform(0.03, 0.045), (46, 82, 40))


def _houses(canvas: Canvas, box: Box) -> None:
    frame, length, depth = _axis(box)
    count = max(2, round(length / 0.2))
    for k in range(count):
        house = frame.at((k + 0.5 - count / 2) * length / count, 0.0, canvas.uniform(-0.1, 0.1))
        gabled_house(canvas, house, 0.15, min(depth * 0.72, 0.12), canvas.vary(canvas.pick(ROOFS), 6), 0.035)


def _pond(canvas: Canvas, box: Box) -> None:
    frame, length, depth = _axis(box)
    outline = blob(canvas, depth * 0.42, min(1.6, length / depth), 0.08)
    canvas.polygon(frame.place([(u * 1.14, v * 1.14) for u, v in outline]), (82, 104, 62))
    canvas.polygon(frame.place(outline), water(canvas, (52, 104, 146)))


def _road(canvas: Canvas, box: Box) -> None:
    frame, length, depth = _axis(box)
    canvas.polygon(frame.place(rectangle(length, depth)), (178, 172, 158))
    canvas.polygon(frame.place(rectangle(length, depth * 0.74)), ASPHALT)
    dashes(canvas, frame.place([(-length / 2, 0), (length / 2, 0)]), 0.07, 0.06, 0.013)
    for side in (-1, 1):
        car(canvas, frame.at(canvas.uniform(-0.4, 0.4) * length, side * depth * 0.18), 0.075)


def _track(canvas: Canvas, box: Box) -> None:
    frame, length, depth = _axis(box)
    for side in (-1, 1):
        canvas.line(frame.place([(-length / 2, side * depth * 0.2), (length / 2, side * depth * 0.2)]), 0.03, (202, 178, 132))


def _field(canvas: Canvas, box: Box) -> None:
    frame, length, depth = _axis(box)
    canvas.polygon(_corners(box), canvas.texture(canvas.vary((150, 112, 74), 6), rough=0.05))
    furrows = max(3, round(depth / 0.045))
    for k in range(furrows):
        y = (k + 0.5) / furrows * depth - depth / 2
        canvas.line(frame.place([(-length / 2, y), (length / 2, y)]), 0.014, (118, 86, 56))


def _parking(canvas: Canvas, box: Box) -> None:
    frame, length, depth = _axis(box)
    canvas.polygon(_corners(box), (104, 105, 110))
    stalls = max(3, round(length / 0.085))
    for k in range(stalls + 1):
        x = (k / stalls - 0.5) * length
        canvas.line(frame.place([(x, -depth * 0.4), (x, depth * 0.4)]), 0.009, WHITE)
        if k < stalls and canvas.chance(0.75):
            car(canvas, frame.at(x + length / stalls / 2, 0.0, 1.5707963), min(0.11, depth * 0.7))


_NEIGHBOURS: dict[str, tuple[Callable[[Canvas, Box], None], float, float]] = {
    "field": (_field, 9.0, 0.17),
    "houses": (_houses, 0.62, 0.16),
    "parking": (_parking, 0.5, 0.15),
    "pond": (_pond, 0.3, 0.22),
    "road": (_road, 9.0, 0.13),
    "track": (_track, 9.0, 0.1),
    "trees": (_trees, 0.3, 0.2),
    "wood": (_wood, 9.0, 0.14),
}
