"""One tile of the miniature world: tags are drawn at random, and the picture is drawn from the tags."""

from __future__ import annotations

from dataclasses import dataclass

from PIL import Image

from skygen.miniature import scenes_built, scenes_nature, scenes_traffic, surroundings
from skygen.miniature.drawing import Canvas, Generator
from skygen.miniature.sources import SOURCES, apply_look
from skygen.miniature.world import NEIGHBOURS, SCENES

SIZES = (64, 160)
"""Shortest and longest side of a tile in pixels; the sides differ by at most half."""

PAINTERS = {**scenes_built.PAINTERS, **scenes_nature.PAINTERS, **scenes_traffic.PAINTERS}


@dataclass(frozen=True, slots=True)
class Tile:
    """An overhead picture and all that is known of it.

    Args:
        image: RGB, 64 to 160 pixels a side, with the look of its source.
        class_name: one of the world's classes.
        source: alias of the image collection.
        tags: of the focus object, the naming tag first.
        surroundings: tags of every other object that was drawn.
        neighbours: names of the surrounding objects that a sentence mentions.
    """

    image: Image.Image
    class_name: str
    source: str
    tags: dict[str, str]
    surroundings: tuple[dict[str, str], ...]
    neighbours: tuple[str, ...]


def draw_tile(class_name: str, rng: Generator) -> Tile:
    """Make one tile of a class.

    Args:
        class_name: one of the world's classes.
        rng: every choice comes from it, so the same state makes the same tile.
    """
    scene = SCENES[class_name]
    tags = dict(scene.tags)
    for attribute in scene.attributes:
        tags[attribute.key] = attribute.values[int(rng.integers(len(attribute.values)))]
    source = scene.sources[int(rng.integers(len(scene.sources)))]
    size = _size(rng)
    canvas = Canvas(size, 3 if min(size) < 80 else 2, rng)
    PAINTERS[class_name](canvas, tags)
    wanted = rng.permutation(scene.around)[: int(rng.choice(4, p=(0.2, 0.4, 0.3, 0.1)))]
    neighbours = tuple(str(name) for name in wanted if surroundings.place(canvas, str(name)))
    picture = canvas.image.resize(size, Image.Resampling.BOX)
    around = [scene.always] if scene.always else []
    around += [(NEIGHBOURS[name].tag,) for name in neighbours]
    return Tile(
        image=apply_look(picture, SOURCES[source], rng),
        class_name=class_name,
        source=source,
        tags=tags,
        surroundings=tuple(dict(tag_pairs) for tag_pairs in around),
        neighbours=neighbours,
    )


def _size(rng: Generator) -> tuple[int, int]:
    """Choose a tile's width and height."""
    short = int(rng.integers(SIZES[0], 120))
    aspect = 1.0 + 0.5 * float(rng.random()) ** 2
    long = min(SIZES[1], round(short * aspect))
    return (long, short) if rng.random() < 0.5 else (short, long)
