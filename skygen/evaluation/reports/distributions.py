"""How the scores of single items are spread, model by model: two equal means can hide very different pictures."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final, final

import numpy as np
from markupsafe import Markup

from skygen.evaluation.reports.figures import SERIES_DASHES, draw_densities
from skygen.evaluation.reports.item_scores import FIRST_METRIC, MODELS_SHOWN, order_models, read_drawn_items, split_metric
from skygen.evaluation.reports.records import RunRecord

METRICS_SHOWN: Final = 6
"""Of one run."""
FEWEST_VALUES: Final = 3
"""Different ones of a metric; of fewer, such as right and wrong, the score itself says all."""


@final
@dataclass(frozen=True, slots=True)
class DistributionsSection:
    """The spread of the scores of one run.

    Args:
        run: that they are from.
        series: name of each model and the dashes of its outline, in the order of the colours.
        drawings: name of the metric with its extractor, and the drawing.
        more: metrics that are not drawn, although they could be.
    """

    run: str
    series: tuple[tuple[str, str], ...]
    drawings: tuple[tuple[str, Markup], ...]
    more: int


def show_distributions(record: RunRecord) -> DistributionsSection | None:
    """Draw each metric of ``items.jsonl`` by model, the SkyCLIP score first; None where the run has none.

    Of a run that has no such file the SkyCLIP scores in ``pictures.jsonl`` are drawn.
    """
    items = read_drawn_items(record)
    if items is None:
        return None
    models = order_models(items)[:MODELS_SHOWN]
    metrics = list(dict.fromkeys(metric for model in models for metric in items.metrics(model)))
    metrics.sort(key=lambda metric: split_metric(metric)[0] != FIRST_METRIC)
    drawings: list[tuple[str, Markup]] = []
    more = 0
    for metric in metrics:
        values = [items.values(model, metric) for model in models]
        finite = [own[np.isfinite(own)] for own in values]
        if len(np.unique(np.concatenate(finite))) < FEWEST_VALUES:
            continue
        if len(drawings) == METRICS_SHOWN:
            more += 1
            continue
        name, extractor = split_metric(metric)
        drawings.append((" · ".join(filter(None, (name, extractor))), draw_densities(finite, models, name)))
    series = tuple(zip(models, SERIES_DASHES, strict=False))
    return DistributionsSection(record.name, series, tuple(drawings), more) if drawings else None
