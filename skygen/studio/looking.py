"""Looking for images: by words or by a picture, in what a run of score_pairs has embedded or in a folder."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Float
from PIL import Image

from skygen.data.images import open_image
from skygen.errors import ImageError
from skygen.evaluation.search.embedded_set import EmbeddedSet, Progress, embed_folder, open_run
from skygen.evaluation.search.nearest import search
from skygen.models.scorer import Scorer
from skygen.studio import limits

LARGEST_SHOWN: Final = 512
"""Pixels of the longer side of an image that was found."""


@final
@dataclass(frozen=True, slots=True)
class Found:
    """An image that was found.

    Args:
        image: RGB, at most ``LARGEST_SHOWN`` pixels; None where its file can no longer be read.
        name: of its file, without the place where it lies.
        caption: what is said of it; empty where nothing is.
        cosine: with the query, in [-1, 1].
    """

    image: Image.Image | None
    name: str
    caption: str
    cosine: float


@final
@dataclass(frozen=True, slots=True)
class Collection:
    """Embedded images that can be looked through.

    Args:
        searched: the images.
        scorer: the CLIP that has embedded them.
    """

    searched: EmbeddedSet
    scorer: Scorer

    @property
    def count(self) -> int:
        """Images of the collection."""
        return self.searched.embeddings.count

    def by_text(self, text: str, count: int = 12) -> tuple[Found, ...]:
        """Find the images that are nearest to a text.

        Args:
            text: 1 to ``limits.LONGEST_PROMPT`` characters.
            count: of the images.

        Raises:
            ConfigError: the text or the number is out of bounds.
            DataError: the embeddings are damaged.
        """
        number = limits.check_whole("number of images", count, 1, limits.MOST_FOUND)
        return self._find(self.scorer.embed_texts([limits.check_text("text", text)]), number)

    def by_image(self, image: Image.Image, count: int = 12) -> tuple[Found, ...]:
        """Find the images that are nearest to a picture.

        Args:
            image: RGB, of any size.
            count: of the images.

        Raises:
            ConfigError: the number is out of bounds.
            DataError: the embeddings are damaged.
        """
        number = limits.check_whole("number of images", count, 1, limits.MOST_FOUND)
        return self._find(self.scorer.embed_images([image]), number)

    def _find(self, queries: Float[np.ndarray, "queries dimension"], count: int) -> tuple[Found, ...]:
        rows, cosines = search(self.searched.embeddings, queries, count)
        shown = self.searched.show(rows[0])
        return tuple(
            Found(_open(one.image), one.image.name, one.caption, cosine)
            for one, cosine in zip(shown, cosines[0].tolist(), strict=True)
        )


def open_collection(place: Path, scorer: Scorer, load: Callable[[str, str | None], Scorer], progress: Progress) -> Collection:
    """Open a run of ``recipes/score_pairs.py`` with its embeddings, or embed the images of a folder.

    Args:
        place: ``runs/NAME``, or a folder; what is embedded of it is remembered beside it.
        scorer: embeds a folder.
        load: loads the scorer of a run by name and architecture, where that is another one.
        progress: is told how many images of a folder are embedded.

    Raises:
        UnavailableError: there is no such folder, or no image in it.
        ConfigError: the folder holds too many images.
        DataError: the run has kept no embeddings, or no image can be read.
    """
    run = open_run(place)
    if run is None:
        return Collection(embed_folder(place, scorer, progress), scorer)
    return Collection(run, scorer if run.scorer == scorer.name else load(run.scorer, run.architecture))


def _open(path: Path) -> Image.Image | None:
    try:
        image = open_image(path)
    except ImageError:
        return None
    image.thumbnail((LARGEST_SHOWN, LARGEST_SHOWN), Image.Resampling.LANCZOS)
    return image
