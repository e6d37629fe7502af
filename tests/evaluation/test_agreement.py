"""Krippendorff's alpha against the worked example of its author, brute force over pairs of ratings, and what must hold."""

from __future__ import annotations

from itertools import permutations

import numpy as np
import pytest

from skygen.errors import DataError
from skygen.evaluation.ratings.agreement import Level, count_coincidences, krippendorff_alpha
from skygen.seeding import Seeds

SEEDS = Seeds(11)
NAN = np.nan
OBSERVERS = np.array(
    [
        [1, 2, 3, 3, 2, 1, 4, 1, 2, NAN, NAN, NAN],
        [1, 2, 3, 3, 2, 2, 4, 1, 2, 5, NAN, 3],
        [NAN, 3, 3, 3, 2, 3, 4, 2, 2, 5, 1, NAN],
        [1, 2, 3, 3, 2, 4, 4, 1, 2, 5, 1, NAN],
    ]
)
"""Reliability data of four observers on twelve units, in Krippendorff 2011, section C."""


def brute_force_alpha(ratings: np.ndarray, level: Level) -> float:
    """Average the distance over all pairs of ratings within units, and over all pairs there are."""
    units = [column[~np.isnan(column)] for column in ratings.T]
    units = [unit for unit in units if len(unit) > 1]
    every = np.concatenate(units)

    def distance(one: float, other: float) -> float:
        if level == "nominal":
            return float(one != other)
        if level == "interval":
            return (one - other) ** 2
        low, high = sorted((one, other))
        between = sum((every == value).sum() for value in np.unique(every) if low <= value <= high)
        return 0.0 if one == other else (between - ((every == low).sum() + (every == high).sum()) / 2) ** 2

    observed = sum(distance(*pair) / (len(unit) - 1) for unit in units for pair in permutations(unit, 2)) / len(every)
    expected = sum(distance(*pair) for pair in permutations(every, 2)) / (len(every) * (len(every) - 1))
    return float(1 - observed / expected)


@pytest.mark.parametrize(("level", "published"), [("nominal", 0.743), ("ordinal", 0.815), ("interval", 0.849)])
def test_the_worked_example_comes_out_as_published(level: Level, published: float) -> None:
    agreement = krippendorff_alpha(OBSERVERS, level, seeds=SEEDS)
    assert agreement.value is not None
    assert round(agreement.value, 3) == published
    assert agreement.value == pytest.approx(brute_force_alpha(OBSERVERS, level), abs=1e-12)
    assert (agreement.units, agreement.ratings, agreement.reason) == (11, 40, "")
    assert agreement.interval is not None
    assert agreement.interval[0] < agreement.value < agreement.interval[1] <= 1


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_any_ratings_agree_with_brute_force(level: Level) -> None:
    for trial in range(8):
        draw = SEEDS.numpy("ratings", trial)
        ratings = draw.choice([0.0, 0.5, 1.0, 4.0], size=(5, 14))
        ratings[draw.random(ratings.shape) < 0.5] = NAN
        agreement = krippendorff_alpha(ratings, level, seeds=SEEDS)
        assert agreement.value == pytest.approx(brute_force_alpha(ratings, level), abs=1e-12)


def test_coincidences_count_every_rating_of_a_unit_once() -> None:
    points = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    tables = count_coincidences(OBSERVERS, points)
    assert tables.sum(axis=(1, 2)).tolist() == [3, 4, 4, 4, 4, 4, 4, 4, 4, 3, 2, 0]
    assert np.array_equal(tables, tables.transpose(0, 2, 1))
    assert tables.sum(axis=0)[0, 0] == pytest.approx(7.0)  # as the paper's matrix has it
    assert tables.sum(axis=0)[1, 2] == pytest.approx(4 / 3)


@pytest.mark.parametrize("level", ["nominal", "ordinal", "interval"])
def test_raters_who_always_agree_have_alpha_1_and_nothing_around_it(level: Level) -> None:
    ratings = np.tile([1.0, 2.0, 5.0, 3.0, 1.0, 2.0, 4.0, 5.0], (3, 1))
    agreement = krippendorff_alpha(ratings, level, seeds=SEEDS)
    assert agreement.value == pytest.approx(1.0)
    assert agreement.interval == pytest.approx((1.0, 1.0))


def test_raters_who_always_contradict_each_other_are_below_0() -> None:
    first = np.tile([1.0, 5.0], 10)
    agreement = krippendorff_alpha(np.stack([first, 6 - first]), "ordinal", seeds=SEEDS)
    assert agreement.value == pytest.approx(1 - 39 / 20)  # all pairs within differ, 20/39 of all pairs do
    assert agreement.interval is not None
    assert agreement.interval[1] < 0


def test_raters_who_do_not_look_are_about_0_whatever_they_like() -> None:
    draw = SEEDS.numpy("blind raters")
    ratings = draw.choice([1.0, 2.0, 3.0, 4.0, 5.0], p=[0.6, 0.1, 0.1, 0.1, 0.1], size=(4, 3000))
    value = krippendorff_alpha(ratings, "ordinal", seeds=SEEDS).value
    assert value == pytest.approx(0.0, abs=0.03)


@pytest.mark.parametrize(
    ("ratings", "reason"),
    [
        ([[3.0, 3.0], [3.0, 3.0]], "all answers are the same"),
        ([[3.0, NAN], [NAN, 2.0]], "no question has been answered by two raters"),
        ([[]], "no question has been answered by two raters"),
    ],
)
def test_what_is_not_defined_has_a_reason_and_no_value(ratings: list[list[float]], reason: str) -> None:
    agreement = krippendorff_alpha(np.array(ratings), "nominal", seeds=SEEDS)
    assert agreement.value is None
    assert agreement.interval is None
    assert agreement.reason.startswith(reason)


def test_an_interval_that_most_resamples_would_not_have_is_not_given() -> None:
    ratings = np.array([[1.0, 1.0, 1.0, 1.0, 2.0], [1.0, 1.0, 1.0, 1.0, 1.0]])  # a third of the resamples lack the fifth unit
    agreement = krippendorff_alpha(ratings, "nominal", seeds=SEEDS)
    assert agreement.value == pytest.approx(0.0)
    assert agreement.interval is None


def test_units_of_one_item_are_drawn_together() -> None:
    ratings = SEEDS.numpy("clusters").choice([1.0, 2.0, 3.0], size=(2, 12))
    repeated = np.tile(ratings, 4)  # the same twelve units four times tell no more than once
    alone = krippendorff_alpha(ratings, "nominal", seeds=SEEDS).interval
    together = krippendorff_alpha(repeated, "nominal", seeds=SEEDS, items=np.tile(np.arange(12), 4)).interval
    apart = krippendorff_alpha(repeated, "nominal", seeds=SEEDS).interval
    assert alone is not None
    assert together is not None
    assert apart is not None
    assert together[1] - together[0] == pytest.approx(alone[1] - alone[0], rel=0.1)
    assert apart[1] - apart[0] < 0.65 * (alone[1] - alone[0])


def test_the_interval_holds_the_alpha_of_many_units() -> None:
    """Two raters who both see a true grade, each with a slip now and then."""

    def rate(count: int, *position: int | str) -> np.ndarray:
        draw = SEEDS.numpy("slips", *position)
        truth = draw.integers(1, 6, size=count)
        slipped = draw.random((2, count)) < 0.3
        return np.where(slipped, draw.integers(1, 6, size=(2, count)), truth).astype(np.float64)

    expected = krippendorff_alpha(rate(20_000, "many"), "interval", seeds=SEEDS).value
    assert expected is not None
    intervals = [krippendorff_alpha(rate(60, trial), "interval", seeds=SEEDS).interval for trial in range(60)]
    held = [low <= expected <= high for low, high in filter(None, intervals)]
    assert len(held) == 60
    assert 0.85 <= np.mean(held) <= 1.0


def test_infinite_ratings_and_too_few_items_are_refused() -> None:
    with pytest.raises(DataError, match="infinite"):
        krippendorff_alpha(np.array([[1.0, np.inf], [1.0, 2.0]]), "nominal", seeds=SEEDS)
    with pytest.raises(DataError, match="3 items for 2 units"):
        krippendorff_alpha(np.array([[1.0, 3.0], [1.0, 2.0]]), "nominal", seeds=SEEDS, items=np.arange(3))
