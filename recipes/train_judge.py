"""Images of known classes -> a judge: a classifier that says what a generated picture shows.

    accelerate launch recipes/train_judge.py recipes/configs/train_judge/miniature.yaml \
        --pairs.also EUROSAT --benchmark.class_folders EUROSAT

The same command again continues the run. ``runs/<name>/model`` is a folder that ``--judge.name`` takes.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

from skygen.checkpoints import Checkpoints
from skygen.config import Share
from skygen.data.batches import Positions, load_batches
from skygen.data.benchmarks import Benchmark, BenchmarkSettings
from skygen.data.framing import ImageSettings
from skygen.data.images import open_image
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import Pair, to_words
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, ImageError
from skygen.evaluation.images.judgement import accuracy_by_class, accuracy_scores, name_classes
from skygen.evaluation.panel import name_data_set
from skygen.evaluation.scores import PROTOCOL, format_table, to_metrics
from skygen.models.adapters import WholeModel
from skygen.models.device import start_accelerator
from skygen.models.judge import ClassificationLearner, Judge
from skygen.runs import Continuation, Run, RunSettings, launch, logger
from skygen.seeding import Seeds
from skygen.training.loop import Trainer, TrainSettings

SETTLING_BATCHES = 50
"""A few thousand images, as many as the running statistics of training remember, and more."""


@dataclass(frozen=True)
class StartSettings:
    """The classifier that training starts from."""

    name: str
    """``miniature``, a folder or a hub id; its head must have the classes of the data."""
    label_smoothing: Share = 0.05
    """Share of the target that goes to all classes alike; 0 is off."""


@dataclass(frozen=True)
class Config:
    """Train an image classifier on pairs with class names."""

    run: RunSettings
    pairs: PairSettings
    model: StartSettings
    images: ImageSettings = field(default_factory=lambda: ImageSettings(crop=False))
    train: TrainSettings = field(default_factory=TrainSettings)
    benchmark: BenchmarkSettings = field(default_factory=BenchmarkSettings)


CONTINUATION = Continuation("checkpoints/step-*", ("model",))


def main(config: Config) -> None:
    accelerator = start_accelerator(config.train.mixed_precision)
    judge = Judge.load(config.model.name, device=str(accelerator.device))
    images = config.images.for_model(judge.resolution)
    if images.resolution != judge.resolution:
        raise ConfigError(
            f"--images.resolution {config.images.resolution}: {config.model.name} sees squares of {judge.resolution} pixels; "
            f"set --images.resolution {judge.resolution}."
        )
    seeds = Seeds(config.run.seed)
    with Run(config.run, config, is_main=accelerator.is_main_process, continuation=CONTINUATION) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = read_labelled(config.pairs, rejects)
        benchmarks = [keep_readable(benchmark, rejects) for benchmark in config.benchmark.read(rejects)]
        learner = ClassificationLearner(judge, number_classes(pairs, judge), config.model.label_smoothing)
        trained = WholeModel(judge.network, judge.save)
        stream = PairStream(pairs, images, CaptionSettings(), seeds, rejects)
        checkpoints = Checkpoints(run.path("checkpoints"), config.train.checkpoints_total_limit)
        trainer = Trainer(learner, trained.parameters, stream, config.train, accelerator, checkpoints, run.stop)
        for step in trainer.steps():
            run.log(step)
            rejects.check(len(pairs), config.pairs.max_bad_fraction)
            if step.due(config.train.checkpointing_steps):
                trainer.save()
        trainer.adopt_average()
        if accelerator.is_main_process:
            settling = Positions(first=0, last=SETTLING_BATCHES, batch_size=config.train.train_batch_size)
            learner.settle_statistics(load_batches(stream, settling))
            seen = (name for root in (config.pairs.root, *config.pairs.also) for name in name_data_set(root))
            judge.trained_on = tuple(dict.fromkeys((*judge.trained_on, *seen)))
            folder = run.path(trained.folder_name)
            trained.save(folder)
            validate(run, Judge.load(str(folder), device=str(accelerator.device)), benchmarks, seeds)


def read_labelled(settings: PairSettings, rejects: Rejects) -> list[Pair]:
    """Read the pairs; one whose class is not known is noted and left out."""
    found = settings.read(rejects)
    pairs = []
    for pair in found:
        if pair.class_name:
            pairs.append(pair)
        else:
            rejects.add(pair.key, "its class is not known", where=str(pair.image))
    rejects.check(len(found), settings.max_bad_fraction)
    return pairs


def number_classes(pairs: list[Pair], judge: Judge) -> dict[str, int]:
    """Return the place of each pair's class in the judge's head, by the pair's key.

    Raises:
        ConfigError: the head lacks a class, or two data sets have an image of one name and two classes.
    """
    place = {name: index for index, name in enumerate(judge.class_names)}
    labels: dict[str, int] = {}
    for pair in pairs:
        name = to_words(pair.class_name or "")
        if name not in place:
            raise ConfigError(
                f"{pair.image}: of the class {name}, which the head of {judge.name} lacks; its classes are "
                f"{', '.join(judge.class_names)}; choose among them with --pairs.classes, or start from another --model.name."
            )
        if labels.setdefault(pair.key, place[name]) != place[name]:
            raise ConfigError(f"{pair.image}: another data set has an image of this name and of another class; rename one.")
    return labels


def keep_readable(benchmark: Benchmark, rejects: Rejects) -> Benchmark:
    """Leave out the images that cannot be decoded, and note them."""
    kept = []
    for image, label in zip(benchmark.images, benchmark.labels, strict=True):
        try:
            open_image(image)
            kept.append((image, label))
        except ImageError as error:
            rejects.add(image.name, str(error), where=str(image))
    return replace(benchmark, images=tuple(image for image, _ in kept), labels=tuple(label for _, label in kept))


def validate(run: Run, judge: Judge, benchmarks: list[Benchmark], seeds: Seeds) -> None:
    """Judge real images that were held out, and note the accuracy in ``metrics.json``, by class in the log."""
    scores = []
    for benchmark in benchmarks:
        judged = name_classes(judge, benchmark.images)
        expected = [benchmark.class_names[label] for label in benchmark.labels]
        scores += accuracy_scores(judge, judged, expected, model="real", subset=benchmark.name, seeds=seeds)
        shares = accuracy_by_class(judged, expected)
        logger.info(f"{benchmark.name}: " + ", ".join(f"{name} {share:.2f}" for name, share in shares.items()))
    run.write_json("metrics.json", to_metrics(PROTOCOL, scores))
    logger.info(format_table(scores))


if __name__ == "__main__":
    launch(main, Config)
