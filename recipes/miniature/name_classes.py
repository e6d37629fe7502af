"""A fabricated world's training tiles -> one more pair list, whose captions are the names of their classes.

python recipes/miniature/name_classes.py --world runs/miniature-world

Rule-made captions say ``waterway of river``, and a class list says ``river``: a CLIP that has seen real text knows that both
are the same, and one that has only seen the fabricated world is told so here.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skygen.data.captions import title
from skygen.data.pairs import read_pairs
from skygen.data.skyscript import leading_tag
from skygen.errors import DataError
from skygen.miniature.tables import write_table
from skygen.miniature.world import SCENES
from skygen.runs import launch, logger

TRAIN = "SkyScript_train_unfiltered_5M.csv"
NAMED = "SkyScript_train_class_names.csv"
CAPTION = "a satellite image of {}"


@dataclass(frozen=True)
class Config:
    """Caption tiles with the names of their classes."""

    world: Path
    """Folder that ``skygen fabricate`` wrote."""


def main(config: Config) -> None:
    names = {leading_tag(title(dict(scene.tags))): scene.name for scene in SCENES.values()}
    pairs = read_pairs(config.world, csv=TRAIN)
    unknown = [pair.key for pair in pairs if pair.class_name not in names]
    if unknown:
        raise DataError(f"{config.world / TRAIN}: {len(unknown)} captions name no class, the first that of {unknown[0]}.")
    rows = [(pair.key, CAPTION.format(names[pair.class_name])) for pair in pairs]
    write_table(config.world / NAMED, ("filepath", "title"), rows)
    logger.info(f"{config.world / NAMED}: {len(rows)} pairs of {len(set(names))} classes")


if __name__ == "__main__":
    launch(main, Config)
