"""How well images and texts belong together in the eyes of a CLIP.

``skyclip_score`` is for generated images: the mean cosine of each with its own prompt, as it is, in [-1, 1]. torchmetrics'
CLIPScore is 100 · max(0, mean cosine): multiply by 100 to compare. A cosine has no meaning by itself, so the same
images with each other's prompts are scored beside it, as the model ``shuffled``.

``clip_score`` and ``ref_clip_score`` are for captions, after Hessel et al. 2021, "CLIPScore: A Reference-free Evaluation
Metric for Image Captioning". The paper puts "A photo depicts" before each text; here texts are embedded as given, since
SkyCLIP was trained without it.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float

from skygen.errors import DataError
from skygen.evaluation.baselines import derangement
from skygen.evaluation.scores import Score, mean_score
from skygen.models.scorer import Picture, Scorer
from skygen.seeding import Seeds

CLIP_SCORE_WEIGHT: Final = 2.5
"""w of Hessel et al. 2021, section 3: stretches the cosines of OpenAI's ViT-B/32 over about [0, 1]."""

_LOG = logging.getLogger(__name__)


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
    scorer: Scorer,
    images: Sequence[Picture],
    captions: Mapping[str, Sequence[str]],
    references: Sequence[Sequence[str]],
    *,
    subset: str,
    seeds: Seeds,
) -> list[Score]:
    """Score the captions of several writers by ``clip_score`` and ``ref_clip_score``; images are embedded once.

    Args:
        scorer: the CLIP that judges.
        images: paths or PIL images.
        captions: by writer, such as ``tuned`` or ``constant``: one an image.
        references: one or more captions by people an image.
        subset: which of the data the images are.
        seeds: the run's seeds.

    Returns:
        ``clip_score`` of every writer, then ``ref_clip_score`` of every writer. The interval is None for a single image.

    Raises:
        DataError: there is no image, the counts differ, or an image has no reference.
    """
    for written in captions.values():
        _check_counts(len(images), len(written), "captions")
    _check_references(len(images), references)
    embedded = scorer.embed_images(images)
    flat = scorer.embed_texts([text for texts in references for text in texts])
    grouped = np.split(flat, np.cumsum([len(texts) for texts in references])[:-1])
    items: dict[str, dict[str, Float[np.ndarray, " count"]]] = {"clip_score": {}, "ref_clip_score": {}}
    for writer, written in captions.items():
        texts = scorer.embed_texts(written)
        items["clip_score"][writer] = clip_score(embedded, texts)
        items["ref_clip_score"][writer] = ref_clip_score(embedded, texts, grouped)
    extractor = f"skyclip:{scorer.name}"
    return [
        mean_score(name, values, model=writer, subset=subset, extractor=extractor, seeds=seeds)
        for name, by_writer in items.items()
        for writer, values in by_writer.items()
    ]


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
