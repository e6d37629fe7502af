"""How a text-to-image model is trained: the settings of its objective."""

from __future__ import annotations

from dataclasses import dataclass

from skygen.errors import ConfigError

MIN_SNR_GAMMA = 5.0
"""The cap that Hang et al. 2023 recommend."""


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
