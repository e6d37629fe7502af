"""The optimizer, its learning rate as a function of the step, and its state as named tensors."""

from __future__ import annotations

import logging
import math
from collections.abc import Mapping
from contextlib import redirect_stdout
from dataclasses import dataclass
from importlib import import_module
from io import StringIO
from typing import Any, Literal

import torch
from jaxtyping import Bool
from torch import Tensor, nn

from skygen.config import CountFromZero, Decay, Magnitude
from skygen.errors import ConfigError, UnavailableError

LEAST_PRODIGY_RATE = 0.01
"""Prodigy multiplies the rate that it finds by the learning rate: a usual one, such as 1e-4, would hold it still."""
_STATE_BYTES = {"adamw": 8, "adamw_8bit": 2 + 2 * 4 / 256, "prodigy": 16}
"""Of a trained value: means of the gradient and its square; these in 8 bits, with a scale every 256 values; or two more."""
_LEAST_QUANTIZED = 4096
"""Smaller parameters keep their state in 32 bits (bitsandbytes' own limit)."""
_GROUP_STATE = ("k", "d", "d_max", "d_hat", "d_numerator", "d_denom")
"""What Prodigy keeps for all parameters together, as Python's numbers."""
_GROUP = "param_groups"
_SHARED = ("qmap1", "qmap2")
"""Tables of AdamW in 8 bits that all parameters share in memory, which safetensors refuses: each is saved as a copy."""


@dataclass(frozen=True)
class OptimizerSettings:
    """The optimizer and its learning rate."""

    optimizer: Literal["adamw", "adamw_8bit", "prodigy"] = "adamw"
    """adamw_8bit keeps its state in 8 bits (Dettmers et al. 2022); needs ``skygen[quantized]``. prodigy finds the learning rate
    (Mishchenko and Defazio 2023) and multiplies it by ``learning_rate``, usually 1; needs ``skygen[prodigy]``."""
    learning_rate: Magnitude = 1e-4
    """Peak learning rate."""
    lr_scheduler: Literal["constant", "cosine"] = "cosine"
    """What follows the warm-up: stay at the peak, or fall to zero along half a cosine."""
    lr_warmup_steps: CountFromZero = 0
    """Updates over which the learning rate rises linearly from zero."""
    adam_beta1: Decay = 0.9
    """Decay of the gradient's running mean."""
    adam_beta2: Decay = 0.999
    """Decay of the squared gradient's running mean."""
    adam_epsilon: Magnitude = 1e-8
    """Added to the denominator."""
    adam_weight_decay: Magnitude = 1e-2
    """Decoupled weight decay; vectors (biases, norms) have none."""
    max_grad_norm: Magnitude = 1.0
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


def build_optimizer(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> torch.optim.Optimizer:
    """Build the optimizer over named parameters, matrices with weight decay and vectors without.

    Raises:
        ConfigError: Prodigy with the learning rate of another optimizer.
        UnavailableError: the package of the optimizer is not installed.
    """
    matrices = [parameter for parameter in parameters.values() if parameter.ndim > 1]
    vectors = [parameter for parameter in parameters.values() if parameter.ndim <= 1]
    named: list[dict[str, Any]] = [
        {"params": matrices, "weight_decay": settings.adam_weight_decay},
        {"params": vectors, "weight_decay": 0.0},
    ]
    groups = [group for group in named if group["params"]]
    betas, epsilon, rate = (settings.adam_beta1, settings.adam_beta2), settings.adam_epsilon, settings.learning_rate
    if settings.optimizer == "adamw_8bit":
        optim = _import_extra("bitsandbytes.optim", "quantized", settings.optimizer)
        eight_bits: torch.optim.Optimizer = optim.AdamW8bit(groups, lr=rate, betas=betas, eps=epsilon)
        return eight_bits
    if settings.optimizer == "prodigy":
        if rate < LEAST_PRODIGY_RATE:
            raise ConfigError(
                "--train.optimizer prodigy finds the learning rate itself and multiplies it by --train.learning_rate, which "
                f"is {rate:g} and would hold it still; set --train.learning_rate 1."
            )
        package = _import_extra("prodigyopt", "prodigy", settings.optimizer)
        # Both switches are what its authors advise for diffusion models: without the first, the warm-up would be taken for
        # progress. It prints a line when it is built; standard output belongs to the program.
        with redirect_stdout(StringIO()):
            prodigy: torch.optim.Optimizer = package.Prodigy(
                groups, lr=rate, betas=betas, eps=epsilon, safeguard_warmup=True, use_bias_correction=True
            )
        return prodigy
    # One kernel, and the only kind that can be told on the device to leave an update out.
    return torch.optim.AdamW(groups, lr=rate, betas=betas, eps=epsilon, fused=True)


def step_unless(optimizer: torch.optim.Optimizer, leave_out: Bool[Tensor, ""]) -> None:
    """Update the parameters unless ``leave_out``.

    AdamW is not asked for the value on the device: this is how torch's own gradient scaler leaves out an update that
    overflowed, a fused optimizer looks at ``found_inf``. The others are not called at all, which waits for the device.
    """
    if isinstance(optimizer, torch.optim.AdamW):
        optimizer.found_inf = leave_out.float()  # type: ignore[attr-defined]  # set by torch.amp.GradScaler in the same way
        optimizer.grad_scale = None  # type: ignore[attr-defined]
        optimizer.step()
    elif not bool(leave_out):
        optimizer.step()


def optimizer_tensors(optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter]) -> dict[str, Tensor]:
    """Return the optimizer's state as ``{quantity}/{parameter name}`` tensors.

    Python's numbers become int64 or float64, by which ``restore_optimizer`` knows them again: no state of float32 parameters
    has either. What is kept for all parameters together is under ``param_groups/{index}/{quantity}``.
    """
    tensors = {
        f"{quantity}/{name}": value.clone() if quantity in _SHARED else _to_tensor(value)
        for name, parameter in parameters.items()
        for quantity, value in optimizer.state[parameter].items()
    }
    for index, group in enumerate(optimizer.param_groups):
        tensors |= {f"{_GROUP}/{index}/{key}": _to_tensor(group[key]) for key in _GROUP_STATE if key in group}
    return tensors


def restore_optimizer(
    optimizer: torch.optim.Optimizer, parameters: Mapping[str, nn.Parameter], tensors: Mapping[str, Tensor]
) -> None:
    """Put back what ``optimizer_tensors`` returned."""
    for label, value in tensors.items():
        quantity, name = label.split("/", 1)
        number = value.ndim == 0 and value.dtype in (torch.int64, torch.float64)
        if quantity == _GROUP:
            index, key = name.split("/", 1)
            optimizer.param_groups[int(index)][key] = value.item()
        elif number:
            optimizer.state[parameters[name]][quantity] = value.item()
        else:
            optimizer.state[parameters[name]][quantity] = value.to(parameters[name].device, copy=True)  # no view of the file


def count_state_bytes(parameters: Mapping[str, nn.Parameter], settings: OptimizerSettings) -> int:
    """Return how many bytes the optimizer's state will take once it has made an update."""
    small = 8 if settings.optimizer == "adamw_8bit" else _STATE_BYTES[settings.optimizer]
    sizes = [parameter.numel() for parameter in parameters.values()]
    return int(sum(size * (small if size < _LEAST_QUANTIZED else _STATE_BYTES[settings.optimizer]) for size in sizes))


def _to_tensor(value: Any) -> Tensor:
    if isinstance(value, Tensor):
        return value
    return torch.tensor(value, dtype=torch.int64 if isinstance(value, int) else torch.float64)


def _import_extra(module: str, extra: str, optimizer: str) -> Any:
    # bitsandbytes warns on standard error of kernels for 4 bits, which an optimizer does not use
    logger = logging.getLogger("bitsandbytes")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        return import_module(module)
    except ImportError as error:
        raise UnavailableError(
            f"--train.optimizer {optimizer} needs {module.partition('.')[0]} ({error}); install it with "
            f'`pip install "skygen[{extra}]"`, or take --train.optimizer adamw.'
        ) from error
    finally:
        logger.setLevel(level)
