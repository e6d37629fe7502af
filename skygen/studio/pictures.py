"""What is drawn: what somebody asks for, what comes of it, and how far it is."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import final

from PIL import Image

from skygen.errors import ConfigError
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.sampling import SamplingSettings
from skygen.studio import limits


@final
@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture that was drawn.

    Args:
        path: of the PNG, which says of itself that it is synthetic.
        score: cosine of picture and prompt by the scorer, in [-1, 1].
        seed: that the picture follows from.
        candidates: all that were drawn for it, itself among them, the highest score first; empty of a candidate itself.
        base: what the model without its adapter draws from the same seed; None where that was not asked.
    """

    path: Path
    score: float
    seed: int
    candidates: tuple[Drawing, ...] = ()
    base: Drawing | None = None


@final
@dataclass(frozen=True, slots=True)
class Progress:
    """How far a drawing is.

    Args:
        drawings: that are finished.
        previews: what is to be seen of those that are being drawn, RGB.
        done: denoising steps, of all pictures.
        total: of them.
    """

    drawings: tuple[Drawing, ...]
    previews: tuple[Image.Image, ...]
    done: int
    total: int


@final
@dataclass(frozen=True, slots=True)
class Request:
    """What is to be drawn, checked where it is made.

    Args:
        prompt: at most ``limits.LONGEST_PROMPT`` characters.
        seed: all the pictures follow from it.
        steps: of denoising.
        guidance: weight of the prompt; 1 is none.
        count: of the pictures.
        candidates: drawn for each picture; the one that the scorer finds nearest to the prompt is kept.
        scheduler: see ``skygen.models.diffusions.schedulers``.
        rescale: of guidance, in [0, 1]; None is the model's own.
        lora_scale: how strongly the adapter acts.
        width: in pixels; None is the model's own.
        height: in pixels; None is the model's own.
        beside_base: draw each chosen picture with the base model too.

    Raises:
        ConfigError: a value is out of its bounds.
    """

    prompt: str
    seed: int | None = 0
    steps: int = 20
    guidance: float = 5.0
    count: int = 1
    candidates: int = 1
    scheduler: str = "model"
    rescale: float | None = None
    lora_scale: float = 1.0
    width: int | None = None
    height: int | None = None
    beside_base: bool = False

    def __post_init__(self) -> None:
        checked = {
            "prompt": limits.check_text("prompt", self.prompt),
            "seed": limits.check_whole("seed", self.seed, 0, limits.LARGEST_SEED),
            "steps": limits.check_whole("number of steps", self.steps, 1, limits.MOST_STEPS),
            "guidance": limits.check_number("guidance", self.guidance, *limits.GUIDANCE),
            "count": limits.check_whole("number of pictures", self.count, 1, limits.MOST_PICTURES),
            "candidates": limits.check_whole("number of candidates", self.candidates, 1, limits.MOST_CANDIDATES),
            "scheduler": limits.check_choice("scheduler", self.scheduler, limits.SCHEDULERS),
            "lora_scale": limits.check_number("strength of the adapter", self.lora_scale, *limits.LORA_SCALE),
        }
        if self.rescale is not None:
            checked["rescale"] = limits.check_number("rescale", self.rescale, *limits.RESCALE)
        for name, value in checked.items():
            object.__setattr__(self, name, value)

    def settings(self, diffusion: Diffusion) -> SamplingSettings:
        """Return how a model is asked; its pictures are of its own size where none is asked.

        Raises:
            ConfigError: the model draws none of that size, or has no adapter where that is to act more or less.
        """
        if not diffusion.adapters and (self.lora_scale != 1 or self.beside_base):
            raise ConfigError("This model has no adapter; leave its strength at 1, and the base model out.")
        own, step = diffusion.family.resolution, diffusion.family.size_step
        return SamplingSettings(
            scheduler=next(name for name in limits.SCHEDULERS if name == self.scheduler),
            num_inference_steps=self.steps,
            guidance_scale=self.guidance,
            guidance_rescale=self.rescale,
            lora_scale=self.lora_scale,
            height=limits.check_side("height", self.height, step, own),
            width=limits.check_side("width", self.width, step, own),
        )


@final
@dataclass(frozen=True, slots=True)
class Cut:
    """Where a prompt is cut.

    Args:
        limit: tokens that the text encoder reads, start and end included.
        read: the part of the prompt that is read.
        dropped: the part that is not.
    """

    limit: int
    read: str
    dropped: str


def find_cut(diffusion: Diffusion, prompt: str) -> Cut | None:
    """Say where the first text encoder of a model cuts a prompt; None where it reads all of it."""
    tokenizer = diffusion.pipeline.tokenizer
    limit = int(tokenizer.model_max_length)
    ids = tokenizer(prompt, truncation=False, verbose=False)["input_ids"]
    if len(ids) <= limit:
        return None
    if tokenizer.is_fast:
        spans = tokenizer(prompt, truncation=True, max_length=limit, return_offsets_mapping=True)["offset_mapping"]
        end = max(stop for _, stop in spans)
        return Cut(limit, prompt[:end].strip(), prompt[end:].strip())
    kept = ids[1 : limit - 1]  # without the start, and room for the end
    return Cut(limit, tokenizer.decode(kept).strip(), tokenizer.decode(ids[limit - 1 : -1]).strip())
