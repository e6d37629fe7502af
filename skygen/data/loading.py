"""From a list of pairs to examples: an endless, stateless stream that any step can be read from.

Position ``n`` of the stream is item ``n mod N`` of the ``n // N``-th shuffle of the data. Update ``u`` of a run on ``W``
processes with ``A`` accumulation steps of ``B`` images takes positions ``u*A*W*B`` and onward, so that a resumed run needs
nothing but its step number, ranks share one order without overlap, and no epoch ends in a short batch.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from skygen.data.augmentation import color_jitter, dihedral, random_resized_crop
from skygen.data.captions import names_a_direction, strip_view_prefix
from skygen.data.framing import ImageSettings
from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.data.images import fit_image, image_to_tensor, open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.skyscript import view_prefix
from skygen.data.table import PairList
from skygen.errors import ConfigError, ImageError
from skygen.seeding import Seeds


@dataclass(frozen=True)
class CaptionSettings:
    """How a pair's captions become the text of one training example."""

    strip_prefix: bool = False
    """Drop the fixed opening such as ``a satellite image of``."""
    view_prefix: bool = False
    """Open each caption with how it was taken, ``An aerial image. It shows:`` or ``A satellite image. It shows:``, by its
    source, in the place of its own opening; ``a satellite image of`` where the source is not known."""
    dropout: float = 0.0
    """Share of examples trained with an empty caption, which classifier-free guidance needs."""

    def __post_init__(self) -> None:
        if self.strip_prefix and self.view_prefix:
            raise ConfigError("captions.view_prefix opens each caption anew: set captions.strip_prefix to false with it")


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


@runtime_checkable
class StoredFeatures(Protocol):
    """What a frozen encoder has made of the images, kept from an earlier look at them."""

    def read(self, row: int, variant: int) -> Float[Tensor, ...] | None:
        """Return the features of one image.

        Args:
            row: of the pair in the list.
            variant: which dihedral change of its image.

        Returns:
            None where the image could not be read.
        """
        ...


class PairStream(Dataset[Example | None]):
    """The endless stream of examples; item ``n`` is the same in every process, worker and resume.

    A ``PairList`` with weights is shuffled anew for each round of ``len(pairs)`` items from as many weighted draws.

    An image that cannot be decoded yields None and a line in ``rejects``; it is never replaced by another.

    Args:
        pairs: the data set; its order is part of the stream.
        images: size, crop and augmentation.
        captions: prefix and dropout.
        seeds: of the run.
        rejects: the ledger of bad images.
        features: what is read in the place of the images, where it is kept.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        images: ImageSettings,
        captions: CaptionSettings,
        seeds: Seeds,
        rejects: Rejects,
        features: StoredFeatures | None = None,
    ) -> None:
        self.pairs = pairs
        self.images = images
        self.captions = captions
        self.seeds = seeds
        self.rejects = rejects
        self.features = features
        self._shuffle: tuple[int, np.ndarray] = (-1, np.empty(0, dtype=np.int64))

    def __getitem__(self, position: int) -> Example | None:
        row = self._index(position)
        pair = self.pairs[row]
        caption, references, dropped = self._caption(pair, position)
        draw = self.seeds.numpy("example", position)
        if self.features is not None:
            kept = self.features.read(row, self._variant(caption, draw))
            pixels = torch.empty(3, 0, 0)
            return None if kept is None else Example(pixels, "" if dropped else caption, pair.key, kept, references)
        try:
            image = open_image(pair.image)
        except ImageError as error:
            self.rejects.add(pair.key, str(error), where=str(pair.image))
            return None
        pixels = image_to_tensor(self._augment(image, caption, draw))
        return Example(pixels, "" if dropped else caption, pair.key, None, references)

    def references(self, limit: int = 0) -> list[tuple[str, ...]]:
        """Return the distinct captions of each pair, as trained on, of at most ``limit`` evenly spaced pairs; 0 is all."""
        count = min(limit, len(self.pairs)) if limit else len(self.pairs)
        rows = (place * len(self.pairs) // count for place in range(count))
        return [self._distinct(self.pairs[row]) for row in rows]

    def length_at(self, position: int) -> int:
        """Return the length in characters of the caption at a position; no image is opened."""
        caption, _, dropped = self._caption(self.pairs[self._index(position)], position)
        return 0 if dropped else len(caption)

    def only_upright(self) -> Bool[np.ndarray, " pairs"]:
        """Say of each pair whether all its captions name a direction, so that its image is never turned."""
        return np.array([all(map(names_a_direction, captions)) for captions in self.references()], dtype=bool)

    def _augment(self, image: Image.Image, caption: str, draw: np.random.Generator) -> Image.Image:
        settings = self.images
        if settings.random_resized_crop:
            image = random_resized_crop(image, settings.resolution, draw)
        else:
            image = fit_image(image, settings.resolution, mode="crop" if settings.crop else "squash", generator=draw)
        image = dihedral(image, self._variant(caption, draw))
        return color_jitter(image, settings.color_jitter, draw) if settings.color_jitter else image

    def _variant(self, caption: str, draw: np.random.Generator) -> int:
        """Draw how the image is turned; one whose caption says left or north stays as it is."""
        variant = int(draw.integers(self.images.variants)) if self.images.variants > 1 else 0
        return 0 if names_a_direction(caption) else variant

    def _caption(self, pair: Pair, position: int) -> tuple[str, tuple[str, ...], bool]:
        """Draw one of the distinct captions of a pair; return all of them too, and whether the drawn one is dropped."""
        draw = self.seeds.numpy("caption", position)
        captions = self._distinct(pair)
        chosen = captions[int(draw.integers(len(captions)))]
        return chosen, captions, bool(draw.random() < self.captions.dropout)

    def _distinct(self, pair: Pair) -> tuple[str, ...]:
        return tuple(dict.fromkeys(self._prepare(caption, pair) for caption in pair.captions))

    def _prepare(self, caption: str, pair: Pair) -> str:
        if self.captions.view_prefix:
            return view_prefix(pair.source) + strip_view_prefix(caption)
        return strip_view_prefix(caption) if self.captions.strip_prefix else caption

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.pairs))
        if self._shuffle[0] != epoch:
            self._shuffle = (epoch, self._draw_epoch(epoch))
        return int(self._shuffle[1][offset])

    def _draw_epoch(self, epoch: int) -> Int64[np.ndarray, " pairs"]:
        draw = self.seeds.numpy("order", epoch)
        weights = self.pairs.weights if isinstance(self.pairs, PairList) else None
        if weights is None:
            return draw.permutation(len(self.pairs))
        return draw.permutation(resample_systematically(weights, draw.random()))


def resample_systematically(weights: Float[np.ndarray, " pairs"], offset: float) -> Int64[np.ndarray, " pairs"]:
    """Draw as many items as there are, each as often as its weight says, rounded up or down.

    Args:
        weights: not negative, of any sum.
        offset: in [0, 1), the one random number that it takes.

    Returns:
        Indices in ascending order. Of all unbiased ways of drawing, none has less variance in how often an item comes.

    Source:
        Systematic resampling: Kitagawa, J. Comput. Graph. Stat. 5 (1996), 1-25.
    """
    count = len(weights)
    edges = np.cumsum(weights, dtype=np.float64) * (count / np.sum(weights, dtype=np.float64))
    edges[-1] = count  # rounding must not leave the last draw without an item
    return np.searchsorted(edges, np.arange(count) + offset, side="right").astype(np.int64)


def fingerprint(pairs: Sequence[Pair]) -> str:
    """Hash keys, captions and weights of a data set in their order: a run may only continue on the data it began with."""
    return (pairs if isinstance(pairs, PairList) else PairList.of(pairs, Path())).fingerprint()
