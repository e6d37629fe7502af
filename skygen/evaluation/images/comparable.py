"""Whether two sets of features can be compared at all."""

from __future__ import annotations

import numpy as np
from jaxtyping import Float

from skygen.errors import DataError


def require_comparable(
    real: Float[np.ndarray, "real dimension"],
    generated: Float[np.ndarray, "generated _dimension"],
    *,
    at_least: int,
    why: str = "",
) -> None:
    """See that there are enough images, with features that are numbers, of one extractor.

    Args:
        real: features of real images.
        generated: features of generated images.
        at_least: images on each side.
        why: so many, as words that follow "are needed".

    Raises:
        DataError: it is not so.
    """
    for side, features in (("real", real), ("generated", generated)):
        if len(features) < at_least:
            needed = f"at least {at_least} are needed{why and ' '}{why}"
            raise DataError(f"There are {len(features)} {side} images, {needed}; give more.")
        bad = np.flatnonzero(~np.isfinite(features).all(axis=1))
        if bad.size:
            raise DataError(f"The features of {side} image {bad[0]} are not finite ({bad.size} such images); leave them out.")
    if real.shape[1] != generated.shape[1]:
        raise DataError(
            f"Real images have {real.shape[1]} features and generated ones {generated.shape[1]}; use one extractor for both."
        )
