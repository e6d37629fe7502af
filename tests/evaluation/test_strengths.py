"""Bradley-Terry strengths against closed forms, a maximum found by another method, and simulated raters."""

from __future__ import annotations

import numpy as np
import pytest

from skygen.errors import DataError
from skygen.evaluation.ratings.strengths import PRIOR, bradley_terry, find_groups, rank_models
from skygen.seeding import Seeds

SEEDS = Seeds(13)


def log_likelihood(logs: np.ndarray, wins: np.ndarray) -> float:
    models = len(logs)
    return float(
        sum(
            (wins[i, j] + PRIOR / (models - 1)) * -np.log1p(np.exp(logs[j] - logs[i]))
            for i in range(models)
            for j in range(models)
            if i != j
        )
    )


def climb(wins: np.ndarray) -> np.ndarray:
    """Find the maximum by steps along the axes that halve when none helps; it knows nothing of the formula."""
    logs, step = np.zeros(len(wins)), 1.0
    best = log_likelihood(logs, wins)
    while step > 1e-7:
        moved = False
        for place in range(len(wins)):
            for sign in (step, -step):
                trial = logs + sign * np.eye(len(wins))[place]
                if (value := log_likelihood(trial, wins)) > best:
                    logs, best, moved = trial, value, True
        step = step if moved else step / 2
    return logs - logs.mean()


@pytest.mark.parametrize(("won", "lost"), [(7, 3), (20, 0), (0, 1), (2.5, 2.5)])
def test_of_two_models_the_odds_are_those_of_the_wins(won: float, lost: float) -> None:
    logs = bradley_terry(np.array([[0.0, won], [lost, 0.0]]))
    assert logs[0] - logs[1] == pytest.approx(np.log((won + PRIOR) / (lost + PRIOR)))
    assert logs.sum() == pytest.approx(0.0)


@pytest.mark.parametrize("models", [3, 4, 6])
def test_the_strengths_are_the_most_probable_ones(models: int) -> None:
    draw = SEEDS.numpy("wins", models)
    wins = draw.integers(0, 9, size=(models, models)) / 2 * (1 - np.eye(models))
    wins[0, 1:], wins[1:, 0] = 4.0, 0.0  # one that always wins
    found = bradley_terry(wins)
    assert found == pytest.approx(climb(wins), abs=1e-5)
    assert found.argmax() == 0


def test_many_matrices_at_once_are_as_each_alone() -> None:
    wins = SEEDS.numpy("batch").integers(0, 5, size=(7, 3, 3)).astype(np.float64)
    assert bradley_terry(wins) == pytest.approx(np.stack([bradley_terry(one) for one in wins]), abs=1e-8)


def test_the_order_of_the_models_changes_nothing() -> None:
    wins = SEEDS.numpy("order").integers(0, 9, size=(4, 4)).astype(np.float64)
    order = np.array([2, 0, 3, 1])
    assert bradley_terry(wins[np.ix_(order, order)]) == pytest.approx(bradley_terry(wins)[order], abs=1e-7)


def test_nobody_has_won_and_all_are_equal() -> None:
    assert bradley_terry(np.zeros((3, 3))) == pytest.approx([0.0, 0.0, 0.0])
    assert bradley_terry(np.full((3, 3), 2.0)) == pytest.approx([0.0, 0.0, 0.0])


def simulate(logs: np.ndarray, items: int, *position: int | str) -> np.ndarray:
    draw = SEEDS.numpy("raters", *position)
    wins = np.zeros((items, len(logs), len(logs)))
    for item in range(items):
        i, j = draw.permutation(len(logs))[:2]
        first = draw.random() < 1 / (1 + np.exp(logs[j] - logs[i]))
        wins[item, i, j], wins[item, j, i] = first, 1 - first
    return wins


def test_strengths_of_simulated_raters_come_back_and_the_intervals_hold_them() -> None:
    truth = np.array([0.8, 0.1, -0.9])
    names = ["tuned", "base", "constant"]
    ranked = rank_models(names, simulate(truth, 4000), seeds=SEEDS)
    assert [strength.model for strength in ranked] == names
    assert [strength.log_strength for strength in ranked] == pytest.approx(truth, abs=0.15)
    held = []
    for trial in range(40):
        for strength in rank_models(names, simulate(truth, 120, trial), seeds=SEEDS):
            expected = 1 / (1 + np.exp(-truth[names.index(strength.model)]))
            assert strength.interval is not None
            assert strength.probability == pytest.approx(1 / (1 + np.exp(-strength.log_strength)))
            held.append(strength.interval[0] <= expected <= strength.interval[1])
    assert len(held) == 120
    assert 0.88 <= np.mean(held) <= 1.0


def test_a_model_that_always_wins_has_a_strength_and_an_interval() -> None:
    wins = np.zeros((20, 2, 2))
    wins[:, 0, 1] = 1.0
    best, worst = rank_models(["tuned", "base"], wins, seeds=SEEDS)
    assert best.log_strength - worst.log_strength == pytest.approx(np.log(20.5 / 0.5))
    assert 0.5 < best.probability < 1
    assert best.interval is not None


def test_one_item_gives_no_interval() -> None:
    wins = np.array([[[0.0, 1.0], [0.0, 0.0]]])
    assert [strength.interval for strength in rank_models(["a", "b"], wins, seeds=SEEDS)] == [None, None]


def test_groups_that_no_pair_joins_are_named() -> None:
    wins = np.zeros((5, 5))
    wins[0, 2] = wins[2, 4] = wins[3, 1] = 1.0
    names = ["a/tuned", "b/tuned", "a/base", "b/base", "real"]
    assert find_groups(names, wins) == [("a/tuned", "a/base", "real"), ("b/tuned", "b/base")]
    with pytest.raises(DataError, match=r"no common scale: a/tuned, a/base, real; b/tuned, b/base\. Rate pairs"):
        rank_models(names, wins[None], seeds=SEEDS)
    wins[4, 1] = 0.5
    assert find_groups(names, wins) == [tuple(names)]


def test_a_chain_in_which_only_neighbours_meet_is_ranked() -> None:
    models = 6
    wins = np.zeros((60, models, models))
    for item in range(60):
        place = item % (models - 1)
        wins[item, place, place + 1] = 1.0
    ranked = rank_models([str(place) for place in range(models)], wins, seeds=SEEDS)
    assert [strength.model for strength in ranked] == [str(place) for place in range(models)]
