"""The device that a model computes on, and the processes that share the work."""

from __future__ import annotations

from typing import TYPE_CHECKING, Literal

if TYPE_CHECKING:
    from accelerate import Accelerator

MixedPrecision = Literal["no", "bf16", "auto"]


def pick_device() -> str:
    """Return ``cuda``, ``mps`` or another accelerator of torch's, or ``cpu`` where there is none."""
    import torch

    device = torch.accelerator.current_accelerator(check_available=True)
    return device.type if device is not None else "cpu"


def start_accelerator(mixed_precision: MixedPrecision = "no") -> Accelerator:
    """Join the processes that the launcher has started.

    Without a GPU, accelerate has to be told that the processor is meant: otherwise each of several processes takes itself
    for the only one, and all of them write the same run.

    Args:
        mixed_precision: precision of the forward pass; ``auto`` is bf16 where ``computes_bfloat16``.
    """
    from accelerate import Accelerator

    device = pick_device()
    if mixed_precision == "auto":
        mixed_precision = "bf16" if computes_bfloat16(device) else "no"
    return Accelerator(mixed_precision=mixed_precision, cpu=device == "cpu")


def computes_bfloat16(device: str) -> bool:
    """Say whether a device has instructions for bfloat16; one that imitates them takes 17 s for a step of 1.3 s in float32.

    Args:
        device: ``cuda``, ``cpu`` or another of torch's, of which nothing is known and False is said.
    """
    import torch

    if device == "cuda":
        return torch.cuda.is_bf16_supported(including_emulation=False)
    return device == "cpu" and any(has for name, has in torch.cpu.get_capabilities().items() if name.endswith("bf16"))
