"""The contrastive learner: how a CLIP becomes a SkyCLIP."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor
from torch.nn import functional

from skygen.data.loading import Batch

LARGEST_LOGIT_SCALE = math.log(100)


@final
class ContrastiveLearner:
    """Trains an open_clip model to tell which caption belongs to which image (Radford et al. 2021).

    Args:
        network: an open_clip CLIP.
        tokenize: its tokenizer, texts to ids ``(count, context)``.
    """

    def __init__(self, network: Any, tokenize: Callable[[list[str]], Tensor]) -> None:
        self.network = network
        self.tokenize = tokenize
        self._mean = torch.tensor(network.visual.image_mean)[:, None, None]
        self._std = torch.tensor(network.visual.image_std)[:, None, None]

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return each pair's symmetric InfoNCE among the pairs of its batch, the temperature clamped to at least 1/100."""
        device = batch.pixels.device
        with torch.no_grad():
            self.network.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)
        pixels = (batch.pixels.add(1).div(2) - self._mean.to(device)) / self._std.to(device)
        images = self.network.encode_image(pixels, normalize=True)
        texts = self.network.encode_text(self.tokenize(list(batch.captions)).to(device), normalize=True)
        logits = self.network.logit_scale.exp() * images.float() @ texts.float().T
        own = torch.arange(len(logits), device=device)
        to_text = functional.cross_entropy(logits, own, reduction="none")
        to_image = functional.cross_entropy(logits.T, own, reduction="none")
        return (to_text + to_image) / 2
