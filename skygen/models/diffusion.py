"""A text-to-image model: a diffusion pipeline of diffusers as a learner and a sampler."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, ClassVar, final

import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from skygen.data.batch import Batch
from skygen.data.image_metadata import ImageMetadata
from skygen.errors import ConfigError
from skygen.models.adapters import LoraSettings, Trained, WholeModel
from skygen.models.diffusions import adapter_strength
from skygen.models.diffusions.drawing import Watch, draw_images, evaluating
from skygen.models.diffusions.families import family_of, load_family
from skygen.models.diffusions.family import Conditioning, DiffusionFamily, PromptSource
from skygen.models.diffusions.frozen import unpack_latents
from skygen.models.diffusions.lora import DiffusionAdapter, network_of, round_base
from skygen.models.diffusions.metadata import MetadataConditioner
from skygen.models.diffusions.metadata_fields import UNTOLD, MetadataSettings, withhold_with_captions
from skygen.models.diffusions.offloading import TextEncoders
from skygen.models.diffusions.sampling import PromptMemory, Sampler, SamplingSettings
from skygen.models.diffusions.settings import DiffusionLoraSettings as DiffusionLoraSettings
from skygen.models.diffusions.settings import DiffusionModelSettings as DiffusionModelSettings
from skygen.models.diffusions.settings import DiffusionSettings as DiffusionSettings
from skygen.models.diffusions.told import ToldDenoiser
from skygen.seeding import Seeds


@final
class Diffusion:
    """A text-to-image model, of any of ``diffusions.families.FAMILIES``: its parts, its training loss, and its sampler.

    Args:
        pipeline: a loaded pipeline of diffusers.
        objective: how it is trained.

    Attributes:
        prompts: where set, the loss takes what the text encoders say from here and does not run them.
        metadata: tells the denoiser how an image was taken; None where it is not told.
        adapters: what was loaded on the model, each folder with its weight.

    Raises:
        ConfigError: a pipeline of no family here, or one that cannot be trained with this objective.
    """

    divisible: ClassVar[bool] = True

    def __init__(self, pipeline: Any, objective: DiffusionSettings | None = None) -> None:
        self.prompts: PromptSource | None = None
        self.metadata: MetadataConditioner | None = None
        self.adapters: tuple[adapter_strength.WeighedAdapter, ...] = ()
        self.objective = objective or DiffusionSettings()
        self.family: DiffusionFamily = family_of(pipeline, self.objective)
        self.network = network_of(self.family)
        self._text_encoders = TextEncoders(self.pipeline)
        self._adapted_encoders: tuple[nn.Module, ...] = ()
        self._memory = PromptMemory(self._text_encoders.networks, self.encode_prompts)
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
        dtype: torch.dtype = torch.float32,
        adapters: Sequence[adapter_strength.WeighedAdapter] = (),
    ) -> Diffusion:
        """Load a text-to-image model.

        Args:
            name: ``miniature``, a folder in diffusers' layout, or an id on the Hugging Face hub; what its model_index.json
                names decides the family.
            adapter: folder of a LoRA saved by skygen or any diffusers script; one of zero terminal SNR brings its schedule.
            device: where it computes.
            objective: how it is trained.
            dtype: of the frozen denoiser and text encoders; the autoencoder and the adapter are float32.
            adapters: folders of more LoRA, each with its weight; all act together.

        Raises:
            ConfigError: a pipeline of no family here, an adapter of another one, or an objective that does not go with it.
            UnavailableError: the weights are not here.
        """
        named = [*([] if adapter is None else [(Path(adapter), 1.0)]), *adapters]
        adapter_strength.require_adapters(named)
        objective = objective or DiffusionSettings()
        if not named:
            return cls(load_family(name, objective, dtype).pipeline.to(device), objective)
        family = load_family(name, objective, torch.float32)  # diffusers gives a LoRA the precision of its base
        if adapter_strength.load_adapters(family, named, name):
            objective = replace(objective, zero_terminal_snr=True)
        round_base(family, dtype)
        diffusion = cls(family.pipeline.to(device), objective)
        diffusion.adapters = tuple(named)
        diffusion.metadata = adapter_strength.load_conditioners(named, diffusion.network)
        return diffusion

    @classmethod
    def of(
        cls,
        settings: DiffusionModelSettings,
        *,
        device: str = "cpu",
        objective: DiffusionSettings | None = None,
        with_adapter: bool = True,
    ) -> Diffusion:
        """Load the model that a recipe's settings name; ``with_adapter`` off leaves its adapter out.

        Checkpointing is on where they say so; ``compile`` is for after ``attach``.
        """
        adapter, dtype = settings.adapter if with_adapter else None, getattr(torch, settings.dtype)
        diffusion = cls.load(settings.name, adapter, device=device, objective=objective, dtype=dtype)
        if settings.gradient_checkpointing:
            diffusion.enable_gradient_checkpointing()
        return diffusion

    @property
    def pipeline(self) -> Any:
        """The pipeline of diffusers."""
        return self.family.pipeline

    def attach(self, lora: LoraSettings, seeds: Seeds, *, base: str = "", metadata: MetadataSettings = UNTOLD) -> Trained:
        """Make the denoiser trainable: frozen with a LoRA on it, or as a whole where the rank is 0.

        Args:
            lora: rank, alpha, targets.
            seeds: the initial values follow from them.
            base: the name that the pipeline was loaded by, for the adapter's record.
            metadata: what the denoiser is told of how an image was taken.

        Raises:
            ConfigError: no such preset of targets for this family, or a whole model in half precision.
        """
        if lora.rank == 0:
            if self.network.dtype != torch.float32:
                raise ConfigError(
                    "--lora.rank 0 trains every parameter, which are float32 then: leave --model.dtype out, or set a rank."
                )
            trained: Trained = WholeModel(self.network, self.save_model)
        else:
            about = {"base": base, "zero_terminal_snr": self.objective.zero_terminal_snr}
            trained = adapter = DiffusionAdapter(self.family, lora, seeds, about)
            self._adapted_encoders = adapter.text_encoders
        if not metadata.fields:
            return trained
        self.metadata = MetadataConditioner(metadata, self.network, seeds)
        return ToldDenoiser(trained, self.metadata)

    def enable_gradient_checkpointing(self) -> None:
        """Compute the denoiser's activations again in the backward pass; the gradient is the same, bit for bit."""
        self.network.enable_gradient_checkpointing()

    def compile(self) -> None:
        """Compile the denoiser in place at its next training step, so that no name of a parameter changes.

        Each shape of a batch is compiled for itself, for minutes; pictures are drawn uncompiled. For after ``attach``, whose
        layers are compiled too.
        """
        self.network.compile()

    def offload_text_encoders(self) -> None:
        """Move the text encoders to the CPU, for when their prompts are kept; they come back for as long as they are asked.

        Raises:
            ConfigError: they are trained.
        """
        self._refuse_kept_prompts()
        self._text_encoders.offload()

    @property
    def resolution(self) -> int:
        """Side in pixels of the images it was made for."""
        return self.family.resolution

    @property
    def size_step(self) -> int:
        """What both sides of an image in pixels must be multiples of."""
        return self.family.size_step

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return the weighted mean squared error of each example at a level of noise drawn for it.

        Args:
            batch: its ``features``, where given, are the kept distributions of latents, its ``sizes`` what SDXL is told.
            generator: on the CPU; latents, noise and its levels follow from it, kept features or not.

        Raises:
            ConfigError: prompts were kept, and the text encoders are trained.
        """
        with torch.no_grad():
            latents = self._draw_latents(batch, generator)
        conditioning = self._condition(batch.captions)
        if batch.sizes is not None:
            conditioning = replace(conditioning, sizes=batch.sizes)
        told = () if self.metadata is None else withhold_with_captions(batch.metadata, batch.captions)
        return self.denoising_loss(latents, conditioning, generator, told)

    def _draw_latents(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, "batch channels height width"]:
        if batch.features is None:
            # Contiguous as kept ones are: in the autoencoder's channels-last layout the denoiser's sums differ in the last bit.
            return self.encode_images(batch.pixels, generator).contiguous()
        return self.family.scale_latents(unpack_latents(batch.features).sample(generator))

    def _condition(self, prompts: Sequence[str]) -> Conditioning:
        """Read prompts where they are kept, else encode them, with a gradient where the encoders are trained."""
        if self.prompts is None:
            for encoder in self._adapted_encoders:
                encoder.train(self.network.training)
            with nullcontext() if self._adapted_encoders else torch.no_grad():
                return self.encode_prompts(prompts)
        self._refuse_kept_prompts()
        kept, device = self.prompts.read(prompts), self.network.device
        pooled = None if kept.pooled is None else kept.pooled.to(device, non_blocking=True)
        return Conditioning(kept.hidden.to(device, non_blocking=True), pooled)

    def _refuse_kept_prompts(self) -> None:
        if self._adapted_encoders:
            raise ConfigError(
                "--lora.text_encoders true: trained text encoders say something else at every step, and prompts cannot be "
                "kept; set it to false, or keep no prompts."
            )

    def denoising_loss(
        self,
        latents: Float[Tensor, "batch channels height width"],
        conditioning: Conditioning,
        generator: torch.Generator,
        metadata: Sequence[ImageMetadata] = (),
    ) -> Float[Tensor, " batch"]:
        """Return the loss of latents and prompts that are encoded already.

        Args:
            latents: scaled, float32, as from ``encode_images``.
            conditioning: of each example.
            generator: on the CPU; noise and its levels follow from it, and in training which metadata is withheld.
            metadata: of each image, for a denoiser that is told it; nothing is known of them where it is left out.
        """
        noised = self.family.noising.draw(latents, generator)
        with self._telling(metadata, generator if self.network.training else None):
            prediction = self.family.denoise(noised.noisy, noised.times, conditioning)
        return noised.weight * (prediction - noised.target).square().mean(dim=(1, 2, 3))

    def _telling(
        self, metadata: Sequence[ImageMetadata], generator: torch.Generator | None = None
    ) -> AbstractContextManager[None]:
        return self.metadata.told(metadata, generator) if self.metadata is not None and metadata else nullcontext()

    def encode_images(
        self, pixels: Float[Tensor, "batch 3 height width"], generator: torch.Generator
    ) -> Float[Tensor, "batch channels latent_height latent_width"]:
        """Draw latents of images in [-1, 1], scaled to about unit variance, float32."""
        return self.family.scale_latents(self.family.encode_images(pixels).sample(generator))

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Return prompts as the denoiser reads them, cut and padded as the pipeline does it; ``[""]`` is the null prompt."""
        with self._text_encoders.brought_to(self.network.device):
            return self.family.encode_prompts(prompts)

    def sample(
        self,
        prompts: Sequence[str],
        seeds: Sequence[int],
        *,
        num_inference_steps: int = 20,
        guidance_scale: float = 5.0,
        resolution: int | None = None,
        metadata: Sequence[ImageMetadata] = (),
        settings: SamplingSettings | None = None,
        images: Sequence[Image.Image] = (),
        on_step: Callable[[int, int], None] | None = None,
        on_preview: Callable[[int, Image.Image], None] | None = None,
        preview_every: int = 5,
        together: int = 1,
    ) -> list[Image.Image]:
        """Draw one image a prompt; on the CPU the same bytes in any batch.

        Args:
            prompts: one text an image.
            seeds: one number an image; the image follows from its own number, whatever else is in the batch.
            num_inference_steps: denoising steps.
            guidance_scale: weight of the prompt (Ho & Salimans 2022); 1 is none.
            resolution: side in pixels; the model's own when left out.
            metadata: how each image is to look as if taken; with a ``lora_scale`` of 0 the denoiser is told nothing.
            settings: all that can be asked, in place of steps, guidance and resolution.
            images: what each image begins as; resized to the size that is drawn.
            on_step: called with the denoising steps done and those in all; what it raises ends the drawing.
            on_preview: called with an image's place and what the denoiser takes it to be so far, small.
            preview_every: steps from one preview to the next.
            together: images that the CPU computes at a time; another number changes the last bit of some, and so may an image's
                place among them.

        Returns:
            RGB images.

        Raises:
            ConfigError: this model cannot be asked for that.
        """
        asked = settings or SamplingSettings("model", num_inference_steps, guidance_scale, resolution=resolution)
        sampler = Sampler(self.family, asked, from_images=bool(images), together=together)
        acting = adapter_strength.acting((self.network, *self._text_encoders.networks), asked.lora_scale)
        encoders = self._text_encoders.brought_to(self.network.device)
        watch, told = Watch(on_step, on_preview, preview_every), metadata if asked.lora_scale else ()
        with evaluating((self.network, *self._adapted_encoders)), encoders, acting, torch.no_grad():
            return draw_images(sampler, self._memory, prompts, seeds, images, told, self._telling, watch)

    def save_model(self, folder: Path) -> None:
        """Save the whole pipeline in diffusers' layout."""
        self.pipeline.save_pretrained(folder, safe_serialization=True)
