"""Which scored pairs are kept, and the list that a fine-tuning reads them from."""

from __future__ import annotations

import csv
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np
from jaxtyping import Float

from skygen.data.pair import Pair
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


def write_pair_list(path: Path, pairs: Sequence[tuple[Pair, float]], scorer: str) -> None:
    """Write pairs and their similarity as a CSV in SkyScript's schema, a row a caption, best pairs first."""
    column = "similarity_" + re.sub(r"\W+", "_", scorer)
    with path.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["filepath", "title", "label", column])
        for pair, similarity in sorted(pairs, key=lambda scored: (-scored[1], scored[0].key)):
            for caption in pair.captions:
                rows.writerow([pair.key, caption, pair.class_name or "", f"{similarity:.6f}"])
