"""All scores of a run in one table, ``scores.parquet``: what selection, calibration, reports and search read."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import final

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float, Int64

from skygen.data.skyscript import locate_image
from skygen.data.table import PairList
from skygen.evaluation.pair_scores.scoring import MEASURES, PairScorer
from skygen.evaluation.parquet_files import write_parquet


@final
@dataclass(frozen=True, slots=True)
class PairScores:
    """The scores of the pairs whose image could be read, in the order of the pairs.

    Args:
        pairs: all of them.
        rows: places in ``pairs`` of those that have scores.
        similarity: cosine with the caption, the mean over several, by column of captions; the first column decides.
        margin: the same above the mean cosine with a sample of other captions.
        mismatched: cosine with a caption of another wording. All three are NaN where a pair lacks a caption.
    """

    pairs: PairList
    rows: Int64[np.ndarray, " scored"]
    similarity: dict[str, Float[np.ndarray, " scored"]]
    margin: dict[str, Float[np.ndarray, " scored"]]
    mismatched: dict[str, Float[np.ndarray, " scored"]]

    @classmethod
    def of(cls, parts: PairScorer, pairs: PairList) -> PairScores:
        """Gather all shards."""
        table = parts.read()
        rows = table.column("row").to_numpy()
        measured = {
            what: {name: table.column(f"{what}:{name}").to_numpy().astype(np.float64) for name in parts.captions}
            for what in MEASURES
        }
        return cls(pairs, rows, **measured)

    def column(self, name: str) -> pa.ChunkedArray:
        """Return what is known of the scored pairs, such as ``key`` or ``class_name``."""
        return PairList(self.pairs.tables, self.pairs.rows[self.rows]).column(name)

    @property
    def deciding(self) -> Float[np.ndarray, " scored"]:
        """The similarity that decides which pairs are kept."""
        return next(iter(self.similarity.values()))


def write_scores(
    path: Path, scores: PairScores, kept: Bool[np.ndarray, " scored"], further: Mapping[str, PairScores] | None = None
) -> None:
    """Write the table: key, image, caption, class, every score, and whether the pair is kept.

    With several columns of captions, the scores of the further ones are called ``similarity:COLUMN`` and so on.

    Args:
        path: of the Parquet file.
        scores: that decide.
        kept: of the scored pairs, those that are kept.
        further: scores by other scorers, whose similarity is called ``similarity@NAME``; NaN where one has none.
    """
    extra = {f"similarity@{name}": _align(other, scores.rows) for name, other in (further or {}).items()}
    write_parquet(path, _blocks(scores, kept, extra))


def _align(other: PairScores, rows: Int64[np.ndarray, " scored"]) -> Float[np.ndarray, " scored"]:
    values = np.full(len(rows), np.nan)
    _, mine, theirs = np.intersect1d(rows, other.rows, assume_unique=True, return_indices=True)
    values[mine] = other.deciding[theirs]
    return values


def _blocks(
    scores: PairScores, kept: Bool[np.ndarray, " scored"], extra: Mapping[str, Float[np.ndarray, " scored"]]
) -> Iterator[pa.Table]:
    first = 0
    root_of = [part.root for part in scores.pairs.tables]
    for batch in scores.pairs.batches():
        own = slice(*np.searchsorted(scores.rows, (first, first + batch.num_rows)))
        places = pa.array(scores.rows[own] - first)
        chosen = batch.take(places)
        keys = chosen["key"].to_pylist()
        images = (
            [str(scores.pairs[int(row)].image) for row in scores.rows[own]]
            if len(root_of) > 1
            else [str(locate_image(root_of[0], key)) for key in keys]
        )
        columns = {
            "key": chosen["key"],
            "image": pa.array(images, pa.string()),
            "caption": pa.array([(texts or [""])[0] for texts in chosen["captions"].to_pylist()], pa.string()),
            "class_name": chosen["class_name"],
        }
        for place, name in enumerate(scores.similarity):
            ending = f":{name}" if place else ""
            for what in MEASURES:
                columns[what + ending] = pa.array(getattr(scores, what)[name][own].astype(np.float32))
        columns |= {name: pa.array(values[own].astype(np.float32)) for name, values in extra.items()}
        columns["kept"] = pa.array(kept[own])
        yield pa.table(columns)
        first += batch.num_rows
