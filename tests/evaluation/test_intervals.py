"""Intervals: against closed forms, against coverage on samples whose truth is known, and on input that allows none."""

from __future__ import annotations

import math
from collections.abc import Callable

import numpy as np
import pytest

from skygen.errors import ConfigError, DataError, SkygenError
from skygen.evaluation.intervals import bootstrap_interval, half_sample_interval, paired_difference_interval
from skygen.seeding import Seeds

SEEDS = Seeds(7)


def normals(count: int, *position: int) -> np.ndarray:
    return SEEDS.numpy("test", *position).standard_normal(count)


def median(items: np.ndarray) -> float:
    return float(np.median(items))


def test_the_interval_of_a_mean_is_that_of_the_normal_distribution() -> None:
    items = 3.0 + 2.0 * normals(400)
    low, high = bootstrap_interval(items, seeds=SEEDS)
    error = items.std() / math.sqrt(400)
    assert low == pytest.approx(items.mean() - 1.96 * error, abs=0.15 * error)
    assert high == pytest.approx(items.mean() + 1.96 * error, abs=0.15 * error)


def test_a_lower_level_gives_a_narrower_interval() -> None:
    items = normals(100)
    low, high = bootstrap_interval(items, seeds=SEEDS, level=0.5)
    wide_low, wide_high = bootstrap_interval(items, seeds=SEEDS, level=0.99)
    assert wide_low < low < items.mean() < high < wide_high


def test_the_same_seeds_give_the_same_interval_and_others_do_not() -> None:
    items = normals(50)
    first = bootstrap_interval(items, seeds=Seeds(1), resamples=200)
    assert first == bootstrap_interval(items, seeds=Seeds(1), resamples=200)
    assert first != bootstrap_interval(items, seeds=Seeds(2), resamples=200)


def test_a_given_mean_agrees_with_the_fast_one() -> None:
    items = normals(60)
    slow = bootstrap_interval(items, seeds=SEEDS, statistic=lambda rows: float(rows.mean()), resamples=300)
    assert slow == pytest.approx(bootstrap_interval(items, seeds=SEEDS, resamples=300))


def test_rows_are_resampled_whole() -> None:
    rows = np.stack([normals(80), normals(80)], axis=1)
    rows[:, 1] = 2 * rows[:, 0]

    def ratio(picked: np.ndarray) -> float:
        return float(picked[:, 1].sum() / picked[:, 0].sum())

    assert bootstrap_interval(rows, seeds=SEEDS, statistic=ratio, resamples=100) == pytest.approx((2.0, 2.0))


def test_a_set_too_large_for_one_draw_is_resampled_in_parts() -> None:
    items = np.arange(700_000, dtype=np.float64)
    low, high = bootstrap_interval(items, seeds=SEEDS, resamples=4)
    error = items.std() / math.sqrt(len(items))
    assert items.mean() - 5 * error < low < high < items.mean() + 5 * error


@pytest.mark.parametrize("statistic", [None, lambda rows: float(rows.mean())])
def test_pairing_removes_what_both_share(statistic: Callable[[np.ndarray], float] | None) -> None:
    difficulty = 10 * normals(200, 1)
    better = difficulty + 0.5 + 0.1 * normals(200, 2)
    low, high = paired_difference_interval(better, difficulty, seeds=SEEDS, statistic=statistic, resamples=300)
    assert 0.45 < low < (better - difficulty).mean() < high < 0.55


def test_a_paired_statistic_need_not_be_a_mean() -> None:
    items = normals(101)
    low, high = paired_difference_interval(3 * items, 2 * items, seeds=SEEDS, statistic=median, resamples=200)
    assert (low, high) == pytest.approx(bootstrap_interval(items, seeds=SEEDS, statistic=median, resamples=200))


def test_paired_items_must_be_the_same_items() -> None:
    with pytest.raises(DataError) as error:
        paired_difference_interval(np.ones(3), np.ones(4), seeds=SEEDS)
    expected = "A paired interval got items of shape (3,) and (4,); score both models on the same items."
    assert str(error.value) == expected


@pytest.mark.parametrize("count", [40, 41])
def test_half_samples_of_a_mean_spread_as_the_mean_does(count: int) -> None:
    items = normals(count)
    low, high = half_sample_interval(
        float(items.mean()), lambda half: float(items[half].mean()), count, seeds=SEEDS, resamples=4000
    )
    width = 2 * 1.96 * items.std(ddof=1) / math.sqrt(count)
    assert high - low == pytest.approx(width, rel=0.06)
    assert (low + high) / 2 == pytest.approx(items.mean(), abs=0.05 * width)


def test_half_samples_cover_the_truth_at_the_stated_rate() -> None:
    covered = 0
    for trial in range(200):
        items = normals(100, trial)

        def mean(half: np.ndarray, items: np.ndarray = items) -> float:
            return float(items[half].mean())

        low, high = half_sample_interval(float(items.mean()), mean, 100, seeds=Seeds(trial))
        covered += low < 0.0 < high
    # 200 trials at 0.95: standard error 0.015; the percentiles of 200 halves cost about 0.01 more.
    assert 0.89 <= covered / 200 <= 0.99


def test_a_half_holds_no_item_twice_and_halves_differ() -> None:
    seen: list[tuple[int, ...]] = []

    def remember(half: np.ndarray) -> float:
        seen.append(tuple(half.tolist()))
        return float(len(seen))

    half_sample_interval(0.0, remember, 21, seeds=SEEDS, resamples=30)
    assert len(set(seen)) == len(seen) == 30
    assert all(len(set(half)) == 10 and set(half) <= set(range(21)) for half in seen)


def test_a_size_dependent_bias_does_not_shift_the_interval() -> None:
    items = normals(200)

    def biased(half: np.ndarray) -> float:
        return float(items[half].mean()) + 100.0 / len(half)

    value = biased(np.arange(200))
    low, high = half_sample_interval(value, biased, 200, seeds=SEEDS)
    assert low < value < high


@pytest.mark.parametrize(
    ("compute", "kind", "sentence"),
    [
        (
            lambda: bootstrap_interval(np.ones(1), seeds=SEEDS),
            DataError,
            "An interval needs at least 2 items, not 1; score more items.",
        ),
        (
            lambda: bootstrap_interval(np.array([1.0, np.nan, 2.0]), seeds=SEEDS),
            DataError,
            "The score of item 1 is not finite (1 such items); leave them out or mend them.",
        ),
        (
            lambda: bootstrap_interval(np.ones(3), seeds=SEEDS, level=95.0),
            ConfigError,
            "level is 95.0; give a share between 0 and 1, such as 0.95.",
        ),
        (
            lambda: bootstrap_interval(np.ones(3), seeds=SEEDS, resamples=1),
            ConfigError,
            "resamples is 1; draw at least 2, better 2000.",
        ),
        (
            lambda: half_sample_interval(1.0, lambda half: 1.0, 3, seeds=SEEDS),
            DataError,
            "An interval from half samples needs at least 4 items, not 3; score more items.",
        ),
        (
            lambda: half_sample_interval(1.0, lambda half: math.nan, 8, seeds=SEEDS),
            DataError,
            "A score is not finite on all items or on half of them; score more items, or look for bad ones.",
        ),
    ],
)
def test_what_allows_no_interval_is_refused(compute: Callable[[], object], kind: type[SkygenError], sentence: str) -> None:
    with pytest.raises(kind) as error:
        compute()
    assert str(error.value) == sentence
