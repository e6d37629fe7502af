"""Stable Diffusion 1.x and 2.x (Rombach et al. 2022): a UNet that reads the states of one CLIP; epsilon or v."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float, Num
from torch import Tensor

from skygen.models.diffusions import latents as autoencoding
from skygen.models.diffusions.family import Conditioning
from skygen.models.diffusions.latents import LatentDistribution
from skygen.models.diffusions.noising import AlphaNoising
from skygen.models.diffusions.settings import DiffusionSettings
from skygen.models.diffusions.unet import UNET_PRESETS, guidance_options, unet_size_step


@final
class StableDiffusion:
    """A ``StableDiffusionPipeline``.

    Args:
        pipeline: loaded.
        settings: the training objective.

    Raises:
        ConfigError: it cannot be trained with these settings.
    """

    pipeline_class: ClassVar[str] = "StableDiffusionPipeline"
    network_name: ClassVar[str] = "unet"
    lora_presets: ClassVar[Mapping[str, str]] = UNET_PRESETS

    def __init__(self, pipeline: Any, settings: DiffusionSettings) -> None:
        self.pipeline = pipeline
        self.noising = AlphaNoising.of(pipeline, settings)
        self._settings = settings

    @classmethod
    def load(cls, source: str, settings: DiffusionSettings, dtype: torch.dtype = torch.float32) -> StableDiffusion:
        """Load the pipeline without its safety checker, see ``DiffusionFamily.load``."""
        from diffusers import StableDiffusionPipeline

        pipeline = StableDiffusionPipeline.from_pretrained(
            source,
            safety_checker=None,
            requires_safety_checker=False,
            use_safetensors=True,
            dtype=autoencoding.precisions(dtype),
        )
        return cls(pipeline, settings)

    @property
    def resolution(self) -> int:
        """Side in pixels of the images it was made for: 512, and 768 of the larger 2.x."""
        return int(self.pipeline.unet.config.sample_size * self.pipeline.vae_scale_factor)

    @property
    def size_step(self) -> int:
        """What sides of images are multiples of: the factor of the autoencoder times the halvings of the UNet."""
        return unet_size_step(self.pipeline)

    def sampling_options(self) -> dict[str, Any]:
        """Return the rescaling of the guidance where the schedule is rescaled."""
        return guidance_options(self._settings)

    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> LatentDistribution:
        """Encode in the precision that surrounds the call: this autoencoder's activations fit half precision."""
        return autoencoding.encode(self.pipeline.vae, pixels, upcast=False)

    def scale_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Multiply by the scaling factor, 0.18215 of the published autoencoders."""
        return autoencoding.scale(self.pipeline.vae, latents)

    def decode_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Decode scaled latents."""
        return autoencoding.decode(self.pipeline.vae, latents, upcast=False)

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return the last states of the text encoder, after its final normalisation."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return Conditioning(encoder(tokens.input_ids.to(encoder.device))[0].float())

    def denoise(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "batch channels height width"]:
        """Call the UNet."""
        network = self.pipeline.unet
        prediction: Tensor = network(noisy.to(network.dtype), times, conditioning.hidden.to(network.dtype)).sample
        return prediction.float()
