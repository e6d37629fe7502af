"""When a picture is too far from its prompt: thresholds taken from real pairs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float

from skygen.errors import ConfigError, DataError


@dataclass(frozen=True)
class ThresholdSettings:
    """When a picture is too far from its prompt."""

    quantile: float = 0.05
    """Share of the real control pairs that falls below: of similarities, and of cycle scores where their captions are given."""

    def __post_init__(self) -> None:
        if not 0 <= self.quantile < 1:
            raise ConfigError(f"--threshold.quantile {self.quantile}: give a share in [0, 1), such as 0.05.")


@dataclass(frozen=True)
class CycleSettings:
    """When a caption is too far from the prompt."""

    threshold: float | None = None
    """Least cosine, in the place of one from ``captions.control``; without either, no picture is dropped for it."""


@final
@dataclass(frozen=True, slots=True)
class Threshold:
    """A similarity below which a picture and its text do not belong together.

    Args:
        value: a cosine in [-1, 1].
        count: real pairs it was taken from.
        mismatched_share: of real images with a caption of another wording, the share that reaches it, in [0, 1]; None where
            there are none. Near 1 the threshold parts nothing.
    """

    value: float
    count: int
    mismatched_share: float | None

    def describe(self) -> str:
        """Say in words what the threshold is worth."""
        passed = "" if self.mismatched_share is None else f"; {self.mismatched_share:.1%} of mismatched real pairs reach it"
        return f"weak: similarity to the prompt below {self.value:.4f}, of {self.count:,} real pairs{passed}"


def calibrate_threshold(
    own: Float[np.ndarray, " pairs"], mismatched: Float[np.ndarray, " others"], quantile: float
) -> Threshold:
    """Find the similarity that all but a small share of real pairs reach.

    Args:
        own: of real images and their own captions; those that are not numbers are left out.
        mismatched: of real images and captions of another wording; likewise.
        quantile: share of the real pairs that fall below, in [0, 1).

    Raises:
        ConfigError: ``quantile`` is out of range.
        DataError: there is no real pair.
    """
    ThresholdSettings(quantile)  # refuses what is no quantile
    own, mismatched = own[np.isfinite(own)], mismatched[np.isfinite(mismatched)]
    if not len(own):
        raise DataError("A threshold needs real pairs with a similarity, and there is none; give held-out pairs with captions.")
    value = float(np.quantile(own, quantile, method="inverted_cdf"))
    return Threshold(value, len(own), float((mismatched >= value).mean()) if len(mismatched) else None)
