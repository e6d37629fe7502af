"""Kill -9 of the launcher and of all that it started, at random moments, until the run is complete: nothing is ever lost.

`SKYGEN_KILLS=20,8` before the command makes it 20 kills on one process and 8 on two, in place of the few of the suite.
"""

from __future__ import annotations

import json
import logging
import os
import re
import signal
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from recipes.processes import ROOT, end_all, finish, launcher, start, wait_until

from skygen.seeding import Seeds

pytestmark = pytest.mark.slow
KILLS = tuple(int(number) for number in os.environ.get("SKYGEN_KILLS", "4,2").split(","))
ADAPTER = "adapter/pytorch_lora_weights.safetensors"
CHECKPOINTING_STEPS = 3
VALIDATION_STEPS = 7
MOMENTS = ("step", "save", "validation", "step", "start")
"""What a process is to be doing when it is killed, in turn."""
_LOG = logging.getLogger("skygen")


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


def total_steps(kills: int) -> int:
    """Return so many that no run is complete before its last kill: each gains some two steps, or seven at most."""
    return 8 * kills + 8


def command(name: str, processes: int, kills: int, root: Path, world: Path, model: Path) -> list[str]:
    words: dict[str, Any] = {"run.name": name, "run.root": root, "pairs.root": world, "pairs.split": "train"}
    words |= {"model.name": model, "images.resolution": 64, "lora.rank": 4, "lora.lora_dropout": 0.1}
    words |= {
        "train.max_train_steps": total_steps(kills),
        "train.checkpointing_steps": CHECKPOINTING_STEPS,
        "train.ema_decay": 0.9,
    }
    words |= {"train.train_batch_size": 2, "train.learning_rate": 1e-3}
    words |= {"validation.steps": VALIDATION_STEPS, "validation.pairs": 4, "validation.images": 0, "validation.grid": 2}
    flags = [f"--{key}={value}" for key, value in words.items()]
    return [*launcher(processes), str(ROOT / "recipes" / "finetune_diffusion.py"), *flags]


@dataclass(slots=True)
class Ordeal:
    """A run that is killed and started again.

    Args:
        run: its folder.
        moments: what it was doing when it was killed, and how often.
        lost: steps that were done again after each kill.
    """

    run: Path
    moments: Counter[str] = field(default_factory=Counter)
    lost: list[int] = field(default_factory=list)

    def last_step(self) -> int:
        """Return the last step of which the log has a whole line."""
        log = self.run / "log.jsonl"
        lines = log.read_text().splitlines(keepends=True) if log.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        return int(json.loads(whole[-1])["step"]) if whole else 0

    def state(self) -> tuple[int, int]:
        log = self.run / "log.jsonl"
        status = log.stat() if log.exists() else None
        return (status.st_ino, status.st_size) if status else (0, 0)

    def half_saved(self) -> set[Path]:
        """Return the checkpoints that were begun and not ended; each has its process's number in its name."""
        return set((self.run / "checkpoints").glob(".step-*"))

    def has_saved(self) -> bool:
        return any((self.run / "checkpoints").glob("step-*"))

    def is_validating(self) -> bool:
        """Say whether a validation of the last step is due, and its pictures not there: they come last."""
        step = self.last_step()
        return step > 0 and step % VALIDATION_STEPS == 0 and not self.grid(step).exists()

    def grid(self, step: int) -> Path:
        return self.run / "validation" / f"grid-step-{step:06d}.png"

    def kill(self, process: Popen[str], moment: str, delay: float) -> str:
        """Wait for the moment, kill, and count what was then going on by what it has left behind; return what was said."""
        before, leftovers = self.state(), self.half_saved()
        members: list[int] = []
        if moment != "start":
            wait_until(lambda: self.state() != before and self.has_saved(), process, "no step was done")
            members = family(process.pid)
        if moment in ("save", "validation"):
            came = (lambda: bool(self.half_saved() - leftovers)) if moment == "save" else self.is_validating
            wait_until(came, process, f"no {moment} came")
            delay /= 50 if moment == "save" else 2
        elif moment == "step":
            wait_until(lambda: not self.is_validating(), process, "the validation did not end")
        else:
            delay *= 20  # of the seconds that it takes to load
        time.sleep(delay)
        for member in members or family(process.pid):
            with suppress(ProcessLookupError):  # it ended with the one killed before it
                os.kill(member, signal.SIGKILL)
        said, _ = process.communicate(timeout=60)
        assert process.returncode == -signal.SIGKILL, said
        stepped = "save" if self.half_saved() - leftovers else "validation" if self.is_validating() else "step"
        self.moments[stepped if self.state() != before else "start"] += 1
        for picture in (self.run / "validation").glob("grid-*.png"):
            picture.unlink()  # so that the next kill is told by what it leaves behind
        return said

    def check_continued(self, said: str, last: int) -> None:
        """See that a process went on from at most one interval before the last step that the log had when it began."""
        found = [int(step) for step in re.findall(r"continues after step (\d+) of", said)]
        if found:
            self.lost.append(last - found[0])
        elif "learning rate" in said:  # it began anew
            assert last <= CHECKPOINTING_STEPS, said
        assert [step for step in found if not last - CHECKPOINTING_STEPS <= step <= last] == [], (found, last)


def family(process: int) -> list[int]:
    """Return a process's descendants and itself, those first."""
    children = (path.read_text().split() for path in Path(f"/proc/{process}/task").glob("*/children"))
    below = [member for some in children for child in some for member in family(int(child))]
    return [*below, process]


@pytest.mark.parametrize(("processes", "kills"), [(1, KILLS[0]), (2, KILLS[1])], ids=["one", "two"])
def test_a_run_killed_again_and_again_ends_as_if_nothing_had_been(
    processes: int, kills: int, world: Path, stable_diffusion_folder: Path, tmp_path: Path
) -> None:
    def words(name: str) -> list[str]:
        return command(name, processes, kills, tmp_path, world, stable_diffusion_folder)

    begun = time.monotonic()
    unbroken = start(words("unbroken"))
    broken = Ordeal(tmp_path / "broken")
    draw = Seeds(kills).numpy("kills", processes)
    for number in range(kills):
        last, process = broken.last_step(), start(words("broken"))
        broken.check_continued(broken.kill(process, MOMENTS[number % len(MOMENTS)], float(draw.uniform(0, 0.2))), last)
    last = broken.last_step()
    broken.check_continued(finish(start(words("broken"))), last)
    assert len(broken.lost) >= kills - broken.moments["start"] > 0
    finish(unbroken)
    assert sum(broken.moments.values()) == kills
    first, second = ((tmp_path / name / ADAPTER).read_bytes() for name in ("unbroken", "broken"))
    assert first == second
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, total_steps(kills) + 1))
    assert [path for path in tmp_path.rglob(".*") if path.parent.name in ("checkpoints", "adapter", "validation")] == []
    if processes == 1:  # a complete run does nothing more, and still exports
        (tmp_path / "broken" / ADAPTER).unlink()
        log = (tmp_path / "broken" / "log.jsonl").read_bytes()
        finish(start(words("broken")))
        assert (tmp_path / "broken" / ADAPTER).read_bytes() == first
        assert (tmp_path / "broken" / "log.jsonl").read_bytes() == log
    seconds = time.monotonic() - begun
    _LOG.info(f"{processes} processes: killed in {dict(broken.moments)}, {broken.lost} steps done again, {seconds:.0f} s")
