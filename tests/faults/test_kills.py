"""Kill -9 at random moments: whatever is started again ends as if nothing had been, and nothing is ever half there."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from faults.amounts import amount
from faults.contents import contents, leftovers, require_same, require_whole
from faults.figures import Figures
from faults.forking import Forks
from faults.programs import PROGRAMS, Program, Unbroken, World, finetune_captioner

from skygen.checkpoints import Checkpoints, verify
from skygen.seeding import Seeds

pytestmark = pytest.mark.slow
KILLS_IN_A_ROW = 4
SAVE = """
import sys
from pathlib import Path
import torch
from skygen.checkpoints import Checkpoint, Checkpoints
checkpoints = Checkpoints(Path(sys.argv[1]))
last = checkpoints.latest()
for step in range(last.step + 1 if last else 1, 100_000):
    checkpoints.save(Checkpoint(step, {"parameters": {"a": torch.full((64, 1024), float(step))}}, {}))
    print(step, flush=True)
"""


@dataclass(slots=True)
class Tally:
    """What has come of the kills of one program.

    Args:
        seconds: that a whole run takes, when nothing else keeps this machine busy.
        kills: that have hit a running program.
        while_writing: of these, how many have left a file that was being written.
        runs: that came to the same end as the unbroken one.
        files_read: that were under their final names after a kill, all of them whole.
        lost: steps that were done again after each kill of a training.
    """

    seconds: float
    kills: int = 0
    while_writing: int = 0
    runs: int = 0
    files_read: int = 0
    lost: list[int] = field(default_factory=list)


@pytest.mark.parametrize("name", list(PROGRAMS))
def test_whatever_is_killed_and_started_again_ends_as_if_nothing_had_been(
    name: str,
    small_world: World,
    forks: Forks,
    run_unbroken: Callable[[str, Program], Unbroken],
    tmp_path: Path,
    figures: Figures,
) -> None:
    program, wanted, moments = PROGRAMS[name], amount(1, 14), _draw_moments(name)
    unbroken = run_unbroken(name, program)
    tally = Tally(unbroken.seconds)
    assert len(unbroken.contents) > 0
    while tally.kills < wanted:
        assert tally.runs <= 10 * wanted, f"{tally.runs} runs were complete before {wanted} kills"
        broken = tmp_path / f"broken-{tally.runs}" / "root"  # the last name of a path may stand in what is written
        program.prepare(small_world, broken, forks)
        _kill_repeatedly(program, small_world, broken, forks, moments, min(KILLS_IN_A_ROW, wanted - tally.kills), tally)
        require_same(unbroken.contents, contents(broken))
        assert [path for path in leftovers(broken) if "features" not in path.parts] == []  # which others may be writing to
        tally.runs += 1
    most_lost = {"most_steps_lost": max(tally.lost, default=0)} if program.checkpointing_steps else {}
    figures(
        f"kill -9 of {name}", kills=tally.kills, in_a_write=tally.while_writing, runs_equal=tally.runs,
        files_found_half=0, files_read=tally.files_read, **most_lost,
    )  # fmt: skip


def _draw_moments(name: str) -> Iterator[float]:
    """Yield moments, as shares of the time that a whole run takes."""
    draw = Seeds(5).numpy("kills", *name.encode())
    while True:
        yield float(draw.uniform(0.02, 0.95))


def _kill_repeatedly(
    program: Program, world: World, root: Path, forks: Forks, moments: Iterator[float], kills: int, tally: Tally
) -> None:
    """Kill a run up to so many times, looking at what it has left each time; then let it come to its end."""
    said, last = "", 0
    for number in range(kills):
        fork = forks.start(program.words(world, root))
        fork.wait_at_most(next(moments) * tally.seconds)
        said = fork.kill()
        assert fork.code in (-9, 0), said
        tally.files_read += require_whole(root) if root.exists() else 0
        _note_lost_steps(program, said, last, tally)
        last = _last_step(root / "run" / "log.jsonl")
        if fork.code == 0:
            tally.seconds = min(tally.seconds, fork.seconds) if number == 0 else tally.seconds
            break
        tally.kills += 1
        tally.while_writing += bool(root.exists() and leftovers(root))
    _note_lost_steps(program, forks.run(program.words(world, root)), last, tally)


def _last_step(log: Path) -> int:
    """Return the last step of which a log has a whole line."""
    lines = log.read_text().splitlines(keepends=True) if log.exists() else []
    steps = [json.loads(line)["step"] for line in lines if line.endswith("\n")]
    return int(steps[-1]) if steps else 0


def _note_lost_steps(program: Program, said: str, last: int, tally: Tally) -> None:
    """See how many steps a training did again: no more than lie between two checkpoints."""
    continued = re.search(r"continues after step (\d+) of", said)
    if program.checkpointing_steps and continued:
        lost = last - int(continued[1])
        assert 0 <= lost <= program.checkpointing_steps, said
        tally.lost.append(lost)


def test_a_checkpoint_that_was_said_to_be_saved_is_there_after_a_kill(forks: Forks, tmp_path: Path, figures: Figures) -> None:
    wanted, saved, last, damaged = amount(6, 60), 0, 0, 0
    program = tmp_path / "save.py"
    program.write_text(SAVE)
    checkpoints, moments = Checkpoints(tmp_path / "checkpoints"), _draw_moments("checkpoints")
    for _ in range(wanted):
        fork = forks.start([str(program), str(checkpoints.folder)])
        fork.wait_until(lambda fork=fork: "\n" in fork.text, "no checkpoint was saved")
        fork.wait_at_most(next(moments) / 2)
        told = [int(step) for step in fork.kill().splitlines()]
        assert fork.code == -9
        assert told == list(range(last + 1, last + 1 + len(told))) or told[0] == last + 2  # one was saved and not yet told
        last, saved = told[-1], saved + len(told)
        damaged += sum(not verify(folder) for folder in checkpoints.folder.glob("step-*"))
        found = checkpoints.latest()
        assert found is not None
        assert last <= found.step <= last + 1
        assert (found.tensors["parameters"]["a"] == found.step).all()
    assert damaged == 0
    figures("kill -9 of a checkpoint's writing", kills=wanted, checkpoints_written=saved, damaged=damaged)


def test_a_complete_training_does_nothing_more_and_still_exports(small_world: World, forks: Forks, tmp_path: Path) -> None:
    words = finetune_captioner(small_world, tmp_path, train__max_train_steps=2)
    forks.run(words)
    adapter, log = tmp_path / "run" / "adapter" / "adapter_model.safetensors", tmp_path / "run" / "log.jsonl"
    before = adapter.read_bytes(), log.read_bytes()
    adapter.unlink()
    forks.run(words)
    assert (adapter.read_bytes(), log.read_bytes()) == before
