"""What a vision tower is given: pixels of the mean and spread that it was trained on, in whole patches."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from skygen.errors import ConfigError


@dataclass(frozen=True, slots=True)
class PixelStatistics:
    """Mean and standard deviation of each channel, of pixels in [0, 1].

    Args:
        mean: of red, green and blue.
        std: likewise.
    """

    mean: Float[Tensor, "3 1 1"]
    std: Float[Tensor, "3 1 1"]

    @classmethod
    def of(cls, image_processor: Any) -> PixelStatistics:
        """Take them from a processor of transformers."""
        mean, std = (torch.tensor(values)[:, None, None] for values in (image_processor.image_mean, image_processor.image_std))
        return cls(mean, std)

    def normalise(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch 3 height width"]:
        """Bring pixels in [-1, 1] to mean 0 and spread 1 of those statistics."""
        return (pixels.add(1).div(2) - self.mean.to(pixels.device)) / self.std.to(pixels.device)


def require_whole_patches(resolution: int, patch: int, model: str) -> None:
    """Check the side of a square that a tower with interpolated position embeddings is to see.

    Raises:
        ConfigError: no whole number of patches.
    """
    if resolution < patch or resolution % patch:
        raise ConfigError(f"--images.resolution {resolution}: this {model} sees patches of {patch}; give a multiple of that.")
