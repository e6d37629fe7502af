"""The command on human ratings: rate."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Annotated

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer


def rate(
    folder: Annotated[Positional[Path], arg(metavar="DIR")],
    /,
    seed: int = 0,
    as_json: Annotated[bool, arg(name="json")] = False,
) -> Answer:
    """Sum up what people answered on the page of demo/rating.py: preference, strength, mean rating, agreement.

    Also written as metrics.json beside ratings.jsonl, so that `skygen report DIR` shows it.

    Args:
        folder: of ratings.jsonl, such as runs/ratings.
        seed: of the intervals.
        as_json: print JSON, for a program to read.
    """
    from skygen.evaluation.ratings.summary import write_summary
    from skygen.evaluation.scores import format_table
    from skygen.seeding import Seeds

    summary = write_summary(folder, seeds=Seeds(seed))
    if as_json:
        return Answer(json.dumps(summary.to_metrics(), indent=1))
    people = "1 rater" if summary.raters == 1 else f"{summary.raters:,} raters"
    heading = f"{folder}: {summary.ratings:,} ratings of {people}, {summary.replaced:,} earlier answers replaced"
    return Answer("\n".join([heading, format_table(summary.scores), *summary.notes, str(folder / "metrics.json")]))
