"""Several LoRA on one model, each with its weight, and how strongly they act while pictures are drawn."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from torch import nn

from skygen.errors import ConfigError
from skygen.models.diffusions.family import DiffusionFamily
from skygen.models.diffusions.lora import WEIGHTS_FILE, load_adapter
from skygen.models.diffusions.metadata import MetadataConditioner, load_conditioner
from skygen.models.diffusions.metadata_record import is_saved
from skygen.models.weights import locate

WeighedAdapter = tuple[Path, float]
"""Folder of a saved adapter, and what its update is multiplied by."""


def require_adapters(adapters: Sequence[WeighedAdapter]) -> None:
    """Raise UnavailableError where a folder holds no adapter: before anything large is read."""
    for folder, _ in adapters:
        locate(str(folder.absolute()), "adapter", WEIGHTS_FILE)


def load_adapters(family: DiffusionFamily, adapters: Sequence[WeighedAdapter], name: str) -> bool:
    """Put saved adapters on the pipeline that they were trained for; their updates, each times its weight, are added.

    Args:
        family: the loaded pipeline.
        adapters: one or more.
        name: that the pipeline was loaded by, for the errors.

    Returns:
        Whether they were trained on a schedule of zero terminal SNR.

    Raises:
        ConfigError: one is of another model, or some were trained on a schedule of zero terminal SNR and others were not.
        UnavailableError: no adapter there, or only a part of one.
    """
    labels = [f"default_{place}" for place in range(len(adapters))]  # the names that diffusers itself gives
    ending = [
        bool(load_adapter(family, folder, name, label).get("zero_terminal_snr"))
        for (folder, _), label in zip(adapters, labels, strict=True)
    ]
    if len(set(ending)) > 1:
        one, other = (adapters[ending.index(wanted)][0] for wanted in (True, False))
        raise ConfigError(
            f"--model.adapter {one}: trained on a schedule that ends in noise, and {other} was not; draw with one of them."
        )
    weights = [weight for _, weight in adapters]
    if len(adapters) > 1 or weights != [1.0]:
        family.pipeline.set_adapters(labels, weights)
    return ending[0]


def load_conditioners(adapters: Sequence[WeighedAdapter], network: nn.Module) -> MetadataConditioner | None:
    """Attach the metadata conditioner that was saved beside one of several adapters.

    Raises:
        ConfigError: more than one adapter has one; they would tell the denoiser twice.
        UnavailableError: it is damaged, or a part of it is missing.
    """
    told = [folder for folder, _ in adapters if is_saved(folder)]
    if len(told) > 1:
        raise ConfigError(f"--model.adapter {told[1]}: trained with metadata, as {told[0]} was; draw with one of them.")
    return load_conditioner(told[0], network) if told else None


@contextmanager
def acting(networks: Iterable[nn.Module], scale: float) -> Iterator[None]:
    """Multiply the updates of all LoRA by a number for a while.

    Args:
        networks: of a pipeline.
        scale: 1 is as trained; 0 switches the LoRA layers off, so that the base answers, bit for bit.

    Raises:
        ConfigError: another scale than 1, and no LoRA.
    """
    if scale == 1.0:
        yield
        return
    layers = _lora_layers(networks)
    if not layers:
        raise ConfigError(f"generation.lora_scale is {scale:g}, and this model has no adapter; set it to 1.")
    before = [(layer, dict(layer.scaling)) for layer in layers]
    trainable = [(parameter, parameter.requires_grad) for layer in layers for parameter in layer.parameters()]
    off = [layer for layer in layers if scale == 0.0 and not layer.disable_adapters]
    try:
        for layer in off:
            layer.enable_adapters(False)
        for layer, scaling in before:
            layer.scaling.update({label: value * scale for label, value in scaling.items()})
        yield
    finally:
        for layer, scaling in before:
            layer.scaling.update(scaling)
        for layer in off:
            layer.enable_adapters(True)
        for parameter, wanted in trainable:  # PEFT sets these with its switch
            parameter.requires_grad_(wanted)


def _lora_layers(networks: Iterable[nn.Module]) -> list[Any]:
    from peft.tuners.lora import LoraLayer

    return [module for network in networks for module in network.modules() if isinstance(module, LoraLayer)]
