"""The images that a generator has learnt from, beside the real ones that it is evaluated by."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np

from skygen.config import CountFromZero
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import DataError
from skygen.evaluation.images.features import Extractor
from skygen.evaluation.images.picture_sets import PictureSet
from skygen.evaluation.images.shared_features import SharedFeatures
from skygen.evaluation.screening.nearest_images import HASHED_AT_A_TIME, ImageSet, Nearest, find_nearest, hash_images
from skygen.evaluation.shards import EmbeddingShards
from skygen.runs import Run


@dataclass(frozen=True)
class TrainingSettings:
    """What the generator was trained on, to tell what has leaked; without it the answer is unknown."""

    root: Path | None = None
    """Folder of the data set."""
    csv: Path | None = None
    """Its list."""
    split: str | None = "train"
    """Of that data set."""
    limit: CountFromZero = 0
    """At most so many pairs, 0 for all."""

    def read(self, rejects: Rejects) -> PairList | None:
        """Read the pairs; None where they are not given."""
        if self.root is None:
            return None
        return PairSettings(self.root, self.csv, split=self.split, limit=self.limit).read(rejects)


def find_training(
    settings: TrainingSettings, pairs: Sequence[Pair], root: Path, shared: SharedFeatures, extractor: Extractor, run: Run
) -> Nearest | None:
    """Find the nearest training image of each real one, by cosine and by hash, all processes together.

    Args:
        settings: which the training images are.
        pairs: of the real images, all readable.
        root: of their data set.
        shared: where features are kept.
        extractor: of the scorer; embeddings of the training images are 2 kB each, and kept.
        run: that is told of the progress.

    Returns:
        One entry for each pair; None where the training images are not given.

    Raises:
        DataError: no training image can be read.
    """
    rejects = Rejects(run.path("rejects_training.jsonl"))
    training = settings.read(rejects)
    if training is None or settings.root is None:
        return None
    learnt = list(training)
    readable = shared.find_readable(PictureSet.of_pairs(learnt), rejects)
    learnt = [pair for pair, good in zip(learnt, readable, strict=True) if good]
    if not learnt:
        raise DataError(f"{settings.root}: no training image can be read; mend them, or leave out --training.root.")

    def prepare(name: str, some: Sequence[Pair], folder: Path) -> ImageSet:
        pictures = PictureSet.of_pairs(some)
        shared.compute(extractor, pictures)
        listed, embeddings = PairList.of(some, folder), shared.shards(extractor, pictures)
        hashes = EmbeddingShards(_beside(embeddings, "hashes"), len(some), HASHED_AT_A_TIME)
        hash_images(listed, hashes, rejects, shared.rank, shared.processes, partial(run.progress, f"{name} hashed"))
        return ImageSet(listed, embeddings, hashes)

    real, among = prepare("real images", pairs, root), prepare("training images", learnt, settings.root)
    found = EmbeddingShards(_beside(real.embeddings, among.embeddings.folder.name), len(pairs), HASHED_AT_A_TIME)
    return find_nearest(
        real, np.arange(len(pairs), dtype=np.int64), among, found,
        rank=shared.rank, processes=shared.processes, progress=partial(run.progress, "real images compared"),
    )  # fmt: skip


def _beside(shards: EmbeddingShards, name: str) -> Path:
    return shards.folder.with_name(f"{shards.folder.name}-{name}")
