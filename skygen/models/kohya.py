"""A diffusion LoRA in the words of kohya's sd-scripts, which ComfyUI and A1111 read: names, scales and header.

Sources: the names are those that sd-scripts gives its modules and ComfyUI and A1111 look for; ``dora_scale`` is LyCORIS's; the
header is that of sd-scripts (``ss_``) and of Stability AI's model metadata standard 1.0.1 (``modelspec.``).
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skygen import plain_json
from skygen.errors import ConfigError, DataError

WEIGHTS_FILE = "pytorch_lora_weights.safetensors"
SDXL_CODE = "https://github.com/Stability-AI/generative-models"
"""Whose names the tensors have, as the metadata standard asks."""
_PREFIXES = {"unet": "lora_unet_", "text_encoder": "lora_te_", "text_encoder_2": "lora_te2_"}
_ENDINGS = {
    ".lora_A.weight": "down",
    ".lora.down.weight": "down",  # as older scripts of diffusers write it
    ".lora_B.weight": "up",
    ".lora.up.weight": "up",
    ".lora_magnitude_vector": "magnitude",
    ".lora_magnitude_vector.weight": "magnitude",
}
_SDXL_OUTER = {
    "conv_in": "input_blocks.0.0",
    "conv_out": "out.2",
    "time_embedding.linear_1": "time_embed.0",
    "time_embedding.linear_2": "time_embed.2",
    "add_embedding.linear_1": "label_emb.0.0",
    "add_embedding.linear_2": "label_emb.0.2",
}
_SDXL_RESNET = {
    "conv1": "in_layers.2",
    "time_emb_proj": "emb_layers.1",
    "conv2": "out_layers.3",
    "conv_shortcut": "skip_connection",
}


@dataclass(frozen=True, slots=True)
class LoraModule:
    """What a LoRA adds to one layer: ``alpha / rank * up @ down``, and with DoRA the length of each output's weights."""

    part: str
    """``unet``, ``text_encoder`` or ``text_encoder_2``."""
    name: str
    """Of the layer in it, with dots."""
    down: Tensor
    """Float32 of shape (rank, inputs), or (rank, inputs, height, width) of a convolution."""
    up: Tensor
    """Float32 of shape (outputs, rank), or (outputs, rank, 1, 1)."""
    alpha: float
    """With rsLoRA, whose scale is alpha over the root of the rank, the alpha that gives this scale over the rank itself."""
    magnitude: Tensor | None = None
    """Float32 of as many values as there are outputs; None without DoRA."""

    @property
    def rank(self) -> int:
        """Of the update."""
        return int(self.down.shape[0])


def read_lora(file: Path) -> tuple[list[LoraModule], dict[str, str]]:
    """Read a diffusion LoRA in diffusers' layout.

    Args:
        file: safetensors, with the settings of PEFT in its header; without them every alpha is the rank.

    Returns:
        The modules in the order of their names, and the file's metadata.

    Raises:
        DataError: not a whole safetensors file, or its settings cannot be read.
        ConfigError: another kind of adapter.
    """
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(file, framework="pt") as opened:
            metadata = dict(opened.metadata() or {})
            tensors = {name: opened.get_tensor(name) for name in sorted(opened.keys())}
    except (OSError, SafetensorError) as error:
        raise DataError(f"{file}: not a readable safetensors file ({error}); give the {WEIGHTS_FILE} of a run.") from error
    found: dict[tuple[str, str], dict[str, Tensor]] = {}
    for key, tensor in tensors.items():
        part, _, rest = key.partition(".")
        ending = next((ending for ending in _ENDINGS if rest.endswith(ending)), None)
        if part == "transformer":
            raise ConfigError(f"{file}: adapts a transformer, such as Stable Diffusion 3's; skygen exports LoRAs of UNets.")
        if part not in _PREFIXES or ending is None:
            raise ConfigError(
                f"{file}: holds {key}, which is no part of a diffusion LoRA in diffusers' layout; give the {WEIGHTS_FILE} that "
                "finetune_diffusion or a script of diffusers has written."
            )
        found.setdefault((part, rest.removesuffix(ending)), {})[_ENDINGS[ending]] = tensor.float()
    settings = {part: _read_settings(file, metadata, part) for part in {part for part, _ in found}}
    modules = []
    for (part, name), values in found.items():
        if not {"down", "up"} <= values.keys():
            raise DataError(f"{file}: {part}.{name} has only one of the two matrices of its update; copy the file again.")
        modules.append(LoraModule(part, name, **values, alpha=_find_alpha(settings[part], name, len(values["down"]))))
    if not modules:
        raise DataError(f"{file}: holds no LoRA at all; give the {WEIGHTS_FILE} of a run.")
    return modules, metadata


def _read_settings(file: Path, metadata: Mapping[str, str], part: str) -> Any:
    """Return the ``LoraConfig`` that diffusers would make of the header, or None where there is none."""
    from peft import LoraConfig

    try:
        tree = plain_json.parse(metadata.get("lora_adapter_metadata", "{}"))
        settings = {key.removeprefix(f"{part}."): value for key, value in tree.items() if key.startswith(f"{part}.")}
        return LoraConfig(**settings) if settings else None
    except (ValueError, TypeError, AttributeError) as error:
        reason = str(error).splitlines()[0]
        raise DataError(f"{file}: the settings in its header cannot be read ({reason}); copy the file again.") from error


def _find_alpha(settings: Any, name: str, rank: int) -> float:
    from peft.utils.other import get_pattern_key

    if settings is None:
        return float(rank)
    alpha = float(settings.alpha_pattern.get(get_pattern_key(list(settings.alpha_pattern), name), settings.lora_alpha))
    return alpha * sqrt(rank) if settings.use_rslora else alpha


def name_for_kohya(module: LoraModule, unet: Mapping[str, Any]) -> str:
    """Return the name of a module in kohya's format, such as ``lora_unet_mid_block_attentions_0_proj_in``.

    Args:
        module: of a LoRA.
        unet: the config of the base's UNet, which tells SDXL: sd-scripts trains it under the names of Stability AI's own code,
            and ComfyUI and A1111 know them; SD 1.x and 2.x go by diffusers' names.

    Raises:
        ConfigError: SDXL's code has no such layer.
    """
    prefix, name = _PREFIXES[module.part], module.name
    sdxl = is_sdxl(unet)
    if module.part == "unet":
        name = _name_in_sdxl(name, unet) if sdxl else name
    else:
        prefix = "lora_te1_" if sdxl and module.part == "text_encoder" else prefix
        if not name.startswith(("text_model.", "text_projection")):
            name = f"text_model.{name}"  # which transformers 5 leaves out
    return prefix + name.replace(".", "_")


def is_sdxl(unet: Mapping[str, Any]) -> bool:
    """Say whether a UNet's config is one of Stable Diffusion XL, of any size."""
    return unet.get("addition_embed_type") == "text_time"


def _name_in_sdxl(name: str, unet: Mapping[str, Any]) -> str:
    """Count the blocks as the original code does: one list of inputs, one of outputs, each with a sampler at a block's end."""
    if name in _SDXL_OUTER:
        return _SDXL_OUTER[name]
    layers = unet["layers_per_block"]
    matched = re.fullmatch(r"(down|mid|up)_blocks?(?:\.(\d+))?\.(resnets|attentions|(?:down|up)samplers)\.(\d+)\.(.+)", name)
    if matched is None:
        raise ConfigError(
            f"{name}: a layer that Stable Diffusion XL has no name for in kohya's format; export it as diffusers."
        )
    side, kind, rest = matched[1], matched[3], matched[5]
    block, index = int(matched[2] or 0), int(matched[4])
    if kind == "resnets":
        rest = _SDXL_RESNET.get(rest, rest)
    if side == "mid":
        return f"middle_block.{1 if kind == 'attentions' else 2 * index}.{rest}"
    first = block * (layers + 1)
    if kind == "downsamplers":
        return f"input_blocks.{first + layers + 1}.0.op"
    if kind == "upsamplers":
        return f"output_blocks.{first + layers}.{2 if 'Attn' in unet['up_block_types'][block] else 1}.{rest}"
    place = f"input_blocks.{first + index + 1}" if side == "down" else f"output_blocks.{first + index}"
    return f"{place}.{1 if kind == 'attentions' else 0}.{rest}"


def to_kohya(modules: Sequence[LoraModule], unet: Mapping[str, Any]) -> dict[str, Tensor]:
    """Convert a LoRA to kohya's format.

    Args:
        modules: of the LoRA.
        unet: the config of the base's UNet.

    Returns:
        Float32 tensors by name: ``.lora_down.weight`` and ``.lora_up.weight`` as they are, ``.alpha`` a scalar, and with DoRA
        ``.dora_scale`` of shape (outputs, 1), or (outputs, 1, 1, 1): by its first dimension programs tell a length of an
        output's weights, which PEFT trains, from LyCORIS's older length of an input's.
    """
    tensors: dict[str, Tensor] = {}
    for module in modules:
        name = name_for_kohya(module, unet)
        tensors[f"{name}.lora_down.weight"], tensors[f"{name}.lora_up.weight"] = module.down, module.up
        tensors[f"{name}.alpha"] = torch.tensor(module.alpha)
        if module.magnitude is not None:
            tensors[f"{name}.dora_scale"] = module.magnitude.reshape(-1, *[1] * (module.down.ndim - 1))
    return tensors


def to_diffusers(modules: Sequence[LoraModule]) -> dict[str, Tensor]:
    """Name a LoRA's tensors as PEFT does; the scale is in the file's metadata."""
    tensors: dict[str, Tensor] = {}
    for module in modules:
        values = {"lora_A.weight": module.down, "lora_B.weight": module.up, "lora_magnitude_vector": module.magnitude}
        tensors |= {f"{module.part}.{module.name}.{end}": value for end, value in values.items() if value is not None}
    return tensors


def describe_for_kohya(
    modules: Sequence[LoraModule],
    unet: Mapping[str, Any],
    *,
    base: str,
    title: str,
    prediction_type: str,
    resolution: int,
    zero_terminal_snr: bool | None = None,
) -> dict[str, str]:
    """Write the header by which programs sort and show a LoRA: only what is known, and no date, so that files can be equal.

    Args:
        modules: of the LoRA.
        unet: the config of the base's UNet; one of no published size, such as the miniature's, is not called a version of
            Stable Diffusion.
        base: name of the base, shown to people.
        title: of the LoRA, shown to people.
        prediction_type: ``epsilon`` or ``v_prediction``.
        resolution: side in pixels of the base's images.
        zero_terminal_snr: whether it was trained on a schedule that ends without signal; None where that is not known.
    """
    is_v = prediction_type == "v_prediction"
    header = {
        **_describe_network(modules),
        "ss_sd_model_name": base,
        "ss_output_name": title,
        "modelspec.title": title,
        "modelspec.resolution": f"{resolution}x{resolution}",
        "modelspec.prediction_type": "v" if is_v else prediction_type,
    }
    if zero_terminal_snr is not None:
        header["ss_zero_terminal_snr"] = str(zero_terminal_snr)
    width = unet.get("cross_attention_dim") if unet.get("block_out_channels", [0])[0] == 320 else 0
    known: tuple[str, str] | None = None
    if is_sdxl(unet) and width == 2048:
        known = ("sdxl_base_v1-0", "stable-diffusion-xl-v1-base")
    elif not is_sdxl(unet) and width == 1024:
        known = ("sd_v2_v", "stable-diffusion-v2-768-v") if is_v else ("sd_v2", "stable-diffusion-v2-512")
    elif not is_sdxl(unet) and width == 768:
        known = ("sd_v1_v" if is_v else "sd_v1", "stable-diffusion-v1")
    if known is not None:
        header |= {
            "ss_base_model_version": known[0],
            "ss_v2": str(known[0].startswith("sd_v2")),
            "modelspec.sai_model_spec": "1.0.1",
            "modelspec.architecture": f"{known[1]}/lora",
            "modelspec.implementation": SDXL_CODE if is_sdxl(unet) else "diffusers",
        }
    return header


def _describe_network(modules: Sequence[LoraModule]) -> dict[str, str]:
    """Name what can load the modules, with their rank and alpha; ``Dynamic`` is sd-scripts' word where they differ."""
    ranks, alphas = {module.rank for module in modules}, {module.alpha for module in modules}
    rank = str(ranks.pop()) if len(ranks) == 1 else "Dynamic"
    alpha = f"{alphas.pop():g}" if len(alphas) == 1 else "Dynamic"
    arguments = {}
    if any(module.down.ndim == 4 and module.down.shape[-1] > 1 for module in modules):
        arguments = {"conv_dim": rank, "conv_alpha": alpha}
    decomposed = any(module.magnitude is not None for module in modules)
    if decomposed:
        arguments |= {"algo": "locon", "dora_wd": "True", "wd_on_output": "True"}
    header = {
        "ss_network_module": "lycoris.kohya" if decomposed else "networks.lora",
        "ss_network_dim": rank,
        "ss_network_alpha": alpha,
    }
    return header | ({"ss_network_args": json.dumps(arguments)} if arguments else {})


def serialize(tensors: Mapping[str, Tensor], metadata: Mapping[str, str]) -> bytes:
    """Make a safetensors file with its metadata in order, and the tensors' hash where a header of modelspec asks for it."""
    from safetensors.torch import save

    content = save({name: tensor.contiguous() for name, tensor in tensors.items()})
    end = 8 + int.from_bytes(content[:8], "little")
    body, metadata = content[end:], dict(metadata)
    if "modelspec.title" in metadata:
        digest = hashlib.sha256(body).hexdigest()
        metadata |= {"modelspec.hash_sha256": f"0x{digest}", "sshs_model_hash": digest}
    header = {"__metadata__": dict(sorted(metadata.items()))} | plain_json.parse(content[8:end])
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    return len(text).to_bytes(8, "little") + text + body
