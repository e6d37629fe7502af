"""From a list of pairs to examples: an endless, stateless stream that any step can be read from.

Position ``n`` of the stream is item ``n mod N`` of the ``n // N``-th shuffle of the data. Update ``u`` of a run on ``W``
processes with ``A`` accumulation steps of ``B`` images takes positions ``u*A*W*B`` and onward, so that a resumed run needs
nothing but its step number, ranks share one order without overlap, and no epoch ends in a short batch.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Protocol, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from torch.utils.data import Dataset

from skygen.data.augmentation import color_jitter
from skygen.data.batch import Example
from skygen.data.captions import names_a_direction
from skygen.data.framing import Framing, ImageSettings, Size, frame, nearest_bucket
from skygen.data.image_metadata import describe_image
from skygen.data.images import image_to_tensor, open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.data.wording import CaptionSettings as CaptionSettings
from skygen.data.wording import add_metadata
from skygen.errors import ConfigError, ImageError
from skygen.seeding import Seeds

_SHUFFLES_KEPT = 2
"""Batches that are sorted together reach over the end of a round, and then draw from both rounds by turns."""
_NOT_ASKED = -1


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

    def framing(self, row: int) -> Framing:
        """Return what the features show of an image before it is turned; only asked of one that could be read."""
        ...


class PairStream(Dataset[Example | None]):
    """The endless stream of examples; item ``n`` is the same in every process, worker and resume.

    A ``PairList`` with weights is shuffled anew for each round of ``len(pairs)`` items from as many weighted draws.

    An image that cannot be decoded yields None and a line in ``rejects``; it is never replaced by another.

    Args:
        pairs: the data set; its order is part of the stream.
        images: size, crop and augmentation.
        captions: prefix, ending and dropout.
        seeds: of the run.
        rejects: the ledger of bad images.
        features: what is read in the place of the images, where it is kept.
        sizes: width and height of the image of each pair, 0 and 0 of an unreadable one, as from ``images.read_sizes``; what
            an example's shape and text follow from before its image is opened. Where they are left out, the features say it.
    """

    def __init__(
        self,
        pairs: Sequence[Pair],
        images: ImageSettings,
        captions: CaptionSettings,
        seeds: Seeds,
        rejects: Rejects,
        features: StoredFeatures | None = None,
        sizes: Int32[np.ndarray, "_pairs 2"] | None = None,
    ) -> None:
        if sizes is not None and len(sizes) != len(pairs):
            raise ValueError(f"there are sizes of {len(sizes)} images and {len(pairs)} pairs; give one of each, in their order")
        self.pairs = pairs
        self.images = images
        self.captions = captions
        self.seeds = seeds
        self.rejects = rejects
        self.features = features
        self.sizes = sizes
        self._shuffles: dict[int, Int64[np.ndarray, " pairs"]] = {}

    def __getitem__(self, position: int) -> Example | None:
        row = self._index(position)
        pair = self.pairs[row]
        caption, references, dropped = self._caption(pair, position)
        draw = self.seeds.numpy("example", position)
        kept = None
        if self.features is not None:
            variant = self._variant(caption, draw)
            kept = self.features.read(row, variant)
            if kept is None:
                return None
            framing, pixels = self.features.framing(row)._replace(variant=variant), torch.empty(3, 0, 0)
        else:
            try:
                image = open_image(pair.image)
            except ImageError as error:
                self.rejects.add(pair.key, str(error), where=str(pair.image))
                return None
            framing = frame(image.size, self.images, draw)
            framing = framing._replace(variant=self._variant(caption, draw))
            image = framing.apply(image)
            jitter = self.images.color_jitter
            pixels = image_to_tensor(color_jitter(image, jitter, draw) if jitter else image)
        text = "" if dropped else self._text(caption, pair, row, position, framing)
        metadata = describe_image(pair, framing.scale)
        return Example(pixels, text, pair.key, kept, references, metadata, framing.sizes)

    def shape_at(self, position: int) -> Size:
        """Return width and height of the example at a position; no image is opened.

        An image that cannot be read counts as a square.

        Raises:
            ValueError: shapes differ, and there are neither sizes nor features to know them from.
        """
        images = self.images
        if not images.aspect_buckets:
            return (images.resolution, images.resolution)
        row = self._index(position)
        size = self._size(row) or (1, 1)
        target = nearest_bucket(size, images.resolution, images.bucket_step)
        if target[0] == target[1] or images.variants == 1:
            return target
        caption, _, _ = self._caption(self.pairs[row], position)
        turned = self._variant(caption, self.seeds.numpy("example", position)) % 2
        return (target[1], target[0]) if turned else target

    def references(self, limit: int = 0) -> list[tuple[str, ...]]:
        """Return the distinct captions of each pair, as trained on, of at most ``limit`` evenly spaced pairs; 0 is all."""
        count = min(limit, len(self.pairs)) if limit else len(self.pairs)
        rows = (place * len(self.pairs) // count for place in range(count))
        return [self._distinct(self.pairs[row]) for row in rows]

    def length_at(self, position: int) -> int:
        """Return the length in characters of the caption at a position; no image is opened.

        It is exact but for a caption that says a resolution which only the image will tell.
        """
        row = self._index(position)
        pair = self.pairs[row]
        caption, _, dropped = self._caption(pair, position)
        return 0 if dropped else len(self._text(caption, pair, row, position, None))

    def texts(self) -> list[str]:
        """List every text that an example can have, each once: what a store of encoded prompts must hold.

        Raises:
            ConfigError: captions say the resolution, and each look at an image has another.
            ValueError: captions say the resolution, and there are neither sizes nor features to know it from.
        """
        share = self.captions.metadata_suffix
        if share and self.images.random_resized_crop:
            raise ConfigError(
                "captions.metadata_suffix says a resolution that images.random_resized_crop changes at each look, so that "
                "the prompts cannot be kept: set one of them off"
            )
        found: dict[str, None] = {"": None} if self.captions.dropout else {}
        for row, (captions, source) in enumerate(self._captions_and_sources()):
            prepared = self.captions.prepare(captions, source)
            if share < 1:
                found |= dict.fromkeys(prepared)
            if share:
                pair, scale = self.pairs[row], self._scale(row, None)
                found |= dict.fromkeys(add_metadata(caption, pair, scale) for caption in prepared)
        return list(found)

    def only_upright(self) -> Bool[np.ndarray, " pairs"]:
        """Say of each pair whether all its captions name a direction, so that its image is never turned."""
        return np.array([all(map(names_a_direction, captions)) for captions in self.references()], dtype=bool)

    def _size(self, row: int) -> Size | None:
        """Return width and height of an image that is not opened; None of one that cannot be read."""
        if self.sizes is None:
            if self.features is None:
                raise ValueError("nothing says how large the images are: give the stream sizes, see images.read_sizes")
            self.sizes = np.full((len(self.pairs), 2), _NOT_ASKED, np.int32)
        if self.sizes[row, 0] == _NOT_ASKED and self.features is not None:
            readable = self.features.read(row, 0) is not None
            self.sizes[row] = self.features.framing(row).original if readable else (0, 0)
        width, height = self.sizes[row].tolist()
        return (width, height) if width else None

    def _scale(self, row: int, framing: Framing | None) -> float | None:
        """Return how much an image is enlarged, as its text says it: of known sizes the same as ``texts`` has foreseen."""
        if self.images.random_resized_crop or (framing is not None and self.sizes is None and self.features is None):
            return None if framing is None else framing.scale
        size = self._size(row)
        return None if size is None else frame(size, self.images).scale

    def _text(self, caption: str, pair: Pair, row: int, position: int, framing: Framing | None) -> str:
        """Put the ending to a caption, where it is to have one."""
        share = self.captions.metadata_suffix
        if not share or self.seeds.numpy("metadata", position).random() >= share:
            return caption
        foreseen = framing is not None or self.sizes is not None or self.features is not None
        return add_metadata(caption, pair, self._scale(row, framing) if foreseen else None)

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
        return self.captions.prepare(pair.captions, pair.source)

    def _captions_and_sources(self) -> Iterator[tuple[Sequence[str], str | None]]:
        if not isinstance(self.pairs, PairList):
            yield from ((pair.captions, pair.source) for pair in self.pairs)
            return
        columns = [self.pairs.column(name).chunks for name in ("captions", "source")]  # making five million pairs takes minutes
        for captions, sources in zip(*columns, strict=True):
            yield from zip(captions.to_pylist(), sources.to_pylist(), strict=True)

    def _index(self, position: int) -> int:
        epoch, offset = divmod(position, len(self.pairs))
        if epoch not in self._shuffles:
            if len(self._shuffles) == _SHUFFLES_KEPT:
                del self._shuffles[next(iter(self._shuffles))]
            self._shuffles[epoch] = self._draw_epoch(epoch)
        return int(self._shuffles[epoch][offset])

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
