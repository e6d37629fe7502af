"""What is missing in a ``TensorStore`` is made a batch at a time, and written a shard at a time.

What features of images and of prompts have in common: keys once each, the share of a process, and numbers that can be kept.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Generic, Literal, TypeVar, final

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor

from skygen.errors import ConfigError, DataError
from skygen.storage import require_room, to_words
from skygen.training.tensor_store import KEY_BYTES, TensorStore

_LOG = logging.getLogger("skygen")
SHARD_BYTES = 256 << 20
"""Largest shard: BLIP-base's 1024 images of 384 pixels would be 0.9 GB, and an interruption would lose them all."""

KeptDtype = Literal["bfloat16", "float16", "float32"]
Progress = Callable[[int, int], None]
Item = TypeVar("Item")


@dataclass(frozen=True)
class FeatureCacheSettings:
    """Where what frozen encoders say is kept, and how."""

    root: Path | None = None
    """Folder where features are kept, for all runs; off when left out."""
    dtype: KeptDtype = "bfloat16"
    """Of the kept values; float32 is twice as large."""
    shard_size: int = 1024
    """At most so many images, turned ones counted apart, in a file of at most 256 MB; what an interruption may lose."""
    batch_size: int = 32
    """Images that are encoded together."""

    def __post_init__(self) -> None:
        if min(self.shard_size, self.batch_size) < 1:
            raise ConfigError("features.shard_size and features.batch_size must be at least 1")


@dataclass(frozen=True, slots=True)
class Share:
    """One process's part of what is made together.

    Args:
        process_index: of this process.
        processes: in all.
        wait: returns when every process has called it, such as ``accelerator.wait_for_everyone``.
    """

    process_index: int = 0
    processes: int = 1
    wait: Callable[[], None] = lambda: None

    def of(self, hashes: UInt8[np.ndarray, "items 32"]) -> Bool[np.ndarray, " items"]:
        """Say which things this process makes, by their hashes alone: the same whatever is there already."""
        return hashes[:, :8].copy().view(np.uint64)[:, 0] % self.processes == self.process_index

    def say(self, message: str) -> None:
        """Log what all processes would say, once."""
        _LOG.log(logging.DEBUG if self.process_index else logging.INFO, message)


def first_of_each(keys: UInt8[np.ndarray, "keys 32"], places: Int64[np.ndarray, " _some"]) -> Int64[np.ndarray, " _distinct"]:
    """Leave out, of the keys at ``places``, every one that has come before; the order stays."""
    _, firsts = np.unique(keys[places].view(f"S{KEY_BYTES}").reshape(-1), return_index=True)
    return places[np.sort(firsts)]


def announce(share: Share, root: Path, things: str, missing_bytes: int, wanted_bytes: int, mend: str) -> None:
    """Say how much there is to do and how large it becomes.

    Args:
        share: of the process that speaks.
        root: folder of the features.
        things: how many there are, in words.
        missing_bytes: that are to be written.
        wanted_bytes: of all that is asked for.
        mend: what could be done about too little room.

    Raises:
        StorageError: the disk is too small.
    """
    free = require_room(root, missing_bytes, mend)
    sizes = f"{to_words(missing_bytes)} of {to_words(wanted_bytes)} are missing, {to_words(free)} are free"
    share.say(f"{things} are there; {sizes}")


def keep_finite(
    values: Float[Tensor, "batch ..."], settings: FeatureCacheSettings, name: Callable[[int], str]
) -> Float[Tensor, "batch ..."]:
    """Round to the dtype that is kept.

    Args:
        values: one row a thing, on any device.
        settings: with the dtype.
        name: of a row, for the error.

    Returns:
        On the CPU.

    Raises:
        DataError: an encoder gave something else than numbers, or one too large for the dtype.
    """
    kept = values.to("cpu", getattr(torch, settings.dtype))
    finite = kept.reshape(len(kept), -1).isfinite().all(dim=1)
    if not finite.all():
        row = int(finite.int().argmin())
        if values[row].isfinite().all():
            raise DataError(f"{name(row)}: its features are too large for {settings.dtype}; set --features.dtype to float32.")
        raise DataError(
            f"{name(row)}: the encoder gives features that are not finite numbers; leave it out of the data, or use weights "
            "that compute in float32."
        )
    return kept


@final
@dataclass(slots=True)
class ShardFiller(Generic[Item]):
    """Collects things until they are a batch, and batches until they are a shard.

    Args:
        store: that is written to.
        encode: makes the rows of a batch, on the CPU in the store's dtype.
        settings: with the sizes of batch and shard.
        size_bytes: of one row on the disk.
    """

    store: TensorStore
    encode: Callable[[Sequence[Item]], Tensor]
    settings: FeatureCacheSettings
    size_bytes: int
    _waiting: list[Item] = field(default_factory=list)
    _keys: list[np.ndarray] = field(default_factory=list)
    _values: list[Tensor] = field(default_factory=list)

    def take(self, key: UInt8[np.ndarray, " 32"], item: Item) -> int:
        """Take one thing in; return how many have been encoded for it: none, or a batch."""
        self._waiting.append(item)
        self._keys.append(key)
        if len(self._keys) == min(self.settings.shard_size, max(1, SHARD_BYTES // self.size_bytes)):
            return self.close()
        return self._encode() if len(self._waiting) == self.settings.batch_size else 0

    def close(self) -> int:
        """Write what has come as a shard; return how many things were still to be encoded."""
        encoded = self._encode()
        if self._keys:
            self.store.add(np.stack(self._keys), torch.cat(self._values))
            self._keys.clear()
            self._values.clear()
        return encoded

    def _encode(self) -> int:
        encoded = len(self._waiting)
        if encoded:
            with torch.no_grad():
                self._values.append(self.encode(self._waiting))
            self._waiting.clear()
        return encoded


@final
class Tally:
    """Counts what is made, shows how far it is, and says at the end how fast it went.

    Args:
        total: things to be made.
        progress: called with how many are done, and the total.
    """

    def __init__(self, total: int, progress: Progress) -> None:
        self.total, self.done = total, 0
        self._progress, self._begun = progress, time.monotonic()
        progress(0, total)

    def add(self, count: int) -> None:
        """Count things that have just been made."""
        if count:
            self.done += count
            self._progress(self.done, self.total)

    def in_words(self, things: str) -> str:
        """Return how many were made, in what time, and how many a second."""
        seconds = time.monotonic() - self._begun
        return f"made {self.done:,} in {seconds:.1f} s, {self.done / max(seconds, 1e-9):.1f} {things} a second"
