"""The scoring recipe: the same scores from one or two processes and after a kill, and what it writes about them."""

from __future__ import annotations

import csv
import json
import os
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.parquet as pq
import pytest
from recipes.processes import ROOT, end_all, kill_all, launcher, run, start, wait_until

TRAIN_CSV = "SkyScript_train_unfiltered_5M.csv"
PAIRS = 4_200
"""Of the large world, on 48 images: a shard of 4,096, and one of 104 that is there long before it."""
pytestmark = pytest.mark.slow


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(scope="module")
def large(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with its training images linked under so many names that they fill more than one shard."""
    root = tmp_path_factory.mktemp("large") / "world"
    with (world / TRAIN_CSV).open(newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    listed = []
    for number in range(PAIRS):
        row = rows[number % len(rows)]
        folder, _, file_name = row["filepath"].partition("/")
        name = f"{folder}/{file_name[0]}{number:05d}{file_name[1:]}"
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        os.link(world / row["filepath"], root / name)
        listed.append({**row, "filepath": name, "title": "" if number % 1000 == 7 else row["title"]})
    with (root / TRAIN_CSV).open("w", newline="", encoding="utf-8") as file:
        table = csv.DictWriter(file, rows[0].keys())
        table.writeheader()
        table.writerows(listed)
    return root


def command(name: str, root: Path, data: Path, model: Path, *words: str, processes: int = 0) -> list[str]:
    recipe = [str(ROOT / "recipes" / "score_pairs.py"), "--run.name", name, "--run.root", str(root), "--pairs.root", str(data)]
    start = launcher(processes) if processes else [sys.executable]
    return [*start, *recipe, "--pairs.csv", TRAIN_CSV, "--scorer.name", str(model), *words]


def read_scores(run_folder: Path) -> dict[str, dict[str, Any]]:
    return {row["key"]: row for row in pq.read_table(run_folder / "scores.parquet").to_pylist()}


def largest_difference(first: dict[str, dict[str, Any]], second: dict[str, dict[str, Any]], measure: str) -> float:
    assert first.keys() == second.keys()
    both = np.array([(row[measure], second[key][measure]) for key, row in first.items()], dtype=np.float64)
    assert np.array_equal(np.isnan(both[:, 0]), np.isnan(both[:, 1]))
    return float(np.nanmax(np.abs(both[:, 0] - both[:, 1])))


def read_metrics(run_folder: Path) -> dict[tuple[str, str, str], dict[str, Any]]:
    scores = json.loads((run_folder / "metrics.json").read_text())["scores"]
    return {(score["name"], score["model"], score["subset"]): score for score in scores}


def test_one_or_two_processes_killed_or_not_give_the_same_scores(large: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    exact = (
        "--scoring.precision",
        "fp32",
        "--keep",
        "top_30_percent",
        "--scoring.caption_columns",
        "title_multi_objects",
        "title",
    )
    run(command("one", tmp_path, large, skyclip_folder, *exact, processes=1))
    killed = start(command("two", tmp_path, large, skyclip_folder, *exact, "--scoring.batch_size", "24", processes=2))
    shards = tmp_path / "two" / "parts" / "scores"
    wait_until(lambda: any(shards.glob("part-*.parquet")), killed, "no shard came")
    kill_all(killed.pid)
    killed.communicate()
    finished = {path: path.stat().st_mtime_ns for path in shards.glob("part-*.parquet")}
    assert [path.name for path in finished] == ["part-000001.parquet"]
    assert not (tmp_path / "two" / "scores.parquet").exists()
    said = run(command("two", tmp_path, large, skyclip_folder, *exact, "--scoring.batch_size", "100", processes=2))
    assert "pairs scored by the first of 2 processes" in said and "a second" in said and "min left" in said
    assert len(list(shards.glob("part-*.parquet"))) == 2
    assert {path: path.stat().st_mtime_ns for path in finished} == finished
    first, second = (read_scores(tmp_path / name) for name in ("one", "two"))
    assert len(first) == PAIRS
    for measure in ("similarity", "margin", "mismatched", "similarity:title", "margin:title", "mismatched:title"):
        assert largest_difference(first, second, measure) < 1e-5
    assert sum(row["kept"] for row in first.values()) == 1_260
    assert sum(np.isnan(row["similarity:title"]) for row in first.values()) == 5  # of the further column alone
    metrics = read_metrics(tmp_path / "one")
    assert metrics["skyclip_score", "real", "all, title_multi_objects"]["count"] == PAIRS
    assert metrics["skyclip_score", "real", "all, title"]["count"] == PAIRS - 5
    assert 0 <= metrics["matching_roc_auc", "real", "all, title"]["value"] <= 1


def test_bfloat16_is_compared_with_float32(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    said = run(command("rounded", tmp_path, world, skyclip_folder, "--scoring.precision", "bf16", "--keep", "top_30_percent"))
    assert "48 pairs are scored in float32 too, to see what bfloat16 changes" in said
    run(command("exact", tmp_path, world, skyclip_folder, "--scoring.precision", "fp32", "--keep", "top_30_percent"))
    rounded, exact = (read_scores(tmp_path / name) for name in ("rounded", "exact"))
    metrics = read_metrics(tmp_path / "rounded")
    difference = largest_difference(rounded, exact, "similarity")
    assert 1e-6 < difference < 0.02
    assert metrics["bf16_largest_difference", "real", "all"]["value"] == pytest.approx(difference, abs=1e-5)
    kept = [{key for key, row in scores.items() if row["kept"]} for scores in (rounded, exact)]
    assert [len(keys) for keys in kept] == [14, 14]
    overlap = metrics["bf16_kept_overlap", "real", "all"]
    assert overlap["value"] == pytest.approx(len(kept[0] & kept[1]) / len(kept[0] | kept[1]))
    assert overlap["count"] == 48
    assert 0.5 < metrics["bf16_rank_correlation", "real", "all"]["value"] <= 1
    assert not any(name.startswith("bf16") for name, _, _ in read_metrics(tmp_path / "exact"))


def test_a_further_scorer_stands_beside_the_one_that_decides(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    words = ("--scoring.precision", "fp32", "--keep", "top_30_percent")
    run(command("both", tmp_path, world, "miniature", *words, "--scorer.also", str(skyclip_folder)))
    run(command("other", tmp_path, world, skyclip_folder, *words))
    both, other = (read_scores(tmp_path / name) for name in ("both", "other"))
    assert both.keys() == other.keys() and len(both) == 48
    for key, row in both.items():
        assert row[f"similarity@{skyclip_folder}"] == pytest.approx(other[key]["similarity"], abs=1e-5)
        assert row["similarity"] != pytest.approx(other[key]["similarity"], abs=1e-5)
    scores = json.loads((tmp_path / "both" / "metrics.json").read_text())["scores"]
    extractors = [score["extractor"] for score in scores if (score["name"], score["model"]) == ("skyclip_score", "real")]
    assert extractors == ["skyclip:miniature", f"skyclip:{skyclip_folder}"]


def test_the_rule_may_change_and_the_pairs_may_not(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    words = ("--scoring.precision", "fp32", "--scoring.save_embeddings", "True")
    run(command("a", tmp_path, world, skyclip_folder, *words, "--keep", "top_30_percent"))
    (shard,) = (tmp_path / "a" / "parts" / "scores").iterdir()
    before = shard.stat().st_mtime_ns
    assert np.load(tmp_path / "a" / "embeddings" / "000000.npy").shape[0] == 48
    scores = read_scores(tmp_path / "a")
    assert sum(row["kept"] for row in scores.values()) == 14
    threshold = float(np.median([row["similarity"] for row in scores.values()]))
    run(command("a", tmp_path, world, skyclip_folder, *words, "--keep", str(threshold)))
    assert sum(row["kept"] for row in read_scores(tmp_path / "a").values()) == 24
    run(command("a", tmp_path, world, skyclip_folder, *words, "--keep", "top_1_percent_per_class"))
    kept = [row["class_name"] for row in read_scores(tmp_path / "a").values() if row["kept"]]
    assert len(kept) == len(set(kept)) == len({row["class_name"] for row in scores.values()})
    assert shard.stat().st_mtime_ns == before
    said = run(command("a", tmp_path, world, skyclip_folder, *words, "--pairs.limit", "20"), code=2)
    assert f"{tmp_path / 'a'} has scored other pairs or captions; choose another --run.name for these." in said
    said = run(command("a", tmp_path, world, skyclip_folder, "--scoring.precision", "bf16"), code=2)
    assert f"{tmp_path / 'a'} was begun in fp32; go on with it, or choose another --run.name." in said
    other = shutil.copytree(skyclip_folder, tmp_path / "other")
    said = run(command("a", tmp_path, world, other, *words), code=2)
    assert "this run was begun with --scorer.name" in said
