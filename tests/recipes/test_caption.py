"""The captioning recipe: images or pairs in, captions out; killed, shared and continued, it ends as if nothing had been."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from faults.amounts import amount
from recipe_modules import run_recipe
from recipes.processes import ROOT, end_all, finish, kill_all, launcher, run, start, wait_until

from skygen.data.captions import strip_view_prefix
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

TRAIN_CSV = "SkyScript_train_unfiltered_5M.csv"
KILLS = amount(2, 5)
IMAGES, SHARDS = 300, 25


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture
def few(world: Path, tmp_path: Path) -> Path:
    """A folder of 7 images, in two folders."""
    paths = sorted((world / "images2").glob("*.jpg"))[:7]
    assert len(paths) == 7
    for place, path in enumerate(paths):
        target = tmp_path / "images" / str(place % 2) / f"{place}.jpg"
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(path, target)
    return tmp_path / "images"


@pytest.fixture
def quick(captioner_folder: Path, tmp_path: Path) -> list[str]:
    """The words of a run that writes short captions."""
    model = ["--model.name", str(captioner_folder), "--captioning.max_new_tokens", "4", "--captioning.num_beams", "2"]
    return ["--run.root", str(tmp_path), "--run.name", "run", "--captioning.batch_size", "3", "--shard_size", "5", *model]


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def read_rows(path: Path) -> list[dict[str, str]]:
    with path.open(newline="", encoding="utf-8") as file:
        return list(csv.DictReader(file))


def test_every_image_is_captioned_once_and_the_same_command_does_nothing_again(
    few: Path, quick: list[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (few / "1" / "broken.jpg").write_bytes(b"no image")
    words = [*quick, "--images", str(few), "--pairs.max_bad_fraction", "0.2"]
    with caplog.at_level("INFO", logger="skygen"):
        run_recipe("caption", *words)
    lines = read_lines(tmp_path / "run" / "captions.jsonl")
    assert [line.keys() for line in lines] == [{"file_name", "text"}] * 7
    assert [line["file_name"] for line in lines] == [str(path) for path in sorted(few.glob("*/?.jpg"))]
    (reject,) = read_lines(tmp_path / "run" / "rejects.jsonl")
    assert (reject["key"], reject["where"]) == ("1/broken.jpg", str(few / "1" / "broken.jpg"))
    assert f"7 of 8 images captioned: {tmp_path / 'run' / 'captions.jsonl'}; 1 could not be read" in caplog.text
    shards = sorted((tmp_path / "run" / "shards").glob("shard-*.jsonl"))
    assert [path.name for path in shards] == ["shard-000000.jsonl", "shard-000001.jsonl"]
    before = [path.stat().st_mtime_ns for path in shards]
    (tmp_path / "run" / "shards" / ".shard-000002.jsonl.0123456789ab.part").touch()
    captions = (tmp_path / "run" / "captions.jsonl").read_bytes()
    (tmp_path / "run" / "captions.jsonl").unlink()
    run_recipe("caption", *words)
    assert [path.stat().st_mtime_ns for path in shards] == before
    assert (tmp_path / "run" / "captions.jsonl").read_bytes() == captions
    assert read_lines(tmp_path / "run" / "rejects.jsonl") == [reject]
    assert not list((tmp_path / "run" / "shards").glob(".*"))
    with pytest.raises(DataError, match="1 of 8 rows or images cannot be used"):
        run_recipe("caption", *words, "--pairs.max_bad_fraction", "0.1")


def test_shards_of_other_images_weights_or_settings_are_refused(
    few: Path, quick: list[str], captioner_folder: Path, tmp_path: Path
) -> None:
    own = shutil.copytree(captioner_folder, tmp_path / "captioner")
    words = [*quick, "--images", str(few), "--model.name", str(own)]
    run_recipe("caption", *words)
    shard = tmp_path / "run" / "shards" / "shard-000000.jsonl"
    written = shard.stat().st_mtime_ns
    for name, other in [("captioning.num_beams", "3"), ("captioning.batch_size", "4"), ("shard_size", "6"),
                        ("scorer.name", "miniature"), ("model.dtype", "bfloat16"), ("run.seed", "1")]:  # fmt: skip
        with pytest.raises(ConfigError, match=rf"this run was begun with --{name} .*, now it is {other}; go on with the first"):
            run_recipe("caption", *words, f"--{name}", other)
    shutil.copy(few / "0" / "0.jpg", few / "0" / "new.jpg")
    with pytest.raises(ConfigError) as raised:
        run_recipe("caption", *words)
    assert str(raised.value) == f"{tmp_path / 'run'} was begun with other images; choose another --run.name for these."
    (few / "0" / "new.jpg").unlink()
    from skygen.miniature.architectures import build_captioner

    shutil.rmtree(own)
    build_captioner(own, Seeds(8))
    with pytest.raises(ConfigError) as raised:
        run_recipe("caption", *words)
    sentence = "was begun with other weights of the captioner; choose another --run.name for these."
    assert str(raised.value) == f"{tmp_path / 'run'} {sentence}"
    assert shard.stat().st_mtime_ns == written


def test_settings_that_contradict_each_other_are_refused(few: Path, quick: list[str], world: Path) -> None:
    give = "give --images for images, or --pairs.root for a data set whose pairs get new captions:"
    images, pairs = ["--images", str(few)], ["--pairs.root", str(world), "--pairs.csv", TRAIN_CSV]
    for words, sentence in [
        ([], f"{give} one of them is needed"),
        ([*images, *pairs], f"{give} either one is captioned, not both"),
        (
            [*images, "--keep", "both"],
            "--keep and --min_similarity choose among old and new captions, which only --pairs.root has",
        ),
        (
            [*pairs, "--keep", "better"],
            "--keep better compares similarities to the image, which a CLIP computes: name one with --scorer.name",
        ),
        (
            [*pairs, "--pairs.also", str(world)],
            "--pairs.also: captions.csv is the list of one data set; give each a run of its own",
        ),
        ([*images, "--shard_size", "0"], "--shard_size is 0; it must be 1 or more."),
    ]:
        with pytest.raises(ConfigError) as raised:
            run_recipe("caption", *quick, *words)
        assert str(raised.value) == sentence
    with pytest.raises(UnavailableError, match="there is no image"):
        run_recipe("caption", *quick, "--images", few / "nowhere")


def test_recaptioned_pairs_are_a_list_that_trains(world: Path, quick: list[str], skyclip_folder: Path, tmp_path: Path) -> None:
    pairs = PairSettings(root=world, csv=Path(TRAIN_CSV), caption_column="title", limit=12).read(Rejects(None))
    selection = ["--pairs.root", str(world), "--pairs.csv", TRAIN_CSV, "--pairs.caption_column", "title", "--pairs.limit", "12"]
    scored = ["--scorer.name", str(skyclip_folder), "--captioning.candidates", "2"]
    run_recipe("caption", *quick, *selection, *scored, "--keep", "both")
    table = tmp_path / "run" / "captions.csv"
    both = read_rows(table)
    lines = read_lines(tmp_path / "run" / "captions.jsonl")
    assert len(lines) == 12 and len(both) == 24
    assert [row["kept"] for row in both] == ["old", "new"] * 12
    scorer = Scorer.load(str(skyclip_folder))
    for pair, line, old, new in zip(pairs, lines, both[::2], both[1::2], strict=True):
        assert line["file_name"] == str(pair.image) and line["old"] == list(pair.captions)
        assert line["text"] in line["candidates"] and len(line["candidates"]) == len(line["scores"]) == 2
        assert (old["filepath"], old["title"], new["filepath"], new["title"]) == (
            pair.key, pair.captions[0], pair.key, line["text"],
        )  # fmt: skip
        assert {row["caption_old"] for row in (old, new)} == {pair.captions[0]}
        assert {row["caption_new"] for row in (old, new)} == {line["text"]}
        texts = [strip_view_prefix(pair.captions[0]), strip_view_prefix(line["text"])]
        similarities = scorer.similarity([pair.image] * 2, texts)
        for row in (old, new):
            assert [float(row[f"similarity_{which}"]) for which in ("old", "new")] == pytest.approx(similarities, abs=2e-6)
        own = next(name for name in old if name.startswith("similarity"))
        assert own not in ("similarity_old", "similarity_new")
        assert (old[own], new[own]) == (old["similarity_old"], new["similarity_new"])
    read = PairSettings(root=world, csv=table).read(Rejects(None))
    assert [(pair.key, pair.captions) for pair in read] == [
        (pair.key, (pair.captions[0], line["text"])) for pair, line in zip(pairs, lines, strict=True)
    ]
    assert [pair.class_name for pair in read] == [pair.class_name for pair in pairs]

    shard = tmp_path / "run" / "shards" / "shard-000000.jsonl"
    before = shard.stat().st_mtime_ns
    best = [max(float(row["similarity_old"]), float(row["similarity_new"])) for row in both[::2]]
    least = sorted(best)[3]
    run_recipe("caption", *quick, *selection, *scored, "--keep", "better", "--min_similarity", str(least))
    better = read_rows(table)
    assert len(better) == 9
    assert [float(row[own]) for row in better] == [value for value in best if value >= least]
    run_recipe("caption", *quick, *selection, *scored, "--keep", "new")
    assert [row["title"] for row in read_rows(table)] == [line["text"] for line in lines]
    assert shard.stat().st_mtime_ns == before  # only what is kept has changed


def test_without_a_scorer_the_first_candidate_is_taken(world: Path, quick: list[str], tmp_path: Path) -> None:
    run_recipe(
        "caption", *quick, "--pairs.root", world, "--pairs.csv", TRAIN_CSV, "--pairs.limit", "4", "--captioning.candidates", "2"
    )
    lines = read_lines(tmp_path / "run" / "captions.jsonl")
    assert len(lines) == 4
    assert all(line["text"] == line["candidates"][0] and "scores" not in line for line in lines)
    rows = read_rows(tmp_path / "run" / "captions.csv")
    assert [row["title"] for row in rows] == [line["text"] for line in lines]
    assert {row["similarity"] for row in rows} == {""}


@pytest.fixture(scope="module")
def many(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world's images linked under 300 names, one of them damaged."""
    folder = tmp_path_factory.mktemp("many") / "images"
    paths = sorted(world.glob("images?/*.jpg"))
    assert len(paths) == 60
    folder.mkdir()
    for number in range(IMAGES):
        (folder / f"{number:04d}.jpg").hardlink_to(paths[number % 60])
    (folder / "0123.jpg").unlink()
    (folder / "0123.jpg").write_bytes(b"no image")
    return folder


@pytest.mark.slow
def test_killed_again_and_again_and_shared_it_ends_as_an_unbroken_run(
    many: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    def command(name: str, processes: int) -> list[str]:
        words = {"run.name": name, "run.root": tmp_path, "images": many, "model.name": captioner_folder, "shard_size": 12}
        words |= {"scorer.name": skyclip_folder, "captioning.num_beams": 1, "captioning.do_sample": True}
        words |= {"captioning.candidates": 2, "captioning.max_new_tokens": 40, "captioning.batch_size": 4}
        recipe = [str(ROOT / "recipes" / "caption.py"), *(f"--{key}={value}" for key, value in words.items())]
        return [*launcher(processes), *recipe]

    said = run(command("unbroken", 1))
    assert "captioned 300/300" in said and "a second" in said and "299 of 300 images captioned" in said
    shards = tmp_path / "broken" / "shards"
    delays = Seeds(0).numpy("kills").uniform(0, 0.3, KILLS)
    finished: dict[str, int] = {}
    for number in range(KILLS):
        process = start(command("broken", 2 - number % 2))
        before = len(finished)
        wait_until(lambda before=before: len(list(shards.glob("shard-*"))) > before, process, "no shard came")
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=delays[number])
        kill_all(process.pid)
        process.communicate()
        now = {path.name: path.stat().st_mtime_ns for path in shards.glob("shard-*")}
        assert finished.items() <= now.items() and before < len(now) < SHARDS
        assert not (tmp_path / "broken" / "captions.jsonl").exists()
        finished = now
    finish(start(command("broken", 2)))
    after = {path.name: path.stat().st_mtime_ns for path in shards.glob("shard-*")}
    assert finished.items() <= after.items() and len(after) == SHARDS
    for name in ("captions.jsonl", "rejects.jsonl"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "unbroken" / name).read_bytes()
    for name in after:
        assert (shards / name).read_bytes() == (tmp_path / "unbroken" / "shards" / name).read_bytes()
    lines, rejected = (read_lines(tmp_path / "broken" / name) for name in ("captions.jsonl", "rejects.jsonl"))
    captioned = [Path(line["file_name"]).name for line in lines]
    assert sorted([*captioned, *(line["key"] for line in rejected)]) == [f"{number:04d}.jpg" for number in range(IMAGES)]
    assert len({line["text"] for line in lines}) > 100
    assert json.loads((tmp_path / "broken" / "run_status.json").read_text())["state"] == "finished"
