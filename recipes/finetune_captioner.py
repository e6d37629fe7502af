"""Pairs -> a captioner LoRA.

    accelerate launch recipes/finetune_captioner.py recipes/configs/finetune_captioner/miniature.yaml
    accelerate launch recipes/finetune_captioner.py CONFIG.yaml --train.learning_rate 5e-5
    accelerate launch recipes/finetune_captioner.py CONFIG.yaml --features.root features
    accelerate launch recipes/finetune_captioner.py CONFIG.yaml --model.adapter runs/first/adapter --reward.name cider_d

The same command again continues the run. ``runs/<name>/adapter`` loads with ``PeftModel.from_pretrained``.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace
from functools import partial
from pathlib import Path

from accelerate import Accelerator

from skygen.checkpoints import Checkpoints
from skygen.config import CountFromOne, CountFromZero
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError
from skygen.evaluation.captions.previews import CaptionPreview
from skygen.evaluation.captions.rewards import CiderReward, MarginReward
from skygen.evaluation.panel import load_scorer
from skygen.models.adapter_files import read_about
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner, CaptionerSettings
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer, ScorerSettings, require
from skygen.runs import Continuation, Run, RunSettings, launch
from skygen.seeding import Seeds
from skygen.training.feature_cache import CachedFeatures, FeatureCacheSettings, build_features
from skygen.training.learner import Learner
from skygen.training.loop import Trainer, TrainSettings
from skygen.training.self_critical import Reward, RewardSettings, SelfCriticalLearner


@dataclass(frozen=True)
class PreviewSettings:
    """Captions written while training, of the same images each time."""

    steps: CountFromZero = 0
    """Write every so many updates; 0 is never."""
    images: CountFromOne = 8
    """How many images."""
    split: str | None = None
    """Of this split; the first training images when left out."""
    csv: Path | None = None
    """The split's CSV, where the data set has one a split."""
    judge: str | None = None
    """A scorer that judges these captions; beside a reward, one that the reward does not come from."""


@dataclass(frozen=True)
class Config:
    """Fine-tune a captioner on pairs."""

    run: RunSettings
    pairs: PairSettings
    model: CaptionerSettings = field(default_factory=CaptionerSettings)
    lora: LoraSettings = field(default_factory=LoraSettings)
    images: ImageSettings = field(default_factory=lambda: ImageSettings(crop=False))
    captions: CaptionSettings = field(default_factory=lambda: CaptionSettings(strip_prefix=True))
    features: FeatureCacheSettings = field(default_factory=FeatureCacheSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    reward: RewardSettings = field(default_factory=RewardSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    preview: PreviewSettings = field(default_factory=PreviewSettings)


CONTINUATION = Continuation("checkpoints/step-*", ("model", "lora", "reward"))


def main(config: Config) -> None:
    if config.reward.name == "margin":
        check_margin(config)
    if config.preview.judge and config.preview.steps:
        require(config.preview.judge)
    accelerator = start_accelerator(config.train.mixed_precision)
    device = str(accelerator.device)
    captioner = Captioner.of(config.model, device=device, with_adapter=False)
    if config.model.adapter:
        captioner.ask_as(read_about(config.model.adapter), config.model.prompt)
    if config.images.resolution:
        captioner.family.use_resolution(config.images.resolution)
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)
        trained = captioner.attach(config.lora, seeds, base=config.model.name)
        if config.model.adapter:
            trained.start_from(config.model.adapter, config.model.name)
        stream = PairStream(pairs, config.images.for_model(captioner.resolution), config.captions, seeds, rejects)
        if config.features.root is not None:
            stream.features = keep_features(captioner, stream, config, accelerator, run)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        learner = choose_learner(captioner, stream, config, device)
        trainer = Trainer(learner, trained.parameters, stream, config.train, accelerator, checkpoints, run.stop)
        preview = choose_previews(pairs, config, rejects, device)
        for step in trainer.steps():
            run.log(step)
            rejects.check(len(pairs), config.pairs.max_bad_fraction)
            if step.due(config.train.checkpointing_steps):
                trainer.save()
            if step.due(config.preview.steps) and accelerator.is_main_process:
                preview.write(captioner, run, step.step)
        trainer.adopt_average()
        if accelerator.is_main_process:
            trained.save(run.path(trained.folder_name))


def check_margin(config: Config) -> None:
    """Refuse what the margin cannot be computed from, before anything is loaded.

    Raises:
        ConfigError: there would be no other image in a batch, or no pixels.
        UnavailableError: the scorer's weights are not here.
    """
    if config.train.train_batch_size < 2:
        raise ConfigError("--reward.name margin looks at the other images of a batch: set --train.train_batch_size to 2.")
    if config.features.root is not None:
        raise ConfigError("--reward.name margin looks at the images, which --features.root puts features for: leave that out.")
    require(config.scorer.name, config.scorer.architecture)


def keep_features(
    captioner: Captioner, stream: PairStream, config: Config, accelerator: Accelerator, run: Run
) -> CachedFeatures:
    """Run the frozen vision tower once over all images."""
    if not captioner.encoder_is_frozen:
        raise ConfigError(
            "--features.root keeps what a frozen vision tower says, and --lora.targets all and --lora.rank 0 train it: set "
            "--lora.targets to text_decoder or text_decoder_and_bridge, or leave --features.root out."
        )
    return build_features(
        captioner,
        stream.pairs,
        stream.images,
        config.features,
        stream.rejects,
        device=accelerator.device,
        process_index=accelerator.process_index,
        processes=accelerator.num_processes,
        wait=accelerator.wait_for_everyone,
        only_upright=stream.only_upright(),
        workers=config.train.dataloader_num_workers,
        progress=partial(run.progress, "features"),
    )


def choose_learner(captioner: Captioner, stream: PairStream, config: Config, device: str) -> Learner:
    """Return the captioner itself, or what trains it on a score where the settings ask for that."""
    if config.reward.name == "none":
        return captioner
    if config.reward.name == "margin":
        reward: Reward = MarginReward(load_scorer(config.scorer, config.scorer.name, device))
    else:
        reward = CiderReward(stream.references(config.reward.document_limit))
    return SelfCriticalLearner(captioner, reward, config.reward)


def choose_previews(pairs: PairList, config: Config, rejects: Rejects, device: str) -> CaptionPreview:
    """Return the images that are captioned while training, and their judge."""
    settings = config.preview
    if settings.split is not None and settings.steps:
        pairs = replace(config.pairs, csv=settings.csv, split=settings.split, limit=settings.images).read(rejects)
    judge = Scorer.load(settings.judge, device=device) if settings.judge and settings.steps else None
    return CaptionPreview(pairs[: settings.images], judge)


if __name__ == "__main__":
    launch(main, Config)
