"""Captions come as often as the files have them, in every layout in which sets with several captions an image come."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skygen.data.every_caption import restore_repeats
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs

SAID = ["a river runs", "a river runs", " two  boats\tfloat ", "a river runs", "two  boats\tfloat"]


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def write_karpathy(root: Path) -> None:
    texts = [{"raw": text, "tokens": text.split()} for text in [*SAID, " "]]
    images = [
        {"filename": "river_1.jpg", "split": "test", "sentences": texts},
        {"filename": "00002.jpg", "split": "test", "sentences": [{"raw": "", "tokens": ["some", "words"]}] * 2},
        {"filename": "00003.jpg", "split": "train", "sentences": texts},
    ]
    (root / "dataset_rsicd.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))
    touch(root, *(f"RSICD_images/{image['filename']}" for image in images))


def write_nwpu(root: Path) -> None:
    said = {"raw": SAID[0], "raw_1": SAID[1], "raw_2": SAID[2], "raw_3": SAID[3], "raw_4": SAID[4]}
    other = dict.fromkeys(said, "some words")
    rows = {
        "river": [{"filename": "river_001.jpg", "split": "test", **said}],
        "lake": [{"filename": "lake_001.jpg", "split": "test", "raw": "some words", "raw_1": "some words"}],
        "sea": [{"filename": "sea_001.jpg", "split": "train", **other}],
    }
    (root / "dataset_nwpu.json").write_text(json.dumps(rows))
    touch(root, *(f"NWPU_images/{name}/{name}_001.jpg" for name in rows))


def write_imagefolder(root: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"file_name": "images/1.jpg", "split": "test", "captions": SAID},
        {"file_name": "images/2.jpg", "split": "test", "captions": ["some words", "some words"]},
        {"file_name": "images/3.jpg", "split": "train", "captions": ["some words"]},
    ]
    (root / "metadata.jsonl").write_text("\n".join(["not JSON", *map(json.dumps, rows)]) + "\n")
    touch(root, *(row["file_name"] for row in rows))


def write_list(root: Path) -> None:
    rows = [f"images/1.jpg,{json.dumps(text)}" for text in SAID] + ["images/2.jpg,some words"] * 2
    (root / "own_test.csv").write_text("\n".join(["filepath,title", *rows]) + "\n")
    touch(root, "images/1.jpg", "images/2.jpg")


@pytest.mark.parametrize("write", [write_karpathy, write_nwpu, write_imagefolder, write_list])
def test_repeats_come_back_in_order_and_what_was_refused_does_not(write: Callable[[Path], None], tmp_path: Path) -> None:
    write(tmp_path)
    pairs = {pair.key: pair for pair in read_pairs(tmp_path, split="test")}
    assert sorted(map(len, (pair.captions for pair in pairs.values()))) == [1, 2]
    restored = restore_repeats(list(pairs.values()), tmp_path, split="test")
    assert [pair.key for pair in restored] == list(pairs)
    captions = sorted((pair.captions for pair in restored), key=len)
    river, boats = "a river runs", next(text for text in captions[1] if "boats" in text)
    assert captions == [("some words",) * 2, (river, river, boats, river, boats)]
    assert all(set(pair.captions) == set(pairs[pair.key].captions) for pair in restored)


def test_an_image_of_which_the_files_say_something_else_keeps_its_captions(tmp_path: Path) -> None:
    write_karpathy(tmp_path)
    strangers = [
        Pair("elsewhere/9.jpg", tmp_path / "9.jpg", ("its own", "two")),
        Pair("RSICD_images/river_1.jpg", tmp_path / "river_1.jpg", ("its own",)),
    ]
    assert restore_repeats(strangers, tmp_path) == strangers


def test_real_captions_are_all_there(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("aid150_with_rsicd_captions")
    pairs = read_pairs(root, split="val")
    assert sum(len(pair.captions) for pair in pairs) == 788
    restored = restore_repeats(pairs, root, split="val")
    assert [len(pair.captions) for pair in restored] == [5] * 300
