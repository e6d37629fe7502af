"""Where memory does not suffice for a micro-batch it is taken apart, and the update stays what it was."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn
from toy import Linear, OneByOne, build_stream, build_trainer, train_pairs

from skygen.data.batch import Batch
from skygen.data.pair import Pair
from skygen.errors import ConfigError
from skygen.training.loop import Trainer


class Narrow:
    """A learner that has memory for so many examples, in its forward pass or in the middle of its backward pass."""

    def __init__(self, inner: Any, most: int, where: str, *, divisible: bool = True) -> None:
        self.inner = inner
        self.network: nn.Module = inner.network
        self.most = most
        self.where = where
        self.divisible = divisible
        self.sizes: list[int] = []

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        self.sizes.append(len(batch.keys))
        if len(batch.keys) > self.most and self.where == "forward":
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB.")
        losses: Tensor = self.inner.loss(batch, generator)
        if len(batch.keys) > self.most:
            losses.register_hook(lambda gradient: self._spoil())
        return losses

    def _spoil(self) -> None:
        for parameter in self.network.parameters():  # as a backward pass does that ends halfway
            parameter.grad = torch.full_like(parameter, 7.0)
        raise RuntimeError("[enforce fail at alloc_cpu.cpp:117] DefaultCPUAllocator: can't allocate memory")


@pytest.fixture
def pairs(world: Path) -> list[Pair]:
    return train_pairs(world)


def trainer_of(learner: Any, pairs: list[Pair], accelerator: Any, folder: Path) -> Trainer:
    return build_trainer(
        learner, dict(learner.network.named_parameters()), build_stream(pairs), accelerator, folder,
        train_batch_size=5, gradient_accumulation_steps=3, max_train_steps=4,
    )  # fmt: skip


@pytest.mark.parametrize("where", ["forward", "backward"])
def test_a_micro_batch_that_does_not_fit_is_taken_apart_and_the_update_is_the_same(
    where: str, pairs: list[Pair], accelerator: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole = trainer_of(OneByOne(Linear(noise=0.3)), pairs, accelerator, tmp_path / "whole")
    expected = list(whole.steps())
    narrow = Narrow(OneByOne(Linear(noise=0.3)), 1, where)
    apart = trainer_of(narrow, pairs, accelerator, tmp_path / "apart")
    with caplog.at_level(logging.WARNING, "skygen"):
        found = list(apart.steps())
    assert [record.message for record in caplog.records if record.levelno == logging.WARNING] == [
        "out of memory with 5 images at a time; going on with 2, in updates as large as before",
        "out of memory with 2 images at a time; going on with 1, in updates as large as before",
    ]
    assert [step.images for step in found] == [step.images for step in expected] == [15] * 4
    assert [step.loss for step in found] == pytest.approx([step.loss for step in expected], rel=1e-6)
    assert [step.gradient_norm for step in found] == pytest.approx([step.gradient_norm for step in expected], rel=1e-5)
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(apart.parameters[name], parameter, rtol=1e-5, atol=1e-7)
    assert max(narrow.sizes[10:]) == 1  # what is known to be too much is not tried again


def test_memory_that_runs_short_in_a_later_micro_batch_counts_none_twice(
    pairs: list[Pair], accelerator: Any, tmp_path: Path
) -> None:
    class Later(Narrow):
        def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
            self.most = 2 if len(self.sizes) >= 5 else 5  # from the last micro-batch of the second update on
            return super().loss(batch, generator)

    whole = trainer_of(OneByOne(Linear(noise=0.3)), pairs, accelerator, tmp_path / "whole")
    expected = list(whole.steps())
    later = Later(OneByOne(Linear(noise=0.3)), 5, "backward")
    apart = trainer_of(later, pairs, accelerator, tmp_path / "apart")
    found = list(apart.steps())
    assert later.sizes[:7] == [5] * 6 + [2]
    assert [step.loss for step in found] == pytest.approx([step.loss for step in expected], rel=1e-6)
    for name, parameter in whole.parameters.items():
        torch.testing.assert_close(apart.parameters[name], parameter, rtol=1e-5, atol=1e-7)


def test_where_one_image_is_too_much_the_run_ends_in_a_sentence(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    trainer = trainer_of(Narrow(Linear(), 0, "forward"), pairs, accelerator, tmp_path)
    with pytest.raises(ConfigError, match=r"^out of memory with one image at a time: take a smaller --images\.resolution"):
        list(trainer.steps())


def test_a_loss_that_looks_at_the_whole_batch_is_not_taken_apart(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    trainer = trainer_of(Narrow(Linear(), 2, "forward", divisible=False), pairs, accelerator, tmp_path)
    with pytest.raises(ConfigError, match="out of memory with 5 images at a time, and this loss looks at all of them together"):
        list(trainer.steps())


def test_another_error_is_not_taken_for_a_lack_of_memory(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    class Wrong(Linear):
        def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
            raise RuntimeError("expected scalar type Float but found Half")

    trainer = trainer_of(Wrong(), pairs, accelerator, tmp_path)
    with pytest.raises(RuntimeError, match="expected scalar type"):
        list(trainer.steps())


def test_a_batch_in_parts_is_the_batch() -> None:
    rows = tuple("abcde")
    batch = Batch(
        torch.arange(60.0).view(5, 3, 2, 2), rows, rows, torch.arange(10.0).view(5, 2), tuple((row,) for row in rows), (), None
    )
    parts = list(batch.split(2))
    assert [len(part.keys) for part in parts] == [2, 2, 1]
    assert torch.equal(torch.cat([part.pixels for part in parts]), batch.pixels)
    assert torch.equal(torch.cat([part.features for part in parts if part.features is not None]), batch.features)
    assert tuple(key for part in parts for key in part.keys) == rows
    assert tuple(one for part in parts for one in part.references) == batch.references
