"""The device that a model computes on where no launcher has chosen one."""

from __future__ import annotations


def pick_device() -> str:
    """Return ``cuda``, ``mps`` or ``cpu``, the first that is there."""
    import torch

    if torch.cuda.is_available():
        return "cuda"
    return "mps" if torch.backends.mps.is_available() else "cpu"
