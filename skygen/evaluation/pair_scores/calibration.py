"""What a scorer's cosines are worth on some pairs: do they tell an image's own caption from another one?"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float

from skygen.evaluation.intervals import bootstrap_interval
from skygen.evaluation.pair_scores.table import PairScores
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
        compared = np.isfinite(own) & np.isfinite(other)  # none where all captions are of one wording
        for metric, values, model in (
            ("skyclip_score", own, "real"),
            ("skyclip_score", other, "shuffled"),
            ("skyclip_margin", margin, "real"),
        ):
            if len(finite := values[np.isfinite(values)]):
                found.append(_mean(metric, finite, model, where, extractor, seeds))
        if len(pick := chosen[compared[chosen]]):
            found.append(_auc(own[pick], other[pick], where, extractor, seeds))
    return found


def roc_auc(matched: Float[np.ndarray, " pairs"], mismatched: Float[np.ndarray, " others"]) -> float:
    """Return the share of all (matched, mismatched) couples in which the matched one is higher, ties counting half.

    Source:
        The Mann-Whitney statistic, which is the area under the ROC curve: Hanley and McNeil, Radiology 143 (1982), 29-36.
    """
    return float(_share_below(mismatched, matched).mean())


def rounding_scores(
    rounded: Float[np.ndarray, " pairs"],
    exact: Float[np.ndarray, " pairs"],
    keep: Callable[[Float[np.ndarray, " pairs"]], Bool[np.ndarray, " pairs"]],
    *,
    subset: str,
    extractor: str,
) -> list[Score]:
    """Measure what bfloat16 changes: the similarities of the same pairs in both precisions.

    Args:
        rounded: similarities in bfloat16.
        exact: in float32.
        keep: says which of these pairs are kept, by the run's own rule.
        subset: which of the data they are.
        extractor: the CLIP.

    Returns:
        ``bf16_largest_difference``, of two cosines of a pair; ``bf16_rank_correlation``, Spearman's, in [-1, 1]; and
        ``bf16_kept_overlap``, of the pairs that either precision keeps the share that both keep, in [0, 1]. None of nothing.
    """
    both = np.isfinite(rounded) & np.isfinite(exact)
    if not both.any():
        return []
    rounded, exact = rounded[both], exact[both]
    first, second = keep(rounded), keep(exact)
    values = {
        "bf16_largest_difference": float(np.abs(rounded - exact).max()),
        "bf16_rank_correlation": rank_correlation(rounded, exact),
        "bf16_kept_overlap": float((first & second).sum() / max(1, (first | second).sum())),
    }
    return [Score(name, value, int(both.sum()), None, "real", subset, extractor) for name, value in values.items()]


def rank_correlation(first: Float[np.ndarray, " items"], second: Float[np.ndarray, " items"]) -> float:
    """Return Spearman's rank correlation in [-1, 1], ties sharing their mean rank; 1 of two that are the same."""
    one, other = (_share_below(values, values) - 0.5 for values in (first, second))  # ranks, less their mean
    if np.array_equal(one, other):
        return 1.0
    spread = float(np.sqrt((one**2).sum() * (other**2).sum()))
    return float((one * other).sum() / spread) if spread else 0.0


def _mean(name: str, values: Float[np.ndarray, " pairs"], model: str, subset: str, extractor: str, seeds: Seeds) -> Score:
    if len(values) <= MOST_FOR_INTERVAL:
        return mean_score(name, values, model=model, subset=subset, extractor=extractor, seeds=seeds)
    half = 1.96 * float(values.std(ddof=1)) / len(values) ** 0.5  # the central limit theorem does what a bootstrap would
    mean = float(values.mean())
    return Score(name, mean, len(values), (mean - half, mean + half), model, subset, extractor)


def _auc(
    own: Float[np.ndarray, " pairs"], other: Float[np.ndarray, " pairs"], subset: str, extractor: str, seeds: Seeds
) -> Score:
    area = roc_auc(own, other)
    # of each image the share of mismatched cosines below its own, and of own ones above its mismatched one: what a sample of
    # images moves the area by (DeLong, DeLong and Clarke-Pearson, Biometrics 44 (1988), 837-845)
    items = _share_below(other, own) + 1 - _share_below(own, other) - area
    interval = bootstrap_interval(items, seeds=seeds) if len(items) > 1 else None
    return Score("matching_roc_auc", area, len(own), interval, "real", subset, extractor)


def _share_below(values: Float[np.ndarray, " values"], limits: Float[np.ndarray, " limits"]) -> Float[np.ndarray, " limits"]:
    """Return the share of values below each limit, equal ones counting half."""
    ordered = np.sort(values)
    share: Float[np.ndarray, " limits"] = np.searchsorted(ordered, limits, "left") + np.searchsorted(ordered, limits, "right")
    return share / (2 * len(values))


def _sample(count: int, seeds: Seeds) -> np.ndarray:
    if count <= MOST_FOR_INTERVAL:
        return np.arange(count)
    return np.sort(seeds.numpy("calibration").choice(count, MOST_FOR_INTERVAL, replace=False))
