"""Whether two systems differ on the same items: a permutation test by flipped signs.

Under the hypothesis that the two are exchangeable on every item, each difference is as likely as its negative. The test
compares the mean difference with those of all, or of many drawn, ways to set the signs (Fisher 1935; for evaluation,
Smucker et al. 2007). The interval beside it is ``intervals.paired_difference_interval``.
"""

from __future__ import annotations

from typing import Final

import numpy as np
from jaxtyping import Bool, Float

from skygen.errors import ConfigError, DataError
from skygen.seeding import Seeds

ENUMERATED: Final = 14
"""Up to so many differences that are not 0 all signs are tried: 16,384 ways; above, some are drawn."""

SIGNS_AT_ONCE: Final = 1 << 22
"""Signs held in one go, 32 MiB as float64."""

ROUNDING: Final = 1e-9
"""Relative to the sum of the magnitudes: sums this near count as equal, or the observed one might miss itself."""


def sign_flip_p_value(differences: Float[np.ndarray, " count"], *, seeds: Seeds, flips: int = 10_000) -> float:
    """Compute the two-sided p-value of a mean difference over the same items.

    Args:
        differences: first minus second, an item each.
        seeds: the drawn signs follow from them.
        flips: how many ways to set the signs are drawn where there are too many to try all.

    Returns:
        The share of ways whose mean is at least as far from 0 as the observed one, in (0, 1]; 1 where all differences are 0.
        Drawn ways count with the observed one among them, so that the smallest value is 1 / (flips + 1).

    Raises:
        DataError: there is no difference, or one is not finite.
        ConfigError: ``flips`` is not positive.
    """
    if flips < 1:
        raise ConfigError(f"flips is {flips}; draw at least 1, better 10,000.")
    if not len(differences):
        raise DataError("A paired test needs at least one item scored in both, and there is none; score the same images.")
    bad = np.flatnonzero(~np.isfinite(differences))
    if bad.size:
        raise DataError(f"The difference of item {bad[0]} is not finite ({bad.size} such items); leave them out or mend them.")
    moved = differences[differences != 0]  # flipping a 0 changes nothing
    if not len(moved):
        return 1.0
    least = abs(moved.sum()) - ROUNDING * np.abs(moved).sum()
    if len(moved) <= ENUMERATED:
        ways = np.arange(2 ** len(moved))[:, None] >> np.arange(len(moved)) & 1
        return float((np.abs(_sums(ways.astype(bool), moved)) >= least).mean())
    generator = seeds.numpy("sign flips", len(moved), flips)
    chunk = max(1, SIGNS_AT_ONCE // len(moved))
    extreme = 0
    for start in range(0, flips, chunk):
        signs = generator.integers(2, size=(min(chunk, flips - start), len(moved)), dtype=np.int8)
        extreme += int((np.abs(_sums(signs.astype(bool), moved)) >= least).sum())
    return (extreme + 1) / (flips + 1)


def _sums(flipped: Bool[np.ndarray, "ways count"], values: Float[np.ndarray, " count"]) -> Float[np.ndarray, " ways"]:
    sums: Float[np.ndarray, " ways"] = values.sum() - 2.0 * (flipped.astype(np.float64) @ values)
    return sums
