"""LoRA: attached, saved in the format its own ecosystem loads, and believed saved only after it has been read back."""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Protocol, final, runtime_checkable

from torch import nn

from skygen.config import CountFromOne
from skygen.errors import ConfigError
from skygen.models.adapter_files import (
    PEFT_PREFIX,
    compare,
    load_values,
    read_about,
    read_config,
    require_same_base,
    save_peft,
    write_about,
)
from skygen.models.weights import locate, reading_weights
from skygen.seeding import Seeds


@dataclass(frozen=True)
class LoraSettings:
    """Low-rank adaptation (Hu et al. 2021)."""

    rank: int = 16
    """Rank of the update; 0 trains every parameter of the network and saves the whole model."""
    lora_alpha: CountFromOne | None = None
    """The update is scaled by ``lora_alpha / rank``; the same as ``rank`` when left out."""
    lora_dropout: float = 0.0
    """Share of the adapter's inputs set to zero in training."""
    targets: str = "default"
    """Which layers are adapted: a preset of the model, such as ``text_decoder``, ``text_decoder_and_bridge`` and ``all`` of the
    captioners."""
    use_dora: bool = False
    """Adapt direction and magnitude of each weight apart (DoRA, Liu et al. 2024): a little better at small ranks, slower."""
    use_rslora: bool = False
    """Scale by ``lora_alpha / sqrt(rank)`` (Kalajdzievski 2023), which keeps large ranks from being learned too slowly."""

    def __post_init__(self) -> None:
        if self.rank < 0:
            raise ConfigError(f"lora.rank is {self.rank}; it must be at least 1, or 0 for no LoRA: every parameter is trained")
        if not 0 <= self.lora_dropout < 1:
            raise ConfigError(f"lora.lora_dropout is {self.lora_dropout}; it must be in [0, 1)")


@runtime_checkable
class Trained(Protocol):
    """What a fine-tuning trains and leaves behind: an ``Adapter`` or a ``WholeModel``."""

    @property
    def folder_name(self) -> str:
        """Where it is saved, below the run's folder."""
        ...

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        ...

    def save(self, folder: Path) -> None:
        """Write what was trained to a folder."""
        ...

    def start_from(self, folder: Path, name: str) -> None:
        """Take over the values of what an earlier run has saved.

        Args:
            folder: where it is.
            name: that the network was loaded by, for the errors.

        Raises:
            ConfigError: that is of another model, or of other layers or another rank.
        """
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

    def start_from(self, folder: Path, name: str) -> None:
        """Refuse: a whole model goes on from a whole model."""
        raise ConfigError(
            f"--model.adapter {folder}: --lora.rank 0 trains {name} as a whole, and an adapter cannot be its start; set the "
            "adapter's own rank, or leave the adapter out."
        )


@final
class Adapter:
    """The attached LoRA of one network.

    Args:
        network: a diffusers or transformers model; it is frozen and given the LoRA layers.
        settings: rank, alpha, dropout, targets.
        presets: preset name to a regular expression that a module's whole name must match.
        seeds: the initial values follow from them.
        about: what is written beside it as ``skygen.json``.

    Raises:
        ConfigError: no such preset.
    """

    folder_name: ClassVar[str] = "adapter"

    def __init__(
        self,
        network: Any,
        settings: LoraSettings,
        presets: Mapping[str, str],
        seeds: Seeds,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        from peft import LoraConfig

        if settings.targets not in presets:
            raise ConfigError(f"--lora.targets {settings.targets}: this model has {', '.join(presets)}.")
        self.network = network
        self.about = dict(about or {})
        self.config = LoraConfig(
            r=settings.rank,
            lora_alpha=settings.rank if settings.lora_alpha is None else settings.lora_alpha,
            lora_dropout=settings.lora_dropout,
            target_modules=presets[settings.targets],  # one string: PEFT keeps a list as a set, whose order is not fixed
            use_dora=settings.use_dora,
            use_rslora=settings.use_rslora,
            base_model_name_or_path=self.about.get("base"),
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
        path = save_peft(folder, state, self.config)
        compare(path, {PEFT_PREFIX + name: tensor for name, tensor in state.items()})
        if self.about:
            write_about(folder, self.about)

    def start_from(self, folder: Path, name: str) -> None:
        """Take over the values of a saved adapter in PEFT's layout, see ``Trained.start_from``."""
        locate(str(folder.absolute()), "adapter", "adapter_config.json")
        with reading_weights(str(folder)):
            require_same_base(self.network, folder, name, read_about(folder))
            load_values(self.network, folder)


def attach_saved(network: Any, folder: Path, name: str) -> dict[str, Any]:
    """Put a saved adapter in PEFT's layout on the network that it was trained on.

    Args:
        network: a transformers model.
        folder: of the adapter.
        name: that the network was loaded by, for the errors.

    Returns:
        What ``skygen.json`` beside it says; empty where another program has made it.

    Raises:
        ConfigError: the adapter was trained on another model.
        UnavailableError: no adapter there, or only a part of one.
    """
    locate(str(folder.absolute()), "adapter", "adapter_config.json")
    with reading_weights(str(folder)):
        about = read_about(folder)
        require_same_base(network, folder, name, about)
        config = read_config(folder)
        try:
            network.add_adapter(config)
        except (ValueError, TypeError, RuntimeError, LookupError, AttributeError, re.error) as error:
            reason = " ".join(str(error).split())[:200]
            raise ConfigError(
                f"--model.adapter {folder}: its adapter_config.json does not fit --model.name {name} ({reason}); copy it again."
            ) from error
        load_values(network, folder)  # not transformers' load_adapter, which drops the magnitudes of DoRA
    return about


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
