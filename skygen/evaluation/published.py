"""What was published of CLIPs on SkyScript's benchmarks, as data, and how far a run is from it.

The data are ``published_scores.csv``: tables 2 and 3 of SkyScript's paper (Wang et al. 2024, arXiv 2312.12856), the averages of
its README, the outputs of its notebooks, and FarSLIP's independent run of the same sets (arXiv 2511.14901). All values are in
percent and as printed, slips of the press included; what is known of them is in the column ``note``.
"""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cache
from pathlib import Path
from typing import Any

from skygen.evaluation.scores import Score
from skygen.evaluation.zero_shot import SEVEN, SEVEN_SETS
from skygen.models.backbones import in_sample

DATA = Path(__file__).with_name("published_scores.csv")
TOLERANCE = 0.1
"""Percentage points. FarSLIP's run of SkyCLIP and SkyScript's own differ by at most 0.06 in any cell."""
_SLACK = 1e-9
"""So that 0.1 in decimals is not more than 0.1 in binary."""
IN_SAMPLE = " (in-sample)"
"""Ending of the subset of a score on data that the scorer was trained on."""


@dataclass(frozen=True, slots=True)
class PublishedScore:
    """One figure that was printed.

    Args:
        source: the paper, with the table, or the repository.
        architecture: ``B/32`` or ``L/14``; empty where it is not stated, or the model is no CLIP.
        model: as the source calls it.
        scorers: names in ``skygen.models.backbones`` of the same weights; mostly none.
        set: as our scores have it for a subset, such as ``nwpu`` (RESISC45) or ``seven sets``.
        metric: as our scores are named, such as ``zero_shot_top_1``.
        value: percent, in [0, 100].
        in_sample: printed in brackets: the model was trained on the data set.
        note: what a reader must know; mostly empty.
    """

    source: str
    architecture: str
    model: str
    scorers: tuple[str, ...]
    set: str
    metric: str
    value: float
    in_sample: bool
    note: str


@dataclass(frozen=True, slots=True)
class Comparison:
    """A measured score beside one that was printed.

    Args:
        measured: percent.
        difference: measured less printed, in percentage points.
        agrees: they differ by at most ``TOLERANCE``.
        in_sample: the scorer was trained on the data set, by the source or by our own list.
        count: items it was measured on.
        published: the printed one.
    """

    measured: float
    difference: float
    agrees: bool
    in_sample: bool
    count: int
    published: PublishedScore


@cache
def read_published() -> tuple[PublishedScore, ...]:
    """Read every published figure, in the order of the sources."""
    with DATA.open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    return tuple(
        PublishedScore(
            source=row["source"],
            architecture=row["architecture"],
            model=row["model"],
            scorers=tuple(row["scorers"].split()),
            set=row["set"],
            metric=row["metric"],
            value=float(row["value"]),
            in_sample=row["in_sample"] == "yes",
            note=row["note"],
        )
        for row in rows
    )


def compare(scorer: str, trained_on: Sequence[str], scores: Iterable[Score], sets: Iterable[str]) -> list[Comparison]:
    """Put what was measured beside what was published of the same weights on the same set.

    Args:
        scorer: name in ``skygen.models.backbones``; of another nothing was published, and nothing is compared.
        trained_on: data sets that it has seen.
        scores: that were measured.
        sets: subsets that were measured whole, as the source did it; a part of a set is compared with nothing.

    Returns:
        One for each score and source, in the order of the scores.
    """
    whole = set(sets)
    found = []
    for score in scores:
        if score.model != "scorer" or score.subset not in whole:
            continue
        for published in read_published():
            if scorer in published.scorers and (published.metric, published.set) == (score.name, score.subset):
                measured = 100 * score.value
                difference = measured - published.value
                seen = published.in_sample or is_in_sample(trained_on, score.subset)
                agrees = abs(difference) <= TOLERANCE + _SLACK
                found.append(Comparison(measured, difference, agrees, seen, score.count, published))
    return found


def is_in_sample(trained_on: Sequence[str], subset: str) -> bool:
    """Say whether a scorer has been trained on the data set that a subset is of (``backbones.in_sample``).

    The mean of seven sets is in-sample if one of them is.
    """
    if subset == SEVEN:
        return any(in_sample(trained_on, name) for name in SEVEN_SETS)
    return in_sample(trained_on, subset)


def mark_in_sample(scores: Iterable[Score], trained_on: Sequence[str]) -> list[Score]:
    """Return the scores with `` (in-sample)`` after the subset where the scorer was trained on its data set.

    Those of a random guess are marked too, so that they stay beside the score they belong to.
    """
    return [
        replace(score, subset=score.subset + IN_SAMPLE) if is_in_sample(trained_on, score.subset) else score for score in scores
    ]


def format_comparisons(comparisons: Sequence[Comparison]) -> str:
    """Lay comparisons out as a table for a terminal, in percent; in brackets, as the paper prints them, what is in-sample."""
    rows = [("set", "metric", "measured", "published", "difference", "", "source")]
    for own in comparisons:
        brackets = "({})" if own.in_sample else "{}"
        printed = published_digits(own.published)
        rows.append(
            (
                own.published.set,
                own.published.metric,
                brackets.format(f"{own.measured:.2f}"),
                brackets.format(printed),
                f"{own.difference:+.2f}",
                "" if own.agrees else f"more than {TOLERANCE}",
                own.published.source + (f" ({own.published.note})" if own.published.note else ""),
            )
        )
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def published_digits(published: PublishedScore) -> str:
    """Return a printed value with two digits after the point, or one where its source has no more."""
    return f"{published.value:.1f}" if "one decimal" in published.note else f"{published.value:.2f}"


def to_published_json(
    scorer: str, trained_on: Sequence[str], comparisons: Sequence[Comparison], subsets: Iterable[str]
) -> dict[str, Any]:
    """Return the content of ``published.json``.

    Args:
        scorer: its name.
        trained_on: data sets that it has seen.
        comparisons: with what was published; none where nothing was.
        subsets: that were measured.
    """
    seen = [subset for subset in dict.fromkeys(subsets) if is_in_sample(trained_on, subset)]
    return {
        "scorer": scorer,
        "trained_on": list(trained_on),
        "in_sample": seen,
        "tolerance_points": TOLERANCE,
        "all_agree": all(own.agrees for own in comparisons) if comparisons else None,
        "comparisons": [asdict(own) for own in comparisons],
    }
