"""Pairs -> a captioner LoRA.

    accelerate launch recipes/finetune_captioner.py recipes/configs/finetune_captioner/miniature.yaml
    accelerate launch recipes/finetune_captioner.py CONFIG.yaml --train.learning_rate 5e-5

The same command again continues the run. ``runs/<name>/adapter`` loads with ``PeftModel.from_pretrained``.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

from skygen.checkpoints import Checkpoints
from skygen.data.images import open_image
from skygen.data.loading import CaptionSettings, ImageSettings, PairStream
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptionerSettings
from skygen.models.device import start_accelerator
from skygen.runs import Continuation, Run, RunSettings, launch
from skygen.seeding import Seeds
from skygen.training.loop import Trainer, TrainSettings


@dataclass(frozen=True)
class PreviewSettings:
    """Captions written while training, of the same images each time."""

    steps: int = 0
    """Write every so many updates; 0 is never."""
    images: int = 8
    """How many of the first training images."""


@dataclass(frozen=True)
class Config:
    """Fine-tune a captioner on pairs."""

    run: RunSettings
    pairs: PairSettings
    model: CaptionerSettings = field(default_factory=CaptionerSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    images: ImageSettings = field(default_factory=lambda: ImageSettings(resolution=0, crop=False))
    captions: CaptionSettings = field(default_factory=lambda: CaptionSettings(strip_prefix=True))
    train: TrainSettings = field(default_factory=TrainSettings)
    preview: PreviewSettings = field(default_factory=PreviewSettings)


CONTINUATION = Continuation("checkpoints/step-*", ("model", "lora"))


def main(config: Config) -> None:
    accelerator = start_accelerator(config.train.mixed_precision)
    captioner = Captioner.of(config.model, device=str(accelerator.device))
    if config.images.resolution:
        captioner.family.use_resolution(config.images.resolution)
    images = replace(config.images, resolution=captioner.resolution)
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)
        trained = captioner.attach(config.lora, seeds, base=config.model.name)
        stream = PairStream(pairs, images, config.captions, seeds, rejects)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        trainer = Trainer(captioner, trained.parameters, stream, config.train, accelerator, checkpoints)
        for step in trainer.steps():
            run.log(step)
            rejects.check(len(pairs), config.pairs.max_bad_fraction)
            if step.due(config.train.checkpointing_steps):
                trainer.save()
            if step.due(config.preview.steps) and accelerator.is_main_process:
                write_previews(captioner, pairs[: config.preview.images], run, step.step)
        trainer.adopt_average()
        if accelerator.is_main_process:
            trained.save(run.path(trained.folder_name))


def write_previews(captioner: Captioner, pairs: Sequence[Pair], run: Run, step: int) -> None:
    """Caption the preview images, and note caption and reference side by side."""
    captions = captioner.caption([open_image(pair.image) for pair in pairs])
    for pair, caption in zip(pairs, captions, strict=True):
        run.append(
            "previews/captions.jsonl", {"step": step, "key": pair.key, "caption": caption, "reference": pair.captions[0]}
        )


if __name__ == "__main__":
    launch(main, Config)
