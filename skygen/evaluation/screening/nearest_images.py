"""The nearest training image of each picture, by SkyCLIP's cosine and by a perceptual hash, exactly and among millions.

Hashes lie on the disk as embeddings do, 64 signs an image, and so does what was found: in files that are written whole and that
any number of processes share out; a run that was broken off goes on after them.
"""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt64

from skygen.data.images import open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Reject, Rejects
from skygen.data.table import PairList
from skygen.errors import DataError, ImageError
from skygen.evaluation.alignment import matched_cosine
from skygen.evaluation.screening.perceptual_hash import BITS, find_nearest_hash, hash_image, measure_couples, pack
from skygen.evaluation.search.nearest import find_embedded, search
from skygen.evaluation.shards import EmbeddingShards, Progress, fill_shards

QUERIES_AT_A_TIME: Final = 256
"""Pictures whose nearest are looked for together, and then written: what a kill costs."""
HASHED_AT_A_TIME: Final = 1024
READERS: Final = 4
"""Threads that decode images."""


@final
@dataclass(frozen=True, slots=True)
class ImageSet:
    """Images with what they are compared by; rows of zeros stand for what could not be read.

    Args:
        pairs: whose images they are.
        embeddings: a row an image, of a CLIP.
        hashes: a row of 64 signs an image.
    """

    pairs: PairList
    embeddings: EmbeddingShards
    hashes: EmbeddingShards

    def find_readable(self) -> Bool[np.ndarray, " images"]:
        """Say of each image whether it is embedded and hashed."""
        return find_embedded(self.embeddings) & find_embedded(self.hashes)

    def pack_hashes(self) -> UInt64[np.ndarray, " images"]:
        """Read all hashes, 8 bytes an image."""
        return np.concatenate([np.zeros(0, np.uint64), *(pack(np.asarray(block)) for _, block in self.hashes.blocks())])


@final
@dataclass(frozen=True, slots=True)
class Nearest:
    """The nearest training image of each picture, by cosine and by hash; -1 and NaN for a picture that could not be read.

    Args:
        row: of the image with the highest cosine.
        similarity: that cosine, in [-1, 1].
        distance: between the hashes of these two, 0 to 64.
        hash_row: of the image with the nearest hash.
        hash_similarity: the cosine of those two.
        hash_distance: between their hashes.
    """

    row: Int64[np.ndarray, " pictures"]
    similarity: Float[np.ndarray, " pictures"]
    distance: Float[np.ndarray, " pictures"]
    hash_row: Int64[np.ndarray, " pictures"]
    hash_similarity: Float[np.ndarray, " pictures"]
    hash_distance: Float[np.ndarray, " pictures"]

    @classmethod
    def of(cls, shards: EmbeddingShards) -> Nearest:
        """Read what ``find_nearest`` has written."""
        table = np.concatenate([np.zeros((0, 6)), *(block for _, block in shards.blocks())])
        row, similarity, distance, hash_row, hash_similarity, hash_distance = table.T
        return cls(row.astype(np.int64), similarity, distance, hash_row.astype(np.int64), hash_similarity, hash_distance)

    def take(self, places: Int64[np.ndarray, " chosen"]) -> Nearest:
        """Return those of some pictures."""
        return Nearest(*(getattr(self, name)[places] for name in self.__slots__))

    def read(self) -> Nearest:
        """Return those of the pictures that could be read."""
        return self.take(np.flatnonzero(self.row >= 0))


def hash_images(
    pairs: PairList, shards: EmbeddingShards, rejects: Rejects, rank: int, processes: int, progress: Progress
) -> None:
    """Hash this process's share of the images, and wait for the others'; what cannot be read is noted, a row of zeros."""

    def compute(span: range) -> Float[np.ndarray, "rows bits"]:
        rows = np.zeros((len(span), BITS), np.float16)
        some = [pairs[row] for row in span]
        with ThreadPoolExecutor(READERS, "hash") as pool:
            for place, found in enumerate(pool.map(_try_hash, some)):
                if isinstance(found, Reject):
                    rejects.add_all([found])
                else:
                    rows[place] = found
        return rows

    fill_shards(shards, compute, rank, processes, progress)


def find_nearest(
    pictures: ImageSet,
    rows: Int64[np.ndarray, " chosen"],
    training: ImageSet,
    shards: EmbeddingShards,
    *,
    leave_out_own: bool = False,
    rank: int = 0,
    processes: int = 1,
    progress: Progress = lambda *_: None,
) -> Nearest:
    """Find the nearest training image of each picture, in memory of a fixed size but for 8 bytes a training image.

    Args:
        pictures: that are looked at.
        rows: of these, in the order in which they are told of.
        training: that the generator has learnt from.
        shards: where what is found is kept, ``QUERIES_AT_A_TIME`` a file; what is there is not looked for again.
        leave_out_own: the pictures are the training images themselves, and none is compared with itself.
        rank: of this process.
        processes: that share the work.
        progress: is told how many pictures of this process are done.

    Raises:
        DataError: no training image can be read, or but one where that is left out.
    """
    among, packed = training.find_readable(), training.pack_hashes()
    if among.sum() <= leave_out_own:
        raise DataError(f"{int(among.sum())} of the {len(among)} training images can be read, too few to compare with.")
    readable = pictures.find_readable()

    def compute(span: range) -> Float[np.ndarray, "rows width"]:
        asked = rows[span.start : span.stop]
        table = np.full((len(asked), 6), np.nan)
        table[:, [0, 3]] = -1
        places = np.flatnonzero(readable[asked])
        if len(places):
            own = asked[places]
            vectors, signs = pictures.embeddings.take(own).astype(np.float32), pictures.hashes.take(own)
            found, cosines = search(training.embeddings, vectors, 1 + leave_out_own, among=among)
            first = (found[:, 0] == own).astype(np.int64) if leave_out_own else np.zeros(len(own), np.int64)
            each = np.arange(len(own))
            row, similarity = found[each, first], cosines[each, first]
            hash_row, distance = find_nearest_hash(signs, packed, among, own if leave_out_own else None)
            hash_similarity = matched_cosine(vectors, training.embeddings.take(hash_row).astype(np.float32))
            couples = measure_couples(signs, packed[row])
            table[places] = np.column_stack([row, similarity, couples, hash_row, hash_similarity, distance])
        return table

    fill_shards(shards, compute, rank, processes, progress)
    return Nearest.of(shards)


def _try_hash(pair: Pair) -> Float[np.ndarray, " bits"] | Reject:
    try:
        return hash_image(open_image(pair.image))
    except ImageError as error:
        return Reject(pair.key, str(error), str(pair.image))
