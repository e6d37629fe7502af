"""Image-text retrieval, as SkyScript's evaluation does it.

Unique images and unique texts; an image's positives are all texts on any of its rows, and the other way round; every query
ranks the whole gallery. Not to be compared with scripts that rank every repeated caption apart.
"""

from __future__ import annotations

from collections.abc import Sequence
from math import comb
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.evaluation.scores import Score, mean_score
from skygen.evaluation.zero_shot import Report, check_finite, embed_readable
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

RANKS = (1, 5, 10, 100)
MEAN_RECALL_RANKS = (1, 5, 10)
_BLOCK = 256
"""Queries ranked at a time: 31 MB of similarities to SkyScript's 30,000 test images."""

Positives = Sequence[Int[np.ndarray, " _positives"]]
"""For each query the places of its positives in the gallery, at least one. A table of all queries by all of the gallery
would be 900 MB for SkyScript's test pairs."""


def retrieval_scores(
    scorer: Scorer, pairs: Sequence[Pair], *, subset: str, seeds: Seeds, rejects: Rejects, report: Report | None = None
) -> list[Score]:
    """Find each image's text among all texts, and each text's image among all images.

    Args:
        scorer: the CLIP.
        pairs: several on one image count as one with the captions of all.
        subset: which of the data they are.
        seeds: the run's seeds.
        rejects: where images that cannot be decoded are noted; neither they nor the texts of them alone are ranked.
        report: told of the progress.

    Returns:
        See ``ranking_scores``: those of ``image_to_text``, then those of ``text_to_image``.

    Raises:
        DataError: no image can be read.
    """
    keys, captions = gather_captions(pairs)
    images, read = embed_readable(scorer, [(keys[path], path) for path in captions], rejects, report)
    spoken = list(captions.values())
    texts, of_images, of_texts = match([spoken[index] for index in read])
    words, extractor = scorer.embed_texts(texts), f"skyclip:{scorer.name}"
    scores = []
    for direction, queries, gallery, positives in (
        ("image_to_text", images, words, of_images),
        ("text_to_image", words, images, of_texts),
    ):
        ranks = first_positive_ranks(queries, gallery, positives)
        counts = np.asarray([len(own) for own in positives])
        scores += ranking_scores(direction, ranks, counts, len(gallery), subset=subset, extractor=extractor, seeds=seeds)
    return scores


def gather_captions(pairs: Sequence[Pair]) -> tuple[dict[Path, str], dict[Path, list[str]]]:
    """Return the key and all captions of each image, of whichever pairs they come from."""
    keys: dict[Path, str] = {}
    captions: dict[Path, list[str]] = {}
    for pair in pairs:
        keys.setdefault(pair.image, pair.key)
        captions.setdefault(pair.image, []).extend(pair.captions)
    return keys, captions


def match(captions: Sequence[Sequence[str]]) -> tuple[list[str], Positives, Positives]:
    """Find which texts are said of which images.

    Args:
        captions: of each image.

    Returns:
        The unique texts in the order in which they first come; for each image its texts; for each text its images.
    """
    place: dict[str, int] = {}
    of_images = [sorted({place.setdefault(caption, len(place)) for caption in said}) for said in captions]
    of_texts: list[list[int]] = [[] for _ in place]
    for image, said in enumerate(of_images):
        for text in said:
            of_texts[text].append(image)
    return list(place), [np.asarray(said) for said in of_images], [np.asarray(shown) for shown in of_texts]


def ranking_scores(
    direction: str,
    ranks: Int[np.ndarray, " queries"],
    positives: Int[np.ndarray, " queries"],
    gallery: int,
    *,
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[Score]:
    """Score the places at which queries find their first positive.

    Args:
        direction: ``image_to_text`` or ``text_to_image``.
        ranks: place of each query's best positive, from 0.
        positives: how many each query has.
        gallery: how many there are to choose from.
        subset: which of the data they are.
        extractor: the CLIP, such as ``skyclip:miniature``.
        seeds: the run's seeds.

    Returns:
        ``<direction>_recall_at_k`` in [0, 1] for those k of 1, 5, 10 and 100 that are smaller than the gallery, then
        ``<direction>_mean_recall`` of 1, 5 and 10; beside each the expected value of a random ranking, as the model ``random``.
    """
    found = {k: (ranks < k).astype(np.float64) for k in RANKS if k < gallery}
    chance = {k: random_recall(positives, gallery, k) for k in found}
    items = {f"{direction}_recall_at_{k}": (found[k], chance[k]) for k in found}
    if all(k in found for k in MEAN_RECALL_RANKS):
        own, expected = (np.mean([values[k] for k in MEAN_RECALL_RANKS], axis=0) for values in (found, chance))
        items[f"{direction}_mean_recall"] = (own, expected)
    scores = []
    for name, (own, expected) in items.items():
        scores.append(mean_score(name, own, model="scorer", subset=subset, extractor=extractor, seeds=seeds))
        scores.append(Score(name, float(expected.mean()), len(own), None, "random", subset, extractor))
    return scores


def first_positive_ranks(
    queries: Float[np.ndarray, "queries dimension"], gallery: Float[np.ndarray, "gallery dimension"], positives: Positives
) -> Int[np.ndarray, " queries"]:
    """Return the place, from 0, of each query's best positive; of equally near ones, the positive comes last.

    A scorer that finds everything equally near thus finds nothing.

    Raises:
        DataError: an embedding is not finite.
    """
    check_finite(queries, gallery)
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        own = positives[start : start + _BLOCK]
        nearness = queries[start : start + _BLOCK] @ gallery.T
        rows, columns = np.repeat(np.arange(len(own)), [len(places) for places in own]), np.concatenate(own)
        best = np.full(len(own), -np.inf, dtype=nearness.dtype)
        np.maximum.at(best, rows, nearness[rows, columns])
        nearness[rows, columns] = -np.inf  # a positive stands in no other's way
        ranks[start : start + _BLOCK] = (nearness >= best[:, None]).sum(axis=1)
    return ranks


def random_recall(positives: Int[np.ndarray, " queries"], gallery: int, k: int) -> Float[np.ndarray, " queries"]:
    """Return the chance that the first ``k`` of a random ranking hold one of so many positives (hypergeometric)."""
    chances = {int(count): 1 - comb(gallery - int(count), k) / comb(gallery, k) for count in np.unique(positives)}
    return np.asarray([chances[int(count)] for count in positives])
