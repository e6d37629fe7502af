"""Drawing pictures: what is asked, the unit that is computed together, and the call of the pipeline.

On the CPU the unit is one picture, or a number that whoever draws a set has fixed for all of it: matrix products of one row a
picture, and convolutions of one pixel, add in another order in another batch, and of 16 pictures 12 have a byte that is off by
one. Elsewhere all pictures of a call are computed together.
"""

from __future__ import annotations

import math
from collections import OrderedDict
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import Any, final

import numpy as np
import torch
from jaxtyping import Float
from PIL import Image
from torch import Tensor, nn

from skygen.config import CountFromOne
from skygen.errors import ConfigError
from skygen.models.diffusions.clean_estimate import CleanEstimate
from skygen.models.diffusions.family import Conditioning, DiffusionFamily
from skygen.models.diffusions.schedulers import SchedulerName, begin_between, build_scheduler, noise_to_begin

KEPT_PROMPTS = 32
"""Encoded prompts that are kept from one call to the next; one of Stable Diffusion 3 takes 5 MB."""
PREVIEW_SIDE = 32
"""Longer side in latents of what a preview decodes."""
MOST_TOGETHER = 4
"""Pictures of a unit on the CPU: of small ones four together take 0.55 of the time of four alone, and eight hardly less."""
LATENTS_TOGETHER = 1024
"""Of a unit on the CPU, in pixels of latents: one picture of 256 pixels; larger ones fill a core each by itself."""


@dataclass(frozen=True)
class SamplingSettings:
    """How a picture is drawn."""

    scheduler: SchedulerName = "model"
    """Which way is stepped from noise to the picture; ``model`` is the model's own."""
    num_inference_steps: int = 20
    """Denoising steps."""
    guidance_scale: float = 5.0
    """Weight of the prompt; 1 is none."""
    guidance_rescale: float | None = None
    """How far guidance is brought back to the contrast without it, in [0, 1] (Lin et al. 2024); the model's own if left out."""
    lora_scale: float = 1.0
    """How strongly the adapter acts: 1 as trained, 0 not at all."""
    resolution: CountFromOne | None = None
    """Side in pixels; the model's own when left out."""
    height: CountFromOne | None = None
    """In pixels; ``resolution`` when left out."""
    width: CountFromOne | None = None
    """In pixels; ``resolution`` when left out."""
    strength: float = 0.6
    """Of a picture that begins as another: how much of the way from noise is gone, in (0, 1]."""

    def __post_init__(self) -> None:
        rescale = 0.0 if self.guidance_rescale is None else self.guidance_rescale
        for name, value, allowed, right in (
            ("num_inference_steps", self.num_inference_steps, "1 or more", self.num_inference_steps >= 1),
            ("guidance_scale", self.guidance_scale, "a number, 0 or more", 0 <= self.guidance_scale < math.inf),
            ("guidance_rescale", rescale, "between 0 and 1", 0 <= rescale <= 1),
            ("lora_scale", self.lora_scale, "a number, 0 or more", 0 <= self.lora_scale < math.inf),
            ("strength", self.strength, "above 0, and 1 at most", 0 < self.strength <= 1),
        ):
            if not right:
                raise ConfigError(f"generation.{name} is {value:g}; it must be {allowed}.")

    def size(self, family: DiffusionFamily) -> tuple[int, int]:
        """Return height and width in pixels.

        Raises:
            ConfigError: the model draws no picture of that size.
        """
        side, step = self.resolution or family.resolution, family.size_step
        height, width = self.height or side, self.width or side
        for name, length in (("height", height), ("width", width)):
            if length <= 0 or length % step:
                raise ConfigError(
                    f"generation.{name if getattr(self, name) else 'resolution'} is {length}; this model draws sides that are "
                    f"multiples of {step} pixels."
                )
        return height, width


@final
class PromptMemory:
    """What the text encoders said of the last prompts, for as long as they would say the same again.

    Args:
        encoders: the text encoders.
        encode: runs them.
    """

    def __init__(self, encoders: Sequence[nn.Module], encode: Callable[[Sequence[str]], Conditioning]) -> None:
        self._encoders = encoders
        self._encode = encode
        self._state: object = None
        self._kept: OrderedDict[str, Conditioning] = OrderedDict()

    def read(self, prompts: Sequence[str], lora_scale: float = 1.0) -> Conditioning:
        """Return prompts as the denoiser reads them, each text encoded for itself, so that no other one changes its bits.

        Args:
            prompts: the null prompt ``""`` among them or not.
            lora_scale: that is in force.
        """
        state = (lora_scale, [(id(one), one._version, one.dtype) for part in self._encoders for one in part.parameters()])
        if state != self._state:
            self._state, self._kept = state, OrderedDict()
        said = []
        for prompt in prompts:
            if prompt not in self._kept:
                self._kept[prompt] = self._encode([prompt])
            self._kept.move_to_end(prompt)
            said.append(self._kept[prompt])
            while len(self._kept) > KEPT_PROMPTS:
                self._kept.popitem(last=False)
        pooled = [one.pooled for one in said if one.pooled is not None]
        return Conditioning(torch.cat([one.hidden for one in said]), torch.cat(pooled) if pooled else None)


@final
class Sampler:
    """The pipeline of a family, set up for one way of drawing.

    Args:
        family: the loaded pipeline.
        settings: how pictures are drawn.
        from_images: whether they begin as others.
        together: pictures of a unit, on the CPU alone.

    Attributes:
        family: as given.
        settings: as given.
        height: in pixels.
        width: in pixels.

    Raises:
        ConfigError: the model cannot be asked for that.
    """

    def __init__(self, family: DiffusionFamily, settings: SamplingSettings, *, from_images: bool, together: int = 1) -> None:
        self.height, self.width = settings.size(family)
        self._together = together
        self.family, self.settings, self._from_images = family, settings, from_images
        self._options = dict(family.sampling_options())
        if settings.guidance_rescale is not None:
            if settings.guidance_rescale and family.noising.prediction_type == "flow":
                raise ConfigError(
                    f"generation.guidance_rescale is {settings.guidance_rescale:g}, and the pipeline of a "
                    f"{family.pipeline_class} does not rescale; leave it out."
                )
            if family.noising.prediction_type != "flow":
                self._options["guidance_rescale"] = settings.guidance_rescale
        self._scheduler = build_scheduler(settings.scheduler, family)
        if from_images:
            begin_between(self._scheduler, settings.num_inference_steps, settings.strength)

    @property
    def guided(self) -> bool:
        """Whether the null prompt is asked too."""
        return self.settings.guidance_scale > 1

    def unit(self, count: int) -> int:
        """Return how many of ``count`` pictures are computed together, see the module; on the CPU always so many."""
        return self._together if self._network.device.type == "cpu" else max(count, 1)

    def draw(
        self,
        said: Conditioning,
        null: Conditioning | None,
        generators: Sequence[torch.Generator],
        images: Sequence[Image.Image] = (),
        on_step: Callable[[int, int, Tensor], None] | None = None,
    ) -> Float[Tensor, "batch channels height width"]:
        """Draw the latents of one unit.

        Args:
            said: the prompts.
            null: the null prompt, one row; None where ``guided`` is off.
            generators: on the CPU, one a picture: where it begins, and the noise of every step.
            images: what they begin as, where that was said.
            on_step: called with the steps done, those in all, and what the denoiser takes the clean latents to be; what it
                raises ends the drawing.

        Returns:
            Scaled latents.
        """
        asked: dict[str, Any] = {**self._options, **self._prompt_arguments(said, null, len(generators))}
        if self._from_images:
            asked["latents"] = self._begin(images, generators)
        pipeline, own = self.family.pipeline, self.family.pipeline.scheduler
        listening = CleanEstimate(self.family, self.settings.guidance_scale) if on_step is not None else None
        if on_step is not None and listening is not None:
            asked["callback_on_step_end"] = _call_back(on_step, listening)
        pipeline.scheduler = self._scheduler
        try:
            with listening or nullcontext():
                drawn: Tensor = pipeline(
                    **asked,
                    generator=list(generators),
                    num_inference_steps=self.settings.num_inference_steps,
                    guidance_scale=self.settings.guidance_scale,
                    height=self.height,
                    width=self.width,
                    output_type="latent",
                ).images
        finally:
            pipeline.scheduler = own
        return drawn

    def decode(self, latents: Float[Tensor, "batch channels height width"]) -> list[Image.Image]:
        """Return RGB images; not by the pipeline, which would decode in the denoiser's precision."""
        return decode_images(self.family, latents)

    @property
    def _network(self) -> Any:
        return getattr(self.family.pipeline, self.family.network_name)

    def _prompt_arguments(self, said: Conditioning, null: Conditioning | None, count: int) -> dict[str, Tensor]:
        like = {"device": self._network.device, "dtype": self._network.dtype}
        arguments = {"prompt_embeds": said.hidden.to(**like)}
        if said.pooled is not None:
            arguments["pooled_prompt_embeds"] = said.pooled.to(**like)
        if null is not None:
            arguments["negative_prompt_embeds"] = null.hidden.to(**like).repeat(count, 1, 1)
            if null.pooled is not None:
                arguments["negative_pooled_prompt_embeds"] = null.pooled.to(**like).repeat(count, 1)
        return arguments

    def _begin(self, images: Sequence[Image.Image], generators: Sequence[torch.Generator]) -> Tensor:
        """Return the images' latents with noise; of each the draw of its latents comes first, as in diffusers."""
        begun = []
        for image, generator in zip(images, generators, strict=True):
            resized = image.convert("RGB").resize((self.width, self.height), Image.Resampling.LANCZOS)
            pixels = torch.from_numpy(np.asarray(resized, np.float32) / 127.5 - 1).permute(2, 0, 1)[None].contiguous()
            encoded = self.family.encode_images(pixels.to(self._network.device)).sample(generator)
            latents = self.family.scale_latents(encoded).contiguous()
            noise = torch.randn(latents.shape, generator=generator).to(latents.device)
            begun.append(noise_to_begin(self._scheduler, self.settings.num_inference_steps, latents, noise))
        return torch.cat(begun).to(self._network.dtype)


def decode_images(family: DiffusionFamily, latents: Float[Tensor, "batch channels height width"]) -> list[Image.Image]:
    """Decode scaled latents to RGB images."""
    pixels = family.decode_latents(latents)
    images: list[Image.Image] = family.pipeline.image_processor.postprocess(pixels, output_type="pil")
    return images


@torch.no_grad()
def preview_images(family: DiffusionFamily, latents: Float[Tensor, "batch channels height width"]) -> list[Image.Image]:
    """Decode the latents that a denoiser is going for, smaller: what is to be seen of a picture before it is finished.

    Args:
        family: whose autoencoder decodes.
        latents: scaled, without noise.

    Returns:
        RGB, at most ``PREVIEW_SIDE`` latents on the longer side.
    """
    latents = latents.float()
    longer = max(latents.shape[2:])
    if longer > PREVIEW_SIDE:
        size = [max(1, round(length * PREVIEW_SIDE / longer)) for length in latents.shape[2:]]
        latents = nn.functional.interpolate(latents, size=size, mode="area")
    return decode_images(family, latents)


def count_together(family: DiffusionFamily, settings: SamplingSettings) -> int:
    """Return how many pictures of a set a CPU should compute together: several where each is small."""
    height, width = (side // int(family.pipeline.vae_scale_factor) for side in settings.size(family))
    return max(1, min(MOST_TOGETHER, LATENTS_TOGETHER // (height * width)))


def _call_back(on_step: Callable[[int, int, Tensor], None], listening: CleanEstimate) -> Callable[..., dict[str, Any]]:
    """Return what diffusers calls after each step; it takes over nothing of what this returns."""

    def call(pipeline: Any, step: int, _time: Any, _tensors: dict[str, Any]) -> dict[str, Any]:
        on_step(step + 1, pipeline.num_timesteps, listening.read())
        return {}

    return call
