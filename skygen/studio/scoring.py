"""A picture against words: texts ranked by their cosine, and classes by zero-shot classification."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import final

import numpy as np
from jaxtyping import Float
from PIL import Image

from skygen.data.benchmarks import SCENE_TEMPLATES
from skygen.evaluation.zero_shot import check_finite, classifier_weights
from skygen.models.scorer import Scorer


@final
@dataclass(frozen=True, slots=True)
class Ranked:
    """A text, and its cosine with a picture, in [-1, 1]."""

    text: str
    score: float


@final
@dataclass(frozen=True, slots=True)
class Likely:
    """A class, and how likely the scorer finds it.

    Args:
        name: of the class.
        probability: of it among the classes that were asked, in [0, 1].
        score: its cosine with the picture, in [-1, 1].
    """

    name: str
    probability: float
    score: float


def rank_texts(scorer: Scorer, image: Image.Image, texts: Sequence[str]) -> tuple[Ranked, ...]:
    """Rank texts by their cosine with a picture.

    Args:
        scorer: the CLIP.
        image: RGB, of any size.
        texts: one or more.

    Returns:
        The highest cosine first, of equal ones the earlier text.

    Raises:
        DataError: an embedding is not finite.
    """
    images, embedded = scorer.embed_images([image]), scorer.embed_texts(texts)
    check_finite(images, embedded)
    cosines = embedded @ images[0]
    return tuple(Ranked(texts[place], float(cosines[place])) for place in np.argsort(-cosines, kind="stable").tolist())


def rank_classes(
    scorer: Scorer, image: Image.Image, class_names: Sequence[str], templates: Sequence[str] = SCENE_TEMPLATES
) -> tuple[Likely, ...]:
    """Classify a picture by the nearest class prompt, as ``skygen.evaluation.zero_shot`` does.

    Args:
        scorer: the CLIP.
        image: RGB, of any size.
        class_names: one or more.
        templates: with ``{}`` where the name goes.

    Returns:
        The likeliest first, of equals the earlier class. The probabilities are the softmax of the cosines times the factor that
        the CLIP was trained with (Radford et al. 2021, section 3.1.2); they sum to 1 over the classes asked, whatever is seen.

    Raises:
        DataError: an embedding is not finite.
    """
    images, weights = scorer.embed_images([image]), classifier_weights(scorer, class_names, templates)
    check_finite(images, weights)
    cosines = (weights @ images[0]).astype(np.float64)
    probabilities = _softmax(float(scorer.model.logit_scale.exp()) * cosines)
    order = np.argsort(-cosines, kind="stable").tolist()
    return tuple(Likely(class_names[place], float(probabilities[place]), float(cosines[place])) for place in order)


def _softmax(logits: Float[np.ndarray, " classes"]) -> Float[np.ndarray, " classes"]:
    powers = np.exp(logits - logits.max())
    shares: Float[np.ndarray, " classes"] = powers / powers.sum()
    return shares
