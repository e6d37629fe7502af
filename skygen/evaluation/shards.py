"""Embeddings of millions of images or texts: files of equally many rows, each written whole, that are mapped and not read.

Row ``n`` is row ``n mod rows`` of file ``n // rows``; a run that was broken off goes on with the files that are not there, and
any number of processes can share them out.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Float, Int

from skygen.signals import wait_until
from skygen.storage import storage_error, writing

ROWS = 4096
"""In a file: 8 MB of 512 float32 values each."""

Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class EmbeddingShards:
    """A folder of embeddings.

    Args:
        folder: of the files ``NNNNNN.npy``.
        count: rows in all.
        rows: in each file but the last.
    """

    folder: Path
    count: int
    rows: int = ROWS

    def numbers(self) -> range:
        """Return the numbers of the files."""
        return range(-(-self.count // self.rows))

    def span(self, number: int) -> range:
        """Return the rows of a file."""
        return range(number * self.rows, min(self.count, (number + 1) * self.rows))

    def has(self, number: int) -> bool:
        """Say whether a file has been written."""
        return self._path(number).is_file()

    def write(self, number: int, embeddings: Float[np.ndarray, "rows dimension"]) -> None:
        """Write one file; rows that are all zero stand for what could not be embedded.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if len(embeddings) != len(self.span(number)):
            raise ValueError(f"file {number} of {self.folder} has {len(self.span(number))} rows, not {len(embeddings)}")
        with writing(self._path(number)) as temporary, temporary.open("wb") as file:
            try:
                np.save(file, embeddings, allow_pickle=False)
            except OSError as error:  # numpy counts the values that a full disk has taken, and tells no errno
                raise storage_error(self._path(number), OSError(0, str(error))) from error

    def map(self, number: int) -> Float[np.ndarray, "rows dimension"]:
        """Map one file."""
        return _map(self._path(number))

    def blocks(self) -> Iterator[tuple[range, Float[np.ndarray, "rows dimension"]]]:
        """Yield the rows and the content of every file, in order."""
        for number in self.numbers():
            yield self.span(number), self.map(number)

    def take(self, rows: Int[np.ndarray, " chosen"]) -> Float[np.ndarray, "chosen dimension"]:
        """Gather rows, in any order and any number of times."""
        files = rows // self.rows
        gathered: Float[np.ndarray, "chosen dimension"] | None = None
        for number in np.unique(files).tolist():
            places = np.flatnonzero(files == number)
            found = self.map(number)[rows[places] - number * self.rows]
            if gathered is None:
                gathered = np.empty((len(rows), found.shape[1]), found.dtype)
            gathered[places] = found
        return np.empty((0, 0), np.float32) if gathered is None else gathered

    def _path(self, number: int) -> Path:
        return self.folder / f"{number:06d}.npy"


def fill_shards(
    shards: EmbeddingShards,
    compute: Callable[[range], Float[np.ndarray, "rows width"]],
    rank: int,
    processes: int,
    progress: Progress,
) -> None:
    """Compute this process's share of the files that are not there, and wait for the others' files."""
    share = sorted(list(shards.numbers())[rank::processes], key=lambda number: not shards.has(number))
    done, total = 0, sum(len(shards.span(number)) for number in share)
    for number in share:
        if not shards.has(number):
            progress(done, total)
            shards.write(number, compute(shards.span(number)))
        done += len(shards.span(number))
        progress(done, total)
    wait_until(lambda: all(shards.has(number) for number in reversed(shards.numbers())))


@lru_cache(maxsize=128)
def _map(path: Path) -> Float[np.ndarray, "rows dimension"]:
    mapped: Float[np.ndarray, "rows dimension"] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
