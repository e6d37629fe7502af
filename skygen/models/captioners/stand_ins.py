"""A network that begins in the middle: for models that take pixels only, and not what has been made of them before."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from copy import copy
from typing import Any

from torch import nn

BOUND_TO_THE_ORIGINAL = ("forward", "_compiled_call_impl")  # what accelerate's hooks and torch.compile leave on a module


def with_stand_ins(network: nn.Module, stand_ins: Mapping[str, Callable[..., Any]]) -> Any:
    """Return a second network of the same modules in which functions stand in for some of them.

    It shares every other module and every weight, and the first is not touched, so that several threads may write captions with
    it. Make it anew for each call: what is attached to the first later, such as a LoRA, is then seen.

    Args:
        network: a model of transformers.
        stand_ins: a module's name, such as ``git.image_encoder``, to what is called in its stead.

    Returns:
        A shallow copy; its methods, ``generate`` among them, are those of the first one's class.
    """
    copied = copy(network)
    copied._modules = dict(network._modules)
    for name in BOUND_TO_THE_ORIGINAL:
        copied.__dict__.pop(name, None)
    inner: dict[str, dict[str, Callable[..., Any]]] = {}
    for name, stand_in in stand_ins.items():
        child, _, below = name.partition(".")
        if below:
            inner.setdefault(child, {})[below] = stand_in
        else:
            del copied._modules[child]
            copied.__dict__[child] = stand_in
    for child, of_child in inner.items():
        copied._modules[child] = with_stand_ins(network.get_submodule(child), of_child)
    return copied
