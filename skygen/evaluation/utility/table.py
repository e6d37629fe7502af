"""What training on synthetic images has brought: accuracies, differences from real images alone, and the table of both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool, Float, Int

from skygen.errors import DataError
from skygen.evaluation.comparison import Difference
from skygen.evaluation.intervals import Items, Statistic, bootstrap_interval
from skygen.evaluation.paired import sign_flip_p_value
from skygen.evaluation.scores import Score
from skygen.evaluation.utility.trials import FEWEST_SEEDS, REAL, Outcome, UtilitySettings, list_arms
from skygen.seeding import Seeds

METRICS: Final = ("accuracy", "accuracy_macro")
"""Top-1 over all test images, and the mean of that of each class."""


@final
@dataclass(frozen=True, slots=True)
class ArmResult:
    """What one arm scored with so many shots.

    Args:
        arm: its name.
        shots: real images of a class.
        real: distinct real images a repetition was trained on.
        synthetic: the same of synthetic ones.
        scores: of ``METRICS``.
        differences: from the arm of real images, of ``METRICS``; empty for that arm itself.
        by_seed: difference in ``accuracy`` of each repetition; empty for that arm itself.
    """

    arm: str
    shots: int
    real: int
    synthetic: int
    scores: tuple[Score, ...]
    differences: tuple[Difference, ...] = ()
    by_seed: tuple[float, ...] = ()

    def all_scores(self) -> list[Score]:
        """Return the accuracies, and the differences as scores."""
        of = self.scores[0]
        return [
            *self.scores,
            *(
                Score(f"{one.metric}_minus_real", one.difference, one.count, one.interval, of.model, of.subset, of.extractor)
                for one in self.differences
            ),
        ]

    def to_json(self) -> dict[str, Any]:
        """Return what ``metrics.json`` holds of it under ``differences``."""
        return {
            "arm": self.arm,
            "shots": self.shots,
            "minus": REAL.name,
            "by_seed": list(self.by_seed),
            "metrics": [asdict(difference) for difference in self.differences],
        }


def score_arms(
    outcomes: Sequence[Outcome], labels: Int[np.ndarray, " images"], settings: UtilitySettings, extractor: str, seeds: Seeds
) -> list[ArmResult]:
    """Score every arm, and hold it against the arm of real images: the same repetitions, the same test images.

    Intervals are percentile bootstraps that draw test images and repetitions anew, each with replacement and independently
    (the pigeonhole bootstrap: Owen, Annals of Applied Statistics 1 (2007), 386-411); with one repetition, images alone. Of few
    repetitions they are rough. The p-value is of flipped signs over images, of the mean over the repetitions: it is of these
    trained classifiers on other test images, and says nothing of other draws of training images.

    Args:
        outcomes: of all trials.
        labels: place of each test image's class among the sorted classes.
        settings: which trials there are.
        extractor: what the scores call the classifier.
        seeds: the run's.

    Returns:
        One result for each number of shots and arm, the arm of real images first.

    Raises:
        DataError: a trial has no outcome.
    """
    known = {(one.shots, one.arm, one.seed): one for one in outcomes}
    results = []
    for shots in sorted(settings.shots):
        base: Float[np.ndarray, "images columns"] | None = None
        for arm in list_arms(settings.multiples):
            keys = [(shots, arm.name, seed) for seed in range(settings.seeds)]
            if missing := [key for key in keys if key not in known]:
                raise DataError(f"the trial {missing[0]} has no result; the same command trains it.")
            own = [known[key] for key in keys]
            rows = _with_labels(mark_correct(own, labels).astype(np.float64), labels)
            scores = _score(rows, arm.name, shots, settings, extractor, seeds)
            counts = max(one.real for one in own), max(one.synthetic for one in own)
            if base is None:
                base = rows
                results.append(ArmResult(arm.name, shots, *counts, scores))
            else:
                by_seed = tuple((rows - base)[:, :-1].mean(axis=0).tolist())
                results.append(ArmResult(arm.name, shots, *counts, scores, _compare(rows, base, seeds), by_seed))
    return results


def mark_correct(outcomes: Sequence[Outcome], labels: Int[np.ndarray, " images"]) -> Bool[np.ndarray, "images seeds"]:
    """Say which test images each of some classifiers got right."""
    return np.stack([np.asarray(outcome.predicted) == labels for outcome in outcomes], axis=1)


def top_1(rows: Items) -> float:
    """Return the mean over images and repetitions; rows are images, the last column is the class and is not looked at."""
    return float(rows[:, :-1].mean())


def macro(rows: Items) -> float:
    """Return the mean over classes of the mean over their images and repetitions; the last column is the class."""
    places, values = rows[:, -1].astype(np.int64), rows[:, :-1].mean(axis=1)
    counts = np.bincount(places)
    there = counts > 0
    return float((np.bincount(places, weights=values)[there] / counts[there]).mean())


def format_markdown(results: Sequence[ArmResult], notes: Sequence[str]) -> str:
    """Lay the results out as a Markdown table, with what must stand beside it below."""
    lines = [
        "| real images a class | trained on | real | synthetic | accuracy | macro | accuracy minus real | p | by seed |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for one in results:
        accuracies = [_show(score.value, score.interval) for score in one.scores]
        difference, p_value, by_seed = "", "", " ".join(f"{value:+.3f}" for value in one.by_seed)
        if one.differences:
            first = one.differences[0]
            difference = _show(first.difference, first.interval, "+")
            p_value = f"{first.p_value:.4f}"
        cells = (str(one.shots), one.arm, str(one.real), str(one.synthetic), *accuracies, difference, p_value, by_seed)
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, "", *(f"- {note}" for note in notes)]) + "\n"


def describe_rules(settings: UtilitySettings, steps: int, batch: int, images: int, origins: Sequence[str]) -> list[str]:
    """Say in sentences how the table was made and what it does not show.

    Args:
        settings: which trials there were.
        steps: updates of each.
        batch: images in each update.
        images: tested on.
        origins: what drew the synthetic images, as far as their records say it.
    """
    mixed = "half of what is seen is real" if settings.batches == "balanced" else "all images alike, real or not"
    prompts = ", and none gave a prompt, by the records" if origins else "; whether one gave a prompt is not recorded"
    seeds = "1 seed" if settings.seeds == 1 else f"{settings.seeds} seeds"
    notes = [
        f"Every classifier: {steps} updates of {batch} images, for a seed from the same initial weights, the same "
        f"augmentation; the last weights are tested, and nothing was chosen by the test. Mixed batches: {mixed}.",
        f"Tested on {images:,} real images, none of which was trained on, by their pixels{prompts}.",
        f"Intervals: 95 %, test images and {seeds} resampled independently. p: flipped signs over test images, for these "
        "trained classifiers; it does not cover other draws of training images.",
        f"The synthetic images were drawn by {' and '.join(origins) or 'what no record names'}. What that was trained on "
        "counts: a generator that has seen more real images than the classifiers brings their information along, and a gain "
        "is then not one over the same number of real images.",
    ]
    if settings.seeds < FEWEST_SEEDS:
        notes.insert(0, f"Warning: fewer than {FEWEST_SEEDS} seeds; how far this moves with the draw of images is not known.")
    return notes


def _score(
    rows: Float[np.ndarray, "images columns"], arm: str, shots: int, settings: UtilitySettings, extractor: str, seeds: Seeds
) -> tuple[Score, ...]:
    subset = f"{settings.test_split}, {shots} real images a class"
    return tuple(
        Score(name, statistic(rows), len(rows), _interval(rows, statistic, seeds), arm, subset, extractor)
        for name, statistic in zip(METRICS, (top_1, macro), strict=True)
    )


def _compare(
    rows: Float[np.ndarray, "images columns"], base: Float[np.ndarray, "images columns"], seeds: Seeds
) -> tuple[Difference, ...]:
    """Compare by metric; both metrics are weighted means of images, so a p-value comes of the weighted differences."""
    labels = rows[:, -1].astype(np.int64)
    differences = _with_labels((rows - base)[:, :-1], labels)
    counts = np.bincount(labels)
    by_class = len(labels) / (np.count_nonzero(counts) * counts[labels])
    found = []
    for name, statistic, weights in zip(METRICS, (top_1, macro), (np.ones(len(labels)), by_class), strict=True):
        p_value = sign_flip_p_value(differences[:, :-1].mean(axis=1) * weights, seeds=seeds)
        values = statistic(rows), statistic(base)
        interval = _interval(differences, statistic, seeds)
        found.append(Difference(name, *values, statistic(differences), interval, p_value, len(rows)))
    return tuple(found)


def _with_labels(
    values: Float[np.ndarray, "images seeds"], labels: Int[np.ndarray, " images"]
) -> Float[np.ndarray, "images columns"]:
    return np.column_stack([values, labels.astype(np.float64)])


def _interval(rows: Float[np.ndarray, "images columns"], statistic: Statistic, seeds: Seeds) -> tuple[float, float]:
    """Resample images, and for each such sample the repetitions."""
    count = rows.shape[1] - 1
    generator = seeds.numpy("repetitions", count)

    def of_some_seeds(sample: Items) -> float:
        columns = generator.integers(count, size=count)
        return statistic(np.column_stack([sample[:, columns], sample[:, -1]]))

    return bootstrap_interval(rows, seeds=seeds, statistic=of_some_seeds)


def _show(value: float, interval: tuple[float, float] | None, sign: str = "") -> str:
    between = "" if interval is None else f" [{interval[0]:{sign}.3f}, {interval[1]:{sign}.3f}]"
    return f"{value:{sign}.3f}{between}"
