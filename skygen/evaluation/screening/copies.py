"""Which pictures of a synthetic set are copies of training images, held against real images that are none.

The nearest training image alone says little: classes of overhead images look alike, and some real tile is always near. So the
same distances are measured from real images that the generator has not learnt from, and a picture is called a copy where

* its SkyCLIP cosine to a training image is above those of nearly all of these control images to theirs. The bound is the
  ``ceil(q (n + 1))``-th of n control cosines, so that a real image that is as new as these is flagged with a probability of at
  most 1 - q (split conformal prediction; Papadopoulos et al. 2002; Lei et al. 2018). A control of fewer than q / (1 - q) images
  cannot promise that: its largest cosine is then the bound, which promises 1 / (n + 1). Of fewer than 19 images that would be
  more than one in twenty, and the cosine alone calls nothing a copy.
* or its perceptual hash differs from a training image's in a few bits at most, in one of the eight orientations. This bound is
  fixed, because some of the control may be in the training data too: such images would move a quantile until nothing is
  flagged. They are found by the same hash, counted, and left out of the control of the cosine.

The first sees what was painted over, recoloured or shifted, the second what was mirrored or turned, to which CLIP is not blind.
Where both say it, it is sure. Copies in what diffusion models draw were first measured by distances to the training images by
Somepalli et al. (2023, "Diffusion Art or Digital Forgery?") and Carlini et al. (2023, "Extracting Training Data from Diffusion
Models").
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any, Final, final

import numpy as np
from jaxtyping import Bool, Int64

from skygen.errors import ConfigError
from skygen.evaluation.alignment import matched_cosine
from skygen.evaluation.screening.nearest_images import ImageSet, Nearest
from skygen.evaluation.screening.perceptual_hash import BITS, measure_distances, pack, turn

LARGEST_WRONG_SHARE: Final = 0.05
"""Of new real images that a cosine may flag: a control that cannot promise it gives no bound."""
LEVELS: Final = tuple(np.round(np.linspace(0, 1, 201), 4).tolist())
"""Of the curves that are written: every half per cent."""
ROUNDING: Final = 1e-9


@dataclass(frozen=True)
class CopySettings:
    """When a picture counts as a copy."""

    quantile: float = 0.999
    """Share of the real control images that a cosine must exceed: how near these come to the training images."""
    hash_distance: int = 6
    """Bits of 64 in which a copy's hash may differ from the original's, in the orientation where that is least."""

    def __post_init__(self) -> None:
        if not 0 < self.quantile < 1:
            raise ConfigError(f"--copies.quantile {self.quantile}: give a share between 0 and 1, such as 0.999.")
        if not 0 <= self.hash_distance < BITS:
            raise ConfigError(f"--copies.hash_distance {self.hash_distance}: give 0 to {BITS - 1} bits, such as 6.")


@final
@dataclass(frozen=True, slots=True)
class CopyRule:
    """What makes a picture a copy.

    Args:
        similarity: a cosine above it does; infinite where the control is too small for any bound.
        hash_distance: a distance up to it does.
        control: real images that the bound of the cosine comes from.
        known: further ones of the control that the hash finds among the training images, which it does not come from.
        wrong_share: the largest share of new real images that the cosine flags, on average over controls.
        quantile: that was asked for.
    """

    similarity: float
    hash_distance: int
    control: int
    known: int
    wrong_share: float
    quantile: float

    @classmethod
    def of(cls, control: Nearest, settings: CopySettings) -> CopyRule:
        """Take the rule from what was found of the real images that could be read."""
        known = control.hash_distance <= settings.hash_distance
        cosines = np.sort(control.similarity[~known])
        count = len(cosines)
        place = min(math.ceil(settings.quantile * (count + 1)), count)
        wrong = (count + 1 - place) / (count + 1)
        if wrong > max(LARGEST_WRONG_SHARE, 1 - settings.quantile) + ROUNDING:
            return cls(math.inf, settings.hash_distance, count, int(known.sum()), 0.0, settings.quantile)
        return cls(float(cosines[place - 1]), settings.hash_distance, count, int(known.sum()), wrong, settings.quantile)

    @property
    def is_small(self) -> bool:
        """Whether the control has too few images for the quantile."""
        return math.ceil(self.quantile * (self.control + 1)) > self.control

    def describe(self, kind: str) -> list[str]:
        """Say in words what the bounds are worth; ``kind`` says which real images the control is."""
        known = f"; {self.known:,} further ones are in the training images themselves, by their hash" if self.known else ""
        lines = [f"control: {self.control:,} real images, {kind}{known}"]
        cosine = f"similarity above {self.similarity:.4f}, or " if math.isfinite(self.similarity) else ""
        if self.is_small:
            enough = math.ceil(self.quantile / (1 - self.quantile) - ROUNDING)
            what = f"the bound is their largest cosine, which one in {self.control + 1:,} new real images would exceed"
            what = what if cosine else "no cosine alone makes a copy"
            lines.append(f"that is too few for the quantile {self.quantile:g}: {what}; give {enough:,} or more")
        return [*lines, f"copy: {cosine}hash distance at most {self.hash_distance} of 64 bits"]

    def by_similarity(self, nearest: Nearest) -> Bool[np.ndarray, " pictures"]:
        """Say which pictures the cosine calls copies."""
        return nearest.similarity > self.similarity

    def by_hash(self, nearest: Nearest) -> Bool[np.ndarray, " pictures"]:
        """Say which pictures the hash calls copies."""
        return nearest.hash_distance <= self.hash_distance


def find_duplicates(pictures: ImageSet, rows: Int64[np.ndarray, " chosen"], rule: CopyRule) -> Int64[np.ndarray, " chosen"]:
    """Find among pictures those that repeat an earlier one, by hash and by cosine both, with the bounds of a copy.

    Args:
        pictures: of the set.
        rows: of them that are compared, ascending.
        rule: of copies; without a bound for the cosine, the hash alone decides.

    Returns:
        For each the row of the first one like it, which is no duplicate itself; -1 for one that repeats nothing.
    """
    packed = pictures.pack_hashes()
    repeats = np.full(len(rows), -1, np.int64)
    firsts = np.zeros(len(rows), bool)
    for place, row in enumerate(rows):
        earlier, own = rows[:place][firsts[:place]], np.array([row])
        turned = np.stack([pack(each) for each in turn(pictures.hashes.take(own))])
        near = earlier[measure_distances(turned, packed[earlier])[0] <= rule.hash_distance]
        if len(near) and math.isfinite(rule.similarity):
            others = pictures.embeddings.take(near).astype(np.float32)
            mine = pictures.embeddings.take(own.repeat(len(near))).astype(np.float32)
            near = near[matched_cosine(mine, others) > rule.similarity]
        repeats[place] = near[0] if len(near) else -1
        firsts[place] = not len(near)
    return repeats


def describe_control(synthetic: Nearest, real: Nearest, rule: CopyRule, kind: str) -> dict[str, Any]:
    """Lay out for ``copies_control.json`` how near pictures come to the training images, synthetic and real ones.

    Args:
        synthetic: what was found of the set, of pictures that could be read.
        real: of the control.
        rule: that was taken from it.
        kind: of control, in words.

    Returns:
        The rule, and of cosine and hash distance the values at each of ``levels`` of the distribution.
    """
    curves = {
        name: {
            whose: np.quantile(getattr(nearest, name), LEVELS, method="inverted_cdf").tolist()
            for whose, nearest in (("synthetic", synthetic), ("real", real))
            if len(nearest.row)
        }
        for name in ("similarity", "hash_distance")
    }
    return {
        "control": kind,
        "counts": {"synthetic": len(synthetic.row), "real": len(real.row), "real_in_training": rule.known},
        "quantile": rule.quantile,
        "bounds": {
            "similarity": rule.similarity if math.isfinite(rule.similarity) else None,
            "hash_distance": rule.hash_distance,
        },
        "wrong_share": rule.wrong_share,
        "levels": list(LEVELS),
        **curves,
    }
