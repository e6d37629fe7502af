"""A look at a model that is being trained, after which the training goes on as if nobody had looked."""

from __future__ import annotations

import random  # noqa: TID251  # nothing is drawn from it: its state is put back
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

import numpy as np

from skygen.models.adapters import without_adapter
from skygen.models.diffusion import Diffusion


@contextmanager
def undisturbed(pipeline: Any) -> Iterator[None]:
    """Put back what a look at a pipeline may change, also when it fails.

    That is the state of all global random generators (torch's on every device, NumPy's, Python's), which modules are in
    training mode, and which parameters ask for gradients. No gradients are recorded meanwhile.

    Args:
        pipeline: of diffusers.
    """
    import torch

    modules = [part for part in pipeline.components.values() if isinstance(part, torch.nn.Module)]
    modes = [(module, module.training) for part in modules for module in part.modules()]
    wanted = [(parameter, parameter.requires_grad) for part in modules for parameter in part.parameters()]
    devices = list(range(torch.cuda.device_count())) if torch.cuda.is_initialized() else []  # type: ignore[no-untyped-call]
    numpy_state, python_state = np.random.get_state(), random.getstate()
    try:
        with torch.random.fork_rng(devices=devices), torch.no_grad():
            yield
    finally:
        np.random.set_state(numpy_state)
        random.setstate(python_state)
        for module, training in modes:
            module.training = training
        for parameter, asks in wanted:
            parameter.requires_grad_(asks)


@contextmanager
def as_base(diffusion: Diffusion) -> Iterator[None]:
    """Let a model compute as its base for a while: without its LoRA, that of its text encoders included, and told nothing."""
    with ExitStack() as stack:
        for part in diffusion.pipeline.components.values():
            if getattr(part, "peft_config", None):
                stack.enter_context(without_adapter(part))
        if diffusion.metadata is not None:
            stack.enter_context(diffusion.metadata.silent())
        yield


def is_adapted(pipeline: Any) -> bool:
    """Say whether a LoRA is on a part of a pipeline."""
    return any(getattr(part, "peft_config", None) for part in pipeline.components.values())
