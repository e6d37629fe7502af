"""Two evaluated runs against each other, image by image: what differs, by how much, and whether chance would do it too."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from skygen import plain_json
from skygen.errors import ConfigError, DataError
from skygen.evaluation.captions.coco_caption import ORDERS, TokenizedCaptions, bleu_statistics
from skygen.evaluation.captions.writers import corpus_bleu
from skygen.evaluation.intervals import Items, paired_difference_interval
from skygen.evaluation.items import FILE, ItemScores
from skygen.evaluation.paired import sign_flip_p_value
from skygen.seeding import Seeds

PICTURES = "pictures.jsonl"
"""What a run of recipes/evaluate_images.py has in the place of captions."""
AGAIN = "evaluate that run again"
GIVE = "give a run of recipes/evaluate_captions.py or of evaluate_images.py"


@dataclass(frozen=True, slots=True)
class Difference:
    """One metric of two writers on the same images.

    Args:
        metric: as in ``items.jsonl``; ``bleu_1`` to ``bleu_4`` are corpus BLEU.
        first: the mean over the images that both have a value of; of BLEU that of the corpus.
        second: of the other writer.
        difference: first minus second.
        interval: 95 % of it, from images resampled for both together.
        p_value: two-sided, by flipped signs; None of BLEU, which is no mean of items.
        count: images.
    """

    metric: str
    first: float
    second: float
    difference: float
    interval: tuple[float, float]
    p_value: float | None
    count: int


def compare_runs(
    runs: tuple[Path, Path],
    writers: tuple[str, str],
    *,
    seeds: Seeds,
    progress: Callable[[int, int], None] = lambda done, total: None,
) -> tuple[dict[str, Any], list[Difference]]:
    """Compare what a writer of one run scored with what a writer of another did.

    Every metric is tested alone: of twenty that do not differ, one is expected below p = 0.05.

    Args:
        runs: folders of runs of ``recipes/evaluate_captions.py`` or ``evaluate_images.py``; the same twice compares two writers
            of one run.
        writers: of the first and of the second run.
        seeds: intervals and drawn signs follow from them.
        progress: is told how many metrics are done, and of how many.

    Returns:
        The split as ``metrics.json`` names it, and the metrics that both have: those of ``items.jsonl`` in its order, then
        corpus BLEU where both have written captions.

    Raises:
        ConfigError: the runs were scored on other images or references, by other protocols, or a run has no such writer.
        DataError: a file is missing or damaged, or the two have no image with a score in common.
    """
    split = _check_same_split(runs)
    items = [ItemScores.read(run / FILE) for run in runs]
    for run, one, writer in zip(runs, items, writers, strict=True):
        if writer not in one.writers():
            raise ConfigError(f"{run} has no writer {writer!r}; give --writer one of {', '.join(one.writers())}.")
    if items[0].keys != items[1].keys:
        raise DataError(f"{runs[0] / FILE} and {runs[1] / FILE} list other images, although their splits agree; {AGAIN}.")
    theirs = items[1].metrics(writers[1])
    shared = [metric for metric in items[0].metrics(writers[0]) if metric in theirs]
    statistics = [_count_bleu(run, writer) for run, writer in zip(runs, writers, strict=True)]
    orders = range(1, ORDERS + 1) if statistics[0] is not None and statistics[1] is not None else ()
    total, found = len(shared) + len(orders), []
    for metric in shared:
        values = items[0].values(writers[0], metric), items[1].values(writers[1], metric)
        if count_common(*values) >= 2 or len(shared) == 1:  # one metric that few images have is no reason to lose the others
            found.append(_compare_items(metric, *values, seeds))
        progress(len(found), total)
    for order in orders:
        assert statistics[0] is not None
        assert statistics[1] is not None
        found.append(_compare_bleu(order, statistics[0], statistics[1], seeds))
        progress(len(found), total)
    return split, found


def format_differences(differences: list[Difference]) -> str:
    """Lay differences out as a table for a terminal: a line a metric."""
    rows = [("metric", "first", "second", "difference", "95 % interval", "p", "images")]
    for one in differences:
        interval = f"[{one.interval[0]:+.4f}, {one.interval[1]:+.4f}]"
        p_value = "" if one.p_value is None else f"{one.p_value:.4f}"
        values = (f"{one.first:.4f}", f"{one.second:.4f}", f"{one.difference:+.4f}")
        rows.append((one.metric, *values, interval, p_value, str(one.count)))
    widths = [max(len(row[column]) for row in rows) for column in range(len(rows[0]))]
    lines = ["  ".join(cell.ljust(width) for cell, width in zip(row, widths, strict=True)).rstrip() for row in rows]
    return "\n".join([lines[0], "-" * len(lines[0]), *lines[1:]])


def count_common(first: Items, second: Items) -> int:
    """Count the images of which both have a value."""
    return int((np.isfinite(first) & np.isfinite(second)).sum())


def _compare_items(metric: str, first: Items, second: Items, seeds: Seeds) -> Difference:
    both = np.isfinite(first) & np.isfinite(second)
    if both.sum() < 2:
        raise DataError(f"{metric}: {both.sum()} images have a score of both; a comparison needs at least 2.")
    first, second = first[both], second[both]
    interval = paired_difference_interval(first, second, seeds=seeds)
    p_value = sign_flip_p_value(first - second, seeds=seeds)
    means = float(first.mean()), float(second.mean())
    return Difference(metric, *means, float((first - second).mean()), interval, p_value, len(first))


def _compare_bleu(order: int, first: Items, second: Items, seeds: Seeds) -> Difference:
    def statistic(rows: Items) -> float:
        return corpus_bleu(rows, order)

    interval = paired_difference_interval(first, second, seeds=seeds, statistic=statistic)
    values = statistic(first), statistic(second)
    return Difference(f"bleu_{order}", *values, values[0] - values[1], interval, None, len(first))


def _count_bleu(run: Path, writer: str) -> Items | None:
    """Count what BLEU needs of a writer's captions; None for people, whose captions are the references, and for pictures."""
    path = run / "captions.jsonl"
    if (run / PICTURES).exists():
        return None
    try:
        rows = [plain_json.parse(line) for line in path.read_text(encoding="utf-8").splitlines()]
        if not all(writer in row["captions"] for row in rows):
            return None
        tokens = TokenizedCaptions.from_text([row["captions"][writer] for row in rows], [row["references"] for row in rows])
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {AGAIN}.") from error
    except (ValueError, KeyError, TypeError, AttributeError) as error:
        raise DataError(f"{path} is damaged; {AGAIN}.") from error
    return bleu_statistics(tokens)[:, None, :]


def _check_same_split(runs: tuple[Path, Path]) -> dict[str, Any]:
    splits = [_read_split(run / "metrics.json") for run in runs]
    if splits[0]["protocol"] != splits[1]["protocol"]:
        both = " and ".join(f"{run} ({split['protocol']})" for run, split in zip(runs, splits, strict=True))
        raise ConfigError(
            f"{both} were scored by two protocols; figures compare under one alone, so evaluate one of them again."
        )
    if splits[0]["fingerprint"] != splits[1]["fingerprint"]:
        both = " and ".join(
            f"{run} ({split['name']}, {split['images']:,} images, fingerprint {split['fingerprint']})"
            for run, split in zip(runs, splits, strict=True)
        )
        raise ConfigError(f"{both} were scored on other images or references; evaluate both on the same split.")
    return splits[0]


def _read_split(path: Path) -> dict[str, Any]:
    try:
        content = plain_json.parse(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; {GIVE}.") from error
    except ValueError as error:
        raise DataError(f"{path} is not valid JSON; {AGAIN}.") from error
    split = content.get("split") if isinstance(content, dict) else None
    if not isinstance(split, dict) or not {"name", "images", "fingerprint"} <= split.keys():
        raise ConfigError(f"{path} does not say which split it is of; it is no evaluation, or an old one: {AGAIN}.")
    return {**split, "protocol": content.get("protocol", "")}
