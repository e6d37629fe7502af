"""``skygen search``: tennis courts are found among the drawn world's tiles, and what cannot be done is said in a sentence."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from skygen import cli
from skygen.data.pairs import read_pairs
from skygen.evaluation.shards import EmbeddingShards
from skygen.models.scorer import Scorer

TRAIN_CSV = "SkyScript_train_unfiltered_5M.csv"


def say(capsys: pytest.CaptureFixture[str], *words: str | Path, code: int = 0) -> str:
    """Run ``skygen search`` and return what it said, on standard error where it failed."""
    if not code:
        cli.main(["search", *map(str, words)])
        return capsys.readouterr().out
    with pytest.raises(SystemExit) as end:
        cli.main(["search", *map(str, words)])
    assert end.value.code == code
    return capsys.readouterr().err


@pytest.fixture(scope="module")
def tiles(tmp_path_factory: pytest.TempPathFactory) -> Path:
    from skygen.miniature.fabricate import fabricate

    root = tmp_path_factory.mktemp("tiles") / "world"
    fabricate(root, pairs=150, seed=4, classes=("tennis court", "solar power plant", "lake", "forest", "parking space"))
    return root


@pytest.fixture(scope="module")
def run(tiles: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a run of score_pairs leaves of these tiles; every third pair is kept."""
    folder = tmp_path_factory.mktemp("runs") / "scores"
    pairs = read_pairs(tiles, csv=tiles / TRAIN_CSV)
    images = [pair.image for pair in pairs]
    EmbeddingShards(folder / "embeddings", len(images)).write(
        0, Scorer.load("miniature").embed_images(images).astype(np.float16)
    )
    kept = [place % 3 == 0 for place in range(len(images))]
    captions = [pair.captions[0] for pair in pairs]
    pq.write_table(pa.table({"image": list(map(str, images)), "caption": captions, "kept": kept}), folder / "scores.parquet")
    (folder / "config.yaml").write_text("scorer:\n  name: miniature\n  batch_size: 64\n")
    return folder


def test_tennis_courts_and_solar_panels_are_found(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    sheet = tmp_path / "sheet.png"
    words = ["--text", "tennis court", "solar panels", "--count", "10", "--template", "a satellite image of {}"]
    *lines, last = say(capsys, run, *words, "--output", sheet).splitlines()
    assert last == str(sheet)
    assert [line for line in lines if not line.startswith("  ")] == ["tennis court", "solar panels"]
    middle = lines.index("solar panels")
    assert sum("sport of tennis" in line for line in lines[1:middle]) >= 9  # a few captions of the world are false
    assert sum("plant source of solar" in line for line in lines[middle + 1 :]) >= 9
    assert len(lines) == 22
    cosines = [float(line.split()[0]) for line in lines[1:middle]]
    assert cosines == sorted(cosines, reverse=True)
    with Image.open(sheet) as image:
        assert image.size[0] == 1288
        assert image.size[1] > 1500


def test_a_picture_is_nearest_to_itself_and_only_kept_pairs_are_searched(
    run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    table = pq.read_table(run / "scores.parquet").to_pylist()
    page = tmp_path / "page.html"
    wanted = table[4]["image"]
    found = re.findall(r"^  (\S+) .*\((.+)\)$", say(capsys, run, "--image", wanted, "--count", "3", "--output", page), re.M)
    assert found[0] == ("1.0000", wanted)
    assert len(found) == 3
    said = say(capsys, run, "--image", wanted, "--kept", "--count", "1000", "--output", page)
    kept = {row["image"] for row in table if row["kept"]}
    assert {image for _, image in re.findall(r"^  (\S+) .*\((.+)\)$", said, re.M)} == kept
    assert wanted not in kept
    assert f"{len(kept):,} kept images of scores, by miniature" in page.read_text()


def test_a_folder_of_images_is_embedded_and_searched(
    tiles: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    benchmark = tiles / "benchmark"
    said = say(capsys, benchmark, "--text", "a satellite image of tennis court", "--count", "2")
    assert said.splitlines()[-1] == "search.html"
    assert (tmp_path / "search.html").read_text().count("<figure>") == 2
    (cached,) = (benchmark / ".skygen" / "search").iterdir()
    before = {path.name: path.stat().st_mtime_ns for path in cached.iterdir()}
    assert say(capsys, benchmark, "--text", "a satellite image of tennis court", "--count", "2") == said
    assert {path.name: path.stat().st_mtime_ns for path in cached.iterdir()} == before
    assert "000000.npy" in before


def test_what_cannot_be_searched_is_one_sentence(run: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    nothing = 'skygen: nothing to look for; give --text "tennis court" or --image PATH, or several of each.\n'
    assert say(capsys, run, code=2) == nothing
    cases: list[tuple[list[str], int, str]] = [
        (["--text", "x", "--template", "of"], 2, "--template of: has no {}, where the text goes; write it like "),
        (["--text", "x", "--count", "0"], 2, "--count 0: must be from 1 to 1,000."),
        (["--text", "x", "--output", "x.pdf"], 2, "--output x.pdf: a contact sheet is a .png or an .html file; "),
        (
            ["--text", "x", "--scorer", "openai-rn50"],
            2,
            f"--scorer openai-rn50: the embeddings of {run} are by miniature; leave",
        ),
        (["--image", "gone.png"], 65, "--image gone.png: cannot be used (missing: no such file); give another picture."),
    ]
    for words, code, sentence in cases:
        said = say(capsys, run, *words, code=code)
        assert said.startswith(f"skygen: {sentence}")
        assert said.count("\n") == 1
    bare = tmp_path / "bare"
    bare.mkdir()
    (bare / "run_status.json").write_text("{}")
    assert "--scoring.save_embeddings True" in say(capsys, bare, "--text", "x", code=65)
    assert "no such folder" in say(capsys, tmp_path / "gone", "--text", "x", code=69)
