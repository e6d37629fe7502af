from __future__ import annotations

import json
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

import pytest

from skygen.data.formats.sidecars import find_sidecars, read_sidecars
from skygen.data.pair import Box, Pair
from skygen.data.rejects import Rejects, read_rejects

SCENE = {
    "type": "Barren or Sparsely Vegetated", "date": "2019-05", "center_coordinates": [21.19, 7.87], "country_code": "null",
    "caption": "a desert in Algeria ", "caption_1": "May, 2019", "caption_3": "it was hot",
}  # fmt: skip


def put(root: Path, name: str, content: object = b"") -> None:
    path = root / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_bytes(content if isinstance(content, bytes) else json.dumps(content).encode())


def read(root: Path, caption_column: str | None = None, ledger: Rejects | None = None) -> list[Pair | None]:
    return list(read_sidecars(find_sidecars(root), root, caption_column, ledger or Rejects(None)))


def test_ecomappers_json_gives_caption_class_place_and_month(tmp_path: Path) -> None:
    put(tmp_path, "2017-2022/5284/5284_2019-05.png")
    put(tmp_path, "2017-2022/5284/5284_2019-05.json", SCENE)
    (pair,) = read(tmp_path)
    assert pair == Pair(
        key="2017-2022/5284/5284_2019-05.png",
        image=tmp_path / "2017-2022/5284/5284_2019-05.png",
        captions=("a desert in Algeria",),
        class_name="barren or sparsely vegetated",
        year=2019,
        box=Box(7.87, 21.19, 7.87, 21.19),
        time=datetime(2019, 5, 1),
    )
    (pair,) = read(tmp_path, "caption_1")
    assert pair is not None and pair.captions == ("May, 2019",)


def test_without_a_caption_the_class_makes_one(tmp_path: Path) -> None:
    put(tmp_path, "1.tif")
    put(tmp_path, "1.json", {"type": "Urban and Built-up"})
    (pair,) = read(tmp_path)
    assert pair is not None
    assert (pair.captions, pair.box, pair.time) == (("a satellite image of urban and built-up",), None, None)


def test_a_text_file_has_a_caption_on_each_line(tmp_path: Path) -> None:
    put(tmp_path, "train/x.png")
    put(tmp_path, "train/x.txt", "﻿a river\r\n\r\n trees \na river\n".encode())
    put(tmp_path, "validation/10_trees/y.jpg")
    put(tmp_path, "validation/10_trees/y.caption", b"a lake")
    first, second = read(tmp_path)
    assert first == Pair("train/x.png", tmp_path / "train/x.png", ("a river", "trees"), split="train")
    assert second is not None and (second.captions, second.split) == (("a lake",), "val")


def test_a_text_beside_a_json_is_the_caption_and_the_json_tells_the_rest(tmp_path: Path) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "x.txt", b"my own words")
    put(tmp_path, "x.json", SCENE | {"split": "test", "gsd": 10})
    (pair,) = read(tmp_path)
    assert pair is not None
    assert (pair.captions, pair.year, pair.split, pair.gsd) == (("my own words",), 2019, "test", 10.0)


def test_what_cannot_be_used_goes_to_the_ledger(tmp_path: Path) -> None:
    put(tmp_path, "a/good.png")
    put(tmp_path, "a/good.json", SCENE)
    for name, content in {
        "alone": None, "broken": b'{"caption": "x', "list": b"[1]", "latin": b'{"caption": "\xe9"}',
        "none": b"{}", "number": b'{"caption": 4}',
        "deep": b"[" * 100_000, "blank": b'{"caption": " . "}', "huge": b" " * (4 << 20) + b"{}",
    }.items():  # fmt: skip
        put(tmp_path, f"a/{name}.png")
        if content is not None:
            put(tmp_path, f"a/{name}.json", content)
    put(tmp_path, "masks/good.png")  # a folder without any sidecar holds other things
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pairs = read(tmp_path, ledger=ledger)
    assert len(pairs) == 10
    assert [pair.key for pair in pairs if pair] == ["a/good.png"]
    reasons = {entry.key: entry.reason for entry in read_rejects(tmp_path / "rejects.jsonl")}
    assert reasons == {
        "a/alone.png": "no .txt, .caption or .json lies beside it",
        "a/broken.png": "broken.json is not valid JSON: Unterminated string starting at: line 1 column 13 (char 12)",
        "a/list.png": "list.json holds no object with a caption or a class",
        "a/latin.png": "latin.json is not valid UTF-8",
        "a/none.png": "there is no caption",
        "a/number.png": 'no text or list of texts under "captions" or "caption" or "text"',
        "a/deep.png": "deep.json is nested too deeply",
        "a/blank.png": "the caption '.' has no words",
        "a/huge.png": "huge.json has more than 4,194,304 bytes",
    }


@pytest.mark.parametrize(
    ("fields", "part", "reason"),
    [
        ({"center_coordinates": [91, 0]}, "place", "[91, 0] is not a latitude and a longitude in degrees"),
        ({"center_coordinates": "here"}, "place", "here is not a latitude and a longitude in degrees"),
        ({"lat": float("nan"), "lon": 1}, "place", "[nan, 1] is not a latitude and a longitude in degrees"),
        ({"lat": True, "lon": 1}, "place", "[True, 1] is not a latitude and a longitude in degrees"),
        ({"date": "2019-13"}, "time", "'2019-13' is not a date such as 2019-05 or 2019-05-17T10:30:00Z"),
        ({"date": "May"}, "time", "'May' is not a date such as 2019-05 or 2019-05-17T10:30:00Z"),
        ({"year": 99}, "time", "'99' is not a date such as 2019-05 or 2019-05-17T10:30:00Z"),
        ({"date": [2019]}, "time", "'[2019]' is not a date such as 2019-05 or 2019-05-17T10:30:00Z"),
    ],
)
def test_a_place_or_date_that_makes_no_sense_is_noted_and_the_pair_kept(
    tmp_path: Path, fields: dict[str, object], part: str, reason: str
) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "x.json", {"caption": "a lake", **fields})
    ledger = Rejects(tmp_path / "rejects.jsonl")
    (pair,) = read(tmp_path, ledger=ledger)
    assert pair == Pair("x.png", tmp_path / "x.png", ("a lake",))
    (entry,) = read_rejects(tmp_path / "rejects.jsonl")
    assert (entry.key, entry.part, entry.reason) == ("x.png", part, reason)


@pytest.mark.parametrize(
    ("said", "year", "time"),
    [
        ("2019", 2019, None),
        (2019, 2019, None),
        ("2019-05-17", 2019, datetime(2019, 5, 17)),
        ("2019-05-17T10:30:15.5Z", 2019, datetime(2019, 5, 17, 10, 30, 15)),
        ("2020-01-01T00:30:00+01:00", 2019, datetime(2019, 12, 31, 23, 30)),
    ],
)
def test_dates_in_the_forms_in_use(tmp_path: Path, said: object, year: int, time: datetime | None) -> None:
    put(tmp_path, "x.png")
    put(tmp_path, "x.json", {"caption": "a lake", "date": said})
    (pair,) = read(tmp_path)
    assert pair is not None and (pair.year, pair.time) == (year, time)


def test_boxes_of_a_detector_and_plain_images_are_no_sidecars(tmp_path: Path) -> None:
    put(tmp_path, "yolo/x.jpg")
    put(tmp_path, "yolo/x.txt", b"0 0.5 0.5 0.1 0.1\n")
    put(tmp_path, "labelme/y.jpg")
    put(tmp_path, "labelme/y.json", {"shapes": [], "imagePath": "y.jpg"})
    put(tmp_path, "README.txt", b"Read me.")
    assert find_sidecars(tmp_path) == []
    put(tmp_path, "a/b/c/z.jpg")
    put(tmp_path, "a/b/c/z.txt", b"three levels down")
    assert find_sidecars(tmp_path) == [tmp_path, *(tmp_path / name for name in ("a", "labelme", "yolo"))]


def test_ecomapper_reads_without_preparation(shared_data: Callable[[str], Path]) -> None:
    root = shared_data("ecomapper_sentinel2")
    ledger = Rejects(None)
    pairs = [pair for pair in read(root, ledger=ledger) if pair is not None]
    assert len(pairs) == 48 and ledger.count == 0
    assert set(Counter(pair.key.partition("_")[0] for pair in pairs).values()) == {6}
    assert all(pair.image.is_file() and pair.box and pair.time and pair.class_name for pair in pairs)
    assert all(len(pair.captions) == 1 for pair in pairs)
    assert len({pair.box for pair in pairs}) == 8
