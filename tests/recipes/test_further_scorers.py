"""``--scorer.also``: each recipe that reports a CLIP's score reports that of every CLIP that is named."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from skygen.config import parse
from skygen.models.scorer import Scorer

ROOT = Path(__file__).resolve().parents[2]
TEST_CSV = "SkyScript_test_30K_filtered_by_CLIP_openai.csv"


def run_recipe(name: str, *words: str | Path) -> None:
    """Run a recipe in this process, as its command would."""
    spec = importlib.util.spec_from_file_location(f"also_{name}", ROOT / "recipes" / f"{name}.py")
    assert spec is not None
    assert spec.loader is not None
    module: Any = importlib.util.module_from_spec(spec)
    sys.modules[spec.name] = module
    spec.loader.exec_module(module)
    module.main(parse(module.Config, list(map(str, words))))


def read_scores(run: Path, metric: str) -> dict[tuple[str, str], float]:
    scores = json.loads((run / "metrics.json").read_text())["scores"]
    return {(score["model"], score["extractor"]): score["value"] for score in scores if score["name"] == metric}


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pictures_are_scored_by_every_scorer_and_chosen_by_the_first(
    world: Path, stable_diffusion_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    judges: list[str | Path] = ["--scorer.name", "miniature", "--scorer.also", skyclip_folder]
    first, further = "skyclip:miniature", f"skyclip:{skyclip_folder}"
    drawing: list[str | Path] = ["--run.root", tmp_path, "--prompts.file", world / TEST_CSV, "--model.name",
                                 stable_diffusion_folder, "--generation.num_inference_steps", "1", "--generation.count", "4",
                                 "--selection.candidates", "2"]  # fmt: skip
    run_recipe("generate", "--run.name", "drawn", *drawing, *judges)
    run_recipe("generate", "--run.name", "alone", *drawing, "--scorer.name", "miniature")
    samples = tmp_path / "drawn" / "samples"
    records = read_lines(samples / "metadata.jsonl")
    assert len(records) == 4
    assert [record["seed"] for record in records] == [
        record["seed"] for record in read_lines(tmp_path / "alone" / "samples" / "metadata.jsonl")
    ]
    assert not (tmp_path / "alone" / "metrics.json").exists()
    scores = read_scores(tmp_path / "drawn", "skyclip_score")
    assert scores.keys() == {(model, judge) for model in ("base", "shuffled") for judge in (first, further)}
    mean = sum(record["skyclip_score"] for record in records) / 4
    assert scores["base", first] == pytest.approx(mean, abs=1e-4)  # of a PNG, which rounds nothing
    pictures, prompts = [samples / record["file_name"] for record in records], [record["text"] for record in records]
    expected = Scorer.load(str(skyclip_folder)).similarity(pictures, prompts).mean()
    assert scores["base", further] == pytest.approx(float(expected), abs=1e-5)

    test_pairs: list[str | Path] = ["--pairs.root", world, "--pairs.csv", TEST_CSV, "--pairs.split", "test"]
    run_recipe(
        "evaluate_images", "--run.name", "images", "--run.root", tmp_path, "--samples.root", samples, *test_pairs, *judges
    )
    scores = read_scores(tmp_path / "images", "skyclip_score")
    assert scores.keys() == {(model, judge) for model in ("base", "shuffled", "real") for judge in (first, further)}
    assert scores["base", further] == pytest.approx(float(expected), abs=1e-5)
    assert scores["base", first] == pytest.approx(mean, abs=1e-4)
    assert {judge for _, judge in read_scores(tmp_path / "images", "kid")} == {first}
    for row, record in zip(read_lines(tmp_path / "images" / "pictures.jsonl"), records, strict=True):
        assert row["skyclip_score"]["base"] == pytest.approx(record["skyclip_score"], abs=1e-4)


def test_captions_are_scored_by_every_scorer(
    world: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run_recipe("evaluate_captions", "--run.name", "captions", "--run.root", tmp_path, "--pairs.root", world, "--pairs.csv",
                   TEST_CSV, "--pairs.split", "test", "--baseline.csv", "SkyScript_train_unfiltered_5M.csv", "--model.name",
                   captioner_folder, "--captioning.max_new_tokens", "4", "--scorer.also", skyclip_folder)  # fmt: skip
    first, further = "skyclip:miniature", f"skyclip:{skyclip_folder}"
    writers = ("base", "constant", "class_mode", "shuffled")
    for metric in ("clip_score", "ref_clip_score"):
        scores = read_scores(tmp_path / "captions", metric)
        assert scores.keys() == {(writer, judge) for writer in writers for judge in (first, further)}
        assert scores["constant", first] != scores["constant", further]
    assert read_scores(tmp_path / "captions", "cider_d").keys() == {(writer, "") for writer in writers}
    said = [record.message for record in caplog.records if record.name == "skygen.evaluation.panel"]
    assert len(said) == 2
    assert said[0].startswith(f"{first}: ")
    assert said[1] == f"{further}: of unknown training data"
