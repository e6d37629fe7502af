"""Image-text retrieval by two protocols, whose figures must not be compared with each other.

``skyscript``, as SkyScript's evaluation does it: unique images and unique texts; an image's positives are all texts on any of
its rows, and the other way round; the mean is of recall at 1, 5 and 10, for each direction by itself.

``remoteclip``, as RemoteCLIP's does it (``remoteclip_retrieval.py``, clip_benchmark), and GeoRSCLIP's: every caption is a query
and a candidate of its own, however often it is repeated; a caption's one positive is the image it was written for; the mean is
of six recalls. Its scores end in ``_remoteclip``.

In both every query ranks the whole gallery, and of equally near candidates the positives come last. The published scripts
leave ties to the order of a sort; a caption that was written of several images ties with itself, so that in the second
protocol this rule is the lower bound of what theirs may print. On 300 images of RSICD's captions 81 find such a tie before
them, and the miniature's image-to-text recall at 10 is 0.060; with every tie won it would be 0.083.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from math import comb
from pathlib import Path

import numpy as np
from jaxtyping import Float, Int

from skygen.data.benchmarks import RetrievalProtocol
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.evaluation.intervals import bootstrap_interval
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score, mean_score
from skygen.evaluation.zero_shot import Report, check_finite, embed_readable
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

RANKS = (1, 5, 10, 100)
MEAN_RECALL_RANKS = (1, 5, 10)
REMOTECLIP = "_remoteclip"
"""Ending of the scores of its protocol, so that no table or report puts them beside SkyScript's."""
_BLOCK = 256
"""Queries ranked at a time: 31 MB of similarities to SkyScript's 30,000 test images."""

Positives = Sequence[Int[np.ndarray, " _positives"]]
"""For each query the places of its positives in the gallery, at least one. A table of all queries by all of the gallery
would be 900 MB for SkyScript's test pairs."""


@dataclass(frozen=True, slots=True)
class Matches:
    """Which texts belong to which images.

    Args:
        texts: each one that is a query and a candidate.
        of_images: for each image the places of its texts.
        of_texts: for each text the places of its images.
    """

    texts: list[str]
    of_images: Positives
    of_texts: Positives


def retrieval_scores(
    scorer: Scorer,
    pairs: Sequence[Pair],
    *,
    subset: str,
    seeds: Seeds,
    rejects: Rejects,
    report: Report | None = None,
    protocol: RetrievalProtocol = "skyscript",
) -> list[Score]:
    """Find each image's text among all texts, and each text's image among all images.

    Args:
        scorer: the CLIP.
        pairs: several on one image count as one with the captions of all; for ``remoteclip`` with their repeats
            (``skygen.data.every_caption``).
        subset: which of the data they are.
        seeds: the run's seeds.
        rejects: where images that cannot be decoded are noted; neither they nor the texts of them alone are ranked.
        report: told of the progress.
        protocol: see above.

    Returns:
        See ``ranking_scores``: those of ``image_to_text``, then those of ``text_to_image``; of RemoteCLIP's protocol then
        also ``mean_recall_remoteclip``.

    Raises:
        DataError: no image can be read.
    """
    keys, captions = gather_captions(pairs)
    images, read = embed_readable(scorer, [(keys[path], path) for path in captions], rejects, report)
    spoken = list(captions.values())
    matches = (match_each if protocol == "remoteclip" else match)([spoken[index] for index in read])
    texts, columns = find_repeats(matches.texts)
    words, extractor = scorer.embed_texts(texts), f"skyclip:{scorer.name}"
    repeats = columns if len(texts) < len(columns) else None
    image_ranks = first_positive_ranks(images, words, matches.of_images, repeats)
    text_ranks = first_positive_ranks(words[columns], images, matches.of_texts)
    if protocol == "remoteclip":
        return remoteclip_scores(image_ranks, text_ranks, matches, subset=subset, extractor=extractor, seeds=seeds)
    scores = []
    for direction, ranks, positives, gallery in (
        ("image_to_text", image_ranks, matches.of_images, len(matches.texts)),
        ("text_to_image", text_ranks, matches.of_texts, len(images)),
    ):
        counts = np.asarray([len(own) for own in positives])
        scores += ranking_scores(direction, ranks, counts, gallery, subset=subset, extractor=extractor, seeds=seeds)
    return scores


def gather_captions(pairs: Sequence[Pair]) -> tuple[dict[Path, str], dict[Path, list[str]]]:
    """Return the key and all captions of each image, of whichever pairs they come from."""
    keys: dict[Path, str] = {}
    captions: dict[Path, list[str]] = {}
    for pair in pairs:
        keys.setdefault(pair.image, pair.key)
        captions.setdefault(pair.image, []).extend(pair.captions)
    return keys, captions


def match(captions: Sequence[Sequence[str]]) -> Matches:
    """Find which texts are said of which images, as SkyScript counts: each text once, positives many-to-many.

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
    return Matches(list(place), [np.asarray(said) for said in of_images], [np.asarray(shown) for shown in of_texts])


def match_each(captions: Sequence[Sequence[str]]) -> Matches:
    """Find which texts are said of which images, as RemoteCLIP counts: every caption by itself, the repeated ones too.

    Args:
        captions: of each image.

    Returns:
        All captions in order, capitalized as RemoteCLIP's script does it (CLIP's own tokenizer makes no difference of it);
        for each image its own; for each caption the one image that it was written for.
    """
    ends = np.cumsum([len(said) for said in captions])
    of_images = [np.arange(end - len(said), end) for said, end in zip(captions, ends, strict=True)]
    of_texts = [np.asarray([image]) for image, said in enumerate(captions) for _ in said]
    return Matches([caption.capitalize() for said in captions for caption in said], of_images, of_texts)


def find_repeats(texts: Sequence[str]) -> tuple[list[str], Int[np.ndarray, " texts"]]:
    """Return the distinct texts, and for each text its place among them.

    A repeated text is compared once and the outcome used again: computed twice, its two similarities may differ in the last
    bit, and a tie would be none.
    """
    place: dict[str, int] = {}
    columns = np.asarray([place.setdefault(text, len(place)) for text in texts])
    return list(place), columns


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


def remoteclip_scores(
    image_ranks: Int[np.ndarray, " images"],
    text_ranks: Int[np.ndarray, " texts"],
    matches: Matches,
    *,
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[Score]:
    """Score both directions by RemoteCLIP's protocol.

    Args:
        image_ranks: place of each image's best text, from 0.
        text_ranks: place of each text's image, from 0.
        matches: which belong together.
        subset: which of the data they are.
        extractor: the CLIP, such as ``skyclip:miniature``.
        seeds: the run's seeds.

    Returns:
        ``image_to_text_recall_at_k_remoteclip`` and ``text_to_image_recall_at_k_remoteclip`` in [0, 1] for those k of 1, 5
        and 10 that are smaller than the gallery; with all six, ``mean_recall_remoteclip``, whose count is of images. Beside
        each the expected value of a random ranking. The intervals resample images, each with all of its captions, since the
        captions of one image rise and fall together.
    """
    captions = np.asarray([len(own) for own in matches.of_images])
    owners = np.concatenate([np.full(len(own), image) for image, own in enumerate(matches.of_images)])
    scores: list[Score] = []
    sums: list[Float[np.ndarray, "images values"]] = []
    expected: list[float] = []
    for direction, ranks, positives, gallery in (
        ("image_to_text", image_ranks, captions, len(matches.texts)),
        ("text_to_image", text_ranks, np.ones(len(owners), dtype=np.int64), len(captions)),
    ):
        sizes = np.ones(len(captions)) if direction == "image_to_text" else captions.astype(np.float64)
        for k in MEAN_RECALL_RANKS:
            if k >= gallery:
                continue
            found = (ranks < k).astype(np.float64)
            hits = found if direction == "image_to_text" else np.bincount(owners, found, len(captions))
            sums.append(np.stack([hits, sizes], axis=1))
            expected.append(float(random_recall(positives, gallery, k).mean()))
            name = f"{direction}_recall_at_{k}{REMOTECLIP}"
            interval = _image_interval(sums[-1:], seeds)
            scores.append(Score(name, float(found.mean()), len(ranks), interval, "scorer", subset, extractor))
            scores.append(Score(name, expected[-1], len(ranks), None, "random", subset, extractor))
    if len(sums) == 2 * len(MEAN_RECALL_RANKS):
        name, interval = f"mean_recall{REMOTECLIP}", _image_interval(sums, seeds)
        value = float(np.mean([own[:, 0].sum() / own[:, 1].sum() for own in sums]))
        scores.append(Score(name, value, len(captions), interval, "scorer", subset, extractor))
        scores.append(Score(name, float(np.mean(expected)), len(captions), None, "random", subset, extractor))
    return scores


def _image_interval(sums: Sequence[Float[np.ndarray, "images values"]], seeds: Seeds) -> tuple[float, float] | None:
    """Resample images for the mean of some recalls, each given as hits and queries of every image."""
    rows = np.concatenate(sums, axis=1)
    if len(rows) < SMALLEST_FOR_INTERVAL:
        return None

    def mean_of_recalls(sample: np.ndarray) -> float:
        totals = sample.sum(axis=0)
        return float((totals[0::2] / totals[1::2]).mean())

    return bootstrap_interval(rows, seeds=seeds, statistic=mean_of_recalls)


def first_positive_ranks(
    queries: Float[np.ndarray, "queries dimension"],
    gallery: Float[np.ndarray, "distinct dimension"],
    positives: Positives,
    columns: Int[np.ndarray, " gallery"] | None = None,
) -> Int[np.ndarray, " queries"]:
    """Return the place, from 0, of each query's best positive; of equally near ones, the positive comes last.

    A scorer that finds everything equally near thus finds nothing.

    Args:
        queries: unit vectors.
        gallery: unit vectors to rank.
        positives: for each query their places in the gallery; with ``columns``, in it.
        columns: the row of ``gallery`` that stands at each place, where some stand at several; by default each at its own.

    Raises:
        DataError: an embedding is not finite.
    """
    check_finite(queries, gallery)
    ranks = np.empty(len(queries), dtype=np.int64)
    for start in range(0, len(queries), _BLOCK):
        own = positives[start : start + _BLOCK]
        nearness = queries[start : start + _BLOCK] @ gallery.T
        if columns is not None:
            nearness = nearness[:, columns]
        rows, places = np.repeat(np.arange(len(own)), list(map(len, own))), np.concatenate(own)
        best = np.full(len(own), -np.inf, dtype=nearness.dtype)
        np.maximum.at(best, rows, nearness[rows, places])
        nearness[rows, places] = -np.inf  # a positive stands in no other's way
        ranks[start : start + _BLOCK] = (nearness >= best[:, None]).sum(axis=1)
    return ranks


def random_recall(positives: Int[np.ndarray, " queries"], gallery: int, k: int) -> Float[np.ndarray, " queries"]:
    """Return the chance that the first ``k`` of a random ranking hold one of so many positives (hypergeometric)."""
    chances = {int(count): 1 - comb(gallery - int(count), k) / comb(gallery, k) for count in np.unique(positives)}
    return np.asarray([chances[int(count)] for count in positives])
