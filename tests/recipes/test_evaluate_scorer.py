"""A scorer is evaluated on labelled images and on pairs; bad images are noted, too many of them end the run."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

REPOSITORY = Path(__file__).resolve().parents[2]


def evaluate(*words: str | Path, code: int = 0) -> str:
    """Run the recipe as a user would, and return what it said."""
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "OMP_NUM_THREADS": "1"}
    command = [sys.executable, str(REPOSITORY / "recipes" / "evaluate_scorer.py"), *map(str, words)]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, cwd=REPOSITORY, timeout=300, check=False)
    assert done.returncode == code, done.stderr
    return done.stderr


@pytest.mark.slow
def test_a_scorer_is_evaluated_on_benchmarks_class_folders_and_pairs(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    victim = min((root / "benchmark" / "SkyScript_cls").rglob("*.jpg"))
    victim.write_bytes(victim.read_bytes()[:400])
    for name in ("SeaLake", "Forest"):
        (tmp_path / "own" / "test" / name).mkdir(parents=True)
        Image.new("RGB", (64, 64), "navy").save(tmp_path / "own" / "test" / name / "1.png")
    words: list[str | Path] = [
        "--run.name", "scored", "--run.root", tmp_path, "--scorer.name", skyclip_folder,
        "--benchmark.root", root / "benchmark", "--benchmark.sets", "SkyScript_cls",
        "--benchmark.class_folders", tmp_path / "own",
        "--retrieval.root", root, "--retrieval.sets", "SkyScript", "ucmcaptions",
    ]  # fmt: skip
    sentence = evaluate(*words, code=65)
    assert "1 of " in sentence and "--max_bad_fraction" in sentence
    evaluate(*words, "--max_bad_fraction", "0.2")
    scores = json.loads((tmp_path / "scored" / "metrics.json").read_text())["scores"]
    assert {(score["name"], score["subset"]) for score in scores} >= {
        ("zero_shot_top_1", "SkyScript_cls"), ("zero_shot_top_5", "SkyScript_cls"), ("zero_shot_top_1", "own"),
        ("image_to_text_recall_at_1", "SkyScript"), ("text_to_image_mean_recall", "ucmcaptions"),
    }  # fmt: skip
    assert {score["model"] for score in scores} == {"scorer", "random"}
    images = len(list((root / "benchmark" / "SkyScript_cls").rglob("*.jpg")))
    counts = {(score["subset"], score["name"]): score["count"] for score in scores}
    assert counts["SkyScript_cls", "zero_shot_top_1"] == images - 1
    assert counts["own", "zero_shot_top_1"] == 2
    assert counts["ucmcaptions", "image_to_text_recall_at_1"] == 13
    (line,) = (tmp_path / "scored" / "rejects.jsonl").read_text().splitlines()
    assert json.loads(line)["where"] == str(victim)


@pytest.mark.slow
def test_contradictions_and_nothing_to_do_are_explained(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["--run.name", "scored", "--run.root", tmp_path, "--scorer.name", skyclip_folder]
    assert "nothing to evaluate on" in evaluate(*words, code=2)
    retrieval: list[str | Path] = ["--retrieval.root", world, "--retrieval.sets", "SkyScript", "--retrieval.split", "test"]
    assert "--retrieval.sets says by itself what is read" in evaluate(*words, *retrieval, code=2)
