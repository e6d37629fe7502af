"""Pictures in bulk: killed at any moment, by one process or two, in other batches, they end as if nothing had been.

`SKYGEN_KILLS=10` before the command makes it 500 pictures and ten kills, in place of the few of the suite.
"""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Iterator
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from recipes.processes import ROOT, end_all, finish, kill_all, launcher, start, wait_until

from skygen.seeding import Seeds

LONG = "SKYGEN_KILLS" in os.environ
KILLS = int(os.environ.get("SKYGEN_KILLS", "3").split(",")[0])
PICTURES = 500 if LONG else 24
STEPS = 4 if LONG else 1
_LOG = logging.getLogger("skygen")


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
        "generation.num_inference_steps": STEPS,
    }


def command(name: str, processes: int, words: dict[str, Any], **more: Any) -> list[str]:
    flags = [f"--{key}={value}" for key, value in ({"run.name": name} | words | more).items()]
    begin = launcher(processes) if processes else [sys.executable]  # no launcher tells the code a recipe ended with
    return [*begin, str(ROOT / "recipes" / "generate.py"), *flags]


def run(words: list[str], code: int = 0) -> str:
    return finish(start(words), code, timeout=3000)  # of 500 pictures on a machine that does much else


def pictures(run_folder: Path) -> list[Path]:
    return sorted((run_folder / "samples" / "images").glob("[0-9]*.png"))


def digests(run_folder: Path) -> dict[str, str]:
    """Hash all that a run has made, but for the card, which has the run's name."""
    files = [path for path in (run_folder / "samples").rglob("*") if path.is_file() and path.name != "README.md"]
    hashed = {path.relative_to(run_folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in files}
    return hashed | {"plan.jsonl": sha256((run_folder / "plan.jsonl").read_bytes()).hexdigest()}


@pytest.mark.slow
def test_a_set_killed_again_and_again_is_byte_for_byte_the_unbroken_one(words: dict[str, Any], tmp_path: Path) -> None:
    begun = time.monotonic()
    words |= {"generation.count": PICTURES}
    said = run(command("unbroken", 1, words, **{"generation.batch_size": 8}))
    took = time.monotonic() - begun
    assert f"{PICTURES - 8:,} pictures of 64 pixels: about " in said and "on 1 process" in said
    broken, draw, at_kill, halves = tmp_path / "broken", Seeds(KILLS).numpy("kills"), [], 0
    for number in range(KILLS):
        before = len(pictures(broken))
        least = before + (PICTURES - before) // (KILLS - number + 2)
        process = start(command("broken", 1, words, **{"generation.batch_size": 3 + number % 3}))
        wait_until(lambda least=least: len(pictures(broken)) >= least, process, "nothing was drawn")
        if number % 2:
            wait_until(lambda: any((broken / "samples").rglob(".*.part")), process, "nothing was written")
        else:
            time.sleep(float(draw.uniform(0, 0.2)))
        kill_all(process.pid)
        process.communicate(timeout=60)
        at_kill.append(len(pictures(broken)))
        halves += len([path for path in (broken / "samples").rglob(".*.part") if path.is_file()])
        assert not (broken / "samples" / "metadata.jsonl").exists()
    assert at_kill == sorted(set(at_kill)) and at_kill[0] > 0 and at_kill[-1] < PICTURES
    first, second = pictures(broken)[:2]
    first.write_bytes(first.read_bytes()[:-7])
    second.write_bytes(second.read_bytes()[:-1] + b"?")
    said = run(command("broken", 2, words, **{"generation.batch_size": 7}))
    assert f"{first.relative_to(broken / 'samples')} has " in said
    assert f"{second.relative_to(broken / 'samples')} has other bytes than were written" in said
    expected = digests(tmp_path / "unbroken")
    assert len(expected) == PICTURES + 2
    assert digests(broken) == expected
    assert f"{PICTURES} pictures drawn by a model" in (broken / "samples" / "README.md").read_text(encoding="utf-8")
    records = [json.loads(line) for line in (broken / "samples" / "metadata.jsonl").read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(PICTURES))
    seconds = time.monotonic() - begun
    _LOG.info(
        f"{PICTURES} pictures, killed with {at_kill} drawn, {halves} half written; unbroken {took:.0f} s, {seconds:.0f} s"
    )


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
