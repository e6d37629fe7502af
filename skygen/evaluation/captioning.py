"""The scores of caption writers: each model beside its baselines, on the same images and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from skygen.evaluation.captions import (
    TokenizedCaptions,
    bleu_from_statistics,
    bleu_statistics,
    cider_d,
    rouge_l,
    score_tokens,
)
from skygen.evaluation.intervals import Items, bootstrap_interval
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score
from skygen.seeding import Seeds

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
        intervals = _intervals(tokens, seeds) if len(hypotheses) >= SMALLEST_FOR_INTERVAL else {}
        for name, result in score_tokens(tokens).items():
            rows[name].append(Score(name, result.corpus, len(hypotheses), intervals.get(name), writer, subset))
    return [score for name in REPORTED for score in rows[name]]


def _intervals(tokens: TokenizedCaptions, seeds: Seeds) -> dict[str, tuple[float, float]]:
    """Resample the images: BLEU is recomputed from its counts, the others are means of items."""
    intervals = {
        name: bootstrap_interval(items, seeds=seeds)
        for name, items in (("cider_d", cider_d(tokens)), ("rouge_l", rouge_l(tokens)))
    }
    statistics = bleu_statistics(tokens)
    for order in range(4):

        def corpus_bleu(rows: Items, order: int = order) -> float:
            return float(bleu_from_statistics(rows.sum(axis=0))[order])

        intervals[f"bleu_{order + 1}"] = bootstrap_interval(statistics, seeds=seeds, statistic=corpus_bleu)
    return intervals
