"""How strong models are by pairs of which people chose one: the model of Bradley and Terry 1952.

The probability that i is preferred to j is pᵢ / (pᵢ + pⱼ). A pair that was called equal is half a win for both. The strengths
are found by the minorization-maximization of Hunter 2004, "MM algorithms for generalized Bradley-Terry models", equation 3.

A model that wins always has no finite strength of its own. Every model therefore gets half a win and half a loss more than it
was given, against the other models alike, that is, against a mean opponent: of 20 wins in 20 pairs the strength is that of 20.5
in 21. A ranking is thus always there, in every resample too, and no strength is pulled far.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Float

from skygen.errors import DataError
from skygen.evaluation.ratings.resampling import find_interval, resample_sums
from skygen.seeding import Seeds

PRIOR: Final = 0.5
"""Wins, and as many losses, that each model gets beside those that it was given."""
TOLERANCE: Final = 1e-9
"""Largest change of a log-strength in a step after which the search ends."""
MOST_STEPS: Final = 20_000
"""Reached only where the prior alone holds two groups of models together; they are then a little nearer than they should be."""


@final
@dataclass(frozen=True, slots=True)
class Strength:
    """How strong a model is.

    Args:
        model: its name.
        log_strength: natural logarithm of pᵢ; those of all models have the mean 0.
        probability: that it is preferred to the mean model, one of log-strength 0; in (0, 1).
        interval: 95 %, of the probability; None of fewer than two items.
    """

    model: str
    log_strength: float
    probability: float
    interval: tuple[float, float] | None


def bradley_terry(wins: Float[np.ndarray, "*samples models _models"]) -> Float[np.ndarray, "*samples models"]:
    """Find the log-strengths that make the wins, and those of the prior, most probable.

    Args:
        wins: how often the model of the row was preferred to that of the column, a half for a tie; the diagonal is not read.

    Returns:
        Log-strengths with the mean 0.
    """
    models = wins.shape[-1]
    if models < 2:
        return np.zeros(wins.shape[:-1])
    others = 1 - np.eye(models)
    won = ((wins + PRIOR / (models - 1)) * others).reshape(-1, models, models)
    games, totals = won + won.transpose(0, 2, 1), won.sum(axis=2)
    logs = np.zeros(totals.shape)
    active = np.arange(len(logs))
    for _ in range(MOST_STEPS):
        before = logs[active]
        strengths = np.exp(before)
        sums = strengths[:, :, None] + strengths[:, None, :]
        after = np.log(totals[active] / (games[active] / sums).sum(axis=2))
        after -= after.mean(axis=1, keepdims=True)
        logs[active] = after
        active = active[np.abs(after - before).max(axis=1) > TOLERANCE]
        if not len(active):
            break
    return logs.reshape(wins.shape[:-1])


def rank_models(models: Sequence[str], wins: Float[np.ndarray, "items models _models"], *, seeds: Seeds) -> list[Strength]:
    """Rank models, with intervals by bootstrap over items.

    Args:
        models: their names.
        wins: of each item, how often the model of the row was preferred to that of the column, a half for a tie.
        seeds: the run's seeds.

    Returns:
        Strongest first.

    Raises:
        DataError: the models fall into groups of which none was compared with another.
    """
    groups = find_groups(models, wins.sum(axis=0))
    if len(groups) > 1:
        named = "; ".join(", ".join(group) for group in groups)
        raise DataError(f"No pair joins these groups of models, which have no common scale: {named}. Rate pairs across them.")
    logs = bradley_terry(wins.sum(axis=0))
    probabilities, drawn = _win_mean(logs), _win_mean(bradley_terry(resample_sums(wins, seeds=seeds)))
    strengths = [
        Strength(model, float(logs[place]), float(probabilities[place]), find_interval(drawn[:, place], len(wins)))
        for place, model in enumerate(models)
    ]
    return sorted(strengths, key=lambda strength: -strength.log_strength)


def find_groups(models: Sequence[str], wins: Float[np.ndarray, "models _models"]) -> list[tuple[str, ...]]:
    """Find the groups of models that pairs join, directly or through others.

    Returns:
        The groups in the order of their first models; one where all can be ranked.
    """
    reached = (wins + wins.T > 0) | np.eye(len(models), dtype=bool)
    for _ in models:
        reached = reached @ reached
    return list(dict.fromkeys(tuple(np.array(models, dtype=object)[row]) for row in reached))


def _win_mean(logs: Float[np.ndarray, "*any"]) -> Float[np.ndarray, "*any"]:
    """Return the probability to be preferred to a model of log-strength 0."""
    return 1 / (1 + np.exp(-logs))
