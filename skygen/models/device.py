"""The device that a model computes on, and the processes that share the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from accelerate import Accelerator


def pick_device() -> str:
    """Return ``cuda``, ``mps`` or another accelerator of torch's, or ``cpu`` where there is none."""
    import torch

    device = torch.accelerator.current_accelerator(check_available=True)
    return device.type if device is not None else "cpu"


def start_accelerator(mixed_precision: Literal["no", "bf16"] = "no") -> Accelerator:
    """Join the processes that the launcher has started.

    Without a GPU, accelerate has to be told that the processor is meant: otherwise each of several processes takes itself
    for the only one, and all of them write the same run.

    Args:
        mixed_precision: precision of the forward pass.
    """
    from accelerate import Accelerator

    return Accelerator(mixed_precision=mixed_precision, cpu=pick_device() == "cpu")
