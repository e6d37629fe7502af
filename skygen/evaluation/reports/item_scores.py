"""Scores of single items as the report needs them: read once a run, with forgiveness."""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

import numpy as np

from skygen.errors import DataError
from skygen.evaluation.reports.pictures import PICTURES, read_pictures
from skygen.evaluation.reports.records import DAMAGE, RunRecord

if TYPE_CHECKING:
    from skygen.evaluation.items import ItemScores

MODELS_SHOWN: Final = 4
"""As many as the page has colours for series; every further one makes the comparisons dearer."""
FIRST_METRIC: Final = "skyclip_score"
_FIRST_MODELS: Final = ("tuned", "base")


def read_items(record: RunRecord) -> ItemScores | None:
    """Read ``items.jsonl``; None, with a note unless it is simply absent, if it cannot be read."""
    from skygen.evaluation.items import FILE, ItemScores

    if not (record.folder / FILE).exists():
        return None
    try:
        return ItemScores.read(record.folder / FILE)
    except DataError as error:
        record.notes.append(str(error).removeprefix(f"{record.folder}/"))
    except DAMAGE:
        record.notes.append(f"{FILE} is not laid out as skygen writes it and was left out.")
    return None


def read_drawn_items(record: RunRecord) -> ItemScores | None:
    """Read ``items.jsonl``, or where there is none to read the SkyCLIP scores in ``pictures.jsonl``; None without either."""
    items = read_items(record)
    if items is not None or not (record.folder / PICTURES).exists():
        return items
    from skygen.evaluation.items import ItemScores

    rows = read_pictures(record)
    items = ItemScores([str(place) for place in range(len(rows))])
    for model in dict.fromkeys(model for row in rows for model in row.scores):
        places = [place for place, row in enumerate(rows) if model in row.scores]
        items.add(model, FIRST_METRIC, places, np.array([rows[place].scores[model] for place in places], dtype=np.float64))
    return items if items.writers() else None


def order_models(items: ItemScores) -> list[str]:
    """List all models of a run, ``tuned`` and ``base`` first, which so have one colour in all drawings, others as they come."""
    writers = items.writers()
    return [*(model for model in _FIRST_MODELS if model in writers), *(m for m in writers if m not in _FIRST_MODELS)]


def split_metric(metric: str) -> tuple[str, str]:
    """Part a metric of ``items.jsonl`` into its name and the network behind it, which may be empty."""
    name, _, extractor = metric.partition("@")
    return name, extractor
