"""A scorer is evaluated on labelled images and on pairs; bad images are noted, too many of them end the run."""

from __future__ import annotations

import json
import shutil
import sys
from pathlib import Path

import pytest
from PIL import Image
from recipe_modules import load_recipe
from recipes.processes import ROOT, run

from skygen.data.benchmarks import BenchmarkSettings, find_benchmark_set
from skygen.evaluation.scores import Score
from skygen.evaluation.zero_shot import SEVEN_SETS
from skygen.models.scorer import Scorer, ScorerSettings
from skygen.runs import Run, RunSettings


def evaluate(*words: str | Path, code: int = 0) -> str:
    """Run the recipe as a user would, and return what it said."""
    return run([sys.executable, str(ROOT / "recipes" / "evaluate_scorer.py"), *map(str, words)], code)


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
    assert json.loads((tmp_path / "scored" / "metrics.json").read_text())["protocol"] == "skygen-1, retrieval skyscript"
    published = json.loads((tmp_path / "scored" / "published.json").read_text())
    assert published["comparisons"] == [] and published["all_agree"] is None  # nothing is published of this scorer
    rejects = map(json.loads, (tmp_path / "scored" / "rejects.jsonl").read_text().splitlines())
    (reject,) = [line for line in rejects if "part" not in line]  # rows that repeat a caption are parts of a pair that is kept
    assert reject["where"] == str(victim)


@pytest.mark.slow
def test_contradictions_and_nothing_to_do_are_explained(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    words: list[str | Path] = ["--run.name", "scored", "--run.root", tmp_path, "--scorer.name", skyclip_folder]
    assert "nothing to evaluate on" in evaluate(*words, code=2)
    retrieval: list[str | Path] = ["--retrieval.root", world, "--retrieval.sets", "SkyScript", "--retrieval.split", "test"]
    assert "--retrieval.sets says by itself what is read" in evaluate(*words, *retrieval, code=2)
    prefixed = ["--retrieval.protocol", "remoteclip", "--retrieval.prefix", "a satellite image. "]
    assert "remoteclip takes captions without a prefix" in evaluate(*words, *retrieval[:2], *prefixed, code=2)


@pytest.mark.slow
def test_remoteclips_protocol_takes_the_caption_files_of_remote_sensing(skyclip_folder: Path, tmp_path: Path) -> None:
    images = []
    for number in range(12):
        name = f"river_{number}.png"
        (tmp_path / "RSICD_images").mkdir(exist_ok=True)
        Image.new("RGB", (64, 64), (number * 20, 90, 200 - number * 10)).save(tmp_path / "RSICD_images" / name)
        said = [f"river number {number}"] * 2 + ["a river runs"]
        images.append({"filename": name, "split": "test", "sentences": [{"raw": text, "tokens": []} for text in said]})
    (tmp_path / "dataset_rsicd.json").write_text(json.dumps({"images": images, "dataset": "rsicd"}))
    words: list[str | Path] = [
        "--run.root", tmp_path, "--scorer.name", skyclip_folder, "--retrieval.root", tmp_path, "--retrieval.split", "test",
        "--retrieval.name", "RSICD",
    ]  # fmt: skip
    counts = {}
    for protocol in ("skyscript", "remoteclip"):
        evaluate("--run.name", protocol, "--retrieval.protocol", protocol, *words)
        metrics = json.loads((tmp_path / protocol / "metrics.json").read_text())
        assert metrics["protocol"] == f"skygen-1, retrieval {protocol}"
        assert {score["subset"] for score in metrics["scores"]} == {"RSICD"}
        assert {score["name"].endswith("_remoteclip") for score in metrics["scores"]} == {protocol == "remoteclip"}
        counts[protocol] = {score["name"].removesuffix("_remoteclip"): score["count"] for score in metrics["scores"]}
    assert counts["skyscript"]["text_to_image_recall_at_1"] == 13
    assert counts["remoteclip"]["text_to_image_recall_at_1"] == 36
    assert counts["remoteclip"]["mean_recall"] == 12 and "mean_recall" not in counts["skyscript"]


def test_the_seven_sets_and_both_wordings_run_together(tmp_path: Path, skyclip_folder: Path) -> None:
    names = (*SEVEN_SETS, "roof_shape", "roof_shape_v2")
    for name in names:
        known = find_benchmark_set(name)[1]
        folder = tmp_path / "benchmark" / known.folder
        folder.mkdir(parents=True, exist_ok=True)
        (folder / f"classnames{known.version}.txt").write_text("dam\nbarn\n")
        rows = [f"{known.folder}/{label}.png,a title,{label},{label}" for label in (0, 1)]
        labels = "label_v1,label_v2" if known.version else "label,other"
        (folder / known.csv).write_text("\n".join([f"filepath,title,{labels}", *rows]) + "\n")
        for label in (0, 1):
            Image.new("RGB", (64, 64), (250 * label, 90, 20)).save(folder / f"{label}.png")
    recipe = load_recipe("evaluate_scorer")
    config = recipe.Config(
        RunSettings("scored", tmp_path),
        scorer=ScorerSettings(str(skyclip_folder)),
        benchmark=BenchmarkSettings(tmp_path / "benchmark", sets=names),
    )
    recipe.main(config)
    metrics = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    own = [score for score in metrics["scores"] if score["model"] == "scorer"]
    assert [score["subset"] for score in own] == [*names, "seven sets"]
    assert own[-1]["name"] == "zero_shot_top_1_mean_of_seven" and own[-1]["count"] == 14
    assert own[-1]["value"] == pytest.approx(sum(score["value"] for score in own[:7]) / 7)
    assert metrics["protocol"] == "skygen-1"


def test_published_weights_on_published_sets_are_put_beside_what_was_printed(
    tmp_path: Path, skyclip_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    recipe = load_recipe("evaluate_scorer")
    scorer = Scorer.load(str(skyclip_folder))
    scorer.name, scorer.trained_on = "skyclip-vit-l14-top30pct-multi-objects", ("SkyScript",)
    retrieval = recipe.RetrievalSettings(tmp_path, sets=("SkyScript", "RSICD"))
    config = recipe.Config(RunSettings("scored", tmp_path), retrieval=retrieval)
    scores = [
        Score(f"{direction}_mean_recall", value, 100, None, "scorer", subset, "skyclip:x")
        for subset, both in (("SkyScript", (0.0853, 0.0773)), ("RSICD", (0.2370, 0.1980)))
        for direction, value in zip(("image_to_text", "text_to_image"), both, strict=True)
    ]
    with caplog.at_level("INFO", logger="skygen"), Run(config.run, config) as run:
        recipe.write_scores(run, config, scorer, scores)
    metrics = json.loads((tmp_path / "scored" / "metrics.json").read_text())
    assert [score["subset"] for score in metrics["scores"]] == ["SkyScript (in-sample)"] * 2 + ["RSICD"] * 2
    published = json.loads((tmp_path / "scored" / "published.json").read_text())
    assert (published["in_sample"], published["all_agree"]) == (["SkyScript"], False)
    assert [(own["published"]["value"], own["agrees"]) for own in published["comparisons"]] == [
        (8.53, True), (7.73, True), (23.7, True), (19.97, False),
    ]  # fmt: skip
    assert "(8.53)" in caplog.text and "-0.17" in caplog.text
    assert "1 of 4 published figures are not reproduced within 0.1 points: text_to_image_mean_recall of RSICD" in caplog.text


def test_only_whole_sets_as_they_were_published_are_compared() -> None:
    settings = load_recipe("evaluate_scorer").RetrievalSettings
    prefix = "a satellite image. "
    assert settings(sets=("RSICD",)).whole_sets() == ("RSICD",)
    assert settings(name="RSICD", split="test", prefix=prefix).whole_sets() == ("RSICD",)
    others = [
        settings(sets=("RSICD",), limit=10), settings(name="RSICD", split="train", prefix=prefix),
        settings(name="RSICD", split="test"), settings(name="mine", split="test", prefix=prefix), settings(split="test"),
    ]  # fmt: skip
    assert [own.whole_sets() for own in others] == [()] * 5
