"""What got better over the rounds of a closed loop and what did not, metric by metric, and whether that is more than chance.

Where two rounds drew the same prompts from the same seeds, what a picture has in both is compared, and the interval is that of
the mean difference (paired bootstrap). Of what is no mean of pictures (KID, FID, the Vendi score) and of sets drawn from other
seeds, the interval of the difference is put together from those of both by Zou and Donner 2008, "Construction of confidence
limits about effect measures: a general approach"; it does not use that both are held against the same real images.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float

from skygen import plain_json
from skygen.data.pair import to_words
from skygen.errors import DataError
from skygen.evaluation.intervals import paired_difference_interval
from skygen.evaluation.reports.tables import choose_digits, tabulate
from skygen.evaluation.rounds.lineage import UNREADABLE, Round, read_lines, read_verdicts
from skygen.evaluation.scores import Score, from_metrics, mean_score
from skygen.seeding import Seeds

TUNED: Final = "tuned"
REAL: Final = "real"
MINUS: Final = "\N{MINUS SIGN}"
SHARES: Final = ("kept_share", "copy_share", "duplicate_share")
"""What of a screening's scores is followed."""
_DIRECTIONS: Final = {
    "vendi_score": "higher is better",
    "kept_share": "higher is better",
    "copy_share": "lower is better",
    "duplicate_share": "lower is better",
    "cycle_score": "higher is better",
}
_AGAIN: Final = "run recipes/evaluate_images.py again"
_ROUNDING: Final = 1e-5
"""Between a mean as it was written down and that of the pictures."""


@final
@dataclass(frozen=True, slots=True)
class Point:
    """One metric of one round.

    Args:
        round: its number.
        score: as it was measured.
        real: the same of real images; None where there is none.
        items: a value a picture, whose mean the score is; None where it is no such mean.
        drawn_from: prompt and seed of each picture.
    """

    round: int
    score: Score
    real: Score | None = None
    items: Float[np.ndarray, " count"] | None = None
    drawn_from: tuple[tuple[str, int], ...] = ()


@final
@dataclass(frozen=True, slots=True)
class Change:
    """How a metric of a later round differs from that of an earlier one.

    Args:
        first: number of the earlier round.
        second: number of the later one.
        difference: second minus first.
        interval: 95 % of it; None where a score has none.
        is_paired: whether the same prompts and seeds were compared picture by picture.
    """

    first: int
    second: int
    difference: float
    interval: tuple[float, float] | None
    is_paired: bool


@final
@dataclass(frozen=True, slots=True)
class Trend:
    """One metric over the rounds.

    Args:
        name: of the metric.
        extractor: the network behind it; empty where there is none.
        direction: ``higher is better``, ``lower is better``, or empty where neither is known to be.
        points: by round.
        changes: of every round after the first one that has the metric, from that one.
        words: a plain sentence for each change.
    """

    name: str
    extractor: str
    direction: str
    points: tuple[Point, ...]
    changes: tuple[Change, ...] = ()
    words: tuple[str, ...] = field(default=())


def find_trends(rounds: Sequence[Round], seeds: Seeds) -> list[Trend]:
    """Read what every round has measured, and compare each with the first.

    Args:
        rounds: in their order; one that was not scored or screened yet lacks points.
        seeds: of the resampling.

    Raises:
        DataError: a file is damaged.
    """
    found: dict[tuple[str, str], list[Point]] = {}
    for each in rounds:
        for point in (*_read_scores(each), *_read_screening(each, seeds)):
            found.setdefault((point.score.name, point.score.extractor), []).append(point)
    trends = []
    for (name, extractor), points in found.items():
        direction = _DIRECTIONS.get(name) or tabulate([("", points[0].score)])[0].direction
        changes = tuple(compare(points[0], later, seeds) for later in points[1:])
        words = tuple(_say(name, direction, change) for change in changes)
        trends.append(Trend(name, extractor, direction, tuple(points), changes, words))
    return trends


def compare(first: Point, second: Point, seeds: Seeds) -> Change:
    """Say by how much a later round differs, with the interval that the data allow."""
    difference = second.score.value - first.score.value
    rounds = first.round, second.round
    if first.items is not None and second.items is not None and first.drawn_from == second.drawn_from and len(first.items) > 1:
        return Change(*rounds, difference, paired_difference_interval(second.items, first.items, seeds=seeds), True)
    if first.score.interval is None or second.score.interval is None:
        return Change(*rounds, difference, None, False)
    (low, high), (later_low, later_high) = first.score.interval, second.score.interval
    before, after = first.score.value, second.score.value
    below, above = math.hypot(after - later_low, high - before), math.hypot(later_high - after, before - low)
    return Change(*rounds, difference, (difference - below, difference + above), False)


def judge_change(change: Change, direction: str) -> str:
    """Return ``better``, ``worse``, ``different`` (no direction is the better one), ``no difference`` or ``unknown``."""
    if change.interval is None:
        return "unknown"
    if change.interval[0] <= 0 <= change.interval[1]:
        return "no difference"
    if not direction:
        return "different"
    return "better" if (change.difference > 0) == direction.startswith("higher") else "worse"


def _say(name: str, direction: str, change: Change) -> str:
    """Say in a sentence what became of a metric."""
    verdict = judge_change(change, direction)
    size = max(abs(change.difference), *(abs(end) for end in change.interval or (0.0,)))
    digits = choose_digits(size)
    by = f"{change.difference:+.{digits}f}"
    if change.interval is not None:
        by += f" [{change.interval[0]:+.{digits}f}, {change.interval[1]:+.{digits}f}]"
    by = by.replace("-", MINUS)
    how = ", picture by picture" if change.is_paired else ""
    since = f"round {change.second} against round {change.first}"
    words = {
        "better": f"{name} is better: {since} {by}{how}.",
        "worse": f"{name} is worse: {since} {by}{how}.",
        "different": f"{name} is different: {since} {by}{how}.",
        "no difference": f"{name} shows no difference beyond the interval: {since} {by}{how}.",
        "unknown": f"{name} has no interval to tell a difference by: {since} {by}.",
    }
    return words[verdict]


def _read_scores(each: Round) -> list[Point]:
    """Read what ``recipes/evaluate_images.py`` has measured of a round's pictures from held-out prompts."""
    path = each.folder / "scores" / "metrics.json"
    if not path.exists():
        return []
    scores = _read_metrics(path, _AGAIN)
    real = {(score.name, score.extractor): score for score in scores if score.model == REAL}
    drawn_from, items = _read_pictures(each)
    points = []
    for score in scores:
        if score.model == TUNED:
            values = items.get(score.name)
            own = values is not None and len(values) == score.count and abs(values.mean() - score.value) < _ROUNDING
            known = real.get((score.name, score.extractor))
            points.append(Point(each.number, score, known, values if own else None, drawn_from if own else ()))
    return points


def _read_pictures(each: Round) -> tuple[tuple[tuple[str, int], ...], dict[str, Float[np.ndarray, " count"]]]:
    """Read what single pictures scored; nothing where the run has left no list of them."""
    path, records = each.folder / "scores" / "pictures.jsonl", each.folder / "test" / "samples" / "metadata.jsonl"
    if not path.exists() or not records.exists():
        return (), {}
    rows = list(read_lines(path, ("prompt", "seed", "skyclip_score"), _AGAIN))
    known = [to_words(record.get("class", "")) for record in read_lines(records, ("text", "seed"), _AGAIN)]
    columns: dict[str, list[float]] = {"skyclip_score": [row["skyclip_score"].get(TUNED, math.nan) for row in rows]}
    if len(known) == len(rows) and all(TUNED in row.get("judged", {}) for row in rows):
        columns["judge_accuracy"] = [float(row["judged"][TUNED] == name) for row, name in zip(rows, known, strict=True)]
    return tuple((row["prompt"], row["seed"]) for row in rows), {name: np.array(values) for name, values in columns.items()}


def _read_screening(each: Round, seeds: Seeds) -> list[Point]:
    """Read what ``recipes/screen_images.py`` has measured of all pictures of a round's set, kept or not, and average cycles."""
    verdicts = read_verdicts(each).values()
    if not verdicts:
        return []
    path = each.folder / "screen" / "metrics.json"
    scores = _read_metrics(path, "run recipes/screen_images.py again") if path.exists() else []
    points = [Point(each.number, score) for score in scores if score.model == TUNED and score.name in SHARES]
    cycles = [row.get("cycle_score") for row in verdicts if row["verdict"] != UNREADABLE]
    if cycles and None not in cycles:
        items = np.array(cycles, dtype=np.float64)
        cycle = mean_score("cycle_score", items, model=TUNED, subset="prompts", extractor="", seeds=seeds)
        points.append(Point(each.number, cycle))
    return points


def _read_metrics(path: Path, mend: str) -> list[Score]:
    try:
        return from_metrics(plain_json.parse(path.read_text(encoding="utf-8")))
    except (ValueError, KeyError, TypeError) as error:
        raise DataError(f"{path}: cannot be read as scores; {mend}.") from error
