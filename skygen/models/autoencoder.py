"""The autoencoder learner: how the latent space of a small Stable Diffusion is made."""

from __future__ import annotations

from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from torch import Tensor

from skygen.data.batch import Batch


@final
class AutoencoderLearner:
    """Trains an ``AutoencoderKL`` to give back its input (Rombach et al. 2022, without the adversarial term).

    Args:
        network: the autoencoder.
        kl_weight: of the divergence from a unit normal, per latent value; small, so that it only keeps the scale in hand.
    """

    divisible: ClassVar[bool] = True

    def __init__(self, network: Any, kl_weight: float = 1e-4) -> None:
        self.network = network
        self.kl_weight = kl_weight

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return each image's mean absolute plus squared error, and the weighted divergence of its latents."""
        posterior = self.network.encode(batch.pixels).latent_dist
        decoded = self.network.decode(posterior.sample(generator)).sample
        difference = decoded - batch.pixels
        divergence = posterior.kl() / posterior.mean[0].numel()
        return (difference.abs() + difference.square()).mean(dim=(1, 2, 3)) + self.kl_weight * divergence
