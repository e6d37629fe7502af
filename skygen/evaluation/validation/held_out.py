"""What a training run is validated on: the settings, and the pairs they select."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import final

import pyarrow as pa
import pyarrow.compute as pc

from skygen.config import Magnitude
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError
from skygen.seeding import Seeds


@dataclass(frozen=True)
class ValidationSettings:
    """What is measured and drawn while training, from the same seeds each time."""

    steps: int = 0
    """Validate every so many updates, and at the end; 0 is never."""
    split: str | None = None
    """Split of the held-out pairs; left out, they are the first training pairs, which the record says."""
    csv: Path | None = None
    """The split's CSV, where the data set has one a split."""
    pairs: int = 64
    """Held-out pairs that the loss is computed on."""
    images: int = 32
    """Pictures drawn of held-out captions and scored; 0 leaves the scores out, below 16 KID is."""
    prompts: tuple[str, ...] = ()
    """What the grid shows; held-out captions where it is empty."""
    grid: int = 6
    """Held-out captions on the grid, where there are no prompts."""
    num_inference_steps: int = 20
    """Denoising steps of a picture."""
    guidance_scale: Magnitude = 5.0
    """Weight of the prompt; 1 is none."""
    scorer: str = "miniature"
    """The CLIP that scores the pictures, as --scorer.name of other recipes has it; empty for no scores."""
    batch_size: int = 8
    """Pairs or pictures at a time; changes none of them."""

    def __post_init__(self) -> None:
        least = {"steps": 0, "pairs": 1, "images": 0, "grid": 0, "num_inference_steps": 1, "batch_size": 1}
        for name, lowest in least.items():
            if getattr(self, name) < lowest:
                raise ConfigError(f"validation.{name} is {getattr(self, name)}; it must be at least {lowest}")


@final
@dataclass(frozen=True, slots=True)
class HeldOut:
    """The pairs that a training run is validated on.

    Args:
        pairs: with their images.
        prompts: the first caption of each, as trained on.
        images: size and shape of the images, with the resolution set.
        subset: the split, or ``training pairs``.
        trained_on: how many of them are in training too.
    """

    pairs: Sequence[Pair]
    prompts: tuple[str, ...]
    images: ImageSettings
    subset: str
    trained_on: int


def choose_held_out(
    settings: ValidationSettings,
    where: PairSettings,
    training: Sequence[Pair],
    images: ImageSettings,
    captions: CaptionSettings,
    rejects: Rejects,
) -> HeldOut:
    """Read the held-out pairs, or take the first training pairs where no split is named.

    Args:
        settings: which and how many.
        where: where the training pairs are from; the held-out ones are read there too.
        training: the training pairs.
        images: of the training, with the resolution set.
        captions: of the training; no caption is dropped here.
        rejects: where rows that cannot be used are noted.

    Raises:
        SkygenError: as ``PairSettings.read``.
    """
    count = max(settings.pairs, settings.images, settings.grid)
    pairs: Sequence[Pair] = training[:count]
    if settings.split is not None or settings.csv is not None:
        pairs = replace(where, csv=settings.csv, split=settings.split, limit=count, also=()).read(rejects)
    stream = PairStream(pairs, images, captions, Seeds(0), rejects)
    prompts = tuple(known[0] for known in stream.references())
    if settings.split is None and settings.csv is None:
        return HeldOut(pairs, prompts, images, "training pairs", len(pairs))
    subset = settings.split or (settings.csv.name if settings.csv else "")
    return HeldOut(pairs, prompts, images, subset, _count_shared(pairs, training))


def _count_shared(pairs: Sequence[Pair], training: Sequence[Pair]) -> int:
    """Count the pairs whose image is in training too; of millions, no pair is made for it."""
    keys = {pair.key for pair in pairs}
    if isinstance(training, PairList):
        return int(pc.sum(pc.is_in(training.column("key"), pa.array(sorted(keys)))).as_py() or 0)
    return sum(pair.key in keys for pair in training)
