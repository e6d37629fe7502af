"""Intervals for what several people say of the same items: the items are drawn anew, each with all that was said of it."""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Float

from skygen.seeding import Seeds

RESAMPLES: Final = 2000
FEWEST_ITEMS: Final = 2
MOST_UNDEFINED: Final = 0.05
"""Share of resamples that may have no value, such as an alpha where all ratings are the same; they are then left out."""
COUNTS_AT_ONCE: Final = 1 << 20
"""How often each item is drawn, for as many resamples as 8 MiB take."""


def resample_sums(tables: Float[np.ndarray, "items ..."], *, seeds: Seeds) -> Float[np.ndarray, "resamples ..."]:
    """Sum tables of items over bootstrap samples of the items (Efron 1979).

    The same number of items and the same seeds give the same samples, so that what is compared is resampled together.

    Args:
        tables: what is counted, an item a row, such as points won and games played.
        seeds: the run's seeds.

    Returns:
        The sum of each of 2,000 samples of as many items, drawn with replacement.
    """
    items = len(tables)
    generator, flat = seeds.numpy("ratings", items), tables.reshape(items, -1)
    chunk, sums = max(1, COUNTS_AT_ONCE // items), []
    for start in range(0, RESAMPLES, chunk):
        drawn = generator.multinomial(items, np.full(items, 1 / items), size=min(chunk, RESAMPLES - start))
        sums.append(drawn.astype(np.float64) @ flat)
    return np.concatenate(sums).reshape(RESAMPLES, *tables.shape[1:])


def find_interval(values: Float[np.ndarray, " resamples"], items: int) -> tuple[float, float] | None:
    """Find the 95 % percentile interval of the values of resamples.

    Args:
        values: of the resamples, NaN where one has none.
        items: that were resampled.

    Returns:
        Its ends; None of fewer than two items, or where more than one resample in twenty has no value.
    """
    defined = values[np.isfinite(values)]
    if items < FEWEST_ITEMS or len(defined) < (1 - MOST_UNDEFINED) * len(values):
        return None
    low, high = np.quantile(defined, [0.025, 0.975])
    return float(low), float(high)
