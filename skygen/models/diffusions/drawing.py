"""Pictures drawn unit after unit: who is told of the steps, and the state that the networks are in meanwhile."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass
from typing import TypeVar

import torch
from PIL import Image
from torch import Tensor, nn

from skygen.data.image_metadata import ImageMetadata
from skygen.models.diffusions.sampling import PromptMemory, Sampler, preview_images

T = TypeVar("T")


@dataclass(frozen=True, slots=True)
class Watch:
    """Who is told how far the drawing is; what one of them raises ends it.

    Args:
        on_step: gets the denoising steps done and those in all, one unit of pictures after another.
        on_preview: gets the place of a picture among the prompts, and what is to be seen of it so far.
        preview_every: steps from one preview to the next.
    """

    on_step: Callable[[int, int], None] | None
    on_preview: Callable[[int, Image.Image], None] | None
    preview_every: int

    def of_unit(self, sampler: Sampler, start: int, count: int) -> Callable[[int, int, Tensor], None] | None:
        """Return what the unit that begins at a place of ``count`` calls at each step; None where nobody is told."""
        if self.on_step is None and self.on_preview is None:
            return None
        unit = sampler.unit(count)

        def tell(done: int, total: int, latents: Tensor) -> None:
            if self.on_preview is not None and (done % self.preview_every == 0 or done == total):
                for place, image in enumerate(preview_images(sampler.family, latents[: count - start]), start=start):
                    self.on_preview(place, image)
            if self.on_step is not None:
                self.on_step(start // unit * total + done, -(-count // unit) * total)

        return tell


def draw_images(
    sampler: Sampler,
    memory: PromptMemory,
    prompts: Sequence[str],
    seeds: Sequence[int],
    images: Sequence[Image.Image],
    metadata: Sequence[ImageMetadata],
    telling: Callable[[Sequence[ImageMetadata]], AbstractContextManager[None]],
    watch: Watch,
) -> list[Image.Image]:
    """Draw one image a prompt, a unit at a time; one that is not full is filled up, so that its size changes no byte.

    Args:
        sampler: set up for how they are drawn.
        memory: of encoded prompts.
        prompts: one text an image.
        seeds: one number an image.
        images: what each begins as; none where they begin as noise.
        metadata: of each image; none where the denoiser is told nothing.
        telling: tells the denoiser for a while.
        watch: who is told of the steps.

    Returns:
        RGB images.
    """
    drawn: list[Image.Image] = []
    count, unit = len(prompts), sampler.unit(len(prompts))
    filled = count + -count % unit
    prompts, seeds = _fill(prompts, filled), _fill(seeds, filled)
    images, metadata = _fill(images, filled), _fill(metadata, filled)
    null = memory.read([""], sampler.settings.lora_scale) if sampler.guided else None
    for start in range(0, filled, unit):
        places = slice(start, start + unit)
        generators = [torch.Generator().manual_seed(seed) for seed in seeds[places]]
        said = memory.read(prompts[places], sampler.settings.lora_scale)
        with telling(metadata[places]):
            latents = sampler.draw(said, null, generators, images[places], watch.of_unit(sampler, start, count))
        drawn += sampler.decode(latents)
    return drawn[:count]


def _fill(values: Sequence[T], count: int) -> Sequence[T]:
    """Repeat the last value until there are so many; none stay none."""
    return [*values, *[values[-1]] * (count - len(values))] if values else values


@contextmanager
def evaluating(networks: Sequence[nn.Module]) -> Iterator[None]:
    """Put networks in evaluation mode, uncompiled, and leave them as they were."""
    modes = [network.training for network in networks]
    try:
        for network in networks:
            network.eval()
        with torch.compiler.set_stance("force_eager"):
            yield
    finally:
        for network, training in zip(networks, modes, strict=True):
            network.train(training)
