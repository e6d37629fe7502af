"""The LoRA of a text-to-image model: saved so that its own pipeline of diffusers loads it, and refused on another base."""

from __future__ import annotations

from pathlib import Path
from typing import Any, ClassVar, final

from torch import nn

from skygen.errors import ConfigError
from skygen.models.adapter_files import compare, read_about, save_diffusers, write_about
from skygen.models.adapters import Adapter, LoraSettings
from skygen.models.diffusions.family import DiffusionFamily
from skygen.models.weights import locate, reading_weights
from skygen.seeding import Seeds

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
DENOISERS = ("unet", "transformer")
CONVOLUTIONAL = "attention_ff_conv"


@final
class DiffusionAdapter:
    """The attached LoRA of a pipeline's denoiser.

    Args:
        family: whose denoiser is frozen and given the LoRA layers.
        settings: rank, alpha, dropout, targets.
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
        self._network = network_of(family)
        self._attached = Adapter(self._network, settings, presets, seeds)
        self._about = {"pipeline": family.pipeline_class, **about}

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return self._attached.parameters

    def save(self, folder: Path) -> None:
        """Write the adapter, read it back, and compare.

        Raises:
            StorageError: what was read back is not what was written.
        """
        from peft import get_peft_model_state_dict

        state = {name: tensor.detach().cpu().contiguous() for name, tensor in get_peft_model_state_dict(self._network).items()}
        folder.mkdir(parents=True, exist_ok=True)
        prefix = self._family.network_name
        compare(save_diffusers(folder, state, self._attached.config, self._family.pipeline_class, prefix), state, prefix)
        write_about(folder, self._about)

    def start_from(self, folder: Path, name: str) -> None:
        """Take over the values of a saved adapter, see ``Trained.start_from``."""
        from peft import get_peft_model_state_dict, set_peft_model_state_dict
        from safetensors.torch import load_file

        locate(str(folder.absolute()), "adapter", WEIGHTS_FILE)
        with reading_weights(str(folder)):
            about = require_fitting(self._family, folder, name)
            prefix = f"{self._family.network_name}."
            state = {key.removeprefix(prefix): tensor for key, tensor in load_file(folder / WEIGHTS_FILE).items()}
        if about.get("zero_terminal_snr") and not self._about.get("zero_terminal_snr"):
            raise ConfigError(
                f"--model.adapter {folder}: trained on a schedule that ends in noise; set --diffusion.zero_terminal_snr true."
            )
        own = get_peft_model_state_dict(self._network)
        if {key: tensor.shape for key, tensor in state.items()} != {key: tensor.shape for key, tensor in own.items()}:
            raise ConfigError(
                f"--model.adapter {folder}: holds other layers or another rank than --lora.targets, --lora.rank and "
                "--lora.use_dora say; set them as they were when it was trained."
            )
        set_peft_model_state_dict(self._network, state)


def network_of(family: DiffusionFamily) -> Any:
    """Return the part of a family's pipeline that is trained."""
    return getattr(family.pipeline, family.network_name)


def load_adapter(family: DiffusionFamily, folder: Path, name: str) -> dict[str, Any]:
    """Put a saved adapter on the pipeline that it was trained for.

    Args:
        family: the loaded pipeline.
        folder: with ``pytorch_lora_weights.safetensors``, saved by skygen or any script of diffusers.
        name: that the pipeline was loaded by, for the errors.

    Returns:
        What ``skygen.json`` beside it says; empty where another program has made it.

    Raises:
        ConfigError: the adapter is of another family, or of other sizes.
        UnavailableError: no adapter there, or only a part of one.
    """
    with reading_weights(str(folder)):
        about = require_fitting(family, folder, name)
        try:
            family.pipeline.load_lora_weights(str(folder), weight_name=WEIGHTS_FILE)
        except (ValueError, RuntimeError, KeyError) as error:  # what diffusers raises for names and sizes it cannot place
            reason = str(error).strip().splitlines()[0].rstrip(".:")
            raise ConfigError(f"{_unfit(family, folder, name)} ({reason}); give the base that it was trained on.") from error
    if not any(getattr(part, "peft_config", None) for part in family.pipeline.components.values()):
        raise ConfigError(
            f"{_unfit(family, folder, name)}: none of its layers are there; give the base that it was trained on."
        )
    return about


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
