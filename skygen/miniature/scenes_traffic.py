"""How the scenes of traffic on land, water and in the air look from above: one painter a class."""

from __future__ import annotations

import math

from PIL import Image

from skygen.miniature.drawing import Canvas, Colour, Frame, disc, rectangle, scale_colour
from skygen.miniature.objects import (
    ASPHALT,
    CONCRETE,
    SURFACES,
    WATERS,
    WHITE,
    boat,
    car,
    cast_shadow,
    dashes,
    grass,
    tree,
    water,
)
from skygen.miniature.scenes_nature import Painter, Tags

FAR = 2.0
"""Half the length, in units, of what runs out of the tile on both sides."""


def airport_runway(canvas: Canvas, tags: Tags) -> None:
    """Draw a runway with its threshold bars, edge lines and centre line, between lawns."""
    canvas.fill(grass(canvas))
    frame, width = canvas.frame(0.05), canvas.uniform(0.28, 0.34)
    colour = canvas.vary((74, 75, 80) if tags["surface"] == "asphalt" else CONCRETE, 4)
    paint = WHITE if tags["surface"] == "asphalt" else (255, 255, 255)
    end = -canvas.uniform(0.3, 0.42)
    canvas.polygon(frame.place(rectangle(FAR * 2, width * 1.12, end + FAR - 0.06)), (156, 152, 132))
    canvas.polygon(frame.place(rectangle(FAR * 2, width, end + FAR)), canvas.texture(colour, rough=0.04))
    for side in (-1, 1):
        y = side * width * 0.44
        canvas.line(frame.place([(end, y), (FAR, y)]), 0.013, paint)
        canvas.polygon(frame.place(rectangle(0.12, 0.045, end + 0.5, side * width * 0.2)), paint)
    for k in range(6):
        y = (k - 2.5) * width * 0.14
        canvas.polygon(frame.place(rectangle(0.16, width * 0.075, end + 0.13, y)), paint)
    dashes(canvas, frame.place([(end + 0.3, 0), (FAR, 0)]), 0.13, 0.08, 0.022, paint)
    for _ in range(4):
        x, y = end + canvas.uniform(0.4, 0.6), canvas.uniform(-0.2, 0.2) * width
        canvas.line(frame.place([(x, y), (x + 0.2, y)]), 0.014, scale_colour(colour, 0.72))
    canvas.reserve(frame.place(rectangle(FAR * 2, width * 1.12, end + FAR - 0.06)))


def bridge(canvas: Canvas, tags: Tags) -> None:
    """Draw a deck with its lanes over a river, its shadow on the water, land at both ends."""
    canvas.fill(grass(canvas))
    frame, lanes = canvas.frame(0.05), int(tags["lanes"])
    span, deck = canvas.uniform(0.56, 0.68), 0.07 + 0.075 * lanes
    canvas.polygon(frame.place(rectangle(span + 0.06, FAR * 2)), canvas.texture((186, 174, 136)))
    canvas.polygon(frame.place(rectangle(span, FAR * 2)), water(canvas, canvas.pick(tuple(WATERS.values())[:2])))
    canvas.polygon(frame.place(rectangle(FAR * 2, deck * 0.86)), ASPHALT)
    cast_shadow(canvas, frame.place(rectangle(span + 0.04, deck)), 0.09, (22, 40, 54))
    canvas.polygon(frame.place(rectangle(span + 0.08, deck)), (206, 204, 198))
    canvas.polygon(frame.place(rectangle(FAR * 2, deck * 0.8)), canvas.texture((98, 99, 104), rough=0.03))
    step = deck * 0.8 / lanes
    for k in range(1, lanes):
        y = (k - lanes / 2) * step
        dashes(canvas, frame.place([(-FAR, y), (FAR, y)]), 0.07, 0.06, 0.013)
    for _ in range(lanes + 1):
        lane = (int(canvas.rng.integers(lanes)) + 0.5 - lanes / 2) * step
        car(canvas, frame.at(canvas.uniform(-0.6, 0.6), lane), 0.065)
    if tags["bridge:structure"] == "truss":
        _truss(canvas, frame, span, deck)
    canvas.reserve(frame.place(rectangle(FAR * 2, deck)))
    canvas.reserve(frame.place(rectangle(span + 0.06, FAR * 2)))


def _truss(canvas: Canvas, frame: Frame, span: float, deck: float) -> None:
    """Draw the red steel girders of a truss bridge over its deck."""
    steel, count = (226, 96, 60), 4
    for k in range(count + 1):
        x = span * (k / count - 0.5)
        canvas.line(frame.place([(x, -deck / 2), (x, deck / 2)]), 0.026, steel)
        if k < count:
            following = x + span / count
            canvas.line(frame.place([(x, -deck / 2), (following, deck / 2)]), 0.024, steel)
            canvas.line(frame.place([(x, deck / 2), (following, -deck / 2)]), 0.024, steel)
    for side in (-1, 1):
        canvas.line(frame.place([(-span / 2, side * deck / 2), (span / 2, side * deck / 2)]), 0.038, steel)


def crosswalk(canvas: Canvas, tags: Tags) -> None:
    """Draw thick white zebra bars across a wide road between pavements."""
    canvas.fill(grass(canvas))
    frame, lanes = canvas.frame(0.06), int(tags["lanes"])
    surface = (80, 81, 86) if tags["surface"] == "asphalt" else SURFACES["paving_stones"]
    width = 0.24 + 0.12 * lanes
    canvas.polygon(frame.place(rectangle(FAR * 2, width + 0.18)), canvas.texture((204, 198, 186), rough=0.04))
    canvas.polygon(frame.place(rectangle(FAR * 2, width)), canvas.texture(canvas.vary(surface, 4), rough=0.05))
    for k in range(1, lanes):
        y = (k / lanes - 0.5) * width
        for start, stop in ((-FAR, -0.24), (0.24, FAR)):
            dashes(canvas, frame.place([(start, y), (stop, y)]), 0.12, 0.06, 0.016)
    bars = 4 + lanes
    for k in range(bars):
        y = (k - (bars - 1) / 2) * width / bars
        canvas.polygon(frame.place(rectangle(0.3, width / bars * 0.52, 0, y)), (246, 246, 242))
    for side in (-1, 1):
        canvas.line(frame.place([(side * 0.24, 0), (side * 0.24, side * width / 2)]), 0.026, WHITE)
        lane = (int(canvas.rng.integers(lanes)) + 0.5) / lanes - 0.5
        car(canvas, frame.at(side * canvas.uniform(0.36, 0.48), lane * width), 0.15)
    canvas.reserve(frame.place(rectangle(FAR * 2, width + 0.18)))


def freeway(canvas: Canvas, tags: Tags) -> None:
    """Draw two carriageways with a green median, ``lanes`` lanes each."""
    canvas.fill(grass(canvas))
    frame, lanes = canvas.frame(0.05), int(tags["lanes"])
    colour = (86, 88, 93) if tags["surface"] == "asphalt" else (190, 186, 176)
    lane, median = 0.088, 0.07
    carriage = lanes * lane + 0.05
    canvas.polygon(frame.place(rectangle(FAR * 2, 2 * carriage + median + 0.06)), canvas.texture((158, 150, 122)))
    for side in (-1, 1):
        middle = side * (carriage + median) / 2
        canvas.polygon(frame.place(rectangle(FAR * 2, carriage, 0, middle)), canvas.texture(canvas.vary(colour, 3), rough=0.03))
        for k in range(lanes + 1):
            y = middle + (k - lanes / 2) * lane
            ends = frame.place([(-FAR, y), (FAR, y)])
            if k in (0, lanes):
                canvas.line(ends, 0.014, WHITE)
            else:
                dashes(canvas, ends, 0.09, 0.07, 0.016)
        for _ in range(lanes * 2):
            y = middle + (int(canvas.rng.integers(lanes)) + 0.5 - lanes / 2) * lane
            car(canvas, frame.at(canvas.uniform(-0.7, 0.7), y), canvas.uniform(0.08, 0.095))
    canvas.polygon(frame.place(rectangle(FAR * 2, median)), (104, 132, 70))
    canvas.reserve(frame.place(rectangle(FAR * 2, 2 * carriage + median)))


def harbour(canvas: Canvas, tags: Tags) -> None:
    """Draw boats moored in rows along piers that reach from a quay into the water."""
    canvas.fill(water(canvas, (38, 84, 116)))
    frame = canvas.frame(0.05)
    deck = canvas.vary((138, 92, 54) if tags["material"] == "wood" else (206, 204, 196), 5)
    canvas.polygon(frame.place(rectangle(FAR * 2, 1, 0, -0.3 - 0.5)), canvas.texture(CONCRETE, rough=0.04))
    canvas.line(frame.place([(-FAR, -0.3), (FAR, -0.3)]), 0.03, (120, 116, 108))
    count = int(canvas.rng.integers(2, 4))
    for k in range(count):
        x = (k - (count - 1) / 2) * 0.36
        canvas.polygon(frame.place(rectangle(0.055, 0.66, x, 0.03)), deck)
        for side in (-1, 1):
            for berth in range(6):
                if canvas.chance(0.84):
                    turn = 0.0 if side > 0 else math.pi
                    boat(canvas, frame.at(x + side * 0.105, -0.23 + berth * 0.107, turn), canvas.uniform(0.12, 0.15))
    canvas.reserve(frame.place(rectangle(FAR * 2, FAR * 2, 0, FAR - 0.34)))


def helipad(canvas: Canvas, tags: Tags) -> None:
    """Draw a big white H inside a ring on a round or square pad."""
    canvas.fill(grass(canvas))
    frame, size = canvas.frame(0.07), canvas.uniform(0.33, 0.4)
    colour = {"concrete": (166, 164, 158), "asphalt": (66, 68, 74), "grass": (88, 142, 60)}[tags["surface"]]
    paint = WHITE if tags["surface"] != "concrete" else canvas.pick(((250, 250, 250), (236, 190, 40)))
    if tags["shape"] == "round":
        rings = [disc(0, 0, size * r) for r in (1.0, 0.88, 0.78)]
    else:
        rings = [rectangle(2 * size * r, 2 * size * r) for r in (0.96, 0.84, 0.74)]
    pad = canvas.texture(canvas.vary(colour, 4), rough=0.04)
    canvas.polygon(frame.place([(u * 1.06, v * 1.06) for u, v in rings[0]]), (140, 136, 122))
    fills: tuple[Colour | Image.Image, ...] = (pad, paint, pad)
    for ring, fill in zip(rings, fills, strict=True):
        canvas.polygon(frame.place(ring), fill)
    bar = size * 0.2
    for side in (-1, 1):
        canvas.polygon(frame.place(rectangle(bar, size * 1.0, side * size * 0.33)), paint)
    canvas.polygon(frame.place(rectangle(size * 0.6, bar)), paint)
    canvas.reserve(frame.place(disc(0, 0, size * 1.2)))


def parking_space(canvas: Canvas, tags: Tags) -> None:
    """Draw rows of marked stalls with parked cars."""
    canvas.fill(grass(canvas))
    frame = canvas.frame(0.04)
    colour = {"asphalt": (84, 86, 92), "gravel": (190, 170, 138)}[tags["surface"]]
    width, depth = canvas.uniform(0.86, 0.98), 0.84
    canvas.polygon(frame.place(rectangle(width, depth)), canvas.texture(canvas.vary(colour, 4), rough=0.05, grain=0.07))
    stall = 0.105
    columns = int(width / stall)
    for row, facing in zip((-0.32, -0.08, 0.08, 0.32), (1, 1, -1, -1), strict=True):
        for k in range(columns + 1):
            x = (k - columns / 2) * stall
            canvas.line(frame.place([(x, row - 0.075), (x, row + 0.075)]), 0.01, WHITE)
            if k < columns and canvas.chance(0.68):
                car(canvas, frame.at(x + stall / 2, row, facing * math.pi / 2), 0.125)
    canvas.line(frame.place([(-columns / 2 * stall, 0), (columns / 2 * stall, 0)]), 0.01, WHITE)
    canvas.reserve(frame.place(rectangle(width, depth)))


def railway(canvas: Canvas, tags: Tags) -> None:
    """Draw parallel tracks: two bright rails each on sleepers and ballast."""
    canvas.fill(grass(canvas))
    frame, tracks = canvas.frame(0.06), int(tags["tracks"])
    gauge, spacing = 0.1, 0.225
    bed = spacing * (tracks - 1) + 0.26
    canvas.polygon(frame.place(rectangle(FAR * 2, bed)), canvas.texture(canvas.vary((136, 120, 106), 6), grain=0.14))
    for k in range(tracks):
        y = (k - (tracks - 1) / 2) * spacing
        for step in range(-18, 19):
            canvas.polygon(frame.place(rectangle(0.026, gauge * 1.62, step * 0.056, y)), (70, 56, 48))
        for side in (-1, 1):
            rail = y + side * gauge / 2
            canvas.line(frame.place([(-FAR, rail), (FAR, rail)]), 0.019, (214, 214, 218))
    canvas.reserve(frame.place(rectangle(FAR * 2, bed)))


def roundabout(canvas: Canvas, tags: Tags) -> None:
    """Draw a ring road around a planted island, where three or four roads meet."""
    canvas.fill(grass(canvas))
    frame, lanes = canvas.frame(0.05), int(tags["lanes"])
    outer, arms = canvas.uniform(0.32, 0.36), int(canvas.rng.integers(3, 5))
    thickness = 0.11 if lanes == 1 else 0.18
    inner, arm_width = outer - thickness, 0.09 + 0.035 * lanes
    roads = [frame.at(0, 0, 2 * math.pi * k / arms + canvas.uniform(-0.12, 0.12)) for k in range(arms)]
    kerb: Colour = (196, 192, 182)
    for spread, colour in ((0.05, kerb), (0.0, ASPHALT)):
        for arm in roads:
            canvas.polygon(arm.place(rectangle(FAR, arm_width + spread, FAR / 2)), colour)
        canvas.circle(frame.x, frame.y, outer + spread / 2, colour)
    for arm in roads:
        canvas.line(arm.place([(outer + 0.04, 0), (FAR, 0)]), 0.014, WHITE)
        dashes(canvas, arm.place([(outer, -arm_width / 2), (outer, arm_width / 2)]), 0.022, 0.016, 0.022)
    canvas.circle(frame.x, frame.y, inner + 0.014, (232, 230, 222))
    canvas.circle(frame.x, frame.y, inner, canvas.texture((104, 156, 66), rough=0.06))
    for k in range(7):
        spot = frame.at(inner * 0.5 * math.cos(k), inner * 0.5 * math.sin(k)) if k else frame
        tree(canvas, spot.x, spot.y, inner * 0.16)
    middle = (outer + inner) / 2
    if lanes == 2:
        ring = disc(frame.x, frame.y, middle)
        dashes(canvas, [*ring, ring[0]], 0.07, 0.05, 0.013)
    for _ in range(lanes * 2):
        t = canvas.uniform(0, 6.3)
        radius = middle + (thickness / 4 if lanes == 2 else 0)
        car(canvas, frame.at(radius * math.cos(t), radius * math.sin(t), t + math.pi / 2), 0.075)
    canvas.reserve(disc(frame.x, frame.y, outer + 0.04))
    for arm in roads:
        canvas.reserve(arm.place(rectangle(FAR, arm_width + 0.05, FAR / 2)))


PAINTERS: dict[str, Painter] = {
    "airport runway": airport_runway,
    "bridge": bridge,
    "crosswalk": crosswalk,
    "freeway": freeway,
    "harbour": harbour,
    "helipad": helipad,
    "parking space": parking_space,
    "railway": railway,
    "roundabout": roundabout,
}
