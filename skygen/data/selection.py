"""Which scored pairs are kept."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Float

from skygen.errors import ConfigError


def keep_threshold(similarity: Float[np.ndarray, " count"], keep: str) -> float:
    """Turn a rule into the least similarity that is kept.

    Args:
        similarity: of all pairs.
        keep: ``top_N_percent``, a fraction of all pairs as SkyScript filters (pairs that tie with the last one stay too), or
            a number, the least similarity itself.

    Raises:
        ConfigError: ``keep`` is neither.
    """
    share = re.fullmatch(r"top_(\d+(?:\.\d+)?)_percent", keep)
    if share and 0 < float(share[1]) <= 100:
        count = max(1, round(len(similarity) * float(share[1]) / 100))
        return float(np.sort(similarity)[::-1][count - 1])
    try:
        return float(keep)
    except ValueError as error:
        raise ConfigError(f"--keep {keep}: give top_N_percent, N in (0, 100], or a least similarity such as 0.25.") from error
