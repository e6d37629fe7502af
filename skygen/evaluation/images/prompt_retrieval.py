"""Whether a picture is nearer to its own prompt than to those of the other pictures.

A mean cosine can rise for every prompt at once; a rank among the other prompts cannot. The ranking is that of
``skygen.evaluation.retrieval``: of equally near prompts the picture's own comes last.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import numpy as np
from jaxtyping import Float

from skygen.errors import DataError
from skygen.evaluation.retrieval import MEAN_RECALL_RANKS, find_repeats, first_positive_ranks, ranking_scores
from skygen.evaluation.scores import Score
from skygen.seeding import Seeds

DIRECTION = "image_to_prompt"
"""How the names of the scores begin, as ``image_to_text`` does those of real pairs, which are measured otherwise."""


def prompt_retrieval_scores(
    images: Float[np.ndarray, "count dimension"],
    texts: Float[np.ndarray, "_count dimension"],
    prompts: Sequence[str],
    *,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[Score]:
    """Score embedded pictures by where their own prompt stands among all distinct prompts of the set.

    The more prompts there are, and the more alike they are, the lower the values: compare models on the same prompts. Pictures
    of one prompt are taken as independent.

    Args:
        images: embeddings of the pictures, unit vectors.
        texts: embeddings of the prompts in the same order, unit vectors of the same CLIP.
        prompts: the prompts themselves; one that occurs several times is one candidate, and all of its pictures have it as
            their own.
        model: whose pictures they are.
        subset: which of the data the prompts are.
        extractor: the CLIP, such as ``skyclip:miniature``.
        seeds: the run's seeds.

    Returns:
        ``image_to_prompt_recall_at_k`` in [0, 1] for those k of 1, 5 and 10 that are smaller than the number of distinct
        prompts, beside each the expected value of a random ranking, k / distinct prompts, as the model ``random``.

    Raises:
        DataError: there is no picture, the counts differ, or an embedding is not finite.
    """
    if not len(images):
        raise DataError("There is no picture to rank prompts for; give at least one.")
    for name, count in (("embedded prompts", len(texts)), ("prompts", len(prompts))):
        if count != len(images):
            raise DataError(f"There are {len(images)} pictures but {count} {name}; give one for each picture, in order.")
    distinct, own = find_repeats(prompts)
    first = np.unique(own, return_index=True)[1]
    ranks = first_positive_ranks(images, texts[first], list(own[:, None]))
    positives = np.ones(len(images), dtype=np.int64)
    scores = ranking_scores(DIRECTION, ranks, positives, len(distinct), subset=subset, extractor=extractor, seeds=seeds)
    wanted = {f"{DIRECTION}_recall_at_{k}" for k in MEAN_RECALL_RANKS}
    named = [replace(score, model=model) if score.model == "scorer" else score for score in scores]
    return [score for score in named if score.name in wanted]
