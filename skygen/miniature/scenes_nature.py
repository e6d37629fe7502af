"""How the natural and the farmed scenes look from above: one painter a class."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping

from skygen.miniature.drawing import Canvas, Colour, Frame, Point, band, blob, disc, meander, rectangle, scale_colour
from skygen.miniature.objects import LEAF, WATERS, WHITE, grass, tree, water

Tags = Mapping[str, str]
Painter = Callable[[Canvas, Tags], None]

CROPS: dict[str, Colour] = {"wheat": (214, 184, 98), "corn": (60, 112, 48), "alfalfa": (138, 186, 70)}
SAND: Colour = (226, 206, 160)


def forest(canvas: Canvas, tags: Tags) -> None:
    """Draw a closed canopy, its crowns round and bright (broadleaved) or small, dark and bluish (needleleaved)."""
    canvas.fill(canvas.texture((34, 52, 30), rough=0.2))
    broad = tags.get("leaf_type") == "broadleaved"
    step = 0.088 if broad else 0.064
    colour: Colour = (78, 118, 44) if broad else (34, 70, 56)
    rows, columns = int(canvas.height / step) + 2, int(canvas.width / step) + 2
    for row in range(rows):
        for column in range(columns):
            x = (column + canvas.uniform(-0.4, 0.4) + row % 2 / 2) * step
            y = (row + canvas.uniform(-0.4, 0.4)) * step
            tree(canvas, x, y, step * canvas.uniform(0.48, 0.76), colour)
    canvas.reserve(rectangle(canvas.width - 0.36, canvas.height - 0.36, canvas.width / 2, canvas.height / 2))


def orchard(canvas: Canvas, tags: Tags) -> None:
    """Draw trees in straight rows on bare ground."""
    soil, crown, fruit = {
        "apple_trees": ((150, 158, 96), (88, 134, 50), (196, 52, 44)),
        "olive_trees": ((206, 182, 138), (118, 128, 92), None),
        "orange_trees": ((168, 112, 76), (38, 84, 38), (246, 150, 30)),
    }[tags["trees"]]
    canvas.fill(canvas.texture(canvas.vary(soil, 5)))
    frame = canvas.frame(0.03)
    across, along = canvas.uniform(0.13, 0.16), canvas.uniform(0.09, 0.105)
    radius = along * 0.48
    for row in range(-7, 8):
        canvas.line(
            frame.place([(-1, row * across + across / 2), (1, row * across + across / 2)]), 0.02, scale_colour(soil, 0.88)
        )
        for column in range(-10, 11):
            spot = frame.at(column * along, row * across)
            if not (-0.05 < spot.x < canvas.width + 0.05 and -0.05 < spot.y < canvas.height + 0.05):
                continue
            tree(canvas, spot.x, spot.y, radius * canvas.uniform(0.85, 1.1), crown)
            for _ in range(2 if fruit else 0):
                x, y = (canvas.uniform(-0.6, 0.6) * radius for _ in range(2))
                canvas.circle(spot.x + x, spot.y + y, 0.009, fruit or crown)
    canvas.reserve(rectangle(canvas.width - 0.4, canvas.height - 0.4, canvas.width / 2, canvas.height / 2))


def meadow(canvas: Canvas, tags: Tags) -> None:
    """Draw open grass: mown in stripes, or patchy with cattle."""
    colour = canvas.vary((134, 168, 74), 7)
    canvas.fill(canvas.texture(colour, rough=0.09, cells=5))
    frame = canvas.frame(0.05)
    if tags["meadow"] == "agricultural":
        width = canvas.uniform(0.075, 0.1)
        light = canvas.texture(scale_colour(colour, 1.22), rough=0.05)
        for k in range(-6, 7):
            canvas.polygon(frame.place(rectangle(4, width, 0, 2 * k * width)), light)
        for _ in range(int(canvas.rng.integers(2, 6))):
            bale = frame.at(canvas.uniform(-0.35, 0.35), canvas.uniform(-0.35, 0.35))
            canvas.circle(bale.x + canvas.shade[0] * 0.018, bale.y + canvas.shade[1] * 0.018, 0.026, (70, 84, 46))
            canvas.circle(bale.x, bale.y, 0.026, (222, 200, 128))
    else:
        for _ in range(7):
            patch = frame.at(canvas.uniform(-0.6, 0.6), canvas.uniform(-0.6, 0.6))
            tone = scale_colour(colour, canvas.uniform(0.84, 1.1))
            canvas.polygon(patch.place(blob(canvas, canvas.uniform(0.05, 0.13), 1.6)), canvas.texture(tone))
        for _ in range(int(canvas.rng.integers(9, 16))):
            cow = Frame(
                canvas.width * canvas.uniform(0.12, 0.88), canvas.height * canvas.uniform(0.12, 0.88), canvas.uniform(0, 6)
            )
            canvas.polygon(cow.place(rectangle(0.042, 0.022, canvas.shade[0] * 0.012, 0.012)), (62, 78, 40))
            canvas.polygon(cow.place(rectangle(0.042, 0.02)), canvas.pick((WHITE, (96, 58, 40), (40, 34, 34))))
    canvas.reserve(rectangle(canvas.width - 0.4, canvas.height - 0.4, canvas.width / 2, canvas.height / 2))


def circular_farmland(canvas: Canvas, tags: Tags) -> None:
    """Draw a field watered by a pivot: a disc of crop with rings and the arm, on dry ground."""
    canvas.fill(canvas.texture(canvas.vary((198, 168, 128), 8), rough=0.06))
    frame, radius = canvas.frame(0.05), canvas.uniform(0.36, 0.44)
    crop = canvas.vary(CROPS[tags["crop"]], 6)
    canvas.circle(frame.x, frame.y, radius * 1.04, (158, 132, 98))
    canvas.circle(frame.x, frame.y, radius, canvas.texture(crop, rough=0.05))
    begin, sweep = canvas.uniform(0, 6.3), canvas.uniform(0.7, 2.0)
    arc = [(radius * math.cos(begin + sweep * k / 12), radius * math.sin(begin + sweep * k / 12)) for k in range(13)]
    canvas.polygon(Frame(frame.x, frame.y).place([(0, 0), *arc]), canvas.texture(scale_colour(crop, 0.84), rough=0.05))
    ring = scale_colour(crop, 0.87)
    for k in range(1, 5):
        outline = disc(frame.x, frame.y, radius * k / 5)
        canvas.line([*outline, outline[0]], 0.011, ring)
    canvas.line([(frame.x, frame.y), frame.place([(radius, 0)])[0]], 0.018, WHITE)
    canvas.circle(frame.x, frame.y, 0.022, WHITE)
    canvas.reserve(disc(frame.x, frame.y, radius))


def golf_course(canvas: Canvas, tags: Tags) -> None:
    """Draw fairways that end in greens with a flag, between bunkers and trees."""
    canvas.fill(canvas.texture(canvas.vary((72, 112, 50), 5), rough=0.12))
    frame, count = canvas.frame(0.04), int(tags["holes"])
    spacing = {1: 0.0, 2: 0.4, 3: 0.31}[count]
    for k in range(count):
        hole = frame.at(canvas.uniform(-0.04, 0.04), (k - (count - 1) / 2) * spacing, math.pi * int(canvas.rng.integers(2)))
        bend = canvas.uniform(-0.1, 0.1) if count == 1 else 0.0
        width = {1: 0.3, 2: 0.22, 3: 0.17}[count]
        spine = [(x / 10, bend * math.sin(x / 2)) for x in range(-4, 3)]
        fairway = hole.place(band(spine, width))
        canvas.polygon(fairway, canvas.texture((126, 172, 74), rough=0.06))
        for u, v in (spine[0], spine[-1]):
            end = hole.at(u, v)
            canvas.circle(end.x, end.y, width / 2, (126, 172, 74))
        for start in range(0, 6, 2):
            canvas.polygon(hole.place(band(spine[start : start + 2], width * 0.94)), (142, 190, 88))
        green = hole.at(0.27, 0)
        canvas.polygon(green.place(blob(canvas, width * 0.52, 1.1, 0.08)), (178, 226, 116))
        for side in (-1, 1):
            bunker = hole.at(0.27 + canvas.uniform(-0.16, -0.07), side * width * 0.6, canvas.uniform(-0.4, 0.4))
            canvas.polygon(bunker.place(blob(canvas, width * 0.27, 1.5, 0.16)), (244, 228, 184))
        canvas.line([(green.x, green.y), (green.x + 0.035, green.y - 0.05)], 0.012, (60, 60, 60))
        canvas.circle(green.x + 0.035, green.y - 0.05, 0.022, (222, 44, 36))
    canvas.reserve(frame.place(rectangle(0.9, 0.36 + spacing * (count - 1))))
    _scatter_trees(canvas, 40)


def beach(canvas: Canvas, tags: Tags) -> None:
    """Draw a shore: grown land, a band of sand or pebbles, foam, shallow and deep water."""
    canvas.fill(grass(canvas))
    frame = canvas.frame(0.06)
    swing, phase = canvas.uniform(0.01, 0.035), canvas.uniform(0, 6.3)
    width = canvas.uniform(0.26, 0.36)
    ground = SAND if tags["surface"] == "sand" else (150, 148, 146)
    layers: list[tuple[float, Colour, float]] = [
        (-width, ground, 0.05 if tags["surface"] == "sand" else 0.16),
        (-0.045, scale_colour(ground, 0.82), 0.05),
        (0.0, (240, 246, 244), 0.02),
        (0.035, (92, 182, 184), 0.04),
        (0.17, (44, 132, 160), 0.05),
        (0.34, (24, 86, 130), 0.06),
    ]
    for offset, colour, roughness in layers:
        surface = canvas.texture(colour, rough=roughness / 2, grain=roughness)
        canvas.polygon(frame.place(_half_plane(canvas, offset, swing * (1 + max(0.0, offset)), phase)), surface)
    for _ in range(6):
        spot = frame.at(canvas.uniform(-0.5, 0.5), canvas.uniform(-width * 0.8, -0.08))
        canvas.circle(spot.x, spot.y, 0.02, canvas.pick(((222, 52, 44), (40, 96, 190), (250, 214, 60), WHITE)))
    canvas.reserve(frame.place(_half_plane(canvas, -width, swing, phase)))


def island(canvas: Canvas, tags: Tags) -> None:
    """Draw land with a pale rim and shallow water around it, alone in the sea."""
    canvas.fill(canvas.texture(canvas.vary((26, 82, 126), 6), rough=0.06, grain=0.05, cells=12))
    frame, cover = canvas.frame(0.06), tags["natural"]
    outline = blob(canvas, canvas.uniform(0.27, 0.33), canvas.uniform(1.0, 1.5), 0.16)
    rings: tuple[tuple[float, Colour], ...] = ((1.34, (44, 124, 156)), (1.2, (92, 184, 186)), (1.09, SAND))
    for factor, colour in rings:
        canvas.polygon(frame.place([(u * factor, v * factor) for u, v in outline]), canvas.texture(colour, rough=0.04))
    inner: Colour = {"wood": (44, 74, 36), "bare_rock": (136, 132, 128), "sand": (238, 220, 172)}[cover]
    canvas.polygon(frame.place(outline), canvas.texture(inner, rough=0.16 if cover == "bare_rock" else 0.05, grain=0.08))
    for _ in range(70 if cover == "wood" else 0):
        t, r = canvas.uniform(0, 6.3), math.sqrt(canvas.uniform(0, 0.86))
        u, v = outline[int(t / 6.3 * len(outline))]
        spot = frame.at(u * r, v * r)
        tree(canvas, spot.x, spot.y, canvas.uniform(0.03, 0.048), (62, 104, 46))
    for _ in range(9 if cover == "bare_rock" else 0):
        u, v = outline[int(canvas.rng.integers(len(outline)))]
        rock = frame.at(u * canvas.uniform(0, 0.7), v * canvas.uniform(0, 0.7))
        canvas.polygon(rock.place(blob(canvas, 0.045, 1.5)), canvas.vary((104, 100, 98), 12))
    canvas.reserve(rectangle(4, 4))


def lake(canvas: Canvas, tags: Tags) -> None:
    """Draw a closed, rounded sheet of still water in green land."""
    canvas.fill(grass(canvas))
    frame, colour = canvas.frame(0.06), WATERS[tags["colour"]]
    outline = blob(canvas, canvas.uniform(0.3, 0.37), canvas.uniform(1.0, 1.4), 0.13)
    rings: tuple[tuple[float, Colour], ...] = ((1.08, (72, 98, 54)), (1.0, scale_colour(colour, 1.22)), (0.9, colour))
    for factor, tone in rings:
        canvas.polygon(frame.place([(u * factor, v * factor) for u, v in outline]), water(canvas, tone))
    canvas.reserve(frame.place([(u * 1.08, v * 1.08) for u, v in outline]))


def river(canvas: Canvas, tags: Tags) -> None:
    """Draw winding water that enters and leaves the tile, between pale banks."""
    canvas.fill(grass(canvas))
    frame, colour = canvas.frame(0.05), WATERS[tags["colour"]]
    path, width = meander(canvas, canvas.uniform(0.07, 0.12), canvas.uniform(0.6, 1.0)), canvas.uniform(0.17, 0.24)
    banks = frame.place(band(path, width + 0.07))
    canvas.polygon(banks, canvas.texture((196, 182, 140)))
    canvas.polygon(frame.place(band(path, width)), water(canvas, scale_colour(colour, 1.15)))
    canvas.polygon(frame.place(band(path, width * 0.6)), water(canvas, colour))
    for u, v in path[6:43:2]:
        side = -1 if canvas.chance(0.5) else 1
        spot = frame.at(u, v + side * (width * 0.65 + canvas.uniform(0.05, 0.1)))
        tree(canvas, spot.x, spot.y, canvas.uniform(0.024, 0.036))
    canvas.reserve(banks)


def _half_plane(canvas: Canvas, offset: float, swing: float, phase: float) -> list[Point]:
    """Give everything beyond a wavy line at ``offset`` below the x axis of a frame."""
    reach = canvas.reach
    shore = [(reach * (k / 20 - 1), offset + swing * math.sin(reach * k / 2.6 + phase)) for k in range(41)]
    return [*shore, (reach, 2 * reach), (-reach, 2 * reach)]


def _scatter_trees(canvas: Canvas, count: int) -> None:
    """Put trees where nothing is reserved."""
    for _ in range(count):
        x, y, r = canvas.uniform(0, canvas.width), canvas.uniform(0, canvas.height), canvas.uniform(0.022, 0.04)
        if canvas.taken(x - r, y - r, x + r, y + r) == 0:
            tree(canvas, x, y, r, LEAF)


PAINTERS: dict[str, Painter] = {
    "beach": beach,
    "circular farmland": circular_farmland,
    "forest": forest,
    "golf course": golf_course,
    "island": island,
    "lake": lake,
    "meadow": meadow,
    "orchard": orchard,
    "river": river,
}
