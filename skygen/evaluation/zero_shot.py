"""Zero-shot classification by a CLIP, as SkyScript's evaluation does it."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from skygen.data.benchmarks import Benchmark
from skygen.data.images import open_readable
from skygen.data.rejects import Rejects
from skygen.errors import DataError
from skygen.evaluation.scores import Score, mean_score
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

RANKS = (1, 5)
SEVEN_SETS = ("aid", "eurosat", "fmow", "millionaid", "patternnet", "nwpu", "rsicb")
"""Over which SkyScript's paper averages; SkyScript_cls, made as its training data were, is not among them."""
MEAN_OF_SEVEN = "zero_shot_top_1_mean_of_seven"
SEVEN = "seven sets"
"""What the scores of that mean have for a subset."""
_QUANTILE = 1.959964
"""Of the normal distribution, for 95 %."""
Report = Callable[[int, int], None]
"""Told how many images are done, and how many there are."""


def zero_shot_scores(
    scorer: Scorer, benchmark: Benchmark, seeds: Seeds, rejects: Rejects, report: Report | None = None
) -> list[Score]:
    """Classify a benchmark's images by their nearest class prompt.

    Args:
        scorer: the CLIP.
        benchmark: images, labels, class names and prompt templates.
        seeds: the run's seeds.
        rejects: where images that cannot be decoded are noted; they are not counted.
        report: told of the progress.

    Returns:
        See ``classification_scores``.

    Raises:
        DataError: no image can be read.
    """
    weights = classifier_weights(scorer, benchmark.class_names, benchmark.templates)
    places = [(path.as_posix(), path) for path in benchmark.images]
    embeddings, read = embed_readable(scorer, places, rejects, report)
    labels = np.asarray(benchmark.labels, dtype=np.int64)[read]
    ranking = classify(embeddings, weights)
    return classification_scores(ranking, labels, subset=benchmark.name, extractor=f"skyclip:{scorer.name}", seeds=seeds)


def classification_scores(
    ranking: Int[np.ndarray, "count classes"], labels: Int[np.ndarray, " count"], *, subset: str, extractor: str, seeds: Seeds
) -> list[Score]:
    """Score ranked classes.

    Args:
        ranking: classes of each image, the likeliest first.
        labels: its class.
        subset: name of the benchmark.
        extractor: the CLIP, such as ``skyclip:miniature``.
        seeds: the run's seeds.

    Returns:
        ``zero_shot_top_1`` and, with more than five classes, ``zero_shot_top_5``: shares in [0, 1] over all images, not the
        mean over classes, each with the chance of a random guess beside it as the model ``random``.
    """
    scores = []
    count, classes = ranking.shape
    for rank in RANKS:
        if rank < classes:
            found = (ranking[:, :rank] == labels[:, None]).any(axis=1).astype(np.float64)
            name = f"zero_shot_top_{rank}"
            scores.append(mean_score(name, found, model="scorer", subset=subset, extractor=extractor, seeds=seeds))
            scores.append(Score(name, rank / classes, count, None, "random", subset, extractor))
    return scores


def mean_of_seven(scores: Sequence[Score]) -> list[Score]:
    """Average top-1 over the seven sets of SkyScript's paper (table 2, "Avg."), each set with the same weight.

    Args:
        scores: of any benchmarks, among them ``zero_shot_top_1`` of every one of ``SEVEN_SETS``.

    Returns:
        ``zero_shot_top_1_mean_of_seven`` of the scorer and of a random guess, nothing where a set was not run. Its count is of
        all images. The interval is the normal one: the sets are independent, and each one's variance is that of a share.
    """
    means = []
    for model in ("scorer", "random"):
        found = {score.subset: score for score in scores if (score.name, score.model) == ("zero_shot_top_1", model)}
        if not all(name in found for name in SEVEN_SETS):
            return []
        own = [found[name] for name in SEVEN_SETS]
        value, images = float(np.mean([score.value for score in own])), sum(score.count for score in own)
        error = float(np.sqrt(sum(score.value * (1 - score.value) / score.count for score in own))) / len(own)
        interval = (max(0.0, value - _QUANTILE * error), min(1.0, value + _QUANTILE * error)) if model == "scorer" else None
        means.append(Score(MEAN_OF_SEVEN, value, images, interval, model, SEVEN, own[0].extractor))
    return means


def classifier_weights(
    scorer: Scorer, class_names: Sequence[str], templates: Sequence[str]
) -> Float[np.ndarray, "classes dimension"]:
    """Return one unit vector a class: the mean of its prompts' unit embeddings (Radford et al. 2021, section 3.1.4)."""
    means = np.mean([scorer.embed_texts([template.format(name) for name in class_names]) for template in templates], axis=0)
    weights: Float[np.ndarray, "classes dimension"] = means / np.linalg.norm(means, axis=1, keepdims=True)
    return weights


def classify(
    images: Float[np.ndarray, "count dimension"], weights: Float[np.ndarray, "classes dimension"]
) -> Int[np.ndarray, "count classes"]:
    """Order the classes of each image, the nearest first; of equals the earlier class is the nearer.

    Raises:
        DataError: an embedding is not finite, and so is near to nothing.
    """
    check_finite(images, weights)
    ranking: Int[np.ndarray, "count classes"] = np.argsort(-(images @ weights.T), axis=1, kind="stable")
    return ranking


def check_finite(*embeddings: Float[np.ndarray, "_count dimension"]) -> None:
    """Refuse embeddings that would be ranked as if they said something.

    Raises:
        DataError: one is not finite.
    """
    if not all(np.isfinite(vectors).all() for vectors in embeddings):
        raise DataError("An embedding is not finite; look for a damaged model, or one whose training went astray.")


def embed_readable(
    scorer: Scorer, places: Sequence[tuple[str, Path]], rejects: Rejects, report: Report | None = None
) -> tuple[Float[np.ndarray, "count dimension"], list[int]]:
    """Embed the images that can be decoded, a batch of them in memory at a time.

    Args:
        scorer: the CLIP.
        places: key and file of each; no two share a key.
        rejects: where the others are noted.
        report: told of the progress.

    Returns:
        Unit vectors, and for each its place in ``places``.

    Raises:
        DataError: none can be decoded.
    """
    embeddings: list[Float[np.ndarray, "batch dimension"]] = []
    kept: list[int] = []
    for start in range(0, len(places), scorer.batch_size):
        chunk = places[start : start + scorer.batch_size]
        if read := open_readable(chunk, rejects):
            embeddings.append(scorer.embed_images([image for _, image in read]))
            kept += [start + index for index, _ in read]
        if report:
            report(start + len(chunk), len(places))
    if not kept:
        raise DataError(f"none of {len(places)} images can be read; the first reason: {rejects.first_reason}; mend the data.")
    return np.concatenate(embeddings), kept
