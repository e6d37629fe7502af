"""The scores of caption writers: each model beside its baselines, on the same images and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from jaxtyping import Float

from skygen.evaluation.captions import (
    TokenizedCaptions,
    bleu_from_statistics,
    bleu_statistics,
    score_tokens,
)
from skygen.evaluation.intervals import bootstrap_interval
from skygen.evaluation.scores import Score
from skygen.seeding import Seeds

SMALLEST_FOR_INTERVAL = 2
REPORTED = ("cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")


def caption_scores(
    captions: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], *, subset: str, seeds: Seeds
) -> list[Score]:
    """Score every writer's captions by coco-caption's BLEU, ROUGE-L and CIDEr-D, with bootstrap intervals over the images.

    Args:
        captions: writer (``tuned``, ``base``, ``constant``, …) to one caption an image.
        references: of each image.
        subset: of the data, for the record.
        seeds: the intervals follow from them.

    Returns:
        Metric by metric, in the order of the writers. The document frequencies of CIDEr-D are those of all references.
    """
    rows: dict[str, list[Score]] = {name: [] for name in REPORTED}
    for writer, hypotheses in captions.items():
        tokens = TokenizedCaptions.from_text(hypotheses, references)
        results = score_tokens(tokens)
        statistics = bleu_statistics(tokens)
        for name in REPORTED:
            interval = None
            if len(hypotheses) >= SMALLEST_FOR_INTERVAL:
                if name.startswith("bleu"):
                    order = int(name.removeprefix("bleu_")) - 1
                    interval = bootstrap_interval(
                        statistics, seeds=seeds, statistic=lambda rows, n=order: float(bleu_from_statistics(rows.sum(0))[n])
                    )
                else:
                    interval = bootstrap_interval(results[name].items, seeds=seeds)
            rows[name].append(Score(name, results[name].corpus, len(hypotheses), interval, writer, subset))
    return [score for name in REPORTED for score in rows[name]]


def mean_score(
    name: str, items: Float[np.ndarray, " count"], *, model: str, subset: str, extractor: str, seeds: Seeds
) -> Score:
    """Return the mean of one value an item as a score with its bootstrap interval."""
    interval = bootstrap_interval(items, seeds=seeds) if len(items) >= SMALLEST_FOR_INTERVAL else None
    return Score(name, float(items.mean()), len(items), interval, model, subset, extractor)
