"""A perceptual hash of 64 bits: whether two pictures are one, however it was stored, mirrored or turned.

The signs of 8 x 8 low frequencies of the discrete cosine transform of the grey picture, after the DCT hash of pHash (Zauner
2010, "Implementation and Benchmarking of Perceptual Image Hash Functions"): of 32 x 32 pixels as there, without the constant
and the purely horizontal and vertical frequencies. pHash asks whether a coefficient is above the median of the 64, here it is
whether it is above 0, about which they are symmetric: a mirrored picture then has the same signs but for those of odd
frequencies, and a transposed one has them transposed, so that the hashes of all eight orientations follow from one. An overhead
image has no up, and training turns it at random.
"""

from __future__ import annotations

from functools import cache
from typing import Final

import numpy as np
from jaxtyping import Bool, Float, Int64, UInt8, UInt64
from PIL import Image

from skygen.data.images import fit_image

SIDE: Final = 32
"""Of the grey picture, in pixels."""
FREQUENCIES: Final = 8
"""Along each side, from the first on."""
BITS: Final = FREQUENCIES * FREQUENCIES
ORIENTATIONS: Final = 8
"""Four turns, mirrored and not."""
ROWS_AT_A_TIME: Final = 8192
"""Hashes that a block of queries is compared with together, so that 256 queries take 16 MB."""
ROUNDING: Final = 1e-6
"""Grey levels: a coefficient this small is rounding, of a picture that is the same everywhere."""


def hash_image(image: Image.Image) -> Float[np.ndarray, " bits"]:
    """Compute the hash of a picture's middle square, which is what a scorer sees of it and a generator mostly learns.

    Args:
        image: an RGB image of any size, as ``open_image`` gives it.

    Returns:
        64 signs, 1 or -1, float16: the cosine of two is 1 - distance / 32, and a row of zeros is free to stand for no picture.
    """
    # as floats: rounded to 8 bits between its two passes, a resize is not the same of a picture and of the turned one
    grey = np.asarray(fit_image(image.convert("L").convert("F"), SIDE), np.float64)
    cosines = _cosine_transform()
    coefficients = cosines @ grey @ cosines.T
    return np.where(coefficients > ROUNDING, 1, -1).reshape(-1).astype(np.float16)


def pack(signs: Float[np.ndarray, "pictures bits"]) -> UInt64[np.ndarray, " pictures"]:
    """Pack hashes as ``hash_image`` gives them into 64-bit numbers."""
    return np.packbits(signs > 0, axis=1).view(np.uint64).reshape(len(signs))


def turn(signs: Float[np.ndarray, "pictures bits"]) -> Float[np.ndarray, "orientations pictures bits"]:
    """Compute from the hashes of pictures those of the same pictures in all eight orientations, their own first."""
    grid = signs.reshape(-1, FREQUENCIES, FREQUENCIES)
    odd = np.where(np.arange(1, FREQUENCIES + 1) % 2, -1, 1).astype(signs.dtype)
    turned = []
    for base in (grid, grid.transpose(0, 2, 1)):
        for down in (np.ones_like(odd), odd):
            turned += [base * down[:, None], base * down[:, None] * odd[None, :]]
    return np.stack(turned).reshape(ORIENTATIONS, len(signs), BITS)


def measure_distances(
    queries: UInt64[np.ndarray, "orientations pictures"], others: UInt64[np.ndarray, " others"]
) -> UInt8[np.ndarray, "pictures others"]:
    """Count in how many bits pictures differ from others, in the orientation in which that is least.

    Args:
        queries: packed hashes of each picture in every orientation.
        others: packed hashes.

    Returns:
        Hamming distances, 0 to 64; of two unrelated pictures 32 ± 4 in one orientation.
    """
    least = np.full((queries.shape[1], len(others)), BITS, np.uint8)
    for turned in queries:
        np.minimum(least, np.bitwise_count(turned[:, None] ^ others[None, :]), out=least)
    return least


def measure_couples(
    signs: Float[np.ndarray, "couples bits"], others: UInt64[np.ndarray, " couples"]
) -> Int64[np.ndarray, " couples"]:
    """Measure the distance of each picture, in whatever orientation, from the other picture at the same place."""
    turned = np.stack([pack(each) for each in turn(signs)])
    return np.bitwise_count(turned ^ others[None, :]).min(axis=0, initial=BITS).astype(np.int64)


def find_nearest_hash(
    signs: Float[np.ndarray, "pictures bits"],
    others: UInt64[np.ndarray, " others"],
    among: Bool[np.ndarray, " others"],
    own: Int64[np.ndarray, " pictures"] | None = None,
) -> tuple[Int64[np.ndarray, " pictures"], Int64[np.ndarray, " pictures"]]:
    """Find for each picture the one among others whose hash is nearest, in whatever orientation.

    Args:
        signs: hashes as ``hash_image`` gives them.
        others: packed hashes of the others.
        among: those of them that count.
        own: places of the pictures themselves among the others, which do not count; None where they are not there.

    Returns:
        Places of the nearest, of equals the first, and the distances in bits; -1 and 64 where none counts.
    """
    queries = np.stack([pack(each) for each in turn(signs)])
    best, place = np.full(len(signs), BITS + 1, np.int64), np.full(len(signs), -1, np.int64)
    for start in range(0, len(others), ROWS_AT_A_TIME):
        block = slice(start, start + ROWS_AT_A_TIME)
        distances = measure_distances(queries, others[block])
        distances[:, ~among[block]] = BITS + 1
        if own is not None:
            here = np.flatnonzero((own >= start) & (own < start + distances.shape[1]))
            distances[here, own[here] - start] = BITS + 1
        nearest = distances.argmin(axis=1)
        found = distances[np.arange(len(signs)), nearest].astype(np.int64)
        nearer = found < best
        best[nearer], place[nearer] = found[nearer], nearest[nearer] + start
    return place, np.minimum(best, BITS)


@cache
def _cosine_transform() -> Float[np.ndarray, "frequencies side"]:
    """Make the rows of the orthonormal DCT-II of the frequencies that count."""
    frequency, place = np.arange(1, FREQUENCIES + 1)[:, None], np.arange(SIDE)[None, :]
    return np.sqrt(2 / SIDE) * np.cos(np.pi * (2 * place + 1) * frequency / (2 * SIDE))
