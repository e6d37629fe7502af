"""Stable Diffusion XL (Podell et al. 2023): a UNet that reads two CLIPs, one pooled vector, and the sizes of the image."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Num
from torch import Tensor

from skygen.data.framing import Framing
from skygen.errors import ConfigError
from skygen.models.diffusions import latents as autoencoding
from skygen.models.diffusions.clip_text import encode_clip, penultimate, projected
from skygen.models.diffusions.family import Conditioning
from skygen.models.diffusions.latents import LatentDistribution
from skygen.models.diffusions.noising import AlphaNoising
from skygen.models.diffusions.settings import DiffusionSettings
from skygen.models.diffusions.unet import UNET_PRESETS, guidance_options, unet_size_step


@final
class StableDiffusionXL:
    """A ``StableDiffusionXLPipeline`` with both of its text encoders.

    Args:
        pipeline: loaded.
        settings: the training objective.

    Raises:
        ConfigError: a text encoder is missing, or it cannot be trained with these settings.
    """

    pipeline_class: ClassVar[str] = "StableDiffusionXLPipeline"
    network_name: ClassVar[str] = "unet"
    lora_presets: ClassVar[Mapping[str, str]] = UNET_PRESETS

    def __init__(self, pipeline: Any, settings: DiffusionSettings) -> None:
        missing = [part for part in ("text_encoder", "text_encoder_2") if getattr(pipeline, part) is None]
        if missing:
            raise ConfigError(
                f"model_index.json: it names no {missing[0]}; skygen needs Stable Diffusion XL with both of its CLIPs."
            )
        self.pipeline = pipeline
        self.noising = AlphaNoising.of(pipeline, settings)
        self._settings = settings

    @classmethod
    def load(cls, source: str, settings: DiffusionSettings, dtype: torch.dtype = torch.float32) -> StableDiffusionXL:
        """Load the pipeline, see ``DiffusionFamily.load``; no watermark is drawn into the pictures."""
        from diffusers import StableDiffusionXLPipeline

        pipeline = StableDiffusionXLPipeline.from_pretrained(
            source, add_watermarker=False, use_safetensors=True, dtype=autoencoding.precisions(dtype)
        )
        return cls(pipeline, settings)

    @property
    def resolution(self) -> int:
        """Side in pixels of the images it was made for: 1024."""
        return int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)

    @property
    def size_step(self) -> int:
        """What sides of images are multiples of: the factor of the autoencoder times the halvings of the UNet."""
        return unet_size_step(self.pipeline)

    def sampling_options(self) -> dict[str, Any]:
        """Return the rescaling of the guidance where the schedule is rescaled."""
        return guidance_options(self._settings)

    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> LatentDistribution:
        """Encode in float32 where the autoencoder's config says ``force_upcast``, whatever precision surrounds the call."""
        return autoencoding.encode(self.pipeline.vae, pixels, upcast=bool(self.pipeline.vae.config.force_upcast))

    def scale_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Multiply by the scaling factor, 0.13025; autoencoders with a mean and deviation of each channel use these too."""
        return autoencoding.scale(self.pipeline.vae, latents)

    def decode_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode scaled latents."""
        return autoencoding.decode(self.pipeline.vae, latents, upcast=bool(self.pipeline.vae.config.force_upcast))

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the last but one states of both text encoders side by side, and the pooled vector of the second.

        An empty prompt is all zeros where the pipeline's ``force_zeros_for_empty_prompt`` is true, as it is in the published
        model: that is what its sampler guides away from, and so what caption dropout must train.
        """
        pipeline = self.pipeline
        first = encode_clip(pipeline.tokenizer, pipeline.text_encoder, prompts, pipeline.tokenizer.model_max_length)
        second = encode_clip(pipeline.tokenizer_2, pipeline.text_encoder_2, prompts, pipeline.tokenizer_2.model_max_length)
        hidden, pooled = torch.cat([penultimate(first), penultimate(second)], dim=-1), projected(second)
        if pipeline.config.force_zeros_for_empty_prompt:
            said = torch.tensor([bool(prompt) for prompt in prompts], device=hidden.device)
            hidden, pooled = hidden * said[:, None, None], pooled * said[:, None]
        return Conditioning(hidden, pooled)

    def denoise(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "batch channels height width"]:
        """Call the UNet; without sizes it is told of whole images of the latents' own size, as its sampler tells it."""
        network, pooled, sizes = self.pipeline.unet, conditioning.pooled, conditioning.sizes
        if pooled is None:
            raise ValueError("Stable Diffusion XL reads a pooled vector of each prompt")
        if sizes is None:
            height, width = (length * self.pipeline.vae_scale_factor for length in noisy.shape[2:])
            whole = Framing((width, height), (0, 0, width, height), (width, height)).sizes
            sizes = torch.tensor([whole] * len(noisy), dtype=torch.float32, device=noisy.device)
        prediction: Tensor = network(
            noisy.to(network.dtype),
            times,
            conditioning.hidden.to(network.dtype),
            added_cond_kwargs={"text_embeds": pooled.to(network.dtype), "time_ids": sizes.float()},
        ).sample
        return prediction.float()
