"""The one training loop: a generator that a recipe iterates over.

Its rules (each has a test): the gradient of an update is the mean over every example of that update, whatever the number of
processes, accumulation steps or unreadable images; trained parameters are float32; the logged gradient norm is the one before
clipping; all randomness is keyed by (seed, purpose, step, rank); an update with a non-finite loss or gradient is left out.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict
from typing import Any

import torch
from accelerate import Accelerator
from jaxtyping import Bool
from torch import Tensor, nn

from skygen.checkpoints import Checkpoint, Checkpoints
from skygen.data.loading import PairStream, fingerprint
from skygen.errors import ConfigError, Preempted, SkygenError
from skygen.signals import StopSignal
from skygen.training.gradients import GradientSum
from skygen.training.learner import Learner
from skygen.training.optimizer import (
    build_optimizer,
    count_state_bytes,
    learning_rate_at,
    optimizer_tensors,
    restore_optimizer,
    step_unless,
)
from skygen.training.reduction import clip_mean_gradient, require_agreement, sum_over_processes
from skygen.training.settings import TrainSettings as TrainSettings
from skygen.training.settings import count_saves, describe_plan
from skygen.training.step import Step as Step

logger = logging.getLogger("skygen")

MOST_SKIPPED_IN_A_ROW = 10


class Trainer:
    """Trains named parameters of a learner.

    Args:
        learner: gives the loss.
        parameters: what is trained, by name; float32.
        stream: the data.
        settings: optimizer, length, batch, saving.
        accelerator: device, precision, processes.
        checkpoints: where the state is kept.
        stop: tells when to stop early; by default nothing does.

    Raises:
        ConfigError: nothing to train, or a trained parameter is not float32.
    """

    def __init__(
        self,
        learner: Learner,
        parameters: Mapping[str, nn.Parameter],
        stream: PairStream,
        settings: TrainSettings,
        accelerator: Accelerator,
        checkpoints: Checkpoints,
        stop: StopSignal | None = None,
    ) -> None:
        if not parameters:
            raise ConfigError("nothing to train: the LoRA targets match no layer of this model; see --lora.targets.")
        for name, parameter in parameters.items():
            if parameter.dtype != torch.float32:
                raise ConfigError(
                    f"{name}: trained parameters are float32, this one is {parameter.dtype}; load the "
                    "base in half precision if memory is short, never what is trained."
                )
        self.learner = learner
        self.parameters = dict(parameters)
        self.stream = stream
        self.settings = settings
        self.accelerator = accelerator
        self.checkpoints = checkpoints
        self.step = 0
        self.optimizer = build_optimizer(self.parameters, settings)
        self.average = {n: p.detach().clone() for n, p in self.parameters.items()} if settings.ema_decay else {}
        self._stop = stop or StopSignal()

    def steps(self) -> Iterator[Step]:
        """Continue from the newest checkpoint, and yield after every update until ``max_train_steps``.

        Raises:
            Preempted: a signal asked for the end; the state is saved.
            StorageError: there is no room for the checkpoints to come.
            SkygenError: ten updates in a row were not finite, or the processes do not hold the same parameters.
        """
        settings = self.settings
        self.restore()
        self._begin()
        self.learner.network.train()
        gradients = GradientSum(self.learner, self.parameters, self.stream, settings, self.accelerator, self.step)
        skipped_in_a_row, agreed = 0, False
        while self.step < settings.max_train_steps:
            step, stop = self._update(gradients)
            if not agreed:
                self._require_agreement()
                agreed = True
            skipped_in_a_row = skipped_in_a_row + 1 if step.skipped else 0
            yield step
            if skipped_in_a_row == MOST_SKIPPED_IN_A_ROW:
                raise SkygenError(
                    f"step {self.step}: the loss or its gradient was not finite {MOST_SKIPPED_IN_A_ROW} "
                    "times in a row; lower --train.learning_rate, or look at the data of these steps."
                )
            if stop and self.step < settings.max_train_steps:
                self.save()
                raise Preempted(f"stopped by a signal after step {self.step}; the same command continues.")
        self._require_finite()

    def save(self) -> None:
        """Write a checkpoint (on the main process) and wait for it (on the others).

        Raises:
            SkygenError: the processes do not hold the same parameters, or some are not finite; nothing is written.
            StorageError: the disk is full or refuses.
        """
        self._require_agreement()
        self._require_finite()
        if self.accelerator.is_main_process:
            tensors: dict[str, Mapping[str, Tensor]] = {
                "parameters": self.parameters,
                "optimizer": optimizer_tensors(self.optimizer, self.parameters),
            }
            if self.average:
                tensors["average"] = self.average
            self.checkpoints.save(Checkpoint(self.step, tensors, self._identity()))
        self.accelerator.wait_for_everyone()

    def restore(self) -> None:
        """Put back the newest checkpoint that verifies, if there is one.

        Raises:
            ConfigError: it belongs to another model, other data, another seed or batch, or another number of processes.
        """
        checkpoint = self.checkpoints.latest()
        if checkpoint is None:
            return
        for name, now in self._identity().items():
            before = checkpoint.state.get(name, now)
            if before != now:
                raise ConfigError(
                    f"{self.checkpoints.folder}: begun with {name} = {before}, now it is {now}; go on with "
                    "the first, or start anew under another --run.name."
                )
        saved = checkpoint.tensors["parameters"]
        if {n: t.shape for n, t in saved.items()} != {n: p.shape for n, p in self.parameters.items()}:
            raise ConfigError(
                f"{self.checkpoints.folder}: holds other trained parameters than this model and LoRA have; go on with the "
                "--model.name, --lora.rank and --lora.targets that the run was begun with, or choose another --run.name."
            )
        with torch.no_grad():
            for name, parameter in self.parameters.items():
                parameter.copy_(checkpoint.tensors["parameters"][name])
            for name, tensor in self.average.items():
                tensor.copy_(checkpoint.tensors["average"][name])
        restore_optimizer(self.optimizer, self.parameters, checkpoint.tensors["optimizer"])
        self.step = checkpoint.step
        if self.accelerator.is_main_process:
            logger.info(f"continues after step {self.step} of {self.settings.max_train_steps}")

    @contextmanager
    def averaged(self) -> Iterator[None]:
        """Let the parameters be for a while what would be exported now: their running mean, where there is one."""
        own = {name: self.parameters[name].detach().clone() for name in self.average}
        self.adopt_average()
        try:
            yield
        finally:
            with torch.no_grad():
                for name, tensor in own.items():
                    self.parameters[name].copy_(tensor)

    def adopt_average(self) -> None:
        """Put the running mean in the place of the trained parameters, for export; without one, do nothing."""
        with torch.no_grad():
            for name, tensor in self.average.items():
                self.parameters[name].copy_(tensor)

    def _begin(self) -> None:
        """Before the first update: all processes stand at one point, the disk has room, and the plan is said."""
        self._require_agreement()
        left = self.settings.max_train_steps - self.step
        if left <= 0 or not self.accelerator.is_main_process:
            return
        values = sum(parameter.numel() for parameter in self.parameters.values())
        size_bytes = 4 * values * (2 if self.average else 1) + count_state_bytes(self.parameters, self.settings)
        self.checkpoints.require_room(size_bytes, count_saves(self.settings, left))
        logger.info(describe_plan(self.settings, self.accelerator.num_processes))

    def _require_agreement(self) -> None:
        averages = {f"the mean of {name}": tensor for name, tensor in self.average.items()}
        require_agreement(self.accelerator, self.step, {**self.parameters, **averages})

    def _require_finite(self) -> None:
        """See that nothing that is not finite is kept: updates are left out for that, so something else has gone wrong."""
        for name, parameter in self.parameters.items():
            if not bool(torch.isfinite(parameter).all()):
                raise SkygenError(
                    f"step {self.step}: {name} holds values that are not finite, so nothing is saved; lower "
                    "--train.learning_rate, and run the same command again, which continues from the last checkpoint."
                )

    def _update(self, gradients: GradientSum) -> tuple[Step, bool]:
        settings, start = self.settings, time.perf_counter()
        own = gradients.of_update(self.step)
        counts = (float(len(own.keys)), float(self._stop.requested))
        sums = sum_over_processes(self.accelerator, own.losses, counts, self.parameters)
        norm = clip_mean_gradient(list(self.parameters.values()), sums[1], settings.max_grad_norm)
        finite = torch.isfinite(norm) & torch.isfinite(sums[0])
        learning_rate = learning_rate_at(self.step, settings.max_train_steps, settings)
        self._apply(learning_rate, leave_out=~finite | (sums[1] == 0))
        self.step += 1
        # The one wait for the device in an update: until here everything is only queued.
        loss, counted, stop, norm_before, was_finite = torch.stack([*sums, norm.to(sums.dtype), finite.to(sums.dtype)]).tolist()
        record = Step(
            step=self.step,
            total=settings.max_train_steps,
            loss=loss / max(1, counted),
            gradient_norm=norm_before,
            learning_rate=learning_rate,
            images_per_second=counted / (time.perf_counter() - start),
            data_seconds=own.data_seconds,
            images=int(counted),
            skipped=not was_finite,
            skipped_keys=() if was_finite else tuple(own.keys),
        )
        return record, bool(stop)

    def _apply(self, learning_rate: float, leave_out: Bool[Tensor, ""]) -> None:
        """Move the parameters and their running mean, unless the update is to be left out, which the device alone knows."""
        for group in self.optimizer.param_groups:
            group["lr"] = learning_rate
        step_unless(self.optimizer, leave_out)
        if self.average:
            # the usual warm-up of an average: early on, the mean of few steps must not hold on to the start
            decay = min(self.settings.ema_decay, (1 + self.step) / (10 + self.step))
            averages = list(self.average.values())
            changes = torch._foreach_sub(list(self.parameters.values()), averages)
            torch._foreach_mul_(changes, torch.where(leave_out, 0.0, 1 - decay))
            torch._foreach_add_(averages, changes)

    def _identity(self) -> dict[str, Any]:
        """Return what must be the same before and after a resume for the run to be one run."""
        return {
            "seed": self.stream.seeds.seed,
            "pairs": fingerprint(self.stream.pairs),
            "images": asdict(self.stream.images),
            "captions": asdict(self.stream.captions),
            "processes": self.accelerator.num_processes,
            "optimizer": self.settings.optimizer,
            "train_batch_size": self.settings.train_batch_size,
            "gradient_accumulation_steps": self.settings.gradient_accumulation_steps,
            "ema_decay": self.settings.ema_decay,
            "group_by_length": self.settings.group_by_length,
        }
