"""What a scorer's cosines are worth on some pairs: do they tell an image's own caption from another one?"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from skygen.evaluation.intervals import bootstrap_interval
from skygen.evaluation.pair_table import PairScores
from skygen.evaluation.scores import Score, mean_score
from skygen.seeding import Seeds

MOST_FOR_INTERVAL = 20_000
"""Pairs that intervals are drawn from; of more, a random sample."""


def calibration_scores(scores: PairScores, *, subset: str, extractor: str, seeds: Seeds) -> list[Score]:
    """Measure the scores of pairs against those of the same images with captions of another wording.

    Args:
        scores: of all pairs.
        subset: which of the data they are; the name of the column of captions is added where there are several.
        extractor: the CLIP, such as ``skyclip:miniature``.
        seeds: the run's seeds.

    Returns:
        For each column of captions ``skyclip_score`` of ``real`` and of ``shuffled`` (cosines in [-1, 1]),
        ``skyclip_margin`` of ``real``, and ``matching_roc_auc``: how often an image's own caption scores above the other
        one, in [0, 1], 0.5 for a scorer that knows nothing.
    """
    found = []
    chosen = _sample(len(scores.rows), seeds)
    for name in scores.similarity:
        where = f"{subset}, {name}" if len(scores.similarity) > 1 else subset
        own, margin, other = (getattr(scores, what)[name] for what in ("similarity", "margin", "mismatched"))
        compared = np.isfinite(other)  # none where all captions are of one wording
        for metric, values, model in (
            ("skyclip_score", own, "real"),
            ("skyclip_score", other[compared], "shuffled"),
            ("skyclip_margin", margin, "real"),
        ):
            if len(values):
                found.append(_mean(metric, values, model, where, extractor, seeds))
        if compared.any():
            pick = chosen[compared[chosen]]
            found.append(_auc(own[pick], other[pick], where, extractor, seeds))
    return found


def roc_auc(matched: Float[np.ndarray, " pairs"], mismatched: Float[np.ndarray, " others"]) -> float:
    """Return the share of all (matched, mismatched) couples in which the matched one is higher, ties counting half.

    Source:
        The Mann-Whitney statistic, which is the area under the ROC curve: Hanley and McNeil, Radiology 143 (1982), 29-36.
    """
    ordered = np.sort(mismatched)
    below = np.searchsorted(ordered, matched, side="left")
    ties = np.searchsorted(ordered, matched, side="right") - below
    return float((below + ties / 2).sum() / (len(matched) * len(mismatched)))


def _mean(name: str, values: Float[np.ndarray, " pairs"], model: str, subset: str, extractor: str, seeds: Seeds) -> Score:
    if len(values) <= MOST_FOR_INTERVAL:
        return mean_score(name, values, model=model, subset=subset, extractor=extractor, seeds=seeds)
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5  # the central limit theorem does what a bootstrap would
    mean = float(values.mean())
    return Score(name, mean, len(values), (mean - half, mean + half), model, subset, extractor)


def _auc(
    own: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"], subset: str, extractor: str, seeds: Seeds
) -> Score:
    ordered = np.sort(other)
    # of each matched one the share of mismatched ones below it, whose mean is the area
    items = (np.searchsorted(ordered, own, "left") + np.searchsorted(ordered, own, "right")) / (2 * len(other))
    interval = bootstrap_interval(items, seeds=seeds) if len(items) > 1 else None
    return Score("matching_roc_auc", roc_auc(own, other), len(own), interval, "real", subset, extractor)


def _sample(count: int, seeds: Seeds) -> np.ndarray:
    if count <= MOST_FOR_INTERVAL:
        return np.arange(count)
    return np.sort(seeds.numpy("calibration").choice(count, MOST_FOR_INTERVAL, replace=False))
