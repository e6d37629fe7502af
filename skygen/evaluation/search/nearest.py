"""Exact search: the rows of an embedded set that are nearest to a query, of millions of rows and without an index.

Every row is looked at, in mapped files. Rows are compared in float32; what may be among the best by that is compared
again in float64, so that neither rounding nor the size of a file decides an order. At a million rows an approximate index would
save a second and could miss what is asked for.
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from jaxtyping import Bool, Float, Float32, Float64, Int64

from skygen.errors import DataError
from skygen.evaluation.shards import EmbeddingShards

MARGIN = 1e-4
"""Above twice the error of a float32 cosine: 768 · 2⁻²⁴ = 4.6e-5 at most at 768 dimensions, in fact about 1e-7."""
CHUNK = 512
"""Rows at a time, 1 MB at 512 dimensions, which stay in a processor's cache: a third of the time that whole files take."""
Progress = Callable[[int, int], None]


def search(
    embeddings: EmbeddingShards,
    query: Float[np.ndarray, "*queries dimension"],
    count: int,
    *,
    among: Bool[np.ndarray, " rows"] | None = None,
    progress: Progress | None = None,
) -> tuple[Int64[np.ndarray, "*queries found"], Float64[np.ndarray, "*queries found"]]:
    """Find the rows that are nearest to a query by cosine.

    Args:
        embeddings: the set; a row that is all zero, or not finite, is never found.
        query: one vector, or a row for each of several, which then cost hardly more than one; of any length but zero.
        count: rows to find; fewer are found where the set has fewer.
        among: the rows to search; by default all.
        progress: is told how many rows have been looked at.

    Returns:
        For each query, nearest first and of equals the lower first: the rows, and their cosines in [-1, 1], computed in float64
        from the numbers as they are stored.

    Raises:
        DataError: a query has another dimension than the set, or is zero or not finite; or a file of the set is missing.
        ValueError: ``count`` is below 1.
    """
    if count < 1:
        raise ValueError(f"count is {count}, and must be at least 1")
    queries = _normalize(query.reshape(-1, query.shape[-1]))
    narrow = queries.astype(np.float32)
    if progress is not None:
        progress(0, embeddings.count)
    best = [(np.empty(0, np.int64), np.empty(0, np.float64)) for _ in queries]
    for number in embeddings.numbers():
        span = embeddings.span(number)
        allowed = np.ones(len(span), bool) if among is None else among[span.start : span.stop]
        if allowed.any():
            block = _map(embeddings, number, queries.shape[1])
            for start in range(0, len(block), CHUNK):
                part = block[start : start + CHUNK]
                cosines = _compare(part, narrow, allowed[start : start + CHUNK])
                for place, near in enumerate(cosines):
                    chosen = _choose(near, count, best[place][1])
                    if len(chosen):
                        exact = _cosines(part[chosen], queries[place])
                        best[place] = _merge(best[place], (chosen + span.start + start, exact), count)
        if progress is not None:
            progress(span.stop, embeddings.count)
    found = min((len(rows) for rows, _ in best), default=0)
    shape = (*query.shape[:-1], found)
    rows = np.asarray([rows[:found] for rows, _ in best], np.int64)
    return rows.reshape(shape), np.asarray([cosines[:found] for _, cosines in best], np.float64).reshape(shape)


def find_embedded(embeddings: EmbeddingShards) -> Bool[np.ndarray, " rows"]:
    """Say of each row whether it is an embedding: rows that are all zero stand for images that could not be read.

    Raises:
        DataError: a file of the set is missing or damaged.
    """
    embedded = np.zeros(embeddings.count, bool)
    for number in embeddings.numbers():
        span = embeddings.span(number)
        embedded[span.start : span.stop] = embeddings.map(number).any(axis=1)
    return embedded


def _compare(
    part: Float[np.ndarray, "rows dimension"],
    queries: Float32[np.ndarray, "queries dimension"],
    allowed: Bool[np.ndarray, " rows"],
) -> Float32[np.ndarray, "queries rows"]:
    """Compute cosines in float32; those of rows that must not be found are minus infinity."""
    wide = part.astype(np.float32)
    lengths = np.sqrt(np.einsum("nd,nd->n", wide, wide))
    with np.errstate(divide="ignore", invalid="ignore"):
        # A query at a time: products this small are slower by ten times where BLAS shares them out among busy processors.
        cosines = np.stack([wide @ query for query in queries]) / lengths
    cosines[:, ~(np.isfinite(cosines).all(axis=0) & (lengths > 0) & allowed)] = -np.inf
    return cosines


def _choose(near: Float[np.ndarray, " rows"], count: int, best: Float64[np.ndarray, " found"]) -> Int64[np.ndarray, " chosen"]:
    """Choose the rows of a file that may be among the best: all that are not below the last of these by more than rounding."""
    floor = best[-1] if len(best) == count else -np.inf
    if len(near) > count:
        floor = max(floor, np.partition(near, -count)[-count])
    return np.flatnonzero((near >= floor - MARGIN) & (near > -np.inf)).astype(np.int64)


def _merge(
    old: tuple[Int64[np.ndarray, " old"], Float64[np.ndarray, " old"]],
    new: tuple[Int64[np.ndarray, " new"], Float64[np.ndarray, " new"]],
    count: int,
) -> tuple[Int64[np.ndarray, " kept"], Float64[np.ndarray, " kept"]]:
    rows, cosines = np.concatenate([old[0], new[0]]), np.concatenate([old[1], new[1]])
    order = np.lexsort((rows, -cosines))[:count]
    return rows[order], cosines[order]


def _cosines(
    block: Float[np.ndarray, "rows dimension"], query: Float64[np.ndarray, " dimension"]
) -> Float64[np.ndarray, " rows"]:
    """Compute cosines so that equal rows have equal ones, which a matrix product does not promise."""
    wide = block.astype(np.float64)
    return np.clip((wide * query).sum(axis=1) / np.sqrt((wide * wide).sum(axis=1)), -1.0, 1.0)


def _normalize(queries: Float[np.ndarray, "queries dimension"]) -> Float64[np.ndarray, "queries dimension"]:
    wide = queries.astype(np.float64)
    lengths = np.linalg.norm(wide, axis=1, keepdims=True)
    if not (np.isfinite(lengths) & (lengths > 0)).all():
        raise DataError("A query's embedding is zero or not finite; look for damaged weights of the scorer.")
    return wide / lengths


def _map(embeddings: EmbeddingShards, number: int, dimension: int) -> Float[np.ndarray, "rows dimension"]:
    """Map a file of the set, and check that the same CLIP has made it as the queries."""
    block = embeddings.map(number)
    if block.shape[1] != dimension:
        raise DataError(
            f"{embeddings.folder}: file {number} of the embeddings has {block.shape[1]} dimensions and the query {dimension}: "
            "another CLIP made them; search with that one."
        )
    return block
