"""How far a set of generated images is from a set of real ones: FID and KID over features of one's choice.

Protocol: FID after Heusel et al. 2017, KID after Bińkowski et al. 2018, both computed by torchmetrics in float64 from
features that were extracted once. FID falls with the number of images even where nothing else changes (two sets of one
normal distribution in 32 dimensions: 17 with 35 images, 0.6 with 960), so it may be compared only at equal counts; KID has
no such bias, and may come out below zero.
"""

from __future__ import annotations

import logging
import warnings
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final

import numpy as np
from jaxtyping import Float

from skygen.evaluation.images.comparable import require_comparable
from skygen.evaluation.intervals import draw_half_couples, interval_of_halves
from skygen.evaluation.scores import Score
from skygen.seeding import Seeds

Features = Float[np.ndarray, "_count dimension"]

KERNEL_ROWS: Final = 2048
"""Most features of a set that KID compares at a time: each kernel matrix of that side takes 34 MB in float64."""

ALONE: Final[dict[str, Any]] = {"sync_on_compute": False}
"""One process has all features and computes by itself; torchmetrics would wait for the others, which are elsewhere."""

_LOG = logging.getLogger(__name__)


def frechet_distance(
    real_features: Float[np.ndarray, "real dimension"], generated_features: Float[np.ndarray, "generated _dimension"]
) -> float:
    """Compute the Fréchet distance of two normal distributions fitted to features, squared as the FID is.

    ‖μ₁ − μ₂‖² + tr(Σ₁ + Σ₂ − 2 (Σ₁Σ₂)^½), equation 6 of Heusel et al. 2017, with covariances divided by count − 1.

    Args:
        real_features: a row a real image.
        generated_features: a row a generated image.

    Returns:
        The distance in squared units of the features; 0 for equal sets, up to rounding.

    Raises:
        DataError: there are fewer than two rows on a side, the dimensions differ, or a feature is not finite.
    """
    from torchmetrics.image.fid import FrechetInceptionDistance

    require_comparable(real_features, generated_features, at_least=2)
    identity: Any = _identity()
    identity.num_features = real_features.shape[1]
    return float(_fill(FrechetInceptionDistance(identity, **ALONE), real_features, generated_features).compute())


def kernel_distance(
    real_features: Float[np.ndarray, "real dimension"],
    generated_features: Float[np.ndarray, "generated _dimension"],
    *,
    seeds: Seeds,
) -> float:
    """Compute the KID: the unbiased squared maximum mean discrepancy under the kernel (x·y / dimension + 1)³.

    It needs as many features on both sides. Sets of equal size up to ``KERNEL_ROWS`` are compared whole, and nothing is
    drawn. Else as many subsets as cover the larger set are drawn, each of the size of the smaller one and at most
    ``KERNEL_ROWS``, and their values averaged.

    Args:
        real_features: a row a real image.
        generated_features: a row a generated image.
        seeds: the run's seeds; torch's global generator is left as it was.

    Returns:
        The distance, about 0 for sets of one distribution and often a little below; not multiplied by 1,000.

    Raises:
        DataError: there are fewer than two rows on a side, the dimensions differ, or a feature is not finite.
    """
    import torch
    from torchmetrics.image.kid import KernelInceptionDistance

    require_comparable(real_features, generated_features, at_least=2)
    counts = len(real_features), len(generated_features)
    subset_size = min(*counts, KERNEL_ROWS)
    subsets = -(-max(counts) // subset_size)
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):
        warnings.filterwarnings("ignore", "Metric `Kernel Inception Distance` will save", UserWarning)
        torch.set_rng_state(seeds.generator("kernel distance").get_state())
        metric = KernelInceptionDistance(_identity(), subsets=subsets, subset_size=subset_size, **ALONE)
        return float(_fill(metric, real_features, generated_features).compute()[0])


def fidelity_scores(
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated _dimension"],
    *,
    model: str,
    subset: str,
    extractor: str,
    seeds: Seeds,
    resamples: int = 200,
    metrics: Sequence[str] = ("fid", "kid"),
) -> list[Score]:
    """Score generated images by ``fid`` and ``kid``, with 95 % intervals from halves of both sets.

    The intervals say how the value would move with other images in the same numbers. FID's bias is the same in all of
    these and so not in the interval. Measured on normal distributions of 32 dimensions, the intervals are up to 1.9 times too
    wide where both sets come from nearly one distribution, and hold the expected score in 84 to 100 % of trials otherwise.
    Images that share a prompt are taken as independent.

    A covariance of n features has rank n − 1 at most. With too few images for that of either set to be regular, FID
    measures the count more than the images: it is left out, and a log message says so.

    Args:
        real: features of the real images, from ``Extractor.extract``.
        generated: features of the generated images, from the same extractor.
        model: whose images they are.
        subset: which of the data the real images are.
        extractor: ``Extractor.name``.
        seeds: the run's seeds.
        resamples: how many halves to draw; for FID each takes 0.25 s with 768 features and 4 s with 2,048 on two cores.
        metrics: of the two, those that are wanted.

    Returns:
        The scores that the counts allow, ``count`` being that of the generated images. The interval is None below four
        images a side.

    Raises:
        DataError: a side is empty, the dimensions differ, or a feature is not finite.
    """
    require_comparable(real, generated, at_least=1)
    fewest, dimension = min(len(real), len(generated)), real.shape[1]

    known: dict[str, tuple[int, Callable[[Features, Features], float]]] = {
        "fid": (dimension + 1, frechet_distance), "kid": (2, partial(kernel_distance, seeds=seeds)),
    }  # fmt: skip
    scores = []
    for name in metrics:
        least, distance = known[name]
        if fewest < least:
            _LOG.warning(
                "%s of %s is left out: with %s's %d features it needs at least %d images on both sides, and there are "
                "%d real and %d generated ones",
                name, model, extractor, dimension, least, len(real), len(generated),
            )  # fmt: skip
            continue
        value = distance(real, generated)
        interval = _interval(value, distance, real, generated, seeds=seeds, resamples=resamples) if fewest >= 4 else None
        if name == "fid" and interval is not None:
            interval = max(0.0, interval[0]), interval[1]  # no distance of normal distributions lies below
        scores.append(Score(name, value, len(generated), interval, model, subset, extractor))
    return scores


def _interval(
    value: float,
    distance: Callable[[Features, Features], float],
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated _dimension"],
    *,
    seeds: Seeds,
    resamples: int,
) -> tuple[float, float]:
    halves = draw_half_couples(len(real), len(generated), seeds=seeds, resamples=resamples)
    of_halves = np.array([distance(real[some], generated[others]) for some, others in halves])
    return interval_of_halves(value, of_halves, len(generated))


def _identity() -> Any:
    """Make the feature network of features that are there already; torchmetrics leaves the input of such a module alone."""
    import torch

    return torch.nn.Identity()


def _fill(metric: Any, real: Float[np.ndarray, "real dimension"], generated: Float[np.ndarray, "generated _dimension"]) -> Any:
    import torch

    metric.update(torch.from_numpy(real.astype(np.float64)), real=True)
    metric.update(torch.from_numpy(generated.astype(np.float64)), real=False)
    return metric
