"""The families that there are, by transformers' ``model_type``, and how one is found and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skygen.errors import ConfigError
from skygen.models.weights import hide_loading_bars, locate, reading_weights

if TYPE_CHECKING:
    from skygen.models.captioners.family import Family

FAMILIES: Mapping[str, tuple[str, str]] = {
    "blip": ("blip", "Blip"),
    "blip-2": ("blip2", "Blip2"),
    "git": ("git", "Git"),
    "idefics3": ("idefics3", "Idefics3"),
    "smolvlm": ("idefics3", "Idefics3"),
    "qwen2_5_vl": ("qwen2_5_vl", "Qwen25Vl"),
    "paligemma": ("paligemma", "PaliGemma"),
    "florence2": ("florence2", "Florence2"),
}
"""Model type to the module beside this one and the class in it."""


def load_family(name: str, options: Mapping[str, Any], prompt: str | None = None) -> Family:
    """Load a captioner's network by the family that its config names.

    Args:
        name: ``miniature``, a folder in transformers' layout, or an id on the Hugging Face hub.
        options: what the network's ``from_pretrained`` is given: dtype, quantization.
        prompt: what the decoder is asked; the family's own when left out.

    Raises:
        ConfigError: the model is of no family that captions.
        UnavailableError: the weights are not here, or only a part of them.
    """
    source = locate(name, "captioner", "config.json")
    from transformers import AutoConfig

    hide_loading_bars()
    with reading_weights(name):
        try:
            model_type = AutoConfig.from_pretrained(source).model_type
        except (ValueError, KeyError) as error:  # no model_type, or one that this transformers does not know
            raise ConfigError(
                f"--model.name {name}: its config.json names no model that transformers knows; captioners are of the "
                f"families {', '.join(FAMILIES)}."
            ) from error
        if model_type not in FAMILIES:
            raise ConfigError(
                f"--model.name {name}: a {model_type} model, which writes no captions here; captioners are of the families "
                f"{', '.join(FAMILIES)}."
            )
        module, family = FAMILIES[model_type]
        loaded: Family = getattr(import_module(f"skygen.models.captioners.{module}"), family).load(source, options, prompt)
    return loaded
