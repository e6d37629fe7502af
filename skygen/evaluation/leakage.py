"""What a reader must know before any score: who has seen what, as far as that can be found out.

A scorer that was trained on the evaluated data, pictures that it chose itself, real images that the generator has learnt from
and prompts that it has read all raise scores without a better model. Each question has an answer, and ``unknown`` is one.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal, final

import numpy as np

from skygen.data.captions import strip_view_prefix
from skygen.evaluation.screening.copies import CopySettings
from skygen.evaluation.screening.nearest_images import Nearest
from skygen.models.backbones import in_sample, is_known

Answer = Literal["yes", "no", "partly", "unknown"]
NAMED = 3
"""Images or prompts that an answer names."""
SAME_IMAGE = 0.99
"""Cosine from which two embeddings are of one image: JPEG at quality 75 leaves EuroSAT's tiles above it in most cases."""


@final
@dataclass(frozen=True, slots=True)
class Finding:
    """One question, answered.

    Args:
        question: such as ``Was skyclip:miniature trained on the evaluation data?``
        answer: ``partly`` where a share of the items is concerned.
        detail: a sentence with the figures behind it.
    """

    question: str
    answer: Answer
    detail: str

    def to_json(self) -> dict[str, str]:
        """Return what ``metrics.json`` holds."""
        return asdict(self)


def ask_training(network: str, trained_on: Sequence[str], data_sets: Sequence[str], whose: str) -> Finding:
    """Ask whether a network was trained on data.

    Args:
        network: such as ``skyclip:miniature``.
        trained_on: names of the data sets that it was trained on; empty where nothing is known.
        data_sets: what the data may be called.
        whose: the data, such as ``the evaluation data``.
    """
    question = f"Was {network} trained on {whose}?"
    named = ", ".join(data_sets)
    if not data_sets:
        return Finding(question, "unknown", "What the data are is not known: name them by --training.root.")
    if not trained_on:
        return Finding(question, "unknown", f"Nothing is known of its training; the data are {named}.")
    told = f"It was trained on {', '.join(trained_on)}; the data are {named}."
    if any(in_sample(trained_on, name) for name in data_sets):
        return Finding(question, "yes", told)
    if any(is_known(name) for name in data_sets):
        return Finding(question, "no", f"{told} Told by their names: images are not compared.")
    return Finding(question, "unknown", f"{told} That is no name of a data set that is known here.")


def ask_choice(sets: Mapping[str, Sequence[Mapping[str, Any]]]) -> Finding:
    """Ask whether pictures were chosen among candidates by a scorer, whose own scores of them are then too high.

    Args:
        sets: the records of each model's pictures.
    """
    question = "Were pictures chosen by a scorer?"
    chosen = {
        model: most
        for model, records in sets.items()
        if (most := max((len(record.get("candidate_scores") or ()) for record in records), default=0)) > 1
    }
    if not chosen:
        return Finding(question, "no", "Every picture is the only one of its prompt and seed.")
    told = "; ".join(f"{model}: the best of {most}" for model, most in chosen.items())
    words = "the score of whoever chose is the largest of several draws, so compare those by a judge that did not choose."
    return Finding(question, "yes" if len(chosen) == len(sets) else "partly", f"{told}; {words}")


def ask_prompts(prompts: Sequence[str], training: Iterable[str] | None) -> Finding:
    """Ask whether the generator has read the prompts in training, word for word but for case and the words on the view.

    Args:
        prompts: of the pictures.
        training: captions that the generator was trained on; None where they are not given.
    """
    question = "Did the generator read the prompts in training?"
    if training is None:
        return Finding(question, "unknown", "What it was trained on is not given: name it by --training.root.")
    read = {_plain(caption) for caption in training}
    distinct = sorted({_plain(prompt) for prompt in prompts})
    seen = [prompt for prompt in distinct if prompt in read]
    share = sum(_plain(prompt) in read for prompt in prompts) / max(1, len(prompts))
    answer: Answer = "no" if not seen else "yes" if len(seen) == len(distinct) else "partly"
    examples = f", such as {', '.join(repr(prompt) for prompt in seen[:NAMED])}" if seen else ""
    return Finding(
        question, answer, f"{len(seen):,} of {len(distinct):,} distinct prompts, {share:.0%} of the pictures{examples}."
    )


def ask_images(names: Sequence[str], nearest: Nearest | None, known: Iterable[str] = ()) -> Finding:
    """Ask whether the real images that pictures are held against are among those that the generator has learnt from.

    Args:
        names: keys of the real images.
        nearest: for each the nearest training image; None where these are not given.
        known: keys of training images that lie in the same data set, and are the same where they are called alike.
    """
    question = "Are the real images among the training images?"
    if nearest is None:
        return Finding(question, "unknown", "The training images are not given: name them by --training.root.")
    called = np.isin(np.array(names), np.array(sorted(known))) if names else np.zeros(0, bool)
    by_hash = nearest.hash_distance <= CopySettings().hash_distance
    by_clip = nearest.similarity >= SAME_IMAGE
    seen = called | (by_hash & by_clip)
    examples = [name for name, one in zip(names, seen.tolist(), strict=True) if one][:NAMED]
    answer: Answer = "no" if not seen.any() else "yes" if seen.all() else "partly"
    both, either = int((by_hash & by_clip).sum()), int((by_hash | by_clip).sum())
    detail = (
        f"{int(seen.sum()):,} of {len(names):,}: {int(called.sum()):,} by name, {both:,} by perceptual hash and cosine both"
    )
    detail += f" (by either alone: {either:,})"
    return Finding(question, answer, f"{detail}{', such as ' + ', '.join(examples) if examples else ''}.")


def _plain(text: str) -> str:
    return strip_view_prefix(text).casefold().strip(" .")
