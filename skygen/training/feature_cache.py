"""What a frozen encoder says of an image is computed once, and read in every epoch and every further run.

An image is known by the SHA-256 of its file: one that lies under two paths is encoded once, one that has changed is encoded
anew. So it is with everything else that the features depend on: resolution, dihedral change, weights of the encoder, dtype.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from itertools import islice
from pathlib import Path
from typing import Any, Literal, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int64, UInt8
from torch import Tensor
from torch.utils.data import DataLoader

from skygen.data.archives import read_bytes
from skygen.data.augmentation import dihedral
from skygen.data.downloads.plan import to_words
from skygen.data.framing import ImageSettings
from skygen.data.images import fit_image, image_to_tensor, open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Reject, Rejects
from skygen.errors import ArchiveError, ConfigError, DataError, ImageError
from skygen.training.tensor_store import KEY_BYTES, Form, TensorStore

_LOG = logging.getLogger("skygen")
SCHEMA = 1
"""Raised when the same file, settings and weights come to give other features: the pixels are made another way."""
SHARD_BYTES = 256 << 20
"""Largest shard: BLIP-base's 1024 images of 384 pixels would be 0.9 GB, and an interruption would lose them all."""
UNREADABLE, NOT_KEPT = -1, -2
_READERS, _HASHED_TOGETHER = 4, 256
"""Threads that hash files, as reading and SHA-256 both let others run; and files that are handed to them at a time."""
MISSING = "missing: no such file"

Progress = Callable[[int, int], None]
Hashes = UInt8[np.ndarray, "_files 32"]


@dataclass(frozen=True)
class FeatureCacheSettings:
    """Where a frozen encoder's features are kept, and how."""

    root: Path | None = None
    """Folder where features are kept, for all runs; off when left out."""
    dtype: Literal["bfloat16", "float16", "float32"] = "bfloat16"
    """Of the kept values; float32 is twice as large."""
    shard_size: int = 1024
    """At most so many images, turned ones counted apart, in a file of at most 256 MB; what an interruption may lose."""
    batch_size: int = 32
    """Images that are encoded together."""

    def __post_init__(self) -> None:
        if min(self.shard_size, self.batch_size) < 1:
            raise ConfigError("features.shard_size and features.batch_size must be at least 1")


@runtime_checkable
class FrozenEncoder(Protocol):
    """What looks at images and does not change while it is trained with."""

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch ..."]:
        """Encode RGB in [-1, 1]."""
        ...

    def encoder_fingerprint(self) -> str:
        """Name all that decides what ``encode`` gives, in letters, digits and hyphens."""
        ...


@final
@dataclass(frozen=True, slots=True)
class CachedFeatures:
    """The features of a list of pairs; a copy for a loader's worker holds 8 bytes for each pair and variant.

    Args:
        store: where they are.
        slots: of each pair and variant; -1 where the image cannot be read, -2 where a variant is not kept.
    """

    store: TensorStore
    slots: Int64[np.ndarray, "pairs variants"]

    def read(self, row: int, variant: int) -> Float[Tensor, ...] | None:
        """Return the features of the row-th pair under the variant-th dihedral change.

        Returns:
            On the CPU, in the cache's dtype; None where the image could not be read.

        Raises:
            ValueError: this variant of the pair is not kept.
            StorageError: what was kept is damaged.
        """
        slot = int(self.slots[row, variant])
        if slot == NOT_KEPT:
            raise ValueError(f"row {row}, variant {variant}: this pair is kept upright only, as variant 0")
        return None if slot == UNREADABLE else self.store.read(slot)


def build_features(
    encoder: FrozenEncoder,
    pairs: Sequence[Pair],
    images: ImageSettings,
    settings: FeatureCacheSettings,
    rejects: Rejects,
    *,
    device: torch.device | str,
    process_index: int = 0,
    processes: int = 1,
    wait: Callable[[], None] = lambda: None,
    only_upright: Bool[np.ndarray, " pairs"] | None = None,
    workers: int = 0,
    progress: Progress = lambda done, total: None,
) -> CachedFeatures:
    """Encode what is not kept yet, and return the features of all pairs.

    Every process calls it, hashes all files and encodes its share; a broken-off run goes on from the shards that are there.

    Args:
        encoder: on ``device``.
        pairs: whose images are looked at.
        images: with the resolution set; nothing in them may be random but the dihedral change.
        settings: with the root set.
        rejects: where images that cannot be read are noted.
        device: where the encoder computes.
        process_index: of this process.
        processes: in all.
        wait: returns when every process has called it, such as ``accelerator.wait_for_everyone``.
        only_upright: pairs whose captions would be wrong of a turned image; they are encoded as they are alone.
        workers: processes that read and decode images beside the encoder.
        progress: of the first look at the files, then of the encoding, counted in what this process is to make.

    Raises:
        ConfigError: a setting of the images cannot be kept, or no root is set.
        StorageError: there is too little room, or the disk refuses.
        DataError: the encoder gives features that are not finite.
    """
    root = _check(images, settings)
    upright = np.zeros(len(pairs), bool) if only_upright is None else only_upright
    hashes, readable = _look_at(pairs, rejects, progress)
    slots = np.repeat(np.where(readable, NOT_KEPT, UNREADABLE)[:, None], images.variants, axis=1)
    wanted = readable[:, None] & (~upright[:, None] | (np.arange(images.variants) == 0))
    fingerprint = encoder.encoder_fingerprint()
    wants = _Wanted.of(hashes, wanted, f"{SCHEMA} squash {images.resolution} {fingerprint} {settings.dtype}")
    say = _LOG.info if process_index == 0 else _LOG.debug
    store = TensorStore(root / f"{fingerprint}-{images.resolution}-{settings.dtype}")
    maker = _Maker(encoder, pairs, wants, images.resolution, settings, rejects, torch.device(device), workers, say)
    missing = wants.missing(store)
    maker.explain(missing, store)
    wait()  # all have listed and measured before anyone writes
    share = hashes[:, :8].copy().view(np.uint64)[:, 0] % processes == process_index  # the same whatever is there
    maker.make(missing[share[wants.rows[missing]]], store, progress)
    if processes > 1:
        wait()
        store = TensorStore(store.folder)
        maker.make(wants.missing(store), store, progress)  # what another process could not decode, to be noted here too
    slots[wanted] = store.locate(wants.keys)
    store.forget_keys()
    return CachedFeatures(store, slots)


def _check(images: ImageSettings, settings: FeatureCacheSettings) -> Path:
    """Refuse what would differ each time an image is seen; return the root."""
    for name, mend in (("crop", "false"), ("random_resized_crop", "false"), ("color_jitter", "0")):
        if getattr(images, name):
            raise ConfigError(f"--images.{name} is random and cannot be kept: set it to {mend}, or leave --features.root out.")
    if settings.root is None or images.resolution < 1:
        raise ConfigError("--features.root and a resolution must be set: the folder where features are kept, of one size.")
    return settings.root


def _look_at(pairs: Sequence[Pair], rejects: Rejects, progress: Progress) -> tuple[Hashes, Bool[np.ndarray, " pairs"]]:
    """Hash every image's file, and say which could be read."""
    hashes, readable = np.zeros((len(pairs), KEY_BYTES), np.uint8), np.zeros(len(pairs), bool)
    with ThreadPoolExecutor(_READERS, "hash") as pool:
        for start in range(0, len(pairs), _HASHED_TOGETHER):  # a pool given all of them would queue millions
            some = list(pairs[start : start + _HASHED_TOGETHER])
            for row, (pair, found) in enumerate(zip(some, pool.map(_hash, some), strict=True), start):
                if isinstance(found, str):
                    rejects.add(pair.key, found, where=str(pair.image))
                else:
                    hashes[row], readable[row] = np.frombuffer(found, np.uint8), True
            progress(start + len(some), len(pairs))
    return hashes, readable


def _hash(pair: Pair) -> bytes | str:
    """Return the SHA-256 of an image's file, or why it cannot be read."""
    try:
        return sha256(read_bytes(pair.image)).digest()
    except (FileNotFoundError, ArchiveError) as error:
        return MISSING if isinstance(error, FileNotFoundError) else str(error)


@final
@dataclass(frozen=True, slots=True)
class _Wanted:
    """The features that are asked for, by pair and then by variant; those of one file and variant have one key."""

    hashes: Hashes  # of each pair's file
    rows: Int64[np.ndarray, " wanted"]
    variants: Int64[np.ndarray, " wanted"]
    keys: UInt8[np.ndarray, "wanted 32"]

    @classmethod
    def of(cls, hashes: Hashes, wanted: Bool[np.ndarray, "_ _"], about: str) -> _Wanted:
        rows, variants = np.nonzero(wanted)
        keys, begun = bytearray(), sha256(about.encode()).digest()
        for row, variant in zip(rows, variants, strict=True):
            keys += sha256(begun + hashes[row].tobytes() + bytes([variant])).digest()
        return cls(hashes, rows, variants, np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES))

    def distinct(self, places: Int64[np.ndarray, " _"]) -> Int64[np.ndarray, " _distinct"]:
        """Leave out, of those in ``places``, every one whose key has come before."""
        _, firsts = np.unique(self.keys[places].view(f"S{KEY_BYTES}").reshape(-1), return_index=True)
        return places[np.sort(firsts)]

    def missing(self, store: TensorStore) -> Int64[np.ndarray, " _missing"]:
        """Return the places of what is to be made, each key once."""
        return self.distinct(np.flatnonzero(store.locate(self.keys) < 0))


@final
@dataclass(frozen=True, slots=True)
class _Maker:
    encoder: FrozenEncoder
    pairs: Sequence[Pair]
    wants: _Wanted
    resolution: int
    settings: FeatureCacheSettings
    rejects: Rejects
    device: torch.device
    workers: int
    say: Callable[[str], None]

    def explain(self, missing: Int64[np.ndarray, " missing"], store: TensorStore) -> None:
        """Say how much there is to do and how large it becomes; refuse where the disk is too small."""
        wanted = len(self.wants.distinct(np.arange(len(self.wants.keys))))
        images = len(self.wants.distinct(np.flatnonzero(self.wants.variants == 0)))
        each = self._form(store).size_bytes if len(missing) or store.form else 0
        mend = "free disk space, choose another --features.root or fewer pairs, or turn --images.random_dihedral off"
        free = store.require_room(len(missing) * each, mend)
        self.say(
            f"features: {images:,} images, {wanted:,} with their turned variants, {wanted - len(missing):,} are there; "
            f"{to_words(len(missing) * each)} of {to_words(wanted * each)} are missing, {to_words(free)} are free"
        )

    def make(self, missing: Int64[np.ndarray, " missing"], store: TensorStore, progress: Progress) -> None:
        """Encode what is missing, and write it a shard at a time."""
        total, done, begun = len(missing), 0, time.monotonic()
        if not total:
            return
        limit = min(self.settings.shard_size, max(1, SHARD_BYTES // self._form(store).size_bytes))
        squares = self._squares(missing)
        progress(0, total)
        while True:
            shard, keys, values = islice(squares, limit), [], []
            while batch := list(islice(shard, self.settings.batch_size)):
                values.append(self._encode(batch))
                keys += [self.wants.keys[place] for place, _ in batch]
                done += len(batch)
                progress(done, total)
            if not keys:
                break
            store.add(np.stack(keys), torch.cat(values))
        seconds = time.monotonic() - begun
        self.say(f"features: made {done:,} in {seconds:.1f} s, {done / max(seconds, 1e-9):.1f} images a second")

    def _squares(self, missing: Int64[np.ndarray, " missing"]) -> Iterator[tuple[int, Tensor]]:
        """Decode each image once, and yield its missing variants; note those that cannot be decoded."""
        groups: Any = np.split(missing, np.flatnonzero(np.diff(self.wants.rows[missing])) + 1)
        decode = partial(_decode, self.pairs, self.wants, self.resolution)
        loader = DataLoader(groups, None, num_workers=self.workers, collate_fn=decode, generator=torch.Generator())
        for places, (reason, squares) in zip(groups, loader, strict=True):
            if reason:
                alike = (self.wants.hashes == self.wants.hashes[self.wants.rows[places[0]]]).all(axis=1)
                some = map(self.pairs.__getitem__, np.flatnonzero(alike).tolist())
                self.rejects.add_all(Reject(pair.key, reason, str(pair.image)) for pair in some)
            else:
                yield from zip(places.tolist(), squares, strict=True)

    @torch.no_grad()
    def _encode(self, batch: Sequence[tuple[int, Tensor]]) -> Float[Tensor, "batch ..."]:
        features = self.encoder.encode(torch.stack([square for _, square in batch]).to(self.device))
        kept = features.to("cpu", getattr(torch, self.settings.dtype))
        finite = kept.reshape(len(batch), -1).isfinite().all(dim=1)
        if not finite.all():
            key = self.pairs[int(self.wants.rows[batch[int(finite.int().argmin())][0]])].key
            raise DataError(f"{key}: its features are not finite numbers; choose another --features.dtype, or leave it out.")
        return kept

    def _form(self, store: TensorStore) -> Form:
        if store.form is not None:
            return store.form
        grey = self._encode([(0, torch.zeros(3, self.resolution, self.resolution))])  # the features of all have one shape
        return Form(tuple(grey.shape[1:]), grey.dtype)


def _decode(pairs: Sequence[Pair], wants: _Wanted, resolution: int, places: np.ndarray) -> tuple[str, Tensor]:
    """Return what is missing of one image as pixels, or the reason why it cannot be decoded."""
    row = int(wants.rows[places[0]])
    try:
        data = read_bytes(pairs[row].image)
        if sha256(data).digest() != wants.hashes[row].tobytes():
            return "changed while its features were made", torch.empty(0)
        square = fit_image(open_image(data), resolution, mode="squash")
    except (FileNotFoundError, ArchiveError, ImageError) as error:
        return MISSING if isinstance(error, FileNotFoundError) else str(error), torch.empty(0)
    return "", torch.stack([image_to_tensor(dihedral(square, variant)) for variant in wants.variants[places].tolist()])
