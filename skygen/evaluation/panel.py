"""Several CLIPs that score the same things, one in memory at a time.

SkyScript's lists were filtered by a CLIP, SkyCLIP was trained on them, and best-of-N asks it which picture to keep: its scores
of such pictures are partly circular. A further scorer that had no part in this keeps the comparison honest.
"""

from __future__ import annotations

import logging
from pathlib import Path

from skygen.data.skyscript import FABRICATED
from skygen.models.backbones import in_sample
from skygen.models.scorer import Scorer, ScorerSettings, require

_LOG = logging.getLogger(__name__)


def list_scorers(settings: ScorerSettings) -> list[str]:
    """List the names of all scorers, each once; the first is the one that selects and filters."""
    return list(dict.fromkeys((settings.name, *settings.also)))


def require_scorers(settings: ScorerSettings) -> None:
    """Check that the weights of all scorers are here, without loading anything.

    Raises:
        UnavailableError: those of one are not.
    """
    require(settings.name, settings.architecture)
    for name in list_scorers(settings)[1:]:
        require(name)


def load_scorer(settings: ScorerSettings, name: str, device: str) -> Scorer:
    """Load one of the scorers.

    Raises:
        UnavailableError: its weights are not here, or are damaged.
    """
    architecture = settings.architecture if name == settings.name else None
    return Scorer.load(name, device=device, batch_size=settings.batch_size, architecture=architecture)


def name_data_set(root: Path, csv: Path | None = None) -> tuple[str, ...]:
    """Say what a data set may be called: as its folder is, and as the lists in it begin.

    Args:
        root: of the data set.
        csv: its list, where one is named.

    Returns:
        Such as ``("DATA", "SkyScript")`` for a folder with ``SkyScript_test_30K_filtered_by_CLIP_openai.csv``; of a fabricated
        world, which is laid out as SkyScript is and is not SkyScript, ``("WORLD", "fabricated tiles")``.
    """
    folder = root.resolve()
    if any((place / FABRICATED).exists() for place in (folder, folder.parent)):  # its benchmarks lie in a folder of theirs
        return folder.name, "fabricated tiles"
    lists = sorted(root.glob("*.csv")) if csv is None else [csv]
    return tuple(dict.fromkeys((folder.name, *(path.stem.partition("_")[0] for path in lists))))


def log_training(scorer: Scorer, data_sets: tuple[str, ...]) -> bool:
    """Log which data a scorer was trained on, and whether the data it scores is among them: then its scores are in-sample.

    Args:
        scorer: the CLIP.
        data_sets: names of the data that are scored.

    Returns:
        Whether they are in-sample, as far as is known.
    """
    seen = any(in_sample(scorer.trained_on, name) for name in data_sets)
    known = f"trained on {', '.join(scorer.trained_on)}" if scorer.trained_on else "of unknown training data"
    _LOG.info(f"skyclip:{scorer.name}: {known}" + (", so its scores here are in-sample" if seen else ""))
    return seen
