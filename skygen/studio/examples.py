"""Prompts and pictures to begin with: the miniature's world, drawn by rules and not by a model."""

from __future__ import annotations

from pathlib import Path
from typing import Final

from skygen.data.captions import AERIAL_PREFIX, SATELLITE_PREFIX
from skygen.miniature.sentences import describe
from skygen.miniature.sources import SOURCES
from skygen.miniature.tiles import Tile, draw_tile
from skygen.miniature.world import CLASSES
from skygen.seeding import Seeds
from skygen.storage import writing

EXAMPLES: Final = ("harbour", "baseball field", "airport runway", "orchard", "river", "island")
TILES_OF_A_CLASS: Final = 4
"""In what can be searched where nothing else is given."""


def list_prompts() -> list[str]:
    """Return prompts as the miniature has learned them, one for each of ``EXAMPLES``."""
    return [_caption(_draw(name, 0)) for name in EXAMPLES]


def draw_examples(folder: Path) -> list[Path]:
    """Draw a tile of each of ``EXAMPLES`` into a folder; other ones than the prompts speak of."""
    return [_save(_draw(name, 1), folder / f"{name.replace(' ', '_')}.png") for name in EXAMPLES]


def draw_tiles(folder: Path) -> Path:
    """Draw tiles of all classes of the world into a folder, to be searched."""
    for name in CLASSES:
        for number in range(TILES_OF_A_CLASS):
            _save(_draw(name, 2 + number), folder / f"{name.replace(' ', '_')}_{number}.png")
    return folder


def _draw(name: str, seed: int) -> Tile:
    return draw_tile(name, Seeds(seed).numpy("example", name))


def _save(tile: Tile, path: Path) -> Path:
    with writing(path) as temporary:
        tile.image.save(temporary, format="PNG")
    return path


def _caption(tile: Tile) -> str:
    prefix = AERIAL_PREFIX if SOURCES[tile.source].aerial else SATELLITE_PREFIX
    return prefix + describe(tile.class_name, tile.tags, tile.neighbours, 0)
