"""Weights that make each group count the same, however many pairs it has."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
from jaxtyping import Float


def balance_weights(groups: pa.Array | pa.ChunkedArray) -> Float[np.ndarray, " count"]:
    """Weigh pairs so that every group, such as a continent, carries the same total weight.

    A sampler that draws with these probabilities sees each group equally often; pairs of a group are equally likely. In a
    group of a handful of pairs these few are then drawn over and over.

    Args:
        groups: one a pair; null is a group of its own.

    Returns:
        Float64, in the order of ``groups``; they sum to 1.
    """
    array = groups.combine_chunks() if isinstance(groups, pa.ChunkedArray) else groups
    if isinstance(array, pa.DictionaryArray):  # its own null is outside the dictionary
        array = array.dictionary_decode()
    if len(array) == 0:
        return np.empty(0, dtype=np.float64)
    which = array.dictionary_encode(null_encoding="encode").indices.to_numpy(zero_copy_only=False)
    counts = np.bincount(which)
    return 1.0 / (len(counts) * counts[which])
