"""Pairs -> a CLIP, trained (on) with SkyCLIP's recipe: the pairs of all processes contrasted with each other.

    accelerate launch recipes/pretrain_skyclip.py recipes/configs/pretrain_skyclip/miniature.yaml

The same command again continues the run. ``runs/<name>/model`` is a folder that ``--scorer.name`` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field

from skygen.checkpoints import Checkpoints
from skygen.config import CountFromZero
from skygen.data.benchmarks import Benchmark, BenchmarkSettings
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError
from skygen.evaluation.scores import PROTOCOL, format_table, to_metrics
from skygen.evaluation.zero_shot import zero_shot_scores
from skygen.models.adapters import WholeModel
from skygen.models.contrastive import ContrastiveLearner
from skygen.models.device import start_accelerator
from skygen.models.scorer import Scorer
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds
from skygen.training.loop import Trainer, TrainSettings


@dataclass(frozen=True)
class StartSettings:
    """The CLIP that training starts from."""

    name: str
    """A scorer's name, or a folder or hub id with open_clip_config.json."""


@dataclass(frozen=True)
class ValidationSettings(BenchmarkSettings):
    """Zero-shot classification while training."""

    limit: CountFromZero = 512
    """At most so many images of each, evenly spaced; 0 takes all."""
    validation_steps: CountFromZero = 100
    """Validate every so many updates, and at the end."""


@dataclass(frozen=True)
class Config:
    """Train a CLIP contrastively on pairs."""

    run: RunSettings
    pairs: PairSettings
    model: StartSettings
    images: ImageSettings = field(default_factory=lambda: ImageSettings(crop=False))
    captions: CaptionSettings = field(default_factory=CaptionSettings)
    train: TrainSettings = field(default_factory=TrainSettings)
    validation: ValidationSettings = field(default_factory=ValidationSettings)


CONTINUATION = Continuation("checkpoints/step-*", ("model",))


def main(config: Config) -> None:
    if config.train.gradient_accumulation_steps > 1:
        raise ConfigError(
            "pretrain_skyclip contrasts the pairs of one batch, which accumulation would cut in pieces: raise "
            "--train.train_batch_size or the number of processes in place of --train.gradient_accumulation_steps."
        )
    accelerator = start_accelerator(config.train.mixed_precision)
    scorer = Scorer.load(config.model.name, device=str(accelerator.device))
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = config.pairs.read(rejects)
        benchmarks = config.validation.read(rejects)
        trained = WholeModel(scorer.model, scorer.save)
        stream = PairStream(pairs, config.images.for_model(scorer.resolution), config.captions, seeds, rejects)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        learner = ContrastiveLearner(scorer.model, scorer.tokenize)
        trainer = Trainer(learner, trained.parameters, stream, config.train, accelerator, checkpoints, run.stop)
        for step in trainer.steps():
            run.log(step)
            rejects.check(len(pairs), config.pairs.max_bad_fraction)
            if step.due(config.train.checkpointing_steps):
                trainer.save()
            if step.due(config.validation.validation_steps) and accelerator.is_main_process:
                validate(run, scorer, benchmarks, rejects, seeds, step.step)
        trainer.adopt_average()
        if accelerator.is_main_process:
            trained.save(run.path(trained.folder_name))


def validate(run: Run, scorer: Scorer, benchmarks: list[Benchmark], rejects: Rejects, seeds: Seeds, step: int) -> None:
    """Classify the benchmarks' images as the model stands, and note it in ``metrics.json`` and ``validation.jsonl``."""
    if not benchmarks:
        return
    training = scorer.model.training
    scorer.model.eval()
    scores = [score for benchmark in benchmarks for score in zero_shot_scores(scorer, benchmark, seeds, rejects)]
    scorer.model.train(training)
    run.write_json("metrics.json", to_metrics(PROTOCOL, scores))
    reached = {f"{score.subset} {score.name}": score.value for score in scores if score.model != "random"}
    run.append("validation.jsonl", {"step": step} | reached)
    logger.info(format_table(scores))


if __name__ == "__main__":
    launch(main, Config)
