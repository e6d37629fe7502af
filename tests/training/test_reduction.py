"""Processes add up what they have, plan alike, draw unlike noise, and do not go on with parameters that differ."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from recipes.processes import end_all, finish, launcher, start

from skygen.training.loop import TrainSettings
from skygen.training.optimizer import learning_rate_at
from skygen.training.reduction import checksum

UPDATES = 6
WARMUP = 2


@pytest.fixture(scope="module")
def seen(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[int, list[dict[str, Any]]]]:
    """What one process, and each of two, saw."""
    out = tmp_path_factory.mktemp("ranks")
    program = [str(Path(__file__).parent / "watch_ranks.py"), str(world), str(out)]
    found: dict[int, list[dict[str, Any]]] = {}
    try:
        for processes in (1, 2):
            finish(start([*launcher(processes), *program]))
            files = [out / f"rank-{rank}-of-{processes}.json" for rank in range(processes)]
            found[processes] = [json.loads(file.read_text()) for file in files]
        yield found
    finally:
        end_all()


def test_any_one_value_that_differs_changes_the_checksum() -> None:
    tensors = {"a": torch.randn(3, 4), "b": torch.zeros(5)}
    before = checksum(tensors)
    tensors["b"][3] = -0.0
    assert (checksum(tensors) != before).tolist() == [False, True]
    assert before.dtype == torch.int64


@pytest.mark.slow
@pytest.mark.parametrize("processes", [1, 2])
@pytest.mark.parametrize("accumulation", [1, 3])
def test_the_learning_rate_is_as_planned_whatever_the_processes_and_accumulation(
    accumulation: int, processes: int, seen: dict[int, list[dict[str, Any]]]
) -> None:
    """At 0 %, the end of the warm-up, and 100 %."""
    settings = TrainSettings(max_train_steps=UPDATES, learning_rate=1e-2, lr_warmup_steps=WARMUP)
    planned = [learning_rate_at(step, UPDATES, settings) for step in range(UPDATES)]
    assert planned[0] == pytest.approx(0.5e-2)
    assert planned[WARMUP - 1] == planned[WARMUP] == 1e-2
    assert 0 < planned[-1] < 0.2e-2
    assert len(seen[processes]) == processes
    for rank in seen[processes]:
        assert rank[str(accumulation)]["rates"] == rank[str(accumulation)]["used"] == planned
        assert len(rank[str(accumulation)]["noise"]) == UPDATES * accumulation


@pytest.mark.slow
def test_no_two_micro_batches_of_any_process_have_the_same_noise(seen: dict[int, list[dict[str, Any]]]) -> None:
    noise = [seed for rank in seen[2] for seed in rank["3"]["noise"]]
    assert len(noise) == len(set(noise)) == 2 * UPDATES * 3


@pytest.mark.slow
def test_processes_that_differ_by_one_bit_end_with_a_sentence(seen: dict[int, list[dict[str, Any]]]) -> None:
    def sentence(step: int, name: str, more: int) -> str:
        return (
            f"step {step}: {name} and {more} more of 4 trained parameters differ between process 1 and process 0, so nothing "
            "is saved; run the same command again, which continues from the last checkpoint, and if it happens again, look for "
            "a faulty device among these processes."
        )

    assert len(seen[2]) == 2
    for rank in seen[2]:
        assert rank["said"] == {
            "never": "",
            "start": sentence(0, "weight", 0),
            "update": sentence(1, "weight", 1),
            "save": sentence(2, "weight", 0),
            "resume": "process 1 goes on after step 0 and process 0 after step 2; put --run.root on a disk that all machines "
            "share, and run the same command again.",
        }


@pytest.mark.slow
def test_an_update_that_is_not_finite_on_one_process_is_left_out_on_all(seen: dict[int, list[dict[str, Any]]]) -> None:
    first, second = (rank["spoilt"] for rank in seen[2])
    assert len(first) == len(second) == UPDATES
    assert [skipped for skipped, _, _ in first] == [skipped for skipped, _, _ in second] == [False, False, True] + [False] * 3
    assert [values for _, _, values in first] == [values for _, _, values in second]
    assert first[2][2] == first[1][2] != first[3][2]
    own, other = first[2][1], second[2][1]
    assert len(own) == len(other) == 2  # each names the examples that it has seen
    assert set(own).isdisjoint(other)


@pytest.mark.slow
def test_a_process_with_too_little_memory_takes_longer_and_the_update_is_the_same(
    seen: dict[int, list[dict[str, Any]]],
) -> None:
    first, second = seen[2]
    assert first["narrow"] == second["narrow"]
    assert first["narrow"] == pytest.approx(first["wide"], rel=1e-6)
    assert len(first["wide"]) == UPDATES
