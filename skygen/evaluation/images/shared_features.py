"""Features of images, computed once by all processes together, kept in the run's folder, and read by every metric."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Final, final

import numpy as np
from jaxtyping import Bool, Float

from skygen.data.images import open_readable
from skygen.data.rejects import Rejects
from skygen.evaluation.images.features import Extractor
from skygen.evaluation.images.picture_sets import PictureSet
from skygen.evaluation.shards import EmbeddingShards, fill_shards

IMAGES_A_FILE: Final = 256
"""What a kill costs; 2 MB of 2,048 features each."""


@final
@dataclass(frozen=True, slots=True)
class SharedFeatures:
    """The features of a run.

    What an extractor says of a set is found by the weights and by the names, sizes and dates of the files: a run that was
    broken off goes on, and an image that has been replaced is looked at anew. Every process must ask for the same in the same
    order.

    Args:
        folder: where they are kept.
        rank: of this process.
        processes: that share the work.
        report: is told what is being computed, and how many images are done, of how many.
        widths: features of each extractor seen so far.
    """

    folder: Path
    rank: int = 0
    processes: int = 1
    report: Callable[[str, int, int], None] = lambda *_: None
    widths: dict[str, int] = field(default_factory=dict)

    def find_readable(self, pictures: PictureSet, rejects: Rejects) -> Bool[np.ndarray, " count"]:
        """Decode every image once; what cannot be decoded is noted, and left out of the set by whoever asks."""

        def look(span: range) -> Float[np.ndarray, "rows 1"]:
            places = [(pictures.names()[row], pictures.paths[row]) for row in span]
            found = np.zeros((len(span), 1), np.float32)
            for start in range(0, len(places), 64):  # decoded images in memory
                found[[start + place for place, _ in open_readable(places[start : start + 64], rejects)]] = 1
            return found

        return self._fill("readable", pictures, look)[:, 0] > 0

    def compute(self, extractor: Extractor, pictures: PictureSet) -> Float[np.ndarray, "count dimension"]:
        """Compute this process's share of the features, wait for the others', and return all of them, float32."""

        def extract(span: range) -> Float[np.ndarray, "rows dimension"]:
            return extractor.extract(pictures.paths[span.start : span.stop]).astype(np.float32)

        features = self._fill(f"{extractor.name} {extractor.weights} {extractor.seen}", pictures, extract)
        self.widths[extractor.name] = features.shape[1]
        return features

    def shards(self, extractor: Extractor, pictures: PictureSet) -> EmbeddingShards:
        """Return the files that ``compute`` fills, for a search among millions."""
        return self._shards(f"{extractor.name} {extractor.weights} {extractor.seen}", pictures)

    def _fill(
        self, what: str, pictures: PictureSet, compute: Callable[[range], Float[np.ndarray, "rows dimension"]]
    ) -> Float[np.ndarray, "count dimension"]:
        shards = self._shards(what, pictures)
        words = f"{pictures.model}: {what.split()[0]}"
        fill_shards(shards, compute, self.rank, self.processes, lambda done, total: self.report(words, done, total))
        return np.concatenate([block for _, block in shards.blocks()])

    def _shards(self, what: str, pictures: PictureSet) -> EmbeddingShards:
        digest = sha256(what.encode())
        for line in _describe(pictures.paths):
            digest.update(b"\n" + line.encode("utf-8", "surrogateescape"))
        return EmbeddingShards(self.folder / digest.hexdigest()[:16], len(pictures.paths), IMAGES_A_FILE)


def _describe(paths: Sequence[Path]) -> list[str]:
    lines = []
    for path in paths:
        try:
            about = path.stat()
            lines.append(f"{path} {about.st_size} {about.st_mtime_ns}")
        except OSError:  # a member of an archive
            lines.append(str(path))
    return lines
