"""A score: never a bare number, and the file that holds them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np
from jaxtyping import Float

from skygen.evaluation.intervals import bootstrap_interval
from skygen.seeding import Seeds

SMALLEST_FOR_INTERVAL = 2


PROTOCOL = "skygen-1"
"""This project's own way of measuring: figures of it compare with each other, and with those of no other."""


@dataclass(frozen=True, slots=True)
class Score:
    """One measured value with what it takes to read it.

    Args:
        name: the metric, such as ``cider_d``.
        value: in the metric's own units.
        count: items it was measured on.
        interval: 95 % confidence interval (low, high), None where none can be given.
        model: whose output was scored: ``tuned``, ``base``, ``real``, or a baseline such as ``constant``.
        subset: of the data, such as ``test``.
        extractor: the network behind the metric, such as ``skyclip:miniature``; empty where there is none.
    """

    name: str
    value: float
    count: int
    interval: tuple[float, float] | None
    model: str
    subset: str = ""
    extractor: str = ""


def mean_score(
    name: str, items: Float[np.ndarray, " count"], *, model: str, subset: str, extractor: str, seeds: Seeds
) -> Score:
    """Return the mean of one value an item as a score with its bootstrap interval."""
    interval = bootstrap_interval(items, seeds=seeds) if len(items) >= SMALLEST_FOR_INTERVAL else None
    return Score(name, float(items.mean()), len(items), interval, model, subset, extractor)


def to_metrics(protocol: str, scores: Sequence[Score]) -> dict[str, Any]:
    """Return the content of ``metrics.json``."""
    return {"protocol": protocol, "scores": [asdict(score) for score in scores]}


def from_metrics(metrics: dict[str, Any]) -> list[Score]:
    """Read the scores back from the content of ``metrics.json``."""
    scores = []
    for row in metrics["scores"]:
        low_high = row["interval"]
        scores.append(Score(**{**row, "interval": None if low_high is None else (low_high[0], low_high[1])}))
    return scores


def format_table(scores: Sequence[Score]) -> str:
    """Lay scores out as a table for a terminal: a line a score, the interval in brackets."""
    rows = [("metric", "model", "value", "95 % interval", "count", "subset", "extractor")]
    for score in scores:
        interval = "" if score.interval is None else f"[{score.interval[0]:.4f}, {score.interval[1]:.4f}]"
        rows.append((score.name, score.model, f"{score.value:.4f}", interval, str(score.count), score.subset, score.extractor))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])
