"""What features of images are asked for: the key of each, the size of the pixels behind it, and the store that it lies in."""

from __future__ import annotations

import struct
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import final

import numpy as np
from jaxtyping import Bool, Int32, Int64, UInt8

from skygen.data.framing import Framing, ImageSettings, Size, frame
from skygen.training.store_filling import first_of_each
from skygen.training.tensor_store import KEY_BYTES, TensorStore

UNREADABLE = -1
"""The slot of what is not there."""

Hashes = UInt8[np.ndarray, "_files 32"]
Places = Int64[np.ndarray, " _places"]


@final
@dataclass(frozen=True, slots=True)
class WantedFeatures:
    """The features that are asked for, by pair and then by variant; those of one file, framing and variant have one key.

    Args:
        hashes: SHA-256 of each pair's file.
        framings: of the distinct sizes of images, upright.
        framed: which of them is each pair's.
        shapes: width and height of the pixels that are encoded, each once.
        rows: pair of each feature.
        variants: dihedral change of each.
        shaped: which of the shapes each has.
        keys: of each.
    """

    hashes: Hashes
    framings: tuple[Framing, ...]
    framed: Int64[np.ndarray, " pairs"]
    shapes: tuple[Size, ...]
    rows: Int64[np.ndarray, " wanted"]
    variants: Int64[np.ndarray, " wanted"]
    shaped: Int64[np.ndarray, " wanted"]
    keys: UInt8[np.ndarray, "wanted 32"]

    @classmethod
    def of(
        cls,
        hashes: Hashes,
        sizes: Int32[np.ndarray, "pairs 2"],
        wanted: Bool[np.ndarray, "pairs variants"],
        images: ImageSettings,
        about: str,
    ) -> WantedFeatures:
        """Make the keys.

        Args:
            hashes: SHA-256 of each pair's file.
            sizes: width and height of each pair's image; 0 where it cannot be read.
            wanted: which variants of which pairs.
            images: what is shown of them.
            about: all else that decides what the features are: encoder, dtype, schema.
        """
        distinct, framed = np.unique(sizes, axis=0, return_inverse=True)
        framings = tuple(frame((width or 1, height or 1), images) for width, height in distinct.tolist())
        rows, variants = np.nonzero(wanted)
        keys, begun, shapes = bytearray(), sha256(about.encode()).digest(), dict[Size, int]()
        shaped = np.empty(len(rows), np.int64)
        for place, (row, variant) in enumerate(zip(rows.tolist(), variants.tolist(), strict=True)):
            framing = framings[int(framed[row])]
            shown = struct.pack("<7i", *framing.box, *framing.target, variant)
            keys += sha256(begun + hashes[row].tobytes() + shown).digest()
            shaped[place] = shapes.setdefault(framing._replace(variant=variant).shape, len(shapes))
        table = np.frombuffer(keys, np.uint8).reshape(-1, KEY_BYTES)
        return cls(hashes, framings, framed.reshape(-1), tuple(shapes), rows, variants, shaped, table)

    @property
    def twins(self) -> Int64[np.ndarray, " shapes"]:
        """A number for each shape, which a shape and its turned twin share."""
        numbers = dict[tuple[int, ...], int]()
        return np.array([numbers.setdefault(tuple(sorted(shape)), len(numbers)) for shape in self.shapes], np.int64)

    def distinct(self, places: Places) -> Places:
        """Leave out, of those in ``places``, every one whose key has come before."""
        return first_of_each(self.keys, places)


@final
@dataclass(frozen=True, slots=True)
class ShapedStores:
    """A store for each size of image, as a store holds tensors of one shape.

    Args:
        stores: in the order of ``wants.shapes``.
        wants: what is asked for.
    """

    stores: tuple[TensorStore, ...]
    wants: WantedFeatures

    @classmethod
    def open(cls, root: Path, fingerprint: str, wants: WantedFeatures, dtype: str) -> ShapedStores:
        """Open, under the root, the folder of each shape: ``FINGERPRINT-WIDTHxHEIGHT-DTYPE``."""
        names = (f"{fingerprint}-{width}x{height}-{dtype}" for width, height in wants.shapes)
        return cls(tuple(TensorStore(root / name) for name in names), wants)

    def locate(self) -> Int64[np.ndarray, " wanted"]:
        """Return the slot of all that is wanted, counted through all stores; -1 of what is not there."""
        slots, first = np.full(len(self.wants.keys), UNREADABLE, np.int64), 0
        for number, store in enumerate(self.stores):
            places = np.flatnonzero(self.wants.shaped == number)
            found = store.locate(self.wants.keys[places])
            slots[places] = np.where(found < 0, UNREADABLE, found + first)
            first += len(store)
        return slots

    def missing(self) -> Places:
        """Return the places of what is to be made, each key once: sizes and their turned twins together, then by pair."""
        places = self.wants.distinct(np.flatnonzero(self.locate() < 0))
        return places[np.argsort(self.wants.twins[self.wants.shaped[places]], kind="stable")]

    def forget_keys(self) -> None:
        """Free the memory that the keys of all stores take."""
        for store in self.stores:
            store.forget_keys()
