"""Pairs -> the autoencoder of a small Stable Diffusion, with the scale of its latents in its config."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL
from jaxtyping import Float

from skygen.checkpoints import Checkpoints
from skygen.data.batches import Positions, load_batches
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.evaluation.scores import PROTOCOL, format_table, mean_score, to_metrics
from skygen.models.adapters import WholeModel
from skygen.models.autoencoder import AutoencoderLearner
from skygen.models.device import start_accelerator
from skygen.runs import Run, RunSettings, launch, logger
from skygen.seeding import Seeds
from skygen.training.loop import Trainer, TrainSettings


@dataclass(frozen=True)
class StartSettings:
    """The autoencoder that training starts from."""

    name: Path
    """Folder of an ``AutoencoderKL``."""


@dataclass(frozen=True)
class Config:
    """Train an autoencoder on images."""

    run: RunSettings
    pairs: PairSettings
    model: StartSettings
    images: ImageSettings = field(default_factory=ImageSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


def main(config: Config) -> None:
    accelerator = start_accelerator(config.train.mixed_precision)
    autoencoder = AutoencoderKL.from_pretrained(config.model.name, use_safetensors=True).to(accelerator.device)
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, is_main=accelerator.is_main_process) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)
        images = config.images.for_model(int(autoencoder.config.sample_size))
        stream = PairStream(pairs, images, CaptionSettings(), seeds, rejects)
        trained = WholeModel(autoencoder, autoencoder.save_pretrained)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        learner = AutoencoderLearner(autoencoder)
        trainer = Trainer(learner, trained.parameters, stream, config.train, accelerator, checkpoints, run.stop)
        for step in trainer.steps():
            run.log(step)
            if step.due(config.train.checkpointing_steps):
                trainer.save()
        trainer.adopt_average()
        if accelerator.is_main_process:
            spreads, scores = [], []
            for place in (config.pairs.root, *config.pairs.also):
                held_out = replace(config.pairs, root=place, csv=None, split="val", also=()).read(rejects)
                spread, psnr = measure(autoencoder.eval(), replace_pairs(stream, held_out))
                spreads.append(spread)
                subset = f"val of {place.name}"
                scores.append(mean_score("psnr_db", psnr, model="tuned", subset=subset, extractor="", seeds=seeds))
            autoencoder.register_to_config(scaling_factor=1 / spreads[0])
            trained.save(run.path(trained.folder_name))
            run.write_json("metrics.json", to_metrics(PROTOCOL, scores))
            logger.info(format_table(scores))


def replace_pairs(stream: PairStream, pairs: Sequence[Pair]) -> PairStream:
    """Return a stream like the other over other pairs."""
    return PairStream(pairs, stream.images, stream.captions, stream.seeds, stream.rejects)


@torch.no_grad()
def measure(autoencoder: Any, stream: PairStream) -> tuple[float, Float[np.ndarray, " count"]]:
    """Return the standard deviation of the latents, and the PSNR in dB of each of up to 512 reconstructions."""
    latents: list[torch.Tensor] = []
    errors: list[torch.Tensor] = []
    for batch in load_batches(stream, Positions(first=0, last=min(16, len(stream.pairs) // 32), batch_size=32)):
        pixels = batch.pixels.to(autoencoder.device)
        posterior = autoencoder.encode(pixels).latent_dist
        latents.append(posterior.sample(stream.seeds.generator("measure", len(latents))))
        decoded = autoencoder.decode(posterior.mode()).sample.clamp(-1, 1)
        errors.append((decoded - pixels).div(2).square().mean(dim=(1, 2, 3)).cpu())
    psnr = -10 * torch.cat(errors).clamp(min=1e-10).log10()
    return float(torch.cat(latents).std()), psnr.double().numpy()


if __name__ == "__main__":
    launch(main, Config)
