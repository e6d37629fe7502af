"""How far a score would move with another sample of the same size: confidence intervals by resampling.

The bootstrap is for values that are a mean, or another smooth function, of items. Distances between sets (FID, KID)
take every duplicate that a bootstrap sample holds for evidence and are pushed off by it: they take half samples
instead, drawn without replacement.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int, Num

from skygen.errors import ConfigError, DataError
from skygen.seeding import Seeds

Items = Num[np.ndarray, "_count ..."] | Bool[np.ndarray, "_count ..."]
"""A value or a row an item. The underscore leaves it to the functions to say in words that two counts differ."""

Statistic = Callable[[Items], float]

DRAWS_AT_ONCE: Final = 1 << 20
"""Indices drawn in one go, 8 MiB of them, so that a large set does not fill the memory."""


def bootstrap_interval(
    items: Items,
    *,
    seeds: Seeds,
    statistic: Statistic | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Find the percentile bootstrap interval (Efron 1979) of a statistic of items.

    Args:
        items: what is resampled: a value an item, or a row an item, such as those of ``captions.bleu_statistics``.
        seeds: the run's seeds; the same seeds give the same interval.
        statistic: maps resampled items, of the shape of ``items``, to the score; None stands for the mean, and is fast.
        resamples: how many samples to draw.
        level: the share of samples the interval holds, in (0, 1).

    Returns:
        Its lower and upper end, in the units of the statistic.

    Raises:
        DataError: there are fewer than two items, or one is not finite.
        ConfigError: ``level`` or ``resamples`` is out of range.
    """
    _check(items, resamples=resamples, level=level)
    draws = _draw_with_replacement(len(items), resamples, seeds)
    if statistic is None:
        values = np.concatenate([_mean_rows(items, indices) for indices in draws])
    else:
        values = np.array([statistic(items[row]) for indices in draws for row in indices], dtype=np.float64)
    return _percentiles(values, level)


def paired_difference_interval(
    first: Items,
    second: Items,
    *,
    seeds: Seeds,
    statistic: Statistic | None = None,
    resamples: int = 2000,
    level: float = 0.95,
) -> tuple[float, float]:
    """Find the percentile bootstrap interval of how much better ``first`` is than ``second`` on the same items.

    Both are resampled together, item by item, so that what makes an item hard for both does not widen the interval. An
    interval that holds 0 says that the two cannot be told apart.

    Args:
        first: a value or a row an item, of one model.
        second: those of the other model, for the same items in the same order.
        seeds: the run's seeds.
        statistic: maps resampled items to the score; None stands for the mean, and is fast.
        resamples: how many samples to draw.
        level: the share of samples the interval holds, in (0, 1).

    Returns:
        The lower and upper end of statistic(first) - statistic(second).

    Raises:
        DataError: the two differ in shape, have fewer than two items, or one that is not finite.
        ConfigError: ``level`` or ``resamples`` is out of range.
    """
    if first.shape != second.shape:
        raise DataError(
            f"A paired interval got items of shape {first.shape} and {second.shape}; score both models on the same items."
        )
    _check(first, resamples=resamples, level=level)
    _check(second, resamples=resamples, level=level)
    if statistic is None:
        difference = np.asarray(first, dtype=np.float64) - second
        return bootstrap_interval(difference, seeds=seeds, resamples=resamples, level=level)
    draws = _draw_with_replacement(len(first), resamples, seeds)
    values = [statistic(first[row]) - statistic(second[row]) for indices in draws for row in indices]
    return _percentiles(np.array(values, dtype=np.float64), level)


def half_sample_interval(
    value: float,
    statistic: Callable[[Int[np.ndarray, " half"]], float],
    count: int,
    *,
    seeds: Seeds,
    resamples: int = 200,
    level: float = 0.95,
) -> tuple[float, float]:
    """Find the interval of a statistic that must not see an item twice, such as FID or KID: the delete-half jackknife.

    A mean of n/2 out of n items, drawn without replacement, has variance s²/(n/2) · (1 - 1/2) = s²/n: the finite
    population correction makes up for the smaller sample, so that to first order half samples spread as fresh samples
    of the full size do. For an odd n the same formula leaves a factor, which is divided out. A bias that depends on
    the size, as FID's, shifts all half samples alike; only their deviations from their own mean are used, laid around
    ``value`` (Shao and Wu 1989; Politis and Romano 1994).

    Args:
        value: the score of all items.
        statistic: maps sorted indices of half the items, in [0, count), to the score of that half.
        count: how many items there are.
        seeds: the run's seeds.
        resamples: how many halves to draw; each costs one call of ``statistic``.
        level: the share of halves the interval holds, in (0, 1).

    Returns:
        Its lower and upper end, in the units of the statistic.

    Raises:
        DataError: there are fewer than four items, or ``value`` or that of a half is not finite.
        ConfigError: ``level`` or ``resamples`` is out of range.
    """
    halves = draw_halves(count, seeds=seeds, resamples=resamples)
    values = np.array([statistic(half) for half in halves], dtype=np.float64)
    return interval_of_halves(value, values, count, level=level)


def draw_halves(count: int, *, seeds: Seeds, resamples: int = 200) -> Iterator[Int[np.ndarray, " half"]]:
    """Draw halves of some items, as ``half_sample_interval`` does.

    Args:
        count: how many items there are.
        seeds: the run's seeds.
        resamples: how many halves to draw.

    Returns:
        The sorted indices of each half, one after the other.

    Raises:
        DataError: there are fewer than four items.
        ConfigError: ``resamples`` is out of range.
    """
    _check_settings(resamples=resamples, level=0.5)
    if count < 4:
        raise DataError(f"An interval from half samples needs at least 4 items, not {count}; score more items.")
    generator = seeds.numpy("half samples", count, resamples)
    return (np.sort(generator.permutation(count)[: count // 2]) for _ in range(resamples))


def draw_half_couples(
    real: int, generated: int, *, seeds: Seeds, resamples: int = 200
) -> Iterator[tuple[Int[np.ndarray, " real_half"], Int[np.ndarray, " generated_half"]]]:
    """Draw halves of two sets at once, for a distance between them.

    Args:
        real: images of the first set.
        generated: images of the second.
        seeds: the run's seeds.
        resamples: how many couples to draw.

    Returns:
        Indices of half of each set, one couple after the other: the deviations of all couples are spread as
        ``interval_of_halves`` expects for ``generated`` items.

    Raises:
        DataError: there are fewer than four images in the second set.
        ConfigError: ``resamples`` is out of range.
    """
    for number, half in enumerate(draw_halves(generated, seeds=seeds, resamples=resamples)):
        order = seeds.numpy("half of the real images", number).permutation(real)
        yield order[: real // 2], half


def interval_of_halves(
    value: float, of_halves: Float[np.ndarray, " resamples"], count: int, *, level: float = 0.95
) -> tuple[float, float]:
    """Lay the deviations of half samples around the score of all items: see ``half_sample_interval``.

    Args:
        value: the score of all items.
        of_halves: of each half.
        count: how many items there are.
        level: the share of halves the interval holds, in (0, 1).

    Returns:
        Its lower and upper end.

    Raises:
        DataError: ``value`` or that of a half is not finite.
        ConfigError: ``level`` is out of range, or there are fewer than two halves.
    """
    _check_settings(resamples=len(of_halves), level=level)
    if not np.isfinite([value, *of_halves]).all():
        raise DataError("A score is not finite on all items or on half of them; score more items, or look for bad ones.")
    half = count // 2
    deviations = (of_halves - of_halves.mean()) * np.sqrt(half / (count - half))
    low, high = _percentiles(deviations, level)
    return value + low, value + high


def _draw_with_replacement(count: int, resamples: int, seeds: Seeds) -> Iterator[Int[np.ndarray, "chunk count"]]:
    generator = seeds.numpy("bootstrap", count, resamples)
    chunk = max(1, DRAWS_AT_ONCE // count)
    for start in range(0, resamples, chunk):
        yield generator.integers(count, size=(min(chunk, resamples - start), count))


def _mean_rows(items: Items, indices: Int[np.ndarray, "chunk count"]) -> Float[np.ndarray, " chunk"]:
    means: Float[np.ndarray, " chunk"] = items[indices].mean(axis=1)
    return means


def _percentiles(values: Float[np.ndarray, " resamples"], level: float) -> tuple[float, float]:
    low, high = np.quantile(values, [(1 - level) / 2, (1 + level) / 2])
    return float(low), float(high)


def _check(items: Items, *, resamples: int, level: float) -> None:
    _check_settings(resamples=resamples, level=level)
    if len(items) < 2:
        raise DataError(f"An interval needs at least 2 items, not {len(items)}; score more items.")
    bad = np.flatnonzero(~np.isfinite(items.reshape(len(items), -1)).all(axis=1))
    if bad.size:
        raise DataError(f"The score of item {bad[0]} is not finite ({bad.size} such items); leave them out or mend them.")


def _check_settings(*, resamples: int, level: float) -> None:
    if not 0 < level < 1:
        raise ConfigError(f"level is {level}; give a share between 0 and 1, such as 0.95.")
    if resamples < 2:
        raise ConfigError(f"resamples is {resamples}; draw at least 2, better 2000.")
