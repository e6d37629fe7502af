"""How a text-to-image model is trained: the settings of its objective."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from skygen.errors import ConfigError
from skygen.models.adapters import LoraSettings
from skygen.models.weights import ModelSettings

MIN_SNR_GAMMA = 5.0
"""The cap that Hang et al. 2023 recommend."""


@dataclass(frozen=True)
class RoundedModelSettings(ModelSettings):
    """Which text-to-image model, in which precision, and the adapter on it."""

    dtype: Literal["float32", "bfloat16"] = "float32"
    """Precision of the frozen denoiser and text encoders; the autoencoder and a LoRA stay float32."""


@dataclass(frozen=True)
class DrawingModelSettings(RoundedModelSettings):
    """Which text-to-image model draws, and the adapters on it."""

    more_adapters: tuple[Path, ...] = ()
    """Folders of further adapters; all of them act together."""
    adapter_weights: tuple[float, ...] = ()
    """What the update of each is multiplied by, ``adapter``'s first; all 1 when left out."""

    def weigh_adapters(self) -> list[tuple[Path, float]]:
        """Return the adapters, each with its weight.

        Raises:
            ConfigError: not one weight an adapter.
        """
        adapters = [*([] if self.adapter is None else [self.adapter]), *self.more_adapters]
        weights = self.adapter_weights or (1.0,) * len(adapters)
        if len(weights) != len(adapters):
            raise ConfigError(
                f"model.adapter_weights has {len(weights)} numbers for {len(adapters)} adapters (model.adapter and "
                "model.more_adapters); give one for each, or leave it out."
            )
        return list(zip(adapters, weights, strict=True))


@dataclass(frozen=True)
class DiffusionModelSettings(RoundedModelSettings):
    """Which text-to-image model, how it is loaded and computed with, and the adapter on it."""

    gradient_checkpointing: bool = False
    """Compute the denoiser's activations again in the backward pass instead of keeping them: less memory, more time."""
    compile: bool = False
    """Compile the denoiser with torch.compile: minutes at the first step of each shape, faster steps after it."""


@dataclass(frozen=True)
class DiffusionLoraSettings(LoraSettings):
    """The LoRA of a text-to-image model."""

    text_encoders: bool = False
    """Adapt the CLIP text encoders too, never a T5; prompts are then encoded anew at every step."""

    def __post_init__(self) -> None:
        LoraSettings.__post_init__(self)
        if self.text_encoders and self.rank == 0:
            raise ConfigError("lora.rank 0 trains the denoiser alone: set lora.text_encoders to false with it, or set a rank")
        if self.text_encoders and self.use_dora:
            raise ConfigError(
                "lora.use_dora: diffusers leaves out the magnitudes of text encoders when it loads a LoRA; set it to false "
                "with lora.text_encoders"
            )


@dataclass(frozen=True)
class DiffusionSettings:
    """The training objective."""

    snr_gamma: float | None = None
    """Cap of min-SNR weighting; 0 is off. Left out: 5, but off with zero_terminal_snr and for flow matching."""
    noise_offset: float = 0.0
    """Strength of one shared noise draw a channel; 0 is off."""
    zero_terminal_snr: bool = False
    """Rescale the noise schedule to end in pure noise (Lin et al. 2024), for models that predict v; the sampler follows."""

    def __post_init__(self) -> None:
        if self.snr_gamma is not None and self.snr_gamma < 0:
            raise ConfigError(f"diffusion.snr_gamma is {self.snr_gamma:g}; it must be above 0, or 0 for no weighting")
        if self.noise_offset < 0:
            raise ConfigError(f"diffusion.noise_offset is {self.noise_offset:g}; it must be above 0, or 0 for none")
        if self.zero_terminal_snr and self.noise_offset:
            raise ConfigError(
                "diffusion.noise_offset stands in for a schedule that ends in pure noise: set it to 0 with "
                "diffusion.zero_terminal_snr"
            )
