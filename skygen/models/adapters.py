"""LoRA: attached, saved in the format its own ecosystem loads, and believed saved only after it has been read back."""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from skygen.errors import ConfigError, StorageError
from skygen.seeding import Seeds

Layout = Literal["diffusers", "peft"]
PEFT_PREFIX = "base_model.model."


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: int = 16
    """Rank of the update; 0 trains every parameter of the network and saves the whole model."""
    lora_alpha: int | None = None
    """The update is scaled by ``lora_alpha / rank``; the same as ``rank`` when left out."""
    lora_dropout: float = 0.0
    """Share of the adapter's inputs set to zero in training."""
    targets: str = "default"
    """Which layers are adapted: a preset of the model, see ``LORA_PRESETS`` beside it."""


@runtime_checkable
class Trained(Protocol):
    """What a fine-tuning trains and leaves behind: an ``Adapter`` or a ``WholeModel``."""

    folder_name: ClassVar[str]

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was trained to a folder."""
        ...


@final
class WholeModel:
    """Every parameter of a network, trained without a LoRA.

    Args:
        network: made trainable, in float32.
        save_model: writes the whole model to a folder.
    """

    folder_name: ClassVar[str] = "model"

    def __init__(self, network: nn.Module, save_model: Callable[[Path], None]) -> None:
        self.network = network.requires_grad_(True)
        self._save_model = save_model

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return dict(self.network.named_parameters())

    def save(self, folder: Path) -> None:
        """Write the whole model."""
        self._save_model(folder)


@final
class Adapter:
    """The attached LoRA of one network.

    Args:
        network: a diffusers or transformers model; it is frozen and given the LoRA layers.
        settings: rank, alpha, dropout, targets.
        presets: preset name to a regular expression that a module's whole name must match.
        layout: ``diffusers`` writes what ``load_lora_weights`` reads, ``peft`` what ``PeftModel.from_pretrained`` reads.
        seeds: the initial values follow from them.

    Raises:
        ConfigError: no such preset.
    """

    folder_name: ClassVar[str] = "adapter"

    def __init__(self, network: Any, settings: LoraSettings, presets: Mapping[str, str], layout: Layout, seeds: Seeds) -> None:
        from peft import LoraConfig

        if settings.targets not in presets:
            raise ConfigError(f"--lora.targets {settings.targets}: this model has {', '.join(presets)}.")
        self.network = network
        self.layout: Layout = layout
        self.config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.rank if settings.lora_alpha is None else settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=presets[settings.targets],  # one string: PEFT keeps a list as a set, whose order is not fixed
        )
        network.requires_grad_(False)
        seeds.reset_global("lora")
        network.add_adapter(self.config)
        for parameter in self.parameters.values():
            parameter.data = parameter.data.float()  # a half-precision LoRA hardly moves: 9 % of it after 20 steps

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return {name: parameter for name, parameter in self.network.named_parameters() if parameter.requires_grad}

    def save(self, folder: Path) -> None:
        """Write the adapter, read it back, and compare.

        Raises:
            StorageError: what was read back is not what was written.
        """
        from peft import get_peft_model_state_dict

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(self.network).items()}
        folder.mkdir(parents=True, exist_ok=True)
        path = (_save_diffusers if self.layout == "diffusers" else _save_peft)(folder, state, self.config)
        _compare(path, state)


@contextmanager
def without_adapter(network: Any) -> Iterator[None]:
    """Let ``network`` compute as its base for a while; a network without an adapter is left alone."""
    attached = bool(getattr(network, "peft_config", None))
    if attached:
        network.disable_adapters()
    try:
        yield
    finally:
        if attached:
            network.enable_adapters()


def _save_diffusers(folder: Path, state: Mapping[str, Tensor], config: Any) -> Path:
    """Write PEFT's own key names, which round-trip for every target, with the alpha that bare weights would lose."""
    from diffusers import StableDiffusionPipeline

    metadata = {name: sorted(value) if isinstance(value, set) else value for name, value in config.to_dict().items()}
    StableDiffusionPipeline.save_lora_weights(folder, unet_lora_layers=dict(state), unet_lora_adapter_metadata=metadata)
    path = folder / "pytorch_lora_weights.safetensors"
    _sort_metadata(path)
    return path


def _sort_metadata(path: Path) -> None:
    """Put a file's metadata in order: safetensors writes it in a random one, and equal adapters would be unequal files."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = json.loads(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    working = path.with_name(f".{path.name}.{os.getpid()}")
    working.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])
    working.replace(path)


def _save_peft(folder: Path, state: Mapping[str, Tensor], config: Any) -> Path:
    from safetensors.torch import save_file

    path = folder / "adapter_model.safetensors"
    save_file({PEFT_PREFIX + name: tensor for name, tensor in state.items()}, path, metadata={"format": "pt"})
    config.save_pretrained(folder)
    return path


def _compare(path: Path, state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import load_file

    read = load_file(path)
    stripped = {name.removeprefix(PEFT_PREFIX).removeprefix("unet."): tensor for name, tensor in read.items()}
    if stripped.keys() != state.keys() or not all(torch.equal(stripped[name], state[name]) for name in state):
        raise StorageError(f"{path}: what was read back differs from the adapter in memory; the disk cannot be trusted.")
