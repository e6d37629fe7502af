"""The images of a utility test: drawn balanced and nested, and refused where the test would be none."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError
from skygen.evaluation.utility.data import draw_images, read_data, take_images
from skygen.evaluation.utility.trials import Arm, Trial, UtilitySettings
from skygen.seeding import Seeds

CLASSES = ("forest", "sea lake", "river")


def draw_tile(path: Path, number: int) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(Seeds(1).numpy("tile", number).integers(0, 256, (16, 16, 3), dtype=np.uint8)).save(path)


@pytest.fixture
def folders(tmp_path: Path) -> tuple[Path, Path]:
    """Three real classes of five training and two test images, and an imagefolder of six pictures of each."""
    number = 0
    for split, count in (("train", 5), ("test", 2)):
        for name in ("Forest", "SeaLake", "River"):
            for place in range(count):
                number += 1
                draw_tile(tmp_path / "real" / split / name / f"{place}.png", number)
    records: list[dict[str, Any]] = []
    for place in range(18):
        draw_tile(tmp_path / "drawn" / "images" / f"{place}.png", 100 + place)
        name = CLASSES[place % 3]
        records.append({"file_name": f"images/{place}.png", "text": f"a satellite image of {name}", "class": name, "base": "b"})
    (tmp_path / "drawn" / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    return tmp_path / "real", tmp_path / "drawn"


def records_of(drawn: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (drawn / "metadata.jsonl").read_text().splitlines()]


SETTINGS = UtilitySettings(shots=(2, 3), multiples=(1, 2))


def read(folders: tuple[Path, Path], rejects: Rejects | None = None, **changes: Any) -> Any:
    real, drawn = folders
    settings = PairSettings(real, split="train", max_bad_fraction=0.5)
    records = [{**record, **changes} for record in records_of(drawn)]
    return read_data(settings, PairSettings(drawn), records, SETTINGS, rejects or Rejects(None))


def test_what_is_read_is_drawn_balanced_nested_and_named_apart(folders: tuple[Path, Path]) -> None:
    data = read(folders)
    assert (len(data.real), len(data.synthetic), len(data.test.images)) == (15, 18, 6)
    assert data.test.class_names == ("forest", "river", "sea lake") and data.origins == ["b"]
    drawn = draw_images(data, SETTINGS, Seeds(4), Rejects(None))
    few, many = (take_images(Trial(shots, 0, Arm(True, 2)), drawn, SETTINGS) for shots in (2, 3))
    assert (few.real, few.synthetic, many.real, many.synthetic) == (6, 12, 9, 18)
    assert set(few.shown) < set(many.shown) and few.mark != many.mark
    assert {pair.key.split("/")[0] for pair in few.shown} == {"real", "synthetic"}
    assert Counter(pair.class_name for pair in few.shown) == dict.fromkeys(data.test.class_names, 6)
    assert all(pair.captions == (pair.class_name,) and pair.image.is_file() for pair in few.shown)
    again = draw_images(read(folders), SETTINGS, Seeds(4), Rejects(None))
    assert take_images(Trial(2, 0, Arm(True, 2)), again, SETTINGS) == few


def test_another_picture_under_the_same_name_is_another_training_set(folders: tuple[Path, Path]) -> None:
    trial = Trial(3, 0, Arm(True, 2))
    before = take_images(trial, draw_images(read(folders), SETTINGS, Seeds(4), Rejects(None)), SETTINGS)
    draw_tile(folders[1] / "images" / "3.png", 999)
    draw_tile(folders[0] / "test" / "River" / "0.png", 998)
    data = read(folders)
    after = take_images(trial, draw_images(data, SETTINGS, Seeds(4), Rejects(None)), SETTINGS)
    assert [pair.key for pair in before.shown] == [pair.key for pair in after.shown] and before.mark != after.mark
    draw_tile(folders[0] / "test" / "River" / "0.png", 997)
    assert read(folders).test_mark != data.test_mark


@pytest.mark.parametrize("culprit", ["real/train/Forest/0.png", "drawn/images/0.png"])
def test_a_copy_of_a_test_image_is_found_in_another_file_format(folders: tuple[Path, Path], culprit: str) -> None:
    root = folders[0].parent
    settings = UtilitySettings(shots=(5,), multiples=(1,))
    with Image.open(root / culprit) as picture:
        picture.save(folders[0] / "test" / "Forest" / "copy.bmp")
    real = PairSettings(folders[0], split="train")
    data = read_data(real, PairSettings(folders[1]), records_of(folders[1]), settings, Rejects(None))
    caught = 0
    for seed in range(12):  # the copied picture is one of six, of which five are drawn
        try:
            draw_images(data, settings, Seeds(seed), Rejects(None))
        except ConfigError as error:
            assert "copy.bmp is " in str(error) and culprit.rpartition("/")[2] in str(error)
            caught += 1
    assert caught == 12 if culprit.startswith("real") else caught > 6


def test_an_image_that_cannot_be_read_is_noted_and_another_is_drawn(folders: tuple[Path, Path]) -> None:
    for name in ("train/River/0.png", "train/River/1.png", "test/Forest/1.png"):
        (folders[0] / name).write_bytes(b"no image")
    rejects = Rejects(None)
    data = read(folders, rejects)
    assert len(data.test.images) == len(data.test.labels) == 5
    real, _ = draw_images(data, SETTINGS, Seeds(4), rejects)
    assert sorted(Path(pair.key).stem for pair, _ in real["river"]) == ["2", "3", "4"]
    (folders[0] / "train/River/2.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"--real\.root: 2 images of river can be read, 3 are needed"):
        draw_images(data, SETTINGS, Seeds(4), rejects)
    assert rejects.count == 4


def test_a_set_drawn_from_the_test_is_refused_as_a_whole(folders: tuple[Path, Path]) -> None:
    with pytest.raises(ConfigError, match=r"18 prompts came from test images .*the key test/Forest/0.png.*and 13 more"):
        read(folders, key="test/Forest/0.png")
    read(folders, key="train/Forest/0.png")
    settings = PairSettings(folders[0], split="test")
    with pytest.raises(ConfigError, match="are both test"):
        read_data(settings, PairSettings(folders[1]), [], SETTINGS, Rejects(None))


def test_a_set_without_records_is_checked_by_its_words(folders: tuple[Path, Path]) -> None:
    real, drawn = folders
    for split, words in (("train", "a wood"), ("test", "a satellite image of forest")):
        lines = [
            {"file_name": str(path.relative_to(real)), "text": words, "class": path.parent.name, "split": split}
            for path in sorted((real / split).rglob("*.png"))
        ]
        with (real / "metadata.jsonl").open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
    with pytest.raises(ConfigError, match=r"6 prompts came from test images .*'a satellite image of forest'"):
        read_data(PairSettings(real, split="train"), PairSettings(drawn), [], SETTINGS, Rejects(None))


def test_pairs_keep_their_images(folders: tuple[Path, Path]) -> None:
    drawn = draw_images(read(folders), SETTINGS, Seeds(4), Rejects(None))
    pair, _ = drawn[1]["forest"][0]
    assert isinstance(pair, Pair) and folders[1] / pair.key.removeprefix("synthetic/") == pair.image
