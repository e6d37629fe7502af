"""Sets of images of one origin, drawn or real, with the words that go with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Bool

from skygen.data.pair import Pair
from skygen.evaluation.splits import EvaluatedSplit, fingerprint_references

REAL = "real"
"""What scores call images that nobody has drawn."""


@final
@dataclass(frozen=True, slots=True)
class PictureSet:
    """Images of one origin.

    Args:
        model: what scores call the origin: ``tuned``, ``base``, ``tuned, best of 4``, ``real``.
        paths: where the images lie.
        texts: the prompt of each, or a real image's first caption.
        records: of each, as ``metadata.jsonl`` has them; of a real image its ``key`` alone.
        classes: what each is meant to show, in words; empty where that is not known.
    """

    model: str
    paths: tuple[Path, ...]
    texts: tuple[str, ...]
    records: tuple[Mapping[str, Any], ...]
    classes: tuple[str, ...]

    @classmethod
    def of_records(cls, root: Path, records: Sequence[Mapping[str, Any]], model: str) -> PictureSet:
        """Make the set of an imagefolder that ``recipes/generate.py`` wrote."""
        return cls(
            model,
            tuple(root / record["file_name"] for record in records),
            tuple(record["text"] for record in records),
            tuple(records),
            tuple(record.get("class", "") for record in records),
        )

    @classmethod
    def of_pairs(cls, pairs: Sequence[Pair]) -> PictureSet:
        """Make the set of real images."""
        return cls(
            REAL,
            tuple(pair.image for pair in pairs),
            tuple(pair.captions[0] for pair in pairs),
            tuple({"key": pair.key} for pair in pairs),
            tuple(pair.class_name or "" for pair in pairs),
        )

    def take(self, chosen: Bool[np.ndarray, " count"]) -> PictureSet:
        """Return the set of some of the images."""
        places = np.flatnonzero(chosen).tolist()
        return PictureSet(
            self.model,
            tuple(self.paths[place] for place in places),
            tuple(self.texts[place] for place in places),
            tuple(self.records[place] for place in places),
            tuple(self.classes[place] for place in places),
        )

    def names(self) -> list[str]:
        """Name each image within its set; pictures of one plan have one name in the sets of all models."""
        return [str(record.get("file_name", record.get("key", ""))) for record in self.records]

    def identify(self) -> EvaluatedSplit:
        """Say which prompts these are, in their order: two sets are compared picture by picture where they agree.

        Seeds do not count: the best of several candidates has that of whichever was chosen.
        """
        fingerprint = fingerprint_references(self.names(), [(text,) for text in self.texts])
        return EvaluatedSplit("prompts", len(self.paths), fingerprint, None)


def name_models(origins: Sequence[tuple[Path, Sequence[Mapping[str, Any]]]]) -> list[str]:
    """Name the origin of each set so that no two are called alike.

    Args:
        origins: folder and records of each set, which has one record at least.

    Returns:
        ``model`` of the records, with the number of candidates where each picture is the best of several; where that is not
        enough, with the name of the run that drew it.
    """
    names = []
    for _, records in origins:
        candidates = max(len(record.get("candidate_scores") or ()) for record in records)
        names.append(f"{records[0]['model']}, best of {candidates}" if candidates > 1 else str(records[0]["model"]))
    return [
        name if names.count(name) == 1 or place == names.index(name) else f"{name} ({root.resolve().parent.name})"
        for place, (name, (root, _)) in enumerate(zip(names, origins, strict=True))
    ]
