"""Does the synthetic data help? Classifiers trained on real, on synthetic, and on both, tested on real images.

    accelerate launch recipes/evaluate_utility.py --run.name utility --real.root DATA --synthetic.root runs/set/samples \
        --utility.shots 5 10 20 --utility.seeds 3 --utility.multiples 1 5

All train equally long, from the same initial weights for a seed; see ``skygen.evaluation.utility.trials``. ``results.jsonl``
has a line for each trained classifier, and the same command goes on with those that are missing. ``table.md`` has the table
and what must stand beside it, ``metrics.json`` the scores.
"""

from __future__ import annotations

import shutil
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
from accelerate import Accelerator

from skygen.checkpoints import Checkpoints
from skygen.config import Share
from skygen.data.batches import Positions, load_batches
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError
from skygen.evaluation.images.judgement import name_classes
from skygen.evaluation.scores import PROTOCOL, format_table, to_metrics
from skygen.evaluation.utility.data import Drawn, TrainingImages, UtilityData, draw_images, read_data, take_images
from skygen.evaluation.utility.table import describe_rules, format_markdown, score_arms
from skygen.evaluation.utility.trials import RESULTS, Outcome, Trial, UtilitySettings, plan_trials, read_outcomes
from skygen.generation.records import read_metadata
from skygen.miniature.architectures import build_judge
from skygen.models.adapters import WholeModel
from skygen.models.device import start_accelerator
from skygen.models.judge import ClassificationLearner, Judge
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds
from skygen.training.loop import Trainer, TrainSettings

SETTLING_BATCHES = 20
"""Of training images, after which the statistics of normalisation no longer move: 640 images at the default batch."""
SMALL = "small-resnet"


@dataclass(frozen=True)
class RealPairs(PairSettings):
    """Real images of known classes; the same data set is tested on, in another split."""

    split: str | None = "train"
    """Split that is trained on."""


@dataclass(frozen=True)
class ClassifierSettings:
    """The classifier that every arm trains."""

    name: str = ""
    """A small ResNet with weights drawn by the seed where it is empty; or a folder or hub id of a classifier that all start
    from, whose head must have the classes of the data, and which must not have seen the test images."""
    label_smoothing: Share = 0.05
    """Share of the target that goes to all classes alike; 0 is off."""


@dataclass(frozen=True)
class Config:
    """Measure what synthetic images add to real ones."""

    run: RunSettings
    real: RealPairs
    synthetic: PairSettings
    utility: UtilitySettings = field(default_factory=UtilitySettings)
    model: ClassifierSettings = field(default_factory=ClassifierSettings)
    images: ImageSettings = field(default_factory=lambda: ImageSettings(crop=False))
    train: TrainSettings = field(
        default_factory=lambda: TrainSettings(
            max_train_steps=400, train_batch_size=32, learning_rate=2e-3, lr_warmup_steps=40, adam_weight_decay=0.05
        )
    )


CONTINUATION = Continuation(RESULTS, ("model", "images", "train", "utility.batches"))


def main(config: Config) -> None:
    accelerator = start_accelerator(config.train.mixed_precision)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        records = read_metadata(config.synthetic.root)
        data = read_data(config.real, config.synthetic, records, config.utility, rejects, partial(run.progress, "test images"))
        outcomes = read_outcomes(run.path(RESULTS))
        accelerator.wait_for_everyone()
        run.write_lines(RESULTS, [outcome.to_json() for outcome in outcomes])  # without a line that a kill cut short
        run_trials(config, data, outcomes, accelerator, run, rejects)
        if accelerator.is_main_process:
            report(run, config, data, outcomes)


def run_trials(
    config: Config, data: UtilityData, outcomes: list[Outcome], accelerator: Accelerator, run: Run, rejects: Rejects
) -> None:
    """Train and test what has no outcome yet, and add it.

    Raises:
        ConfigError: an outcome is of other images.
        Preempted: a signal asked for the end.
    """
    trials = plan_trials(config.utility)
    known = {(one.arm, one.shots, one.seed): one for one in outcomes}
    drawn: dict[int, tuple[Drawn, Drawn]] = {}
    for number, trial in enumerate(trials):
        run.progress("classifiers trained", number, len(trials))
        if trial.seed not in drawn:
            drawn = {trial.seed: draw_images(data, config.utility, seeds_of(config, trial.seed), rejects)}
        begun = take_images(trial, drawn[trial.seed], config.utility)
        done = known.get((trial.arm.name, trial.shots, trial.seed))
        if done is None:
            judge = train_classifier(trial, begun, config, data, accelerator, run, rejects)
            if accelerator.is_main_process:
                outcomes.append(test_classifier(judge, trial, begun, config, data, run))
            accelerator.wait_for_everyone()
        elif (done.training, done.test) != (begun.mark, data.test_mark):
            raise ConfigError(
                f"{run.path(RESULTS)}: {trial.name} was trained or tested on other images than these; take another --run.name."
            )
    run.progress("classifiers trained", len(trials), len(trials))
    if accelerator.is_main_process:  # a kill between a line and its checkpoints leaves these
        shutil.rmtree(run.path("checkpoints"), ignore_errors=True)


def report(run: Run, config: Config, data: UtilityData, outcomes: Sequence[Outcome]) -> None:
    """Write ``metrics.json`` and ``table.md``, and say the scores."""
    extractor = f"classifier:{config.model.name or SMALL}"
    results = score_arms(outcomes, np.array(data.test.labels), config.utility, extractor, Seeds(config.run.seed))
    batch = config.train.train_batch_size * config.train.gradient_accumulation_steps
    notes = describe_rules(config.utility, config.train.max_train_steps, batch, len(data.test.images), data.origins)
    scores = [score for result in results for score in result.all_scores()]
    differences = [result.to_json() for result in results if result.differences]
    run.write_json("metrics.json", to_metrics(PROTOCOL, scores) | {"differences": differences, "notes": notes})
    table = format_markdown(results, notes)
    run.write_text("table.md", table)
    logger.info(f"{format_table(scores)}\n\n{table}")


def seeds_of(config: Config, repetition: int) -> Seeds:
    """Return the seeds of a repetition: its images, initial weights and order follow from them, whatever the arm."""
    return Seeds(Seeds(config.run.seed).derive("repetition", repetition))


def start_classifier(settings: ClassifierSettings, classes: Sequence[str], seeds: Seeds, device: str) -> Judge:
    """Make the classifier that every arm of a repetition starts from.

    Raises:
        ConfigError: its head lacks a class.
    """
    if settings.name:
        judge = Judge.load(settings.name, device=device)
    else:
        with tempfile.TemporaryDirectory() as folder:
            build_judge(Path(folder), classes, seeds)
            judge = Judge.load(folder, device=device)
            judge.name = SMALL
    if missing := sorted(set(classes) - set(judge.class_names)):
        raise ConfigError(
            f"--model.name {settings.name}: its head lacks the class {missing[0]}; give one with those of the data."
        )
    return judge


def train_classifier(
    trial: Trial,
    begun: TrainingImages,
    config: Config,
    data: UtilityData,
    accelerator: Accelerator,
    run: Run,
    rejects: Rejects,
) -> Judge:
    """Train a classifier on a trial's images, from its newest checkpoint where there is one.

    Args:
        trial: which.
        begun: its images.
        config: of the run.
        data: whose classes the head has.
        accelerator: device and processes.
        run: where checkpoints go.
        rejects: the ledger of bad images.

    Raises:
        Preempted: a signal asked for the end.
    """
    seeds = seeds_of(config, trial.seed)
    judge = start_classifier(config.model, data.test.class_names, seeds, str(accelerator.device))
    images = config.images.for_model(judge.resolution)
    if images.resolution != judge.resolution:
        raise ConfigError(
            f"--images.resolution {images.resolution}: the classifier sees squares of {judge.resolution}; set that, or 0."
        )
    place = {name: index for index, name in enumerate(judge.class_names)}
    labels = {pair.key: place[pair.class_name or ""] for pair in begun.shown}
    learner = ClassificationLearner(judge, labels, config.model.label_smoothing)
    trained = WholeModel(judge.network, judge.save)
    stream = PairStream(begun.shown, images, CaptionSettings(), seeds, rejects)
    checkpoints = Checkpoints(run.path("checkpoints", trial.folder), config.train.checkpoints_total_limit)
    trainer = Trainer(learner, trained.parameters, stream, config.train, accelerator, checkpoints, run.stop)
    for step in trainer.steps():
        run.tell(f"{trial.name}: step", step.step, step.total)
        if step.due(config.train.checkpointing_steps):
            trainer.save()
    trainer.adopt_average()
    settling = Positions(first=0, last=SETTLING_BATCHES, batch_size=config.train.train_batch_size)
    learner.settle_statistics(load_batches(stream, settling))
    judge.network.eval()
    return judge


def test_classifier(judge: Judge, trial: Trial, begun: TrainingImages, config: Config, data: UtilityData, run: Run) -> Outcome:
    """Let a trained classifier see the test images, and write its line."""
    place = {name: index for index, name in enumerate(data.test.class_names)}
    seen = [place.get(name, -1) for name in name_classes(judge, data.test.images)]
    outcome = Outcome(
        arm=trial.arm.name, shots=trial.shots, seed=trial.seed, real=begun.real, synthetic=begun.synthetic,
        steps=config.train.max_train_steps, training=begun.mark, test=data.test_mark, predicted=tuple(seen),
    )  # fmt: skip
    run.append(RESULTS, outcome.to_json())
    shutil.rmtree(run.path("checkpoints", trial.folder), ignore_errors=True)
    right = np.mean(np.array(seen) == np.array(data.test.labels))
    logger.info(f"{trial.name}: accuracy {right:.4f} on {len(seen):,} test images")
    return outcome


if __name__ == "__main__":
    launch(main, Config)
