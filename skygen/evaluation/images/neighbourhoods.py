"""Whether generated images lie among the real ones and reach all of them: precision, recall, density and coverage.

Precision and recall after Kynkäänniemi et al. 2019, "Improved Precision and Recall Metric for Assessing Generative Models",
section 2; density and coverage after Naeem et al. 2020, "Reliable Fidelity and Diversity Metrics for Generative Models",
section 3. All four draw a ball around each image of a set that reaches to its k-th nearest neighbour there. FID and KID tell
how far apart two sets are; these tell whether the pictures are poor (precision, density) or too much alike (recall, coverage).

An image is no neighbour of itself, though a copy of it in its own set is one. Balls are closed, as in Kynkäänniemi's equation
1: a generated image exactly as far from a real one as that one's k-th neighbour is inside. Naeem's published code leaves such
images out, which makes a difference only where distances are equal: where a set is compared with itself, or holds copies. With
more than k copies of one image the radius is 0, and the ball holds the copies.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float

from skygen.errors import ConfigError
from skygen.evaluation.images.comparable import require_comparable
from skygen.evaluation.intervals import draw_half_couples, interval_of_halves
from skygen.evaluation.scores import Score
from skygen.seeding import Seeds

NEIGHBOURS: Final = 5
"""k of Naeem et al. 2020. Kynkäänniemi et al. 2019 took 3; values of different k are not comparable."""
NAMES: Final = ("precision", "recall", "density", "coverage")
"""Fields of ``Neighbourhoods``, as their scores are called."""
FEW_IMAGES: Final = 1000
"""A side of fewer images is warned of: there the values depend more on how many there are."""
BLOCK_BYTES: Final = 1 << 25
"""Distances that are in memory at a time; with what is computed from them it stays below 64 MB."""
_TIE: Final = 1e-12
"""Squared distances closer than this share of the largest squared length are taken as equal. A product of float64 matrices is
off by about 1e-15 of it, and embeddings, being float32, by 1e-14: the copy of a picture is at distance 0 all the same."""

_LOG = logging.getLogger(__name__)


@final
@dataclass(frozen=True, slots=True)
class Neighbourhoods:
    """Which images lie within which balls; the mean of each array is the metric.

    Args:
        precision: 1 where a generated image lies in the ball of any real one, else 0.
        recall: 1 where a real image lies in the ball of any generated one, else 0.
        density: in how many balls of real images a generated one lies, divided by k; 0 or more, above 1 where many overlap.
        coverage: 1 where the ball of a real image holds any generated one, else 0.
    """

    precision: Float[np.ndarray, " generated"]
    recall: Float[np.ndarray, " real"]
    density: Float[np.ndarray, " generated"]
    coverage: Float[np.ndarray, " real"]


def compare_neighbourhoods(
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated _dimension"],
    *,
    neighbours: int = NEIGHBOURS,
) -> Neighbourhoods:
    """Find which images lie within the k-nearest-neighbour balls of the other set.

    Of a set compared with itself, precision, recall and coverage are 1, and density 1 + 1/k, for a ball holds its centre beside
    the k neighbours. Of two independent sets of one distribution, the expected density is 1, and the expected coverage is
    1 − (N−1)···(N−k) / ((M+N−1)···(M+N−k)) of N real and M generated images, near 1 − 2⁻ᵏ for equal counts, whatever the
    distribution (Naeem et al. 2020, section 3). Precision and recall have no such fixed point: of equal counts from one
    normal distribution in 32 dimensions both are 0.85 with 100 images and 0.79 with 2,000, in 64 dimensions 0.77 with 300. So
    real and generated images should be of equal count, and two models be compared at the same one.

    Distances are Euclidean and computed in float64, a block of rows at a time; time grows with the squares of the counts.

    Args:
        real: a row a real image.
        generated: a row a generated image.
        neighbours: k, at least 1.

    Returns:
        A value an image for each of the four.

    Raises:
        ConfigError: k is below 1.
        DataError: a side has no more than k rows, the dimensions differ, or a feature is not finite.
    """
    _check(real, generated, at_least=neighbours + 1, neighbours=neighbours)
    centre = real.mean(axis=0, dtype=np.float64)  # distances do not see it, but lengths and thus rounding get smaller
    one, other = real - centre, generated - centre
    slack = _TIE * max(_squared_lengths(one).max(), _squared_lengths(other).max())
    real_reach = _squared_radii(one, neighbours) + slack
    generated_reach = _squared_radii(other, neighbours) + slack
    holders = np.zeros(len(other), dtype=np.int64)
    recall, coverage = np.empty(len(one)), np.empty(len(one))
    for rows, distances in _squared_distances(one, other):
        inside = distances <= real_reach[rows, None]
        holders += inside.sum(axis=0)
        coverage[rows] = inside.any(axis=1)
        recall[rows] = (distances <= generated_reach).any(axis=1)
    return Neighbourhoods((holders > 0).astype(np.float64), recall, holders / neighbours, coverage)


def neighbourhood_scores(
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated _dimension"],
    *,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
    neighbours: int = NEIGHBOURS,
    resamples: int = 200,
) -> list[Score]:
    """Score generated images by ``precision``, ``recall``, ``density`` and ``coverage``, with 95 % intervals.

    The intervals come from halves of both sets, whose balls are drawn anew: they say how the value would move with other images
    in the same numbers. A half has larger balls than the whole, and that bias is the same in all halves and so not in the
    interval. Measured with 100 and 300 images of normal distributions in 16 dimensions, they hold the expected score in 92 to
    97 % of trials where the sets are alike or nearly so; where these lie far apart, in 72 (precision) to 93 % (coverage).

    Every image is used, and no set is cut to the size of the other: give as many real as generated ones.

    Args:
        real: features of the real images, from ``Extractor.extract``.
        generated: features of the generated images, from the same extractor.
        model: whose images they are.
        subset: which of the data the real images are.
        extractor: ``Extractor.name``.
        seeds: the run's seeds.
        neighbours: k; a score does not carry it, so that one report should keep to one.
        resamples: how many halves to draw; each costs a quarter of the comparison of all, 1.3 s with 10,000 images a side.

    Returns:
        The four, ``count`` being that of the images averaged over; the interval is None where half a side has no more than k
        images. Nothing where a side has no more than k images, which a log
        message says; another warns of fewer than 1,000.

    Raises:
        ConfigError: k is below 1.
        DataError: the dimensions differ, or a feature is not finite.
    """
    _check(real, generated, at_least=0, neighbours=neighbours)
    fewest = min(len(real), len(generated))
    if fewest <= neighbours:
        _LOG.warning(
            "precision, recall, density and coverage of %s are left out: with k = %d they need at least %d images on both "
            "sides, and there are %d real and %d generated ones",
            model, neighbours, neighbours + 1, len(real), len(generated),
        )  # fmt: skip
        return []
    if fewest < FEW_IMAGES:
        _LOG.warning(
            "precision, recall, density and coverage of %s depend on the count below %d images a side, and there are %d real "
            "and %d generated ones: compare them at equal counts only",
            model, FEW_IMAGES, len(real), len(generated),
        )  # fmt: skip
    found = compare_neighbourhoods(real, generated, neighbours=neighbours)
    intervals = _find_intervals(found, real, generated, neighbours, seeds, resamples) if fewest // 2 > neighbours else {}
    every = {name: getattr(found, name) for name in NAMES}
    return [Score(n, float(each.mean()), len(each), intervals.get(n), model, subset, extractor) for n, each in every.items()]


def _find_intervals(
    found: Neighbourhoods,
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated dimension"],
    neighbours: int,
    seeds: Seeds,
    resamples: int,
) -> dict[str, tuple[float, float]]:
    """Compare halves of both sets, each couple once for all four, and never leave the range that a value has."""
    halves = draw_half_couples(len(real), len(generated), seeds=seeds, resamples=resamples)
    compared = [compare_neighbourhoods(real[some], generated[others], neighbours=neighbours) for some, others in halves]
    intervals = {}
    for name in NAMES:
        of_halves = np.array([getattr(one, name).mean() for one in compared])
        low, high = interval_of_halves(float(getattr(found, name).mean()), of_halves, len(generated))
        intervals[name] = max(0.0, low), high if name == "density" else min(1.0, high)
    return intervals


def _squared_radii(features: Float[np.ndarray, "count dimension"], neighbours: int) -> Float[np.ndarray, " count"]:
    """Return the squared distance of each image to its k-th nearest other one of the set."""
    radii = np.empty(len(features))
    for rows, distances in _squared_distances(features, features):
        itself = np.arange(rows.start, rows.stop)
        distances[itself - rows.start, itself] = np.inf
        distances.partition(neighbours - 1, axis=1)
        radii[rows] = distances[:, neighbours - 1]
    return radii


def _squared_distances(
    rows: Float[np.ndarray, "rows dimension"], columns: Float[np.ndarray, "columns dimension"]
) -> Iterator[tuple[slice, Float[np.ndarray, "block columns"]]]:
    """Yield blocks of rows with their squared distances to all columns, off by rounding and so perhaps below 0."""
    row_lengths, column_lengths = _squared_lengths(rows), _squared_lengths(columns)
    at_once = max(1, BLOCK_BYTES // (8 * len(columns)))
    for start in range(0, len(rows), at_once):
        block = slice(start, min(start + at_once, len(rows)))
        distances = rows[block] @ columns.T
        distances *= -2.0
        distances += row_lengths[block, None]
        distances += column_lengths
        yield block, distances


def _squared_lengths(features: Float[np.ndarray, "count dimension"]) -> Float[np.ndarray, " count"]:
    lengths: Float[np.ndarray, " count"] = np.einsum("ij,ij->i", features, features)
    return lengths


def _check(
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated _dimension"],
    *,
    at_least: int,
    neighbours: int,
) -> None:
    if neighbours < 1:
        raise ConfigError(f"neighbours is {neighbours}; a ball reaches to one at least: give 1 or more, such as {NEIGHBOURS}.")
    require_comparable(real, generated, at_least=at_least, why=f"for balls of {neighbours} neighbours")
