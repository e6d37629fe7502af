"""Learners and trainers for the tests of the loop: a linear one, and the two real ones at the miniature's size."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from skygen.checkpoints import Checkpoints
from skygen.data.batch import Batch
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner
from skygen.models.diffusion import Diffusion
from skygen.seeding import Seeds
from skygen.signals import StopSignal
from skygen.training.loop import Trainer, TrainSettings

SIDE = 8


class Linear:
    """Guesses the length of the caption from the pixels; ``noise`` times a draw of the loop's generator is added."""

    divisible = True

    def __init__(self, noise: float = 0.0, scale: float = 1.0) -> None:
        self.network: nn.Module = nn.Linear(3 * SIDE * SIDE, 1)
        self.noise = noise
        self.scale = scale
        with torch.no_grad():
            for index, parameter in enumerate(self.network.parameters()):
                parameter.normal_(0, 0.02, generator=Seeds(0).generator("toy", index))

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        target = torch.tensor([len(caption) / 50 for caption in batch.captions])
        target = target + self.noise * torch.randn(target.shape, generator=generator)
        return self.scale * (self.network(batch.pixels.flatten(1)).squeeze(1) - target).square()


class OneByOne:
    """A learner whose noise belongs to the image, not to its place: so that batches can be cut in another way."""

    divisible = True

    def __init__(self, inner: Any) -> None:
        self.inner = inner
        self.network: nn.Module = inner.network

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        rows = range(len(batch.keys))
        singles = [Batch(batch.pixels[i : i + 1], batch.captions[i : i + 1], batch.keys[i : i + 1]) for i in rows]
        return torch.cat([self.inner.loss(one, Seeds(0).generator("image", one.keys[0])) for one in singles])


def build_learner(kind: str, folders: dict[str, Path], lora: LoraSettings | None = None) -> tuple[Any, dict[str, nn.Parameter]]:
    """Return a learner in its initial state, and what of it is trained."""
    if kind == "linear":
        linear = Linear(noise=0.3)
        return linear, dict(linear.network.named_parameters())
    learner: Any = (Captioner if kind == "captioner" else Diffusion).load(str(folders[kind]))
    targets = "all" if kind == "captioner" else "attention_ff_conv"
    return learner, learner.attach(lora or LoraSettings(rank=4, lora_alpha=8, targets=targets), Seeds(5)).parameters


def build_stream(
    pairs: list[Pair],
    side: int = SIDE,
    seed: int = 5,
    images: ImageSettings | None = None,
    captions: CaptionSettings | None = None,
) -> PairStream:
    """Return a stream over pairs, whose rejects are kept in memory."""
    images = images or ImageSettings(resolution=side)
    return PairStream(pairs, images, captions or CaptionSettings(), Seeds(seed), Rejects(None))


def build_trainer(
    learner: Any,
    parameters: dict[str, nn.Parameter],
    stream: PairStream,
    accelerator: Any,
    folder: Path,
    stop: StopSignal | None = None,
    **settings: Any,
) -> Trainer:
    """Return a trainer of 6 short updates of 4 images, unless ``settings`` say otherwise."""
    usual = TrainSettings(max_train_steps=6, train_batch_size=4, learning_rate=1e-2, lr_warmup_steps=2)
    return Trainer(learner, parameters, stream, replace(usual, **settings), accelerator, Checkpoints(folder), stop)


def train_pairs(root: Path) -> list[Pair]:
    """Return the training pairs of a fabricated world."""
    return read_pairs(root, split="train")
