"""How the report lays out scores: one table a metric, models as rows, every interval drawn on the metric's own scale."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final

from skygen.evaluation.scores import Score

LOWER: Final = "lower is better"
HIGHER: Final = "higher is better"
MINUS: Final = "\N{MINUS SIGN}"
_MODEL_ORDER = ("tuned", "base", "real")
_LOWER = ("fid", "kid", "cmmd", "mmd", "loss", "perplexity")
_LOWER_ENDS = ("_change",)
"""A score by how much something moves a cosine that should stay."""
_HIGHER = (
    "bleu", "rouge", "cider", "meteor", "spice", "skyclip", "clip", "ref_clip", "accuracy", "recall", "precision", "density",
    "coverage", "retrieval", "top_", "f1", "zero_shot", "image_to_text", "text_to_image", "image_to_prompt", "judge", "count",
    "colour", "psnr", "inception_score", "cycle_score", "human_preference", "human_rating", "bradley_terry",
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
    rows = sorted(rows, key=lambda row: (subsets.index(row[1].subset), rank_model(row[1].model), runs.index(row[0])))
    first = rows[0][1]
    lines, ends = place_scores(rows)
    return ScoreTable(first.name, first.extractor, direction_of(first.name), lines, ends, len(runs) > 1, len(subsets) > 1)


def place_scores(rows: Sequence[tuple[str, Score]]) -> tuple[tuple[ScoreLine, ...], tuple[str, str]]:
    """Round scores alike and place them on one scale.

    Args:
        rows: each with the run it comes from.

    Returns:
        The lines in the same order, and the ends of the scale.
    """
    numbers = [n for _, score in rows for n in (score.value, *(score.interval or ())) if math.isfinite(n)]
    low, high = (min(numbers), max(numbers)) if numbers else (0.0, 0.0)
    margin = 0.05 * (high - low) or abs(high) or 1.0
    digits = choose_digits(max(map(abs, numbers), default=1.0))
    lines = tuple(_place(run, score, digits, low - margin, high + margin) for run, score in rows)
    return lines, (write_number(low, digits), write_number(high, digits))


def choose_digits(largest: float) -> int:
    """Choose digits after the point so that the largest number of a table shows about three that matter."""
    if largest <= 0:
        return 3
    return min(8, max(1, 2 - math.floor(math.log10(largest))))


def write_number(number: float, digits: int, sign: str = "-") -> str:
    """Write a number for a reader, with a minus as typesetters set it.

    Args:
        number: to be written.
        digits: after the point.
        sign: ``+`` puts a sign before positive numbers too; what rounds to 0 has none.
    """
    if round(number, digits) == 0:
        return f"{0:.{digits}f}"
    return f"{number:{sign}.{digits}f}".replace("-", MINUS)


def _place(run: str, score: Score, digits: int, low: float, high: float) -> ScoreLine:
    def percent(number: float) -> float:
        return round(100 * (number - low) / (high - low), 2)

    interval, extent = "", None
    if score.interval is not None:
        between = "to" if score.interval[0] < 0 else "\N{EN DASH}"
        interval = f"{write_number(score.interval[0], digits)} {between} {write_number(score.interval[1], digits)}"
        if all(map(math.isfinite, score.interval)):
            left = percent(score.interval[0])
            extent = (left, round(percent(score.interval[1]) - left, 2))
    position = percent(score.value) if math.isfinite(score.value) else None
    return ScoreLine(run, score, write_number(score.value, digits), interval, position, extent)


def rank_model(model: str) -> int:
    """Return where a model stands among others: tuned, what else is of the tuned model, base, real, and then the baselines."""
    if model in _MODEL_ORDER:
        return 2 * _MODEL_ORDER.index(model)
    return 1 if model.startswith("tuned") else 2 * len(_MODEL_ORDER)


def first_model(models: Iterable[str]) -> str:
    """Return the model that a run is about: ``tuned``, else the first that is not ``real``; empty where there is none."""
    drawn = list(dict.fromkeys(model for model in models if model != "real"))
    return "tuned" if "tuned" in drawn else next(iter(drawn), "")


def direction_of(name: str) -> str:
    """Say which way a metric is better: ``HIGHER``, ``LOWER``, or empty where neither is known."""
    name = name.lower()
    if name.startswith(_LOWER) or name.endswith(_LOWER_ENDS):
        return LOWER
    return HIGHER if name.startswith(_HIGHER) else ""
