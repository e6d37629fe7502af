from __future__ import annotations

from collections import Counter
from hashlib import sha256
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from skygen.data.choosing import Choice
from skygen.data.pair import Box, Pair
from skygen.data.spatial_split import assign_cells, split_by_cell
from skygen.data.table import SCHEMA, PairTable, to_batch
from skygen.seeding import Seeds

COUNT = 20_000


def table_of(west: np.ndarray, south: np.ndarray, width: np.ndarray) -> pa.Table:
    return pa.table({"west": west, "south": south, "east": west + width, "north": south + width})


@pytest.fixture(scope="module")
def boxes() -> pa.Table:
    """Half of them crowded into 5 by 5 degrees, where cells hold several, half over the whole globe."""
    draw = Seeds(9).numpy("boxes")
    width = draw.uniform(0.001, 0.02, COUNT)
    west = np.where(draw.random(COUNT) < 0.5, draw.uniform(6, 11, COUNT), draw.uniform(-180, 179.9, COUNT))
    south = np.where(west % 1 < 0.5, draw.uniform(45, 50, COUNT), draw.uniform(-90, 89.9, COUNT))
    return table_of(west, south, width)


def cells(table: pa.Table) -> list[tuple[int, int]]:
    west, south, east, north = (table[name].to_numpy() for name in ("west", "south", "east", "north"))
    across, up = np.floor((west + east) / 2 * 10 + 1800), np.floor((south + north) / 2 * 10 + 900)
    return list(zip(across.astype(int).tolist(), up.astype(int).tolist(), strict=True))


def test_no_cell_is_on_two_sides(boxes: pa.Table) -> None:
    sides: dict[tuple[int, int], set[str]] = {}
    for cell, split in zip(cells(boxes), split_by_cell(boxes, 0.1).to_pylist(), strict=True):
        sides.setdefault(cell, set()).add(split)
    assert max(map(len, sides.values())) == 1
    assert len(sides) < COUNT - 2000  # so that many cells hold several


def test_the_shares_are_eight_one_and_one(boxes: pa.Table) -> None:
    """Over cells, within 5 standard deviations of a tenth: 0.1 +- 0.013 of some 14,000 cells."""
    first = {cell: split for cell, split in zip(cells(boxes), split_by_cell(boxes, 0.1).to_pylist(), strict=True)}
    counts = Counter(first.values())
    assert set(counts) == {"train", "val", "test"}
    assert abs(counts["val"] / len(first) - 0.1) < 0.013
    assert abs(counts["test"] / len(first) - 0.1) < 0.013


def test_a_split_depends_on_the_place_alone(boxes: pa.Table) -> None:
    splits = split_by_cell(boxes, 0.1)
    some = pa.array(Seeds(2).numpy("some").permutation(COUNT)[:3000])
    assert split_by_cell(boxes.take(some), 0.1).to_pylist() == splits.take(some).to_pylist()
    assert split_by_cell(boxes, 1.0).to_pylist() != splits.to_pylist()


def test_the_split_of_a_cell_stays_what_it_is() -> None:
    """Pinned: another hash would move test images of published runs into training. Two of these places are in one cell."""
    west = np.array([7.42, 7.48, -100.0, 151.2, -180.0, 179.98, 0.0, -0.05, 13.33, 24.95])
    south = np.array([46.92, 46.91, 40.0, -33.9, -90.0, 89.98, 0.0, -0.05, 52.42, 60.12])
    table = table_of(west, south, np.full(10, 0.01))
    numbers = [f"0.1:{across}:{up}" for across, up in cells(table)]
    assert numbers[0] == numbers[1] == "0.1:1874:1369"
    remainders = [int(sha256(number.encode()).hexdigest(), 16) % 10 for number in numbers]
    assert split_by_cell(table, 0.1).to_pylist() == [{0: "test", 1: "val"}.get(remainder, "train") for remainder in remainders]
    assert remainders == [6, 6, 8, 8, 1, 5, 0, 1, 1, 3]


def test_a_pair_without_a_box_is_on_no_side() -> None:
    pairs = [
        Pair(f"{n}.jpg", Path("x"), ("x",), split="train", box=Box(n, 1, n + 0.1, 1.1) if n % 2 else None) for n in range(6)
    ]
    table = pa.Table.from_batches([to_batch(pairs)], SCHEMA)
    part = assign_cells(PairTable(Path("x"), table), 0.1)
    splits = part.table["split"].to_pylist()
    assert [split is None for split in splits] == [True, False] * 3
    for split in ("train", "val", "test"):
        mask = Choice(split=split, split_by="cell").mask(part.table)
        assert mask.tolist() == [value == split for value in splits]
