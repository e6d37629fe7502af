"""Counts of distinct texts in little memory, and the figures that describe such counts: effective numbers and quantiles."""

from __future__ import annotations

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Final, final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Bool, Int, UInt64

PENDING_TEXTS: Final = 1 << 20
"""Texts waiting to be merged: about 100 MB of captions; fewer merges cost less time."""


@dataclass(frozen=True, slots=True)
class Quantiles:
    """How whole numbers are spread: the inverse of their distribution function (Hyndman and Fan 1996, definition 1).

    Args:
        count: of numbers.
        mean: of the numbers.
        minimum: the least.
        p05: the least number that at least 5 % do not exceed; the others likewise.
        p25: lower quartile.
        median: of the numbers.
        p75: upper quartile.
        p95: 95th percentile.
        maximum: the greatest.
    """

    count: int
    mean: float
    minimum: int
    p05: int
    p25: int
    median: int
    p75: int
    p95: int
    maximum: int


def describe(histogram: Mapping[int, int]) -> Quantiles | None:
    """Describe whole numbers by their histogram.

    Args:
        histogram: how often each number occurs, each at least once.

    Returns:
        None where there is no number.
    """
    if not histogram:
        return None
    values = np.array(sorted(histogram), dtype=np.int64)
    counts = np.array([histogram[value] for value in values.tolist()], dtype=np.int64)
    total = int(counts.sum())
    # from 5 = 0.05 * 100 both sides are whole numbers, so that no rounding decides
    places = np.searchsorted(np.cumsum(counts) * 100, np.array([0, 5, 25, 50, 75, 95, 100]) * total)
    return Quantiles(total, float(values @ counts / total), *values[places].tolist())


def effective_number(counts: Int[np.ndarray, " distinct"]) -> float:
    """Return the exponential of Shannon's entropy: so many equally frequent values would be as diverse.

    Args:
        counts: how often each value occurs.

    Returns:
        From 1, all the same, to the number of values, all equally frequent; 0 of none. Hill number of order 1 (Hill 1973).
    """
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(np.exp(-(shares * np.log(shares)).sum())) if len(shares) else 0.0


def inverse_simpson(counts: Int[np.ndarray, " distinct"]) -> float:
    """Return one over the chance that two draws agree: an effective number in which frequent values weigh more.

    Args:
        counts: how often each value occurs.

    Returns:
        From 1 to the number of values; 0 of none. Hill number of order 2 (Hill 1973).
    """
    shares = counts[counts > 0] / max(counts.sum(), 1)
    return float(1.0 / (shares**2).sum()) if len(shares) else 0.0


def count_covering(counts: Int[np.ndarray, " distinct"], share: float) -> int:
    """Return the least number of distinct values that make up a share, in [0, 1], of all occurrences."""
    running = np.cumsum(np.sort(counts)[::-1])
    return int(np.searchsorted(running, share * running[-1])) + 1 if len(running) else 0


@final
class Tally:
    """How often each distinct text occurs, at 16 bytes a distinct text.

    A text is kept as a hash of 64 bits; that any two of 10 million share one has a chance of 3 in a million. The text
    itself is kept of the most frequent ones, and of a sample; both are the same whatever the order and the batches are.

    Args:
        top: of how many most frequent texts the text is kept; of equally frequent ones those with the smallest hash.
        sample: of how many further distinct texts, those with the smallest hashes, which is a random sample of them.
    """

    def __init__(self, top: int = 0, sample: int = 0) -> None:
        self._top = top
        self._sample = sample
        self._hashes = np.empty(0, dtype=np.uint64)  # ascending
        self._counts = np.empty(0, dtype=np.int64)
        self._texts: dict[int, str] = {}
        self._pending: list[tuple[UInt64[np.ndarray, " some"], Int[np.ndarray, " some"], pa.Array | None]] = []
        self._pending_texts = 0

    def add(self, texts: pa.Array, counts: Int[np.ndarray, " some"]) -> None:
        """Count texts.

        Args:
            texts: strings, none null and none twice.
            counts: how often each occurred.
        """
        digests = [hashlib.blake2b(text.encode(), digest_size=8).digest() for text in texts.to_pylist()]
        kept = texts if self._top or self._sample else None
        self._pending.append((np.frombuffer(b"".join(digests), dtype="<u8"), counts, kept))
        self._pending_texts += len(texts)
        if self._pending_texts >= PENDING_TEXTS:
            self._merge()

    @property
    def counts(self) -> Int[np.ndarray, " distinct"]:
        """How often each distinct text occurs."""
        self._merge()
        return self._counts

    def most_frequent(self) -> list[tuple[str, int]]:
        """Return the ``top`` most frequent texts with their counts, the most frequent first."""
        self._merge()
        chosen = np.flatnonzero(self._is_top())
        found = [(self._texts[int(self._hashes[row])], int(self._counts[row])) for row in chosen]
        return sorted(found, key=lambda entry: (-entry[1], entry[0]))

    def sampled(self) -> list[tuple[str, int]]:
        """Return ``sample`` random distinct texts with their counts; all of them where there are no more."""
        self._merge()
        rows = range(min(self._sample, len(self._hashes)))
        return [(self._texts[int(self._hashes[row])], int(self._counts[row])) for row in rows]

    def _merge(self) -> None:
        if not self._pending:
            return
        hashes, first, inverse = np.unique(
            np.concatenate([part[0] for part in self._pending]), return_index=True, return_inverse=True
        )
        added = np.concatenate([part[1] for part in self._pending])
        counts = np.bincount(inverse, weights=added, minlength=len(hashes)).astype(np.int64)
        places = np.searchsorted(self._hashes, hashes)
        known = np.zeros(len(hashes), dtype=bool)
        inside = places < len(self._hashes)
        known[inside] = self._hashes[places[inside]] == hashes[inside]
        self._counts[places[known]] += counts[known]
        self._counts = np.insert(self._counts, places[~known], counts[~known])
        self._hashes = np.insert(self._hashes, places[~known], hashes[~known])
        texts = [part[2] for part in self._pending if part[2] is not None]
        self._pending, self._pending_texts = [], 0
        if texts:
            self._keep_texts(hashes, pa.chunked_array(texts, pa.string()), first)

    def _keep_texts(self, hashes: UInt64[np.ndarray, " new"], texts: pa.ChunkedArray, first: Int[np.ndarray, " new"]) -> None:
        """Keep the texts that are wanted now, and forget those that no longer are.

        A text that ends among the most frequent was so already when it last occurred, for the others' counts only rise.
        """
        wanted = self._is_top()
        wanted[: self._sample] = True
        here = wanted[np.searchsorted(self._hashes, hashes)]
        found = texts.take(pa.array(first[here])).to_pylist()
        texts_now = self._texts | dict(zip(hashes[here].tolist(), found, strict=True))
        self._texts = {number: texts_now[number] for number in self._hashes[wanted].tolist()}

    def _is_top(self) -> Bool[np.ndarray, " distinct"]:
        if len(self._counts) <= self._top:
            return np.ones(len(self._counts), dtype=bool)
        if not self._top:
            return np.zeros(len(self._counts), dtype=bool)
        least = np.partition(self._counts, -self._top)[-self._top]
        chosen = self._counts > least
        chosen[np.flatnonzero(self._counts == least)[: self._top - int(chosen.sum())]] = True
        return chosen


def count_values(values: pa.Array) -> tuple[pa.Array, Int[np.ndarray, " distinct"]]:
    """Return the distinct values of an array, without null, and how often each occurs."""
    counted = pc.value_counts(values.drop_null())
    return counted.field("values"), counted.field("counts").to_numpy()


def share_of(part: float, whole: float) -> float:
    """Return a part of a whole as a share in [0, 1]; 0 of nothing."""
    return float(part / whole) if whole else 0.0
