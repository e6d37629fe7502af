"""The families that there are, by the pipeline that model_index.json names, and how one is found and loaded."""

from __future__ import annotations

from collections.abc import Mapping
from importlib import import_module
from typing import TYPE_CHECKING, Any

from skygen.errors import ConfigError, UnavailableError
from skygen.models.diffusions.settings import DiffusionSettings
from skygen.models.weights import hide_loading_bars, locate, reading_weights

if TYPE_CHECKING:
    import torch

    from skygen.models.diffusions.family import DiffusionFamily

FAMILIES: Mapping[str, tuple[str, str]] = {
    "StableDiffusionPipeline": ("stable_diffusion", "StableDiffusion"),
    "StableDiffusionXLPipeline": ("stable_diffusion_xl", "StableDiffusionXL"),
    "StableDiffusion3Pipeline": ("stable_diffusion_3", "StableDiffusion3"),
}
"""Class of the pipeline to the module beside this one and the class in it."""


def load_family(name: str, settings: DiffusionSettings, dtype: torch.dtype) -> DiffusionFamily:
    """Load a pipeline by the family that its model_index.json names.

    Args:
        name: ``miniature``, a folder in diffusers' layout, or an id on the Hugging Face hub.
        settings: the training objective.
        dtype: of the denoiser and the text encoders; the autoencoder is float32.

    Raises:
        ConfigError: a pipeline of no family here, or one that cannot be trained with these settings.
        UnavailableError: the weights are not here, or only a part of them.
    """
    source = locate(name, "stable_diffusion", "model_index.json")
    from diffusers import DiffusionPipeline

    hide_loading_bars()
    with reading_weights(name):
        named = str(DiffusionPipeline.load_config(source).get("_class_name"))
        kind = _find(named, f"--model.name {name}: its model_index.json")
        try:
            family: DiffusionFamily = kind.load(source, settings, dtype)
        except ValueError as error:  # diffusers misses a part of the pipeline
            raise UnavailableError(
                f"{name}: its model_index.json does not name every part of a {named}; copy or download all of it again."
            ) from error
    family.pipeline.set_progress_bar_config(disable=True)
    return family


def family_of(pipeline: Any, settings: DiffusionSettings) -> DiffusionFamily:
    """Return the family of a loaded pipeline.

    Raises:
        ConfigError: a pipeline of no family here, or one that cannot be trained with these settings.
    """
    family: DiffusionFamily = _find(type(pipeline).__name__, "the pipeline")(pipeline, settings)
    return family


def _find(named: str, where: str) -> Any:
    if named not in FAMILIES:
        raise ConfigError(f"{where} is of the class {named}; skygen draws with {', '.join(FAMILIES)}.")
    module, family = FAMILIES[named]
    return getattr(import_module(f"skygen.models.diffusions.{module}"), family)
