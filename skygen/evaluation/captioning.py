"""The scores of caption writers: each model beside its baselines, on the same images and references."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from functools import partial

import numpy as np

from skygen.evaluation.alignment import clip_score, ref_clip_score
from skygen.evaluation.captions import (
    TokenizedCaptions,
    bleu_from_statistics,
    bleu_statistics,
    cider_d,
    rouge_l,
    score_tokens,
)
from skygen.evaluation.intervals import Items, bootstrap_interval
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score, mean_score
from skygen.models.scorer import Picture, Scorer
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


def caption_alignment_scores(
    scorer: Scorer,
    images: Sequence[Picture],
    captions: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    subset: str,
    seeds: Seeds,
) -> list[Score]:
    """Score every writer's captions by a CLIP: ``clip_score`` against the image, ``ref_clip_score`` against both.

    Args:
        scorer: the CLIP that judges; it sees each image and each distinct text once.
        images: paths or PIL images.
        captions: writer to one caption an image. ``real`` is added: the first reference of each, as a ceiling.
        references: of each image.
        subset: of the data, for the record.
        seeds: the intervals follow from them.
    """
    pictures = scorer.embed_images(images)
    ends = np.cumsum([len(texts) for texts in references])[:-1]
    grouped = np.split(scorer.embed_texts([text for texts in references for text in texts]), ends)
    judged = {**captions, "real": [texts[0] for texts in references]}
    words = {writer: scorer.embed_texts(texts) for writer, texts in judged.items()}
    mean = partial(mean_score, subset=subset, extractor=f"skyclip:{scorer.name}", seeds=seeds)
    scores = [mean("clip_score", clip_score(pictures, texts), model=writer) for writer, texts in words.items()]
    return scores + [
        mean("ref_clip_score", ref_clip_score(pictures, texts, grouped), model=writer)
        for writer, texts in words.items()
        if writer != "real"  # a reference beside itself scores 1 by construction
    ]
