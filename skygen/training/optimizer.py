"""The optimizer, its learning rate as a function of the step, and its state as named tensors."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import torch
from jaxtyping import Bool
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
        fused=True,  # one kernel, and the only kind that can be told on the device to leave an update out
    )


def step_unless(optimizer: torch.optim.AdamW, leave_out: Bool[Tensor, ""]) -> None:
    """Update the parameters unless ``leave_out``, without asking the device for its value.

    This is how torch's own gradient scaler leaves out an update that overflowed: a fused optimizer looks at ``found_inf``.
    """
    optimizer.found_inf = leave_out.float()  # type: ignore[attr-defined]  # set by torch.amp.GradScaler in the same way
    optimizer.grad_scale = None  # type: ignore[attr-defined]
    optimizer.step()


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
        optimizer.state[parameters[name]][quantity] = value.to(parameters[name].device, copy=True)  # no view of the file
