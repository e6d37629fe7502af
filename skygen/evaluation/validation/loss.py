"""The training loss on held-out pairs, with noise and noise levels that stay the same all through a run.

The loss of a training step jumps with the levels drawn for it, by more than a whole run lowers it. Here each item has its own
noise and its own level, from seeds of its own, so that two values along a run differ by the model alone.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass, replace
from typing import Any, Final, final

import numpy as np
import torch
from jaxtyping import Float, Int, Num
from torch import Tensor

from skygen.data.framing import ImageSettings, frame
from skygen.data.image_metadata import UNKNOWN, ImageMetadata, describe_image
from skygen.data.images import image_to_tensor, open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, ImageError
from skygen.models import objectives
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.family import NoisedLatents, Noising
from skygen.models.diffusions.noising import AlphaNoising, FlowNoising
from skygen.models.objectives import PredictionType
from skygen.seeding import Seeds

QUARTILES: Final = 4


@final
@dataclass(frozen=True, slots=True)
class ValidationItem:
    """One held-out pair, encoded.

    Args:
        index: its place in the list, which its noise and noise level follow from.
        prompt: its caption, as trained on.
        latents: scaled, float32, on the CPU.
        sizes: what SDXL is told of the image, see ``Framing.sizes``.
        metadata: how the image was taken.
    """

    index: int
    prompt: str
    latents: Float[Tensor, "channels height width"]
    sizes: tuple[int, ...]
    metadata: ImageMetadata = UNKNOWN


@final
class FixedNoising:
    """An objective whose noise and noise levels are those of given items, whatever generator is asked for them.

    Levels are spread evenly over what training draws: all timesteps of a table of alphas, the logit-normal sigmas of flow
    matching. Noise has no offset, so that runs with and without one can be compared.

    Args:
        noising: of the model, which mixes and weighs.
        indices: of the items, one a row of the batch.
        seeds: of the run.

    Raises:
        ConfigError: an objective of another kind.
    """

    def __init__(self, noising: Noising, indices: Sequence[int], seeds: Seeds) -> None:
        self._noising = noising
        self._indices = tuple(indices)
        self._seeds = seeds

    @property
    def prediction_type(self) -> PredictionType:
        """What the denoiser predicts."""
        return self._noising.prediction_type

    def draw(self, latents: Float[Tensor, "batch channels height width"], generator: torch.Generator) -> NoisedLatents:
        """Mix latents with the noise of these items at their levels; nothing is drawn from ``generator``."""
        generators = [self._seeds.generator("validation", index) for index in self._indices]
        noise = torch.stack([torch.randn(latents.shape[1:], generator=own) for own in generators]).to(latents.device)
        levels = torch.tensor([level_of(index, self._seeds) for index in self._indices], dtype=torch.float64)
        noising = self._noising
        if isinstance(noising, AlphaNoising):
            count = len(noising.alphas_cumprod)
            timesteps = (levels * count).long().clamp(max=count - 1)
            return noising.mix(latents, noise, timesteps.to(latents.device))
        if isinstance(noising, FlowNoising):
            sigmas = torch.sigmoid(torch.special.ndtri(levels.clamp(1e-6, 1 - 1e-6))).float()
            return noising.mix(latents, noise, objectives.shift_sigmas(sigmas, noising.shift).to(latents.device))
        raise ConfigError(f"validation knows no {type(noising).__name__}; set --validation.steps to 0 for this model.")

    def estimate_clean(
        self,
        noisy: Float[Tensor, "batch channels height width"],
        prediction: Float[Tensor, "batch channels height width"],
        times: Num[Tensor, " batch"],
    ) -> Float[Tensor, "batch channels height width"]:
        """Return the clean latents that a prediction means, as the model's objective does."""
        return self._noising.estimate_clean(noisy, prediction, times)


def level_of(index: int, seeds: Seeds) -> float:
    """Return the noise level of an item, in [0, 1), as a share of the levels that training draws; 0 is hardly any noise.

    Van der Corput's sequence, shifted by the run's seed: an index read backwards in binary. Any four items in a row, from a
    multiple of four on, are in four quarters, any sixteen in sixteen parts, however many items there are.
    """
    return float((seeds.numpy("validation level").random() + int(f"{index:032b}"[::-1], 2) / 2**32) % 1.0)


def quartile_of(indices: Sequence[int], seeds: Seeds) -> Int[np.ndarray, " items"]:
    """Return which quarter of the noise levels each item is in, 0 (little noise) to 3."""
    return np.array([int(level_of(index, seeds) * QUARTILES) for index in indices], dtype=np.int64)


def encode_items(
    diffusion: Diffusion,
    pairs: Sequence[Pair],
    prompts: Sequence[str],
    images: ImageSettings,
    seeds: Seeds,
    rejects: Rejects,
) -> list[ValidationItem]:
    """Encode the middle of each image, never turned, one at a time, so that no item follows from its neighbours.

    Args:
        diffusion: the model.
        pairs: held out.
        prompts: the caption of each, as trained on.
        images: with the resolution set.
        seeds: of the run; the latents are drawn once, with noise of each item's own.
        rejects: where unreadable images are noted.

    Raises:
        DataError: not one image can be read.
    """
    device = next(diffusion.network.parameters()).device
    items = []
    for index, (pair, prompt) in enumerate(zip(pairs, prompts, strict=True)):
        try:
            image = open_image(pair.image)
        except ImageError as error:
            rejects.add(pair.key, str(error), where=str(pair.image))
            continue
        framing = frame(image.size, plain_square(images))
        pixels = image_to_tensor(framing.apply(image))[None].to(device)
        latents = diffusion.encode_images(pixels, seeds.generator("validation latents", index))
        items.append(ValidationItem(index, prompt, latents[0].cpu(), framing.sizes, describe_image(pair, framing.scale)))
    if not items:
        raise DataError(f"not one of {len(pairs)} validation images can be read ({rejects.first_reason}); give other pairs.")
    return items


def plain_square(images: ImageSettings) -> ImageSettings:
    """Return how an image is shown to be judged: the middle square (or all of it, squashed), neither turned nor coloured."""
    return replace(
        images,
        center_crop=True,
        aspect_buckets=False,
        random_resized_crop=False,
        random_dihedral=False,
        random_rotation=False,
        color_jitter=0.0,
    )


def compute_losses(
    diffusion: Diffusion,
    items: Sequence[ValidationItem],
    seeds: Seeds,
    *,
    batch_size: int,
    autocast: Callable[[], AbstractContextManager[Any]],
) -> Float[np.ndarray, " items"]:
    """Compute the training loss of each item, by ``Diffusion.denoising_loss`` with the item's own noise and level.

    Args:
        diffusion: the model, in the state that is to be judged; all its networks are set to evaluation mode.
        items: from ``encode_items``.
        seeds: of the run.
        batch_size: items at a time; changes no loss.
        autocast: the precision that training computes in.

    Returns:
        Weighted mean squared errors, float64.
    """
    device = next(diffusion.network.parameters()).device
    for part in diffusion.pipeline.components.values():
        if isinstance(part, torch.nn.Module):
            part.eval()
    noising, losses = diffusion.family.noising, []
    try:
        for start in range(0, len(items), batch_size):
            chunk = items[start : start + batch_size]
            diffusion.family.noising = FixedNoising(noising, [item.index for item in chunk], seeds)
            latents = torch.stack([item.latents for item in chunk]).to(device)
            sizes = torch.tensor([item.sizes for item in chunk], dtype=torch.float32, device=device)
            with torch.no_grad(), torch.compiler.set_stance("force_eager"), autocast():
                conditioning = replace(diffusion.encode_prompts([item.prompt for item in chunk]), sizes=sizes)
                metadata = [item.metadata for item in chunk]
                loss = diffusion.denoising_loss(latents, conditioning, seeds.generator("validation"), metadata)
            losses.append(loss.double().cpu().numpy())
    finally:
        diffusion.family.noising = noising
    return np.concatenate(losses)
