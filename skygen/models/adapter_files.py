"""Files of adapters: written in the format their own ecosystem loads, read back, and held against the model they are put on."""

from __future__ import annotations

import json
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from skygen import plain_json
from skygen.checkpoints import hash_file
from skygen.errors import ConfigError, StorageError
from skygen.models.fingerprints import fingerprint_weights
from skygen.storage import writing

PEFT_PREFIX = "base_model.model."
ABOUT_FILE = "skygen.json"
"""Beside an adapter: what it was trained on, how its base was asked, and the hashes of its files."""
HASHED = ("adapter_model.safetensors", "adapter_config.json", "pytorch_lora_weights.safetensors")
"""Files of adapters by their names in PEFT's and in diffusers' layout; a flipped bit in one would be loaded without a word."""


def save_diffusers(
    folder: Path, states: Mapping[str, Mapping[str, Tensor]], configs: Mapping[str, Any], pipeline_class: str
) -> Path:
    """Write PEFT's own key names, which round-trip for every target, with the alpha that bare weights would lose.

    Args:
        folder: gets ``pytorch_lora_weights.safetensors``.
        states: of each adapted part of the pipeline, such as ``unet``, which the keys in the file begin with.
        configs: PEFT's of the same parts, kept in the file's metadata.
        pipeline_class: of diffusers, whose ``load_lora_weights`` is to read it.

    Returns:
        The path of the weights.
    """
    import diffusers

    layers: dict[str, Any] = {}
    for part, state in states.items():
        settings = configs[part].to_dict()
        layers[f"{part}_lora_layers"] = dict(state)
        layers[f"{part}_lora_adapter_metadata"] = {
            name: sorted(value) if isinstance(value, set) else value for name, value in settings.items()
        }
    getattr(diffusers, pipeline_class).save_lora_weights(folder, **layers)
    path = folder / "pytorch_lora_weights.safetensors"
    _sort_metadata(path)
    return path


def _sort_metadata(path: Path) -> None:
    """Put a file's metadata in order: safetensors writes it in a random one, and equal adapters would be unequal files."""
    content = path.read_bytes()
    end = 8 + int.from_bytes(content[:8], "little")
    header = plain_json.parse(content[8:end])
    header["__metadata__"] = dict(sorted(header["__metadata__"].items()))
    text = json.dumps(header, separators=(",", ":"), ensure_ascii=False).encode()
    text += b" " * (-len(text) % 8)  # the tensors stay aligned
    with writing(path) as temporary:
        temporary.write_bytes(len(text).to_bytes(8, "little") + text + content[end:])


def save_peft(folder: Path, state: Mapping[str, Tensor], config: Any) -> Path:
    """Write PEFT's own folder: weights and ``adapter_config.json``; return the path of the weights."""
    from safetensors.torch import save_file

    path = folder / "adapter_model.safetensors"
    with writing(path) as temporary:
        save_file({PEFT_PREFIX + name: tensor for name, tensor in state.items()}, temporary, metadata={"format": "pt"})
    config.save_pretrained(folder)
    return path


def compare(path: Path, state: Mapping[str, Tensor]) -> None:
    """Read the weights back, and raise StorageError where they are not those in memory, by the names in the file."""
    from safetensors.torch import load_file

    read = load_file(path)
    if read.keys() != state.keys() or not all(torch.equal(read[name], state[name]) for name in state):
        raise StorageError(f"{path}: what was read back differs from the adapter in memory; the disk cannot be trusted.")


def write_about(folder: Path, about: Mapping[str, Any]) -> None:
    """Write ``skygen.json`` beside an adapter, whose other files are there already, with their hashes."""
    hashes = {name: hash_file(folder / name) for name in HASHED if (folder / name).is_file()}
    with writing(folder / ABOUT_FILE) as temporary:
        content = {**about, "sha256": hashes} if hashes else about
        temporary.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")


def read_about(folder: Path) -> dict[str, Any]:
    """Read ``skygen.json``, and hold the files beside it against their hashes; empty where another program made the adapter.

    Raises:
        ConfigError: it is no JSON.
        StorageError: a file is not what was written.
    """
    if not (folder / ABOUT_FILE).is_file():
        return {}
    try:
        about = plain_json.parse((folder / ABOUT_FILE).read_text(encoding="utf-8"))
    except ValueError as error:
        raise ConfigError(f"{folder / ABOUT_FILE}: not readable JSON ({error}); copy the adapter again.") from error
    if not isinstance(about, dict):
        return {}
    hashes = about.pop("sha256", None)
    for name in HASHED:
        digest = hashes.get(name) if isinstance(hashes, dict) else None
        if digest and (folder / name).is_file() and hash_file(folder / name) != digest:
            raise StorageError(
                f"{folder / name}: its bytes are not those that were written; copy the adapter again, or remove sha256 from "
                f"{ABOUT_FILE} where the file was changed on purpose."
            )
    return about


def read_config(folder: Path) -> Any:
    """Read ``adapter_config.json``.

    Raises:
        ConfigError: another kind of adapter than a LoRA, or the file is damaged.
    """
    from peft import LoraConfig, PeftConfig

    path = folder / "adapter_config.json"
    try:
        plain_json.parse(path.read_bytes())
        config = PeftConfig.from_pretrained(str(folder))
    except (ValueError, TypeError, LookupError, AttributeError) as error:
        reason = " ".join(str(error).split())[:200]
        raise ConfigError(f"{path}: not the settings of a LoRA ({reason}); copy the adapter again.") from error
    if not isinstance(config, LoraConfig):
        raise ConfigError(f"--model.adapter {folder}: a {config.peft_type} adapter; skygen puts LoRA adapters on a model.")
    return config


def load_values(network: Any, folder: Path) -> None:
    """Give a network's LoRA the values of a saved one, every one of them.

    Raises:
        ConfigError: the file holds other layers or another rank.
    """
    from peft import get_peft_model_state_dict, set_peft_model_state_dict
    from safetensors.torch import load_file

    saved = load_file(folder / "adapter_model.safetensors")
    state = {key.removeprefix(PEFT_PREFIX): tensor for key, tensor in saved.items()}
    own = {key: tensor.shape for key, tensor in get_peft_model_state_dict(network).items()}
    if {key: tensor.shape for key, tensor in state.items()} != own:
        raise ConfigError(
            f"--model.adapter {folder}: holds other layers or another rank than --lora.targets, --lora.rank and "
            "--lora.use_dora say; set them as its adapter_config.json has them."
        )
    set_peft_model_state_dict(network, state)


def require_same_base(network: Any, folder: Path, name: str, about: Mapping[str, Any]) -> None:
    """Raise ConfigError for an adapter of another family, of other sizes, or of the same architecture with other weights."""
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
