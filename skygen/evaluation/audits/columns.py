"""Reads columns of a pair list as an audit needs them: in the types of the schema, classed, and placed on a grid."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int

from skygen.data.table import SCHEMA
from skygen.errors import DataError


def read_column(batch: pa.RecordBatch, name: str, audited: str) -> pa.Array:
    """Read a column in the type of the schema.

    Args:
        batch: of a pair list.
        name: of the column.
        audited: name of the set, for the error.

    Returns:
        Nulls where the batch does not have the column.

    Raises:
        DataError: it holds something else.
    """
    index, kind = batch.schema.get_field_index(name), SCHEMA.field(name).type
    if index < 0:
        return pa.nulls(batch.num_rows, kind)
    try:
        return batch.column(index).cast(kind)
    except (pa.ArrowInvalid, pa.ArrowNotImplementedError) as error:
        raise DataError(f"{audited}: the column {name} holds {batch.column(index).type}; it must hold {kind}.") from error


def find_centers(
    columns: dict[str, pa.Array],
) -> tuple[Float[np.ndarray, " count"], Float[np.ndarray, " count"], int]:
    """Find the centres of boxes on the ground.

    Args:
        columns: ``west``, ``south``, ``east``, ``north`` in degrees; west > east spans the antimeridian.

    Returns:
        Longitude and latitude in degrees, NaN where there is no box or one that no place on Earth has; and how many boxes the
        latter are.
    """
    edges = np.stack([columns[name].to_numpy(zero_copy_only=False) for name in ("west", "south", "east", "north")])
    given = ~np.isnan(edges).any(axis=0)
    west, south, east, north = edges
    right = given & (np.abs(west) <= 180) & (np.abs(east) <= 180) & (south >= -90) & (north <= 90) & (south <= north)
    west, south, east, north = np.where(right, edges, np.nan)
    longitude = (west + east + 360.0 * (west > east)) / 2
    return np.where(longitude > 180, longitude - 360, longitude), (south + north) / 2, int((given & ~right).sum())


def choose(
    labels: tuple[str, ...],
    places: Float[np.ndarray, " count"] | Int[np.ndarray, " count"],
    missing: Bool[np.ndarray, " count"],
) -> pa.Array:
    """Label numbered classes.

    Args:
        labels: of the classes.
        places: number of each item's class.
        missing: where an item has none.

    Returns:
        Strings, null where missing.
    """
    indices = np.where(missing, 0, places).astype(np.int64)
    return pa.array(labels).take(pa.array(indices, mask=missing))


def merge_cells(grid: Int[np.ndarray, "rows columns"], side: int) -> Int[np.ndarray, "fewer_rows fewer_columns"]:
    """Add up squares of ``side`` by ``side`` cells."""
    rows, columns = grid.shape
    return grid.reshape(rows // side, side, columns // side, side).sum(axis=(1, 3))
