from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from hashlib import sha256
from itertools import pairwise
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from skygen.data.pair import Box, Pair
from skygen.data.table import SCHEMA, PairList, PairTable, hash_keys, take_rows, to_batch, to_pair
from skygen.seeding import Seeds

FULL = Pair(
    key="images2/a12_CH_19.jpg",
    image=Path("/data/images2/a12_CH_19.jpg"),
    captions=("one", "zwei"),
    split="train",
    class_name="pier",
    source="CH",
    year=2019,
    similarity=0.25,
    gsd=0.1,
    box=Box(7.0, 46.0, 7.1, 46.1),
    time=datetime(2019, 6, 1, 12, 30),
    center_tags={"man_made": "pier", "name": "Ländte"},
    surrounding_tags=({"natural": "water"}, {}),
)
BARE = Pair("b/2.png", Path("/data/b/2.png"), ("x",))


def make(count: int, name: str = "images2", batches: int = 1) -> PairTable:
    pairs = [Pair(f"{name}/{n}.jpg", Path("/data") / name / f"{n}.jpg", (f"caption {n}",)) for n in range(count)]
    edges = np.linspace(0, count, batches + 1).astype(int).tolist()
    parts = [to_batch(pairs[first:last]) for first, last in pairwise(edges)]
    return PairTable(Path("/data"), pa.Table.from_batches(parts, SCHEMA))


def rows(*numbers: int) -> np.ndarray:
    return np.array(numbers, dtype=np.int64)


def test_a_pair_survives_its_table() -> None:
    batch = to_batch([FULL, BARE])
    assert batch.schema == SCHEMA
    assert [to_pair(batch, row, Path("/data")) for row in (0, 1)] == [FULL, BARE]
    (first, second) = batch.to_pylist()
    assert (first["part"], first["object_type"], first["osm_id"]) == (2, "area", 12)
    assert (second["part"], second["object_type"], second["osm_id"], second["gsd"]) == (None, None, None, None)
    assert to_batch([]).num_rows == 0


def test_a_list_is_a_sequence_of_pairs_in_the_order_of_its_rows() -> None:
    pairs = PairList([make(5, batches=3), make(3, "images3")], rows(7, 0, 4, 5))
    assert [pair.key for pair in pairs] == ["images3/2.jpg", "images2/0.jpg", "images2/4.jpg", "images3/0.jpg"]
    assert [pair.key for pair in pairs[1:3]] == ["images2/0.jpg", "images2/4.jpg"]
    assert [pair.key for pair in pairs[::-1]] == [pair.key for pair in reversed(list(pairs))]
    assert pairs[-1].captions == ("caption 0",)
    assert pairs == list(pairs)
    assert pairs != list(pairs)[:-1]
    assert isinstance(pairs, Sequence)
    with pytest.raises(IndexError):
        pairs[4]
    assert pairs.column("key").to_pylist() == [pair.key for pair in pairs]
    assert [row["key"] for batch in pairs.batches() for row in batch.to_pylist()] == [pair.key for pair in pairs]
    assert PairList([make(3)], rows()).column("year").to_pylist() == []
    assert list(PairList([make(3)], rows()).batches()) == []


def test_lists_are_put_together_with_their_weights() -> None:
    """Each is drawn as often as its length says, whatever sum its weights have."""
    plain = PairList([make(3)], rows(2, 0))
    weighted = PairList([make(4, "images3")], rows(3, 1), np.array([0.75, 0.25]))
    both = plain + weighted
    assert [pair.key for pair in both] == ["images2/2.jpg", "images2/0.jpg", "images3/3.jpg", "images3/1.jpg"]
    assert both.weights is not None
    assert both.weights.tolist() == [1.0, 1.0, 1.5, 0.5]
    assert (plain + plain).weights is None
    sliced = both[2:].weights
    assert sliced is not None
    assert sliced.tolist() == [1.5, 0.5]


def test_fingerprints() -> None:
    pairs = PairList([make(5)], rows(0, 1, 2))
    expected = "".join(f"images2/{n}.jpg\x1fcaption {n}\x1e" for n in range(3))
    assert pairs.fingerprint() == sha256(expected.encode()).hexdigest()[:16]
    others = [pairs[::-1], pairs[:2], PairList([make(5)], pairs.rows, np.array([1.0, 2.0, 3.0]))]
    assert len({pairs.fingerprint(), *(other.fingerprint() for other in others)}) == 4
    assert PairList([make(5, batches=3)], pairs.rows).fingerprint() == pairs.fingerprint()
    assert PairList([make(3)], rows()).fingerprint() == sha256(b"").hexdigest()[:16]


def test_a_split_fingerprint_tells_the_images_alone() -> None:
    pairs = PairList([make(5)], rows(0, 1, 2))
    total = sum(int.from_bytes(sha256(f"images2/{n}.jpg".encode()).digest()[:8], "big") for n in range(3))
    assert pairs.split_fingerprint() == f"{total % 2**64:016x}"
    assert pairs[::-1].split_fingerprint() == pairs.split_fingerprint()
    assert pairs[:2].split_fingerprint() != pairs.split_fingerprint()
    assert hash_keys(["images2/0.jpg"]).dtype == np.uint64


def test_rows_are_taken_from_many_batches_in_any_order(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skygen.data.table.ROWS_AT_A_TIME", 100)
    part = make(300, batches=7)
    empty = part.table.to_batches()[0].slice(0, 0)
    batches = [empty, *part.table.to_batches()[:3], empty, *part.table.to_batches()[3:], empty]
    whole = part.table.to_batches()
    assert len(whole) == 7
    draw = Seeds(4).numpy("rows")
    for chosen in (draw.integers(300, size=450), np.arange(300), np.arange(300)[::-1].copy(), rows(299), rows(0, 0, 299, 0)):
        taken = [row["key"] for batch in take_rows(batches, chosen) for row in batch.to_pylist()]
        assert taken == [f"images2/{number}.jpg" for number in chosen.tolist()]
    assert list(take_rows(batches, rows())) == []
