"""Pairs -> a CLIP, trained (on) with SkyCLIP's recipe.

    accelerate launch recipes/pretrain_skyclip.py recipes/configs/pretrain_skyclip/miniature.yaml

The same command again continues the run. ``runs/<name>/model`` is a folder that ``--scorer.name`` takes.
"""

from __future__ import annotations

import shutil
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

from skygen.checkpoints import Checkpoints
from skygen.data.loading import CaptionSettings, ImageSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError
from skygen.models.adapters import WholeModel
from skygen.models.contrastive import ContrastiveLearner
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer
from skygen.runs import Continuation, Run, RunSettings, launch
from skygen.seeding import Seeds
from skygen.training.loop import Trainer, TrainSettings


@dataclass(frozen=True)
class StartSettings:
    """The CLIP that training starts from."""

    name: Path
    """Folder in open_clip's layout: ``open_clip_config.json``, weights, tokenizer."""


@dataclass(frozen=True)
class Config:
    """Train a CLIP contrastively on pairs."""

    run: RunSettings
    pairs: PairSettings
    model: StartSettings
    images: ImageSettings = field(default_factory=lambda: ImageSettings(crop=False))
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    train: TrainSettings = field(default_factory=TrainSettings)


CONTINUATION = Continuation("checkpoints/step-*", ("model",))


def main(config: Config) -> None:
    accelerator = start_accelerator(config.train.mixed_precision)
    if accelerator.num_processes > 1 or config.train.gradient_accumulation_steps > 1:
        raise ConfigError(
            "pretrain_skyclip contrasts the pairs of one batch: launch it with --num_processes 1 and without "
            "accumulation, and raise --train.train_batch_size."
        )
    scorer = Scorer.load(str(config.model.name), device=str(accelerator.device))
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)
        trained = WholeModel(scorer.model, partial(save_open_clip, scorer, config.model.name))
        stream = PairStream(pairs, config.images, config.captions, seeds, rejects)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        learner = ContrastiveLearner(scorer.model, scorer.tokenize)
        trainer = Trainer(learner, trained.parameters, stream, config.train, accelerator, checkpoints)
        for step in trainer.steps():
            run.log(step)
            rejects.check(len(pairs), config.pairs.max_bad_fraction)
            if step.due(config.train.checkpointing_steps):
                trainer.save()
        trainer.adopt_average()
        trained.save(run.path(trained.folder_name))


def save_open_clip(scorer: Scorer, start: Path, folder: Path) -> None:
    """Write the trained weights beside the start's config and tokenizer."""
    from safetensors.torch import save_file

    shutil.copytree(start, folder, dirs_exist_ok=True)
    state = {name: tensor.detach().cpu().contiguous() for name, tensor in scorer.model.state_dict().items()}
    save_file(state, folder / "open_clip_model.safetensors")


if __name__ == "__main__":
    launch(main, Config)
