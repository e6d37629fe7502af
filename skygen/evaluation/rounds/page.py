"""The page of a closed loop: what got better round by round, what did not, and what became of the pictures.

A single file: it asks for nothing over the network, needs no script, and is the same for the same rounds.
"""

from __future__ import annotations

import importlib.metadata
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

from skygen.errors import ImageError
from skygen.evaluation.pages.page import write_page
from skygen.evaluation.reports.figures import encode_thumbnail
from skygen.evaluation.rounds.figures import draw_trend
from skygen.evaluation.rounds.lineage import UNREADABLE, Round, Row, read_lines
from skygen.evaluation.rounds.trends import TUNED, Trend, find_trends, judge_change
from skygen.evaluation.screening.verdicts import VERDICTS
from skygen.seeding import Seeds

EXAMPLES: Final = 8
"""Prompts whose pictures are shown."""
UNSCREENED: Final = "not screened"
FATES: Final = (*VERDICTS, UNREADABLE, UNSCREENED)
"""In the order of the table; others follow."""


def write_rounds(rounds: Sequence[Round], rows: Sequence[Row], output: Path, title: str, seeds: Seeds) -> list[Trend]:
    """Write the page.

    Args:
        rounds: in their order.
        rows: what ``rounds.trace`` says of their pictures.
        output: the HTML file.
        title: of the page.
        seeds: of the intervals.

    Returns:
        The trends that it shows.

    Raises:
        DataError: a file of a round is damaged.
        StorageError: the file cannot be written.
    """
    trends = find_trends(rounds, seeds)
    values = {
        "title": title,
        "version": importlib.metadata.version("skygen"),
        "rounds": [each.name for each in rounds],
        "trends": [
            (trend, draw_trend(trend), [judge_change(one, trend.direction) for one in trend.changes]) for trend in trends
        ],
        "fates": tally(rounds, rows),
        "examples": _show_examples(rounds),
    }
    write_page(output, "rounds.html.jinja", values)
    return trends


def tally(rounds: Sequence[Round], rows: Sequence[Row]) -> list[tuple[str, list[int]]]:
    """Count what became of the pictures of each round.

    Returns:
        ``drawn``, the verdicts, which add up to it, and how many each later round was trained on; a number a round.
    """
    by_round = {each.number: [row for row in rows if row["round"] == each.number] for each in rounds}
    verdicts = {number: Counter(row["verdict"] or UNSCREENED for row in own) for number, own in by_round.items()}
    others = sorted({name for counts in verdicts.values() for name in counts} - set(FATES))
    lines = [("drawn", [len(own) for own in by_round.values()])]
    for name in (*FATES, *others):
        counts = [verdicts[number][name] for number in by_round]
        if name == "kept" or any(counts):
            lines.append((name.replace("_", " "), counts))
    for later in rounds:
        used = [sum(later.number in row["used_in"] for row in own) for own in by_round.values()]
        if any(used):
            lines.append((f"used in training of {later.name}", used))
    return lines


def _show_examples(rounds: Sequence[Round]) -> list[dict[str, Any]]:
    """Lay out what the rounds drew from the same held-out prompts and seeds, evenly spaced, never picked by hand."""
    drawn: dict[tuple[str, int], dict[str, str | None]] = {}
    for each in rounds:
        path = each.folder / "scores" / "pictures.jsonl"
        if path.exists():
            for row in read_lines(path, ("prompt", "seed"), "run recipes/evaluate_images.py again"):
                pictures = drawn.setdefault((row["prompt"], row["seed"]), {})
                shown = row.get("images") or row  # runs of before had the models beside the prompt
                pictures |= {each.name: shown.get(TUNED), "real": shown.get("real")}
    everywhere = [(prompt, pictures) for (prompt, _), pictures in drawn.items() if len(pictures) == len(rounds) + 1]
    stride = max(1, -(-len(everywhere) // EXAMPLES))
    return [
        {"prompt": prompt, "pictures": [(name, _encode(pictures[name])) for name in (*(r.name for r in rounds), "real")]}
        for prompt, pictures in everywhere[::stride]
    ]


def _encode(path: str | None) -> dict[str, Any]:
    try:
        uri, small = encode_thumbnail(Path(path)) if path else ("", False)
    except ImageError:
        uri, small = "", False
    return {"uri": uri, "small": small}
