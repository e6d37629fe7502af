"""The rows of a labelled benchmark's table: a path, and a class by name or by number."""

from __future__ import annotations

import csv
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from skygen.data.pair import relative_key
from skygen.data.skyscript import read_header
from skygen.errors import DataError

_NO_LABEL = frozenset({"", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
"""What pandas, with which the published evaluation reads its tables, takes for a missing value."""


class LabelColumns(NamedTuple):
    """Where in a row each thing stands.

    Args:
        cells: in a row.
        filepath: place of the image's.
        label: place of the class's.
    """

    cells: int
    filepath: int
    label: int


def find_label_columns(table: Path, label_column: str) -> LabelColumns:
    """Find the columns by the names in the first row.

    Args:
        table: the CSV.
        label_column: such as ``label`` or ``label_v1``.

    Raises:
        DataError: one of them is missing; the sentence names those there are.
    """
    header = read_header(table)
    missing = [column for column in ("filepath", label_column) if column not in header]
    if missing:
        listed = ", ".join(filter(None, header))[:300] or "none"
        raise DataError(f"{table}: has no column {' or '.join(missing)}, but {listed}; compare it with the published one.")
    return LabelColumns(len(header), header.index("filepath"), header.index(label_column))


def read_class_names(path: Path) -> tuple[str, ...]:
    """Read the classes, one a line; a label that is a number counts these lines from 0.

    Raises:
        DataError: the file cannot be read, or holds none.
    """
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); it must be text in UTF-8 with one class a line.") from error
    names = tuple(filter(None, map(str.strip, lines)))
    if not names:
        raise DataError(f"{path}: holds no class; write one a line, in the order of the labels.")
    return names


def read_label_row(line: str, columns: LabelColumns, root: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """Read one line of the table.

    Args:
        line: of the CSV.
        columns: of the table.
        root: folder that ``filepath`` is relative to.
        class_names: in the order of the labels.

    Returns:
        The row's image with its label; nothing where it has no label.

    Raises:
        ValueError: with the reason why the row cannot be used.
        csv.Error: the line is no row of a CSV.
    """
    cells = next(csv.reader([line], strict=True))
    if len(cells) != columns.cells:
        raise ValueError(f"{len(cells)} cells where the first row has {columns.cells}")
    label = _find_label(cells[columns.label].strip(), class_names)
    if label is None:
        return []
    image = root / relative_key(cells[columns.filepath])
    if not image.is_file():
        raise ValueError("no such file")
    return [(image, label)]


def _find_label(text: str, class_names: Sequence[str]) -> int | None:
    """Return the index of a class, None for a label that is missing; a ValueError carries the reason why it is not known."""
    if text in class_names:
        return class_names.index(text)
    if text.lower() in _NO_LABEL:
        return None
    try:
        number = float(text)  # pandas writes whole numbers as 3.0 where one of them is missing
    except ValueError:
        raise ValueError(f"the label {text!a} is not among the class names") from None
    if not number.is_integer() or not 0 <= number < len(class_names):
        raise ValueError(f"the label {text} is not the index of one of {len(class_names)} class names")
    return int(number)
