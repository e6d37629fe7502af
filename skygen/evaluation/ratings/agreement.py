"""How far raters agree beyond chance: Krippendorff's alpha, for any number of raters of whom not all rate everything.

Krippendorff 2011, "Computing Krippendorff's Alpha-Reliability", sections C and D: alpha is 1 - observed / expected
disagreement, both taken from a matrix of coincidences, in which every unit counts once for each of its ratings.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal, final

import numpy as np
from jaxtyping import Float, Int

from skygen.errors import DataError
from skygen.evaluation.ratings.resampling import find_interval, resample_sums
from skygen.seeding import Seeds

Level = Literal["nominal", "ordinal", "interval"]


@final
@dataclass(frozen=True, slots=True)
class Agreement:
    """Krippendorff's alpha.

    Args:
        value: 1 where all agree, about 0 where they agree as by chance, below 0 where they disagree more than that; None
            where it is not defined.
        interval: 95 %, None where none can be given.
        units: that at least two raters have rated.
        ratings: of these units.
        reason: why there is no value; empty where there is one.
    """

    value: float | None
    interval: tuple[float, float] | None
    units: int
    ratings: int
    reason: str = ""


def krippendorff_alpha(
    ratings: Float[np.ndarray, "raters units"],
    level: Level,
    *,
    seeds: Seeds,
    items: Int[np.ndarray, " _units"] | None = None,
) -> Agreement:
    """Compute Krippendorff's alpha, and its interval by bootstrap over items.

    Args:
        ratings: of each rater and unit a number, NaN where there is none.
        level: how far two ratings are apart. ``nominal``: they differ or not; ``ordinal``: by how many ratings lie between
            them; ``interval``: by their difference.
        seeds: the run's seeds.
        items: of each unit the item that it is about, from 0; units of one item are resampled together. Without it, every
            unit is an item.

    Raises:
        DataError: a rating is infinite, or ``items`` are not as many as the units.
    """
    if np.isinf(ratings).any():
        raise DataError("A rating is infinite; mend it, or leave it out as NaN.")
    items = np.arange(ratings.shape[1]) if items is None else items
    if len(items) != ratings.shape[1]:
        raise DataError(f"There are {len(items)} items for {ratings.shape[1]} units; give one for each.")
    paired = (~np.isnan(ratings)).sum(axis=0) >= 2
    units, values = int(paired.sum()), ratings[:, paired]
    count = int((~np.isnan(values)).sum())
    if not units:
        return Agreement(None, None, 0, 0, "no question has been answered by two raters")
    points = np.unique(values[~np.isnan(values)])
    if len(points) == 1:
        return Agreement(None, None, units, count, "all answers are the same, so that chance cannot be told from agreement")
    _, places = np.unique(items[paired], return_inverse=True)
    tables = np.zeros((places.max() + 1, len(points), len(points)))
    np.add.at(tables, places, count_coincidences(values, points))
    value = float(_alphas(tables.sum(axis=0, keepdims=True), points, level)[0])
    interval = find_interval(_alphas(resample_sums(tables, seeds=seeds), points, level), len(tables))
    return Agreement(value, interval, units, count)


def count_coincidences(
    ratings: Float[np.ndarray, "raters units"], points: Float[np.ndarray, " values"]
) -> Float[np.ndarray, "units values _values"]:
    """Count how often two values meet in a unit: each ordered pair of its m ratings counts 1 / (m - 1).

    Args:
        ratings: of each rater and unit, NaN where there is none.
        points: the values that occur.

    Returns:
        A symmetric matrix a unit, whose sum is m; zero for a unit with fewer than two ratings.
    """
    counts = (ratings[:, :, None] == points).sum(axis=0).astype(np.float64)
    pairs = counts[:, :, None] * counts[:, None, :] - counts[:, :, None] * np.eye(len(points))
    return pairs / np.maximum(counts.sum(axis=1) - 1, 1)[:, None, None]


def _alphas(
    coincidences: Float[np.ndarray, "samples values _values"], points: Float[np.ndarray, " values"], level: Level
) -> Float[np.ndarray, " samples"]:
    """Compute the alpha of each matrix of coincidences; NaN where all its ratings are the same."""
    totals = coincidences.sum(axis=2)
    # of ordinal values, half of those before and half of those up to each: their differences are the paper's sums
    positions = np.cumsum(totals, axis=1) - totals / 2 if level == "ordinal" else np.broadcast_to(points, totals.shape)
    distances = (positions[:, :, None] - positions[:, None, :]) ** 2
    if level == "nominal":
        distances = np.broadcast_to(1 - np.eye(len(points)), coincidences.shape)
    observed = (coincidences * distances).sum(axis=(1, 2))
    expected = (totals[:, :, None] * totals[:, None, :] * distances).sum(axis=(1, 2))
    with np.errstate(divide="ignore", invalid="ignore"):
        return np.where(expected > 0, 1 - (totals.sum(axis=1) - 1) * observed / expected, np.nan)
