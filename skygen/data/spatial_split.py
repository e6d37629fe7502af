"""A split by place: what lies in one cell of a grid on the ground is never on both sides.

SkyScript's own splits are lists and not known to be apart on the ground; neighbouring tiles in training and test flatter a
model. The split of a cell depends on its place alone, so data sets that are split in the same way agree.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import pyarrow as pa
from jaxtyping import Float

from skygen.data.pair import hash_split
from skygen.data.table import SCHEMA, PairTable


def assign_cells(part: PairTable, cell_degrees: float) -> PairTable:
    """Put each pair of a table on the side of its place on the ground, whatever its list says."""
    splits = split_by_cell(part.table, cell_degrees)
    table = part.table.set_column(part.table.schema.get_field_index("split"), SCHEMA.field("split"), splits)
    again = None if part.again is None else partial(_assign_again, part.again, cell_degrees)
    return PairTable(part.root, table, again)


def _assign_again(again: Callable[[], PairTable], cell_degrees: float) -> PairTable:
    return assign_cells(again(), cell_degrees)


def split_by_cell(table: pa.Table, cell_degrees: float) -> pa.Array:
    """Name the split of each row by the cell of its box's centre, 8 : 1 : 1.

    Args:
        table: with ``west``, ``south``, ``east`` and ``north``.
        cell_degrees: side of a cell.

    Returns:
        ``train``, ``val`` or ``test``; null where the box is not known, since such a pair could be anywhere.
    """
    columns = cells_of(centre(table, "west", "east"), 180, cell_degrees)
    rows = cells_of(centre(table, "south", "north"), 90, cell_degrees)
    unknown = np.isnan(columns) | np.isnan(rows)
    stride = int(180 / cell_degrees) + 2
    numbers = np.where(unknown, -1, columns * stride + rows).astype(np.int64)
    cells, which = np.unique(numbers, return_inverse=True)
    names = [None if cell < 0 else hash_split(f"{cell_degrees:g}:{cell // stride}:{cell % stride}") for cell in cells.tolist()]
    return pa.array(names, pa.string()).take(pa.array(which.reshape(-1)))


def centre(table: pa.Table, low: str, high: str) -> Float[np.ndarray, " rows"]:
    """Return the middle between two columns in degrees; NaN where they are null."""
    first, second = (table.column(name).to_numpy() for name in (low, high))
    middle: Float[np.ndarray, " rows"] = (np.asarray(first, np.float64) + np.asarray(second, np.float64)) / 2
    return middle


def cells_of(degrees: Float[np.ndarray, " rows"], offset: float, cell_degrees: float) -> Float[np.ndarray, " rows"]:
    """Number the cells along one axis from its southern or western end."""
    return np.floor((degrees + offset) / cell_degrees)
