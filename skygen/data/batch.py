"""What a learner sees: one pair, decoded, and some of them stacked."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass, replace

import torch
from jaxtyping import Float
from torch import Tensor

from skygen.data.image_metadata import UNKNOWN, ImageMetadata


@dataclass(frozen=True, slots=True)
class Batch:
    """What a learner sees of some pairs.

    Args:
        pixels: RGB in [-1, 1], float32; without height and width where ``features`` stand in their place.
        captions: one text an image.
        keys: ``Pair.key`` of each.
        features: what a frozen encoder has made of the images, where that is kept; in the store's dtype.
        references: all captions of each image, as a caption is trained on; ``captions`` holds the one of each that was drawn.
        metadata: how and where each image was taken.
        sizes: original height and width, top and left of the crop, target height and width of each image in pixels, float32.
    """

    pixels: Float[Tensor, "batch 3 height width"]
    captions: tuple[str, ...]
    keys: tuple[str, ...]
    features: Float[Tensor, "batch ..."] | None = None
    references: tuple[tuple[str, ...], ...] = ()
    metadata: tuple[ImageMetadata, ...] = ()
    sizes: Float[Tensor, "batch 6"] | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch with its tensors on ``device``."""
        features = None if self.features is None else self.features.to(device, non_blocking=True)
        sizes = None if self.sizes is None else self.sizes.to(device, non_blocking=True)
        return replace(self, pixels=self.pixels.to(device, non_blocking=True), features=features, sizes=sizes)

    def split(self, size: int) -> Iterator[Batch]:
        """Yield the batch in parts of at most ``size`` examples."""
        for start in range(0, len(self.keys), size):
            rows = slice(start, start + size)
            yield Batch(
                self.pixels[rows],
                self.captions[rows],
                self.keys[rows],
                None if self.features is None else self.features[rows],
                self.references[rows],
                self.metadata[rows],
                None if self.sizes is None else self.sizes[rows],
            )


@dataclass(frozen=True, slots=True)
class Example:
    """One pair, decoded: the row of a batch."""

    pixels: Float[Tensor, "3 height width"]
    caption: str
    key: str
    features: Float[Tensor, ...] | None = None
    references: tuple[str, ...] = ()
    metadata: ImageMetadata = UNKNOWN
    sizes: tuple[int, ...] | None = None
