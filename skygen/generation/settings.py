"""The settings of a set of pictures: how many, how each is drawn, and from how many candidates."""

from __future__ import annotations

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

from skygen.config import CountFromOne, CountFromZero
from skygen.errors import ConfigError
from skygen.models.diffusions.sampling import SamplingSettings


@dataclass(frozen=True)
class GenerationSettings(SamplingSettings):
    """How many pictures, and how each is drawn."""

    count: CountFromZero = 0
    """Pictures in all, the prompts taken in turn; 0 draws one a prompt."""
    images: Path | None = None
    """A folder or archive of images that the pictures begin as, taken in turn; see ``strength``."""
    batch_size: CountFromOne = 16
    """Pictures drawn at a time on a GPU, fewer where memory does not suffice, and between two writes of the records."""
    together: CountFromOne | None = None
    """Pictures that the CPU computes at a time, left out: 1 to 4 by their size. Another number changes the last bit of some."""
    threads: CountFromZero = 1
    """Of one process on the CPU; another number changes the last bit of some pictures. 0 leaves it to torch. More processes
    use more cores and change nothing."""


@dataclass(frozen=True)
class SelectionSettings:
    """Best of N: draw several candidates and keep the one that SkyCLIP finds nearest to the prompt."""

    candidates: int = 1
    """Candidates a picture; with 1 nothing is selected."""
    finished: int = 0
    """Candidates that are drawn to the end, those that SkyCLIP finds best at ``look_after``; 0 is all of them."""
    look_after: float = 0.5
    """Share of the steps after which the weak ones are given up, in (0, 1); the others are then drawn from their beginning."""

    def __post_init__(self) -> None:
        for name, value, allowed, right in (
            ("candidates", self.candidates, "1 or more", self.candidates >= 1),
            ("finished", self.finished, f"0 to {self.candidates}, the candidates", 0 <= self.finished <= self.candidates),
            ("look_after", self.look_after, "between 0 and 1", 0 < self.look_after < 1),
        ):
            if not right:
                raise ConfigError(f"selection.{name} is {value:g}; it must be {allowed}.")

    @property
    def is_racing(self) -> bool:
        """Whether weak candidates are given up on the way."""
        return 0 < self.finished < self.candidates


CHANGE_NO_PICTURE = ("count", "batch_size")
"""What may differ when the same run goes on."""
KEPT = tuple(f"generation.{each.name}" for each in fields(GenerationSettings) if each.name not in CHANGE_NO_PICTURE)
"""What must be the same when a run goes on, as flags are written."""


def describe_settings(settings: SamplingSettings) -> dict[str, Any]:
    """Describe how a picture is drawn, for its record; what is left as the model has it is left out."""
    return {
        "scheduler": settings.scheduler,
        "num_inference_steps": settings.num_inference_steps,
        "guidance_scale": settings.guidance_scale,
        **({} if settings.guidance_rescale is None else {"guidance_rescale": settings.guidance_rescale}),
        **({} if settings.lora_scale == 1.0 else {"lora_scale": settings.lora_scale}),
    }
