"""Two processes and one run: the second is refused and changes nothing; after a kill the next one takes over."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path

import pytest
from faults.amounts import amount
from faults.contents import require_whole
from faults.figures import Figures
from faults.forking import Forks
from faults.programs import PROGRAMS, World

pytestmark = pytest.mark.slow
OPENED = ("finetune_diffusion", "finetune_captioner", "generate", "score_pairs", "caption")


@pytest.mark.parametrize("name", OPENED)
def test_a_run_that_is_being_written_is_refused_to_a_second_process(
    name: str, small_world: World, forks: Forks, tmp_path: Path, figures: Figures
) -> None:
    program, broken = PROGRAMS[name], tmp_path / "broken"
    words = program.words(small_world, broken)
    program.prepare(small_world, broken, forks)
    first = forks.start(words)
    status, refused = broken / "run" / "run_status.json", 0
    first.wait_until(status.exists, "the run was not opened")
    os.kill(first.pid, signal.SIGSTOP)  # it is at work for as long as the test needs it to be
    for _ in range(amount(1, 5)):
        second = forks.start(words)
        said = second.finish(2)
        assert f"process {first.pid} on " in said
        assert "is at work there; wait until it has ended, stop it, or take another --run.name." in said
        assert "Traceback" not in said
        refused += 1
    first.kill()
    assert json.loads(status.read_text())["state"] == "running"
    third = forks.start(words)
    said = third.finish()
    assert f"process {first.pid} on " in said
    assert "has ended without a word; this one goes on in its place" in said
    assert json.loads(status.read_text())["state"] == "finished"
    assert require_whole(broken) > 0
    figures("two processes and one run", refused=refused, taken_over=1)
