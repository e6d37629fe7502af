"""What a text-to-image model asks of a family of diffusion pipelines.

A family is the part of a pipeline that differs from another's: how pixels become latents, how prompts become what the denoiser
reads, how the denoiser is called, and what noise it is trained on. The loss and the sampler over it are in
``skygen.models.diffusion``.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Num
from torch import Tensor

from skygen.models.diffusions.latents import LatentDistribution
from skygen.models.diffusions.settings import DiffusionSettings
from skygen.models.objectives import PredictionType


@dataclass(frozen=True, slots=True)
class Conditioning:
    """Prompts as a denoiser reads them.

    The null prompt of classifier-free guidance is what ``encode_prompts([""])`` gives.

    Args:
        hidden: states of the text encoders, float32.
        pooled: one vector a prompt, float32; None where the denoiser reads none.
        sizes: original height and width, top and left of the crop, target height and width of each image, in pixels, float32:
            half precision rounds them above 256. None says that whole images of the latents' own size are meant.
    """

    hidden: Float[Tensor, "batch tokens dimension"]
    pooled: Float[Tensor, "batch pooled"] | None = None
    sizes: Float[Tensor, "batch 6"] | None = None


@runtime_checkable
class PromptSource(Protocol):
    """Prompts that were encoded before."""

    def read(self, prompts: Sequence[str]) -> Conditioning:
        """Return what the text encoders have made of prompts, on the CPU, float32.

        Args:
            prompts: the null prompt ``""`` among them or not; each was kept.

        Raises:
            SkygenError: a prompt was not kept.
        """
        ...


@dataclass(frozen=True, slots=True)
class NoisedLatents:
    """One training example a row: what the denoiser is shown, and what it should say.

    Args:
        noisy: latents and noise, mixed, float32.
        times: what the denoiser is told of the mixture: timesteps, int64, or ``1000 sigma`` of flow matching, float32.
        target: what it is to predict, float32.
        weight: of the squared error of each example, float32.
    """

    noisy: Float[Tensor, "batch channels height width"]
    times: Num[Tensor, " batch"]
    target: Float[Tensor, "batch channels height width"]
    weight: Float[Tensor, " batch"]


@runtime_checkable
class Noising(Protocol):
    """The objective of a model: how noise is mixed with latents, and what is predicted."""

    @property
    def prediction_type(self) -> PredictionType:
        """What the denoiser predicts."""
        ...

    def draw(self, latents: Float[Tensor, "batch channels height width"], generator: torch.Generator) -> NoisedLatents:
        """Mix latents with noise drawn for them, each at a level drawn for it.

        Args:
            latents: scaled, float32.
            generator: on the CPU; noise and levels follow from it.
        """
        ...

    def estimate_clean(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        prediction: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the clean latents, float32, that a prediction means.

        Args:
            noisy: what the denoiser was shown.
            prediction: what it said.
            times: what it was told of the mixture, fractions of timesteps too.
        """
        ...


@runtime_checkable
class DiffusionFamily(Protocol):
    """One family of text-to-image pipelines; an instance holds a loaded one.

    A family is a final class with a constructor ``(pipeline, settings)`` and a classmethod ``load``.
    """

    pipeline_class: ClassVar[str]
    """Class of diffusers, as ``_class_name`` of model_index.json has it; its ``save_lora_weights`` writes adapters."""
    network_name: ClassVar[str]
    """Which part of the pipeline is trained, ``unet`` or ``transformer``; adapters' keys begin with it."""
    lora_presets: ClassVar[Mapping[str, str]]
    """Preset to a regular expression of whole module names: ``attention``, ``attention_ff``, ``attention_ff_conv``."""
    pipeline: Any
    noising: Noising

    @classmethod
    def load(cls, source: str, settings: DiffusionSettings, dtype: torch.dtype = torch.float32) -> DiffusionFamily:
        """Load the pipeline.

        Args:
            source: folder or hub id.
            settings: the training objective.
            dtype: of the denoiser and the text encoders; the autoencoder is float32.
        """
        ...

    @property
    def resolution(self) -> int:
        """Side in pixels of the images it was made for."""
        ...

    @property
    def size_step(self) -> int:
        """What both sides of an image in pixels must be multiples of."""
        ...

    def sampling_options(self) -> dict[str, Any]:
        """Return what the pipeline is called with beside prompts, steps, guidance and size."""
        ...

    def encode_images(self, pixels: Float[Tensor, "batch 3 height width"]) -> LatentDistribution:
        """Return the distribution of the latents of pixels in [-1, 1], as the autoencoder gives it: not scaled."""
        ...

    def scale_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch channels height width"]:
        """Shift and scale the autoencoder's latents to about unit variance, which the denoiser works on, float32."""
        ...

    def decode_latents(
        self, latents: Float[Tensor, "batch channels height width"]
    ) -> Float[Tensor, "batch 3 image_height image_width"]:
        """Return the pixels, about in [-1, 1], of scaled latents."""
        ...

    def encode_prompts(self, prompts: Sequence[str]) -> Conditioning:
        """Encode prompts, cut and padded to the encoders' contexts as the pipeline does it when it samples."""
        ...

    def denoise(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
        conditioning: Conditioning,
    ) -> Float[Tensor, "batch channels height width"]:
        """Call the denoiser.

        Args:
            noisy: scaled latents with noise.
            times: as ``NoisedLatents.times``.
            conditioning: of each example.

        Returns:
            Its prediction, float32.
        """
        ...
