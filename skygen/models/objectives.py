"""The diffusion objectives, as pure functions of a table of cumulative alphas.

Everything is computed in float32 or more: in half precision the first timesteps would get no noise at all, and a dozen of the
others a noise level that is off by more than 5 %.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction"]


def add_noise(
    clean: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
) -> Float[Tensor, "batch channels height width"]:
    """Diffuse: ``sqrt(a_t) x + sqrt(1 - a_t) e`` (Ho et al. 2020, equation 4), float32."""
    signal, sigma = _levels(timesteps, alphas_cumprod)
    return signal * clean.float() + sigma * noise.float()


def prediction_target(
    clean: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
    prediction_type: PredictionType,
) -> Float[Tensor, "batch channels height width"]:
    """Return what the network is to predict: the noise, or ``v = sqrt(a_t) e - sqrt(1 - a_t) x`` (Salimans & Ho 2022)."""
    if prediction_type == "epsilon":
        return noise.float()
    signal, sigma = _levels(timesteps, alphas_cumprod)
    return signal * noise.float() - sigma * clean.float()


def min_snr_weight(
    timesteps: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
    snr_gamma: float,
    prediction_type: PredictionType,
) -> Float[Tensor, " batch"]:
    """Weigh the squared error by ``min(SNR, gamma)`` on the scale of the clean image (Hang et al. 2023, section 3.4).

    Args:
        timesteps: of each example.
        alphas_cumprod: of the final scheduler, after any rescaling; the signal-to-noise ratio is ``a / (1 - a)``.
        snr_gamma: the cap; 0 weighs all timesteps alike.
        prediction_type: the error of the noise is ``SNR`` times, that of v ``SNR + 1`` times the error of the clean image.

    Returns:
        One weight an example, finite everywhere for v; for epsilon at a timestep without signal it would not be, which
        is why such tables are refused with epsilon.
    """
    if snr_gamma <= 0:
        return torch.ones(timesteps.shape, dtype=torch.float32, device=timesteps.device)
    alphas = alphas_cumprod.double().to(timesteps.device)[timesteps]
    snr = alphas / (1 - alphas)
    scale = snr if prediction_type == "epsilon" else snr + 1
    return (snr.clamp(max=snr_gamma) / scale).float()


def offset_noise(
    noise: Float[Tensor, "batch channels height width"], amount: float, generator: torch.Generator
) -> Float[Tensor, "batch channels height width"]:
    """Add to each channel one draw for the whole picture, so that its mean brightness is learned too (noise offset)."""
    if amount == 0:
        return noise
    return noise + amount * torch.randn((*noise.shape[:2], 1, 1), generator=generator).to(noise.device)


def _levels(
    timesteps: Int[Tensor, " batch"], alphas_cumprod: Float[Tensor, " steps"]
) -> tuple[Float[Tensor, "batch 1 1 1"], Float[Tensor, "batch 1 1 1"]]:
    alphas = alphas_cumprod.double().to(timesteps.device)[timesteps][:, None, None, None]
    return alphas.sqrt().float(), (1 - alphas).sqrt().float()
