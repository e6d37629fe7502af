"""Self-critical training: a captioner learns from the score of captions that it draws itself."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, final

import torch
from jaxtyping import Float
from torch import Tensor

from skygen.config import CountFromOne, CountFromZero
from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.models.captioner import Captioner

Reward = Callable[[Batch, Sequence[Sequence[str]]], Float[Tensor, "batch samples"]]
"""Scores the captions drawn for each image of a batch; higher is better, of any scale."""


@dataclass(frozen=True)
class RewardSettings:
    """Training on a score of the captions that the captioner draws; it starts best from an adapter trained without."""

    name: Literal["none", "cider_d", "margin"] = "none"
    """``cider_d`` against the image's own captions; ``margin``: the scorer's similarity to the image, less its mean similarity
    to the other images of the batch."""
    samples: int = 5
    """Captions drawn for each image; each is measured against the mean of the others."""
    weight: float = 1.0
    """Share of the reward in the loss, in (0, 1]; the rest is the ordinary cross-entropy, which keeps the language in place."""
    max_new_tokens: CountFromOne = 40
    """Longest drawn caption in tokens."""
    document_limit: CountFromZero = 20_000
    """Training images from whose captions CIDEr-D takes its document frequencies; 0 is all."""

    def __post_init__(self) -> None:
        if self.samples < 2:
            raise ConfigError(
                f"reward.samples is {self.samples}; it must be at least 2: each caption is measured by the others"
            )
        if not 0 < self.weight <= 1:
            raise ConfigError(f"reward.weight is {self.weight}; it must be in (0, 1]")


@final
class SelfCriticalLearner:
    """The policy gradient of a score (Rennie et al. 2017), with the mean of an image's other samples as the baseline.

    Of ``samples`` captions drawn from the model, each one's advantage is its score less the mean score of the others (Luo
    2020, "A Better Variant of Self-Critical Sequence Training"): unbiased, without a greedy caption to decode.

    Args:
        captioner: that is trained.
        reward: the score.
        settings: how many captions, and how much they count.
    """

    def __init__(self, captioner: Captioner, reward: Reward, settings: RewardSettings) -> None:
        self.captioner = captioner
        self.reward = reward
        self.settings = settings
        self._options = {
            "do_sample": True, "top_k": 0, "top_p": 1.0, "temperature": 1.0, "num_beams": 1,
            "num_return_sequences": settings.samples, "max_new_tokens": settings.max_new_tokens,
        }  # fmt: skip

    @property
    def network(self) -> Any:
        """The model of transformers."""
        return self.captioner.network

    @property
    def divisible(self) -> bool:
        """Whether an example's loss is its own; a margin looks at the other images of the batch."""
        return self.settings.name != "margin"

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return each example's loss: minus the mean over its samples of advantage times log-likelihood.

        Its value is no measure of progress (it is about zero throughout); the drawn captions' mean score is, see ``rewards``.
        """
        features = self.captioner.features(batch)
        captions = self._draw(features)
        samples = self.settings.samples
        rows = [captions[start : start + samples] for start in range(0, len(captions), samples)]
        advantages = relative_to_the_others(self.reward(batch, rows).to(features.device))
        unlikely, _ = self.captioner.token_losses(features.repeat_interleave(samples, dim=0), captions)
        policy = (advantages * unlikely.view(-1, samples)).mean(dim=1)
        if self.settings.weight == 1:
            return policy
        sums, counts = self.captioner.token_losses(features, batch.captions)
        return self.settings.weight * policy + (1 - self.settings.weight) * sums / counts

    @torch.no_grad()
    def _draw(self, features: Float[Tensor, "batch places channels"]) -> list[str]:
        """Draw captions as the model stands, without dropout."""
        self.network.eval()
        captions = self.captioner.write(features.detach(), self._options)
        self.network.train()
        return captions


def relative_to_the_others(rewards: Float[Tensor, "batch samples"]) -> Float[Tensor, "batch samples"]:
    """Return each reward less the mean of the other rewards in its row."""
    others = (rewards.sum(dim=1, keepdim=True) - rewards) / (rewards.shape[1] - 1)
    return rewards - others
