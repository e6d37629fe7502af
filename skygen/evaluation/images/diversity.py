"""How varied a set of images is over features of one's choice: the Vendi score, and how pictures of one prompt differ.

Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning": the exponential of the entropy
of the eigenvalues of the images' similarities, an effective number of different images. It needs no real ones, and sees what
FID, KID and any accuracy may miss: a generator that draws one good picture of each kind again and again.

The mean distance between pictures of one prompt sees it where the Vendi score may not: among many prompts, a generator that
draws for each of them always the same picture.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from jaxtyping import Float, Int

from skygen.errors import DataError
from skygen.evaluation.intervals import half_sample_interval
from skygen.evaluation.scores import Score, mean_score
from skygen.seeding import Seeds

SMALLEST_FOR_INTERVAL = 4


def vendi_score(features: Float[np.ndarray, "count dimension"]) -> float:
    """Compute the Vendi score under the cosine kernel.

    Args:
        features: a row an image, of any length but zero.

    Returns:
        In [1, min(count, dimension)]: 1 where all point the same way, the number of images where all are at right angles. It
        grows with the number of images: compare equal numbers.

    Raises:
        DataError: there is no row, or one is zero or not finite.
    """
    rows = unit_rows(features, metric="The Vendi score")
    # X Xᵀ and Xᵀ X have the same eigenvalues but for zeros: take the smaller
    products = rows @ rows.T if len(rows) <= rows.shape[1] else rows.T @ rows
    shares = np.linalg.eigvalsh(products / len(rows))
    shares = shares[shares > 0]
    return float(np.exp(-(shares * np.log(shares)).sum()))


def diversity_scores(
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated dimension"],
    *,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
    resamples: int = 200,
) -> list[Score]:
    """Score generated images by ``vendi_score``, and as many real ones, with 95 % intervals from halves.

    A half has fewer effective images than the whole; only how the halves spread is used.

    Args:
        real: features of the real images; of more than there are generated ones, so many are drawn.
        generated: features of the generated images, from the same extractor.
        model: whose images they are.
        subset: which of the data the real images are.
        extractor: ``Extractor.name``.
        seeds: the run's seeds.
        resamples: how many halves to draw.

    Returns:
        The score of ``model``, and that of ``real`` where there are as many. The interval is None below four images.

    Raises:
        DataError: a side is empty, or a feature is not finite or zero.
    """
    count = len(generated)
    chosen = np.sort(seeds.numpy("real images for diversity", count).permutation(len(real))[:count])
    sides = {model: generated} | ({"real": real[chosen]} if len(real) >= count else {})
    scores = []
    for name, features in sides.items():

        def score_half(indices: Int[np.ndarray, " half"], features: np.ndarray = features) -> float:
            return vendi_score(features[indices])

        value, interval = vendi_score(features), None
        if count >= SMALLEST_FOR_INTERVAL:
            interval = half_sample_interval(value, score_half, count, seeds=seeds, resamples=resamples)
        scores.append(Score("vendi_score", value, count, interval, name, subset, extractor))
    return scores


def prompt_diversity(
    features: Float[np.ndarray, "count dimension"], prompts: Sequence[str]
) -> Float[np.ndarray, " repeated_prompts"]:
    """Compute the mean cosine distance, 1 − cosine, between two pictures of one prompt.

    Args:
        features: a row a picture, of any length but zero.
        prompts: the prompt of each.

    Returns:
        A value for each prompt that has two pictures at least, in the order in which they first come, float64, in [0, 2]: 0
        where all its pictures look the same to the network.

    Raises:
        DataError: there is no row, one is zero or not finite, or the counts differ.
    """
    if len(features) != len(prompts):
        raise DataError(
            f"There are {len(features)} pictures but {len(prompts)} prompts; give one for each picture, in the same order."
        )
    rows = unit_rows(features, metric="Prompt diversity")
    of_prompt: dict[str, list[int]] = {}
    for row, prompt in enumerate(prompts):
        of_prompt.setdefault(prompt, []).append(row)
    return np.array([_mean_distance(rows[own]) for own in of_prompt.values() if len(own) > 1], dtype=np.float64)


def prompt_diversity_scores(
    features: Float[np.ndarray, "count dimension"],
    prompts: Sequence[str],
    *,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[Score]:
    """Score pictures by ``prompt_diversity``: the mean over prompts, each of the same weight, with its bootstrap interval.

    Args:
        features: of the pictures, from ``Extractor.extract``.
        prompts: the prompt of each picture.
        model: whose pictures they are.
        subset: which of the data the prompts are.
        extractor: ``Extractor.name``.
        seeds: the run's seeds.

    Returns:
        ``prompt_diversity``, ``count`` being that of the prompts with two pictures at least; nothing where there is none.

    Raises:
        DataError: there is no picture, a feature is not finite or all of a picture's are zero, or the counts differ.
    """
    values = prompt_diversity(features, prompts)
    if not len(values):
        return []
    return [mean_score("prompt_diversity", values, model=model, subset=subset, extractor=extractor, seeds=seeds)]


def unit_rows(features: Float[np.ndarray, "count dimension"], *, metric: str) -> Float[np.ndarray, "count dimension"]:
    """Bring features to unit length.

    Args:
        features: a row an image, of any length but zero.
        metric: what needs them, to say so.

    Returns:
        Unit vectors, float64.

    Raises:
        DataError: there is no row, or one is zero or not finite.
    """
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not len(rows) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise DataError(f"{metric} needs features of one image at least, finite and not zero; leave bad images out.")
    return rows / lengths


def _mean_distance(rows: Float[np.ndarray, "count dimension"]) -> float:
    """Return the mean of 1 − cosine over all couples of unit rows: ‖Σx‖² is the sum of all cosines, each with itself too."""
    count, total = len(rows), rows.sum(axis=0)
    mean_cosine = (total @ total - count) / (count * (count - 1))
    return float(np.clip(1.0 - mean_cosine, 0.0, 2.0))  # rounding may leave the range by 1e-16
