"""Pictures in bulk: a run goes on with the plan that it was begun with."""

from __future__ import annotations

import json
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from recipes.processes import ROOT, end_all, launcher, run


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture
def words(world: Path, stable_diffusion_folder: Path, skyclip_folder: Path, tmp_path: Path) -> dict[str, Any]:
    return {
        "run.root": tmp_path,
        "pairs.root": world,
        "pairs.split": "train",
        "model.name": stable_diffusion_folder,
        "scorer.name": skyclip_folder,
        "generation.num_inference_steps": 1,
    }


def command(name: str, processes: int, words: dict[str, Any], **more: Any) -> list[str]:
    flags = [f"--{key}={value}" for key, value in ({"run.name": name} | words | more).items()]
    begin = launcher(processes) if processes else [sys.executable]  # no launcher tells the code a recipe ended with
    return [*begin, str(ROOT / "recipes" / "generate.py"), *flags]


@pytest.mark.slow
def test_a_run_goes_on_with_the_plan_it_was_begun_with(words: dict[str, Any], tmp_path: Path) -> None:
    counted = {"prompts.per": "class", "prompts.count_each": 1, "pairs.limit": 6}
    run(command("set", 1, words, **counted))
    plan = [json.loads(line) for line in (tmp_path / "set" / "plan.jsonl").read_text().splitlines()]
    assert len(plan) > 1 and len({line["class"] for line in plan}) == len(plan)
    records = [json.loads(line) for line in (tmp_path / "set" / "samples" / "metadata.jsonl").read_text().splitlines()]
    assert [(each["text"], each["class"], each["seed"]) for each in records] == [
        (line["text"], line["class"], line["seeds"][0]) for line in plan
    ]
    summary = json.loads((tmp_path / "set" / "plan.json").read_text())
    assert summary["pictures"] == len(plan) and summary["class"] == {line["class"]: 1 for line in plan}
    said = run(command("set", 0, words, **counted | {"prompts.made_of": "classes"}), 2)
    assert f"{tmp_path / 'set' / 'plan.jsonl'}: this run was begun with another plan: picture 0 had the prompt " in said
