"""Latents of an ``AutoencoderKL``: their distribution, their scale, and the way back to pixels."""

from __future__ import annotations

from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor


@dataclass(frozen=True, slots=True)
class LatentDistribution:
    """What an autoencoder says of images: a normal distribution of each latent value.

    It can be kept and sampled anew at every epoch; a kept sample would be the same noise for ever.

    Args:
        mean: not scaled, float32, so that the noise of a sample is drawn in float32 whatever the autoencoder computed in.
        log_variance: in [-30, 20], float32.
    """

    mean: Float[Tensor, "batch channels height width"]
    log_variance: Float[Tensor, "batch channels height width"]

    def sample(self, generator: torch.Generator) -> Float[Tensor, "batch channels height width"]:
        """Draw latents, not scaled; ``generator`` is on the CPU, so that the draw is the same on every device."""
        noise = torch.randn(self.mean.shape, generator=generator, dtype=self.mean.dtype).to(self.mean.device)
        # Contiguous, from the autoencoder or kept: exp of another layout differs in the last bit on AVX2.
        return self.mean.contiguous() + torch.exp(0.5 * self.log_variance.contiguous()) * noise


def precisions(dtype: torch.dtype) -> dict[str, torch.dtype]:
    """Return what a pipeline is loaded with: the autoencoder in float32, whose activations overflow in half, the rest as asked.

    Args:
        dtype: of the denoiser and the text encoders.
    """
    return {"vae": torch.float32, "default": dtype}


def encode(vae: Any, pixels: Float[Tensor, "batch 3 height width"], *, upcast: bool) -> LatentDistribution:
    """Encode pixels in [-1, 1].

    Args:
        vae: an ``AutoencoderKL``.
        pixels: RGB.
        upcast: compute in float32 whatever precision surrounds the call; activations of such autoencoders overflow in half.
    """
    with _full_precision(pixels.device) if upcast else nullcontext():
        latents = vae.encode(pixels.to(vae.dtype)).latent_dist
    return LatentDistribution(latents.mean.float(), latents.logvar.float())


def scale(vae: Any, latents: Float[Tensor, "batch channels height width"]) -> Float[Tensor, "batch channels height width"]:
    """Shift and scale latents as the autoencoder's config says: ``(latents - mean or shift) * factor / std``, float32."""
    mean, std, shift = _statistics(vae, latents)
    if mean is not None and std is not None:
        latents = (latents - mean) / std
    elif shift:
        latents = latents - shift
    return (latents * vae.config.scaling_factor).float()


def decode(
    vae: Any, latents: Float[Tensor, "batch channels height width"], *, upcast: bool
) -> Float[Tensor, "batch 3 image_height image_width"]:
    """Undo ``scale`` and decode: pixels about in [-1, 1]; ``upcast`` as in ``encode``."""
    mean, std, shift = _statistics(vae, latents)
    latents = latents.float()  # of a denoiser in half precision they come in half
    if mean is not None and std is not None:
        latents = (
            latents * std / vae.config.scaling_factor + mean
        )  # in the order of the pipelines: the same pictures, bit for bit
    else:
        latents = latents / vae.config.scaling_factor + shift
    with _full_precision(latents.device) if upcast else nullcontext():
        decoded: Tensor = vae.decode(latents.to(vae.dtype)).sample
    return decoded


def _full_precision(device: torch.device) -> AbstractContextManager[Any]:
    return torch.autocast(device.type, enabled=False)


def _statistics(vae: Any, like: Tensor) -> tuple[Tensor | None, Tensor | None, float]:
    """Return mean and deviation of each channel where the config has both, else the shift of all channels, 0 for none."""
    mean, std = (getattr(vae.config, name, None) for name in ("latents_mean", "latents_std"))
    if mean is None or std is None:
        return None, None, float(getattr(vae.config, "shift_factor", None) or 0.0)
    return like.new_tensor(mean)[:, None, None], like.new_tensor(std)[:, None, None], 0.0
