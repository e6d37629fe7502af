"""Pairs -> a LoRA of a Stable Diffusion: 1.x, 2.x, XL, 3 or 3.5.

    accelerate launch recipes/finetune_diffusion.py recipes/configs/finetune_diffusion/miniature.yaml
    accelerate launch recipes/finetune_diffusion.py CONFIG.yaml --train.learning_rate 5e-5
    accelerate launch recipes/finetune_diffusion.py CONFIG.yaml --model.adapter runs/first/adapter

The same command again continues the run. ``runs/<name>/adapter`` loads with ``pipeline.load_lora_weights``.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from skygen.checkpoints import Checkpoints
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.models.adapters import LoraSettings
from skygen.models.device import start_accelerator
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.models.weights import ModelSettings
from skygen.runs import Continuation, Run, RunSettings, launch
from skygen.seeding import Seeds
from skygen.training.loop import Trainer, TrainSettings


@dataclass(frozen=True)
class PreviewSettings:
    """Pictures drawn while training, from the same prompts and seeds each time."""

    steps: int = 0
    """Draw every so many updates; 0 is never."""
    prompts: tuple[str, ...] = ()
    """What to draw."""


@dataclass(frozen=True)
class Config:
    """Fine-tune a text-to-image model on pairs."""

    run: RunSettings
    pairs: PairSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    diffusion: DiffusionSettings = field(default_factory=DiffusionSettings)
    images: ImageSettings = field(default_factory=ImageSettings)
    captions: CaptionSettings = field(default_factory=lambda: CaptionSettings(dropout=0.1))
    train: TrainSettings = field(default_factory=TrainSettings)
    preview: PreviewSettings = field(default_factory=PreviewSettings)


CONTINUATION = Continuation("checkpoints/step-*", ("model", "lora", "diffusion"))


def main(config: Config) -> None:
    accelerator = start_accelerator(config.train.mixed_precision)
    diffusion = Diffusion.load(config.model.name, device=str(accelerator.device), objective=config.diffusion)
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)
        trained = diffusion.attach(config.lora, seeds, base=config.model.name)
        if config.model.adapter:
            trained.start_from(config.model.adapter, config.model.name)
        stream = PairStream(pairs, config.images.for_model(diffusion.resolution), config.captions, seeds, rejects)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        trainer = Trainer(diffusion, trained.parameters, stream, config.train, accelerator, checkpoints)
        for step in trainer.steps():
            run.log(step)
            rejects.check(len(pairs), config.pairs.max_bad_fraction)
            if step.due(config.train.checkpointing_steps):
                trainer.save()
            if step.due(config.preview.steps) and accelerator.is_main_process:
                draw_previews(diffusion, config.preview.prompts, seeds, run, step.step)
        trainer.adopt_average()
        if accelerator.is_main_process:
            trained.save(run.path(trained.folder_name))


def draw_previews(diffusion: Diffusion, prompts: tuple[str, ...], seeds: Seeds, run: Run, step: int) -> None:
    """Draw every preview prompt, each from a seed of its own that stays the same all through the run."""
    numbers = [seeds.derive("preview", index) for index in range(len(prompts))]
    for index, image in enumerate(diffusion.sample(prompts, numbers)):
        image.save(run.path("previews", f"step-{step:06d}-{index:02d}.png"))


if __name__ == "__main__":
    launch(main, Config)
