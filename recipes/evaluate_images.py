"""Generated images against real ones and against their prompts: FID, KID, SkyCLIP score, with baselines.

    accelerate launch recipes/evaluate_images.py --run.name scores --samples.root runs/mine/samples \
        --samples.base_root runs/base/samples --pairs.root DATA --pairs.split test

``runs/<name>/metrics.json`` holds the scores, ``pictures.jsonl`` what a report shows side by side.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from skygen.data.images import open_readable
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import UnavailableError
from skygen.evaluation.alignment import alignment_scores
from skygen.evaluation.images.diversity import diversity_scores
from skygen.evaluation.images.features import Extractor, inception_extractor, scorer_extractor
from skygen.evaluation.images.fidelity import fidelity_scores
from skygen.evaluation.images.judgement import accuracy_scores, name_classes
from skygen.evaluation.panel import list_scorers, load_scorer, log_training, name_data_set, require_scorers
from skygen.evaluation.scores import Score, format_table, to_metrics
from skygen.generation.sampling import METADATA, read_metadata
from skygen.models.device import pick_device
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


@dataclass(frozen=True)
class FeatureSettings:
    """The network in whose features FID and KID are measured."""

    inception: Path | None = None
    """Weights of the FID Inception (``weights-inception-2015-12-05-6726825d.pth``); SkyCLIP is used without it."""


@dataclass(frozen=True)
class Config:
    """Score generated images."""

    run: RunSettings
    samples: SampleSettings
    pairs: PairSettings
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    features: FeatureSettings = field(default_factory=FeatureSettings)
    judge: JudgeSettings = field(default_factory=JudgeSettings)


@dataclass(frozen=True, slots=True)
class Pictures:
    """Images of one origin with the words that go with them, embedded."""

    model: str
    paths: list[Path]
    texts: list[str]
    records: list[dict[str, Any]]
    classes: list[str]
    images: Float[np.ndarray, "count dimension"]
    words: Float[np.ndarray, "count dimension"]


def main(config: Config) -> None:
    require_scorers(config.scorer)
    device = pick_device()
    scorer = load_scorer(config.scorer, config.scorer.name, device)
    if config.features.inception:
        extractor = inception_extractor(config.features.inception, device=device)
    else:
        extractor = scorer_extractor(scorer)
    judge = Judge.load(config.judge.name, device=device, batch_size=config.judge.batch_size) if config.judge.name else None
    seeds = Seeds(config.run.seed)
    data_sets = name_data_set(config.pairs.root, config.pairs.csv)
    with Run(config.run, config) as run:
        log_training(scorer, data_sets)
        rejects = Rejects(run.path("rejects.jsonl"))
        pairs = keep_readable(config.pairs.read(rejects), rejects, scorer.batch_size)
        rejects.check(len(pairs) + rejects.count, config.pairs.max_bad_fraction)
        real = embed(
            scorer, "real", [pair.image for pair in pairs], [pair.captions[0] for pair in pairs], [],
            [pair.class_name or "" for pair in pairs],
        )  # fmt: skip
        generated = [read_samples(scorer, config.samples.root)]
        if config.samples.base_root:
            generated.append(read_samples(scorer, config.samples.base_root))
        subset = config.pairs.split or "all"
        scores = score(real, generated, extractor, f"skyclip:{scorer.name}", subset, seeds)
        del scorer, extractor  # one CLIP in memory at a time
        for name in list_scorers(config.scorer)[1:]:
            scores += score_beside(load_scorer(config.scorer, name, device), [*generated, real], data_sets, subset, seeds)
        judged: dict[str, list[str]] = {}
        if judge:
            for pictures in (*generated, real):
                seen = judged[pictures.model] = name_classes(judge, pictures.paths)
                scores += accuracy_scores(judge, seen, pictures.classes, model=pictures.model, subset=subset, seeds=seeds)
        run.write_json("metrics.json", to_metrics("skygen-v1", scores))
        run.write_lines("pictures.jsonl", side_by_side(generated, {pair.key: pair.image for pair in pairs}, judged))
        logger.info(format_table(scores))


def keep_readable(pairs: Sequence[Pair], rejects: Rejects, batch_size: int) -> list[Pair]:
    """Leave out the pairs whose image is bad, and note them; a batch of images is in memory at a time."""
    kept: list[Pair] = []
    for start in range(0, len(pairs), batch_size):
        chunk = pairs[start : start + batch_size]
        kept += [chunk[index] for index, _ in open_readable([(pair.key, pair.image) for pair in chunk], rejects)]
    return kept


def embed(
    scorer: Scorer, model: str, paths: list[Path], texts: list[str], records: list[dict[str, Any]], classes: list[str]
) -> Pictures:
    """Embed images and their words once; every score is made of these."""
    return Pictures(model, paths, texts, records, classes, scorer.embed_images(paths), scorer.embed_texts(texts))


def read_samples(scorer: Scorer, root: Path) -> Pictures:
    """Read an imagefolder that ``generate`` wrote."""
    records = read_metadata(root)
    if not records:
        raise UnavailableError(f"{root / METADATA}: no generated images there; run recipes/generate.py first.")
    paths = [root / record["file_name"] for record in records]
    texts, classes = [record["text"] for record in records], [record.get("class", "") for record in records]
    return embed(scorer, records[0]["model"], paths, texts, records, classes)


def score(
    real: Pictures, generated: list[Pictures], extractor: Extractor, scorer_name: str, subset: str, seeds: Seeds
) -> list[Score]:
    """Measure closeness to the real images, variety, and nearness to the prompts beside real and shuffled ones."""
    scores: list[Score] = []
    real_features = extractor.extract(real.paths)
    for pictures in generated:
        features = extractor.extract(pictures.paths)
        scores += fidelity_scores(
            real_features, features, model=pictures.model, subset=subset, extractor=extractor.name, seeds=seeds
        )
        own, *beside = diversity_scores(
            real_features, features, model=pictures.model, subset=subset, extractor=extractor.name, seeds=seeds
        )
        scores += [own, *beside] if pictures is generated[0] else [own]
    return scores + align([*generated, real], scorer_name, subset, seeds)


def score_beside(scorer: Scorer, origins: list[Pictures], data_sets: tuple[str, ...], subset: str, seeds: Seeds) -> list[Score]:
    """Measure nearness to the prompts in the eyes of a further scorer, which embeds everything anew."""
    log_training(scorer, data_sets)
    embedded = [
        replace(pictures, images=scorer.embed_images(pictures.paths), words=scorer.embed_texts(pictures.texts))
        for pictures in origins
    ]
    return align(embedded, f"skyclip:{scorer.name}", subset, seeds)


def align(origins: list[Pictures], scorer_name: str, subset: str, seeds: Seeds) -> list[Score]:
    """Measure nearness to the prompts; that to shuffled ones for the first origin alone."""
    scores: list[Score] = []
    for pictures in origins:
        own, *shuffled = alignment_scores(
            pictures.images,
            pictures.words,
            pictures.texts,
            model=pictures.model,
            subset=subset,
            extractor=scorer_name,
            seeds=seeds,
        )
        scores += [own, *shuffled] if pictures is origins[0] else [own]
    return scores


def side_by_side(generated: list[Pictures], real: dict[str, Path], judged: dict[str, list[str]]) -> list[dict[str, Any]]:
    """List each picture with the base's of the same prompt and seed, and the real image whose caption it was drawn from."""
    tuned, others = generated[0], generated[1:]
    rows = []
    for place, record in enumerate(tuned.records):
        row: dict[str, Any] = {"prompt": record["text"], "seed": record["seed"], "skyclip_score": {}}
        for pictures in (tuned, *others):
            row[pictures.model] = str(pictures.paths[place]) if place < len(pictures.paths) else None
            if place < len(pictures.paths):
                row["skyclip_score"][pictures.model] = float(pictures.images[place] @ pictures.words[place])
                if pictures.model in judged:
                    row.setdefault("judged", {})[pictures.model] = judged[pictures.model][place]
        row["real"] = str(real[record["key"]]) if record["key"] in real else None
        rows.append(row)
    return rows


if __name__ == "__main__":
    launch(main, Config)
