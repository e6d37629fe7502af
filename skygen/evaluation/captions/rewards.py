"""Scores of drawn captions that a captioner can be trained on."""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from typing import final

import torch
from jaxtyping import Float
from torch import Tensor

from skygen.data.batch import Batch
from skygen.data.images import tensor_to_image
from skygen.errors import ConfigError
from skygen.evaluation.captions.coco_caption import CiderD
from skygen.evaluation.captions.tokens import tokenize_caption
from skygen.models.scorer import Scorer


@final
class CiderReward:
    """CIDEr-D of a caption against all captions of its image.

    Args:
        documents: the captions of each training image, from which the document frequencies come; prepared as in training.
    """

    def __init__(self, documents: Sequence[Sequence[str]]) -> None:
        self._tokenize = lru_cache(maxsize=100_000)(tokenize_caption)
        self._metric = CiderD([[self._tokenize(caption) for caption in captions] for captions in documents])

    def __call__(self, batch: Batch, captions: Sequence[Sequence[str]]) -> Float[Tensor, "batch samples"]:
        """Score the captions of each image, in [0, 10]."""
        rows = []
        for references, drawn in zip(batch.references, captions, strict=True):
            tokens = [self._tokenize(reference) for reference in references]
            rows.append([self._metric.score(self._tokenize(caption), tokens) for caption in drawn])
        return torch.tensor(rows)


@final
class MarginReward:
    """A CLIP's similarity of a caption to its image, less its mean similarity to the other images of the batch.

    The difference, not the similarity itself: a caption that suits every image, or that pleases the CLIP whatever is seen,
    gains nothing.

    Args:
        scorer: the CLIP.
    """

    def __init__(self, scorer: Scorer) -> None:
        self.scorer = scorer

    def __call__(self, batch: Batch, captions: Sequence[Sequence[str]]) -> Float[Tensor, "batch samples"]:
        """Score the captions of each image, in [-2, 2].

        Raises:
            ConfigError: the batch holds kept features, and no pictures that a scorer could look at.
        """
        if batch.features is not None:
            raise ConfigError(
                "--reward.name margin looks at the images, and kept features stand in their place: leave --features.root out."
            )
        images = torch.from_numpy(self.scorer.embed_images([tensor_to_image(pixels) for pixels in batch.pixels.cpu()]))
        texts = torch.from_numpy(self.scorer.embed_texts([caption for drawn in captions for caption in drawn]))
        similarity = (texts @ images.T).view(len(images), -1, len(images))
        own = similarity.diagonal(dim1=0, dim2=2).T
        others = (similarity.sum(dim=2) - own) / max(1, len(images) - 1)
        return own - others
