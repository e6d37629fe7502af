"""What a screening tells of each picture, and what it shows: the line in ``screened.jsonl``, and the nearest couples."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import Any

import numpy as np

from skygen.data.table import PairList
from skygen.evaluation.screening.verdicts import Evidence, Judged
from skygen.evaluation.search.contact_sheet import Found, Match


def describe_pictures(
    pictures: PairList, training: PairList, evidence: Evidence, judged: Sequence[Judged]
) -> Iterator[dict[str, Any]]:
    """Yield the line of each picture that could be read, in the order of the set.

    Args:
        pictures: of the set.
        training: pairs that the generator has learnt from.
        evidence: of the pictures that could be read.
        judged: the same pictures.

    Yields:
        Name, text, scores, verdict and reasons, and ``nearest_real``, the training image that is nearest by cosine;
        ``nearest_real_by_hash`` is another one where the hash finds a nearer one.
    """
    near = evidence.nearest
    for place, (row, each) in enumerate(zip(evidence.rows.tolist(), judged, strict=True)):
        pair = pictures[row]
        line: dict[str, Any] = {"file_name": pair.key, "index": None, "key": pair.key, "text": pair.captions[0]}
        line["skyclip_score"] = round(float(evidence.similarity[place]), 6)
        if evidence.cycle is not None:
            line["cycle_score"] = round(float(evidence.cycle[place]), 6)
        by_cosine = (near.row[place], near.similarity[place], near.distance[place])
        by_hash = (near.hash_row[place], near.hash_similarity[place], near.hash_distance[place])
        line["nearest_real"] = _describe_couple(training, *by_cosine)
        line["nearest_real_by_hash"] = _describe_couple(training, *by_hash)
        yield {**line, "verdict": each.verdict, "copied_by": list(each.copied_by), "reasons": list(each.reasons)}


def lay_out_couples(
    pictures: PairList, training: PairList, evidence: Evidence, judged: Sequence[Judged], count: int
) -> list[Found]:
    """Choose what a contact sheet shows: copies, the surest first, and then the pictures that come nearest by cosine.

    Args:
        pictures: of the set.
        training: pairs that the generator has learnt from.
        evidence: of the pictures that could be read.
        judged: the same pictures.
        count: of pictures, at most.

    Returns:
        Each picture with its training images: that which is nearest by cosine, and by hash where that is another one.
    """
    near, results = evidence.nearest, []
    copied = np.array([len(each.copied_by) for each in judged], np.int64)
    for place in np.lexsort((-near.similarity, -copied))[:count].tolist():
        each, picture = judged[place], pictures[int(evidence.rows[place])]
        couples = ((near.row, near.similarity), (near.hash_row, near.hash_similarity))
        found = {int(row[place]): float(cosine[place]) for row, cosine in couples}
        matches = tuple(Match(training[row].image, training[row].captions[0], cosine) for row, cosine in found.items())
        by = f" by {' and '.join(each.copied_by)}" if each.copied_by else ""
        name = f"{picture.key}: {each.verdict}{by}, hash distance {near.hash_distance[place]:.0f}"
        results.append(Found(name, picture.image, matches))
    return results


def _describe_couple(training: PairList, row: int, similarity: float, distance: float) -> dict[str, Any]:
    pair = training[int(row)]
    told = {"key": pair.key, "filepath": str(pair.image)}
    return {**told, "similarity": round(float(similarity), 6), "hash_distance": int(distance)}
