"""Stable Diffusion 3 and 3.5 (Esser et al. 2024): a transformer over image and text together, trained by flow matching."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Num
from torch import Tensor
from torch.nn import functional

from skygen.models.diffusions import latents as autoencoding
from skygen.models.diffusions.clip_text import encode_clip, penultimate, projected
from skygen.models.diffusions.family import Conditioning
from skygen.models.diffusions.latents import LatentDistribution
from skygen.models.diffusions.noising import FlowNoising
from skygen.models.diffusions.settings import DiffusionSettings

T5_CONTEXT = 256
"""Tokens of the T5, the default of the pipeline's ``max_sequence_length``."""
T5_PARTS = ("text_encoder_3", "tokenizer_3")
JOINT_ATTENTION = r"to_q|to_k|to_v|to_out\.0|add_q_proj|add_k_proj|add_v_proj|to_add_out"
ATTENTION = rf"transformer_blocks\.\d+\.attn2?\.({JOINT_ATTENTION})"
FEED_FORWARD = r"transformer_blocks\.\d+\.ff(_context)?\.net\.(0\.proj|2)"


@final
class StableDiffusion3:
    """A ``StableDiffusion3Pipeline``, with or without its T5.

    Args:
        pipeline: loaded.
        settings: the training objective.

    Raises:
        ConfigError: it cannot be trained with these settings.
    """

    pipeline_class: ClassVar[str] = "StableDiffusion3Pipeline"
    network_name: ClassVar[str] = "transformer"
    lora_presets: ClassVar[Mapping[str, str]] = {"attention": ATTENTION, "attention_ff": f"{ATTENTION}|{FEED_FORWARD}"}

    def __init__(self, pipeline: Any, settings: DiffusionSettings) -> None:
        self.pipeline = pipeline
        self.noising = FlowNoising.of(pipeline, settings)

    @classmethod
    def load(cls, source: str, settings: DiffusionSettings, dtype: torch.dtype = torch.float32) -> StableDiffusion3:
        """Load the pipeline, see ``DiffusionFamily.load``; one that was saved without its T5 is loaded without it."""
        from diffusers import StableDiffusion3Pipeline

        parts = StableDiffusion3Pipeline.load_config(source)
        without = {part: None for part in T5_PARTS if not any(parts.get(part) or ())}
        pipeline = StableDiffusion3Pipeline.from_pretrained(
            source, use_safetensors=True, dtype=autoencoding.precisions(dtype), **without
        )
        return cls(pipeline, settings)

    @property
    def resolution(self) -> int:
        """Side in pixels of the images it was made for: 1024."""
        return int(self.pipeline.transformer.config.sample_size * self.pipeline.vae_scale_factor)

    @property
    def size_step(self) -> int:
        """What sides of images are multiples of: the factor of the autoencoder times the transformer's patches."""
        return int(self.pipeline.vae_scale_factor * self.pipeline.transformer.config.patch_size)

    def sampling_options(self) -> dict[str, Any]:
        """Return nothing: the pipeline's defaults are what it was trained for."""
        return {}

    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> LatentDistribution:
        """Encode in float32 where the autoencoder's config says ``force_upcast``, whatever precision surrounds the call."""
        return autoencoding.encode(self.pipeline.vae, pixels, upcast=bool(self.pipeline.vae.config.force_upcast))

    def scale_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Take off the shift, 0.0609, and multiply by the scaling factor, 1.5305."""
        return autoencoding.scale(self.pipeline.vae, latents)

    def decode_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode scaled latents."""
        return autoencoding.decode(self.pipeline.vae, latents, upcast=bool(self.pipeline.vae.config.force_upcast))

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the states of both CLIPs side by side, those of the T5 after them, and the CLIPs' pooled vectors.

        Where the pipeline has no T5, zeros stand in its place, as when it samples.
        """
        pipeline, context = self.pipeline, self.pipeline.tokenizer_max_length
        first = encode_clip(pipeline.tokenizer, pipeline.text_encoder, prompts, context)
        second = encode_clip(pipeline.tokenizer_2, pipeline.text_encoder_2, prompts, context)
        clip = torch.cat([penultimate(first), penultimate(second)], dim=-1)
        width = int(pipeline.transformer.config.joint_attention_dim)
        if pipeline.text_encoder_3 is None:
            t5 = clip.new_zeros((len(prompts), T5_CONTEXT, width))
        else:
            tokens = pipeline.tokenizer_3(
                list(prompts), padding="max_length", max_length=T5_CONTEXT, truncation=True, return_tensors="pt"
            )
            t5 = pipeline.text_encoder_3(tokens.input_ids.to(pipeline.text_encoder_3.device))[0].float()
        hidden = torch.cat([functional.pad(clip, (0, width - clip.shape[-1])), t5], dim=1)
        return Conditioning(hidden, torch.cat([projected(first), projected(second)], dim=-1))

    def denoise(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "batch channels height width"]:
        """Call the transformer."""
        network, pooled = self.pipeline.transformer, conditioning.pooled
        if pooled is None:
            raise ValueError("Stable Diffusion 3 reads a pooled vector of each prompt")
        prediction: Tensor = network(
            hidden_states=noisy.to(network.dtype),
            timestep=times,
            encoder_hidden_states=conditioning.hidden.to(network.dtype),
            pooled_projections=pooled.to(network.dtype),
        ).sample
        return prediction.float()
