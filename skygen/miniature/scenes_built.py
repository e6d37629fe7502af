"""How buildings, sports grounds and plants look from above: one painter a class."""

from __future__ import annotations

import math

from skygen.miniature.drawing import Canvas, Colour, Frame, Point, blob, disc, rectangle, scale_colour
from skygen.miniature.objects import (
    GRASS,
    SURFACES,
    WHITE,
    car,
    cast_shadow,
    flat_house,
    gabled_house,
    grass,
    hipped_house,
    tree,
)
from skygen.miniature.scenes_nature import Painter, Tags

PAINTS: dict[str, Colour] = {
    "black": (48, 48, 52),
    "blue": (58, 100, 160),
    "brown": (122, 78, 48),
    "green": (64, 128, 84),
    "grey": (134, 136, 140),
    "red": (188, 64, 46),
    "white": (232, 232, 228),
}


def apartment(canvas: Canvas, tags: Tags) -> None:
    """Draw a tall slab whose roof leans away from its front: one row of windows a storey."""
    canvas.fill(grass(canvas))
    levels, roof = int(tags["building:levels"]), canvas.vary(PAINTS[tags["roof:colour"]], 4)
    rise = 0.065 * levels
    frame = Frame(canvas.width / 2 + canvas.uniform(-0.06, 0.06), canvas.height / 2 + rise / 2, canvas.uniform(-0.22, 0.22))
    width, depth = canvas.uniform(0.6, 0.7), canvas.uniform(0.2, 0.26)
    base = frame.place(rectangle(width, depth))
    canvas.shade = (canvas.shade[0], -abs(canvas.shade[1]) * 0.4)
    cast_shadow(canvas, base, 0.05 + 0.05 * levels)
    canvas.polygon(frame.place(rectangle(width + 0.16, 0.09, 0, depth / 2 + 0.06)), (176, 170, 158))
    wall = canvas.pick(((226, 214, 190), (210, 190, 166), (220, 220, 216)))
    front = frame.place([(-width / 2, depth / 2), (width / 2, depth / 2)])
    canvas.polygon([*front, (front[1][0], front[1][1] - rise), (front[0][0], front[0][1] - rise)], wall)
    bays = 8
    for level in range(levels):
        lift = rise * (level + 0.5) / levels
        for bay in range(bays):
            ((x, y),) = frame.place([((bay + 0.5 - bays / 2) * width / bays, depth / 2)])
            window = Frame(x, y - lift, frame.angle)
            canvas.polygon(window.place(rectangle(width / bays * 0.6, 0.034)), (66, 84, 108))
    top = Frame(frame.x, frame.y - rise, frame.angle)
    canvas.polygon(top.place(rectangle(width, depth)), scale_colour(roof, 1.18))
    canvas.polygon(top.place(rectangle(width - 0.03, depth - 0.035)), roof)
    for x in (-0.2, 0.05, 0.22):
        canvas.polygon(top.place(rectangle(0.06, 0.07, x, canvas.uniform(-0.03, 0.03))), scale_colour(roof, 0.68))
    for _ in range(3):
        car(canvas, frame.at(canvas.uniform(-0.3, 0.3), depth / 2 + 0.07), 0.08)
    canvas.reserve([*base, *(top.place(rectangle(width, depth)))])
    canvas.reserve(Frame(frame.x, frame.y - rise / 2, frame.angle).place(rectangle(width + 0.08, depth + rise + 0.2)))


def detached_house(canvas: Canvas, tags: Tags) -> None:
    """Draw one large house with its garden, hedge and driveway."""
    canvas.fill(grass(canvas))
    frame, roof = canvas.frame(0.06), canvas.vary(PAINTS[tags["roof:colour"]], 5)
    width, depth = canvas.uniform(0.46, 0.56), canvas.uniform(0.32, 0.38)
    canvas.polygon(frame.place(rectangle(0.82, 0.76)), canvas.texture(canvas.pick(((126, 176, 84), (140, 182, 96)))))
    canvas.polygon(frame.place(rectangle(0.15, 0.36, -width * 0.3, 0.34)), (192, 186, 174))
    for k in range(-4, 5):
        for u, v in ((k * 0.1, -0.38), (-0.41, k * 0.09), (0.41, k * 0.09)):
            spot = frame.at(u, v)
            tree(canvas, spot.x, spot.y, 0.036, (48, 92, 44))
    draw = {"gabled": gabled_house, "hipped": hipped_house, "flat": flat_house}[tags["roof:shape"]]
    draw(canvas, frame, width, depth, roof, 0.11)
    if tags["roof:shape"] != "flat":
        canvas.polygon(frame.place(rectangle(0.05, 0.045, width * 0.22, -depth * 0.14)), (92, 62, 52))
    car(canvas, frame.at(-width * 0.3, 0.33, math.pi / 2), 0.13)
    canvas.reserve(frame.place(rectangle(0.86, 0.8)))


def baseball_field(canvas: Canvas, tags: Tags) -> None:
    """Draw the fan of an outfield, the infield diamond with its bases, and the mound."""
    canvas.fill(canvas.texture(canvas.vary(canvas.pick(GRASS), 6)))
    frame = canvas.frame(0.04)
    frame = frame.at(-0.36, 0.0)
    dirt = canvas.vary((190, 128, 82), 6)
    turf = canvas.vary((84, 150, 62), 5)
    fan = _sector(0.84)
    canvas.polygon(frame.place([(-0.05, 0.0), *_sector(0.9)]), dirt)
    canvas.polygon(frame.place([(0.0, 0.0), *fan]), canvas.texture(turf, rough=0.04))
    for k in range(2, 6):
        stripe = [*_sector(0.14 * k + 0.13), *reversed(_sector(0.14 * k + 0.06))]
        canvas.polygon(frame.place(stripe), scale_colour(turf, 1.14))
    canvas.polygon(frame.place([(-0.03, 0.0), *_sector(0.47)]), canvas.texture(dirt, rough=0.05))
    if tags["surface"] == "grass":
        canvas.polygon(frame.place([(0.05, 0), (0.2, 0.155), (0.36, 0), (0.2, -0.155)]), turf)
    canvas.circle(frame.x, frame.y, 0.07, dirt)
    mound = frame.at(0.2, 0)
    canvas.circle(mound.x, mound.y, 0.035, scale_colour(dirt, 1.18))
    for side in (-1, 1):
        far = 0.84 * math.cos(math.pi / 4)
        canvas.line(frame.place([(0, 0), (far, side * far)]), 0.014, WHITE)
    for u, v in ((0.0, 0.0), (0.2, 0.2), (0.4, 0.0), (0.2, -0.2)):
        canvas.polygon(frame.at(u, v, math.pi / 4).place(rectangle(0.036, 0.036)), WHITE)
    canvas.reserve(frame.place([(-0.08, 0.0), *_sector(0.92)]))


def _sector(radius: float) -> list[Point]:
    """Give the arc of a quarter circle that opens towards the x axis."""
    steps = (math.pi / 2 * (k / 16 - 0.5) for k in range(17))
    return [(radius * math.cos(t), radius * math.sin(t)) for t in steps]


def tennis_court(canvas: Canvas, tags: Tags) -> None:
    """Draw one to four courts side by side with lines and nets."""
    canvas.fill(grass(canvas))
    frame, courts = canvas.frame(0.04), int(tags["courts"])
    inside, outside = {
        "clay": ((206, 98, 58), (176, 82, 50)),
        "grass": ((134, 184, 86), (92, 146, 62)),
        "acrylic": ((56, 108, 178), (66, 138, 98)),
    }[tags["surface"]]
    width = {1: 0.34, 2: 0.3, 3: 0.24, 4: 0.2}[courts]
    length, gap = max(0.48, width * 1.9), width * 0.26
    total = courts * width + (courts + 1) * gap
    canvas.polygon(frame.place(rectangle(total + 0.03, length + 0.19)), (204, 204, 196))
    canvas.polygon(frame.place(rectangle(total, length + 0.16)), canvas.texture(canvas.vary(outside, 4), rough=0.04))
    for k in range(courts):
        court = frame.at((k - (courts - 1) / 2) * (width + gap), 0)
        canvas.polygon(court.place(rectangle(width, length)), canvas.vary(inside, 3))
        outline = court.place(rectangle(width, length))
        canvas.line([*outline, outline[0]], 0.014, WHITE)
        for x in (-0.37, 0.37):
            canvas.line(court.place([(x * width, -length / 2), (x * width, length / 2)]), 0.009, WHITE)
        for y in (-0.25, 0.25):
            canvas.line(court.place([(-0.37 * width, y * length), (0.37 * width, y * length)]), 0.009, WHITE)
        canvas.line(court.place([(0, -0.25 * length), (0, 0.25 * length)]), 0.009, WHITE)
        canvas.line(court.place([(-0.56 * width, 0), (0.56 * width, 0)]), 0.02, (36, 40, 40))
    canvas.reserve(frame.place(rectangle(total, length + 0.19)))


def swimming_pool(canvas: Canvas, tags: Tags) -> None:
    """Draw bright turquoise water with a white rim in a terrace, loungers beside it."""
    canvas.fill(canvas.texture(canvas.vary((112, 158, 72), 8)))
    frame, size = canvas.frame(0.06), canvas.uniform(0.95, 1.08)
    canvas.polygon(frame.place(rectangle(0.84, 0.66)), canvas.texture(canvas.vary(SURFACES[tags["surface"]], 4), rough=0.04))
    outline = {
        "rectangular": rectangle(0.58, 0.34),
        "round": disc(0, 0, 0.24),
        "kidney": [
            (0.3 * math.cos(t), 0.21 * math.sin(t) - 0.13 * math.exp(-((math.cos(t) * 3) ** 2)) * (math.sin(t) > 0))
            for t in (2 * math.pi * k / 60 for k in range(60))
        ],
    }[tags["shape"]]
    for factor, colour in ((1.1, (246, 246, 242)), (1.0, (64, 190, 214)), (0.8, (48, 170, 206))):
        canvas.polygon(
            frame.place([(u * factor * size, v * factor * size) for u, v in outline]),
            canvas.texture(colour, rough=0.06, grain=0.03, cells=16),
        )
    for k in range(4):
        seat = frame.at((k - 1.5) * 0.13, -0.27)
        canvas.polygon(seat.place(rectangle(0.045, 0.085)), WHITE)
    for u in (-0.35, 0.35):
        umbrella = frame.at(u, 0.27)
        canvas.circle(umbrella.x + canvas.shade[0] * 0.03, umbrella.y + canvas.shade[1] * 0.03, 0.045, (70, 72, 62))
        canvas.circle(umbrella.x, umbrella.y, 0.045, canvas.pick(((214, 62, 50), (240, 240, 236), (244, 196, 60))))
    canvas.reserve(frame.place(rectangle(0.86, 0.68)))


def solar_power_plant(canvas: Canvas, tags: Tags) -> None:
    """Draw blocks of dark panels with pale seams, in one or more rows."""
    canvas.fill(canvas.texture(canvas.vary(canvas.pick(((150, 158, 104), (190, 172, 130), (128, 148, 88))), 5)))
    frame, modules = canvas.frame(0.04), int(tags["generator:solar:modules"])
    columns, rows = {2: (1, 2), 4: (2, 2), 6: (2, 3), 9: (3, 3)}[modules]
    width, height = 0.86 / columns - 0.05, 0.84 / rows - 0.06
    panel = canvas.vary(canvas.pick(((30, 46, 92), (36, 58, 116), (34, 38, 62))), 4)
    for column in range(columns):
        for row in range(rows):
            block = frame.at((column - (columns - 1) / 2) * 0.86 / columns, (row - (rows - 1) / 2) * 0.84 / rows)
            outline = block.place(rectangle(width, height))
            cast_shadow(canvas, outline, 0.025, (74, 74, 60))
            canvas.polygon(outline, panel)
            canvas.polygon(block.place(rectangle(width, height * 0.34, 0, -height * 0.2)), scale_colour(panel, 1.35))
            seams = max(2, round(width / 0.085))
            for k in range(seams + 1):
                x = (k / seams - 0.5) * width
                canvas.line(block.place([(x, -height / 2), (x, height / 2)]), 0.008, (160, 172, 196))
            for y in (-height / 2, 0.0, height / 2):
                canvas.line(block.place([(-width / 2, y), (width / 2, y)]), 0.009, (176, 186, 206))
    canvas.reserve(frame.place(rectangle(0.92, 0.9)))


def storage_tank(canvas: Canvas, tags: Tags) -> None:
    """Draw one to four round tanks with a long shadow, seams and a walkway, inside a bund."""
    canvas.fill(canvas.texture(canvas.vary(canvas.pick(((170, 156, 128), (150, 150, 112), (174, 170, 160))), 5)))
    frame, count = canvas.frame(0.04), int(tags["tanks"])
    spots, radius = {
        1: ([(0.0, 0.0)], 0.3),
        2: ([(-0.23, 0.0), (0.23, 0.0)], 0.19),
        3: ([(-0.22, 0.15), (0.22, 0.15), (0.0, -0.23)], 0.17),
        4: ([(-0.21, -0.21), (0.21, -0.21), (-0.21, 0.21), (0.21, 0.21)], 0.165),
    }[count]
    canvas.polygon(frame.place(rectangle(0.98, 0.94 if count != 2 else 0.62)), (140, 128, 106))
    canvas.polygon(frame.place(rectangle(0.93, 0.89 if count != 2 else 0.57)), canvas.texture((186, 178, 160)))
    colour = PAINTS[tags["colour"]]
    for u, v in spots:
        tank = frame.at(u, v)
        cast_shadow(canvas, disc(tank.x, tank.y, radius, 28), radius * 0.62, (58, 56, 54))
        canvas.circle(tank.x, tank.y, radius, scale_colour(colour, 0.7))
        canvas.circle(tank.x - canvas.shade[0] * 0.015, tank.y - canvas.shade[1] * 0.015, radius * 0.93, colour)
        for k in range(6):
            spoke = tank.at(0, 0, k * math.pi / 3)
            canvas.line(spoke.place([(0, 0), (radius * 0.9, 0)]), 0.007, scale_colour(colour, 0.82))
        canvas.circle(tank.x, tank.y, radius * 0.16, scale_colour(colour, 0.74))
        canvas.line(tank.place([(radius * 0.2, 0), (radius * 1.12, 0)]), 0.022, (208, 196, 120))
    canvas.reserve(frame.place(rectangle(0.98, 0.94 if count != 2 else 0.62)))


def wind_farm(canvas: Canvas, tags: Tags) -> None:
    """Draw one to four turbines seen at a slant: white tower, three blades, and their shadow on the fields."""
    canvas.fill(canvas.texture(canvas.vary(canvas.pick(((126, 146, 82), (152, 142, 92), (110, 134, 72))), 6)))
    field = canvas.frame(0.1)
    for k in range(-3, 4):
        tone = canvas.vary((138, 146, 86), 13)
        canvas.polygon(field.place(rectangle(4, 0.34, 0, k * 0.34)), canvas.texture(tone, rough=0.06))
    count = int(tags["turbines"])
    frame = Frame(canvas.width / 2 + canvas.uniform(-0.03, 0.03), canvas.height / 2 + canvas.uniform(-0.03, 0.03))
    spots, scale = {
        1: ([(0.0, 0.14)], 1.5),
        2: ([(-0.24, 0.2), (0.24, 0.02)], 1.05),
        3: ([(-0.26, 0.3), (0.26, 0.26), (0.0, -0.12)], 0.88),
        4: ([(-0.24, -0.1), (0.25, -0.14), (-0.25, 0.37), (0.24, 0.33)], 0.8),
    }[count]
    bases = [frame.at(u, v) for u, v in spots]
    for base in bases:
        canvas.line([(base.x, base.y), (base.x + canvas.shade[0], base.y + 1.4)], 0.028, (206, 194, 160))
    for base in bases:
        _turbine(canvas, base, scale)
    canvas.reserve(frame.place(rectangle(0.84, 0.9)))


def _turbine(canvas: Canvas, base: Frame, scale: float) -> None:
    """Draw one wind turbine on its pad, its shadow first."""
    tower, blade, spin = 0.26 * scale, 0.2 * scale, canvas.uniform(0, 2.1)
    canvas.polygon(base.place(blob(canvas, 0.055 * scale, 1.4, 0.05)), (212, 202, 172))
    fall = (canvas.shade[0] * 0.5, abs(canvas.shade[1]) * 0.35 + 0.1)
    for shade in (True, False):
        lean = (fall[0] * tower, fall[1] * tower) if shade else (0.0, -tower)
        colour: Colour = (100, 110, 66) if shade else (252, 252, 252)
        hub = (base.x + lean[0], base.y + lean[1])
        canvas.line([(base.x, base.y), hub], 0.024 * scale, colour)
        for k in range(3):
            turned = Frame(*hub, spin + k * 2 * math.pi / 3)
            blade_shape = [(0.0, -0.017 * scale), (blade * 0.3, -0.019 * scale), (blade, 0.0), (0.0, 0.013 * scale)]
            canvas.polygon(turned.place(blade_shape), colour)
        canvas.circle(*hub, 0.022 * scale, colour)


PAINTERS: dict[str, Painter] = {
    "apartment": apartment,
    "baseball field": baseball_field,
    "detached house": detached_house,
    "solar power plant": solar_power_plant,
    "storage tank": storage_tank,
    "swimming pool": swimming_pool,
    "tennis court": tennis_court,
    "wind farm": wind_farm,
}
