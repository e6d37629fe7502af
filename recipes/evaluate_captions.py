"""A captioner against its base and the trivial baselines, by coco-caption's metrics and by SkyCLIP.

    accelerate launch recipes/evaluate_captions.py --run.name scores --pairs.root DATA --pairs.split test \
        --model.adapter runs/my-captioner/adapter

``runs/<name>/metrics.json`` holds the scores, ``captions.jsonl`` every caption beside its references.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path

from PIL import Image

from skygen.data.captions import strip_view_prefix
from skygen.data.images import open_readable
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import SkygenError
from skygen.evaluation.alignment import caption_alignment_scores
from skygen.evaluation.baselines import class_mode_captions, constant_caption, shuffled_captions
from skygen.evaluation.captioning import caption_scores
from skygen.evaluation.panel import list_scorers, load_scorer, log_training, name_data_set, require_scorers
from skygen.evaluation.scores import Score, format_table, to_metrics
from skygen.evaluation.tags import tag_scores
from skygen.models.adapters import without_adapter
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.device import pick_device
from skygen.models.scorer import ScorerSettings
from skygen.models.weights import ModelSettings
from skygen.runs import Run, RunSettings, launch, logger
from skygen.seeding import Seeds


@dataclass(frozen=True)
class BaselineSettings:
    """Training captions of the same data set, which the trivial baselines repeat."""

    csv: Path | None = None
    """Their CSV, where the data set has one a split."""
    split: str = "train"
    """Their split."""
    limit: int = 20_000
    """At most so many of them."""


@dataclass(frozen=True)
class Config:
    """Score a captioner."""

    run: RunSettings
    pairs: PairSettings
    model: ModelSettings = field(default_factory=ModelSettings)
    captioning: CaptioningSettings = field(default_factory=CaptioningSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    baseline: BaselineSettings = field(default_factory=BaselineSettings)


def main(config: Config) -> None:
    require_scorers(config.scorer)
    device = pick_device()
    captioner = Captioner.load(config.model.name, config.model.adapter, device=device)
    seeds = Seeds(config.run.seed)
    with Run(config.run, config) as run:
        rejects = Rejects(run.path("rejects.jsonl"))
        listed = config.pairs.read(rejects)
        read = open_readable([(pair.key, pair.image) for pair in listed], rejects)
        rejects.check(len(listed), config.pairs.max_bad_fraction)
        pairs, images = [listed[index] for index, _ in read], [image for _, image in read]
        references = [[strip_view_prefix(caption) for caption in pair.captions] for pair in pairs]
        captions = write_captions(captioner, images, config)
        captions |= write_baselines(pairs, captions, config, rejects, seeds)
        subset = config.pairs.split or "all"
        scores = caption_scores(captions, references, subset=subset, seeds=seeds)
        scores += tag_scores(captions, references, subset=subset, seeds=seeds)
        for name in list_scorers(config.scorer):
            scores += align(name, images, captions, references, subset, config, device)
        run.write_json("metrics.json", to_metrics("skygen-v1", scores))
        write_record(run, pairs, references, captions)
        logger.info(format_table(scores))


def align(
    name: str,
    images: Sequence[Image.Image],
    captions: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    subset: str,
    config: Config,
    device: str,
) -> list[Score]:
    """Score the captions by one of the scorers, which is in memory no longer than that."""
    scorer = load_scorer(config.scorer, name, device)
    log_training(scorer, name_data_set(config.pairs.root, config.pairs.csv))
    return caption_alignment_scores(scorer, images, captions, references, subset=subset, seeds=Seeds(config.run.seed))


def write_captions(captioner: Captioner, images: Sequence[Image.Image], config: Config) -> dict[str, list[str]]:
    """Caption the images with the model as it was and, where there is an adapter, as it is tuned."""
    captions = {}
    if config.model.adapter:
        captions["tuned"] = captioner.caption(images, config.captioning)
    with without_adapter(captioner.network):
        captions["base"] = captioner.caption(images, config.captioning)
    return captions


def write_baselines(
    pairs: Sequence[Pair], captions: Mapping[str, Sequence[str]], config: Config, rejects: Rejects, seeds: Seeds
) -> dict[str, list[str]]:
    """Return the trivial captions; without training captions to repeat, only the shuffled ones."""
    best = captions.get("tuned", captions["base"])
    baselines = {"shuffled": shuffled_captions(best, seeds)}
    wanted = replace(config.pairs, csv=config.baseline.csv, split=config.baseline.split, limit=config.baseline.limit)
    try:
        train = wanted.read(rejects)
    except SkygenError as error:
        logger.warning(f"no training captions, so no constant and class_mode baselines: {error}")
        return baselines
    stripped = [replace(pair, captions=tuple(map(strip_view_prefix, pair.captions))) for pair in train]
    constant = constant_caption([caption for pair in stripped for caption in pair.captions])
    return baselines | {"constant": [constant] * len(pairs), "class_mode": class_mode_captions(stripped, pairs)}


def write_record(
    run: Run, pairs: Sequence[Pair], references: Sequence[Sequence[str]], captions: Mapping[str, Sequence[str]]
) -> None:
    """Write ``captions.jsonl``: each image with its references and what every writer said."""
    run.write_lines(
        "captions.jsonl",
        [
            {
                "key": pair.key,
                "image": str(pair.image),
                "references": references[index],
                "captions": {writer: written[index] for writer, written in captions.items()},
            }
            for index, pair in enumerate(pairs)
        ],
    )


if __name__ == "__main__":
    launch(main, Config)
