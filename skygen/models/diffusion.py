"""A text-to-image model: a diffusion pipeline of diffusers as a learner and a sampler."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from skygen.data.loading import Batch
from skygen.models.adapters import LoraSettings, Trained, WholeModel
from skygen.models.diffusions.families import family_of, load_family
from skygen.models.diffusions.family import Conditioning, DiffusionFamily
from skygen.models.diffusions.lora import WEIGHTS_FILE, DiffusionAdapter, load_adapter, network_of
from skygen.models.diffusions.noising import AlphaNoising
from skygen.models.diffusions.settings import DiffusionSettings as DiffusionSettings
from skygen.models.diffusions.unet import UNET_PRESETS
from skygen.models.objectives import PredictionType
from skygen.models.weights import locate
from skygen.seeding import Seeds

LORA_PRESETS = {"default": UNET_PRESETS["attention"], **UNET_PRESETS}
"""Of the families with a UNet; ``family.lora_presets`` has those of each."""


@final
class Diffusion:
    """A text-to-image model, of any of ``diffusions.families.FAMILIES``: its parts, its training loss, and its sampler.

    Args:
        pipeline: a loaded pipeline of diffusers.
        objective: how it is trained.

    Raises:
        ConfigError: a pipeline of no family here, or one that cannot be trained with this objective.
    """

    def __init__(self, pipeline: Any, objective: DiffusionSettings | None = None) -> None:
        self.objective = objective or DiffusionSettings()
        self.family: DiffusionFamily = family_of(pipeline, self.objective)
        self.network = network_of(self.family)
        for part in self.pipeline.components.values():
            if isinstance(part, nn.Module) and part is not self.network:
                part.requires_grad_(False).eval()

    @classmethod
    def load(
        cls,
        name: str = "miniature",
        adapter: Path | str | None = None,
        *,
        device: str = "cpu",
        objective: DiffusionSettings | None = None,
    ) -> Diffusion:
        """Load a text-to-image model in float32.

        Args:
            name: ``miniature``, a folder in diffusers' layout, or an id on the Hugging Face hub; what its model_index.json
                names decides the family.
            adapter: folder of a LoRA saved by skygen or any diffusers script; one that was trained on a schedule of zero
                terminal SNR brings that schedule along.
            device: where it computes.
            objective: how it is trained.

        Raises:
            ConfigError: a pipeline of no family here, an adapter of another one, or an objective that does not go with it.
            UnavailableError: the weights are not here.
        """
        if adapter is not None:
            locate(str(Path(adapter).absolute()), "adapter", WEIGHTS_FILE)
        objective = objective or DiffusionSettings()
        family = load_family(name, objective)
        if adapter is not None and load_adapter(family, Path(adapter), name).get("zero_terminal_snr"):
            objective = replace(objective, zero_terminal_snr=True)
        return cls(family.pipeline.to(device), objective)

    @property
    def pipeline(self) -> Any:
        """The pipeline of diffusers."""
        return self.family.pipeline

    @property
    def prediction_type(self) -> PredictionType:
        """What the denoiser predicts."""
        return self.family.noising.prediction_type

    @property
    def alphas_cumprod(self) -> Float[Tensor, " steps"] | None:
        """The final table of cumulative alphas; None of flow matching, which has none."""
        noising = self.family.noising
        return noising.alphas_cumprod if isinstance(noising, AlphaNoising) else None

    def attach(self, lora: LoraSettings, seeds: Seeds, *, base: str = "") -> Trained:
        """Make the denoiser trainable: frozen with a LoRA on it, or as a whole where the rank is 0.

        Args:
            lora: rank, alpha, targets.
            seeds: the initial values follow from them.
            base: the name that the pipeline was loaded by, for the adapter's record.

        Raises:
            ConfigError: no such preset of targets for this family.
        """
        if lora.rank == 0:
            return WholeModel(self.network, self.save_model)
        about = {"base": base, "zero_terminal_snr": self.objective.zero_terminal_snr}
        return DiffusionAdapter(self.family, lora, seeds, about)

    @property
    def resolution(self) -> int:
        """Side in pixels of the images it was made for."""
        return self.family.resolution

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return the weighted mean squared error of each example at a level of noise drawn for it."""
        with torch.no_grad():
            latents = self.encode_images(batch.pixels, generator)
            conditioning = self.encode_prompts(batch.captions)
        return self.denoising_loss(latents, conditioning, generator)

    def denoising_loss(
        self, latents: Float[Tensor, "batch channels height width"], conditioning: Conditioning, generator: torch.Generator
    ) -> Float[Tensor, " batch"]:
        """Return the loss of latents and prompts that are encoded already.

        Args:
            latents: scaled, float32, as from ``encode_images``.
            conditioning: of each example.
            generator: on the CPU; noise and its levels follow from it.
        """
        noised = self.family.noising.draw(latents, generator)
        prediction = self.family.denoise(noised.noisy, noised.times, conditioning)
        return noised.weight * (prediction - noised.target).square().mean(dim=(1, 2, 3))

    def encode_images(
        self, pixels: Float[Tensor, "batch 3 height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch channels latent_height latent_width"]:
        """Draw latents of images in [-1, 1], scaled to about unit variance, float32."""
        return self.family.scale_latents(self.family.encode_images(pixels).sample(generator))

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return prompts as the denoiser reads them, cut and padded as the pipeline does it; ``[""]`` is the null prompt."""
        return self.family.encode_prompts(prompts)

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        resolution: int | None = None,
    ) -> list[Image.Image]:
        """Draw one image a prompt, with the pipeline's own scheduler.

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
                **self.family.sampling_options(),
            ).images
        finally:
            self.network.train(was_training)
        return list(images)

    def save_model(self, folder: Path) -> None:
        """Save the whole pipeline in diffusers' layout."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)
