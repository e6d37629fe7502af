"""Who is scored against what: each writer's captions, people's own among them, laid against references in two columns.

The first column takes the references as the data set's files have them, repeats included, as published scores do. In the
second, whose metrics end in ``_distinct``, an image has each reference once: 94 % of RSICD's test images repeat one, so that
there a person's caption is mostly scored against its own copy.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from typing import Final

from skygen.evaluation.captions.tokens import tokenize_caption

HUMAN: Final = "human"
"""The writer whose captions are the references, one at a time."""

DISTINCT: Final = "_distinct"
"""Ending of a metric's name where each reference counts once."""

FEWEST_FOR_HUMAN: Final = 2
"""References an image needs to lay one against the others, and such images: CIDEr-D of one image is 0."""


@dataclass(frozen=True, slots=True)
class Round:
    """One caption and its references for each image of a trial.

    Args:
        hypotheses: one an image.
        references: one or more an image.
    """

    hypotheses: tuple[str, ...]
    references: tuple[tuple[str, ...], ...]


@dataclass(frozen=True, slots=True)
class Trial:
    """All captions of one writer that make one score: the mean over the rounds.

    Args:
        writer: such as ``tuned``, ``constant`` or ``human``.
        rows: the images, as places in the evaluated set; the same in every round.
        rounds: one; of people's captions, as many as an image has references.
        distinct: whether each reference counts once.
    """

    writer: str
    rows: tuple[int, ...]
    rounds: tuple[Round, ...]
    distinct: bool = False

    def name(self, metric: str) -> str:
        """Return a metric's name in this trial's column: ``cider_d`` or ``cider_d_distinct``."""
        return metric + DISTINCT if self.distinct else metric


def lay_out_trials(captions: Mapping[str, Sequence[str]], references: Sequence[Sequence[str]]) -> list[Trial]:
    """Lay every writer's captions, and the references themselves, against the references.

    ``human`` is leave-one-out. In round i the i-th reference of each image is the hypothesis and its others are the references;
    there are as many rounds as the image with most references has, and one with fewer begins again at its first, so that each
    round is a corpus of the same images. An image with one reference is left out, and the score's count says so.

    Args:
        captions: writer to one caption an image.
        references: of each image, as often as the data set has them.

    Returns:
        The trials on all references, ``human`` last where two images have two references; then, unless no image repeats a
        reference and all would be the same, those on distinct references. Two references are the same if their tokens are.
    """
    plain = [tuple(texts) for texts in references]
    distinct = remove_repeats(plain)
    columns = [(False, plain)] + [(True, distinct)] * (distinct != plain)
    return [trial for is_distinct, column in columns for trial in _lay_out_column(captions, column, is_distinct)]


def remove_repeats(references: Sequence[Sequence[str]]) -> list[tuple[str, ...]]:
    """Keep of an image's references with the same tokens the first, in the order in which they first come."""
    tokenize = cache(tokenize_caption)
    kept: list[tuple[str, ...]] = []
    for texts in references:
        by_tokens: dict[tuple[str, ...], str] = {}
        for text in texts:
            by_tokens.setdefault(tokenize(text), text)
        kept.append(tuple(by_tokens.values()))
    return kept


def leave_one_out(references: Sequence[Sequence[str]], turn: int) -> Round:
    """Lay one reference of each image against its others.

    Args:
        references: two or more an image.
        turn: which reference, from 0; an image with fewer begins again at its first.
    """
    places = [turn % len(texts) for texts in references]
    return Round(
        tuple(texts[place] for texts, place in zip(references, places, strict=True)),
        tuple((*texts[:place], *texts[place + 1 :]) for texts, place in zip(references, places, strict=True)),
    )


def _lay_out_column(
    captions: Mapping[str, Sequence[str]], references: Sequence[tuple[str, ...]], distinct: bool
) -> list[Trial]:
    every = tuple(range(len(references)))
    trials = [
        Trial(writer, every, (Round(tuple(written), tuple(references)),), distinct) for writer, written in captions.items()
    ]
    rows = tuple(row for row, texts in enumerate(references) if len(texts) >= FEWEST_FOR_HUMAN)
    if len(rows) >= FEWEST_FOR_HUMAN:
        own = [references[row] for row in rows]
        rounds = tuple(leave_one_out(own, turn) for turn in range(max(map(len, own))))
        trials.append(Trial(HUMAN, rows, rounds, distinct))
    return trials
