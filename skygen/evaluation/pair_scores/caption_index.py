"""The captions of millions of pairs, each distinct one once: 1.5 million of SkyScript's rows have 70 thousand captions."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from typing import final

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc
from jaxtyping import Int, Int32, Int64

from skygen.data.table import RECORD

TEXTS_AT_A_TIME = 65_536


@final
@dataclass(frozen=True, slots=True)
class CaptionIndex:
    """The captions of all pairs, as numbers: 4 bytes a caption, and each distinct text once, in Arrow's memory.

    Args:
        texts: the distinct captions, in the order in which they first come.
        starts: place in ``members`` of the first caption of each pair, and the end.
        members: numbers of the captions of each pair.
    """

    texts: pa.StringArray
    starts: Int64[np.ndarray, " pairs_and_one"]
    members: Int32[np.ndarray, " captions"]

    @classmethod
    def of(cls, lists: Iterable[pa.ListArray]) -> CaptionIndex:
        """Number the captions of pairs.

        Args:
            lists: of texts, a list a pair, some thousands at a time; an empty or absent list is a pair without captions.
        """
        encoded: list[pa.DictionaryArray] = []
        lengths = [np.zeros(1, np.int64)]
        for some in lists:
            encoded.append(some.flatten().dictionary_encode())
            lengths.append(pc.fill_null(pc.list_value_length(some), 0).to_numpy(zero_copy_only=False).astype(np.int64))
        chunks = pa.chunked_array(encoded, pa.dictionary(pa.int32(), pa.string())).unify_dictionaries().chunks
        texts = chunks[0].dictionary if chunks else pa.array([], pa.string())
        members = np.concatenate([np.zeros(0, np.int32), *(chunk.indices.to_numpy() for chunk in chunks)])
        return cls(texts, np.cumsum(np.concatenate(lengths)), members.astype(np.int32, copy=False))

    def __len__(self) -> int:
        """Count the pairs."""
        return len(self.starts) - 1

    def take(self, rows: Int[np.ndarray, " chosen"]) -> CaptionIndex:
        """Return the captions of some pairs, in any order; -1 stands for a pair that has none."""
        counts = np.where(rows < 0, 0, np.diff(self.starts)[rows])
        starts = np.concatenate([[0], np.cumsum(counts)]).astype(np.int64)
        places = np.repeat(self.starts[rows] - starts[:-1], counts) + np.arange(starts[-1])
        return CaptionIndex(self.texts, starts, self.members[places])

    def of_pairs(self, first: int, stop: int) -> tuple[Int32[np.ndarray, " captions"], Int64[np.ndarray, " captions"]]:
        """Return the captions of some pairs, and which of these pairs each belongs to, from 0."""
        starts = self.starts[first : stop + 1]
        return self.members[starts[0] : starts[-1]], np.repeat(np.arange(stop - first), np.diff(starts))

    def fingerprint(self) -> str:
        """Hash texts, and which pair has which: 16 hexadecimal digits of SHA-256."""
        digest = sha256(self.starts.astype("<i8").tobytes())
        digest.update(self.members.astype("<i4").tobytes())
        for start in range(0, len(self.texts), TEXTS_AT_A_TIME):
            texts = self.texts[start : start + TEXTS_AT_A_TIME].to_pylist()
            digest.update("".join(f"{text}{RECORD}" for text in texts).encode())
        return digest.hexdigest()[:16]
