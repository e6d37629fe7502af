"""The optimizer, its learning rate as a function of the step, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn


@dataclass(frozen=True)
class OptimizerSettings:
    """AdamW and its learning rate."""

    learning_rate: float = 1e-4
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "cosine"] = "cosine"
    """What follows the warm-up: stay at the peak, or fall to zero along half a cosine."""
    lr_warmup_steps: int = 0
    """Updates over which the learning rate rises linearly from zero."""
    adam_beta1: float = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: float = 0.999
    """Decay of the squared gradient's running mean."""
    adam_epsilon: float = 1e-8
    """Added to the denominator."""
    adam_weight_decay: float = 1e-2
    """Decoupled weight decay; vectors (biases, norms) have none."""
    max_grad_norm: float = 1.0
    """The gradient is scaled down to this norm; 0 leaves it as it is."""


def learning_rate_at(step: int, total: int, settings: OptimizerSettings) -> float:
    """Return the learning rate of update ``step``, the first being 0.

    A function of the step alone: a resumed run and a run on more processes cannot get out of step with it.
    """
    if step < settings.lr_warmup_steps:
        return settings.learning_rate * (step + 1) / settings.lr_warmup_steps
    if settings.lr_scheduler == "constant":
        return settings.learning_rate
    progress = (step - settings.lr_warmup_steps) / max(1, total - settings.lr_warmup_steps)
    return settings.learning_rate * 0.5 * (1 + math.cos(math.pi * min(1.0, progress)))


def build_optimizer(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> torch.optim.AdamW:
    """Build AdamW over named parameters, matrices with weight decay and vectors without."""
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    groups = [
        {"params": matrices, "weight_decay": settings.adam_weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        [group for group in groups if group["params"]],
        lr=settings.learning_rate,
        betas=(settings.adam_beta1, settings.adam_beta2),
        eps=settings.adam_epsilon,
    )


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's state as ``{quantity}/{parameter name}`` tensors."""
    return {
        f"{quantity}/{name}": value
        for name, parameter in parameters.items()
        for quantity, value in optimizer.state[parameter].items()
    }


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` returned."""
    for label, value in tensors.items():
        quantity, name = label.split("/", 1)
        device = "cpu" if quantity == "step" else parameters[name].device
        optimizer.state[parameters[name]][quantity] = value.to(device, copy=True)  # not a view of the checkpoint's file
