"""Generated pictures as the report shows them: evenly spaced ones, and by a stated rule the best and the worst."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Final, final

from skygen.evaluation.reports.records import PictureRow, RunRecord, parse_pictures
from skygen.evaluation.reports.tables import first_model
from skygen.evaluation.reports.thumbnails import Thumbnail, note_missing, show_image, space_out

PICTURES: Final = "pictures.jsonl"
EXTREMES_SHOWN: Final = 6
"""Of the prompts whose picture has the highest SkyCLIP scores, and of those with the lowest."""
_BEFORE_OTHERS: Final = ("real", "base", "tuned")

ShownRow = tuple[PictureRow, dict[str, Thumbnail]]


@final
@dataclass(frozen=True, slots=True)
class PicturesSection:
    """What models draw from the same prompts and seeds, beside a real image.

    Args:
        run: that they are from.
        count: prompts in all.
        models: ``real``, ``base`` and ``tuned`` first, others as they come.
        rows: evenly spaced ones.
        ranked: model by whose SkyCLIP score best and worst are chosen; empty where no picture has one.
        scored: prompts that have it.
        best: with the highest score, the highest first.
        worst: with the lowest, the lowest first; never one of the best.
    """

    run: str
    count: int
    models: tuple[str, ...]
    rows: tuple[ShownRow, ...]
    ranked: str
    scored: int
    best: tuple[ShownRow, ...]
    worst: tuple[ShownRow, ...]


def read_pictures(record: RunRecord) -> list[PictureRow]:
    """Read ``pictures.jsonl``; empty where the run has none."""
    return list(record.read_rows(PICTURES, parse_pictures))


def show_pictures(record: RunRecord) -> PicturesSection | None:
    """Lay out rows of ``pictures.jsonl``, never picked by hand; None where the run has none."""
    rows = read_pictures(record)
    if not rows:
        return None
    missing: list[str] = []

    def show(chosen: Iterable[PictureRow]) -> tuple[ShownRow, ...]:
        return tuple((row, {model: show_image(record, path, missing) for model, path in row.images.items()}) for row in chosen)

    ranked, scored, best, worst = choose_extremes(rows)
    section = PicturesSection(
        record.name, len(rows), order_columns(rows), show(space_out(rows)), ranked, scored, show(best), show(worst)
    )
    note_missing(record, PICTURES, list(dict.fromkeys(missing)))
    return section


def choose_extremes(rows: Sequence[PictureRow]) -> tuple[str, int, list[PictureRow], list[PictureRow]]:
    """Choose the prompts whose picture by the run's first model has the highest and the lowest SkyCLIP score.

    Returns:
        The model; how many prompts have a finite score of it; the best, the best first; the worst, the worst first. Of fewer
        than twice ``EXTREMES_SHOWN`` half are best and half are worst. Of equal scores the earlier counts as the better.
    """
    ranked = first_model(model for row in rows for model in row.scores)
    scored = [row for row in rows if math.isfinite(row.scores.get(ranked, math.nan))]
    count = min(EXTREMES_SHOWN, len(scored) // 2)
    descending = sorted(scored, key=lambda row: -row.scores[ranked])
    return ranked, len(scored), descending[:count], descending[len(descending) - count :][::-1]


def order_columns(rows: Sequence[PictureRow]) -> tuple[str, ...]:
    """List the models that any row has a picture of, in the order of the page's columns."""
    named = dict.fromkeys(model for row in rows for model in row.images)
    return tuple([model for model in _BEFORE_OTHERS if model in named] + [m for m in named if m not in _BEFORE_OTHERS])
