"""The one writer of the miniature's caption tables."""

from __future__ import annotations

import csv
from collections.abc import Iterable, Sequence
from pathlib import Path

from skygen.storage import writing


def write_table(path: Path, columns: Sequence[str], rows: Iterable[Sequence[str]]) -> None:
    """Write a comma-separated table under another name first, so that a table that is there is whole.

    Args:
        path: where it goes; a table there is replaced.
        columns: the header.
        rows: as wide as the header.
    """
    with writing(path) as temporary, temporary.open("w", encoding="utf-8", newline="") as file:
        writer = csv.writer(file, lineterminator="\n")
        writer.writerow(columns)
        writer.writerows(rows)
