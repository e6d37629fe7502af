"""The scores of caption writers: each model beside its baselines and people, on the same images and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from jaxtyping import Float, Int

from skygen.evaluation.captions.coco_caption import (
    ORDERS,
    TokenizedCaptions,
    bleu_from_statistics,
    bleu_statistics,
    cider_d,
    rouge_l,
)
from skygen.evaluation.captions.tokens import tokenize_caption
from skygen.evaluation.captions.trials import HUMAN, Trial
from skygen.evaluation.intervals import Items, bootstrap_interval
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score, mean_score
from skygen.seeding import Seeds

REPORTED: Final = ("cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l")
"""In this order; in each column of references."""

STATISTICS: Final = ("unique_share", "vocabulary_size", "caption_length")
"""What captions are like, whatever they are compared with."""


@dataclass(frozen=True, slots=True)
class Measured:
    """A trial's captions, counted once for the scores, their intervals and the file of items.

    Args:
        trial: that was measured.
        items: ``cider_d`` in [0, 10] and ``rouge_l`` in [0, 1] of each image, the mean over the rounds.
        bleu: rows of ``bleu_statistics``, image by image and round by round.
    """

    trial: Trial
    items: dict[str, Float[np.ndarray, " count"]]
    bleu: Int[np.ndarray, "count rounds 10"]


def measure_trial(trial: Trial) -> Measured:
    """Count all that coco-caption's BLEU, ROUGE-L and CIDEr-D of one trial need.

    The document frequencies of CIDEr-D are those of the round's own references, as coco-caption takes them: for a model all
    references of all images, for ``human`` those that are left when one is taken out, of the images that have two.
    """
    rounds = [TokenizedCaptions.from_text(one.hypotheses, one.references) for one in trial.rounds]
    return Measured(
        trial,
        {
            "cider_d": np.mean([cider_d(tokens) for tokens in rounds], axis=0),
            "rouge_l": np.mean([rouge_l(tokens) for tokens in rounds], axis=0),
        },
        np.stack([bleu_statistics(tokens) for tokens in rounds], axis=1),
    )


def corpus_bleu(statistics: Items, order: int) -> float:
    """Compute corpus BLEU of order 1 to 4, in [0, 1], the mean over the rounds, from rows of ``Measured.bleu``."""
    return float(bleu_from_statistics(statistics.sum(axis=0))[..., order - 1].mean())


def caption_scores(measured: Sequence[Measured], *, subset: str, seeds: Seeds) -> list[Score]:
    """Score every writer's captions by coco-caption's BLEU, ROUGE-L and CIDEr-D, with bootstrap intervals over the images.

    Args:
        measured: the trials.
        subset: of the data, for the record.
        seeds: the intervals follow from them.

    Returns:
        Metric by metric, in the order of the trials; names end in ``_distinct`` where each reference counts once.
    """
    scores: list[Score] = []
    for distinct in dict.fromkeys(one.trial.distinct for one in measured):
        column = [one for one in measured if one.trial.distinct == distinct]
        scores += [_score(one, name, subset, seeds) for name in REPORTED for one in column]
    return scores


def _score(measured: Measured, metric: str, subset: str, seeds: Seeds) -> Score:
    name, writer = measured.trial.name(metric), measured.trial.writer
    if metric in measured.items:
        return mean_score(name, measured.items[metric], model=writer, subset=subset, extractor="", seeds=seeds)
    order = int(metric.removeprefix("bleu_"))
    assert 1 <= order <= ORDERS
    count = len(measured.bleu)

    def statistic(rows: Items) -> float:
        return corpus_bleu(rows, order)

    enough = count >= SMALLEST_FOR_INTERVAL
    interval = bootstrap_interval(measured.bleu, seeds=seeds, statistic=statistic) if enough else None
    return Score(name, corpus_bleu(measured.bleu, order), count, interval, writer, subset)


def caption_statistics(
    captions: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]], *, subset: str, seeds: Seeds
) -> list[Score]:
    """Say how varied each writer's captions are: a captioner that says one thing of every image shows here.

    People stand beside as ``human``: of each image one reference at a time, and the mean over these rounds, since more
    captions have more words. Captions are compared by their tokens.

    Args:
        captions: writer to one caption an image.
        references: of each image.
        subset: of the data, for the record.
        seeds: the interval of the length follows from them.

    Returns:
        ``unique_share``, distinct captions by captions, in (0, 1]; ``vocabulary_size``, distinct tokens, which grows with the
        number of images; ``caption_length``, the mean in tokens, the only one with an interval.
    """
    turns = max(map(len, references))
    people = [tuple(texts[turn % len(texts)] for texts in references) for turn in range(turns)]
    writers: dict[str, list[Sequence[str]]] = {writer: [written] for writer, written in captions.items()} | {HUMAN: [*people]}
    tokens = {writer: [list(map(tokenize_caption, texts)) for texts in rounds] for writer, rounds in writers.items()}
    count, scores = len(references), []
    for writer, rounds in tokens.items():
        unique = float(np.mean([len(set(texts)) / count for texts in rounds]))
        scores.append(Score("unique_share", unique, count, None, writer, subset))
    for writer, rounds in tokens.items():
        vocabulary = float(np.mean([len({token for text in texts for token in text}) for texts in rounds]))
        scores.append(Score("vocabulary_size", vocabulary, count, None, writer, subset))
    for writer, rounds in tokens.items():
        lengths = np.mean([[len(text) for text in texts] for texts in rounds], axis=0)
        scores.append(mean_score("caption_length", lengths, model=writer, subset=subset, extractor="", seeds=seeds))
    return scores
