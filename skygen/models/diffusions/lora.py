"""The LoRA of a text-to-image model: saved so that its own pipeline of diffusers loads it, and refused on another base."""

from __future__ import annotations

import warnings
from collections.abc import Mapping
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from torch import Tensor, nn

from skygen.errors import ConfigError
from skygen.models.adapter_files import compare, read_about, save_diffusers, write_about
from skygen.models.adapters import Adapter, LoraSettings
from skygen.models.diffusions.family import DiffusionFamily
from skygen.models.diffusions.settings import DiffusionLoraSettings
from skygen.models.weights import locate, reading_weights
from skygen.seeding import Seeds

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
DENOISERS = ("unet", "transformer")
CONVOLUTIONAL = "attention_ff_conv"
CLIP_ENCODERS = ("text_encoder", "text_encoder_2")
"""Parts of the pipelines that ``load_lora_weights`` adapts beside the denoiser; both are CLIPs in every family."""
CLIP_ATTENTION = r".*self_attn\.(q_proj|k_proj|v_proj|out_proj)"
CLIP_FEED_FORWARD = rf"{CLIP_ATTENTION}|.*mlp\.(fc1|fc2)"
_SECOND = (".lora_B.weight", ".lora.up.weight", ".lora_up.weight")
"""How the key of an update's second matrix ends, in the formats that diffusers loads."""


@final
class DiffusionAdapter:
    """The attached LoRA of a pipeline's denoiser, and of its CLIP text encoders where the settings say so.

    Args:
        family: whose networks are frozen and given the LoRA layers.
        settings: rank, alpha, dropout, targets; ``DiffusionLoraSettings`` for the text encoders.
        seeds: the initial values follow from them.
        about: what is written beside it as ``skygen.json``, after the class of the pipeline.

    Raises:
        ConfigError: no such preset for this family.
    """

    folder_name: ClassVar[str] = "adapter"

    def __init__(self, family: DiffusionFamily, settings: LoraSettings, seeds: Seeds, about: dict[str, Any]) -> None:
        presets = {"default": family.lora_presets["attention"], **family.lora_presets}
        if settings.targets == CONVOLUTIONAL and CONVOLUTIONAL not in presets:
            raise ConfigError(
                f"--lora.targets {CONVOLUTIONAL}: a {family.pipeline_class} denoises with a transformer, which has no "
                "convolutions to adapt; give attention or attention_ff."
            )
        self._family = family
        self._attached = {family.network_name: Adapter(network_of(family), settings, presets, seeds)}
        if isinstance(settings, DiffusionLoraSettings) and settings.text_encoders:
            clip = {
                name: CLIP_ATTENTION if pattern == presets["default"] else CLIP_FEED_FORWARD
                for name, pattern in presets.items()
            }
            for part in CLIP_ENCODERS:
                if getattr(family.pipeline, part, None) is not None:
                    self._attached[part] = Adapter(getattr(family.pipeline, part), settings, clip, seeds)
        self._about = {"pipeline": family.pipeline_class, **about}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order; those of text encoders begin with the part's name."""
        named: dict[str, nn.Parameter] = {}
        for part, attached in self._attached.items():
            prefix = "" if part == self._family.network_name else f"{part}."
            named |= {f"{prefix}{name}": parameter for name, parameter in attached.parameters.items()}
        return named

    @property
    def text_encoders(self) -> tuple[nn.Module, ...]:
        """The text encoders that are adapted."""
        return tuple(attached.network for part, attached in self._attached.items() if part in CLIP_ENCODERS)

    def save(self, folder: Path) -> None:
        """Write the adapter, read it back, and compare.

        Raises:
            StorageError: what was read back is not what was written.
        """
        states = {
            part: {name: tensor.detach().cpu().contiguous() for name, tensor in _state_of(attached).items()}
            for part, attached in self._attached.items()
        }
        folder.mkdir(parents=True, exist_ok=True)
        configs = {part: attached.config for part, attached in self._attached.items()}
        path = save_diffusers(folder, states, configs, self._family.pipeline_class)
        compare(path, {f"{part}.{name}": tensor for part, state in states.items() for name, tensor in state.items()})
        write_about(folder, self._about)

    def start_from(self, folder: Path, name: str) -> None:
        """Take over the values of a saved adapter, see ``Trained.start_from``."""
        from peft import set_peft_model_state_dict
        from safetensors.torch import load_file

        locate(str(folder.absolute()), "adapter", WEIGHTS_FILE)
        with reading_weights(str(folder)):
            about = require_fitting(self._family, folder, name)
            saved = load_file(folder / WEIGHTS_FILE)
        if about.get("zero_terminal_snr") and not self._about.get("zero_terminal_snr"):
            raise ConfigError(
                f"--model.adapter {folder}: trained on a schedule that ends in noise; set --diffusion.zero_terminal_snr true."
            )
        own = {
            f"{part}.{key}": tensor for part, attached in self._attached.items() for key, tensor in _state_of(attached).items()
        }
        if {key: tensor.shape for key, tensor in saved.items()} != {key: tensor.shape for key, tensor in own.items()}:
            raise ConfigError(
                f"--model.adapter {folder}: holds other layers or another rank than --lora.targets, --lora.rank, "
                "--lora.use_dora and --lora.text_encoders say; set them as they were when it was trained."
            )
        for part, attached in self._attached.items():
            prefix = f"{part}."
            state = {key.removeprefix(prefix): tensor for key, tensor in saved.items() if key.startswith(prefix)}
            set_peft_model_state_dict(attached.network, state)


def _state_of(attached: Adapter) -> Mapping[str, Tensor]:
    """Return an adapter's tensors by PEFT's own names; a compiled network gives the same ones."""
    from peft import get_peft_model_state_dict

    state: Mapping[str, Tensor] = get_peft_model_state_dict(attached.network)
    return state


def network_of(family: DiffusionFamily) -> Any:
    """Return the part of a family's pipeline that is trained."""
    return getattr(family.pipeline, family.network_name)


def load_adapter(family: DiffusionFamily, folder: Path, name: str, label: str = "default_0") -> dict[str, Any]:
    """Put a saved adapter on the pipeline that it was trained for.

    Args:
        family: the loaded pipeline.
        folder: with ``pytorch_lora_weights.safetensors``, saved by skygen or any script of diffusers.
        name: that the pipeline was loaded by, for the errors.
        label: what PEFT is to call it; another for each of several.

    Returns:
        What ``skygen.json`` beside it says; empty where another program has made it.

    Raises:
        ConfigError: the adapter is of another family, or of other sizes.
        UnavailableError: no adapter there, or only a part of one.
    """
    with reading_weights(str(folder)):
        about = require_fitting(family, folder, name)
        try:
            with warnings.catch_warnings():
                warnings.filterwarnings("ignore", "Already found a `peft_config`")  # of another adapter, as is asked
                family.pipeline.load_lora_weights(str(folder), weight_name=WEIGHTS_FILE, adapter_name=label)
        except (ValueError, RuntimeError, KeyError) as error:  # what diffusers raises for names and sizes it cannot place
            reason = str(error).strip().splitlines()[0].rstrip(".:")
            raise ConfigError(f"{_unfit(family, folder, name)} ({reason}); give the base that it was trained on.") from error
    _require_loaded(family, folder, name, label)
    return about


def round_base(family: DiffusionFamily, dtype: torch.dtype) -> None:
    """Put the denoiser and the text encoders in another precision, and the LoRA on them in float32.

    A half-precision LoRA hardly moves: of one in bfloat16 9 % has changed after 20 steps.
    """
    for part, network in family.pipeline.components.items():
        if isinstance(network, nn.Module) and (part == family.network_name or part.startswith("text_encoder")):
            for name, parameter in network.named_parameters():
                parameter.data = parameter.data.to(torch.float32 if "lora_" in name else dtype)
            saved = network.state_dict().keys()
            for name, buffer in network.named_buffers():
                if name in saved and buffer.is_floating_point():  # as from_pretrained does; the others are computed, not loaded
                    buffer.data = buffer.data.to(dtype)


def _require_loaded(family: DiffusionFamily, folder: Path, name: str, label: str) -> None:
    """Raise ConfigError where not every update in the file is on the networks.

    Of names that it does not know, or of a second kind of names, diffusers makes the layers and leaves their updates at zero,
    with a warning at most.
    """
    from safetensors.torch import load_file

    saved = load_file(folder / WEIGHTS_FILE)
    held = sum(bool(tensor.any()) for key, tensor in saved.items() if key.endswith(_SECOND))
    networks = [part for part in family.pipeline.components.values() if isinstance(part, nn.Module)]
    updates = [parameter for network in networks for key, parameter in network.named_parameters() if f".lora_B.{label}." in key]
    loaded = sum(bool(update.any()) for update in updates)
    if not updates or loaded < held:
        raise ConfigError(
            f"{_unfit(family, folder, name)}: {loaded or 'none'} of its {held} layers are there; give the base that it was "
            "trained on, or a file with the names of diffusers alone."
        )


def require_fitting(family: DiffusionFamily, folder: Path, name: str) -> dict[str, Any]:
    """Raise ConfigError for an adapter of another family or of other sizes; return what ``skygen.json`` beside it says."""
    about = read_about(folder)
    own, trained_on = family.pipeline_class, about.get("pipeline")
    if trained_on not in (None, own):
        raise ConfigError(
            f"--model.adapter {folder}: trained for a {trained_on}, and --model.name {name} is a {own}; give the base that "
            "it was trained on."
        )
    shapes = _shapes(folder / WEIGHTS_FILE)
    parts = {key.split(".")[0] for key in shapes}
    others = parts & set(DENOISERS) - {family.network_name}
    if others and family.network_name not in parts:
        raise ConfigError(
            f"--model.adapter {folder}: adapts a {min(others)}, and --model.name {name}, a {own}, has a {family.network_name}; "
            "give the base that it was trained on."
        )
    modules = dict(network_of(family).named_modules())
    prefix, ending = f"{family.network_name}.", ".lora_A.weight"
    for key in (key for key in shapes if key.startswith(prefix) and key.endswith(ending)):
        module = key.removeprefix(prefix).removesuffix(ending)
        inward, outward = shapes[key], shapes.get(key.replace(".lora_A.", ".lora_B."), (0, 0))
        layer = modules.get(f"{module}.base_layer", modules.get(module))  # the former where a LoRA is attached already
        weight = getattr(layer, "weight", None)
        if weight is None or (weight.shape[0], weight.shape[1]) != (outward[0], inward[1]):
            raise ConfigError(
                f"{_unfit(family, folder, name)}: {module} {'is not there' if layer is None else 'has other sizes'}; give "
                "the base that it was trained on."
            )
    return about


def _unfit(family: DiffusionFamily, folder: Path, name: str) -> str:
    return f"--model.adapter {folder}: does not fit --model.name {name}, a {family.pipeline_class}"


def _shapes(path: Path) -> dict[str, tuple[int, ...]]:
    """Read the shapes of a file's tensors from its header."""
    from safetensors import safe_open

    with safe_open(path, framework="pt") as file:
        return {key: tuple(file.get_slice(key).get_shape()) for key in sorted(file.keys())}
