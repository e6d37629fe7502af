"""Stable Diffusion as a learner and a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor

from skygen.data.loading import Batch
from skygen.errors import ConfigError
from skygen.models import objectives
from skygen.models.adapters import Adapter, LoraSettings, Trained, WholeModel
from skygen.models.weights import hide_loading_bars, locate, reading_weights
from skygen.seeding import Seeds

ATTENTION = r".*attentions.*\.(to_q|to_k|to_v|to_out\.0)"
FEED_FORWARD = r".*attentions.*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2)"
CONVOLUTION = (
    r".*attentions.*\.(to_q|to_k|to_v|to_out\.0|ff\.net\.0\.proj|ff\.net\.2|proj_in|proj_out)|.*resnets.*\.(conv1|conv2)"
)
LORA_PRESETS = {
    "default": ATTENTION,
    "attention": ATTENTION,
    "attention_ff": FEED_FORWARD,
    "attention_ff_conv": CONVOLUTION,
}


@dataclass(frozen=True)
class DiffusionSettings:
    """The training objective."""

    snr_gamma: float = 5.0
    """Cap of min-SNR weighting; 0 is off."""
    noise_offset: float = 0.0
    """Strength of one shared noise draw a channel; 0 is off."""


@final
class Diffusion:
    """A Stable Diffusion model: its parts, its training loss, and its sampler.

    Args:
        pipeline: a ``StableDiffusionPipeline``.
        objective: how it is trained.
    """

    def __init__(self, pipeline: Any, objective: DiffusionSettings | None = None) -> None:
        self.pipeline = pipeline
        self.objective = objective or DiffusionSettings()
        self.network = pipeline.unet
        for frozen in (pipeline.vae, pipeline.text_encoder):
            frozen.requires_grad_(False).eval()
        from diffusers import DDPMScheduler

        scheduler = DDPMScheduler.from_config(pipeline.scheduler.config)
        self.alphas_cumprod: Float[Tensor, " steps"] = scheduler.alphas_cumprod
        self.prediction_type: objectives.PredictionType = scheduler.config.prediction_type
        if self.prediction_type not in ("epsilon", "v_prediction"):
            raise ConfigError(
                f"scheduler/scheduler_config.json: prediction_type is {self.prediction_type}; skygen trains "
                "epsilon and v_prediction."
            )
        if self.prediction_type == "epsilon" and float(self.alphas_cumprod[-1]) < 1e-8 and self.objective.snr_gamma:
            raise ConfigError(
                "--diffusion.snr_gamma: a schedule that ends without signal cannot be weighed with epsilon; "
                "set it to 0 or use a v-prediction model."
            )

    @classmethod
    def load(
        cls,
        name: str = "miniature",
        adapter: Path | str | None = None,
        *,
        device: str = "cpu",
        objective: DiffusionSettings | None = None,
    ) -> Diffusion:
        """Load a Stable Diffusion model in float32.

        Args:
            name: ``miniature``, a folder in diffusers' layout, or an id on the Hugging Face hub.
            adapter: folder of a LoRA saved by skygen or any diffusers script.
            device: where it computes.
            objective: how it is trained.

        Raises:
            UnavailableError: the weights are not here.
        """
        source = locate(name, "stable_diffusion", "model_index.json")
        from diffusers import StableDiffusionPipeline

        hide_loading_bars()
        with reading_weights(name):
            pipeline = StableDiffusionPipeline.from_pretrained(
                source, safety_checker=None, requires_safety_checker=False, use_safetensors=True, dtype=torch.float32
            )
        pipeline.set_progress_bar_config(disable=True)
        if adapter is not None:
            locate(str(Path(adapter).absolute()), "adapter", "pytorch_lora_weights.safetensors")
            pipeline.load_lora_weights(str(adapter))
        return cls(pipeline.to(device), objective)

    def attach(self, lora: LoraSettings, seeds: Seeds) -> Trained:
        """Make the UNet trainable: frozen with a LoRA on it, or as a whole where the rank is 0."""
        if lora.rank == 0:
            return WholeModel(self.network, self.save_model)
        return Adapter(self.network, lora, LORA_PRESETS, "diffusers", seeds)

    @property
    def resolution(self) -> int:
        """Side in pixels of the images it was made for."""
        return int(self.network.config.sample_size * self.pipeline.vae_scale_factor)

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return the weighted mean squared error of each example at a timestep drawn for it."""
        pixels, device = batch.pixels, batch.pixels.device
        with torch.no_grad():
            latents = self.encode_images(pixels, generator)
            hidden = self.encode_prompts(batch.captions)
        noise = torch.randn(latents.shape, generator=generator).to(device)
        noise = objectives.offset_noise(noise, self.objective.noise_offset, generator)
        timesteps = torch.randint(len(self.alphas_cumprod), (len(latents),), generator=generator).to(device)
        noisy = objectives.add_noise(latents, noise, timesteps, self.alphas_cumprod)
        prediction = self.network(noisy.to(self.network.dtype), timesteps, hidden).sample.float()
        target = objectives.prediction_target(latents, noise, timesteps, self.alphas_cumprod, self.prediction_type)
        error = (prediction - target).square().mean(dim=(1, 2, 3))
        weight = objectives.min_snr_weight(timesteps, self.alphas_cumprod, self.objective.snr_gamma, self.prediction_type)
        return weight * error

    def encode_images(
        self, pixels: Float[Tensor, "batch 3 height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch channels latent_height latent_width"]:
        """Draw latents of images in [-1, 1], scaled to about unit variance, float32."""
        vae = self.pipeline.vae
        latents = vae.encode(pixels.to(vae.dtype)).latent_dist.sample(generator)
        return (latents * vae.config.scaling_factor).float()

    def encode_prompts(self, prompts: Sequence[str]) -> Float[Tensor, "batch tokens dimension"]:
        """Return the text encoder's hidden states, cut and padded to its context as the pipeline does it."""
        tokenizer, encoder = self.pipeline.tokenizer, self.pipeline.text_encoder
        tokens = tokenizer(
            list(prompts), padding="max_length", max_length=tokenizer.model_max_length, truncation=True, return_tensors="pt"
        )
        return encoder(tokens.input_ids.to(encoder.device))[0].float()

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        resolution: int | None = None,
    ) -> list[Image.Image]:
        """Draw one image a prompt.

        Args:
            prompts: one text an image.
            seeds: one number an image; the image follows from its own number, whatever else is in the batch.
            num_inference_steps: denoising steps.
            guidance_scale: weight of the prompt (Ho & Salimans 2022); 1 is none.
            resolution: side in pixels; the model's own when left out.

        Returns:
            RGB images.
        """
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        side = resolution or self.resolution
        was_training = self.network.training
        self.network.eval()
        try:
            images = self.pipeline(
                list(prompts),
                generator=generators,
                num_inference_steps=num_inference_steps,
                guidance_scale=guidance_scale,
                height=side,
                width=side,
            ).images
        finally:
            self.network.train(was_training)
        return list(images)

    def save_model(self, folder: Path) -> None:
        """Save the whole pipeline in diffusers' layout."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)
