"""Tensors that are computed once and kept: rows by a key of 32 bytes, in files that are each written whole.

A shard is named by its keys, so that any number of processes add to one folder at once, and a broken-off run goes on with the
shards that are there. Damage is found out: a shard that cannot be read is left out, a row with another checksum is refused.
"""

from __future__ import annotations

import logging
import zlib
from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, NamedTuple, final

import numpy as np
import torch
from jaxtyping import Float, Int64, UInt8, UInt64
from torch import Tensor

from skygen.errors import DataError, StorageError
from skygen.storage import storage_error, writing

_LOG = logging.getLogger("skygen")
KEY_BYTES = 32
"""Of a SHA-256."""
_MAPPED = 256
"""Shards that a process keeps mapped; a system allows some 65,000 mappings, and a shard that is mapped anew costs little."""
_AT_ONCE = 1 << 18
"""Keys that are looked up together: 20 MB of intermediate results."""

Keys = UInt8[np.ndarray, "_keys 32"]


class Form(NamedTuple):
    """What all tensors of a store have in common.

    Args:
        shape: of one tensor.
        dtype: of its values.
    """

    shape: tuple[int, ...]
    dtype: torch.dtype

    @property
    def size_bytes(self) -> int:
        """Bytes that one tensor takes on the disk, its key and checksum included."""
        return int(np.prod(self.shape, dtype=np.int64)) * self.dtype.itemsize + KEY_BYTES + 8

    def __str__(self) -> str:
        return f"{' x '.join(map(str, self.shape)) or 'one'} {str(self.dtype).removeprefix('torch.')}"


@final
@dataclass(frozen=True, slots=True)
class _Shard:
    name: str
    first: int
    rows: int
    size_bytes: int


@final
class TensorStore:
    """A folder of tensors of one shape and dtype, found by keys; a copy in another process opens the files anew.

    Keys take 48 bytes each in memory, from the opening on until ``forget_keys``; a copy has none until it locates some.

    Args:
        folder: of the shards; it need not be there yet.

    Raises:
        DataError: it holds tensors of two shapes or dtypes.
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.form: Form | None = None
        self._shards: list[_Shard] = []
        self._starts: Int64[np.ndarray, " shards"] = np.empty(0, np.int64)
        self._index: _Index | None = None
        self._mapped: OrderedDict[str, Any] = OrderedDict()
        found: list[Keys] = []
        for path in sorted(folder.glob("*.safetensors")):
            try:
                form, keys = _read_head(path)
            except _UnreadableError as error:
                _LOG.warning(f"{path}: {error}; its tensors are made again; it may be deleted")
                continue
            self._take_in(path.name, form, len(keys), path.stat().st_size)
            found.append(keys)
        self._index = _Index.of(found)

    def __len__(self) -> int:
        return self._shards[-1].first + self._shards[-1].rows if self._shards else 0

    def __getstate__(self) -> dict[str, Any]:
        """Leave out what the other process can read itself: keys and mapped files."""
        return {**self.__dict__, "_index": None, "_mapped": OrderedDict()}

    @property
    def size_bytes(self) -> int:
        """Bytes of the shards on the disk."""
        return sum(shard.size_bytes for shard in self._shards)

    def add(self, keys: UInt8[np.ndarray, "rows 32"], values: Float[Tensor, "rows ..."]) -> None:
        """Write tensors as one shard.

        Args:
            keys: one a tensor.
            values: of the shape and dtype of those that are there; on any device.

        Raises:
            DataError: they have another shape or dtype.
            StorageError: the disk is full or refuses.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        if not len(keys):
            return
        form = Form(tuple(values.shape[1:]), values.dtype)
        self._require(form, "new tensors")
        values = values.detach().to("cpu").contiguous()
        tensors = {
            "values": values,
            "keys": torch.from_numpy(np.ascontiguousarray(keys)),
            "checksums": torch.tensor([_checksum(row) for row in values], dtype=torch.int64),
        }
        path = self.folder / f"{_name_of(keys)}.safetensors"
        with writing(path) as temporary:
            try:
                save_file(tensors, temporary)
            except SafetensorError as error:  # how it reports a full disk
                raise storage_error(path, OSError(0, str(error))) from error
        self._mapped.pop(path.name, None)  # else a shard that is written anew would still be read from the old file
        self._index = None
        if all(shard.name != path.name for shard in self._shards):
            self._take_in(path.name, form, len(keys), path.stat().st_size)

    def locate(self, keys: UInt8[np.ndarray, "keys 32"]) -> Int64[np.ndarray, " keys"]:
        """Find out where tensors are.

        Args:
            keys: any number of them, in any order.

        Returns:
            The slot of each for ``read``, -1 for one that is not there. Slots are this store's and its copies', not those of
            the folder when it is opened again.

        Raises:
            StorageError: a shard that was there when the store was opened is not any more.
        """
        if self._index is None:
            self._index = _Index.of([self._keys_of(shard) for shard in self._shards])
        index = self._index
        parts = [index.find(keys[start : start + _AT_ONCE]) for start in range(0, len(keys), _AT_ONCE)]
        return np.concatenate(parts) if parts else np.empty(0, np.int64)

    def forget_keys(self) -> None:
        """Free the memory that the keys take; ``locate`` would read them again."""
        self._index = None

    def read(self, slot: int) -> Float[Tensor, ...]:
        """Read one tensor, and no other, from its mapped file.

        Args:
            slot: from ``locate``.

        Returns:
            On the CPU; no view of the file.

        Raises:
            StorageError: its bytes are not those that were written.
        """
        if not 0 <= slot < len(self):
            raise ValueError(f"slot is {slot}; {self.folder} has {len(self)}, the first being 0")
        shard = self._shards[int(np.searchsorted(self._starts, slot, side="right")) - 1]
        row = slot - shard.first
        values, checksums = self._map(shard)
        value: Tensor = values[row].clone()
        if _checksum(value) != int(checksums[row]):
            raise _damaged(self.folder / shard.name, f"row {row} is not what was written")
        return value

    def _take_in(self, name: str, form: Form, rows: int, size_bytes: int) -> None:
        self._require(form, name)
        self.form = form
        self._shards.append(_Shard(name, len(self), rows, size_bytes))
        self._starts = np.append(self._starts, self._shards[-1].first)

    def _require(self, form: Form, what: str) -> None:
        if self.form not in (None, form):
            raise DataError(
                f"{self.folder}: holds tensors of {self.form}, {what} of {form}; keep each kind in a folder of its own."
            )

    def _keys_of(self, shard: _Shard) -> Keys:
        try:
            _, keys = _read_head(self.folder / shard.name)
        except _UnreadableError as error:
            raise _damaged(self.folder / shard.name, str(error)) from error
        return keys

    def _map(self, shard: _Shard) -> Sequence[Any]:
        from safetensors import SafetensorError, safe_open

        if shard.name not in self._mapped:
            try:
                file: Any = safe_open(self.folder / shard.name, framework="pt")
                self._mapped[shard.name] = file.get_slice("values"), file.get_tensor("checksums").clone()
            except (OSError, SafetensorError) as error:
                raise _damaged(self.folder / shard.name, str(error).strip()) from error
            if len(self._mapped) > _MAPPED:
                self._mapped.popitem(last=False)
        self._mapped.move_to_end(shard.name)
        found: Sequence[Any] = self._mapped[shard.name]
        return found


class _UnreadableError(Exception):
    """Says why a shard cannot be used."""


def _read_head(path: Path) -> tuple[Form, Keys]:
    """Read the shape and dtype of a shard's values, and its keys; its values are not read."""
    from safetensors import SafetensorError, safe_open

    try:
        with safe_open(path, framework="pt") as file:
            values, checksums = file.get_slice("values"), file.get_slice("checksums")
            keys: np.ndarray = file.get_tensor("keys").numpy().copy()
            rows, *shape = values.get_shape()
            form = Form(tuple(shape), values[:0].dtype)
            lengths = {rows, len(keys), *checksums.get_shape()}
    except (OSError, SafetensorError, ValueError) as error:
        raise _UnreadableError(f"cannot be read ({str(error).strip().rstrip('.')})") from error
    if len(lengths) != 1 or keys.shape[1:] != (KEY_BYTES,) or keys.dtype != np.uint8 or not form.dtype.is_floating_point:
        raise _UnreadableError("its values, keys and checksums do not belong together")
    if _name_of(keys) != path.stem:
        raise _UnreadableError("its keys are not those that it is named by")
    return form, keys


def _name_of(keys: Keys) -> str:
    return sha256(keys.tobytes()).hexdigest()


def _checksum(value: Float[Tensor, ...]) -> int:
    return zlib.crc32(value.reshape(-1).view(torch.uint8).numpy().data)


def _damaged(path: Path, why: str) -> StorageError:
    return StorageError(f"{path}: {why}; delete it, and the same command makes its features again.")


@final
@dataclass(frozen=True, slots=True)
class _Index:
    """Where keys are, sorted by their first 8 bytes, which are as good as unique, as those of hashes are.

    Args:
        keys: in the order of the slots.
        words: the first 8 bytes of each, sorted.
        slots: in the order of ``words``.
    """

    keys: Keys
    words: UInt64[np.ndarray, " keys"]
    slots: Int64[np.ndarray, " keys"]

    @classmethod
    def of(cls, parts: Sequence[Keys]) -> _Index:
        keys = np.concatenate([np.empty((0, KEY_BYTES), np.uint8), *parts])
        words = _first_words(keys)
        slots = np.argsort(words, kind="stable")  # of a key that two shards have, the first is found
        return cls(keys, words[slots], slots)

    def find(self, wanted: UInt8[np.ndarray, "keys 32"]) -> Int64[np.ndarray, " keys"]:
        found = np.full(len(wanted), -1, np.int64)
        words = _first_words(wanted)
        places = np.searchsorted(self.words, words)
        looking = np.arange(len(wanted))
        while len(looking):
            looking = looking[places[looking] < len(self.words)]
            looking = looking[self.words[places[looking]] == words[looking]]
            slots = self.slots[places[looking]]
            same = (self.keys[slots] == wanted[looking]).all(axis=1)
            found[looking[same]] = slots[same]
            looking = looking[~same]
            places[looking] += 1
        return found


def _first_words(keys: UInt8[np.ndarray, "keys 32"]) -> UInt64[np.ndarray, " keys"]:
    return np.ascontiguousarray(keys[:, :8]).view(">u8").reshape(-1).astype(np.uint64)
