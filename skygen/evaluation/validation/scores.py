"""The scores of a validation: losses and pictures of the tuned model beside those of its base, with intervals."""

from __future__ import annotations

import itertools
from collections.abc import Mapping, Sequence
from typing import Final

import numpy as np
from jaxtyping import Float, Int
from PIL import Image

from skygen.evaluation.alignment import alignment_scores, matched_cosine
from skygen.evaluation.images.features import scorer_extractor
from skygen.evaluation.images.fidelity import kernel_distance
from skygen.evaluation.intervals import half_sample_interval, paired_difference_interval
from skygen.evaluation.scores import SMALLEST_FOR_INTERVAL, Score, mean_score
from skygen.evaluation.validation.loss import QUARTILES
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

FEWEST_FOR_KID: Final = 16
"""Pictures below which KID is left out: its interval comes from halves of them."""
DIFFERENCE: Final = "tuned - base"
"""The ``model`` of a paired difference."""
_RESAMPLES: Final = 100


def score_losses(
    losses: Mapping[str, Float[np.ndarray, " items"]], quartiles: Int[np.ndarray, " items"], *, subset: str, seeds: Seeds
) -> list[Score]:
    """Average the losses of each model, of their paired difference, and of each quarter of the noise levels.

    Args:
        losses: one an item, of ``tuned`` and perhaps ``base``.
        quartiles: of each item's noise level, 0 is little noise.
        subset: which data the items are.
        seeds: of the run.

    Returns:
        ``validation_loss`` of ``tuned``, then of ``base`` and ``tuned - base``; ``validation_loss_quartile_1`` to ``_4``.

    Raises:
        DataError: a loss is not finite.
    """
    scores = [_mean("validation_loss", values, model, subset, "", seeds) for model, values in losses.items()]
    if "base" in losses:
        scores += _difference("validation_loss", losses["tuned"], losses["base"], subset, "", seeds)
    for quartile, (model, values) in itertools.product(range(QUARTILES), losses.items()):
        own = values[quartiles == quartile]
        if len(own):
            scores.append(_mean(f"validation_loss_quartile_{quartile + 1}", own, model, subset, "", seeds))
    return scores


def score_pictures(
    scorer: Scorer,
    prompts: Sequence[str],
    drawn: Mapping[str, Sequence[Image.Image]],
    real: Sequence[Image.Image | None],
    *,
    subset: str,
    seeds: Seeds,
) -> tuple[list[Score], list[str]]:
    """Score pictures by their prompts, and by their distance to real images in the scorer's own space.

    Args:
        scorer: the CLIP that judges.
        prompts: one a picture.
        drawn: pictures of ``tuned`` and perhaps ``base``, from the same prompts and seeds.
        real: the image whose caption each prompt is; None where it cannot be read.
        subset: which data the prompts are.
        seeds: of the run.

    Returns:
        ``skyclip_score`` of ``tuned``, ``shuffled``, ``base``, ``tuned - base`` and ``real``, ``kid`` of ``tuned`` and
        ``base``; and a word on each that is left out.

    Raises:
        DataError: there is no picture.
    """
    extractor = scorer_extractor(scorer)
    features = {model: extractor.extract(pictures) for model, pictures in drawn.items()}
    words = scorer.embed_texts(prompts)
    scores: list[Score] = []
    for model, own in features.items():
        both = alignment_scores(own, words, prompts, model=model, subset=subset, extractor=extractor.name, seeds=seeds)
        scores += both if model == "tuned" else both[:1]
    if "base" in features:
        cosines = [matched_cosine(features[model], words) for model in ("tuned", "base")]
        scores += _difference("skyclip_score", cosines[0], cosines[1], subset, extractor.name, seeds)
    readable = [place for place, image in enumerate(real) if image is not None]
    if not readable:
        return scores, ["kid: not one real image can be read"]
    known = extractor.extract([image for image in real if image is not None])
    scores.append(_mean("skyclip_score", matched_cosine(known, words[readable]), "real", subset, extractor.name, seeds))
    fewest = min(len(readable), len(prompts))
    if fewest < FEWEST_FOR_KID:
        return scores, [f"kid: it needs {FEWEST_FOR_KID} real and drawn pictures, and there are {fewest}"]
    for model, own in features.items():
        value, interval = _kernel_distance(known, own, seeds)
        scores.append(Score("kid", value, len(own), interval, model, subset, extractor.name))
    return scores, []


def _kernel_distance(
    real: Float[np.ndarray, "real dimension"], drawn: Float[np.ndarray, "drawn _dimension"], seeds: Seeds
) -> tuple[float, tuple[float, float]]:
    """Return KID and its interval, as ``fidelity_scores`` gives them with fewer halves."""
    value, draws = kernel_distance(real, drawn, seeds=seeds), itertools.count()

    def of_half(indices: Int[np.ndarray, " half"]) -> float:
        order = seeds.numpy("half of the real images", next(draws)).permutation(len(real))
        return kernel_distance(real[order[: len(real) // 2]], drawn[indices], seeds=seeds)

    return value, half_sample_interval(value, of_half, len(drawn), seeds=seeds, resamples=_RESAMPLES)


def _mean(name: str, values: Float[np.ndarray, " items"], model: str, subset: str, extractor: str, seeds: Seeds) -> Score:
    return mean_score(name, values, model=model, subset=subset, extractor=extractor, seeds=seeds)


def _difference(
    name: str,
    tuned: Float[np.ndarray, " items"],
    base: Float[np.ndarray, " items"],
    subset: str,
    extractor: str,
    seeds: Seeds,
) -> list[Score]:
    """Return the mean of tuned minus base on the same items, with the interval of the pairs; nothing for a single item."""
    if len(tuned) < SMALLEST_FOR_INTERVAL:
        return []
    interval = paired_difference_interval(tuned, base, seeds=seeds)
    return [Score(name, float((tuned - base).mean()), len(tuned), interval, DIFFERENCE, subset, extractor)]
