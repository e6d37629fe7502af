from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from skygen.data.formats.imagefolder import hash_split
from skygen.data.pair import Pair, to_words
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import DataError


def write_rows(path: Path, *rows: object) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(f"{row if isinstance(row, str) else json.dumps(row)}\n" for row in rows), encoding="utf-8")


def test_text_captions_split_class_and_similarity(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "metadata.jsonl",
        {"file_name": "images/1.jpg", "text": " one ", "split": "validation", "class": "tennis court"},
        {"file_name": "a12_S2_20.jpg", "captions": ["two", "zwei", "two"], "similarity": 0.3},
    )
    first, second = read_pairs(tmp_path)
    assert first == Pair("images/1.jpg", tmp_path / "images/1.jpg", ("one",), split="val", class_name="tennis court")
    assert (second.captions, second.split, second.class_name) == (("two", "zwei"), None, None)
    assert (second.source, second.year, second.similarity) == ("S2", 2020, 0.3)


def test_metadata_in_split_folders(tmp_path: Path) -> None:
    for split in ("train", "validation", "test"):
        write_rows(tmp_path / split / "metadata.jsonl", {"file_name": "1.jpg", "text": split})
    pairs = read_pairs(tmp_path)
    assert [(pair.key, pair.split) for pair in pairs] == [
        ("test/1.jpg", "test"), ("train/1.jpg", "train"), ("validation/1.jpg", "val"),
    ]  # fmt: skip
    assert pairs[2].image == tmp_path / "validation" / "1.jpg"
    assert [pair.key for pair in read_pairs(tmp_path, split="validation")] == ["validation/1.jpg"]


def test_bad_lines_and_blank_captions_go_to_the_ledger(tmp_path: Path) -> None:
    write_rows(
        tmp_path / "train" / "metadata.jsonl",
        {"file_name": "1.jpg", "captions": ["one", " ", "three"]},
        {"file_name": "2.jpg", "captions": ["", " "]},
        {"file_name": "3.jpg"},
        {"file_name": "../../4.jpg", "text": "upwards"},
        {"file_name": "5.jpg", "text": 5},
        '{"file_name": "6.jpg", "tex',
        "[1, 2]",
        "[" * 100_000,
        {"text": "no file"},
        {"file_name": "10.jpg", "text": "half \udc00"},
        "",
        {"file_name": "12.jpg", "text": "twelve"},
    )
    path = tmp_path / "rejects.jsonl"
    ledger = Rejects(path)
    pairs = read_pairs(tmp_path, rejects=ledger)
    assert [(pair.key, pair.captions) for pair in pairs] == [
        ("train/1.jpg", ("one", "three")), ("train/12.jpg", ("twelve",)),
    ]  # fmt: skip
    entries = [json.loads(line) for line in path.read_text().splitlines()]
    assert entries[0] == {
        "key": "train/1.jpg",
        "reason": "the caption is empty",
        "where": f"{tmp_path / 'train' / 'metadata.jsonl'}, row 1",
        "part": "caption 2",
    }
    assert [entry["key"] for entry in entries[1:]] == [f"train/metadata.jsonl:{row}" for row in range(2, 11)]
    assert entries[2]["reason"] == 'no text or list of texts under "captions" or "text" or "caption"'
    assert ledger.count == 9


def test_a_caption_column_of_ones_own(tmp_path: Path) -> None:
    write_rows(tmp_path / "metadata.jsonl", {"file_name": "1.jpg", "text": "one", "polished": "first"})
    assert read_pairs(tmp_path, caption_column="polished")[0].captions == ("first",)
    with pytest.raises(DataError, match=r'none of its 1 rows can be used; the first: no text .* under "absent"'):
        read_pairs(tmp_path, caption_column="absent")


@pytest.mark.parametrize(
    ("folder", "words"),
    [("AnnualCrop", "annual crop"), ("dense_residential", "dense residential"), ("SeaLake", "sea lake"),
     ("airport", "airport"), ("RSICDImages", "rsicd images"), ("tennis court", "tennis court")],
)  # fmt: skip
def test_class_folders_in_words(folder: str, words: str) -> None:
    assert to_words(folder) == words


def make_files(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"")


def test_class_folders_with_a_template_and_no_other_files(tmp_path: Path) -> None:
    make_files(tmp_path, "AnnualCrop/b.jpg", "AnnualCrop/a.JPG", "Forest/1.tif", "Forest/._1.tif", "Forest/notes.txt")
    make_files(tmp_path, "LICENSE.txt", "images2/x.jpg", "docs/readme.md", ".cache/x.jpg", "__MACOSX/x.jpg")
    pairs = read_pairs(tmp_path, caption_template="seen from above: {}")
    assert [(pair.key, pair.captions, pair.class_name) for pair in pairs] == [
        ("AnnualCrop/a.JPG", ("seen from above: annual crop",), "annual crop"),
        ("AnnualCrop/b.jpg", ("seen from above: annual crop",), "annual crop"),
        ("Forest/1.tif", ("seen from above: forest",), "forest"),
    ]
    assert [pair.split for pair in pairs] == [hash_split(pair.key) for pair in pairs]


def test_class_folders_within_split_folders(tmp_path: Path) -> None:
    make_files(tmp_path, "train/Forest/1.jpg", "val/Forest/2.jpg", "val/River/3.jpg")
    assert [(pair.key, pair.split, pair.class_name) for pair in read_pairs(tmp_path)] == [
        ("train/Forest/1.jpg", "train", "forest"),
        ("val/Forest/2.jpg", "val", "forest"),
        ("val/River/3.jpg", "val", "river"),
    ]


def test_the_hashed_split_is_fixed_for_all_time() -> None:
    keys = [f"Forest/Forest_{number}.jpg" for number in range(2000)]
    counts = Counter(map(hash_split, keys))
    assert 160 < counts["test"] < 240 and 160 < counts["val"] < 240 and counts["train"] > 1500
    assert [hash_split(key) for key in keys[:12]] == [
        "train",
        "val",
        "test",
        "train",
        "train",
        "val",
        "train",
        "train",
        "train",
        "train",
        "train",
        "val",
    ]


def test_eurosat_reads_without_preparation(shared_data: Callable[[str], Path]) -> None:
    pairs = read_pairs(shared_data("eurosat_rgb"))
    assert len(pairs) == 14_000
    assert set(Counter(pair.class_name for pair in pairs).values()) == {1400}
    assert pairs[0].captions == ("a satellite image of annual crop",)
    splits = Counter(pair.split for pair in pairs)
    assert all(abs(splits[split] - share * 14_000) < 150 for split, share in (("train", 0.8), ("val", 0.1), ("test", 0.1)))
    limited = read_pairs(shared_data("eurosat_rgb"), limit=100)
    assert set(Counter(pair.class_name for pair in limited).values()) == {10}
    assert all(pair.image.is_file() for pair in limited)


def test_aid_with_rsicd_captions_reads(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    ledger = Rejects(tmp_path / "rejects.jsonl")
    root = shared_data("aid150_with_rsicd_captions")
    pairs = read_pairs(root, rejects=ledger)
    assert Counter(pair.split for pair in pairs) == {"train": 1500, "val": 300}
    assert len(read_pairs(root, split="train")) == 1500
    assert ledger.count == 0
    # Of five captions each, 956 images have five times the same one.
    assert Counter(len(pair.captions) for pair in pairs) == {1: 956, 2: 265, 3: 395, 4: 98, 5: 86}
    assert len({pair.class_name for pair in pairs}) == 30
    assert all(pair.image.is_file() for pair in pairs)
