"""Generated images against real ones and against their prompts, by a named protocol, with baselines and what has leaked.

    accelerate launch recipes/evaluate_images.py --run.name scores --samples.root runs/mine/samples \
        --samples.base_root runs/base/samples --pairs.root DATA --pairs.split test
    accelerate launch recipes/evaluate_images.py ... --samples.also runs/best-of-4/samples --judge.name JUDGE \
        --training.root DATA --training.split train --features.extractors scorer judge

``runs/<name>/metrics.json`` holds the scores, ``items.jsonl`` those of single pictures, ``pictures.jsonl`` what a report shows
side by side. Features are computed once, by any number of processes, and kept in ``features``: the same command goes on.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from accelerate import Accelerator

from skygen.config import Share
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, UnavailableError
from skygen.evaluation.images.extractors import FeatureSettings, build_extractor
from skygen.evaluation.images.features import Extractor, judgement_extractor, scorer_extractor, to_embeddings
from skygen.evaluation.images.image_scores import Features, ImageScores
from skygen.evaluation.images.legacy import split_mhn
from skygen.evaluation.images.picture_sets import PictureSet, name_models
from skygen.evaluation.images.protocols import SKYGEN_1, Protocol, find_protocol
from skygen.evaluation.images.shared_features import SharedFeatures
from skygen.evaluation.images.training_images import TrainingSettings, find_training
from skygen.evaluation.leakage import Finding, ask_choice, ask_images, ask_prompts, ask_training
from skygen.evaluation.panel import list_scorers, load_scorer, log_training, name_data_set, require_scorers
from skygen.evaluation.scores import format_table, to_metrics
from skygen.evaluation.screening.cycle import cycle_scores, read_captions
from skygen.evaluation.screening.nearest_images import Nearest
from skygen.evaluation.splits import identify_split
from skygen.evaluation.strata import name_groups, score_strata
from skygen.generation.records import METADATA, read_metadata
from skygen.models.device import start_accelerator
from skygen.models.judge import Judge, JudgeSettings
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.runs import Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class SampleSettings:
    """The generated images."""

    root: Path
    """Imagefolder written by ``generate``."""
    base_root: Path | None = None
    """Another one, drawn by the base model from the same prompts and seeds."""
    also: tuple[Path, ...] = ()
    """Further ones, such as the best of several candidates."""
    max_bad_fraction: Share = 0.0
    """Largest share of the pictures that may be unreadable before the recipe stops."""

    def roots(self) -> list[Path]:
        """List the folders."""
        return [self.root, *([self.base_root] if self.base_root else []), *self.also]


@dataclass(frozen=True)
class CycleSettings:
    """What a captioner says of the pictures, for the cycle score."""

    captions: tuple[Path, ...] = ()
    """``captions.jsonl`` of ``recipes/caption.py`` of each set of pictures, in the order of the sets; none leaves it out."""


@dataclass(frozen=True)
class IntervalSettings:
    """How intervals are found."""

    resamples: int = 200
    """Halves of the images that each distance between sets is computed of."""

    def __post_init__(self) -> None:
        if self.resamples < 2:
            raise ConfigError(f"--intervals.resamples {self.resamples}: give at least 2, such as 200.")


@dataclass(frozen=True)
class Config:
    """Score generated images."""

    run: RunSettings
    samples: SampleSettings
    pairs: PairSettings
    protocol: str = SKYGEN_1.name
    """Whose figures are wanted: skygen-1, rsdiff-1093 or mhn-2023."""
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)
    cycle: CycleSettings = field(default_factory=CycleSettings)
    training: TrainingSettings = field(default_factory=TrainingSettings)
    intervals: IntervalSettings = field(default_factory=IntervalSettings)


@dataclass(frozen=True, slots=True)
class Compared:
    """The sets that are compared: drawn ones, the real one, and the pairs that this is of."""

    generated: list[PictureSet]
    real: PictureSet
    pairs: list[Pair]

    def every(self) -> list[PictureSet]:
        """List the drawn sets, then the real one."""
        return [*self.generated, self.real]


def main(config: Config) -> None:
    protocol = find_protocol(config.protocol)
    protocol.check_networks(config.features.extractors, config.scorer.name)
    if "judge" in config.features.extractors and not config.judge.name:
        raise ConfigError("--features.extractors judge: name the judge by --judge.name.")
    require_scorers(config.scorer)
    accelerator = start_accelerator()
    with Run(config.run, config, is_main=accelerator.is_main_process) as run:
        rank, processes = accelerator.process_index, accelerator.num_processes
        shared = SharedFeatures(run.path("features", "x").parent, rank, processes, run.progress)
        sets = read_sets(config, protocol, shared, run)
        subset, seeds, resamples = config.pairs.split or "all", Seeds(config.run.seed), config.intervals.resamples
        scores = ImageScores(protocol, sets.generated, sets.real, subset=subset, seeds=seeds, resamples=resamples)
        extractors, findings = measure(config, protocol, sets, shared, scores, accelerator, run)
        if accelerator.is_main_process:
            write(config, protocol, sets, scores, extractors, findings, shared, run)


def read_sets(config: Config, protocol: Protocol, shared: SharedFeatures, run: Run) -> Compared:
    """Read the sets without the images that cannot be decoded, which every process learns of alike."""
    rejects = Rejects(run.path("rejects.jsonl"))
    pairs = list(config.pairs.read(rejects))
    every = PictureSet.of_pairs(pairs)
    readable = shared.find_readable(every, rejects)
    rejects.check(int(readable.sum()) + rejects.count, config.pairs.max_bad_fraction)
    real, kept = every.take(readable), [pair for pair, good in zip(pairs, readable, strict=True) if good]
    found = [(root, read_metadata(root)) for root in config.samples.roots()]
    for root, records in found:
        if not records:
            raise UnavailableError(f"{root / METADATA}: no generated images there; run recipes/generate.py first.")
    generated, bad = [], Rejects(run.path("rejects_samples.jsonl"))
    for (root, records), model in zip(found, name_models(found), strict=True):
        drawn = PictureSet.of_records(root, records, model)
        good = shared.find_readable(drawn, bad)
        bad.check(len(good), config.samples.max_bad_fraction, bad=int((~good).sum()))
        generated.append(drawn.take(good))
    split = identify_split(config.pairs.split or "all", real.names(), [pair.captions for pair in kept])
    protocol.check_counts(len(kept), split.official, {one.model: len(one.paths) for one in generated})
    return Compared(generated, real, kept)


def measure(
    config: Config,
    protocol: Protocol,
    sets: Compared,
    shared: SharedFeatures,
    scores: ImageScores,
    accelerator: Accelerator,
    run: Run,
) -> tuple[list[Extractor], list[Finding]]:
    """Compute features, all processes together, and of them the scores, in the first; one network in memory at a time."""
    is_main, device = accelerator.is_main_process, str(accelerator.device)
    data_sets = name_data_set(config.pairs.root, config.pairs.csv)
    findings: list[Finding] = []
    used: list[Extractor] = []

    def compute(extractor: Extractor) -> Features:
        used.append(extractor)
        return {one.model: shared.compute(extractor, one) for one in sets.every()}

    for place, name in enumerate(list_scorers(config.scorer)):
        scorer = load_scorer(config.scorer, name, device)
        log_training(scorer, data_sets)
        images = compute(scorer_extractor(scorer))
        nearest = find_training(config.training, sets.pairs, config.pairs.root, shared, used[-1], run) if place == 0 else None
        if is_main:
            texts = {one.model: scorer.embed_texts(one.texts) for one in sets.every()}
            embedded = {model: to_embeddings(rows) for model, rows in images.items()}
            scores.add_alignment(scorer, embedded, texts, only=() if place == 0 else ("skyclip_score",))
            findings += ask_scorer(config, scorer, data_sets)
            if place == 0:
                findings += ask_leakage(config, sets, nearest)
                add_cycle(config, sets, scorer, scores)
                if "scorer" in config.features.extractors:
                    scores.add_distances(used[-1].name, images, is_clip=True)
        del scorer
    judge = Judge.load(config.judge.name, device=device, batch_size=config.judge.batch_size) if config.judge.name else None
    for kind in config.features.extractors:
        if kind == "scorer":
            continue
        features = compute(build_extractor(kind, config.features, judge, device, protocol.resized))
        if is_main and kind == "mhn":
            parts = {model: split_mhn(rows) for model, rows in features.items()}
            scores.add_class_scores({model: logits for model, (_, logits) in parts.items()}, used[-1].name)
            features = {model: pooled for model, (pooled, _) in parts.items()}
        if is_main:
            scores.add_distances(used[-1].name, features, is_clip=False)
    if judge and "judge" in protocol.metrics:
        judged = compute(judgement_extractor(judge))
        seen = {model: [judge.class_names[int(best)] for best in rows.argmax(axis=1)] for model, rows in judged.items()}
        if is_main:
            scores.add_judgements(judge, seen)
            findings.append(ask_training(f"judge:{judge.name}", judge.trained_on, data_sets, "the evaluation data"))
    return used, findings


def ask_scorer(config: Config, scorer: Scorer, data_sets: tuple[str, ...]) -> Iterator[Finding]:
    """Ask what a CLIP was trained on."""
    name, training = f"skyclip:{scorer.name}", config.training.root
    yield ask_training(name, scorer.trained_on, data_sets, "the evaluation data")
    learnt = name_data_set(training, config.training.csv) if training else ()
    yield ask_training(name, scorer.trained_on, learnt, "the generator's training data")


def ask_leakage(config: Config, sets: Compared, nearest: Nearest | None) -> Iterator[Finding]:
    """Ask what the pictures owe to whoever scores them, and what the generator has seen of the evaluation."""
    yield ask_choice({one.model: one.records for one in sets.generated})
    training = config.training.read(Rejects(None))
    captions = (text for pair in training for text in pair.captions) if training is not None else None
    yield ask_prompts(sets.generated[0].texts, captions)
    same = config.training.root and config.training.root.resolve() == config.pairs.root.resolve()
    yield ask_images(sets.real.names(), nearest, {pair.key for pair in training} if training is not None and same else ())


def add_cycle(config: Config, sets: Compared, scorer: Scorer, scores: ImageScores) -> None:
    """Score what a captioner says of the pictures against their prompts."""
    if len(config.cycle.captions) > len(sets.generated):
        raise ConfigError(f"--cycle.captions: {len(config.cycle.captions)} files for {len(sets.generated)} sets of pictures.")
    for path, pictures, root in zip(config.cycle.captions, sets.generated, config.samples.roots(), strict=False):
        written = read_captions(path, root, pictures.names())
        scores.add_cycle(pictures, cycle_scores(scorer, pictures.texts, written), f"skyclip:{scorer.name}")


def write(
    config: Config,
    protocol: Protocol,
    sets: Compared,
    scores: ImageScores,
    extractors: Sequence[Extractor],
    findings: Sequence[Finding],
    shared: SharedFeatures,
    run: Run,
) -> None:
    """Write scores, single pictures, and what a reader must know of both."""
    first, subset, seeds = sets.generated[0], config.pairs.split or "all", Seeds(config.run.seed)
    by_key = {pair.key: pair for pair in sets.pairs}
    pairs = [by_key.get(str(record.get("key", ""))) for record in first.records]
    groups = name_groups(pairs, first.classes)
    strata = [
        each.to_json()
        for metric in scores.items.metrics(first.model)
        for each in score_strata(
            groups, scores.items.values(first.model, metric), name=metric.partition("@")[0], model=first.model, subset=subset,
            extractor=metric.partition("@")[2], seeds=seeds,
        )
    ]  # fmt: skip
    metrics = to_metrics(protocol.name, scores.scores) | {
        "seed": config.run.seed,
        "split": first.identify().to_json(),
        "counts": {one.model: len(one.paths) for one in sets.every()},
        "extractors": [
            {"name": one.name, "weights": one.weights, "dimension": shared.widths[one.name], "input": one.seen}
            for one in extractors
        ],
        "seconds": {name: round(seconds, 3) for name, seconds in scores.seconds.items()},
        "faults": list(protocol.faults),
        "leakage": [finding.to_json() for finding in findings],
        "strata": strata,
    }
    run.write_json("metrics.json", metrics)
    run.write_lines("items.jsonl", scores.items.lines())
    run.write_lines("pictures.jsonl", side_by_side(sets, by_key, scores))
    for finding in findings:
        logger.info(f"{finding.question} {finding.answer}. {finding.detail}")
    for fault in protocol.faults:
        logger.warning(f"{protocol.name}: {fault}")
    logger.info(format_table(scores.scores))
    costly = sorted(scores.seconds.items(), key=lambda each: -each[1])
    logger.info("seconds, beside those of the features: " + "; ".join(f"{name} {spent:.1f}" for name, spent in costly))


def side_by_side(sets: Compared, real: Mapping[str, Pair], scores: ImageScores) -> Iterator[dict[str, Any]]:
    """Tell of each picture what the other models drew from the same prompt and seed, and whose caption it was drawn from."""
    sides = [one for one in sets.generated if one.model in scores.models]
    metric = next((name for name in scores.items.metrics(sides[0].model) if name.startswith("skyclip_score@")), "")
    cosines = {one.model: scores.items.values(one.model, metric) for one in sides}
    for place, record in enumerate(sides[0].records):
        pair = real.get(str(record.get("key", "")))
        images = {one.model: str(one.paths[place]) for one in sides}
        yield {
            "key": sides[0].names()[place],
            "prompt": record["text"],
            "seed": record["seed"],
            "images": {"real": str(pair.image) if pair else None, **images},
            "skyclip_score": {model: float(values[place]) for model, values in cosines.items() if np.isfinite(values[place])},
            **({"judged": {one.model: scores.judged[one.model][place] for one in sides}} if scores.judged else {}),
        }


if __name__ == "__main__":
    launch(main, Config)
