from __future__ import annotations

import json
from pathlib import Path

import pytest

from skygen.data import table
from skygen.data.index import Counts, Index, build_index, read_whole
from skygen.data.joining import KeyIndex
from skygen.data.layouts import Layout, find_layout
from skygen.data.pair import CLASS_TEMPLATE
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.data.table import hash_keys


def write(path: Path, *rows: tuple[object, str], header: str = "filepath,title") -> None:
    lines = [header, *(f"images2/a{number}_CH_19.jpg,{text}" for number, text in rows)]
    path.write_text("".join(f"{line}\n" for line in lines))


def layout_of(root: Path) -> Layout:
    return find_layout(root, None, None, None, CLASS_TEMPLATE)


def both(root: Path, tmp_path: Path) -> tuple[Index, Index, list[dict[str, str]]]:
    """Read a list in memory and by its index, and see that both say the same in their pairs, counts and ledgers."""
    ledger = tmp_path / "ledger.jsonl"
    memory = read_whole(layout_of(root), Rejects(ledger))
    index = build_index(layout_of(root), None, lambda done, total: None)
    assert index.ledger is not None
    noted = ledger.read_text() if ledger.exists() else ""
    assert index.ledger.read_text() == noted
    assert index.counts == memory.counts
    for name in ("key", "captions", "split", "class_name", "year"):
        assert index.table.table[name].to_pylist() == memory.table.table[name].to_pylist()
    return memory, index, list(map(json.loads, noted.splitlines()))


def shown(index: Index) -> list[tuple[str, list[str], str | None]]:
    columns = (index.table.table[name].to_pylist() for name in ("key", "captions", "split"))
    return [(key[9:-10], captions, split) for key, captions, split in zip(*columns, strict=True)]


@pytest.fixture
def root(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    return tmp_path / "data"


def test_rows_on_one_image_become_one_pair_with_each_caption_once(root: Path, tmp_path: Path) -> None:
    rows = [(1, "one"), (2, "two"), (1, "uno"), (3, "three"), (1, "one"), (2, "two"), (1, "eins"), (1, "uno")]
    write(root / "m_train.csv", *rows)
    memory, _, noted = both(root, tmp_path)
    assert shown(memory) == [("1", ["one", "uno", "eins"], "train"), ("2", ["two"], "train"), ("3", ["three"], "train")]
    assert memory.counts == Counts(rows=8, pairs=3, joined=2, repeated=3, bad=0)
    assert [(entry["key"][9:-10], entry["reason"], entry["part"]) for entry in noted] == [
        ("1", "duplicate key: the image and its caption are listed in another row", "occurrence 3"),
        ("1", "duplicate key: the image and its caption are listed in another row", "occurrence 5"),
        ("2", "duplicate key: the image and its caption are listed in another row", "occurrence 2"),
    ]
    assert len(PairSettings(root, max_bad_fraction=0).read(Rejects(None))) == 3  # a repetition is nothing bad


def test_an_image_for_testing_is_never_trained_on(root: Path, tmp_path: Path) -> None:
    write(root / "m_train.csv", (1, "one"), (2, "two"), (3, "three"))
    write(root / "m_val.csv", (2, "two in val"), (4, "four"), (3, "three in val"))
    write(root / "m_test.csv", (3, "three in test"), (1, "one"))
    memory, _, noted = both(root, tmp_path)
    assert sorted(shown(memory)) == [
        ("1", ["one"], "test"), ("2", ["two in val"], "val"), ("3", ["three in test"], "test"), ("4", ["four"], "val"),
    ]  # fmt: skip
    assert memory.counts == Counts(rows=8, pairs=4, joined=0, repeated=4, bad=0)
    reasons = sorted((entry["key"][9:-10], entry["reason"]) for entry in noted)
    assert reasons == [
        ("1", "duplicate key: the image is in the split test, and listed in another row"),
        ("2", "duplicate key: the image is in the split val, and listed in another row"),
        ("3", "duplicate key: the image is in the split test, and listed in another row"),
        ("3", "duplicate key: the image is in the split test, and listed in another row"),
    ]
    assert {pair.key for pair in read_pairs(root, split="test")} == {"images2/a1_CH_19.jpg", "images2/a3_CH_19.jpg"}


def test_every_column_of_captions_is_gathered(root: Path, tmp_path: Path) -> None:
    header = "filepath,title,title_multi_objects"
    write(root / "m.csv", (1, "one,one and more"), (1, "one,one and others"), (1, "uno,one and more"), header=header)
    index = build_index(layout_of(root), None, lambda done, total: None)
    assert index.counts == Counts(rows=3, pairs=1, joined=2, repeated=0, bad=0)
    assert read_pairs(root)[0].captions == ("one and more", "one and others")
    assert read_pairs(root, caption_column="title")[0].captions == ("one", "uno")


def test_rows_far_apart_are_found(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In a list of many blocks, each image of the first half once more in the second."""
    monkeypatch.setattr("skygen.data.formats.pair_csv.BLOCK", 3000)
    monkeypatch.setattr("skygen.data.index.ROWS_A_BATCH", 70)
    rows: list[tuple[object, str]] = [(number, f"caption {number}") for number in range(400)]
    write(root / "m.csv", *rows, *((number, f"another {number}") for number, _ in reversed(rows)))
    memory, index, noted = both(root, tmp_path)
    assert memory.counts == Counts(rows=800, pairs=400, joined=400, repeated=0, bad=0)
    assert shown(index) == [(str(n), [f"caption {n}", f"another {n}"], None) for n in range(400)]
    assert noted == []
    assert index.table.table["key"].num_chunks > 4


def test_two_keys_with_one_hash_stay_two_pairs(root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import numpy as np

    def poor_hash(keys: list[str]) -> np.ndarray:
        return np.array([len(key) for key in keys], dtype=np.uint64)

    monkeypatch.setattr("skygen.data.index.hash_keys", poor_hash)
    write(root / "m.csv", (1, "one"), (2, "two"), (10, "ten"), (1, "uno"), (3, "three"))
    memory, _, _ = both(root, tmp_path)
    assert shown(memory) == [("1", ["one", "uno"], None), ("2", ["two"], None), ("10", ["ten"], None), ("3", ["three"], None)]


def test_repeated_rows_are_found_by_their_keys() -> None:
    keys = KeyIndex()
    keys.add(hash_keys(["a", "b", "c"]))
    keys.add(hash_keys([]))
    keys.add(hash_keys(["b", "d", "a", "b"]))
    assert sorted(keys.repeated_rows()) == [[0, 5], [1, 3, 6]]
    assert list(KeyIndex().repeated_rows()) == []
    assert table.hash_keys(["a"]).tolist() == [0xCA978112CA1BBDCA]  # `printf a | sha256sum`
