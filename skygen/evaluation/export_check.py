"""The last look at an adapter: a model that is loaded anew with it must draw what the trained one draws."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import numpy as np
from PIL import Image

from skygen.errors import StorageError
from skygen.evaluation.validation.undisturbed import as_base, is_adapted, undisturbed
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.seeding import Seeds

LARGEST_DIFFERENCE: Final = 2
"""Steps of 255 of a pixel that another order of sums may make; a lost layer or alpha makes tens."""


@dataclass(frozen=True, slots=True)
class ExportCheck:
    """What a freshly loaded model was found to draw.

    Args:
        pictures: how many were compared.
        difference: largest difference of a pixel from the trained model's pictures, in steps of 255.
        effect: the same between the trained model and its base; None where no base is beside it. Where it is no larger than
            the difference, the check says nothing, for the training has hardly changed what is drawn.
    """

    pictures: int
    difference: int
    effect: int | None


def check_export(
    diffusion: Diffusion,
    folder: Path,
    base: str,
    *,
    seeds: Seeds,
    prompts: Sequence[str] = ("a satellite image of a harbor", ""),
    num_inference_steps: int = 2,
    guidance_scale: float = 1.0,
    resolution: int | None = None,
) -> ExportCheck:
    """Load the exported files as a user would, and hold the pictures against those of the model in memory.

    Both are drawn by ``Diffusion.sample``, which is what ``generate`` draws with. Two models are in memory meanwhile; the
    trained one is left as it was.

    Args:
        diffusion: the trained model, with the values that were exported.
        folder: of the adapter, or of the whole model.
        base: name that the base is loaded by; a whole model needs none.
        seeds: of the run.
        prompts: one picture each.
        num_inference_steps: few, for what differs differs from the first step on.
        guidance_scale: weight of the prompt; none spares half of the work, and what differs differs without it.
        resolution: side in pixels; the model's own when left out.

    Raises:
        StorageError: the pictures differ by more than ``LARGEST_DIFFERENCE``.
        SkygenError: the export cannot be loaded.
    """

    def draw(model: Diffusion) -> list[Image.Image]:
        numbers = [seeds.derive("export", index) for index in range(len(prompts))]
        return model.sample(
            prompts,
            numbers,
            num_inference_steps=num_inference_steps,
            guidance_scale=guidance_scale,
            resolution=resolution,
        )

    with undisturbed(diffusion.pipeline):
        wanted = draw(diffusion)
        effect = None
        if is_adapted(diffusion.pipeline):
            with as_base(diffusion):
                effect = largest_pixel_difference(wanted, draw(diffusion))
        whole = (folder / "model_index.json").is_file()
        name, adapter = (str(folder), None) if whole else (base, folder)
        device = str(next(diffusion.network.parameters()).device)
        objective = DiffusionSettings(snr_gamma=0.0)  # of no concern to a sampler, and refused by no model
        fresh = Diffusion.load(name, adapter, device=device, objective=objective, dtype=diffusion.network.dtype)
        difference = largest_pixel_difference(wanted, draw(fresh))
    if difference > LARGEST_DIFFERENCE:
        raise StorageError(
            f"{folder}: a model loaded from it draws pictures that differ by up to {difference}/255 from those of the trained "
            "one; keep the newest checkpoint, from which the same command exports again, and report which layers are adapted."
        )
    return ExportCheck(len(prompts), difference, effect)


def largest_pixel_difference(one: Sequence[Image.Image], other: Sequence[Image.Image]) -> int:
    """Return the largest difference between pictures of the same sizes, in steps of 255."""
    pairs = zip(one, other, strict=True)
    return max(int(np.abs(np.asarray(a, np.int16) - np.asarray(b, np.int16)).max()) for a, b in pairs)
