"""How varied a set of images is: the Vendi score over features of one's choice.

Friedman and Dieng 2023, "The Vendi Score: A Diversity Evaluation Metric for Machine Learning": the exponential of the entropy
of the eigenvalues of the images' similarities, an effective number of different images. It needs no real ones, and sees what
FID, KID and any accuracy may miss: a generator that draws one good picture of each kind again and again.
"""

from __future__ import annotations

import numpy as np
from jaxtyping import Float, Int

from skygen.errors import DataError
from skygen.evaluation.intervals import half_sample_interval
from skygen.evaluation.scores import Score
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
    rows = features.astype(np.float64)
    lengths = np.linalg.norm(rows, axis=1, keepdims=True)
    if not len(rows) or not (np.isfinite(lengths) & (lengths > 0)).all():
        raise DataError("The Vendi score needs features of one image at least, finite and not zero; leave bad images out.")
    rows /= lengths
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
