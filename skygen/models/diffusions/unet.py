"""What the pipelines with a UNet share: which of its layers are adapted, and how their sampler guides."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from skygen.models.diffusions.settings import DiffusionSettings

ATTENTION = r".*attentions.*\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r".*attentions.*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)"
CONVOLUTION = (
    r".*attentions.*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)|.*resnets.*\.(conv1|conv2)"
)
UNET_PRESETS: Mapping[str, str] = {
    "attention": ATTENTION,
    "attention_ff": FEED_FORWARD,
    "attention_ff_conv": CONVOLUTION,
}
LORA_PRESETS: Mapping[str, str] = {"default": ATTENTION, **UNET_PRESETS}
"""What ``--lora.targets`` may name."""
GUIDANCE_RESCALE = 0.7
"""What Lin et al. 2024 (section 3.4) recommend where the schedule ends in noise alone: guidance over-exposes there."""


def unet_size_step(pipeline: Any) -> int:
    """Return what sides of images in pixels are multiples of: 64 of Stable Diffusion 1 and 2, 32 of XL."""
    return int(pipeline.vae_scale_factor * 2 ** (len(pipeline.unet.config.block_out_channels) - 1))


def guidance_options(settings: DiffusionSettings) -> dict[str, Any]:
    """Return how the sampler guides after a training with these settings."""
    return {"guidance_rescale": GUIDANCE_RESCALE} if settings.zero_terminal_snr else {}
