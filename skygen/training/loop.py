"""The one training loop: a generator that a recipe iterates over.

Its rules (each has a test): the gradient of an update is the mean over every example of that update, whatever the number of
processes, accumulation steps or unreadable images; trained parameters are float32; the logged gradient norm is the one before
clipping; all randomness is keyed by (seed, purpose, step, rank); an update with a non-finite loss or gradient is left out.
"""

from __future__ import annotations

import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any, Literal

import torch
from accelerate import Accelerator
from jaxtyping import Bool, Float
from torch import Tensor, nn

from skygen.checkpoints import Checkpoint, Checkpoints
from skygen.data.batches import Grouping, Positions, load_micro_batches
from skygen.data.loading import Batch, PairStream, fingerprint
from skygen.errors import ConfigError, Preempted, SkygenError
from skygen.runs import StopSignal
from skygen.training.learner import JointLearner, Learner
from skygen.training.optimizer import (
    OptimizerSettings,
    build_optimizer,
    learning_rate_at,
    optimizer_tensors,
    restore_optimizer,
    step_unless,
)

MOST_SKIPPED_IN_A_ROW = 10


@dataclass(frozen=True)
class TrainSettings(OptimizerSettings):
    """How long, how much at a time, and how often to save."""

    max_train_steps: int = 1000
    """Updates in all, those before a resume included."""
    train_batch_size: int = 8
    """Images per process and micro-batch."""
    gradient_accumulation_steps: int = 1
    """Micro-batches in an update."""
    checkpointing_steps: int = 500
    """A checkpoint every so many updates, and at the end."""
    checkpoints_total_limit: int = 2
    """Checkpoints kept; 0 keeps all."""
    ema_decay: float = 0.0
    """Decay of the running mean of the trained parameters that is exported in their place; 0 is off."""
    mixed_precision: Literal["no", "bf16"] = "no"
    """Precision of the forward pass; what is trained stays float32."""
    dataloader_num_workers: int = 0
    """Processes that decode images beside the training."""
    group_by_length: bool = False
    """Put captions of about one length into a batch, so that less of it is padding."""


@dataclass(frozen=True, slots=True)
class Step:
    """One update, as it is logged.

    Args:
        step: updates done, this one included.
        total: updates of the whole run.
        loss: mean over the examples of the update.
        gradient_norm: before clipping.
        learning_rate: of this update.
        images_per_second: over all processes.
        data_seconds: that this process waited for data.
        images: examples in the update, over all processes.
        skipped: the loss or gradient was not finite, and the update was left out.
    """

    step: int
    total: int
    loss: float
    gradient_norm: float
    learning_rate: float
    images_per_second: float
    data_seconds: float
    images: int
    skipped: bool

    def due(self, every: int) -> bool:
        """Say whether something done ``every`` so many steps is due now; the last step is always due, 0 is never."""
        return every > 0 and (self.step % every == 0 or self.step == self.total)

    def record(self) -> dict[str, Any]:
        """Return the line of ``log.jsonl``."""
        return asdict(self)


class Trainer:
    """Trains named parameters of a learner.

    Args:
        learner: gives the loss.
        parameters: what is trained, by name; float32.
        stream: the data.
        settings: optimizer, length, batch, saving.
        accelerator: device, precision, processes.
        checkpoints: where the state is kept.

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
        self._stop = StopSignal()

    def steps(self) -> Iterator[Step]:
        """Continue from the newest checkpoint, and yield after every update until ``max_train_steps``.

        Raises:
            Preempted: a signal asked for the end; the state is saved.
            SkygenError: ten updates in a row were not finite.
        """
        settings = self.settings
        self.restore()
        self.learner.network.train()
        positions = Positions(
            first=self.step * settings.gradient_accumulation_steps,
            last=settings.max_train_steps * settings.gradient_accumulation_steps,
            batch_size=settings.train_batch_size,
            rank=self.accelerator.process_index,
            processes=self.accelerator.num_processes,
            grouping=Grouping(self.stream.length_at, self.stream.seeds) if settings.group_by_length else None,
        )
        batches = iter(load_micro_batches(self.stream, positions, settings.dataloader_num_workers))
        skipped_in_a_row = 0
        while self.step < settings.max_train_steps:
            step, stop = self._update(batches)
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

    def save(self) -> None:
        """Write a checkpoint (on the main process) and wait for it (on the others)."""
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

    def adopt_average(self) -> None:
        """Put the running mean in the place of the trained parameters, for export; without one, do nothing."""
        with torch.no_grad():
            for name, tensor in self.average.items():
                self.parameters[name].copy_(tensor)

    def _update(self, batches: Iterator[tuple[Batch, ...]]) -> tuple[Step, bool]:
        settings, start = self.settings, time.perf_counter()
        self.optimizer.zero_grad(set_to_none=False)
        losses, images, data_seconds = [], 0, 0.0
        for micro_batch in range(settings.gradient_accumulation_steps):
            waiting = time.perf_counter()
            parts = [part.to(self.accelerator.device) for part in next(batches)]
            data_seconds += time.perf_counter() - waiting
            for part, batch in enumerate(parts):
                losses.append(self._accumulate(batch, micro_batch, part))
                images += len(batch.keys)
            if not parts and isinstance(self.learner, JointLearner):
                self.learner.join()
        sums = self._reduce(losses, images)
        norm = self._scale_gradient(sums[1])
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
            data_seconds=data_seconds,
            images=int(counted),
            skipped=not was_finite,
        )
        return record, bool(stop)

    def _accumulate(self, batch: Batch, micro_batch: int, part: int) -> Float[Tensor, ""]:
        """Add the gradient of the summed losses of the images of one shape; return that sum, still on the device."""
        position = (self.step, micro_batch, self.accelerator.process_index, *([part] if part else []))
        seeds = self.stream.seeds
        seeds.reset_global("dropout", *position)
        with self.accelerator.autocast():
            losses = self.learner.loss(batch, seeds.generator("noise", *position))
        total = losses.float().sum()
        total.backward()  # type: ignore[no-untyped-call]  # torch does not annotate it
        return total.detach()

    def _reduce(self, losses: Sequence[Float[Tensor, ""]], images: int) -> Float[Tensor, 3]:
        """Add up losses, counts, stop requests and gradients over all processes.

        Returns:
            Loss, images, and processes that ask for the end; on the device.
        """
        device = self.accelerator.device
        precision = torch.float32 if device.type == "mps" else torch.float64
        counts = torch.tensor([float(images), float(self._stop.requested)], dtype=precision).to(device, non_blocking=True)
        loss = torch.stack(list(losses)).to(precision).sum() if losses else torch.zeros((), dtype=precision, device=device)
        own = torch.cat([loss[None], counts])
        if self.accelerator.num_processes > 1:
            own = self.accelerator.reduce(own, "sum")
            gradients = [p.grad if p.grad is not None else torch.zeros_like(p) for p in self.parameters.values()]
            flat = self.accelerator.reduce(torch.cat([gradient.flatten() for gradient in gradients]), "sum")
            parts = flat.split([gradient.numel() for gradient in gradients])
            for parameter, part in zip(self.parameters.values(), parts, strict=True):
                parameter.grad = part.view_as(parameter)
        return own

    def _scale_gradient(self, images: Float[Tensor, ""]) -> Float[Tensor, ""]:
        """Turn summed gradients into the mean over ``images``, clip them, and return their norm before clipping."""
        gradients = [p.grad for p in self.parameters.values() if p.grad is not None]
        if gradients:  # none yet where not one image of the first update could be read
            torch._foreach_mul_(gradients, (1.0 / images.clamp(min=1)).float())
        limit = self.settings.max_grad_norm or float("inf")
        return torch.nn.utils.clip_grad_norm_(list(self.parameters.values()), limit).to(self.accelerator.device)

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
            "train_batch_size": self.settings.train_batch_size,
            "gradient_accumulation_steps": self.settings.gradient_accumulation_steps,
            "ema_decay": self.settings.ema_decay,
            "group_by_length": self.settings.group_by_length,
        }
