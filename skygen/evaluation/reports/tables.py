"""How the report lays out scores: one table a metric, models as rows, every interval drawn on the metric's own scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from skygen.evaluation.scores import Score

_MODEL_ORDER = ("tuned", "base", "real")
_LOWER = ("fid", "kid", "cmmd", "mmd", "loss", "perplexity")
_HIGHER = (
    "bleu", "rouge", "cider", "meteor", "spice", "skyclip", "clip", "accuracy", "recall", "precision", "density", "coverage",
    "retrieval", "top_", "f1", "zero_shot", "image_to_text", "text_to_image", "judge", "count", "colour", "psnr",
)  # fmt: skip


@dataclass(frozen=True, slots=True)
class ScoreLine:
    """One score as the page shows it.

    Args:
        run: that it comes from.
        score: as ``metrics.json`` has it.
        value: rounded as its whole table is.
        interval: the same, in words; empty where there is none.
        position: of the value on the table's scale, in percent of its width; None where it cannot be drawn.
        extent: left end and width of the interval, in percent; None where there is none.
    """

    run: str
    score: Score
    value: str
    interval: str
    position: float | None
    extent: tuple[float, float] | None


@dataclass(frozen=True, slots=True)
class ScoreTable:
    """All scores of one metric.

    Args:
        name: of the metric.
        extractor: the network behind it; empty where there is none.
        direction: ``higher is better``, ``lower is better``, or empty where it depends.
        lines: tuned first, then base, real, and the baselines, within each subset.
        ends: of the scale, rounded.
        many_runs: the lines come from more than one run.
        many_subsets: the lines are of more than one subset.
    """

    name: str
    extractor: str
    direction: str
    lines: tuple[ScoreLine, ...]
    ends: tuple[str, str]
    many_runs: bool
    many_subsets: bool


def tabulate(scores: Iterable[tuple[str, Score]]) -> list[ScoreTable]:
    """Group scores by metric and extractor, in the order in which these first come.

    Args:
        scores: each with the run it comes from.
    """
    groups: dict[tuple[str, str], list[tuple[str, Score]]] = {}
    for run, score in scores:
        groups.setdefault((score.name, score.extractor), []).append((run, score))
    return [_tabulate_one(rows) for rows in groups.values()]


def _tabulate_one(rows: Sequence[tuple[str, Score]]) -> ScoreTable:
    subsets = list(dict.fromkeys(score.subset for _, score in rows))
    runs = list(dict.fromkeys(run for run, _ in rows))
    rows = sorted(rows, key=lambda row: (subsets.index(row[1].subset), _rank_model(row[1].model), runs.index(row[0])))
    numbers = [n for _, score in rows for n in (score.value, *(score.interval or ())) if math.isfinite(n)]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
    margin = 0.05 * (high - low) or abs(high) or 1.0
    digits = choose_digits(max(map(abs, numbers), default=1.0))
    lines = tuple(_place(run, score, digits, low - margin, high + margin) for run, score in rows)
    first = rows[0][1]
    ends = (f"{low:.{digits}f}", f"{high:.{digits}f}")
    return ScoreTable(first.name, first.extractor, _direction(first.name), lines, ends, len(runs) > 1, len(subsets) > 1)


def choose_digits(largest: float) -> int:
    """Choose digits after the point so that the largest number of a table shows about three that matter."""
    if largest <= 0:
        return 3
    return min(8, max(1, 2 - math.floor(math.log10(largest))))


def _place(run: str, score: Score, digits: int, low: float, high: float) -> ScoreLine:
    def percent(number: float) -> float:
        return round(100 * (number - low) / (high - low), 2)

    interval, extent = "", None
    if score.interval is not None:
        interval = f"{score.interval[0]:.{digits}f} \N{EN DASH} {score.interval[1]:.{digits}f}"
        if all(map(math.isfinite, score.interval)):
            left = percent(score.interval[0])
            extent = (left, round(percent(score.interval[1]) - left, 2))
    position = percent(score.value) if math.isfinite(score.value) else None
    return ScoreLine(run, score, f"{score.value:.{digits}f}", interval, position, extent)


def _rank_model(model: str) -> int:
    return _MODEL_ORDER.index(model) if model in _MODEL_ORDER else len(_MODEL_ORDER)


def _direction(name: str) -> str:
    if name.lower().startswith(_LOWER):
        return "lower is better"
    return "higher is better" if name.lower().startswith(_HIGHER) else ""
