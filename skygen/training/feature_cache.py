"""What a frozen encoder says of an image is computed once, and read in every epoch and every further run.

An image is known by the SHA-256 of its file: one that lies under two paths is encoded once, one that has changed is encoded
anew. So it is with everything else that the features depend on: what is shown of it and at what size, dihedral change, weights
of the encoder, dtype. Nothing is found by its position in a list.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import partial
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, final, runtime_checkable

import numpy as np
import torch
from jaxtyping import Bool, Float, Int32, Int64
from torch import Tensor
from torch.utils.data import DataLoader

from skygen.data.archives import read_bytes
from skygen.data.augmentation import dihedral
from skygen.data.framing import Framing, ImageSettings, Size, frame
from skygen.data.images import image_to_tensor, open_image, read_size
from skygen.data.pair import Pair
from skygen.data.rejects import Reject, Rejects
from skygen.errors import ArchiveError, ConfigError, ImageError
from skygen.training.feature_keys import UNREADABLE, Hashes, Places, ShapedStores, WantedFeatures
from skygen.training.store_filling import FeatureCacheSettings as FeatureCacheSettings
from skygen.training.store_filling import Progress, ShardFiller, Share, Tally, announce, keep_finite
from skygen.training.tensor_store import KEY_BYTES, Form, TensorStore

SCHEMA = 2
"""Raised when the same file, framing and weights come to give other features: the pixels are made another way."""
NOT_KEPT = -2
_READERS, _HASHED_TOGETHER = 4, 256
"""Threads that hash files, as reading and SHA-256 both let others run; and files that are handed to them at a time."""
MISSING = "missing: no such file"


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
    """The features of a list of pairs; a copy for a loader's worker holds 8 bytes for each pair and variant, and 8 a pair.

    Args:
        stores: where they are, one for each size of image.
        slots: of each pair and variant, counted through all stores; -1 where the image cannot be read, -2 where this variant
            is not kept.
        sizes: width and height of each image in its file; 0 where it cannot be read.
        images: what is shown of them.
    """

    stores: tuple[TensorStore, ...]
    slots: Int64[np.ndarray, "pairs variants"]
    sizes: Int32[np.ndarray, "pairs 2"]
    images: ImageSettings

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
        for store in self.stores if slot >= 0 else ():
            if slot < len(store):
                return store.read(slot)
            slot -= len(store)
        return None

    def framing(self, row: int) -> Framing:
        """Return what is shown of the row-th pair's image, which could be read, before it is turned."""
        width, height = self.sizes[row].tolist()
        return frame((width, height), self.images)


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
    hashes, sizes = _look_at(pairs, rejects, progress)
    readable = sizes[:, 0] > 0
    slots = np.repeat(np.where(readable, NOT_KEPT, UNREADABLE)[:, None], images.variants, axis=1)
    wanted = readable[:, None] & (~upright[:, None] | (np.arange(images.variants) == 0))
    fingerprint = encoder.encoder_fingerprint()
    wants = WantedFeatures.of(hashes, sizes, wanted, images, f"{SCHEMA} {fingerprint} {settings.dtype}")
    share = Share(process_index, processes, wait)
    stores = ShapedStores.open(root, fingerprint, wants, settings.dtype)
    maker = _Maker(encoder, pairs, wants, settings, rejects, torch.device(device), workers, share)
    missing = stores.missing()
    maker.explain(root, missing, stores)
    share.wait()  # all have listed and measured before anyone writes
    maker.make(missing[share.of(hashes)[wants.rows[missing]]], stores, progress)
    if processes > 1:
        share.wait()
        stores = ShapedStores.open(root, fingerprint, wants, settings.dtype)
        maker.make(stores.missing(), stores, progress)  # what another process could not decode, to be noted here too
    slots[wanted] = stores.locate()
    stores.forget_keys()
    return CachedFeatures(stores.stores, slots, sizes, images)


def _check(images: ImageSettings, settings: FeatureCacheSettings) -> Path:
    """Refuse what would differ each time an image is seen; return the root."""
    if not images.is_fixed:
        mends = {
            "random_resized_crop": "set it to false",
            "color_jitter": "set it to 0",
            "crop": "set --images.center_crop true, --images.crop false or --images.aspect_buckets true",
        }
        name = next(name for name in mends if getattr(images, name))
        raise ConfigError(f"--images.{name} is random and cannot be kept: {mends[name]}, or leave --features.root out.")
    if settings.root is None or images.resolution < 1:
        raise ConfigError("--features.root and a resolution must be set: the folder where features are kept, of one size.")
    return settings.root


def _look_at(pairs: Sequence[Pair], rejects: Rejects, progress: Progress) -> tuple[Hashes, Int32[np.ndarray, "pairs 2"]]:
    """Hash every image's file, and read how large its picture is; 0 where it cannot be read."""
    hashes, sizes = np.zeros((len(pairs), KEY_BYTES), np.uint8), np.zeros((len(pairs), 2), np.int32)
    with ThreadPoolExecutor(_READERS, "hash") as pool:
        for start in range(0, len(pairs), _HASHED_TOGETHER):  # a pool given all of them would queue millions
            some = list(pairs[start : start + _HASHED_TOGETHER])
            for row, (pair, found) in enumerate(zip(some, pool.map(_hash, some), strict=True), start):
                if isinstance(found, str):
                    rejects.add(pair.key, found, where=str(pair.image))
                else:
                    hashes[row], sizes[row] = np.frombuffer(found[0], np.uint8), found[1]
            progress(start + len(some), len(pairs))
    return hashes, sizes


def _hash(pair: Pair) -> tuple[bytes, Size] | str:
    """Return the SHA-256 of an image's file and the size of its picture, or why it cannot be read."""
    try:
        data = read_bytes(pair.image)
        return sha256(data).digest(), read_size(data)
    except (FileNotFoundError, ArchiveError, ImageError) as error:
        return MISSING if isinstance(error, FileNotFoundError) else str(error)


@final
@dataclass(frozen=True, slots=True)
class _Maker:
    encoder: FrozenEncoder
    pairs: Sequence[Pair]
    wants: WantedFeatures
    settings: FeatureCacheSettings
    rejects: Rejects
    device: torch.device
    workers: int
    share: Share

    def explain(self, root: Path, missing: Places, stores: ShapedStores) -> None:
        """Say how much there is to do and how large it becomes; refuse where the disk is too small."""
        wanted = self.wants.distinct(np.arange(len(self.wants.keys)))
        images = self.wants.distinct(np.flatnonzero(self.wants.variants == 0))
        each = np.array(
            [self._form(store, shape).size_bytes for store, shape in zip(stores.stores, self.wants.shapes, strict=True)]
        )
        missing_bytes, wanted_bytes = (int(each[self.wants.shaped[places]].sum()) for places in (missing, wanted))
        things = f"features: {len(images):,} images, {len(wanted):,} with their turned variants, {len(wanted) - len(missing):,}"
        mend = "free disk space, choose another --features.root or fewer pairs, or turn --images.random_dihedral off"
        announce(self.share, root, things, missing_bytes, wanted_bytes, mend)

    def make(self, missing: Places, stores: ShapedStores, progress: Progress) -> None:
        """Encode what is missing, in batches of one size, and write it a shard at a time."""
        if not len(missing):
            return
        tally, fillers = Tally(len(missing), progress), dict[int, ShardFiller[tuple[int, Tensor]]]()
        twins, last = self.wants.twins, -1
        for place, pixels in self._decoded(missing):
            number = int(self.wants.shaped[place])
            if twins[number] != last:  # the images of a size and its turned twin have all come
                self._close(fillers, tally)
                last = int(twins[number])
            if number not in fillers:
                store = stores.stores[number]
                size_bytes = self._form(store, self.wants.shapes[number]).size_bytes
                fillers[number] = ShardFiller(store, self._encode, self.settings, size_bytes)
            tally.add(fillers[number].take(self.wants.keys[place], (place, pixels)))
        self._close(fillers, tally)
        self.share.say(f"features: {tally.in_words('images')}")

    def _close(self, fillers: dict[int, ShardFiller[tuple[int, Tensor]]], tally: Tally) -> None:
        for filler in fillers.values():
            tally.add(filler.close())
        fillers.clear()

    def _decoded(self, missing: Places) -> Iterator[tuple[int, Tensor]]:
        """Decode each image once, and yield its missing variants; note those that cannot be decoded."""
        groups: Any = np.split(missing, np.flatnonzero(np.diff(self.wants.rows[missing])) + 1)
        decode = partial(_decode, self.pairs, self.wants)
        loader = DataLoader(groups, None, num_workers=self.workers, collate_fn=decode, generator=torch.Generator())
        for group, (reason, stacks) in zip(groups, loader, strict=True):
            if reason:
                alike = (self.wants.hashes == self.wants.hashes[self.wants.rows[group[0]]]).all(axis=1)
                some = map(self.pairs.__getitem__, np.flatnonzero(alike).tolist())
                self.rejects.add_all(Reject(pair.key, reason, str(pair.image)) for pair in some)
            for places, pixels in stacks:
                yield from zip(places.tolist(), pixels, strict=True)

    def _encode(self, batch: Sequence[tuple[int, Tensor]]) -> Float[Tensor, "batch ..."]:
        features = self.encoder.encode(torch.stack([pixels for _, pixels in batch]).to(self.device))
        return keep_finite(features, self.settings, lambda row: str(self.pairs[int(self.wants.rows[batch[row][0]])].image))

    @torch.no_grad()
    def _form(self, store: TensorStore, shape: Size) -> Form:
        if store.form is not None:
            return store.form
        grey = self.encoder.encode(torch.zeros(1, 3, shape[1], shape[0], device=self.device))  # all of a size have one shape
        return Form(tuple(grey.shape[1:]), getattr(torch, self.settings.dtype))


def _decode(pairs: Sequence[Pair], wants: WantedFeatures, group: Places) -> tuple[str, list[tuple[Places, Tensor]]]:
    """Return what is missing of one image as pixels, those of one size together, or the reason why it cannot be decoded."""
    row = int(wants.rows[group[0]])
    framing = wants.framings[int(wants.framed[row])]
    try:
        data = read_bytes(pairs[row].image)
        if sha256(data).digest() != wants.hashes[row].tobytes():
            return "changed while its features were made", []
        image = open_image(data)
    except (FileNotFoundError, ArchiveError, ImageError) as error:
        return MISSING if isinstance(error, FileNotFoundError) else str(error), []
    if image.size != framing.original:
        return "damaged: {} x {} pixels, where the file announces {} x {}".format(*image.size, *framing.original), []
    upright, stacks = framing.apply(image), []
    for odd in (0, 1):  # quarter turns swap the sides
        places = group[wants.variants[group] % 2 == odd]
        if len(places):
            turned = [image_to_tensor(dihedral(upright, variant)) for variant in wants.variants[places].tolist()]
            stacks.append((places, torch.stack(turned)))
    return "", stacks
