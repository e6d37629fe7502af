"""The utility test as a user runs it: on the fabricated world, killed and continued, and shown in a report."""

from __future__ import annotations

import json
import os
import shutil
import signal
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from PIL import Image
from recipe_modules import load_recipe
from recipes.processes import ROOT, end_all, finish, launcher, run, start, wait_until

from skygen import cli
from skygen.data.pairs import PairSettings, read_pairs
from skygen.errors import ConfigError
from skygen.evaluation.utility.trials import UtilitySettings
from skygen.miniature.fabricate import fabricate
from skygen.runs import RunSettings
from skygen.training.loop import TrainSettings

pytestmark = pytest.mark.slow
KINDS = ("forest", "harbour", "tennis court")


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(scope="module")
def sets(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """A world, and an imagefolder as ``generate`` writes it, whose pictures are tiles of another world."""
    root = tmp_path_factory.mktemp("utility")
    fabricate(root / "world", pairs=150, seed=4, classes=KINDS)
    fabricate(root / "other", pairs=150, seed=5, classes=KINDS)
    lines = []
    for number, pair in enumerate(read_pairs(root / "other", split="train")):
        name = f"images/{number:06d}.jpg"
        (root / "drawn" / "images").mkdir(parents=True, exist_ok=True)
        shutil.copy(pair.image, root / "drawn" / name)
        lines.append(
            {"file_name": name, "text": f"a picture of {pair.class_name}", "class": pair.class_name, "base": "another"}
        )
    (root / "drawn" / "metadata.jsonl").write_text("".join(json.dumps(line) + "\n" for line in lines))
    return root / "world", root / "drawn"


def command(name: str, root: Path, sets: tuple[Path, Path], **changes: Any) -> list[str]:
    words: dict[str, Any] = {"run.name": name, "run.root": root, "real.root": sets[0], "synthetic.root": sets[1]}
    words |= {"train.max_train_steps": 12, "train.train_batch_size": 4, "train.lr_warmup_steps": 2}
    words |= {"train.checkpointing_steps": 3, **{key.replace("__", "."): value for key, value in changes.items()}}
    flags = [f"--{key}={value}" for key, value in words.items()]
    plan = ["--utility.shots", "2", "4", "--utility.seeds", "2", "--utility.multiples", "1", "2"]
    return [*launcher(1), str(ROOT / "recipes" / "evaluate_utility.py"), *flags, *plan]


def lines_of(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_a_killed_comparison_goes_on_to_the_same_results(sets: tuple[Path, Path], tmp_path: Path) -> None:
    said = run(command("whole", tmp_path, sets))
    assert "classifiers trained 16/16" in said
    results = tmp_path / "whole" / "results.jsonl"
    lines = lines_of(results)
    assert len(lines) == 16 and len(lines[0]["predicted"]) == len(read_pairs(sets[0], split="test"))
    assert [line["arm"] for line in lines[:4]] == ["real", "synthetic 2x", "real + synthetic 1x", "real + synthetic 2x"]
    assert [(line["real"], line["synthetic"]) for line in lines[4:8]] == [(12, 0), (0, 24), (12, 12), (12, 24)]
    assert {line["steps"] for line in lines} == {12} and len({line["training"] for line in lines}) == 16

    broken = tmp_path / "broken" / "results.jsonl"
    kept = tmp_path / "broken" / "checkpoints"
    for wanted, ended_by in ((2, signal.SIGTERM), (5, signal.SIGKILL)):
        process = start(command("broken", tmp_path, sets))

        def in_the_middle(wanted: int = wanted) -> bool:
            done = broken.read_text().count("\n") if broken.exists() else 0
            return done >= wanted and any(kept.glob("*/step-*"))

        wait_until(in_the_middle, process, "no trial was in the middle of its training")
        if ended_by == signal.SIGKILL:
            os.killpg(process.pid, ended_by)
        else:
            process.send_signal(ended_by)  # the launcher alone; the recipe hears of its death
        process.communicate(timeout=300)
        assert wanted <= len(lines_of(broken)) < 16
        state = json.loads((tmp_path / "broken" / "run_status.json").read_text())["state"]
        assert state == ("running" if ended_by == signal.SIGKILL else "preempted")
    with broken.open("a") as file:
        file.write('{"arm": "real", "sho')  # as a kill in the middle of a write leaves it
    run(command("broken", tmp_path, sets))
    for name in ("results.jsonl", "metrics.json", "table.md"):
        assert (tmp_path / "broken" / name).read_bytes() == (tmp_path / "whole" / name).read_bytes(), name
    assert not kept.exists()

    metrics = json.loads((tmp_path / "whole" / "metrics.json").read_text())
    own = {(score["name"], score["model"], score["subset"]): score for score in metrics["scores"]}
    assert len(own) == 2 * (2 * 4 + 2 * 3)
    right = [sum(a == b for a, b in zip(line["predicted"], labels_of(sets[0]), strict=True)) for line in lines if is_real(line)]
    score = own["accuracy", "real", "test, 4 real images a class"]
    assert score["value"] == pytest.approx(sum(right) / len(right) / score["count"])
    assert "fewer than 3 seeds" in metrics["notes"][0] and "drawn by another" in metrics["notes"][-1]
    assert len(metrics["differences"]) == 6 and len(metrics["differences"][0]["by_seed"]) == 2

    page = tmp_path / "report.html"
    cli.main(["report", str(tmp_path / "whole"), "--output", str(page)])
    shown = page.read_text()
    assert "accuracy_minus_real" in shown and "real + synthetic 2x" in shown and "4 real images a class" in shown

    refused = finish(start(command("whole", tmp_path, sets, train__max_train_steps=13)), code=1)  # accelerate's for all but 0
    assert "was begun with --train" in refused
    assert "Traceback (most recent call last):\n  File" not in refused.partition("skygen: ")[2].partition("\n")[0]


def is_real(line: dict[str, Any]) -> bool:
    return bool(line["arm"] == "real" and line["shots"] == 4)


def labels_of(world: Path) -> list[int]:
    """Return the place of each test image's class among the sorted ones."""
    names = [pair.class_name or "" for pair in read_pairs(world, split="test")]
    return [sorted(set(names)).index(name) for name in names]


def test_other_images_do_not_go_on_with_a_run_and_other_heads_are_refused(sets: tuple[Path, Path], tmp_path: Path) -> None:
    recipe, drawn = load_recipe("evaluate_utility"), tmp_path / "drawn"
    shutil.copytree(sets[1], drawn)
    config = recipe.Config(
        RunSettings("one", tmp_path),
        recipe.RealPairs(sets[0]),
        PairSettings(drawn),
        UtilitySettings(shots=(2,), seeds=1, multiples=(1,)),
        train=TrainSettings(max_train_steps=1, train_batch_size=4),
    )
    recipe.main(config)
    longer = replace(config, utility=replace(config.utility, seeds=2))
    recipe.main(longer)  # more repetitions go on with those that there are
    lines = lines_of(tmp_path / "one" / "results.jsonl")
    assert [(line["seed"], line["arm"]) for line in lines[::3]] == [(0, "real"), (1, "real")] and len(lines) == 6
    with pytest.raises(ConfigError, match=r"--model\.name miniature: its head lacks the class landuse of forest"):
        recipe.main(replace(config, run=RunSettings("two", tmp_path), model=recipe.ClassifierSettings("miniature")))
    for path in (drawn / "images").iterdir():
        Image.new("RGB", (64, 64), "navy").save(path)
    with pytest.raises(ConfigError, match="synthetic 1x, 2 shots, seed 0 was trained or tested on other images"):
        recipe.main(longer)
    assert json.loads((tmp_path / "one" / "run_status.json").read_text())["state"] == "failed"
    assert lines_of(tmp_path / "one" / "results.jsonl") == lines
