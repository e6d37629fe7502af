from __future__ import annotations

import json
import logging
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from skygen.data.archives import read_bytes
from skygen.data.formats.caption_json import find_caption_json, read_caption_json
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects, read_rejects
from skygen.errors import DataError


def image(filename: str, *captions: object, split: str = "train", **more: object) -> dict[str, Any]:
    return {"filename": filename, "split": split, "sentences": [{"raw": text, "tokens": []} for text in captions], **more}


def write(path: Path, content: object) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(content if isinstance(content, str) else json.dumps(content), encoding="utf-8")
    return path


def touch(root: Path, *names: str) -> None:
    for name in names:
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(b"x")


def read(root: Path, caption_column: str | None = None, ledger: Rejects | None = None) -> list[Pair | None]:
    return list(read_caption_json(find_caption_json(root), root, caption_column, ledger or Rejects(None)))


def test_an_image_with_its_captions_split_and_class(tmp_path: Path) -> None:
    touch(tmp_path, "RSICD_images/airport_1.jpg")
    two = [
        image("airport_1.jpg", "one plane .", " two planes . ", "one plane ."),
        image("00012.jpg", "a river", split="restval"),
    ]
    write(tmp_path / "dataset_rsicd.json", {"images": two, "dataset": "rsicd"})
    first, second = read(tmp_path)
    place = tmp_path / "RSICD_images" / "airport_1.jpg"
    captions = ("one plane .", "two planes .")
    assert first == Pair("RSICD_images/airport_1.jpg", place, captions, split="train", class_name="airport")
    assert second == Pair("RSICD_images/00012.jpg", place.with_name("00012.jpg"), ("a river",), split="train")


@pytest.mark.parametrize(
    ("name", "class_name"),
    [("denseresidential_410.jpg", "dense residential"), ("boat_5173.tif", "boat"), ("00045.jpg", None), ("7.tif", None),
     ("image_7.tif", None), ("port_1.jpg", "port"), ("harbour.jpg", None)],
)  # fmt: skip
def test_the_class_comes_from_names_that_have_one(tmp_path: Path, name: str, class_name: str | None) -> None:
    write(tmp_path / "dataset.json", {"images": [image(name, "some words")]})
    (pair,) = read(tmp_path)
    assert pair is not None and pair.class_name == class_name


def test_tokens_stand_in_for_a_missing_text_and_a_column_can_be_chosen(tmp_path: Path) -> None:
    sentences = [
        {"tokens": ["a", "pond"]},
        {"raw": "  ", "tokens": ["green", "trees"]},
        {"raw": "a lake", "polished": "A lake."},
    ]
    write(tmp_path / "dataset.json", {"images": [{"filename": "1.tif", "split": "test", "sentences": sentences}]})
    (pair,) = read(tmp_path)
    assert pair is not None and pair.captions == ("a pond", "green trees", "a lake")
    (pair,) = read(tmp_path, "polished")
    assert pair is not None and pair.captions == ("A lake.",)


def test_dirt_goes_to_the_ledger_and_the_image_is_kept(tmp_path: Path) -> None:
    write(
        tmp_path / "dataset.json",
        {"images": [image("bridge_59.jpg", "a bridge .", ".", "", "1 .", 5), image("2.jpg", ".", " ")]},
    )
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pair, nothing = read(tmp_path, ledger=ledger)
    assert pair is not None and pair.captions == ("a bridge .",) and nothing is None
    entries = list(read_rejects(tmp_path / "rejects.jsonl"))
    assert [(entry.key, entry.part, entry.reason) for entry in entries] == [
        ("bridge_59.jpg", "caption 2", "the caption '.' has no words"),
        ("bridge_59.jpg", "caption 3", "the caption is empty"),
        ("bridge_59.jpg", "caption 4", "the caption '1 .' has no words"),
        ("bridge_59.jpg", "caption 5", "the caption is not a text"),
        ("dataset.json:images:2", None, "the caption '.' has no words"),
    ]
    assert entries[0].where == f"{tmp_path / 'dataset.json'}, images 1"
    assert ledger.count == 1


def test_wrong_types_in_any_place_cost_one_image(tmp_path: Path) -> None:
    bad = [
        None, 7, [], "1.jpg", {}, {"filename": 3}, {"filename": "1.jpg"}, {"filename": "1.jpg", "sentences": {}},
        {"filename": "1.jpg", "sentences": []}, {"filename": "1.jpg", "sentences": [None, 4, []]},
        {"filename": "../1.jpg", "sentences": [{"raw": "up we go"}]}, {"filename": "1.txt", "sentences": [{"raw": "no image"}]},
        {"filename": "1.jpg", "sentences": [{"raw": "half \ud800 a letter"}]},
        {"filename": "1.jpg", "sentences": [{"raw": None, "tokens": [1, 2]}]},
    ]  # fmt: skip
    good = image("9.jpg", "nine trees", split=3)  # type: ignore[arg-type]
    write(tmp_path / "dataset.json", {"images": [good, *bad]})
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pairs = read(tmp_path, ledger=ledger)
    assert [pair.key if pair else None for pair in pairs] == ["9.jpg", *[None] * 14]
    assert pairs[0] is not None and pairs[0].split is None
    reasons = [entry.reason for entry in read_rejects(tmp_path / "rejects.jsonl")]
    assert len(reasons) == 14
    assert reasons[:6] == ["not an object with a filename and captions"] * 4 + ['no text under "filename"'] * 2
    assert reasons[6:9] == ['no list under "sentences"'] * 2 + ["there is no caption"]
    assert reasons[10].startswith("the path '../1.jpg' leads out of the data set")


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ('{"images": [{"filename": "1.jpg", "sentences": [', "is not valid JSON (Expecting value: line 1 column 49 (char 48)"),
        ('["filename", "sentences"]', 'is not a file of captions: it holds no object with "images" or with classes'),
        ('{"images": {"filename": 1, "sentences": 2}}', 'is not a file of captions: "images" is no list'),
        ('{"filename": "sentences", "x": ' + "[" * 200_000, "is nested too deeply to be a file of captions"),
    ],
)
def test_a_file_that_is_none_gives_one_sentence(tmp_path: Path, text: str, sentence: str) -> None:
    path = write(tmp_path / "dataset.json", text)
    with pytest.raises(DataError) as caught:
        read(tmp_path)
    assert str(caught.value).startswith(f"{path} {sentence}")
    assert "\n" not in str(caught.value)


def test_a_file_that_is_not_utf8_gives_one_sentence(tmp_path: Path) -> None:
    (tmp_path / "dataset.json").write_bytes(b'{"filename": "\xff", "sentences": 1}')
    with pytest.raises(DataError, match=r"dataset\.json is not valid UTF-8 \(byte 14\); download it again$"):
        read(tmp_path)


@pytest.mark.parametrize("folder", ["RSICD_images/", "images/", "imgs/", "my_images/", "rsicd/", ""])
def test_images_are_found_in_the_usual_folders(tmp_path: Path, folder: str) -> None:
    touch(tmp_path, *(f"{folder}{number}.jpg" for number in (7, 8, 12)), "other_images/8.jpg", "docs/7.jpg")
    write(tmp_path / "dataset_rsicd.json", {"images": [image(f"{number}.jpg", "some words") for number in range(200)]})
    pairs = read(tmp_path)
    assert len(pairs) == 200
    assert pairs[7] is not None and pairs[7].key == f"{folder}7.jpg" and pairs[7].image.is_file()


def test_a_few_images_of_many_are_found_too(tmp_path: Path) -> None:
    touch(tmp_path, "images/7.jpg")
    write(tmp_path / "dataset.json", {"images": [image(f"{number}.jpg", "some words") for number in range(200)]})
    assert {pair.key.partition("/")[0] for pair in read(tmp_path) if pair} == {"images"}


def test_a_list_in_a_subfolder_finds_the_images_of_its_own_name(tmp_path: Path) -> None:
    touch(tmp_path, "UCM_images/1.tif", "Sydney_images/1.tif", "images/1.tif")
    for name in ("sydney", "UCM"):
        write(tmp_path / "captions" / f"dataset_{name}.json", {"images": [image("1.tif", "some words")]})
    assert [pair and pair.key for pair in read(tmp_path)] == ["UCM_images/1.tif", "Sydney_images/1.tif"]


@pytest.mark.parametrize("inner", ["RSICD_images/", "", "RSICD/RSICD_images/"])
@pytest.mark.parametrize("base", ["", "rsicd/"])
def test_images_in_a_zip_are_read_from_there(tmp_path: Path, inner: str, base: str) -> None:
    (tmp_path / base).mkdir(exist_ok=True)
    with zipfile.ZipFile(tmp_path / base / "RSICD_images.zip", "w") as archive:
        archive.writestr(f"{inner}airport_1.jpg", b"a picture")
    write(tmp_path / base / "dataset_rsicd.json", {"images": [image("airport_1.jpg", "some words")]})
    (pair,) = read(tmp_path)
    assert pair is not None
    assert pair.key == ("RSICD_images/airport_1.jpg" if not base else "rsicd/RSICD_images.zip/RSICD_images/airport_1.jpg")
    assert read_bytes(pair.image) == b"a picture"


def test_images_that_are_nowhere_are_said_to_be(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    path = write(tmp_path / "dataset.json", {"images": [image("1.jpg", "some words")]})
    (tmp_path / "images").mkdir()
    (tmp_path / "images.zip").write_bytes(b"no zip")
    with caplog.at_level(logging.WARNING, logger="skygen"):
        (pair,) = read(tmp_path)
    assert pair is not None and pair.key == "1.jpg"
    assert caplog.messages == [f"{path}: none of its images was found; looked in images/, ./"]


NWPU = {
    "airplane": [
        {"filename": "airplane_001.jpg", "split": "train", "raw": "one plane", "raw_1": "a plane", "raw_2": "one plane"},
        {"filename": "airplane_111.jpg", "split": "train"},
    ],
    "baseball_diamond": [{"filename": "baseball_diamond_001.jpg", "split": "val", "raw": "a field", "raw_4": "a diamond"}],
    "church": "lost",
}  # fmt: skip


@pytest.mark.parametrize("folder", ["NWPU_images/{}/", "{}/", "NWPU_images/", "NWPU-RESISC45/{}/"])
def test_nwpu_captions_by_class(tmp_path: Path, folder: str) -> None:
    names = [folder.format(name) + f"{name}_001.jpg" for name in ("airplane", "baseball_diamond")]
    touch(tmp_path, *names)
    write(tmp_path / "dataset_nwpu.json", NWPU)
    ledger = Rejects(tmp_path / "rejects.jsonl")
    plane, bad, diamond, lost = read(tmp_path, ledger=ledger)
    assert plane == Pair(names[0], tmp_path / names[0], ("one plane", "a plane"), split="train", class_name="airplane")
    captions = ("a field", "a diamond")
    assert diamond == Pair(names[1], tmp_path / names[1], captions, split="val", class_name="baseball diamond")
    assert bad is None and lost is None
    assert [(entry.key, entry.reason) for entry in read_rejects(tmp_path / "rejects.jsonl")] == [
        ("dataset_nwpu.json:airplane:2", "there is no caption"),
        ("dataset_nwpu.json:church", "not an object with a filename and captions"),
    ]
    second = read(tmp_path, "raw_1")[0]
    assert second is not None and second.captions == ("a plane",)


def test_other_json_files_are_no_captions(tmp_path: Path) -> None:
    write(tmp_path / "dataset_infos.json", {"default": {"features": {"filename": {"dtype": "string"}}}})
    write(tmp_path / "captions.json", {"images": [image("1.jpg", "not named dataset")]})
    assert find_caption_json(tmp_path) == []
    assert find_caption_json(tmp_path / "absent") == []


def test_rsicd_in_numbers(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    root = shared_data("rsicd_captions")
    paths = find_caption_json(root)
    assert [path.name for path in paths] == ["dataset_rsicd.json"]
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pairs = [pair for pair in read_caption_json(paths, root, None, ledger) if pair is not None]
    assert Counter(pair.split for pair in pairs) == {"train": 8734, "val": 1094, "test": 1093}
    assert len({pair.key for pair in pairs}) == 10_921
    entries = list(read_rejects(tmp_path / "rejects.jsonl"))
    assert Counter((entry.key, entry.reason) for entry in entries) == {
        ("bridge_218.jpg", "the caption '.' has no words"): 1,
        ("bridge_59.jpg", "the caption '.' has no words"): 1,
        ("parking_211.jpg", "the caption '.' has no words"): 1,
        ("church_235.jpg", "the caption '1 .' has no words"): 2,
    }
    # Counted beside the reader: 54,605 captions, of which 5 without words, the rest each once an image.
    content = json.loads(paths[0].read_text())
    different = sum(len({s["raw"].strip() for s in row["sentences"]} - {".", "1 ."}) for row in content["images"])
    assert sum(len(pair.captions) for pair in pairs) == different < 54_600
    classes = Counter(pair.class_name for pair in pairs)
    assert len(classes) == 31 and classes[None] == 921
    assert classes["storage tanks"] == 360 and classes["baseball field"] == 220


def test_sydney_and_its_images(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("captioning_samples_rsicd_ucm_sydney")
    pairs = [pair for pair in read(root) if pair is not None]
    assert Counter(pair.split for pair in pairs) == {"train": 497, "val": 58, "test": 58}
    assert {pair.key.rpartition("/")[0] for pair in pairs} == {"Sydney_images"}
    assert sum(pair.image.is_file() for pair in pairs) == 9
