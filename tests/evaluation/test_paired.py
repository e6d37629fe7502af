"""The sign-flip test against closed forms, enumeration, and its own error rate."""

from __future__ import annotations

from itertools import product

import numpy as np
import pytest

from skygen.errors import ConfigError, DataError
from skygen.evaluation import paired
from skygen.evaluation.intervals import paired_difference_interval
from skygen.evaluation.paired import sign_flip_p_value
from skygen.seeding import Seeds

SEEDS = Seeds(5)


def test_equal_systems_have_p_1_and_an_interval_of_nothing() -> None:
    values = np.linspace(0.0, 1.0, 40)
    assert sign_flip_p_value(values - values, seeds=SEEDS) == 1.0
    assert paired_difference_interval(values, values, seeds=SEEDS) == (0.0, 0.0)


@pytest.mark.parametrize("count", [1, 2, 5, 10])
def test_the_same_gain_everywhere_is_as_rare_as_all_heads_or_all_tails(count: int) -> None:
    assert sign_flip_p_value(np.full(count, 0.1), seeds=SEEDS) == 2.0 ** (1 - count)


def test_items_that_do_not_differ_change_nothing() -> None:
    values = np.array([0.3, -0.1, 0.2, 0.25])
    assert sign_flip_p_value(np.concatenate([values, np.zeros(50)]), seeds=SEEDS) == sign_flip_p_value(values, seeds=SEEDS)


def test_few_items_are_enumerated_and_drawn_signs_agree(monkeypatch: pytest.MonkeyPatch) -> None:
    values = SEEDS.numpy("differences").normal(0.1, 1.0, size=11)
    by_hand = np.mean([abs(np.dot(signs, values)) >= abs(values.sum()) - 1e-12 for signs in product((-1, 1), repeat=11)])
    exact = sign_flip_p_value(values, seeds=SEEDS)
    assert exact == pytest.approx(float(by_hand), abs=1e-12)
    assert 0.01 < exact < 0.99
    monkeypatch.setattr(paired, "ENUMERATED", 0)
    drawn = sign_flip_p_value(values, seeds=SEEDS, flips=40_000)
    assert drawn == pytest.approx(exact, abs=4 * np.sqrt(exact * (1 - exact) / 40_000))
    monkeypatch.setattr(paired, "SIGNS_AT_ONCE", 1000)
    assert sign_flip_p_value(values, seeds=SEEDS, flips=5000) == pytest.approx(exact, abs=0.03)


def test_a_large_effect_reaches_the_smallest_p_and_either_sign_the_same() -> None:
    values = SEEDS.numpy("gain").normal(1.0, 0.5, size=200)
    assert sign_flip_p_value(values, seeds=SEEDS, flips=999) == 1 / 1000
    assert sign_flip_p_value(-values, seeds=SEEDS, flips=999) == 1 / 1000


def test_systems_that_do_not_differ_are_told_apart_in_one_of_twenty() -> None:
    generator, trials = SEEDS.numpy("null"), 1000
    values = [sign_flip_p_value(generator.laplace(size=30), seeds=Seeds(trial), flips=400) for trial in range(trials)]
    rejected = sum(value <= 0.05 for value in values)
    assert 29 <= rejected <= 71  # 50 expected; three standard deviations are 21
    assert 0.45 < np.mean(values) < 0.55


def test_what_cannot_be_tested_is_refused() -> None:
    with pytest.raises(
        DataError, match="A paired test needs at least one item scored in both, and there is none; score the sa"
    ):
        sign_flip_p_value(np.array([]), seeds=SEEDS)
    with pytest.raises(
        DataError, match=r"The difference of item 1 is not finite \(1 such items\); leave them out or mend them"
    ):
        sign_flip_p_value(np.array([0.0, np.nan]), seeds=SEEDS)
    with pytest.raises(ConfigError, match="flips is 0; draw at least 1, better 10,000"):
        sign_flip_p_value(np.array([1.0]), seeds=SEEDS, flips=0)
