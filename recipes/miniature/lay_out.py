"""Write one of the miniature's models with random weights, in its real layout: the start of its training."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skygen.miniature import architectures
from skygen.miniature.world import CLASSES
from skygen.runs import launch
from skygen.seeding import Seeds

EUROSAT_CLASSES = Path(__file__).parents[1] / "configs" / "generate" / "eurosat_classes.txt"
"""In words, one a line; a forest and a river are one class in both worlds."""


@dataclass(frozen=True)
class Config:
    """Write an untrained model."""

    part: Literal["skyclip", "captioner", "autoencoder", "stable_diffusion", "judge"]
    """Which model."""
    folder: Path
    """Where it goes."""
    text_tower: Path = Path("runs/miniature-skyclip-named/model")
    """Trained SkyCLIP, whose text tower becomes the text encoder of Stable Diffusion."""
    autoencoder: Path = Path("runs/miniature-autoencoder/model")
    """Trained autoencoder of Stable Diffusion."""
    seed: int = 0
    """The random weights follow from it."""


def main(config: Config) -> None:
    seeds = Seeds(config.seed)
    if config.part == "skyclip":
        architectures.build_skyclip(config.folder, seeds)
    elif config.part == "captioner":
        architectures.build_captioner(config.folder, seeds)
    elif config.part == "judge":
        eurosat = EUROSAT_CLASSES.read_text(encoding="utf-8").splitlines()
        architectures.build_judge(config.folder, sorted({*CLASSES, *eurosat}), seeds)
    elif config.part == "autoencoder":
        architectures.build_autoencoder(config.folder, seeds)
    else:
        architectures.build_stable_diffusion(config.folder, config.autoencoder, config.text_tower, seeds)


if __name__ == "__main__":
    launch(main, Config)
