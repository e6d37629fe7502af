"""How long a model is trained, how much at a time, how often it is saved; and the plan that follows, in words."""

from __future__ import annotations

from dataclasses import dataclass

from skygen.config import CountFromOne, CountFromZero, Decay
from skygen.models.device import MixedPrecision
from skygen.training.optimizer import OptimizerSettings, learning_rate_at


@dataclass(frozen=True)
class TrainSettings(OptimizerSettings):
    """How long, how much at a time, and how often to save."""

    max_train_steps: CountFromOne = 1000
    """Updates in all, those before a resume included."""
    train_batch_size: CountFromOne = 8
    """Images per process and micro-batch."""
    gradient_accumulation_steps: CountFromOne = 1
    """Micro-batches in an update."""
    checkpointing_steps: CountFromZero = 500
    """A checkpoint every so many updates, and at the end."""
    checkpoints_total_limit: CountFromZero = 2
    """Checkpoints kept; 0 keeps all."""
    ema_decay: Decay = 0.0
    """Decay of the running mean of the trained parameters that is exported in their place; 0 is off."""
    mixed_precision: MixedPrecision = "no"
    """Precision of the forward pass; what is trained stays float32. ``auto`` is bf16 where the device has it."""
    dataloader_num_workers: CountFromZero = 0
    """Processes that decode images beside the training."""
    group_by_length: bool = False
    """Put captions of about one length into a batch, so that less of it is padding."""


def describe_plan(settings: TrainSettings, processes: int) -> str:
    """Say which learning rate the first update has, the one that ends the warm-up and the last, and how large an update is.

    Args:
        settings: of the run.
        processes: that share it.
    """
    total = settings.max_train_steps
    updates = sorted({1, min(total, max(1, settings.lr_warmup_steps)), total})
    rates = ", ".join(f"{learning_rate_at(update - 1, total, settings):.3g} at update {update}" for update in updates)
    shares = settings.train_batch_size, settings.gradient_accumulation_steps, processes
    return f"learning rate {rates}; {shares[0] * shares[1] * shares[2]} images an update ({' x '.join(map(str, shares))})"


def count_saves(settings: TrainSettings, left: int) -> int:
    """Return how many checkpoints are still to be written in the last ``left`` updates."""
    return left // settings.checkpointing_steps + 1 if settings.checkpointing_steps else 1
