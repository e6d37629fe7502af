"""The screening recipe: planted training tiles are found however they were stored, and what is kept can be trained on."""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from PIL import Image, ImageOps
from recipes.processes import ROOT, end_all, launcher, run

from skygen.data.images import open_image
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.evaluation.pages.page import write_page
from skygen.evaluation.reports.report import build_page, open_runs
from skygen.evaluation.reports.sections import show_screening

TRAIN_CSV, VAL_CSV = "SkyScript_train_unfiltered_5M.csv", "SkyScript_val_5K_filtered_by_CLIP_openai.csv"
WRONG = "a satellite image of nothing of the kind"
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


def write_set(folder: Path, pictures: list[tuple[Image.Image, str, str]]) -> Path:
    """Write a synthetic set as recipes/generate.py does: pictures with their text, and the format each is stored in."""
    (folder / "images").mkdir(parents=True)
    with (folder / "metadata.jsonl").open("w") as lines:
        for index, (image, text, form) in enumerate(pictures):
            name = f"images/{index:06d}.{form}"
            image.save(folder / name, quality=75)
            record = {"file_name": name, "text": text, "index": index, "key": f"p{index}", "model": "tuned", "synthetic": True}
            lines.write(json.dumps(record) + "\n")
    return folder


def planted(training: list[Pair], new: list[Pair]) -> list[tuple[Image.Image, str, str]]:
    """Two training tiles, mirrored and stored anew too; then unrelated ones, one of them twice and one with a wrong text."""
    first, second = (open_image(pair.image) for pair in training)
    copies = [(first, "png"), (ImageOps.mirror(first), "png"), (second, "jpg")]
    texts = [training[0].captions[0], training[0].captions[0], training[1].captions[0]]
    others = [(open_image(pair.image), pair.captions[0], "png") for pair in new]
    again = (others[0][0], others[0][1], "jpg")
    return [*((image, text, form) for (image, form), text in zip(copies, texts, strict=True)), *others, again,
            (others[1][0].rotate(90, expand=True), WRONG, "png")]  # fmt: skip


@pytest.fixture
def samples(world: Path, tmp_path: Path) -> Path:
    training, new = read_pairs(world, csv=TRAIN_CSV), read_pairs(world, split="test")
    return write_set(tmp_path / "samples", planted([training[3], training[9]], new))


def command(name: str, samples: Path, data: Path, *words: str, processes: int = 0) -> list[str]:
    begin = launcher(processes) if processes else [sys.executable]
    where = ["--run.root", str(samples.parent), "--samples.root", str(samples), "--pairs.root", str(data)]
    return [*begin, str(ROOT / "recipes" / "screen_images.py"), "--run.name", name, *where, *words]


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_scores(folder: Path) -> dict[tuple[str, str], float]:
    scores = json.loads((folder / "metrics.json").read_text())["scores"]
    return {(score["name"], score["model"]): score["value"] for score in scores}


def test_planted_training_tiles_are_copies_and_what_is_kept_can_be_trained_on(world: Path, samples: Path) -> None:
    words = ("--pairs.csv", TRAIN_CSV)  # the control: each training tile beside the others
    said = run(command("screen", samples, world, *words))
    folder = samples.parent / "screen"
    lines = read_lines(folder / "screened.jsonl")
    assert [line["index"] for line in lines] == list(range(len(lines)))
    assert [line["verdict"] for line in lines[:3]] == ["copy"] * 3
    assert [line["copied_by"] for line in (lines[0], lines[2])] == [["similarity", "hash"]] * 2
    assert "hash" in lines[1]["copied_by"]  # mirrored, it is not the same to a CLIP
    training = read_pairs(world, csv=TRAIN_CSV)
    originals = [training[place] for place in (3, 3, 9)]
    assert [line["nearest_real_by_hash"]["key"] for line in lines[:3]] == [pair.key for pair in originals]
    assert lines[0]["nearest_real"] == {
        "key": originals[0].key, "filepath": str(originals[0].image), "similarity": 1.0, "hash_distance": 0,
    }  # fmt: skip
    new = lines[3:]
    assert len(new) == 8
    assert [line["copied_by"] for line in new] == [[]] * 8
    repeated, wrong = lines[-2], lines[-1]
    assert wrong["verdict"] == "weak"
    assert "similarity to the prompt" in wrong["reasons"][0]
    assert repeated["verdict"] in ("duplicate", "weak")  # as its first is, whom it repeats
    assert (repeated["verdict"] == "weak") == (lines[3]["verdict"] == "weak")
    kept = read_pairs(samples, csv=folder / "kept.csv", split="train")
    assert [pair.key for pair in kept] == [line["file_name"] for line in lines if line["verdict"] == "kept"]
    assert all(open_image(pair.image) for pair in kept)
    assert "control: 48 real images, each training image beside the others" in said
    assert "that is too few for the quantile 0.999: the bound is their largest cosine" in said
    assert "of mismatched real pairs reach it" in said
    scores = read_scores(folder)
    assert scores["copy_share", "tuned"] == pytest.approx(3 / 11)
    assert scores["copy_by_hash_share", "real"] == 0
    assert scores["kept_share", "tuned"] == pytest.approx(len(kept) / 11)
    assert open_image(folder / "copies.png").width > 1000
    assert len(list((samples / "images").iterdir())) == 11  # nothing is deleted
    check_report(folder)
    check_continuing(samples, world, words)


def check_report(folder: Path) -> None:
    (record,) = open_runs([folder])
    section = show_screening(record)
    assert section is not None
    write_page(folder / "page.html", "report.html.jinja", {"title": "t", **build_page([record]), "screenings": [section]})
    page = (folder / "page.html").read_text()
    assert "Screening of synthetic sets" in page
    assert page.count("<svg") == 2
    assert record.notes == []


def check_continuing(samples: Path, world: Path, words: tuple[str, ...]) -> None:
    """Other bounds need no embedding; lost parts are made again; other pictures are refused."""
    folder = samples.parent / "screen"
    before = (folder / "screened.jsonl").read_text()
    shards = sorted((folder / "parts").rglob("*.npy"))
    dates = {path: path.stat().st_mtime_ns for path in shards}
    (folder / "parts" / "nearest" / "pictures" / "000000.npy").unlink()
    run(command("screen", samples, world, *words, "--copies.hash_distance", "0", "--threshold.quantile", "0"))
    lines = read_lines(folder / "screened.jsonl")
    assert ["hash" in line["copied_by"] for line in lines[:3]] == [True, True, False]
    assert sum(path.stat().st_mtime_ns != dates[path] for path in shards) == 1
    run(command("screen", samples, world, *words))
    assert (folder / "screened.jsonl").read_text() == before
    with (samples / "metadata.jsonl").open("a") as file:
        file.write(json.dumps({"file_name": "images/000000.png", "text": "another", "index": 11}) + "\n")
    assert "was begun with other pictures or pairs" in run(command("screen", samples, world, *words), 2)


def test_two_processes_screen_as_one_and_a_broken_picture_costs_itself_alone(world: Path, samples: Path) -> None:
    (samples / "images" / "000004.png").write_bytes(b"no picture")
    words = ("--pairs.csv", TRAIN_CSV, "--control.csv", VAL_CSV, "--samples.max_bad_fraction", "0.2")
    run(command("one", samples, world, *words, processes=1))
    said = run(command("two", samples, world, *words, processes=2))
    assert f"control: 6 real images, {VAL_CSV}" in said
    assert "no cosine alone makes a copy" in said
    one, two = (read_lines(samples.parent / name / "screened.jsonl") for name in ("one", "two"))
    assert [line["verdict"] for line in one] == [line["verdict"] for line in two]
    assert [line["nearest_real"]["key"] for line in one] == [line["nearest_real"]["key"] for line in two]
    assert [line["index"] for line in one] == [0, 1, 2, 3, *range(5, 11)]
    assert [line["verdict"] for line in one[:3]] == ["copy"] * 3
    (reject,) = read_lines(samples.parent / "two" / "rejects.jsonl")
    assert reject["key"] == "images/000004.png"


def test_pictures_whose_caption_is_of_something_else_are_off_their_prompt(world: Path, samples: Path) -> None:
    records = read_lines(samples / "metadata.jsonl")
    captions = samples.parent / "captions.jsonl"
    others = {5: WRONG}
    captions.write_text("".join(
        json.dumps({"file_name": str(samples / each["file_name"]), "text": others.get(each["index"], each["text"])}) + "\n"
        for each in records
    ))  # fmt: skip
    words = ("--pairs.csv", TRAIN_CSV, "--threshold.quantile", "0", "--cycle.threshold", "0.9")
    run(command("cycle", samples, world, *words, "--captions.file", str(captions)))
    lines = read_lines(samples.parent / "cycle" / "screened.jsonl")
    scores = [line["cycle_score"] for line in lines]
    assert scores[5] == min(scores) < 0.9
    assert [place for place, score in enumerate(scores) if score < 0.999] == [5]
    assert any("prompt and caption" in reason for reason in lines[5]["reasons"])
    assert lines[5]["verdict"] in ("off_prompt", "weak")


def test_eurosat_tiles_planted_in_a_set_are_found(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    data, limit = shared_data("eurosat_rgb"), ("--pairs.limit", "300", "--control.limit", "300")
    training, new = (read_pairs(data, split=split, limit=count) for split, count in (("train", 300), ("val", 30)))
    busy = [pair for pair in training if pair.class_name in ("highway", "residential", "industrial")]
    samples = write_set(tmp_path / "samples", planted([busy[0], busy[1]], new))
    said = run(command("screen", samples, data, "--pairs.split", "train", "--control.split", "test", *limit))
    lines = read_lines(tmp_path / "screen" / "screened.jsonl")
    assert [line["verdict"] for line in lines[:3]] == ["copy"] * 3
    assert "hash" in lines[1]["copied_by"]
    unrelated = lines[3:-2]
    assert len(unrelated) == 30
    assert sum(line["verdict"] == "copy" for line in unrelated) <= 1
    assert "control: 300 real images, test" in said
