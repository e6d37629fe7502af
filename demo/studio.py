"""What the demo's page can do, without the page: draw pictures from words, and put pictures into words."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, TypeVar, final

from skygen.data.captions import AERIAL_PREFIX, SATELLITE_PREFIX
from skygen.data.images import open_image
from skygen.errors import ConfigError
from skygen.generation.choice import Candidates, Models, Wanted
from skygen.generation.prompts import Prompt
from skygen.generation.sampling import draw_samples
from skygen.generation.settings import GenerationSettings, SelectionSettings
from skygen.miniature.sentences import describe
from skygen.miniature.sources import SOURCES
from skygen.miniature.tiles import Tile, draw_tile
from skygen.models.captioner import Captioner
from skygen.models.device import pick_device
from skygen.models.diffusion import Diffusion
from skygen.models.scorer import Scorer, ScorerSettings, require
from skygen.models.weights import ModelSettings, locate
from skygen.seeding import Seeds

Number = TypeVar("Number", int, float)
LONGEST_PROMPT = 300
MOST_PICTURES = 8
MOST_CANDIDATES = 8
MOST_STEPS = 100
GUIDANCE = (1, 15)
LARGEST_SEED = 2**31 - 1
PICTURES_AT_A_TIME = 4
EXAMPLES = ("harbour", "baseball field", "airport runway", "orchard", "river", "island")


@dataclass(frozen=True)
class ServerSettings:
    """Where the page is served."""

    host: str = "127.0.0.1"
    """Address it listens on; only this machine can reach the default."""
    port: int = 7860
    """Port it listens on."""


@dataclass(frozen=True)
class Config:
    """Open the demo's page."""

    diffusion: ModelSettings = field(default_factory=ModelSettings)
    captioner: ModelSettings = field(default_factory=ModelSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    server: ServerSettings = field(default_factory=ServerSettings)


@dataclass(frozen=True, slots=True)
class Drawing:
    """A picture that was drawn.

    Args:
        path: of the PNG, which says of itself that it is synthetic.
        score: cosine of picture and prompt by the scorer, in [-1, 1].
        seed: that the picture follows from.
    """

    path: Path
    score: float
    seed: int


@dataclass(frozen=True, slots=True)
class Description:
    """What the captioner says of a picture, and the cosine of both by the scorer."""

    caption: str
    score: float


@final
class Studio:
    """A generator, a captioner and a scorer, each loaded once, when it is first needed.

    Args:
        config: which models.
        folder: gets what is shown on the page.
        device: where they compute; the best there is when left out.

    Raises:
        UnavailableError: weights are not here; nothing is loaded to find out.
    """

    def __init__(self, config: Config, folder: Path, device: str | None = None) -> None:
        locate(config.diffusion.name, "stable_diffusion", "model_index.json")
        locate(config.captioner.name, "captioner", "config.json")
        require(config.scorer.name)
        self.config = config
        self._device = device
        self.folder = folder

    @cached_property
    def diffusion(self) -> Diffusion:
        """The generator."""
        return Diffusion.load(self.config.diffusion.name, self.config.diffusion.adapter, device=self.device)

    @cached_property
    def captioner(self) -> Captioner:
        """The captioner."""
        return Captioner.load(self.config.captioner.name, self.config.captioner.adapter, device=self.device)

    @cached_property
    def scorer(self) -> Scorer:
        """The judge of both."""
        settings = self.config.scorer
        return Scorer.load(
            settings.name, device=self.device, batch_size=settings.batch_size, architecture=settings.architecture
        )

    @cached_property
    def device(self) -> str:
        """Where the models compute."""
        return self._device or pick_device()

    def draw(
        self, prompt: str, *, seed: int | None, steps: int, guidance: float, count: int, candidates: int
    ) -> Iterator[tuple[Drawing, ...]]:
        """Draw pictures, and yield those that are finished whenever there are more of them.

        Args:
            prompt: at most 300 characters.
            seed: all the pictures follow from it.
            steps: of denoising.
            guidance: weight of the prompt.
            count: of the pictures.
            candidates: drawn for each picture; the one that the scorer finds nearest to the prompt is kept.

        Raises:
            ConfigError: a value is out of its bounds.
        """
        text = prompt.strip()
        if not text or len(text) > LONGEST_PROMPT:
            raise ConfigError(f"Write a prompt of 1 to {LONGEST_PROMPT} characters; this one has {len(text)}.")
        chosen = Seeds(_check("seed", seed, 0, LARGEST_SEED))
        _check("number of steps", steps, 1, MOST_STEPS)
        _check("guidance", guidance, *GUIDANCE)
        _check("number of pictures", count, 1, MOST_PICTURES)
        _check("number of candidates", candidates, 1, MOST_CANDIDATES)
        generation = GenerationSettings(threads=0, together=1, num_inference_steps=steps, guidance_scale=guidance)
        wanted, folder = Wanted([Prompt(text)], chosen, self._origin()), self._new_folder()
        drawing = Candidates(Models(self.diffusion, self.scorer), wanted, generation, SelectionSettings(candidates))
        samples = draw_samples(drawing, range(count), folder, max(1, PICTURES_AT_A_TIME // candidates))
        drawings: tuple[Drawing, ...] = ()
        for sample in samples:
            record = sample.record
            drawings += (Drawing(folder / record["file_name"], record["skyclip_score"], record["seed"]),)
            yield drawings

    def describe(self, path: Path) -> Description:
        """Caption a picture, and score the caption.

        Args:
            path: of an image file from anybody; it is decoded with skygen's own limits.

        Raises:
            ImageError: it cannot be read.
        """
        image = open_image(path)
        caption = self.captioner.caption([image])[0]
        return Description(caption, float(self.scorer.similarity([image], [caption])[0]))

    def example_prompts(self) -> list[str]:
        """Return prompts as the miniature has learned them."""
        return [_caption(tile) for tile in _example_tiles(0)]

    def example_pictures(self) -> list[Path]:
        """Draw tiles of the miniature's world to caption; they are drawn by rules, not by a model."""
        folder = self._new_folder()
        paths = []
        for tile in _example_tiles(1):
            path = folder / f"{tile.class_name.replace(' ', '_')}.png"
            tile.image.save(path)
            paths.append(path)
        return paths

    def _new_folder(self) -> Path:
        return Path(tempfile.mkdtemp(dir=self.folder))

    def _origin(self) -> dict[str, Any]:
        """Note in every picture which model drew it."""
        settings = self.config.diffusion
        return {
            "model": "tuned" if settings.adapter else "base",
            "base": settings.name,
            "adapter": str(settings.adapter or ""),
        }


def _check(what: str, value: Number | None, least: int, most: int) -> Number:
    """Refuse what the page's own limits would: its programming interface does not ask them."""
    if value is None or not least <= value <= most:
        found = "missing" if value is None else f"{value:g}"
        raise ConfigError(f"The {what} is {found}; choose {least} to {most}.")
    return value


def _example_tiles(seed: int) -> list[Tile]:
    return [draw_tile(name, Seeds(seed).numpy("example", name)) for name in EXAMPLES]


def _caption(tile: Tile) -> str:
    prefix = AERIAL_PREFIX if SOURCES[tile.source].aerial else SATELLITE_PREFIX
    return prefix + describe(tile.class_name, tile.tags, tile.neighbours, 0)
