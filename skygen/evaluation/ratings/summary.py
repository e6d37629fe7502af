"""What the ratings of a folder come to: how good each model is in people's eyes, and how far people agree.

Protocol ``skygen-human-1``. Of each rater and question the latest answer counts. Every interval is a bootstrap over items, with
all answers about each: it says what other prompts or images would change, not what other people would.

* ``human_preference``: share of the pairs with a model in which it was chosen, a tie being half; 0 to 1.
* ``bradley_terry``: probability that a model is preferred to the mean one, after ``strengths``; 0 to 1.
* ``human_rating``: mean of the answers from 1 to 5.
* ``krippendorff_alpha``: agreement by kind of question, ordinal, after ``agreement``; 1 at most.
* ``raters`` and ``ratings``: how many people answered questions of a kind, and how often.

The subset is what was rated, pictures or captions.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, final, get_args

import numpy as np
from jaxtyping import Float

from skygen.errors import DataError
from skygen.evaluation.ratings.agreement import krippendorff_alpha
from skygen.evaluation.ratings.ballots import Kind, Subject
from skygen.evaluation.ratings.resampling import find_interval, resample_sums
from skygen.evaluation.ratings.store import FILE, Rating, Ratings, RatingStore
from skygen.evaluation.ratings.strengths import rank_models
from skygen.evaluation.scores import Score, to_metrics
from skygen.seeding import Seeds
from skygen.storage import writing

PROTOCOL: Final = "skygen-human-1"
NAMED: Final = 3
"""Damaged lines that are named before the others are counted."""
_POINTS: Final = {"left": 1.0, "same": 0.5, "right": 0.0}
"""What an answer is worth to the model on the left; the one on the right gets the rest."""


@final
@dataclass(frozen=True, slots=True)
class Summary:
    """What ratings come to.

    Args:
        scores: for ``metrics.json``.
        raters: people who have answered.
        ratings: answers that count.
        replaced: earlier answers to the same question by the same rater.
        damaged: lines that could not be read.
        notes: what a reader should know, in sentences.
    """

    scores: tuple[Score, ...]
    raters: int
    ratings: int
    replaced: int
    damaged: int
    notes: tuple[str, ...]

    def to_metrics(self) -> dict[str, Any]:
        """Return the content of ``metrics.json``."""
        counts = {name: getattr(self, name) for name in ("raters", "ratings", "replaced", "damaged")}
        return to_metrics(PROTOCOL, self.scores) | {"ratings": counts | {"notes": list(self.notes)}}


def write_summary(folder: Path, *, seeds: Seeds) -> Summary:
    """Sum up ``ratings.jsonl``, and write it as ``metrics.json`` beside it, where ``skygen report`` finds it.

    Raises:
        DataError: there are no ratings, or none that can be read.
        StorageError: a file cannot be read or written.
    """
    summary = summarise(RatingStore(folder).read(), seeds=seeds)
    with writing(folder / "metrics.json") as temporary:
        temporary.write_text(json.dumps(summary.to_metrics(), indent=1) + "\n", encoding="utf-8")
    return summary


def summarise(ratings: Ratings, *, seeds: Seeds) -> Summary:
    """Sum ratings up.

    The name of a model is without its run where all are of one.

    Args:
        ratings: as ``RatingStore.read`` returns them.
        seeds: of the intervals.

    Raises:
        DataError: there is none.
    """
    if not ratings.kept:
        raise DataError(f"There is no rating to sum up (damaged lines: {len(ratings.damaged)}); collect some first.")
    scores, notes = [], [*_name_damaged(ratings.damaged), *_name_changed_runs(ratings.kept)]
    runs = {run for rating in ratings.kept for run in rating.runs}
    for subject in get_args(Subject):
        about = [rating for rating in ratings.kept if rating.subject == subject]
        pairs, fives = ([rating for rating in about if rating.kind == kind] for kind in ("pair", "five"))
        scores += _count(about, subject)
        scores += _score_pairs(pairs, subject, notes, seeds)
        scores += _score_fives(fives, subject, seeds)
        for kind, some in (("pair", pairs), ("five", fives)):
            scores += _score_agreement(some, kind, subject, notes, seeds)
    if len(runs) == 1:
        scores = [replace(score, model=score.model.removeprefix(f"{min(runs)}/")) for score in scores]
    raters = len({rating.rater for rating in ratings.kept})
    return Summary(tuple(scores), raters, len(ratings.kept), ratings.replaced, len(ratings.damaged), tuple(notes))


def _count(about: Sequence[Rating], subject: str) -> list[Score]:
    """Count raters and answers of each kind of question; the kind stands in the place of the model."""
    scores = []
    for kind in get_args(Kind):
        if some := [rating for rating in about if rating.kind == kind]:
            items = len({rating.item for rating in some})
            scores.append(Score("raters", float(len({rating.rater for rating in some})), items, None, kind, subject))
            scores.append(Score("ratings", float(len(some)), items, None, kind, subject))
    return scores


def _score_pairs(pairs: Sequence[Rating], subject: str, notes: list[str], seeds: Seeds) -> list[Score]:
    if not pairs:
        return []
    models, places = _list_models(pairs), _number([rating.item for rating in pairs])
    wins = np.zeros((len(places), len(models), len(models)))
    for rating in pairs:
        left, right = (models.index(model) for model in rating.models)
        points = _POINTS[str(rating.answer)]
        wins[places[rating.item], left, right] += points
        wins[places[rating.item], right, left] += 1 - points
    played = (wins + wins.transpose(0, 2, 1)).sum(axis=2)
    scores = [
        _share("human_preference", wins[:, place].sum(axis=1), played[:, place], model, subject, seeds)
        for place, model in enumerate(models)
    ]
    try:
        strengths = rank_models(models, wins, seeds=seeds)
    except DataError as error:  # the shares above stand; what cannot be said is said to be so
        notes.append(f"bradley_terry of {subject} is left out: {error}")
        return scores
    counts = {model: int((played[:, place] > 0).sum()) for place, model in enumerate(models)}
    return scores + [
        Score("bradley_terry", one.probability, counts[one.model], one.interval, one.model, subject) for one in strengths
    ]


def _score_fives(fives: Sequence[Rating], subject: str, seeds: Seeds) -> list[Score]:
    models, places = _list_models(fives), _number([rating.item for rating in fives])
    sums, counts = np.zeros((2, len(models), len(places)))
    for rating in fives:
        place = models.index(rating.models[0]), places[rating.item]
        sums[place] += int(rating.answer)
        counts[place] += 1
    return [_share("human_rating", sums[place], counts[place], model, subject, seeds) for place, model in enumerate(models)]


def _share(
    name: str, sums: Float[np.ndarray, " items"], counts: Float[np.ndarray, " items"], model: str, subject: str, seeds: Seeds
) -> Score:
    """Return the mean over all answers as a score, whose interval resamples the items that have any."""
    tables = np.stack([sums, counts], axis=1)[counts > 0]
    drawn = resample_sums(tables, seeds=seeds)
    interval = find_interval(drawn[:, 0] / drawn[:, 1], len(tables))
    return Score(name, float(sums.sum() / counts.sum()), len(tables), interval, model, subject)


def _score_agreement(some: Sequence[Rating], kind: str, subject: str, notes: list[str], seeds: Seeds) -> list[Score]:
    if not some:
        return []
    raters, questions = _number([rating.rater for rating in some]), _number([rating.question for rating in some])
    items = _number([rating.item for rating in some])
    values, of_item = np.full((len(raters), len(questions)), np.nan), np.zeros(len(questions), dtype=np.int64)
    for rating in some:
        values[raters[rating.rater], questions[rating.question]] = _code(rating)
        of_item[questions[rating.question]] = items[rating.item]
    agreement = krippendorff_alpha(values, "ordinal", seeds=seeds, items=of_item)
    if agreement.value is None:
        notes.append(f"krippendorff_alpha of {subject}, {kind}, is left out: {agreement.reason}.")
        return []
    return [Score("krippendorff_alpha", agreement.value, agreement.units, agreement.interval, kind, subject)]


def _code(rating: Rating) -> float:
    """Turn an answer into a number that agreement can be measured on.

    Of a pair it says which of the two was chosen, in an order that a coin has settled for the question: raters who both see
    that one model's pictures are better do agree, though they name the same model each time. Were the order that of the models,
    alpha would take a common preference for chance.
    """
    if rating.kind == "five":
        return float(rating.answer)
    points = _POINTS[str(rating.answer)]
    coin = sha256(rating.question.encode("utf-8", "surrogatepass")).digest()[0] % 2 == 1
    return points if (rating.models[0] < rating.models[1]) == coin else 1 - points


def _list_models(ratings: Sequence[Rating]) -> list[str]:
    return sorted({model for rating in ratings for model in rating.models})


def _number(names: Sequence[str]) -> dict[str, int]:
    """Number different names, in the order in which they first come."""
    return {name: place for place, name in enumerate(dict.fromkeys(names))}


def _name_damaged(damaged: Sequence[str]) -> list[str]:
    if not damaged:
        return []
    more = f"; and {len(damaged) - NAMED} more" if len(damaged) > NAMED else ""
    lines = "1 damaged line was" if len(damaged) == 1 else f"{len(damaged)} damaged lines were"
    return [f"{FILE}: {lines} passed over: {'; '.join(damaged[:NAMED])}{more}."]


def _name_changed_runs(ratings: Sequence[Rating]) -> list[str]:
    """Say which runs were made anew between ratings: what is summed up is then of two makings."""
    known: dict[str, set[tuple[str, str]]] = {}
    for rating in ratings:
        for run, fingerprint in rating.runs.items():
            known.setdefault(run, set()).add((rating.subject, fingerprint))
    changed = [run for run, seen in sorted(known.items()) if len(seen) > len({subject for subject, _ in seen})]
    return [f"{run} was rated before and after it was made anew; both are summed up together." for run in changed]
