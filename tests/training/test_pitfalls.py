"""Pitfalls of the training loop that its other tests do not pin: see the table in docs/diffusion.md."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from toy import Linear, build_stream, build_trainer, train_pairs

from skygen.checkpoints import Checkpoints
from skygen.training.loop import Trainer


class Rank(Accelerator):  # type: ignore[misc]  # accelerate's annotations are not followed
    """One of two processes, without the other: sums and gatherings are of its own alone."""

    def __init__(self, rank: int) -> None:
        super().__init__(cpu=True)
        self._rank = rank

    @property
    def process_index(self) -> int:
        return self._rank

    @property
    def num_processes(self) -> int:
        return 2

    @property
    def is_main_process(self) -> bool:
        return self._rank == 0


class Listening(Linear):
    """Notes the images, and the noise's seed, of every micro-batch."""

    def __init__(self) -> None:
        super().__init__(noise=0.3)
        self.seen: list[tuple[int, tuple[str, ...]]] = []

    def loss(self, batch: Any, generator: torch.Generator) -> torch.Tensor:
        self.seen.append((generator.initial_seed(), batch.keys))
        return super().loss(batch, generator)


def process(rank: int, world: Path, folder: Path) -> tuple[Trainer, Listening]:
    learner = Listening()
    parameters = dict(learner.network.named_parameters())
    return build_trainer(learner, parameters, build_stream(train_pairs(world)), Rank(rank), folder, ema_decay=0.5), learner


def test_pitfall_4_11_a_checkpoint_of_the_first_process_is_all_that_any_process_needs(world: Path, tmp_path: Path) -> None:
    unbroken = []
    for rank in (0, 1):
        trainer, learner = process(rank, world, tmp_path / "unbroken")
        assert len(list(trainer.steps())) == 6
        unbroken.append(learner.seen)
    first, _ = process(0, world, tmp_path / "broken")
    for _ in zip(range(3), first.steps(), strict=False):
        pass
    first.save()
    (folder,) = (tmp_path / "broken").iterdir()
    files = ["average.safetensors", "manifest.json", "optimizer.safetensors", "parameters.safetensors", "state.json"]
    assert sorted(path.name for path in folder.iterdir()) == files  # no state of a process that could be missing
    continued = []
    for rank in (0, 1):
        trainer, learner = process(rank, world, tmp_path / "broken")
        assert [step.step for step in trainer.steps()] == [4, 5, 6]
        continued.append(learner.seen)
    assert continued == [seen[3:] for seen in unbroken]
    assert {seed for seed, _ in unbroken[0]}.isdisjoint(seed for seed, _ in unbroken[1])
    assert all(len(seen) == 6 and len({seed for seed, _ in seen}) == 6 for seen in unbroken)


def test_pitfall_4_11_a_checkpoint_without_any_one_of_its_files_is_none(world: Path, tmp_path: Path) -> None:
    lost = []
    for name in ("average.safetensors", "manifest.json", "optimizer.safetensors", "parameters.safetensors", "state.json"):
        trainer, _ = process(0, world, tmp_path / name)
        next(trainer.steps())
        trainer.save()
        assert Checkpoints(tmp_path / name).latest() is not None
        (tmp_path / name / "step-000001" / name).unlink()
        assert Checkpoints(tmp_path / name).latest() is None
        lost.append(name)
    assert len(lost) == 5


def test_pain_15_a_wrong_list_or_column_is_one_sentence_without_any_weights(world: Path, tmp_path: Path) -> None:
    """In a process of its own, to see that it loads neither torch nor diffusers for it."""
    train = world / "SkyScript_train_unfiltered_5M.csv"
    expected = {
        ("--csv", "nowhere.csv"): (
            f"skygen: there is no pair list nowhere.csv: tried {world / 'nowhere.csv'} and nowhere.csv; set --pairs.csv\n"
        ),
        ("--csv", train.name, "--caption-column", "titel"): (
            f"skygen: {train} has no column titel; its columns are: filepath, title, title_multi_objects; name the one that "
            "holds the captions with --pairs.caption_column\n"
        ),
    }
    program = (
        "import sys; from skygen import cli\n"
        "try: cli.main(sys.argv[1:])\n"
        "finally: print(sorted({'torch', 'diffusers'} & set(sys.modules)))"
    )
    said = {
        words: subprocess.run(
            [sys.executable, "-c", program, "check", str(world), *words],
            capture_output=True,
            text=True,
            check=False,
            cwd=tmp_path,
            timeout=60,
        )
        for words in expected
    }
    assert {words: ended.stderr for words, ended in said.items()} == expected
    assert [(ended.returncode, ended.stdout) for ended in said.values()] == [(2, "[]\n"), (2, "[]\n")]
