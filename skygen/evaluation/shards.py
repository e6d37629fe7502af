"""Embeddings of millions of images or texts: files of equally many rows, each written whole, that are mapped and not read.

Row ``n`` is row ``n mod rows`` of file ``n // rows``; a run that was broken off goes on with the files that are not there, and
any number of processes can share them out.
"""

from __future__ import annotations

import io
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import final

import numpy as np
from jaxtyping import Float, Int

from skygen.errors import DataError
from skygen.evaluation.seals import BLANK, check_seal, seal
from skygen.signals import wait_until
from skygen.storage import writing

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

    @classmethod
    def found_in(cls, folder: Path) -> EmbeddingShards:
        """Open a folder by what lies in it: files of ``ROWS`` each, and a last one that may have fewer; none are no rows.

        Raises:
            DataError: the last file is no table.
            StorageError: its bytes are not those that were written.
        """
        numbers = [int(path.stem) for path in folder.glob("*.npy") if path.stem.isdecimal()]
        if not numbers:
            return cls(folder, 0)
        return cls(folder, ROWS * max(numbers) + len(_open(cls(folder, 0)._path(max(numbers)))))

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
        content = io.BytesIO()  # numpy does not say why a disk refuses
        np.save(content, embeddings, allow_pickle=False)
        content.write(BLANK)  # behind the array, where nobody looks who maps the file
        with writing(self._path(number)) as temporary:
            temporary.write_bytes(content.getbuffer())
            seal(temporary)

    def map(self, number: int) -> Float[np.ndarray, "rows dimension"]:
        """Map one file, which is read through once in a process: what a flipped bit has made of it is not used.

        Raises:
            DataError: it is missing, no table, or has another number of rows.
            StorageError: its bytes are not those that were written.
        """
        block = _open(self._path(number))
        if len(block) != len(self.span(number)):
            raise DataError(
                f"{_name(self._path(number))} has {len(block)} rows instead of {len(self.span(number))}; delete it, and run "
                "again what made it."
            )
        return block

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


def _name(path: Path) -> str:
    return f"{path.parent}: file {int(path.stem)} of the embeddings"


def _open(path: Path) -> Float[np.ndarray, "rows dimension"]:
    """Map a file, and see that it is what was written."""
    try:
        check_seal(path)
        block = _map(path, path.stat().st_mtime_ns)
        if block.ndim != 2:
            raise ValueError(f"{block.ndim} axes instead of 2")
    except FileNotFoundError as error:
        raise DataError(f"{_name(path)} is missing; run again what made them, which goes on where it stopped.") from error
    except (OSError, ValueError, EOFError, SyntaxError, TokenError) as error:  # numpy parses the header as Python
        raise DataError(f"{_name(path)} cannot be read ({error}); delete it, and run again what made it.") from error
    return block


@lru_cache(maxsize=128)
def _map(path: Path, modified: int) -> Float[np.ndarray, "rows dimension"]:
    mapped: Float[np.ndarray, "rows dimension"] = np.load(path, mmap_mode="r", allow_pickle=False)
    return mapped
