"""How well images and texts belong together in the eyes of a CLIP.

``skyclip_score`` is for generated images: the mean cosine of each with its own prompt, as it is, in [-1, 1]. torchmetrics'
CLIPScore is 100 · max(0, mean cosine): multiply by 100 to compare. A cosine has no meaning by itself, so the same
images with each other's prompts are scored beside it, as the model ``shuffled``.

``clip_score`` and ``ref_clip_score`` are for captions, after Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation
Metric for Image Captioning". The paper puts "A photo depicts" before each text; here texts are embedded as given, since
SkyCLIP was trained without it. Both are given by every scorer of a run; the paper's own scorer is OpenAI's ViT-B/32, and values
of another one are not comparable with the paper's.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from typing import Final

import numpy as np
from jaxtyping import Float

from skygen.errors import DataError
from skygen.evaluation.captions.baselines import derangement
from skygen.evaluation.captions.trials import HUMAN, Trial
from skygen.evaluation.scores import Score, mean_score
from skygen.models.scorer import Picture, Scorer
from skygen.seeding import Seeds

CLIP_SCORE_WEIGHT: Final = 2.5
"""w of Hessel et al. 2021, section 3: stretches the cosines of OpenAI's ViT-B/32 over about [0, 1]."""

_LOG = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class AlignedTrial:
    """One metric of one writer's captions, image by image.

    Args:
        writer: such as ``tuned`` or ``human``.
        rows: the images, as places in the evaluated set.
        values: one an image.
    """

    writer: str
    rows: tuple[int, ...]
    values: Float[np.ndarray, " count"]


def skyclip_scores(
    scorer: Scorer, images: Sequence[Picture], prompts: Sequence[str], *, model: str, subset: str, seeds: Seeds
) -> list[Score]:
    """Score generated images by their own prompts, and by each other's for comparison.

    Args:
        scorer: the CLIP that judges.
        images: paths or PIL images.
        prompts: that each was generated from.
        model: whose images they are.
        subset: which of the data the prompts are.
        seeds: the run's seeds.

    Returns:
        See ``alignment_scores``.

    Raises:
        DataError: there is no image, or the counts differ.
    """
    _check_counts(len(images), len(prompts), "prompts")
    return alignment_scores(
        scorer.embed_images(images), scorer.embed_texts(prompts), prompts,
        model=model, subset=subset, extractor=f"skyclip:{scorer.name}", seeds=seeds,
    )  # fmt: skip


def alignment_scores(
    images: Float[np.ndarray, "count dimension"],
    texts: Float[np.ndarray, "_count dimension"],
    prompts: Sequence[str],
    *,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[Score]:
    """Score embedded images by their own embedded prompts, and by each other's for comparison.

    Args:
        images: embeddings of the images.
        texts: embeddings of the prompts, in the same order.
        prompts: the prompts themselves: one that occurs twice is not dealt back to its own text.
        model: whose images they are.
        subset: which of the data the prompts are.
        extractor: the CLIP, such as ``skyclip:miniature``.
        seeds: the run's seeds.

    Returns:
        ``skyclip_score`` of ``model`` and of ``shuffled``, means of cosines in [-1, 1]. Where all prompts are the same,
        ``shuffled`` would be the same number, and is left out. The interval is None for a single image.

    Raises:
        DataError: there is no image, or the counts differ.
    """
    own = matched_cosine(images, texts)
    scores = [mean_score("skyclip_score", own, model=model, subset=subset, extractor=extractor, seeds=seeds)]
    if len(set(prompts)) > 1:
        shuffled = shuffled_cosine(images, texts, prompts, seeds)
        scores.append(mean_score("skyclip_score", shuffled, model="shuffled", subset=subset, extractor=extractor, seeds=seeds))
    else:
        _LOG.warning("skyclip_score of shuffled prompts is left out, as there is only one prompt")
    return scores


def caption_alignment_scores(
    aligned: Mapping[str, Sequence[AlignedTrial]], *, extractor: str, subset: str, seeds: Seeds
) -> list[Score]:
    """Average what ``align_trials`` has measured, with intervals.

    Returns:
        ``clip_score`` of every writer, then ``ref_clip_score`` of every writer, then, where references are repeated,
        ``ref_clip_score_distinct``. The interval is None for a single image.
    """
    return [
        mean_score(name, one.values, model=one.writer, subset=subset, extractor=extractor, seeds=seeds)
        for name, every in aligned.items()
        for one in every
    ]


def align_trials(
    scorer: Scorer, images: Sequence[Picture], trials: Sequence[Trial], progress: Callable[[int, int], None] = lambda *_: None
) -> dict[str, list[AlignedTrial]]:
    """Measure CLIPScore and RefCLIPScore of each image's caption, for all writers; each image and text is embedded once.

    CLIPScore looks at no reference, and so has one column. Of people's captions, in rounds, it is the mean over the rounds.
    RefCLIPScore takes the best of the references, which repeats do not change; in the column of all references a person's
    caption therefore mostly meets its own copy, and ``human`` is to be read in the ``_distinct`` column.

    Args:
        scorer: the CLIP that judges.
        images: paths, which are opened as they are needed, or PIL images.
        trials: as ``lay_out_trials`` gives them.
        progress: is told how many images are embedded, and of how many.

    Returns:
        ``clip_score``, ``ref_clip_score`` and perhaps ``ref_clip_score_distinct`` to the values of every trial.

    Raises:
        DataError: there is no image, the counts differ, or an image has no reference.
        ImageError: a file cannot be decoded.
    """
    if not images:
        raise DataError("There is no image to score; give at least one.")
    for trial in trials:
        if trial.writer != HUMAN:
            _check_counts(len(images), len(trial.rows), "captions")
    embedded = _embed_in_chunks(scorer, images, progress)
    rounds = [one for trial in trials for one in trial.rounds]
    texts = list(dict.fromkeys(chain.from_iterable((*one.hypotheses, *chain(*one.references)) for one in rounds)))
    vectors = scorer.embed_texts(texts)
    place = {text: row for row, text in enumerate(texts)}
    aligned: dict[str, list[AlignedTrial]] = {}
    for trial in trials:
        own = embedded[np.asarray(trial.rows)]
        written = [vectors[[place[text] for text in one.hypotheses]] for one in trial.rounds]
        if not trial.distinct:
            plain = np.mean([clip_score(own, captions) for captions in written], axis=0)
            aligned.setdefault("clip_score", []).append(AlignedTrial(trial.writer, trial.rows, plain))
        grouped = [[vectors[[place[text] for text in some]] for some in one.references] for one in trial.rounds]
        best = np.mean([ref_clip_score(own, *pair) for pair in zip(written, grouped, strict=True)], axis=0)
        aligned.setdefault(trial.name("ref_clip_score"), []).append(AlignedTrial(trial.writer, trial.rows, best))
    return {name: aligned[name] for name in sorted(aligned)}


def _embed_in_chunks(
    scorer: Scorer, images: Sequence[Picture], progress: Callable[[int, int], None]
) -> Float[np.ndarray, "count dimension"]:
    parts = []
    for start in range(0, len(images), scorer.batch_size):
        parts.append(scorer.embed_images(images[start : start + scorer.batch_size]))
        progress(min(start + scorer.batch_size, len(images)), len(images))
    return np.concatenate(parts)


def matched_cosine(
    images: Float[np.ndarray, "count dimension"], texts: Float[np.ndarray, "_count dimension"]
) -> Float[np.ndarray, " count"]:
    """Compute the cosine of each image with the text at the same place.

    Args:
        images: embeddings of any length but zero.
        texts: likewise.

    Returns:
        Values in [-1, 1], float64.

    Raises:
        DataError: there is no image, the counts differ, or an embedding is zero or not finite.
    """
    _check_counts(len(images), len(texts), "texts")
    return _cosine(_normalize(images), _normalize(texts))


def shuffled_cosine(
    images: Float[np.ndarray, "count dimension"],
    texts: Float[np.ndarray, "_count dimension"],
    prompts: Sequence[str],
    seeds: Seeds,
) -> Float[np.ndarray, " count"]:
    """Compute the cosine of each image with the text of another one, of another wording where possible.

    Args:
        images: embeddings of any length but zero.
        texts: embeddings of ``prompts``.
        prompts: whose wording counts.
        seeds: the run's seeds.

    Returns:
        Values in [-1, 1], float64.

    Raises:
        DataError: there is no image, the counts differ, or an embedding is zero or not finite.
    """
    _check_counts(len(texts), len(prompts), "prompts")
    return matched_cosine(images, texts[derangement(prompts, seeds)])


def clip_score(
    images: Float[np.ndarray, "count dimension"], captions: Float[np.ndarray, "_count dimension"]
) -> Float[np.ndarray, " count"]:
    """Compute CLIPScore, 2.5 · max(cosine, 0), of each image with its caption (Hessel et al. 2021, section 3).

    Args:
        images: embeddings of any length but zero.
        captions: likewise.

    Returns:
        Values in [0, 2.5], float64.
    """
    return CLIP_SCORE_WEIGHT * np.maximum(matched_cosine(images, captions), 0.0)


def ref_clip_score(
    image_embeddings: Float[np.ndarray, "count dimension"],
    caption_embeddings: Float[np.ndarray, "_count dimension"],
    reference_embeddings: Sequence[Float[np.ndarray, "_references dimension"]],
) -> Float[np.ndarray, " count"]:
    """Compute RefCLIPScore: the harmonic mean of CLIPScore and the caption's best cosine with a reference, or 0.

    Hessel et al. 2021, section 3. Where both are 0 the paper leaves the value open; here it is 0.

    Args:
        image_embeddings: of any length but zero.
        caption_embeddings: likewise.
        reference_embeddings: for each image those of its references, at least one.

    Returns:
        Values in [0, 10/7], float64.

    Raises:
        DataError: the counts differ, or an image has no reference.
    """
    _check_references(len(caption_embeddings), reference_embeddings)
    score = clip_score(image_embeddings, caption_embeddings)
    captions = _normalize(caption_embeddings)
    best = [(_normalize(texts) @ caption).max() for caption, texts in zip(captions, reference_embeddings, strict=True)]
    closeness = np.clip(best, 0.0, 1.0)
    total = score + closeness
    return np.divide(2.0 * score * closeness, total, out=np.zeros_like(total), where=total > 0)


def _cosine(
    one: Float[np.ndarray, "count dimension"], other: Float[np.ndarray, "count dimension"]
) -> Float[np.ndarray, " count"]:
    return np.clip((one * other).sum(axis=1), -1.0, 1.0)  # rounding may leave the range by 1e-16


def _normalize(vectors: Float[np.ndarray, "count dimension"]) -> Float[np.ndarray, "count dimension"]:
    lengths = np.linalg.norm(vectors.astype(np.float64), axis=1, keepdims=True)
    bad = np.flatnonzero(~(np.isfinite(lengths) & (lengths > 0)))
    if bad.size:
        raise DataError(f"Embedding {bad[0]} is zero or not finite ({bad.size} such ones); look for a damaged model or image.")
    return vectors / lengths


def _check_counts(images: int, others: int, name: str) -> None:
    if images != others:
        raise DataError(f"There are {images} images but {others} {name}; give one for each image, in the same order.")
    if not images:
        raise DataError("There is no image to score; give at least one.")


def _check_references(count: int, references: Sequence[Sequence[str] | np.ndarray]) -> None:
    if count != len(references):
        raise DataError(f"There are {count} captions but references for {len(references)}; give some for each, in order.")
    for index, texts in enumerate(references):
        if not len(texts):
            raise DataError(f"Item {index} has no reference caption; give it at least one or leave the item out.")
