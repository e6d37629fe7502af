"""Figures of the tests of faults: told by each test, carried from pytest's workers, added up, shown as one table."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, Protocol

from faults.amounts import LONG

PROPERTY = "figures of faults"
"""The name under which pytest carries them from a worker with the report of a test."""
LARGEST = "most_"
"""Numbers of which the name begins so are not added up: the largest counts."""
Table = dict[str, dict[str, int]]


class Figures(Protocol):
    """Tell figures of what was tried, such as `figures("kill -9 of caption", kills=12, rows_lost=0, most_steps_lost=3)`."""

    def __call__(self, what: str, **numbers: int) -> None: ...


def add_up(told: Iterable[tuple[str, Mapping[str, int]]]) -> Table:
    """Add up the numbers that were told of the same thing; of those named `most_...` take the largest."""
    table: Table = {}
    for what, numbers in told:
        row = table.setdefault(what, {})
        for name, number in numbers.items():
            before = row.get(name, 0)
            row[name] = max(before, number) if name.startswith(LARGEST) else before + number
    return dict(sorted(table.items()))


def collect(reports: Iterable[Any]) -> Table:
    """Take the figures out of pytest's reports, of tests that failed too: each of its call, which has them all."""
    calls = [report for report in reports if getattr(report, "when", "") == "call"]
    return add_up(tuple(value) for report in calls for name, value in report.user_properties if name == PROPERTY)


def describe(table: Table) -> list[str]:
    """Write the table as lines of text."""
    width = max(map(len, table))
    rows = [
        (what, ", ".join(f"{number:,} {name.replace('_', ' ')}" for name, number in row.items())) for what, row in table.items()
    ]
    return [f"{what:<{width}}  {numbers}" for what, numbers in rows]


def keep(table: Table) -> None:
    """Write the table as JSON to the file that `SKYGEN_FAULT_FIGURES` names, in the long form alone."""
    path = os.environ.get("SKYGEN_FAULT_FIGURES")
    if path and LONG:
        from skygen.storage import writing

        with writing(Path(path)) as temporary:
            temporary.write_text(json.dumps(table, indent=1) + "\n", encoding="utf-8")
