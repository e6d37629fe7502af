"""What choosing the best of N candidates brings, told apart from what the model draws.

Best of N is no better model. The score of the chosen candidate is the largest of N drawn values and lies above their mean even
where the scorer sees noise; where the same scorer reports it, the gain measures the scorer's spread and nothing else (the
winner's curse). It is therefore told by itself, as chosen minus mean over the candidates, and by a judge that the choice never
saw, whose gain is unbiased. The mean over the candidates is what one candidate alone scores on average, and what models are
compared by.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from skygen.errors import DataError
from skygen.evaluation.intervals import paired_difference_interval
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score, mean_score
from skygen.seeding import Seeds

SCORES, JUDGEMENTS, CHOSEN = "candidate_scores", "candidate_judgements", "candidate"
"""Fields of the records of ``recipes/generate.py``."""


def selection_gain(
    records: Sequence[Mapping[str, Any]], *, extractor: str, judge: str = "", subset: str = "prompts", seeds: Seeds
) -> list[Score]:
    """Measure what choosing among candidates has brought, apart from what the model draws.

    Args:
        records: of ``recipes/generate.py``: ``candidate_scores``, in [-1, 1], the chosen place ``candidate``, by default that
            of the highest score, ``model``, and where a judge was asked ``candidate_judgements``, as many, in [0, 1]. Pictures
            of a single candidate are left out, and those of which a value is None: given up, or of no class of the judge's.
        extractor: the CLIP that chose, such as ``skyclip:miniature``.
        judge: who judged and did not choose, such as ``judge:miniature``.
        subset: which of the data the prompts are.
        seeds: the run's seeds.

    Returns:
        By the CLIP ``skyclip_selection_gain``, whose subset says that it is in-sample, and
        ``skyclip_score_of_one_candidate``; by the judge ``judge_selection_gain`` and ``judge_score_of_one_candidate``. Gains
        carry the paired interval. Nothing where nothing was chosen.

    Raises:
        DataError: a record has another number of judgements than of scores, a value out of range, or chose no candidate of its
            own.
    """
    found: list[Score] = []
    for kind, field, name, note in (
        ("skyclip", SCORES, extractor, "in-sample: it chose"),
        ("judge", JUDGEMENTS, judge, "by a judge that did not choose"),
    ):
        told = [each for each in records if len(each.get(SCORES) or ()) > 1 and None not in (each.get(field) or (None,))]
        if not told:
            continue
        chosen, mean = np.array([_read(record, field) for record in told]).T
        model = str(told[0].get("model", "synthetic"))
        enough = len(told) >= SMALLEST_FOR_INTERVAL
        interval = paired_difference_interval(chosen, mean, seeds=seeds) if enough else None
        gain = float((chosen - mean).mean())
        found.append(Score(f"{kind}_selection_gain", gain, len(told), interval, model, f"{subset}, {note}", name))
        one = f"{kind}_score_of_one_candidate"
        found.append(mean_score(one, mean, model=model, subset=subset, extractor=name, seeds=seeds))
    return found


def _read(record: Mapping[str, Any], field: str) -> tuple[float, float]:
    """Return what the chosen candidate has, and the mean over all."""
    name, scores = record.get("file_name", "a record"), record[SCORES]
    values = record[field]
    if len(values) != len(scores):
        raise DataError(f"{name}: {len(values)} {field} for {len(scores)} candidates; give one for each.")
    lowest = 0.0 if field == JUDGEMENTS else -1.0
    if not all(lowest - 1e-6 <= value <= 1 + 1e-6 for value in values):
        raise DataError(f"{name}: {field} must be in [{lowest:g}, 1], and one is not; draw or judge that picture again.")
    place = record.get(CHOSEN)
    if place is None:
        place = max(range(len(scores)), key=lambda number: (scores[number], -number))
    if not 0 <= place < len(scores):
        raise DataError(f"{name}: candidate {place} was chosen of {len(scores)}; count from 0, and draw that picture again.")
    return float(values[place]), float(np.mean(values))
