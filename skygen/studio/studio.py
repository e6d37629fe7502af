"""A studio: a generator, a captioner and a scorer that are loaded once, when they are first needed, and all that they can do.

from skygen.studio.pictures import Request
from skygen.studio.studio import Studio, StudioConfig

studio = Studio(StudioConfig(), Path("runs/tried"))
for progress in studio.watch(Request("A satellite image. It shows: A harbour.", count=2, candidates=4)):
    print(progress.done, [drawing.path for drawing in progress.drawings])
"""

from __future__ import annotations

import shutil
import tempfile
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any, Final, final
from weakref import WeakSet

from PIL import Image

from skygen.data.images import open_image
from skygen.generation.origin import describe_origin
from skygen.miniature.world import BASE_CLASSES
from skygen.models.captioner import Captioner
from skygen.models.device import pick_device
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.adapter_strength import WeighedAdapter, require_adapters
from skygen.models.diffusions.settings import DrawingModelSettings
from skygen.models.scorer import Scorer, ScorerSettings, require
from skygen.models.weights import ModelSettings, locate
from skygen.studio import examples, limits
from skygen.studio.describing import Description, Unreadable, describe_files, describe_image
from skygen.studio.drawing import Painter
from skygen.studio.looking import Collection, Found, open_collection
from skygen.studio.pictures import Cut, Drawing, Progress, Request, find_cut
from skygen.studio.scoring import Likely, Ranked, rank_classes, rank_texts
from skygen.studio.watching import in_background

CANDIDATES: Final = 3
"""Captions that are written of a picture where nothing else is asked."""
PICTURES_KEPT: Final = 200
"""Of earlier drawings, so that a page that is open for weeks does not fill the disk."""
TILES: Final = "Tiles of the miniature's world"
IMAGES: Final = "Images"
TRAINING: Final = "Training images"


@dataclass(frozen=True)
class StudioSettings:
    """What is tried beside the three models."""

    more_adapters: tuple[Path, ...] = ()
    """Folders of further adapters on the generator; all of them act together."""
    adapter_weights: tuple[float, ...] = ()
    """What the update of each adapter is multiplied by, that of `diffusion.adapter` first; all 1 when left out."""
    images: Path | None = None
    """Real images to search: a run of recipes/score_pairs.py that has kept its embeddings, or a folder."""
    training: Path | None = None
    """The images that the generator was trained on, likewise: the nearest to a picture are shown beside it."""
    classes: tuple[str, ...] = ()
    """Classes that pictures are sorted into; the miniature's 20 when left out."""


@dataclass(frozen=True)
class StudioConfig:
    """Which models are tried, and on what."""

    diffusion: ModelSettings = field(default_factory=ModelSettings)
    captioner: ModelSettings = field(default_factory=ModelSettings)
    scorer: ScorerSettings = field(default_factory=ScorerSettings)
    studio: StudioSettings = field(default_factory=StudioSettings, kw_only=True)


@final
class Studio:
    """A generator, a captioner and a scorer, each loaded once, when it is first needed; one call at a time computes.

    Args:
        config: which models, and the images that are searched.
        folder: gets what is drawn.
        device: where they compute; the best there is when left out.

    Raises:
        UnavailableError: weights, an adapter or a folder of images are not here; nothing is loaded to find out.
        ConfigError: not one weight an adapter, or too many classes.
    """

    def __init__(self, config: StudioConfig, folder: Path, device: str | None = None) -> None:
        locate(config.diffusion.name, "stable_diffusion", "model_index.json")
        locate(config.captioner.name, "captioner", "config.json")
        require(config.scorer.name, config.scorer.architecture)
        settings = config.studio
        named = DrawingModelSettings(
            config.diffusion.name,
            config.diffusion.adapter,
            more_adapters=settings.more_adapters,
            adapter_weights=settings.adapter_weights,
        )
        self.adapters: tuple[WeighedAdapter, ...] = tuple(named.weigh_adapters())
        require_adapters(self.adapters)
        self.classes = settings.classes or BASE_CLASSES
        limits.check_count("classes", self.classes, limits.MOST_CLASSES)
        given = {IMAGES: settings.images, TRAINING: settings.training}
        self._places = {name: place for name, place in given.items() if place is not None}
        self._collections: dict[str, Collection] = {}
        self.config = config
        self._device = device
        self.folder = folder
        self._computing = threading.RLock()
        self._drawn: deque[Path] = deque()
        self._stops: WeakSet[threading.Event] = WeakSet()

    @cached_property
    def diffusion(self) -> Diffusion:
        """The generator."""
        return Diffusion.load(self.config.diffusion.name, device=self.device, adapters=self.adapters)

    @cached_property
    def captioner(self) -> Captioner:
        """The captioner."""
        return Captioner.load(self.config.captioner.name, self.config.captioner.adapter, device=self.device)

    @cached_property
    def scorer(self) -> Scorer:
        """The judge of both."""
        return self._load_scorer(self.config.scorer.name, self.config.scorer.architecture)

    @cached_property
    def device(self) -> str:
        """Where the models compute."""
        return self._device or pick_device()

    def warm_up(self) -> None:
        """Load all three models now, so that whoever asks first does not wait for it."""
        with self._computing:
            _ = self.diffusion, self.scorer, self.captioner, self._origin

    @property
    def collections(self) -> tuple[str, ...]:
        """Names of what can be searched; tiles of the miniature's world where nothing is given."""
        return tuple(self._places) or (TILES,)

    def watch(self, request: Request) -> Generator[Progress, None, None]:
        """Draw pictures, and yield how far they are, four times a second at most; closing the iterator ends the drawing.

        Raises:
            ConfigError: the model cannot be asked for that.
        """

        def work(tell: Callable[[Progress], None], stop: threading.Event) -> None:
            self._stops.add(stop)
            with self._computing:
                Painter(self.diffusion, self.scorer, self._origin, self._make_room()).draw(request, tell, stop)

        yield from in_background(work)

    def close(self) -> None:
        """End what is being drawn, and wait for what is being computed: no thread may be in torch when Python ends."""
        for stop in tuple(self._stops):
            stop.set()
        with self._computing:
            self._stops.clear()

    def draw(
        self, prompt: str, *, seed: int | None, steps: int, guidance: float, count: int, candidates: int
    ) -> Iterator[tuple[Drawing, ...]]:
        """Draw pictures, and yield those that are finished whenever there are more of them; see ``Request`` for the arguments.

        Raises:
            ConfigError: a value is out of its bounds.
        """
        seen = 0
        for progress in self.watch(Request(prompt, seed, steps, guidance, count, candidates)):
            if len(progress.drawings) > seen:
                seen = len(progress.drawings)
                yield progress.drawings

    def find_cut(self, prompt: str) -> Cut | None:
        """Say where the generator cuts a prompt; None where it reads all of it."""
        with self._computing:
            return find_cut(self.diffusion, limits.check_text("prompt", prompt))

    def describe(self, path: Path, candidates: int = CANDIDATES) -> Description:
        """Caption a picture.

        Args:
            path: of an image file from anybody; it is decoded with skygen's own limits.
            candidates: written, and ranked by the scorer.

        Raises:
            ImageError: it cannot be read.
            ConfigError: the number of candidates is out of bounds.
        """
        number = limits.check_whole("number of candidates", candidates, 1, limits.MOST_CANDIDATES)
        image = open_image(path)
        with self._computing:
            return describe_image(self.captioner, self.scorer, image, number)

    def describe_all(self, paths: Sequence[Path], candidates: int = CANDIDATES) -> Iterator[Description | Unreadable]:
        """Caption pictures one after the other; see ``describe``. One that cannot be read does not stop the others.

        Raises:
            ConfigError: too many pictures or candidates, or none.
        """
        limits.check_count("pictures", paths, limits.MOST_IMAGES)
        number = limits.check_whole("number of candidates", candidates, 1, limits.MOST_CANDIDATES)
        for path in paths:
            with self._computing:
                (described,) = describe_files(self.captioner, self.scorer, [path], number)
            yield described

    def rank_texts(self, path: Path, texts: Sequence[str]) -> tuple[Ranked, ...]:
        """Rank texts by their cosine with a picture.

        Raises:
            ImageError: the picture cannot be read.
            ConfigError: too many texts, or none.
        """
        limits.check_count("texts", texts, limits.MOST_TEXTS)
        with self._computing:
            return rank_texts(self.scorer, open_image(path), [limits.check_text("text", text) for text in texts])

    def rank_classes(self, path: Path, class_names: Sequence[str] = ()) -> tuple[Likely, ...]:
        """Sort a picture into classes, the studio's own where none are given.

        Raises:
            ImageError: the picture cannot be read.
            ConfigError: too many classes.
        """
        names = list(class_names or self.classes)
        limits.check_count("classes", names, limits.MOST_CLASSES)
        with self._computing:
            return rank_classes(self.scorer, open_image(path), names)

    def collection(self, name: str, progress: Callable[[int, int], None] = lambda done, total: None) -> Collection:
        """Return what can be searched, embedded when it is first asked for.

        Args:
            name: one of ``collections``.
            progress: is told how many images are embedded.

        Raises:
            ConfigError: no such name.
            DataError: it cannot be searched.
        """
        name = limits.check_choice("set of images", name, self.collections)
        with self._computing:
            if name not in self._collections:
                place = self._places[name] if name in self._places else examples.draw_tiles(self.new_folder())
                self._collections[name] = open_collection(place, self.scorer, self._load_scorer, progress)
            return self._collections[name]

    def find(self, name: str, text: str, count: int) -> tuple[Found, ...]:
        """Find the images of a collection that are nearest to a text; see ``Collection.by_text``.

        Raises:
            ConfigError: no such collection, or the text or the number is out of bounds.
            DataError: the collection cannot be searched.
        """
        with self._computing:
            return self.collection(name).by_text(text, count)

    def nearest(self, name: str, image: Image.Image, count: int) -> tuple[Found, ...]:
        """Find the images of a collection that are nearest to a picture; see ``Collection.by_image``.

        Raises:
            ConfigError: no such collection, or the number is out of bounds.
            DataError: the collection cannot be searched.
        """
        with self._computing:
            return self.collection(name).by_image(image, count)

    def example_prompts(self) -> list[str]:
        """Return prompts as the miniature has learned them."""
        return examples.list_prompts()

    def example_pictures(self) -> list[Path]:
        """Draw tiles of the miniature's world to caption; they are drawn by rules, not by a model."""
        return examples.draw_examples(self.new_folder())

    def new_folder(self) -> Path:
        """Make a folder in the studio's own."""
        self.folder.mkdir(parents=True, exist_ok=True)
        return Path(tempfile.mkdtemp(dir=self.folder))

    def _make_room(self) -> Path:
        """Make a folder for a drawing; of those before it, the newest stay that hold ``PICTURES_KEPT`` pictures at most."""
        counts = [sum(1 for _ in folder.glob("*.png")) for folder in self._drawn]
        while counts and sum(counts) > PICTURES_KEPT:
            shutil.rmtree(self._drawn.popleft(), ignore_errors=True)
            counts.pop(0)
        self._drawn.append(self.new_folder())
        return self._drawn[-1]

    @cached_property
    def _origin(self) -> dict[str, Any]:
        """Note in every picture which model drew it; no path of this machine, for the pictures are made to be given away."""
        return describe_origin(self.diffusion, self.config.diffusion.name)

    def _load_scorer(self, name: str, architecture: str | None) -> Scorer:
        batch_size = self.config.scorer.batch_size
        return Scorer.load(name, device=self.device, batch_size=batch_size, architecture=architecture)
