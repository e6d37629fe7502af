"""Which scored pairs are kept."""

from __future__ import annotations

import re

import numpy as np
from jaxtyping import Bool, Float, Shaped

from skygen.errors import ConfigError

_RULE = re.compile(r"top_(\d+(?:\.\d+)?)_percent(_per_class)?")


def keep_rows(
    similarity: Float[np.ndarray, " pairs"],
    keys: Shaped[np.ndarray, " pairs"],
    classes: Shaped[np.ndarray, " pairs"],
    keep: str,
) -> Bool[np.ndarray, " pairs"]:
    """Say which pairs a rule keeps.

    Args:
        similarity: of all pairs.
        keys: of all pairs, text; of equal similarities, the earlier key is kept, so that a fraction is exact.
        classes: of all pairs, text, for a fraction of each class; the empty text is a class of its own.
        keep: ``top_N_percent``, a fraction of all pairs as SkyScript filters; ``top_N_percent_per_class``, of each class,
            at least one; or a number, the least similarity.

    Raises:
        ConfigError: ``keep`` is none of these.
    """
    rule = _RULE.fullmatch(keep)
    if rule is None or not 0 < float(rule[1]) <= 100:
        return similarity >= _least(keep)
    share = float(rule[1]) / 100
    order = np.lexsort((keys, -similarity))
    groups = np.unique(classes, return_inverse=True)[1] if rule[2] else np.zeros(len(keys), np.int64)
    kept = np.zeros(len(keys), dtype=bool)
    for group in range(int(groups.max(initial=-1)) + 1):
        own = order[groups[order] == group]
        kept[own[: max(1, round(len(own) * share))]] = True
    return kept


def check_rule(keep: str) -> None:
    """Refuse a rule before hours are spent on scores.

    Raises:
        ConfigError: ``keep`` is not one that ``keep_rows`` takes.
    """
    keep_rows(np.ones(1), np.array([""]), np.array([""]), keep)


def _least(keep: str) -> float:
    try:
        return float(keep)
    except ValueError as error:
        raise ConfigError(
            f"--keep {keep}: give top_N_percent or top_N_percent_per_class, N in (0, 100], or a least similarity such as 0.25."
        ) from error
