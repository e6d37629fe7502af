"""Captions of pictures: several candidates each, ranked by the scorer, and how far these agree."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations
from pathlib import Path
from typing import final

from PIL import Image

from skygen.data.images import open_image
from skygen.errors import ImageError
from skygen.evaluation.captions.tokens import tokenize_caption
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.scorer import Scorer
from skygen.studio.scoring import Ranked, rank_texts


@final
@dataclass(frozen=True, slots=True)
class Description:
    """What the captioner says of a picture.

    Args:
        caption: the candidate that the scorer finds nearest to the picture.
        score: their cosine, in [-1, 1].
        candidates: all that were written, each once, the highest score first.
        agreement: see ``measure_agreement``; None of fewer than two candidates.
    """

    caption: str
    score: float
    candidates: tuple[Ranked, ...] = ()
    agreement: float | None = None


@final
@dataclass(frozen=True, slots=True)
class Unreadable:
    """A picture that could not be read, and why."""

    reason: str


def describe_image(captioner: Captioner, scorer: Scorer, image: Image.Image, candidates: int) -> Description:
    """Caption a picture.

    Args:
        captioner: writes; by beam search, with as many beams as candidates, and three at least.
        scorer: ranks.
        image: RGB, of any size.
        candidates: written.
    """
    settings = CaptioningSettings(num_beams=max(CaptioningSettings().num_beams, candidates), candidates=candidates)
    (written,) = captioner.propose([image], settings)
    ranked = rank_texts(scorer, image, list(dict.fromkeys(written)))
    return Description(ranked[0].text, ranked[0].score, ranked, measure_agreement(written))


def describe_files(
    captioner: Captioner, scorer: Scorer, paths: Sequence[Path], candidates: int
) -> Iterator[Description | Unreadable]:
    """Caption pictures one after the other; one that cannot be read does not stop the others.

    Args:
        captioner: writes.
        scorer: ranks.
        paths: of image files from anybody; they are decoded with skygen's own limits.
        candidates: written for each.
    """
    for path in paths:
        try:
            image = open_image(path)
        except ImageError as error:
            yield Unreadable(str(error))
        else:
            yield describe_image(captioner, scorer, image, candidates)


def measure_agreement(captions: Sequence[str]) -> float | None:
    """Return how far captions agree: the mean over all pairs of the words in common over the words in either (Jaccard's index).

    Args:
        captions: of one picture; equal ones count as often as they come.

    Returns:
        In [0, 1]; 1 where all have the same words. None of fewer than two captions.
    """
    words = [frozenset(tokenize_caption(caption)) for caption in captions]
    shares = [len(one & other) / len(one | other) if one | other else 1.0 for one, other in combinations(words, 2)]
    return sum(shares) / len(shares) if shares else None
