"""Scores by stratum: whether a mean hides groups of images that a model does badly on."""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final, final

from skygen.evaluation.reports.facts import read_strata
from skygen.evaluation.reports.records import RunRecord
from skygen.evaluation.reports.tables import LOWER, ScoreLine, direction_of, first_model, place_scores
from skygen.evaluation.scores import Score
from skygen.evaluation.strata import StratumScore

SMALLEST_RANKED: Final = 20
"""Items of a group that can be called the worst: among many small ones the lowest mean is chance."""


@final
@dataclass(frozen=True, slots=True)
class StratumTable:
    """One metric of one model, group by group.

    Args:
        stratum: what the groups are of.
        metric: its name.
        extractor: the network behind it; empty where there is none.
        model: whose output was scored.
        direction: which way the metric is better; empty where that is not known, and the lowest value then counts as the worst.
        lines: a group each, named by the line's ``run``, in the order of the file.
        ends: of the scale, rounded.
        overall: place of the score of all items on that scale, in percent; None where there is no such score.
        worst: the line of the worst group of ``SMALLEST_RANKED`` items or more; None where there are not two to choose from.
        ranked: groups that are as large.
    """

    stratum: str
    metric: str
    extractor: str
    model: str
    direction: str
    lines: tuple[ScoreLine, ...]
    ends: tuple[str, str]
    overall: float | None
    worst: ScoreLine | None
    ranked: int

    @property
    def is_lower_better(self) -> bool:
        """Whether the worst group is the one with the highest value."""
        return self.direction == LOWER


@final
@dataclass(frozen=True, slots=True)
class StrataSection:
    """The groups of one run."""

    run: str
    model: str
    tables: tuple[StratumTable, ...]


def show_strata(record: RunRecord) -> StrataSection | None:
    """Lay out the run's scores by stratum, for ``tuned`` or the first model; None where the run has none."""
    found = read_strata(record)
    if not found:
        return None
    model = first_model(entry.score.model for entry in found)
    groups: dict[tuple[str, str, str], list[StratumScore]] = {}
    for entry in found:
        if entry.score.model == model:
            groups.setdefault((entry.stratum, entry.score.name, entry.score.extractor), []).append(entry)
    if not groups:
        return None
    scores = record.read_scores()[1]
    return StrataSection(record.name, model, tuple(_tabulate(entries, scores) for entries in groups.values()))


def find_worst(lines: Sequence[ScoreLine], direction: str) -> tuple[ScoreLine | None, int]:
    """Find the worst group among those of ``SMALLEST_RANKED`` items or more.

    Args:
        lines: a group each.
        direction: ``LOWER`` makes the highest value the worst; any other the lowest.

    Returns:
        The group, the first of equal ones, and how many are large enough; None where these are fewer than two.
    """
    large = [line for line in lines if line.score.count >= SMALLEST_RANKED and math.isfinite(line.score.value)]
    if len(large) < 2:
        return None, len(large)
    choose = max if direction == LOWER else min
    return choose(large, key=lambda line: line.score.value), len(large)


def _tabulate(entries: Sequence[StratumScore], scores: Sequence[Score]) -> StratumTable:
    first = entries[0]
    direction = direction_of(first.score.name)
    alike = [one for one in scores if _kind(one) == _kind(first.score)]
    whole = [one for one in alike if len(alike) == 1 or one.subset == first.score.subset][:1]
    rows = [(entry.group, entry.score) for entry in entries] + [("", one) for one in whole]
    placed, ends = place_scores(rows)
    lines = placed[: len(entries)]
    worst, ranked = find_worst(lines, direction)
    overall = placed[-1].position if whole else None
    metric, model, extractor = _kind(first.score)
    return StratumTable(first.stratum, metric, extractor, model, direction, lines, ends, overall, worst, ranked)


def _kind(score: Score) -> tuple[str, str, str]:
    return score.name, score.model, score.extractor
