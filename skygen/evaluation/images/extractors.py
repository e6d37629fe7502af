"""Which networks' features sets of images are compared in, by name."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from skygen.errors import ConfigError
from skygen.evaluation.images.features import Extractor, inception_extractor, judge_extractor, transformer_extractor
from skygen.evaluation.images.legacy import mhn_extractor
from skygen.models.judge import Judge


@dataclass(frozen=True)
class FeatureSettings:
    """The networks in whose features sets of images are compared."""

    extractors: tuple[str, ...] = ("scorer",)
    """`scorer`, `judge`, `inception`, `mhn`, or a vision transformer, such as `facebook/dinov2-base`: a folder or an id on the
    hub."""
    inception: Path | None = None
    """Weights of the FID Inception (``weights-inception-2015-12-05-6726825d.pth``)."""
    mhn: Path | None = None
    """State dict of torchvision's ``inception_v3`` fine-tuned on RSICD's 30 classes, for the protocol mhn-2023."""

    def __post_init__(self) -> None:
        if not self.extractors or len(set(self.extractors)) < len(self.extractors):
            raise ConfigError(f"--features.extractors {' '.join(self.extractors)}: name at least one, and each once.")
        for kind, path in (("inception", self.inception), ("mhn", self.mhn)):
            if kind in self.extractors and path is None:
                raise ConfigError(f"--features.extractors {kind}: give the file of its weights by --features.{kind}.")


def build_extractor(
    name: str, settings: FeatureSettings, judge: Judge | None, device: str, resized: int | None = None
) -> Extractor:
    """Build one of the extractors; `scorer` is made of the scorer itself, by ``scorer_extractor``.

    Args:
        name: one of ``settings.extractors``.
        settings: where weights lie.
        judge: the classifier, for `judge`.
        device: where it computes.
        resized: side that images are squeezed to before FID's Inception sees them, as some protocols do.

    Raises:
        ConfigError: `judge` is asked for and there is none.
        UnavailableError: the weights are not here, or are others.
    """
    if name == "judge":
        if judge is None:
            raise ConfigError("--features.extractors judge: name the judge by --judge.name.")
        return judge_extractor(judge)
    if name == "inception" and settings.inception:
        return inception_extractor(settings.inception, device=device, resized=resized)
    if name == "mhn" and settings.mhn:
        return mhn_extractor(settings.mhn, device=device)
    return transformer_extractor(name, device=device)
