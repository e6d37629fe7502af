"""The diffusion objectives, as pure functions of a table of cumulative alphas, and those of flow matching, of sigmas.

Everything is computed in float32 or more: in half precision the first timesteps would get no noise at all, and a dozen of the
others a noise level that is off by more than 5 %.
"""

from __future__ import annotations

from typing import Literal

import torch
from jaxtyping import Float, Int
from torch import Tensor

PredictionType = Literal["epsilon", "v_prediction", "flow"]


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
    """Return what the network is to predict: the noise, or ``v = sqrt(a_t) e - sqrt(1 - a_t) x`` (Salimans & Ho 2022).

    Args:
        clean: latents.
        noise: of unit variance.
        timesteps: of each example.
        alphas_cumprod: of the final scheduler.
        prediction_type: ``flow`` has no timesteps; its target is ``flow_target``.
    """
    if prediction_type == "epsilon":
        return noise.float()
    signal, sigma = _levels(timesteps, alphas_cumprod)
    return signal * noise.float() - sigma * clean.float()


def clean_estimate(
    noisy: Float[Tensor, "batch channels height width"],
    prediction: Float[Tensor, "batch channels height width"],
    timesteps: Int[Tensor, " batch"],
    alphas_cumprod: Float[Tensor, " steps"],
    prediction_type: PredictionType,
) -> Float[Tensor, "batch channels height width"]:
    """Return the clean latents that follow from a prediction: the inverse of ``prediction_target``, float32.

    Args:
        noisy: what the network was shown.
        prediction: what it said.
        timesteps: of each example; for epsilon each must have some signal.
        alphas_cumprod: of the final scheduler.
        prediction_type: ``epsilon`` or ``v_prediction``; of flow matching it is ``flow_estimate``.
    """
    signal, sigma = _levels(timesteps, alphas_cumprod)
    if prediction_type == "epsilon":
        return (noisy.float() - sigma * prediction.float()) / signal
    return signal * noisy.float() - sigma * prediction.float()


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


def rescale_zero_terminal_snr(alphas_cumprod: Float[Tensor, " steps"]) -> Float[Tensor, " steps"]:
    """Rescale a schedule so that its last timestep is noise alone, and its first is as it was.

    Args:
        alphas_cumprod: falling; Stable Diffusion's ends at 0.00466, a signal-to-noise ratio of 0.004682, which tells a network
            the mean brightness of every training image.

    Returns:
        A table of the same precision, computed in float64; its last entry is exactly 0.

    Source:
        Lin, Liu, Li and Yang, Common Diffusion Noise Schedules and Sample Steps Are Flawed (WACV 2024), algorithm 1:
        ``sqrt(a)`` is shifted to end at 0, then scaled to begin where it began.
    """
    root = alphas_cumprod.double().sqrt()
    first, last = root[0], root[-1]
    return ((root - last) * (first / (first - last))).square().to(alphas_cumprod.dtype)


def flow_noise(
    clean: Float[Tensor, "batch channels height width"],
    noise: Float[Tensor, "batch channels height width"],
    sigmas: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Go a straight way towards the noise: ``(1 - s) x + s e`` (Esser et al. 2024, section 2, rectified flow), float32."""
    level = sigmas.double()[:, None, None, None]
    return (1 - level).float() * clean.float() + level.float() * noise.float()


def flow_target(
    clean: Float[Tensor, "batch channels height width"], noise: Float[Tensor, "batch channels height width"]
) -> Float[Tensor, "batch channels height width"]:
    """Return the velocity of that way, ``e - x``, the same at every sigma, float32."""
    return noise.float() - clean.float()


def flow_estimate(
    noisy: Float[Tensor, "batch channels height width"],
    velocity: Float[Tensor, "batch channels height width"],
    sigmas: Float[Tensor, " batch"],
) -> Float[Tensor, "batch channels height width"]:
    """Return where that way began, ``x_s - s v``, float32."""
    return noisy.float() - sigmas.float()[:, None, None, None] * velocity.float()


def logit_normal_sigmas(
    count: int, generator: torch.Generator, mean: float = 0.0, deviation: float = 1.0
) -> Float[Tensor, " count"]:
    """Draw noise levels whose logit is normal, so that the middle of the way, where there is most to learn, comes most often.

    The draws themselves are the weighting of the objective: the squared errors are then weighed alike.

    Args:
        count: how many.
        generator: on the CPU.
        mean: of the logit.
        deviation: of the logit.

    Returns:
        In (0, 1), float32, on the CPU.

    Source:
        Esser et al., Scaling Rectified Flow Transformers (2024), section 3.1; mean 0 and deviation 1 rank first in table 1.
    """
    return torch.sigmoid(mean + deviation * torch.randn(count, generator=generator))


def shift_sigmas(sigmas: Float[Tensor, " batch"], shift: float) -> Float[Tensor, " batch"]:
    """Move noise levels towards the noise: ``k s / (1 + (k - 1) s)``, for larger images need more of it to lose their signal.

    Args:
        sigmas: in [0, 1].
        shift: k, ``shift`` of the scheduler's config; 1 leaves all as it is, Stable Diffusion 3 has 3.

    Source:
        Esser et al. (2024), section 5.3.2, equation 23, where k is the root of the ratio of the numbers of pixels.
    """
    return shift * sigmas / (1 + (shift - 1) * sigmas)


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
