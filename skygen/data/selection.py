"""Which scored pairs are kept."""

from __future__ import annotations

import re

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Float, Int64

from skygen.errors import ConfigError

_RULE = re.compile(r"top_(\d+(?:\.\d+)?)_percent(_per_class)?")


def keep_rows(
    similarity: Float[np.ndarray, " pairs"],
    keys: pa.Array | pa.ChunkedArray,
    classes: pa.Array | pa.ChunkedArray,
    keep: str,
) -> Bool[np.ndarray, " pairs"]:
    """Say which pairs a rule keeps.

    Args:
        similarity: of all pairs; one that is not a number is kept last.
        keys: of all pairs; of equal similarities, the earlier key is kept, so that a fraction is exact.
        classes: of all pairs, for a fraction of each class; pairs whose class is not known are a class of their own.
        keep: ``top_N_percent``, a fraction of all pairs as SkyScript filters; ``top_N_percent_per_class``, of each class,
            at least one; or a number, the least similarity.

    Raises:
        ConfigError: ``keep`` is none of these.
    """
    rule = _RULE.fullmatch(keep)
    if rule is None or not 0 < float(rule[1]) <= 100:
        return similarity >= _least(keep)
    share = float(rule[1]) / 100
    order = rank_rows(similarity, keys)
    groups = _number(classes)[order] if rule[2] else np.zeros(len(order), np.int64)
    together = np.argsort(groups, kind="stable")  # groups one after the other, the best of each first
    sizes = np.bincount(groups)
    place = np.arange(len(order)) - np.repeat(np.cumsum(sizes) - sizes, sizes)
    allowed = np.maximum(1, np.rint(sizes * share))
    kept = np.zeros(len(order), dtype=bool)
    kept[order[together[place < np.repeat(allowed, sizes)]]] = True
    return kept


def rank_rows(similarity: Float[np.ndarray, " pairs"], keys: pa.Array | pa.ChunkedArray) -> Int64[np.ndarray, " pairs"]:
    """Return the rows with the most similar first; those that tie by their keys, and those that are not numbers last."""
    table = pa.table({"similarity": pa.array(similarity), "key": keys})
    order = pc.sort_indices(table, sort_keys=[("similarity", "descending"), ("key", "ascending")])
    ranked: Int64[np.ndarray, " pairs"] = order.to_numpy().astype(np.int64)
    return ranked


def check_rule(keep: str) -> None:
    """Refuse a rule before hours are spent on scores.

    Raises:
        ConfigError: ``keep`` is not one that ``keep_rows`` takes.
    """
    keep_rows(np.ones(1), pa.array([""]), pa.array([""]), keep)


def _least(keep: str) -> float:
    try:
        return float(keep)
    except ValueError as error:
        raise ConfigError(
            f"--keep {keep}: give top_N_percent or top_N_percent_per_class, N in (0, 100], or a least similarity such as 0.25."
        ) from error


def _number(texts: pa.Array | pa.ChunkedArray) -> Int64[np.ndarray, " pairs"]:
    """Number the distinct texts; the absent one is one of them."""
    chunked = texts if isinstance(texts, pa.ChunkedArray) else pa.chunked_array([texts])
    encoded = pc.fill_null(chunked, "").dictionary_encode().unify_dictionaries()
    numbers = [chunk.indices.to_numpy().astype(np.int64) for chunk in encoded.chunks]
    return np.concatenate([np.zeros(0, np.int64), *numbers])
