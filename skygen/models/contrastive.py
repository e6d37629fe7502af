"""The contrastive learner: how a CLIP becomes a SkyCLIP."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor, distributed
from torch.nn import functional

from skygen.data.batch import Batch

LARGEST_LOGIT_SCALE = math.log(100)


@final
class ContrastiveLearner:
    """Trains an open_clip model to tell which caption belongs to which image (Radford et al. 2021).

    The pairs of all processes are contrasted with each other: four processes with 128 pairs are one batch of 512.

    Args:
        network: an open_clip CLIP.
        tokenize: its tokenizer, texts to ids ``(count, context)``.
    """

    divisible: ClassVar[bool] = False

    def __init__(self, network: Any, tokenize: Callable[[list[str]], Tensor]) -> None:
        self.network = network
        self.tokenize = tokenize
        self._mean = torch.tensor(network.visual.image_mean)[:, None, None]
        self._std = torch.tensor(network.visual.image_std)[:, None, None]

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return the symmetric InfoNCE of each own pair among all processes' pairs; the temperature is at least 1/100.

        Its gradient is that of the sum over all processes' pairs, along the own embeddings: what the processes' gradients
        add up to is the gradient of one process with all the pairs, without a word between them on the way back.
        """
        with torch.no_grad():
            self.network.logit_scale.clamp_(0, LARGEST_LOGIT_SCALE)
        device = batch.pixels.device
        pixels = (batch.pixels.add(1).div(2) - self._mean.to(device)) / self._std.to(device)
        images = self.network.encode_image(pixels, normalize=True).float()
        texts = self.network.encode_text(self.tokenize(list(batch.captions)).to(device), normalize=True).float()
        other_images, other_texts = gather_others(images), gather_others(texts)
        scale = self.network.logit_scale.exp()
        # each process sees the whole loss: of the one temperature's gradient it gives the share of its own pairs
        share = len(images) / (len(images) + len(other_images))
        scale = scale * share + scale.detach() * (1 - share)
        losses = info_nce(torch.cat([images, other_images]), torch.cat([texts, other_texts]), scale)
        own = losses[: len(images)].detach()
        return own + (losses.sum() - losses.sum().detach()) / len(images)

    def join(self) -> None:
        """Give the other processes no pairs, on a process whose images could none of them be read."""
        nothing = self.network.text_projection.new_empty(0, self.network.text_projection.shape[-1]).float()
        gather_others(nothing)
        gather_others(nothing)


def info_nce(
    images: Float[Tensor, "pairs dimension"], texts: Float[Tensor, "pairs dimension"], scale: Float[Tensor, ""]
) -> Float[Tensor, " pairs"]:
    """Return the mean of the cross entropies of finding each image's text and each text's image (van den Oord et al. 2018).

    Args:
        images: unit embeddings.
        texts: unit embeddings, the own text at the same place.
        scale: of the cosines, the inverse temperature.
    """
    logits = scale * images @ texts.T
    own = torch.arange(len(logits), device=logits.device)
    to_text = functional.cross_entropy(logits, own, reduction="none")
    to_image = functional.cross_entropy(logits.T, own, reduction="none")
    return (to_text + to_image) / 2


@torch.no_grad()
def gather_others(rows: Float[Tensor, "own dimension"]) -> Float[Tensor, "others dimension"]:
    """Return the rows of all other processes, of which each may have another number, without gradient."""
    if not distributed.is_initialized() or distributed.get_world_size() == 1:
        return rows.new_empty(0, rows.shape[1])
    own_count = torch.tensor([len(rows)], device=rows.device)
    counts = [torch.zeros_like(own_count) for _ in range(distributed.get_world_size())]
    distributed.all_gather(counts, own_count)
    most = int(torch.stack(counts).max())
    padded = torch.cat([rows, rows.new_zeros(most - len(rows), rows.shape[1])])
    gathered = [torch.empty_like(padded) for _ in counts]
    distributed.all_gather(gathered, padded)
    rank = distributed.get_rank()
    return torch.cat([gathered[other][: int(count)] for other, count in enumerate(counts) if other != rank])
