"""LoRA: attached, saved in the format its own ecosystem loads, and believed saved only after it has been read back."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal, Protocol, final, runtime_checkable

import torch
from torch import Tensor, nn

from skygen.errors import ConfigError, StorageError
from skygen.models.fingerprints import fingerprint_weights
from skygen.models.weights import locate, reading_weights
from skygen.seeding import Seeds
from skygen.storage import writing

Layout = Literal["diffusers", "peft"]
PEFT_PREFIX = "base_model.model."
ABOUT_FILE = "skygen.json"
"""Beside an adapter: what it was trained on, and how its base was asked."""


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
        layout: Layout,
        seeds: Seeds,
        about: Mapping[str, Any] | None = None,
    ) -> None:
        from peft import LoraConfig

        if settings.targets not in presets:
            raise ConfigError(f"--lora.targets {settings.targets}: this model has {', '.join(presets)}.")
        self.network = network
        self.layout: Layout = layout
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
        path = (_save_diffusers if self.layout == "diffusers" else _save_peft)(folder, state, self.config)
        _compare(path, state)
        if self.about:
            with writing(folder / ABOUT_FILE) as temporary:
                temporary.write_text(json.dumps(self.about, indent=1) + "\n", encoding="utf-8")


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
        about = _read_about(folder)
        _require_same_base(network, folder, name, about)
        network.load_adapter(str(folder))
    return about


def _read_about(folder: Path) -> dict[str, Any]:
    if not (folder / ABOUT_FILE).is_file():
        return {}
    try:
        about = json.loads((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{folder / ABOUT_FILE}: not readable JSON ({error}); copy the adapter again.") from error
    return about if isinstance(about, dict) else {}


def _require_same_base(network: Any, folder: Path, name: str, about: Mapping[str, Any]) -> None:
    """Refuse an adapter of another family, of other sizes, or of the same architecture with other weights."""
    trained_on = f"--model.adapter {folder}: trained on {about.get('base') or 'another model'}"
    own = network.config.model_type
    if about.get("model_type", own) != own:
        raise ConfigError(
            f"{trained_on}, a {about['model_type']} model, and --model.name {name} is a {own} one; give that base."
        )
    for module, shapes in _adapted_shapes(folder).items():
        found = getattr(network.get_submodule(module), "weight", None) if _has_module(network, module) else None
        if found is None or (shapes and not _is_quantized(network) and tuple(found.shape) != shapes):
            raise ConfigError(
                f"{trained_on}, whose {module} {'has other sizes' if found is not None else 'is not'} in --model.name {name}; "
                "give the base that it was trained on."
            )
    weights = about.get("base_weights")
    if weights and not _is_quantized(network) and weights != fingerprint_weights(network, torch.bfloat16):
        raise ConfigError(f"{trained_on}, and --model.name {name} has other weights; give the base that it was trained on.")


def _adapted_shapes(folder: Path) -> dict[str, tuple[int, ...]]:
    """Read from the file's header which modules are adapted, and the sizes of those that are linear."""
    from safetensors import safe_open

    shapes: dict[str, tuple[int, ...]] = {}
    with safe_open(folder / "adapter_model.safetensors", framework="pt") as file:
        names = set(file.keys())
        for down in sorted(name for name in names if name.endswith(".lora_A.weight")):
            up = down.replace(".lora_A.", ".lora_B.")
            inward, outward = file.get_slice(down).get_shape(), file.get_slice(up).get_shape() if up in names else []
            linear = len(inward) == len(outward) == 2
            module = down.removeprefix(PEFT_PREFIX).removesuffix(".lora_A.weight")
            shapes[module] = (outward[0], inward[1]) if linear else ()
    return shapes


def _has_module(network: Any, name: str) -> bool:
    try:
        network.get_submodule(name)
    except AttributeError:
        return False
    return True


def _is_quantized(network: Any) -> bool:
    return bool(getattr(network, "is_quantized", False))


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
    with writing(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def _save_peft(folder: Path, state: Mapping[str, Tensor], config: Any) -> Path:
    from safetensors.torch import save_file

    path = folder / "adapter_model.safetensors"
    with writing(path) as temporary:
        save_file({PEFT_PREFIX + name: tensor for name, tensor in state.items()}, temporary, metadata={"format": "pt"})
    config.save_pretrained(folder)
    return path


def _compare(path: Path, state: Mapping[str, Tensor]) -> None:
    from safetensors.torch import load_file

    read = load_file(path)
    stripped = {name.removeprefix(PEFT_PREFIX).removeprefix("unet."): tensor for name, tensor in read.items()}
    if stripped.keys() != state.keys() or not all(torch.equal(stripped[name], state[name]) for name in state):
        raise StorageError(f"{path}: what was read back differs from the adapter in memory; the disk cannot be trusted.")
