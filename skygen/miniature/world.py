"""What the miniature world holds: its classes, and what can be seen around them.

The class names are 26 of SkyScript-classification's 70. Whatever a tag says is drawn, and a painter reads nothing but the
tags: see ``skygen.miniature.tiles``.
"""

from __future__ import annotations

from dataclasses import dataclass

from skygen.miniature.scene_class import SceneClass
from skygen.miniature.scene_classes import BASE_SCENES, NOVEL_SCENES


@dataclass(frozen=True, slots=True)
class Neighbour:
    """Something that may stand at the edge of a tile.

    Args:
        tag: OpenStreetMap key and value.
        phrase: what a sentence calls it.
    """

    tag: tuple[str, str]
    phrase: str


NEIGHBOURS: dict[str, Neighbour] = {
    "field": Neighbour(("landuse", "farmland"), "a ploughed field"),
    "houses": Neighbour(("building", "house"), "a row of houses"),
    "parking": Neighbour(("amenity", "parking"), "a parking lot"),
    "pond": Neighbour(("natural", "water"), "a pond"),
    "road": Neighbour(("highway", "residential"), "a residential road"),
    "track": Neighbour(("highway", "track"), "a dirt track"),
    "trees": Neighbour(("natural", "tree"), "some trees"),
    "wood": Neighbour(("natural", "wood"), "a strip of woodland"),
}

BASE_CLASSES: tuple[str, ...] = tuple(scene.name for scene in BASE_SCENES)
"""What the shipped miniature models were trained on."""

NOVEL_CLASSES: tuple[str, ...] = tuple(scene.name for scene in NOVEL_SCENES)
"""What they have never seen: here a LoRA has something to learn."""

SCENES: dict[str, SceneClass] = {
    scene.name: scene for scene in sorted((*BASE_SCENES, *NOVEL_SCENES), key=lambda scene: scene.name)
}
CLASSES: tuple[str, ...] = tuple(SCENES)
"""All class names in alphabetical order."""
