"""Scores of millions of pairs: every image is decoded and embedded once, every distinct caption once, a shard at a time.

A shard is a Parquet file that is written whole; a run that was broken off, or that more processes join, goes on with those that
are not there. Beside the cosine of an image with its caption stands its margin: how far the cosine is above the mean of the
image's cosines with a fixed sample of other captions. Some images are near to any caption, and the margin takes that away.
"""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
import torch
from jaxtyping import Bool, Float, Int, Int64
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skygen.data.images import open_image
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ImageError, StorageError
from skygen.evaluation.pair_scores.caption_index import CaptionIndex
from skygen.evaluation.pair_scores.embedding import embed_pixels, embed_texts
from skygen.evaluation.parquet_files import open_parquet, write_parquet
from skygen.evaluation.shards import EmbeddingShards
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds
from skygen.signals import wait_until

REFERENCES = 256
"""Captions that every image is compared with for its margin; the error of their mean is a sixteenth of their spread."""
MEASURES = ("similarity", "margin", "mismatched")
"""Of each column of captions; in a shard ``MEASURE:COLUMN``."""

Progress = Callable[[int, int], None]
References = tuple[Int64[np.ndarray, " references"], Float[np.ndarray, "references dimension"]]


@final
@dataclass(frozen=True, slots=True)
class PairScorer:
    """Scores the shards of a list of pairs.

    Args:
        scorer: the CLIP, at the precision that is wanted.
        pairs: all of them.
        captions: of the pairs, by the name of their column; the first is the one that decides.
        folder: of the shards and of the embedded texts.
        rejects: where images that cannot be decoded are noted.
        max_bad_fraction: largest share of the pairs whose image may be so, in [0, 1].
        batch_size: images or texts at a time.
        workers: processes that decode.
        embeddings: where image embeddings are kept, in shards of as many rows; None keeps none.
        rows: pairs in a shard.
    """

    scorer: Scorer
    pairs: PairList
    captions: Mapping[str, CaptionIndex]
    folder: Path
    rejects: Rejects
    max_bad_fraction: float = 0.01
    batch_size: int = 64
    workers: int = 0
    embeddings: EmbeddingShards | None = None
    rows: int = 4096

    def shards(self) -> range:
        """Return the numbers of the shards."""
        return range(-(-len(self.pairs) // self.rows))

    def path(self, number: int) -> Path:
        """Return where a shard lies."""
        return self.folder / "scores" / f"part-{number:06d}.parquet"

    def is_scored(self, number: int) -> bool:
        """Say whether a shard has been written, with its embeddings where they are kept."""
        return self.path(number).is_file() and (self.embeddings is None or self.embeddings.has(number))

    def texts(self, column: str) -> EmbeddingShards:
        """Return where the embedded captions of a column lie."""
        return EmbeddingShards(self.folder / "texts" / column, len(self.captions[column].texts))

    def embed_texts(self, rank: int, processes: int, progress: Progress) -> None:
        """Embed this process's share of the distinct captions, and wait for the others'.

        Args:
            rank: of this process, from 0.
            processes: that share the work.
            progress: is told the captions of this process done and in all, those of an earlier start included.
        """
        work = [(column, number) for column in self.captions for number in self.texts(column).numbers()]
        sizes = {(column, number): len(self.texts(column).span(number)) for column, number in work}
        own = work[rank::processes]
        done, total = 0, sum(sizes[each] for each in own)
        for column, number in sorted(own, key=lambda each: not self.texts(each[0]).has(each[1])):
            shards = self.texts(column)
            if not shards.has(number):
                progress(done, total)
                span = shards.span(number)
                texts = self.captions[column].texts[span.start : span.stop].to_pylist()
                shards.write(number, embed_texts(self.scorer, texts, self.batch_size))
            done += sizes[column, number]
            progress(done, total)
        wait_until(lambda: all(self.texts(column).has(number) for column, number in reversed(work)))

    def score(self, rank: int, processes: int, progress: Progress) -> float:
        """Score this process's share of the shards, and wait for the others'.

        Args:
            rank: of this process, from 0.
            processes: that share the work.
            progress: is told the pairs of this process done and in all, those of an earlier start included.

        Returns:
            The share of the time that was spent waiting for decoded images, in [0, 1]; 0 where there was nothing to do.

        Raises:
            DataError: more images than allowed cannot be used; the shards before are written and stay.
        """
        share = self.shards()[rank::processes]
        own = [number for number in share if not self.is_scored(number)]
        references = {column: self.references(column) for column in self.captions} if own else {}
        spans = [self._span(number) for number in own]
        total = sum(len(self._span(number)) for number in share)
        done = total - sum(map(len, spans))
        chunks = [span[start : start + self.batch_size] for span in spans for start in range(0, len(span), self.batch_size)]
        begun, waited = time.perf_counter(), 0.0
        batches = iter(self._load(chunks))
        progress(done, total)
        for number, span in zip(own, spans, strict=True):
            images = np.zeros((len(span), next(iter(references.values()))[1].shape[1]), np.float32)
            for start in range(0, len(span), self.batch_size):
                asked = time.perf_counter()
                rows, pixels = next(batches)
                waited += time.perf_counter() - asked
                if len(rows):
                    images[rows - span.start] = embed_pixels(self.scorer, pixels)
                progress(done + min(start + self.batch_size, len(span)), total)
            # before the shard is written: after a disk that went away, its images are to be looked for again
            self.rejects.check(len(self.pairs), self.max_bad_fraction)
            self._write(number, span, images, references)
            done += len(span)
        seconds = time.perf_counter() - begun
        wait_until(lambda: all(self.is_scored(number) for number in reversed(self.shards())))
        return waited / seconds if own else 0.0

    def references(self, column: str) -> References:
        """Return numbers and embeddings of the captions that others are measured against, in every process and run the same."""
        count = len(self.captions[column].texts)
        draw = Seeds(0).numpy("references", column, count)
        chosen = np.sort(draw.choice(count, size=min(REFERENCES, count), replace=False))
        return chosen, self.texts(column).take(chosen)

    def read(self) -> pa.Table:
        """Read all shards but the keys, in the order of the pairs; pairs whose image cannot be read are not in them.

        Raises:
            StorageError: a shard is not what was written.
        """
        names = ["row", *(f"{measure}:{column}" for column in self.captions for measure in MEASURES)]
        return pa.concat_tables([_read(self.path(number), names) for number in self.shards()])

    def rescore(self, rows: Int64[np.ndarray, " chosen"], scorer: Scorer) -> Float[np.ndarray, " chosen"]:
        """Score some pairs anew by another scorer, such as the same at another precision, and keep nothing.

        Args:
            rows: of the pairs, in ascending order.
            scorer: the other one.

        Returns:
            Similarities by the column that decides; NaN where an image can no longer be read.
        """
        members, owners = next(iter(self.captions.values())).take(rows).of_pairs(0, len(rows))
        numbers, places = np.unique(members, return_inverse=True)
        distinct = next(iter(self.captions.values())).texts.take(pa.array(numbers)).to_pylist()
        texts = embed_texts(scorer, distinct, self.batch_size)
        images = np.full((len(rows), texts.shape[1]), np.nan, np.float32)
        starts = range(0, len(rows), self.batch_size)
        for read, pixels in self._load([rows[start : start + self.batch_size].tolist() for start in starts]):
            if len(read):
                images[np.searchsorted(rows, read)] = embed_pixels(scorer, pixels)
        cosines = np.einsum("nd,nd->n", images[owners], texts[places])
        return np.bincount(owners, cosines, minlength=len(rows)) / np.bincount(owners, minlength=len(rows))

    def _span(self, number: int) -> range:
        return range(number * self.rows, min(len(self.pairs), (number + 1) * self.rows))

    def _load(self, chunks: Sequence[Sequence[int]]) -> DataLoader[Any]:
        os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")  # tokenizers warns of the processes that are forked here
        return DataLoader(
            _Pixels(self.pairs, self.scorer.preprocess, self.rejects),
            batch_sampler=chunks,  # type: ignore[arg-type]  # any iterable of lists of rows
            num_workers=min(self.workers, len(chunks)),
            collate_fn=_stack,
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def _write(
        self, number: int, span: range, images: Float[np.ndarray, "count dimension"], references: Mapping[str, References]
    ) -> None:
        """Compare images with their captions and write the shard, its embeddings first: a shard that is there has them."""
        if self.embeddings is not None:
            self.embeddings.write(number, images.astype(np.float16))
        columns = {
            "row": pa.array(np.arange(span.start, span.stop)),
            "key": self.pairs[span.start : span.stop].column("key"),
        }
        for name, index in self.captions.items():
            members, owners = index.of_pairs(span.start, span.stop)
            texts = self.texts(name).take(members)
            cosines = np.einsum("nd,nd->n", images[owners], texts) if len(members) else np.zeros(0, np.float32)
            found = measure_pairs(images, cosines, members, owners, *references[name])
            for measure, values in zip(MEASURES, found, strict=True):
                columns[f"{measure}:{name}"] = pa.array(values.astype(np.float32))
        table = pa.table(columns).filter(pa.array(images.any(axis=1)))
        write_parquet(self.path(number), [table])


def _read(shard: Path, columns: Sequence[str]) -> pa.Table:
    """Read columns of a shard."""
    try:
        return open_parquet(shard).read(columns=columns).select(columns)
    except (pa.ArrowException, OSError, KeyError) as error:
        reason = " ".join(str(error).split())
        raise StorageError(
            f"{shard}: cannot be read ({reason}); delete it, and the same command scores its pairs again."
        ) from error


def measure_pairs(
    images: Float[np.ndarray, "pairs dimension"],
    cosines: Float[np.ndarray, " captions"],
    members: Int[np.ndarray, " captions"],
    owners: Int[np.ndarray, " captions"],
    numbers: Int[np.ndarray, " references"],
    references: Float[np.ndarray, "references dimension"],
) -> tuple[Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"], Float[np.ndarray, " pairs"]]:
    """Return similarity, margin and the cosine with a caption of another wording, of pairs of one column of captions.

    Args:
        images: unit vectors.
        cosines: of each caption with its image.
        members: numbers of the captions.
        owners: which image each is of.
        numbers: of the captions of the sample, in ascending order.
        references: their unit vectors.

    Returns:
        Cosines in [-1, 1], a margin in [-2, 2], and NaN where a pair has no caption, or the sample none but its own.
    """
    counts = np.bincount(owners, minlength=len(images))
    with np.errstate(invalid="ignore"):
        similarity = np.bincount(owners, cosines, minlength=len(images)) / counts
    places = np.minimum(np.searchsorted(numbers, members), max(0, len(numbers) - 1))
    own: Bool[np.ndarray, "pairs references"] = np.zeros((len(images), len(numbers)), dtype=bool)
    sampled = numbers[places] == members if len(numbers) else np.zeros(len(members), dtype=bool)
    own[owners[sampled], places[sampled]] = True
    others = np.where(own, np.nan, images @ references.T).astype(np.float64)
    left = (~own).sum(axis=1)
    with np.errstate(invalid="ignore"):
        margin = similarity - np.nansum(others, axis=1) / left
    # one after the other, so that the other captions are met alike often; of an own one, the next that is not
    place = np.arange(len(images)) % max(1, len(numbers))
    other = np.full(len(images), np.nan)
    for _ in range(int(own.sum(axis=1).max(initial=0)) + 1 if len(numbers) else 0):
        found = others[np.arange(len(images)), place]
        place = np.where(np.isnan(found), (place + 1) % len(numbers), place)
        other = np.where(np.isnan(other), found, other)
    return similarity, margin, np.where(counts > 0, other, np.nan)


class _Pixels(Dataset[Any]):
    """Decoded and preprocessed images; an unreadable one is noted, and None."""

    def __init__(self, pairs: PairList, preprocess: Callable[[Any], Tensor], rejects: Rejects) -> None:
        self.pairs = pairs
        self.preprocess = preprocess
        self.rejects = rejects

    def __getitem__(self, row: int) -> tuple[int, Tensor | None]:
        pair = self.pairs[row]
        try:
            return row, self.preprocess(open_image(pair.image))
        except ImageError as error:
            self.rejects.add(pair.key, str(error), where=str(pair.image))
            return row, None


def _stack(items: Sequence[tuple[int, Tensor | None]]) -> tuple[Int64[np.ndarray, " read"], Tensor]:
    read = [(row, pixels) for row, pixels in items if pixels is not None]
    rows = np.asarray([row for row, _ in read], np.int64)
    return rows, torch.stack([pixels for _, pixels in read]) if read else torch.empty(0)
