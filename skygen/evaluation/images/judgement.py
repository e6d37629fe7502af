"""Whether a classifier that was trained on real images sees in a picture what the picture was meant to show."""

from __future__ import annotations

import logging
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from skygen.data.pair import to_words
from skygen.evaluation.scores import Score, mean_score
from skygen.models.judge import Judge
from skygen.seeding import Seeds

_LOG = logging.getLogger(__name__)


def judge_scores(
    judge: Judge, paths: Sequence[Path], class_names: Sequence[str], *, model: str, subset: str, seeds: Seeds
) -> list[Score]:
    """Judge images: see ``name_classes`` and ``accuracy_scores``."""
    judged = name_classes(judge, paths)
    return accuracy_scores(judge, judged, class_names, model=model, subset=subset, seeds=seeds)


def name_classes(judge: Judge, paths: Sequence[Path]) -> list[str]:
    """Return, in words, the class that the judge holds for the likeliest of each image."""
    return [judge.class_names[int(best)] for best in judge.probabilities(paths).argmax(axis=1)]


def accuracy_scores(
    judge: Judge, judged: Sequence[str], class_names: Sequence[str], *, model: str, subset: str, seeds: Seeds
) -> list[Score]:
    """Measure how often the judge sees the class that was meant.

    Conditional accuracy by a classifier of real images is "GAN-test" of Shmelkov et al. (2018, section 3): high for pictures
    that are both recognisable and of the right class; it says nothing of their variety.

    Args:
        judge: who judged; a picture of a class that it does not know is left out, and a warning tells how many were.
        judged: what it saw in each picture, in words.
        class_names: what each was meant to show, compared in words and without regard to case; empty where not known.
        model: whose pictures they are.
        subset: of the data.
        seeds: the run's seeds.

    Returns:
        ``judge_accuracy``, a share in [0, 1]; nothing where no picture is of a class that the judge knows.
    """
    items = accuracy_items(judge, judged, class_names, model=model)
    correct = items[np.isfinite(items)]
    if not len(correct):
        return []
    name = "judge_accuracy"
    return [mean_score(name, correct, model=model, subset=subset, extractor=f"judge:{judge.name}", seeds=seeds)]


def accuracy_items(
    judge: Judge, judged: Sequence[str], class_names: Sequence[str], *, model: str
) -> Float[np.ndarray, " count"]:
    """Say of each picture whether the judge sees the class that was meant.

    Args:
        judge: who judged.
        judged: what it saw in each picture, in words.
        class_names: what each was meant to show; empty where not known.
        model: whose pictures they are, for the log.

    Returns:
        1 where it does, 0 where not, NaN for a picture of a class that it does not know; a warning tells how many these are.
    """
    expected = [to_words(name) for name in class_names]
    strange = Counter(name or "(no class)" for name in expected if name not in judge.class_names)
    if strange:
        _LOG.warning(
            "judge %s: %d of %d %s pictures are left out, being of no class that it knows: %s",
            judge.name,
            strange.total(),
            len(expected),
            model,
            ", ".join(name for name, _ in strange.most_common(5)),
        )
    right = [seen == meant if meant in judge.class_names else np.nan for seen, meant in zip(judged, expected, strict=True)]
    return np.array(right, dtype=np.float64)


def accuracy_by_class(judged: Sequence[str], class_names: Sequence[str]) -> dict[str, float]:
    """Return the share of the pictures of each class in which that class was seen, the lowest first."""
    expected = [to_words(name) for name in class_names]
    counts = Counter(expected)
    correct = Counter(meant for seen, meant in zip(judged, expected, strict=True) if seen == meant)
    shares = {name: correct[name] / count for name, count in counts.items()}
    return dict(sorted(shares.items(), key=lambda item: (item[1], item[0])))
