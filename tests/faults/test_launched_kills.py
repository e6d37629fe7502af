"""Kill -9 of `accelerate launch` and of all that it has started, on one process and on two, as of a machine that goes down."""

from __future__ import annotations

import json
import re
import signal
import time
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from subprocess import Popen
from typing import Any

import pytest
from faults.amounts import amount
from faults.contents import contents, leftovers, require_same, require_whole
from faults.figures import Figures
from faults.forking import Forks
from faults.programs import CHECKPOINTING_STEPS, World, finetune_diffusion, generate
from recipes.processes import family, finish, kill, kill_all, launcher, start, wait_until

from skygen.seeding import Seeds

pytestmark = pytest.mark.slow
ADAPTER = "adapter/pytorch_lora_weights.safetensors"
VALIDATION_STEPS = 7
MOMENTS = ("step", "save", "validation", "step", "start")
"""What a process is to be doing when it is killed, in turn."""


@dataclass(slots=True)
class Ordeal:
    """A training that is killed and started again.

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
        kill(members or family(process.pid))
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


@pytest.mark.parametrize(("processes", "kills"), [(1, amount(1, 5)), (2, amount(1, 6))], ids=["one", "two"])
def test_a_training_killed_with_its_launcher_ends_as_if_nothing_had_been(
    processes: int, kills: int, small_world: World, tmp_path: Path, figures: Figures
) -> None:
    total = 8 * kills + 8  # no run is complete before its last kill: each gains some two steps, or seven at most
    words: dict[str, Any] = {"train__max_train_steps": total, "validation__steps": VALIDATION_STEPS, "validation__pairs": 4}

    def command(name: str) -> list[str]:
        more = words | {"run__name": name, "validation__grid": 2}
        return [*launcher(processes), *finetune_diffusion(small_world, tmp_path, **more)]

    unbroken = start(command("unbroken"))
    broken = Ordeal(tmp_path / "broken")
    draw = Seeds(kills).numpy("kills", processes)
    for number in range(kills):
        last, process = broken.last_step(), start(command("broken"))
        broken.check_continued(broken.kill(process, MOMENTS[number % len(MOMENTS)], float(draw.uniform(0, 0.2))), last)
        require_whole(broken.run)
    last = broken.last_step()
    broken.check_continued(finish(start(command("broken"))), last)
    assert len(broken.lost) >= kills - broken.moments["start"] > 0
    finish(unbroken)
    assert sum(broken.moments.values()) == kills
    first, second = ((tmp_path / name / ADAPTER).read_bytes() for name in ("unbroken", "broken"))
    assert first == second
    steps = [json.loads(line)["step"] for line in (tmp_path / "broken" / "log.jsonl").read_text().splitlines()]
    assert steps == list(range(1, total + 1))
    assert leftovers(broken.run) == []
    figures(
        f"kill -9 of finetune_diffusion under its launcher, {processes} process{'es' if processes > 1 else ''}",
        kills=kills, in_a_write=broken.moments["save"], runs_equal=1, most_steps_lost=max(broken.lost),
    )  # fmt: skip


def test_a_set_killed_with_its_launcher_and_ended_by_two_processes_is_byte_for_byte_the_unbroken_one(
    small_world: World, forks: Forks, tmp_path: Path, figures: Figures
) -> None:
    kills, count = amount(1, 6), amount(24, 200)

    def words(batch_size: int, name: str) -> list[str]:
        return generate(small_world, tmp_path / name, generation__count=count, generation__batch_size=batch_size)

    said = forks.run(words(8, "unbroken"))
    assert f"{count - 8:,} pictures of 64 pixels: about " in said and "on 1 process" in said
    broken, draw, drawn = tmp_path / "broken" / "run" / "samples", Seeds(kills).numpy("kills"), 0

    def pictures() -> int:
        return len(list((broken / "images").glob("[0-9]*.png")))

    for number in range(kills):
        least = pictures() + max(1, (count - pictures()) // (kills - number + 2))
        process = start([*launcher(1), *words(3 + number % 3, "broken")])
        wait_until(lambda least=least: pictures() >= least, process, "nothing was drawn")
        time.sleep(float(draw.uniform(0, 0.2)))
        kill_all(process.pid)
        process.communicate(timeout=60)
        drawn = pictures()
        assert least <= drawn < count
        assert not (broken / "metadata.jsonl").exists()
        require_whole(broken)
    finish(start([*launcher(2), *words(7, "broken")]))
    first, second = (contents(tmp_path / name / "run" / "samples") for name in ("unbroken", "broken"))
    assert len([name for name in first if name.endswith(".png")]) == count
    require_same(first, second)
    assert f"{count} pictures drawn by a model" in (broken / "README.md").read_text(encoding="utf-8")
    records = [json.loads(line) for line in (broken / "metadata.jsonl").read_text().splitlines()]
    assert [record["index"] for record in records] == list(range(count))
    figures("kill -9 of generate under its launcher, ended by two processes", kills=kills, pictures=count, runs_equal=1)
