"""Scores of millions of pairs: every image is decoded and embedded once, every distinct caption once, a shard at a time.

A shard is a Parquet file that is written whole; a run that was broken off, or that more processes join, goes on with those that
are not there. Beside the cosine of an image with its caption stands its margin: how far the cosine is above the mean of the
image's cosines with a fixed sample of other captions. Some images are near to any caption, and the margin takes that away.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Literal, final

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from skygen.data.images import ImageError, open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.evaluation.embedding_shards import EmbeddingShards
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds
from skygen.storage import writing

REFERENCES = 256
"""Captions that every image is compared with for its margin; the error of their mean is a sixteenth of their spread."""

Precision = Literal["fp32", "bf16"]
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class CaptionIndex:
    """The captions of all pairs, each distinct one once.

    Args:
        texts: the distinct captions, in the order in which they first come.
        starts: place in ``members`` of the first caption of each pair, and the end.
        members: numbers of the captions of each pair.
    """

    texts: tuple[str, ...]
    starts: Int64[np.ndarray, " pairs_and_one"]
    members: Int64[np.ndarray, " captions"]

    @classmethod
    def of(cls, captions: Iterator[Sequence[str]]) -> CaptionIndex:
        """Number the captions of pairs."""
        numbers: dict[str, int] = {}
        members: list[int] = []
        starts = [0]
        for some in captions:
            members.extend(numbers.setdefault(text, len(numbers)) for text in some)
            starts.append(len(members))
        return cls(tuple(numbers), np.asarray(starts, np.int64), np.asarray(members, np.int64))

    def of_pairs(self, first: int, stop: int) -> tuple[Int64[np.ndarray, " captions"], Int64[np.ndarray, " captions"]]:
        """Return the captions of some pairs, and which of these pairs each belongs to, from 0."""
        starts = self.starts[first : stop + 1]
        return self.members[starts[0] : starts[-1]], np.repeat(np.arange(stop - first), np.diff(starts))


@final
@dataclass(frozen=True, slots=True)
class PairScorer:
    """Scores the shards of a list of pairs.

    Args:
        scorer: the CLIP.
        pairs: all of them.
        captions: of the pairs, by the name of their column; the first is the one that decides.
        folder: of the shards and of the embedded texts.
        rejects: where images that cannot be decoded are noted.
        precision: of the forward pass.
        batch_size: images or texts at a time.
        workers: processes that decode.
        embeddings: where image embeddings are kept; None keeps none.
        rows: pairs in a shard.
    """

    scorer: Scorer
    pairs: Sequence[Pair]
    captions: dict[str, CaptionIndex]
    folder: Path
    rejects: Rejects
    precision: Precision = "fp32"
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

    def texts(self, column: str) -> EmbeddingShards:
        """Return where the embedded captions of a column lie."""
        return EmbeddingShards(self.folder / "texts" / column, len(self.captions[column].texts))

    def embed_texts(self, rank: int, processes: int, progress: Progress) -> None:
        """Embed this process's share of the distinct captions."""
        for column, index in self.captions.items():
            shards = self.texts(column)
            own = [number for number in shards.numbers()[rank::processes] if not shards.has(number)]
            for done, number in enumerate(own, start=1):
                span = shards.span(number)
                with autocast(self.scorer, self.precision):
                    # Captions of like length together: nothing changes but the time that decoding them takes.
                    embedded = self.scorer.embed_texts(index.texts[span.start : span.stop])
                shards.write(number, embedded)
                progress(done, len(own))

    def score(self, rank: int, processes: int, progress: Progress) -> float:
        """Score this process's share of the shards.

        Returns:
            The share of the time that was spent waiting for decoded images, in [0, 1]; 0 where there was nothing to do.
        """
        own = [number for number in self.shards()[rank::processes] if not self.path(number).is_file()]
        references = {column: self.references(column) for column in self.captions} if own else {}
        begun, waited = time.perf_counter(), 0.0
        spans = [range(number * self.rows, min(len(self.pairs), (number + 1) * self.rows)) for number in own]
        batches = iter(self._batches(spans))
        for done, (number, span) in enumerate(zip(own, spans, strict=True), start=1):
            images = np.zeros((len(span), 0), np.float32)
            for _ in range(-(-len(span) // self.batch_size)):
                start = time.perf_counter()
                pixels, places = next(batches)
                waited += time.perf_counter() - start
                if len(places):
                    embedded = embed_pixels(self.scorer, pixels, self.precision)
                    images = images if images.size else np.zeros((len(span), embedded.shape[1]), np.float32)
                    images[places - span.start] = embedded
            self._write(number, span, images, references)
            progress(done, len(own))
        seconds = time.perf_counter() - begun
        return waited / seconds if own else 0.0

    def references(self, column: str) -> tuple[Int64[np.ndarray, " references"], Float[np.ndarray, "references dimension"]]:
        """Return numbers and embeddings of the captions that others are measured against, in every process and run the same."""
        count = len(self.captions[column].texts)
        draw = Seeds(0).numpy("references", column, count)
        chosen = np.sort(draw.choice(count, size=min(REFERENCES, count), replace=False))
        return chosen, self.texts(column).take(chosen).astype(np.float32)

    def read(self) -> pa.Table:
        """Read all shards, in the order of the pairs; pairs whose image cannot be read are not in them."""
        return pa.concat_tables([pq.read_table(self.path(number)) for number in self.shards()])

    def _batches(self, spans: Sequence[range]) -> DataLoader[Any]:
        chunks = [
            list(span[start : start + self.batch_size]) for span in spans for start in range(0, len(span), self.batch_size)
        ]
        return DataLoader(
            _Pixels(self.pairs, self.scorer.preprocess, self.rejects),
            batch_sampler=chunks,
            num_workers=self.workers,
            collate_fn=partial(_stack),
            pin_memory=torch.cuda.is_available(),
            generator=torch.Generator(),
        )

    def _write(self, number: int, span: range, images: Float[np.ndarray, "count dimension"], references: Any) -> None:
        """Compare images with their captions and write the shard, its embeddings first: a shard that is there has them."""
        readable = images.any(axis=1)
        if not images.shape[1]:
            images = np.zeros((len(span), next(iter(references.values()))[1].shape[1]), np.float32)
        if self.embeddings is not None:
            self.embeddings.write(number, images.astype(np.float16))
        columns: dict[str, pa.Array] = {
            "row": pa.array(np.arange(span.start, span.stop)),
            "key": pa.array([self.pairs[row].key for row in span], pa.string()),
        }
        for name, index in self.captions.items():
            members, owners = index.of_pairs(span.start, span.stop)
            texts = self.texts(name).take(members).astype(np.float32)
            cosines = np.einsum("nd,nd->n", images[owners], texts)
            counts = np.bincount(owners, minlength=len(span))
            mean = np.bincount(owners, cosines, minlength=len(span)) / np.maximum(counts, 1)
            columns[f"similarity:{name}"] = pa.array(mean.astype(np.float32))
            numbers, sample = references[name]
            others = images @ sample.T
            columns[f"margin:{name}"] = pa.array((mean - others.mean(axis=1)).astype(np.float32))
            first = members[np.minimum(np.cumsum(counts) - counts, max(0, len(members) - 1))]
            columns[f"mismatched:{name}"] = pa.array(_mismatch(others, numbers, first, span).astype(np.float32))
        table = pa.table(columns).filter(pa.array(readable))
        with writing(self.path(number)) as temporary:
            pq.write_table(table, temporary, compression="zstd")


def _mismatch(
    others: Float[np.ndarray, "count references"],
    numbers: Int64[np.ndarray, " references"],
    own: Int64[np.ndarray, " count"],
    span: range,
) -> Float[np.ndarray, " count"]:
    """Take of each image the cosine with one caption of the sample that is not its own; NaN where there is no other."""
    if len(numbers) < 2:
        return np.full(len(own), np.nan, np.float32)
    place = np.asarray(span) % len(numbers)
    place = np.where(numbers[place] == own, (place + 1) % len(numbers), place)
    return others[np.arange(len(own)), place]


class _Pixels(Dataset[Any]):
    """Decoded and preprocessed images; an unreadable one is noted, and None."""

    def __init__(self, pairs: Sequence[Pair], preprocess: Callable[[Any], Tensor], rejects: Rejects) -> None:
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


def _stack(items: Sequence[tuple[int, Tensor | None]]) -> tuple[Tensor, Int64[np.ndarray, " read"]]:
    read = [(row, pixels) for row, pixels in items if pixels is not None]
    rows = np.asarray([row for row, _ in read], np.int64)
    return (torch.stack([pixels for _, pixels in read]) if read else torch.empty(0)), rows


def find_batch_size(scorer: Scorer, precision: Precision, *, most: int = 512) -> int:
    """Find how many images at a time a scorer embeds fastest on this device: doubled for as long as it gains a twentieth.

    Args:
        scorer: the CLIP.
        precision: of the forward pass.
        most: where to stop; also after a try that takes seconds or does not fit the memory.
    """
    rates: dict[int, float] = {}
    size = 8
    while size <= most:
        try:
            seconds = _time_images(scorer, precision, size)
        except torch.OutOfMemoryError:
            break
        rates[size] = size / seconds
        if seconds > SLOWEST_TRY or (size > 8 and rates[size] < 1.05 * rates[size // 2]):
            break
        size *= 2
    return max(rates, key=rates.__getitem__) if rates else 1


def find_precision(scorer: Scorer, batch_size: int = 16) -> Precision:
    """Say whether bfloat16 embeds images a fifth faster than float32 here, by trying both."""
    if next(scorer.model.parameters()).device.type not in ("cuda", "cpu"):
        return "fp32"
    seconds: dict[Precision, float] = {precision: _time_images(scorer, precision, batch_size) for precision in ("fp32", "bf16")}
    return "bf16" if seconds["bf16"] * 1.2 < seconds["fp32"] else "fp32"


SLOWEST_TRY = 4.0
"""Seconds of a batch after which a larger one is not tried."""


def _time_images(scorer: Scorer, precision: Precision, count: int) -> float:
    """Time the embedding of blank images, the better of two tries after a first one that allocates."""
    blank = scorer.preprocess(Image.new("RGB", (64, 64))).expand(count, -1, -1, -1)
    tries = []
    for _ in range(3):
        start = time.perf_counter()
        embed_pixels(scorer, blank, precision)
        tries.append(time.perf_counter() - start)
        if tries[0] > SLOWEST_TRY:
            return tries[0]
    return min(tries[1:])


def embed_pixels(scorer: Scorer, pixels: Tensor, precision: Precision) -> Float[np.ndarray, "count dimension"]:
    """Embed preprocessed images as unit vectors, float32, whatever the precision of the forward pass."""
    device = next(scorer.model.parameters()).device
    with torch.inference_mode(), autocast(scorer, precision):
        embedded = scorer.model.encode_image(pixels.to(device, non_blocking=True), normalize=False)
    unit: Float[np.ndarray, "count dimension"] = torch.nn.functional.normalize(embedded.float(), dim=-1).cpu().numpy()
    return unit


def autocast(scorer: Scorer, precision: Precision) -> Any:
    """Return the context in which a scorer computes at a precision."""
    if precision == "fp32":
        return nullcontext()
    return torch.autocast(next(scorer.model.parameters()).device.type, torch.bfloat16)
