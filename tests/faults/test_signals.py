"""SIGTERM and SIGUSR1: the work in hand is ended and kept, the code is 75, nothing runs on, and the same command continues."""

from __future__ import annotations

import json
import os
import signal
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from faults.amounts import LONG
from faults.contents import contents, leftovers, require_same, require_whole
from faults.figures import Figures
from faults.forking import Forks
from faults.programs import (
    PROGRAMS,
    Program,
    Unbroken,
    World,
    draw,
    evaluate_images,
    finetune_captioner,
    generate,
    score_pairs,
)
from recipes.processes import launcher, start, wait_for

from skygen.errors import Preempted

pytestmark = pytest.mark.slow
SIGNALS = (signal.SIGTERM, signal.SIGUSR1)


def with_workers(recipe: Callable[..., list[str]], name: str) -> Callable[[World, Path], list[str]]:
    """Return a recipe's words that start processes to read the images."""
    return lambda world, root: recipe(world, root, **{name: 2})


PLAIN = ("finetune_diffusion", "finetune_captioner", "generate", "caption", "score_pairs", "screen_images")
STOPPED = {name: PROGRAMS[name] for name in PLAIN} | {
    "finetune_captioner with workers": Program(with_workers(finetune_captioner, "train__dataloader_num_workers")),
    "score_pairs with workers": Program(with_workers(score_pairs, "scoring__dataloader_num_workers")),
    "evaluate_images": Program(evaluate_images, draw),
}
ALTERNATING = [(name, SIGNALS[place % 2]) for place, name in enumerate(STOPPED)]
TRIED = [(name, number) for name in STOPPED for number in SIGNALS] if LONG else ALTERNATING
LAUNCHED = [(finetune_captioner, signal.SIGTERM), (generate, signal.SIGKILL)]
LAUNCHED += [(finetune_captioner, signal.SIGKILL), (generate, signal.SIGTERM)] if LONG else []


def status(run: Path) -> dict[str, Any]:
    found: dict[str, Any] = json.loads((run / "run_status.json").read_text())
    return found


@pytest.mark.parametrize(("name", "number"), TRIED, ids=[f"{name}-{number.name}" for name, number in TRIED])
def test_asked_to_stop_a_recipe_keeps_its_work_ends_with_75_and_goes_on(
    name: str,
    number: signal.Signals,
    small_world: World,
    forks: Forks,
    run_unbroken: Callable[[str, Program], Unbroken],
    tmp_path: Path,
    figures: Figures,
) -> None:
    """All processes are asked at once, those that read images too, as Slurm does it."""
    program, stopped = STOPPED[name], tmp_path / "stopped" / "root"
    unbroken, run = run_unbroken(name, program), stopped / "run"
    fork = forks.start(program.words(small_world, stopped))
    begun = run / ("log.jsonl" if name.startswith("finetune") else "run_status.json")
    fork.wait_until(begun.exists, f"{begun} did not come")
    os.killpg(fork.pid, number)
    said = fork.finish(Preempted.exit_code)
    assert (status(run)["state"], "skygen: " + status(run)["reason"]) == ("preempted", said.splitlines()[-1])
    assert status(run)["reason"].startswith("stopped by a signal after ")
    assert status(run)["reason"].endswith("; the same command continues.")
    assert not fork.has_left_something_running()
    require_whole(stopped)
    forks.run(program.words(small_world, stopped))
    require_same(unbroken.contents, contents(stopped))
    assert leftovers(stopped) == []
    figures(f"a signal to all processes of {name}", stopped=1, ended_with_75=1, runs_equal=1, left_running=0)


def test_a_second_signal_ends_a_long_step_at_once(small_world: World, forks: Forks, tmp_path: Path, figures: Figures) -> None:
    long = {"train__train_batch_size": 48, "train__gradient_accumulation_steps": 400}
    fork = forks.start(finetune_captioner(small_world, tmp_path, **long))
    fork.wait_until(lambda: "learning rate" in fork.text, "no training was begun")
    os.kill(fork.pid, signal.SIGTERM)
    fork.wait_at_most(1)
    assert fork.poll() is None  # it is at its step
    os.kill(fork.pid, signal.SIGTERM)
    fork.finish(Preempted.exit_code, seconds=10)
    assert status(tmp_path / "run") | {"seconds": 0} == {
        "state": "preempted", "step": 0, "reason": "stopped at once by a second signal", "seconds": 0
    }  # fmt: skip
    figures("a second signal in a long step", stopped=1, ended_with_75=1)


@pytest.mark.parametrize(
    ("recipe", "number"), LAUNCHED, ids=[f"{recipe.__name__}-{number.name}" for recipe, number in LAUNCHED]
)
def test_a_dead_launcher_leaves_nothing_running_and_nothing_lost(
    recipe: Callable[..., list[str]], number: signal.Signals, small_world: World, tmp_path: Path, figures: Figures
) -> None:
    much = {"train__max_train_steps": 5000} if recipe is finetune_captioner else {"generation__count": 5000}
    process = start([*launcher(1), *recipe(small_world, tmp_path, **much)])
    run = tmp_path / "run"
    wait_for(run / ("log.jsonl" if recipe is finetune_captioner else "samples/images/000000.png"), process)
    process.send_signal(number)
    said, _ = process.communicate(timeout=60)  # the recipe holds the same pipe: this returns when it too has ended
    assert status(run)["state"] == "preempted", said
    assert status(run)["reason"].startswith("stopped by a signal after ")
    require_whole(run)
    assert [path for path in leftovers(run) if path.suffix == ".part" or ".step-" in str(path)] == []
    if recipe is finetune_captioner:
        assert (run / "checkpoints" / f"step-{status(run)['step']:06d}").is_dir()
    figures(f"{number.name} to the launcher alone", stopped=1, ended_preempted=1, left_running=0)
