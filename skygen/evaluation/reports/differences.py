"""Paired differences: models of one run, and runs of one split, against each other item by item, as ``skygen compare`` does."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final, final

from skygen.errors import ConfigError, DataError
from skygen.evaluation.comparison import Difference, compare_runs
from skygen.evaluation.reports.facts import read_split
from skygen.evaluation.reports.item_scores import MODELS_SHOWN, order_models, read_items, split_metric
from skygen.evaluation.reports.records import DAMAGE, RunRecord
from skygen.evaluation.reports.tables import HIGHER, LOWER, MINUS, choose_digits, direction_of, write_number
from skygen.seeding import Seeds

if TYPE_CHECKING:
    from skygen.evaluation.items import ItemScores

REFERENCE: Final = "base"
SEED: Final = 0
"""Of the resampling, so that the same runs give the same page."""
SMALLEST_PLAIN: Final = 1e-4
"""Below it a scale is written with a power of ten."""


@final
@dataclass(frozen=True, slots=True)
class DifferenceLine:
    """One metric.

    Args:
        name: of the metric.
        extractor: the network behind it; empty where there is none.
        difference: as it was computed.
        value: rounded, with its sign.
        interval: the same, in words.
        p_value: rounded to four digits, never to 0; empty where there is none.
        reach: left end and width of the interval, and place of the difference, in percent of a scale of the line's own
            whose middle is 0.
        verdict: ``better`` or ``worse`` for the first where the interval leaves out 0 and the metric has a direction,
            ``differs`` where it has none, else empty.
    """

    name: str
    extractor: str
    difference: Difference
    value: str
    interval: str
    p_value: str
    reach: tuple[float, float, float]
    verdict: str


@final
@dataclass(frozen=True, slots=True)
class PairedDifferences:
    """All metrics of two models on the same items.

    Args:
        first: whose values stand before the minus: run and model.
        second: whose stand after it.
        lines: a metric each.
    """

    first: tuple[str, str]
    second: tuple[str, str]
    lines: tuple[DifferenceLine, ...]

    @property
    def is_of_one_run(self) -> bool:
        """Whether both models are of one run."""
        return self.first[0] == self.second[0]


_Side = tuple[RunRecord, str]
"""A model of a run."""


def show_differences(
    records: Sequence[RunRecord], progress: Callable[[int, int], None] = lambda done, total: None
) -> list[PairedDifferences]:
    """Compare the models of each run with its base, and each run with the first of the same protocol and split.

    Args:
        records: of the runs; those without ``items.jsonl`` are passed over.
        progress: is told how many comparisons are done, and of how many.

    Returns:
        The comparisons, but for those of two models that scored the same on every item.
    """
    read = [(record, items) for record in records if (items := read_items(record)) is not None]
    pairs = [pair for record, items in read for pair in _within(record, items)] + list(_across(read))
    found = []
    for number, (first, second) in enumerate(pairs, start=1):
        lines = _compare(first, second)
        if any(line.difference.difference or any(line.difference.interval) for line in lines):  # else it is one model twice
            found.append(PairedDifferences((first[0].name, first[1]), (second[0].name, second[1]), lines))
        progress(number, len(pairs))
    return found


def _within(record: RunRecord, items: ItemScores) -> Iterator[tuple[_Side, _Side]]:
    """Pair each model with ``base``, or with the first where there is no base; ``MODELS_SHOWN`` models at most."""
    models = order_models(items)
    if len(models) < 2:
        return
    if "fingerprint" not in read_split(record):
        record.notes.append("items.jsonl is not compared model by model: metrics.json does not say which split it is of.")
        return
    reference = REFERENCE if REFERENCE in models else models[0]
    others = [model for model in models if model != reference]
    if left_out := others[MODELS_SHOWN - 1 :]:
        record.notes.append(
            f"items.jsonl: {', '.join(left_out)} not compared with {reference}; `skygen compare` does it, two models at a time."
        )
    for model in others[: MODELS_SHOWN - 1]:
        yield (record, model), (record, reference)


def _across(read: Sequence[tuple[RunRecord, ItemScores]]) -> Iterator[tuple[_Side, _Side]]:
    """Pair the models that two runs have both, ``MODELS_SHOWN`` at most, the later run with the first of its kind."""
    firsts: dict[tuple[str, str], tuple[RunRecord, ItemScores]] = {}
    for record, items in read:
        fingerprint = read_split(record).get("fingerprint", "")
        if not fingerprint:
            continue
        earlier, others = firsts.setdefault((record.read_scores()[0], fingerprint), (record, items))
        if earlier is record:
            continue
        if items.keys != others.keys:
            record.notes.append(f"items.jsonl lists other items than that of {earlier.name}, although their splits agree.")
            continue
        shared = [model for model in order_models(items) if model in others.writers()]
        for model in shared[:MODELS_SHOWN]:
            yield (record, model), (earlier, model)


def _compare(first: _Side, second: _Side) -> tuple[DifferenceLine, ...]:
    """Compare two models; what stands against it costs a note."""
    (record, model), (other, reference) = first, second
    try:
        _, found = compare_runs((record.folder, other.folder), (model, reference), seeds=Seeds(SEED))
    except (ConfigError, DataError) as error:
        why = str(error)
        for one in (record, other):  # the reader of the page knows runs by their names
            why = why.replace(str(one.folder), one.name) if len(one.folder.parts) > 1 else why
        record.notes.append(f"{model} and {reference} are not compared: {why}")
    except DAMAGE:
        record.notes.append(f"{model} and {reference} are not compared: a file is not laid out as skygen writes it.")
    else:
        finite = [one for one in found if math.isfinite(one.difference) and all(map(math.isfinite, one.interval))]
        if len(finite) < len(found):
            record.notes.append(f"{model} and {reference}: metrics whose difference is not finite are left out.")
        return tuple(map(_lay_out, finite))
    return ()


def _lay_out(difference: Difference) -> DifferenceLine:
    low, high = difference.interval
    name, extractor = split_metric(difference.metric)
    farthest = max(abs(low), abs(high), abs(difference.difference)) or 1.0
    digits = choose_digits(farthest)

    def percent(number: float) -> float:
        return round(50 + 46 * number / farthest, 2)

    def signed(number: float) -> str:
        return f"{number:+.1e}".replace("-", MINUS) if farthest < SMALLEST_PLAIN else write_number(number, digits, "+")

    return DifferenceLine(
        name,
        extractor,
        difference,
        signed(difference.difference),
        f"{signed(low)} to {signed(high)}",
        _round_p(difference.p_value),
        (percent(low), round(percent(high) - percent(low), 2), percent(difference.difference)),
        _judge(low, high, direction_of(name)),
    )


def _round_p(p_value: float | None) -> str:
    if p_value is None:
        return ""
    return "< 0.0001" if p_value < 0.00005 else f"{p_value:.4f}"


def _judge(low: float, high: float, direction: str) -> str:
    if low <= 0 <= high:
        return ""
    if direction not in (HIGHER, LOWER):
        return "differs"
    return "better" if (low > 0) == (direction == HIGHER) else "worse"
