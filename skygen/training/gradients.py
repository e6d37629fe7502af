"""The gradient of an update, as one process adds it up: micro-batch by micro-batch, in parts that fit into memory."""

from __future__ import annotations

import logging
import time
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from itertools import chain
from typing import final

import torch
from accelerate import Accelerator
from jaxtyping import Float
from torch import Tensor, nn

from skygen.data.batch import Batch
from skygen.data.batches import Grouping, Positions, load_micro_batches
from skygen.data.loading import PairStream
from skygen.errors import ConfigError
from skygen.memory import is_out_of_memory, release_memory
from skygen.training.learner import JointLearner, Learner
from skygen.training.settings import TrainSettings
from skygen.training.sharding import is_sharded

_LOG = logging.getLogger("skygen")


@final
@dataclass(frozen=True, slots=True)
class Summed:
    """What one process has added up in an update, beside the gradients.

    Args:
        losses: sums over examples, on the device.
        keys: ``Pair.key`` of every example.
        data_seconds: that were waited for data.
    """

    losses: list[Float[Tensor, ""]]
    keys: list[str]
    data_seconds: float


@final
class GradientSum:
    """Reads this process's micro-batches, one update after the other, and adds up the gradients of their losses.

    Where memory does not suffice for a micro-batch, the update is begun again with half as many examples at a time, and so are
    those that follow: an update is always the sum over the same examples.

    Args:
        learner: gives the loss.
        parameters: whose gradients are added up.
        stream: the data.
        settings: how much is in an update.
        accelerator: device, precision, processes.
        step: updates done before.
    """

    def __init__(
        self,
        learner: Learner,
        parameters: Mapping[str, nn.Parameter],
        stream: PairStream,
        settings: TrainSettings,
        accelerator: Accelerator,
        step: int,
    ) -> None:
        self.learner = learner
        self.stream = stream
        self.accelerator = accelerator
        self._parameters = list(parameters.values())
        self._count = settings.gradient_accumulation_steps
        self._positions = Positions(
            first=step * self._count,
            last=settings.max_train_steps * self._count,
            batch_size=settings.train_batch_size,
            rank=accelerator.process_index,
            processes=accelerator.num_processes,
            grouping=Grouping.of(stream, by_length=settings.group_by_length),
        )
        self._batches = iter(load_micro_batches(stream, self._positions, settings.dataloader_num_workers))
        self._sharded = is_sharded(learner.network)
        side = stream.images.resolution
        self._stand_in = Batch(torch.zeros(1, 3, side, side), ("",), ("",))  # see _join
        self._at_a_time = settings.train_batch_size
        self._taken = 0

    def of_update(self, step: int) -> Summed:
        """Add up the gradients of an update, from nothing.

        Args:
            step: updates done before it.

        Raises:
            ConfigError: memory does not suffice, and the examples of a micro-batch cannot be taken apart.
        """
        source: Iterable[tuple[Batch, ...]] = self._batches
        self._taken = 0
        while True:
            for parameter in self._parameters:
                if parameter.grad is not None:
                    parameter.grad.zero_()
            try:
                return self._add_up(step, iter(source))
            except (RuntimeError, MemoryError) as error:
                if not is_out_of_memory(error):
                    raise
                self._require_divisible(error)
            self._halve()  # only now: the error's traceback has held on to tensors
            source = chain(self._read_again(step), self._batches)

    def _add_up(self, step: int, source: Iterator[tuple[Batch, ...]]) -> Summed:
        losses: list[Float[Tensor, ""]] = []
        keys: list[str] = []
        seconds = 0.0
        for micro_batch in range(self._count):
            waiting = time.perf_counter()
            parts = next(source)
            self._taken = max(self._taken, micro_batch + 1)
            seconds += time.perf_counter() - waiting
            for number, piece in enumerate(piece for part in parts for piece in part.split(self._at_a_time)):
                losses.append(self._accumulate(piece, (step, micro_batch), number))
                keys += piece.keys
            self._join(parts, (step, micro_batch))
        return Summed(losses, keys, seconds)

    def _accumulate(self, batch: Batch, place: tuple[int, int], part: int, weight: float = 1.0) -> Float[Tensor, ""]:
        """Add the gradient of the summed losses of the images of one shape; return that sum, still on the device."""
        position = (*place, self.accelerator.process_index, *([part] if part else []))
        seeds = self.stream.seeds
        seeds.reset_global("dropout", *position)
        with self.accelerator.autocast():
            losses = self.learner.loss(batch.to(self.accelerator.device), seeds.generator("noise", *position))
        total = weight * losses.float().sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return total.detach()

    def _join(self, parts: tuple[Batch, ...], place: tuple[int, int]) -> None:
        """Do this process's part in what all processes do together, where it has read no image.

        A sharded network waits for every process to call it: one without images calls it with an earlier batch that counts for
        nothing.
        """
        if not parts and isinstance(self.learner, JointLearner):
            self.learner.join()
        if not self._sharded:
            return
        if len(parts) > 1:
            raise ConfigError(
                f"step {place[0] + 1}: FSDP needs images of one shape in a micro-batch; set --images.aspect_buckets false."
            )
        if parts:
            self._stand_in = parts[0]
        else:
            self._accumulate(self._stand_in, place, 0, weight=0.0)

    def _require_divisible(self, error: Exception) -> None:
        """See that the micro-batches can be taken apart.

        Raises:
            ConfigError: they cannot.
        """
        count = self._at_a_time
        mend = "take a smaller --images.resolution or model, set --model.gradient_checkpointing true where the recipe has it"
        if count == 1:
            raise ConfigError(f"out of memory with one image at a time: {mend}, or take a device with more memory.") from error
        if self._sharded or not self.learner.divisible:
            why = "a sharded network takes them all at once" if self._sharded else "this loss looks at all of them together"
            raise ConfigError(
                f"out of memory with {count} images at a time, and {why}: lower --train.train_batch_size, or {mend}."
            ) from error

    def _halve(self) -> None:
        release_memory()
        before, self._at_a_time = self._at_a_time, self._at_a_time // 2
        _LOG.warning(
            f"out of memory with {before} images at a time; going on with {self._at_a_time}, in updates as large as before"
        )

    def _read_again(self, step: int) -> Iterable[tuple[Batch, ...]]:
        """Read the micro-batches anew that the update has taken."""
        first = step * self._count
        return load_micro_batches(self.stream, replace(self._positions, first=first, last=first + self._taken))
