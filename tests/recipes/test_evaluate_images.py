"""Generated images evaluated: several models side by side, by any number of processes, with what has leaked told first."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipes.processes import ROOT, end_all, launcher, run

from skygen.data.images import open_image
from skygen.data.pairs import read_pairs
from skygen.evaluation.comparison import compare_runs
from skygen.evaluation.items import ItemScores
from skygen.miniature.fabricate import fabricate
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

TRAIN_CSV, COUNT = "SkyScript_train_unfiltered_5M.csv", 24
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("evaluated") / "world"
    fabricate(root, pairs=50, seed=21, benchmark=26)
    return root


@pytest.fixture(scope="module")
def sets(data: Path, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    """Pictures of the same prompts: noisy tiles as the base's, tiles as the tuned model's, and one chosen among four."""
    folder = tmp_path_factory.mktemp("sets")
    pairs = read_pairs(data, csv=TRAIN_CSV)[:COUNT]
    roots = {}
    for name, model, candidates, spread in (("base", "base", 1, 60), ("tuned", "tuned", 1, 12), ("best", "tuned", 4, 4)):
        roots[name] = folder / name / "samples"
        (roots[name] / "images").mkdir(parents=True)
        lines = []
        for index, pair in enumerate(pairs):
            pixels = np.asarray(open_image(pair.image)).astype(np.float64)
            noise = Seeds(1).numpy(name, index).normal(0, spread, pixels.shape)
            file_name = f"images/{index:06d}.png"
            Image.fromarray((pixels + noise).clip(0, 255).astype(np.uint8)).save(roots[name] / file_name)
            lines.append({"file_name": file_name, "text": pair.captions[0], "index": index, "seed": index * candidates,
                          "key": pair.key, "class": pair.class_name, "model": model,
                          "candidate_scores": [0.5] * candidates})  # fmt: skip
        (roots[name] / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return roots


def words(data: Path, sets: dict[str, Path], name: str, root: Path, **more: str | Path) -> list[str]:
    flags = {"run.name": name, "run.root": root, "samples.root": sets["tuned"], "samples.base_root": sets["base"],
             "samples.also": sets["best"], "pairs.root": data, "pairs.csv": TRAIN_CSV, "pairs.split": "train",
             "training.root": data, "training.csv": TRAIN_CSV, "judge.name": "miniature",
             "intervals.resamples": "20"} | more  # fmt: skip
    return [f"--{key}={value}" for key, value in flags.items()]


def recipe(arguments: list[str], processes: int = 0, code: int = 0) -> str:
    begin = launcher(processes) if processes else [sys.executable]
    return run([*begin, str(ROOT / "recipes" / "evaluate_images.py"), *arguments], code)


def read_metrics(folder: Path) -> Any:
    return json.loads((folder / "metrics.json").read_text())


def read_records(root: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in (root / "metadata.jsonl").read_text().splitlines()]


@pytest.fixture(scope="module")
def captions(sets: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What a captioner would say that says back each prompt."""
    path = tmp_path_factory.mktemp("captions") / "captions.jsonl"
    lines = [{"file_name": str(sets["tuned"] / one["file_name"]), "text": one["text"]} for one in read_records(sets["tuned"])]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


@pytest.fixture(scope="module")
def scored(data: Path, sets: dict[str, Path], captions: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run of one process, and what it said."""
    root = tmp_path_factory.mktemp("runs")
    said = recipe(words(data, sets, "scored", root, **{"cycle.captions": captions}))
    (root / "scored" / "said.txt").write_text(said)
    return root / "scored"


def test_models_are_scored_beside_each_other_alike_by_one_process_and_by_two(
    data: Path, sets: dict[str, Path], captions: Path, scored: Path, tmp_path: Path
) -> None:
    recipe(words(data, sets, "two", tmp_path, **{"cycle.captions": captions}), processes=2)
    one, two = read_metrics(scored), read_metrics(tmp_path / "two")
    for metrics in (one, two):
        assert metrics.pop("seconds").keys() >= {"kid, skyclip:miniature", "turned, skyclip:miniature"}
    assert one == two
    assert one["protocol"] == "skygen-1"
    assert one["counts"] == {"tuned": 24, "base": 24, "tuned, best of 4": 24, "real": 40}
    (scorer,) = [found for found in one["extractors"] if found["name"] == "skyclip:miniature"]
    assert len(scorer["weights"]) == 16 and scorer["dimension"] == 128
    values = {(score["name"], score["model"]): score["value"] for score in one["scores"]}
    every = ("skyclip_score", "kid", "cmmd", "precision", "coverage", "vendi_score", "judge_accuracy", "zero_shot_top_1",
             "image_to_prompt_recall_at_1", "skyclip_score_turned", "skyclip_score_above_shuffled")  # fmt: skip
    for name in every:
        assert {(name, model) for model in ("tuned", "base", "tuned, best of 4")} <= values.keys(), name
    assert values["skyclip_score", "tuned, best of 4"] > values["skyclip_score", "tuned"] > values["skyclip_score", "base"]
    assert values["kid", "tuned, best of 4"] < values["kid", "tuned"] < values["kid", "base"]


def test_what_has_leaked_is_told(scored: Path) -> None:
    leaked = {found["question"]: found["answer"] for found in read_metrics(scored)["leakage"]}
    assert leaked == {
        "Was skyclip:miniature trained on the evaluation data?": "yes",
        "Was skyclip:miniature trained on the generator's training data?": "yes",
        "Were pictures chosen by a scorer?": "partly",
        "Did the generator read the prompts in training?": "yes",
        "Are the real images among the training images?": "yes",
        "Was judge:miniature trained on the evaluation data?": "yes",
    }
    assert "Are the real images among the training images? yes. 40 of 40" in (scored / "said.txt").read_text()


def test_scores_are_told_by_group(scored: Path) -> None:
    strata = read_metrics(scored)["strata"]
    classes = [each for each in strata if each["stratum"] == "class" and each["score"]["name"] == "skyclip_score"]
    assert len(classes) > 1 and all(each["score"]["count"] >= 2 for each in classes)


def test_single_pictures_are_kept_and_compared_between_models(sets: dict[str, Path], scored: Path) -> None:
    items = ItemScores.read(scored / "items.jsonl")
    metric = "skyclip_score@skyclip:miniature"
    texts = [record["text"] for record in read_records(sets["tuned"])]
    expected = Scorer.load("miniature").similarity([sets["tuned"] / key for key in items.keys], texts)
    np.testing.assert_allclose(items.values("tuned", metric), expected, atol=1e-5)
    split, differences = compare_runs((scored, scored), ("tuned", "base"), seeds=Seeds(0))
    assert split["images"] == 24
    found = {each.metric: each for each in differences}
    assert found[metric].interval[0] > 0 and found[metric].p_value is not None and found[metric].p_value < 0.01
    rows = [json.loads(line) for line in (scored / "pictures.jsonl").read_text().splitlines()]
    assert len(rows) == 24
    assert all(list(row["images"]) == ["real", "tuned", "base", "tuned, best of 4"] for row in rows)
    assert len({open_image(Path(path)).size for path in rows[5]["images"].values()}) == 1
    assert rows[3]["skyclip_score"]["base"] == items.values("base", metric)[3]
    assert set(rows[0]["judged"]) == {"tuned", "base", "tuned, best of 4"}


def test_captions_of_the_pictures_are_scored_against_their_prompts(scored: Path) -> None:
    (score,) = [score for score in read_metrics(scored)["scores"] if score["name"] == "cycle_score"]
    assert (score["model"], score["count"]) == ("tuned", 24) and score["value"] == pytest.approx(1.0, abs=1e-5)


def test_features_are_computed_once_and_an_image_that_is_replaced_is_looked_at_anew(
    data: Path, sets: dict[str, Path], scored: Path
) -> None:
    arguments = words(data, sets, "scored", scored.parent)
    kept = {path: path.stat().st_mtime_ns for path in (scored / "features").rglob("*.npy")}
    before = read_metrics(scored)
    assert len(kept) >= 3 * 4  # readable, features and judgements of three drawn sets and the real one
    victim = sets["base"] / "images" / "000000.png"
    original = victim.read_bytes()
    try:
        Image.new("RGB", (64, 64)).save(victim)
        recipe(arguments)
    finally:
        victim.write_bytes(original)
    assert {path: path.stat().st_mtime_ns for path in kept} == kept
    assert len(list((scored / "features").rglob("*.npy"))) == len(kept) + 3  # of the set with the new image
    own = [{score["model"]: score["value"] for score in metrics["scores"] if score["name"] == "skyclip_score"}
           for metrics in (before, read_metrics(scored))]  # fmt: skip
    assert own[0]["base"] != own[1]["base"] and own[0]["tuned"] == own[1]["tuned"]


def test_a_protocol_refuses_other_images_and_an_unreadable_picture_is_noted(
    data: Path, sets: dict[str, Path], tmp_path: Path
) -> None:
    said = recipe(words(data, sets, "other", tmp_path, protocol="rsdiff-1093"), code=2)
    assert "--protocol rsdiff-1093 takes features of inception alone" in said
    assert "Traceback" not in said
    victim = sets["best"] / "images" / "000003.png"
    original = victim.read_bytes()
    try:
        victim.write_bytes(original[:500])
        assert "1 of 24" in recipe(words(data, sets, "bad", tmp_path), code=65)
        recipe(words(data, sets, "bad", tmp_path, **{"samples.max_bad_fraction": "0.05"}))
    finally:
        victim.write_bytes(original)
    assert read_metrics(tmp_path / "bad")["counts"]["tuned, best of 4"] == 23
    assert "images/000003.png" in (tmp_path / "bad" / "rejects_samples.jsonl").read_text()
