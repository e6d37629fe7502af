"""A captioner against its base, the trivial baselines and people, by coco-caption's metrics and by SkyCLIP.

    accelerate launch recipes/evaluate_captions.py --run.name scores --pairs.root DATA --pairs.split test \
        --model.adapter runs/my-captioner/adapter

``runs/<name>/metrics.json`` holds the scores and says what split they are of, ``captions.jsonl`` every caption beside its
references, ``items.jsonl`` the scores of each image; ``skygen compare`` tests two such runs against each other.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from skygen.config import CountFromZero
from skygen.data.images import open_readable
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import DataError, SkygenError
from skygen.evaluation.alignment import align_trials, caption_alignment_scores
from skygen.evaluation.captions.baselines import shuffled_captions, trivial_captions
from skygen.evaluation.captions.captioned_pairs import read_captioned_pairs
from skygen.evaluation.captions.coco_tools import coco_scores
from skygen.evaluation.captions.tags import tag_scores
from skygen.evaluation.captions.trials import Trial, lay_out_trials
from skygen.evaluation.captions.writers import caption_scores, caption_statistics, measure_trial
from skygen.evaluation.items import FILE, ItemScores
from skygen.evaluation.panel import list_scorers, load_scorer, log_training, name_data_set, require_scorers
from skygen.evaluation.scores import PROTOCOL, Score, format_table, to_metrics
from skygen.evaluation.splits import identify_split
from skygen.models.adapters import without_adapter
from skygen.models.captioner import Captioner, CaptionerSettings, CaptioningSettings
from skygen.models.device import pick_device
from skygen.models.scorer import ScorerSettings
from skygen.runs import Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class BaselineSettings:
    """Training captions of the same data set, which the trivial baselines repeat."""

    csv: Path | None = None
    """Their CSV, where the data set has one a split."""
    split: str = "train"
    """Their split."""
    limit: CountFromZero = 20_000
    """At most so many of them."""


@dataclass(frozen=True)
class Config:
    """Score a captioner."""

    run: RunSettings
    pairs: PairSettings
    model: CaptionerSettings = field(default_factory=CaptionerSettings)
    captioning: CaptioningSettings = field(default_factory=CaptioningSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    baseline: BaselineSettings = field(default_factory=BaselineSettings)
    coco_tools: bool = True
    """Also METEOR and SPICE, where Java and the extra ``skygen[coco]`` are here; METEOR takes a minute for 2,000 captions."""


def main(config: Config) -> None:
    require_scorers(config.scorer)
    device = pick_device()
    captioner = Captioner.of(config.model, device=device)
    seeds, subset = Seeds(config.run.seed), config.pairs.split or "all"
    with Run(config.run, config) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs, captions = write_captions(captioner, read_captioned_pairs(config.pairs, rejects), config, run, rejects)
        del captioner  # the scorers get its memory
        references = [pair.captions for pair in pairs]
        split = identify_split(subset, [pair.key for pair in pairs], references)
        captions |= write_baselines(pairs, captions, config, rejects, seeds)
        trials, items = lay_out_trials(captions, references), ItemScores([pair.key for pair in pairs])
        measured = [measure_trial(trial) for trial in trials]
        for one in measured:
            for metric, values in one.items.items():
                items.add(one.trial.writer, one.trial.name(metric), one.trial.rows, values)
        scores = caption_scores(measured, subset=subset, seeds=seeds)
        scores += caption_statistics(captions, references, subset=subset, seeds=seeds)
        scores += tag_scores(captions, references, subset=subset, seeds=seeds)
        if config.coco_tools:
            scores += coco_scores(trials, items, subset=subset, seeds=seeds, progress=lambda *n: run.progress("rounds", *n))
        for name in list_scorers(config.scorer):
            scores += align(name, pairs, trials, items, config, device, run)
        run.write_json("metrics.json", to_metrics(PROTOCOL, scores) | {"split": split.to_json()})
        run.write_lines(FILE, items.lines())
        write_record(run, pairs, captions)
        logger.info(format_table(scores))


def write_captions(
    captioner: Captioner, listed: Sequence[Pair], config: Config, run: Run, rejects: Rejects
) -> tuple[list[Pair], dict[str, list[str]]]:
    """Caption the images with the model as it was and, where there is an adapter, as it is tuned.

    A batch of images is in memory at a time; of it only the texts are kept.

    Returns:
        The pairs whose image could be read, and their captions.
    """
    pairs: list[Pair] = []
    captions: dict[str, list[str]] = {writer: [] for writer in (("tuned", "base") if config.model.adapter else ("base",))}
    for start in range(0, len(listed), config.captioning.batch_size):
        chunk = listed[start : start + config.captioning.batch_size]
        read = open_readable([(pair.key, pair.image) for pair in chunk], rejects)
        rejects.check(len(listed), config.pairs.max_bad_fraction)
        images, seeds = [image for _, image in read], Seeds(Seeds(config.run.seed).derive("captions", start))
        pairs += [chunk[index] for index, _ in read]
        if config.model.adapter:
            captions["tuned"] += [texts[0] for texts in captioner.propose(images, config.captioning, seeds)]
        with without_adapter(captioner.network):
            captions["base"] += [texts[0] for texts in captioner.propose(images, config.captioning, seeds)]
        run.progress("captioned", start + len(chunk), len(listed))
    if not pairs:
        raise DataError(f"{config.pairs.root}: none of {len(listed)} images can be read; {rejects.path} says why of each.")
    return pairs, captions


def write_baselines(
    pairs: Sequence[Pair], captions: Mapping[str, Sequence[str]], config: Config, rejects: Rejects, seeds: Seeds
) -> dict[str, list[str]]:
    """Return the trivial captions; without training captions to repeat, only the shuffled ones."""
    baselines = {"shuffled": shuffled_captions(captions.get("tuned", captions["base"]), seeds)}
    wanted = replace(config.pairs, csv=config.baseline.csv, split=config.baseline.split, limit=config.baseline.limit)
    try:
        return baselines | trivial_captions(read_captioned_pairs(wanted, rejects), pairs)
    except SkygenError as error:
        logger.warning(f"no training captions, so no constant and class_mode baselines: {error}")
        return baselines


def align(
    name: str, pairs: Sequence[Pair], trials: Sequence[Trial], items: ItemScores, config: Config, device: str, run: Run
) -> list[Score]:
    """Score the captions by one of the scorers, which is in memory no longer than that."""
    scorer = load_scorer(config.scorer, name, device)
    log_training(scorer, name_data_set(config.pairs.root, config.pairs.csv))
    images, extractor = [pair.image for pair in pairs], f"skyclip:{scorer.name}"
    aligned = align_trials(scorer, images, trials, lambda *n: run.progress(f"images embedded by {name}", *n))
    for metric, every in aligned.items():
        for one in every:
            items.add(one.writer, metric, one.rows, one.values, extractor)
    subset, seeds = config.pairs.split or "all", Seeds(config.run.seed)
    return caption_alignment_scores(aligned, extractor=extractor, subset=subset, seeds=seeds)


def write_record(run: Run, pairs: Sequence[Pair], captions: Mapping[str, Sequence[str]]) -> None:
    """Write ``captions.jsonl``: each image with its references and what every writer said."""
    run.write_lines(
        "captions.jsonl",
        [
            {
                "key": pair.key,
                "image": str(pair.image),
                "references": pair.captions,
                "captions": {writer: written[index] for writer, written in captions.items()},
            }
            for index, pair in enumerate(pairs)
        ],
    )


if __name__ == "__main__":
    launch(main, Config)
