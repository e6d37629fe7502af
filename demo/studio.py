"""What the demo's page is asked for on the command line; what it can do is ``skygen.studio``."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path

from demo.serving import ServerSettings as ServerSettings
from skygen.studio.describing import Description as Description
from skygen.studio.limits import GUIDANCE as GUIDANCE
from skygen.studio.limits import LARGEST_SEED as LARGEST_SEED
from skygen.studio.limits import LONGEST_PROMPT as LONGEST_PROMPT
from skygen.studio.limits import MOST_CANDIDATES as MOST_CANDIDATES
from skygen.studio.limits import MOST_PICTURES as MOST_PICTURES
from skygen.studio.limits import MOST_STEPS as MOST_STEPS
from skygen.studio.pictures import Drawing as Drawing
from skygen.studio.studio import Studio as Studio
from skygen.studio.studio import StudioConfig


@dataclass(frozen=True)
class Config(StudioConfig):
    """Open the demo's page."""

    server: ServerSettings = field(default_factory=ServerSettings)
    runs: Path = Path("runs")
    """Folder of finished runs that can be compared."""
    rate: tuple[Path, ...] = ()
    """Runs of recipes/evaluate_images.py and recipes/evaluate_captions.py that people rate without knowing the models."""
    ratings: Path = Path("runs/ratings")
    """Gets the ratings."""
    audit: Path | None = None
    """Folder that `skygen audit` has written; its map is shown."""
