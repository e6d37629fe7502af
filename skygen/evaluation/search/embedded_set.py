"""Sets of embedded images that can be searched: what a run of score_pairs has left, or a folder of images, embedded when asked.

A set knows three things: the embeddings, which scorer made them, and what there is to show of a row.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, final

import numpy as np
import pyarrow as pa
from jaxtyping import Bool, Float32, Int64

from skygen.config import read_yaml
from skygen.data.images import list_images, open_image
from skygen.errors import ConfigError, DataError, ImageError, UnavailableError
from skygen.evaluation.parquet_files import open_parquet
from skygen.evaluation.search.nearest import find_embedded
from skygen.evaluation.shards import EmbeddingShards
from skygen.models.scorer import Scorer
from skygen.storage import cache_folder, writing

SCORES = "scores.parquet"
EMBEDDINGS = "embeddings"
LARGEST_FOLDER = 20_000
"""Images of a folder that is embedded when asked: minutes on a GPU. A run of score_pairs shares out the work."""
CACHED_ROWS = 256
"""Images embedded between two writes: what is lost when embedding a folder is broken off."""
Progress = Callable[[int, int], None]


@final
@dataclass(frozen=True, slots=True)
class Shown:
    """What there is to show of a row.

    Args:
        image: its path, which may lead through an archive.
        caption: what is said of it; empty where nothing is.
    """

    image: Path
    caption: str


@final
@dataclass(frozen=True, slots=True)
class EmbeddedSet:
    """Embedded images, and what there is to show of each.

    Args:
        name: what a page calls the set.
        embeddings: a row an image.
        scorer: name of the CLIP that made them.
        architecture: of the CLIP, where its name does not say it.
        images: of all rows, in order; None where ``scores`` has them.
        scores: ``scores.parquet`` of a run, which leaves out the rows whose image could not be read.
    """

    name: str
    embeddings: EmbeddingShards
    scorer: str
    architecture: str | None = None
    images: tuple[Path, ...] | None = None
    scores: Path | None = None

    def show(self, rows: Int64[np.ndarray, " found"]) -> list[Shown]:
        """Look up what there is to show of rows, in their order.

        Raises:
            DataError: the table of scores is of other embeddings, or cannot be read.
        """
        if self.scores is None:
            return [Shown(self.images[row], "") for row in rows.tolist()] if self.images is not None else []
        places = self._places()[rows]
        with _reading(self.scores):
            table = _take(self.scores, places, ("image", "caption"))
            return [Shown(Path(row["image"]), row["caption"] or "") for row in table]

    def kept(self) -> Bool[np.ndarray, " rows"]:
        """Say of each row whether the run that scored it has kept the pair.

        Raises:
            ConfigError: nothing was chosen in this set.
            DataError: the table of scores is of other embeddings, or cannot be read.
        """
        if self.scores is None:
            raise ConfigError(f"{self.name}: a folder has no pairs that were kept; leave out --kept.")
        with _reading(self.scores):
            chosen = open_parquet(self.scores).read(columns=["kept"]).column("kept").to_numpy()
        places = self._places()
        return (places >= 0) & chosen[np.maximum(places, 0)]

    def _places(self) -> Int64[np.ndarray, " rows"]:
        """Return the place of each row in the table of scores, -1 for those that are not in it."""
        if self.scores is None:
            raise ValueError(f"{self.name} has no scores")
        with _reading(self.scores):
            scored = open_parquet(self.scores).metadata.num_rows
        if scored == self.embeddings.count:
            return np.arange(scored)
        embedded = find_embedded(self.embeddings)
        if scored != int(embedded.sum()):
            raise DataError(
                f"{self.scores} has {scored:,} pairs and {self.embeddings.folder} {int(embedded.sum()):,} embedded images; run "
                "recipes/score_pairs.py again, which goes on where it stopped."
            )
        return np.where(embedded, np.cumsum(embedded) - 1, -1).astype(np.int64)


def open_run(run: Path) -> EmbeddedSet | None:
    """Open what a run of ``recipes/score_pairs.py`` has left; None where a folder is no run.

    Args:
        run: ``runs/<name>``.

    Raises:
        DataError: the run has kept no embeddings, is not finished, or does not say which scorer it used.
    """
    if not (run / SCORES).is_file() and not (run / "run_status.json").is_file():
        return None
    command = "recipes/score_pairs.py --scoring.save_embeddings True"
    embeddings = EmbeddingShards.found_in(run / EMBEDDINGS)
    if not embeddings.count:
        raise DataError(f"{run}: this run has kept no embeddings; score the pairs under another --run.name with {command}.")
    if not (run / SCORES).is_file():
        raise DataError(
            f"{run}: this run is not finished; start it again with the same command, which goes on where it stopped."
        )
    settings = read_yaml(run / "config.yaml").get("scorer", {})
    if not isinstance(settings, dict) or not isinstance(settings.get("name"), str):
        raise DataError(
            f"{run / 'config.yaml'}: does not say which scorer made the embeddings; it should stand in scorer: name."
        )
    return EmbeddedSet(
        run.resolve().name,
        embeddings,
        settings["name"],
        settings.get("architecture"),
        scores=run / SCORES,
    )


def embed_folder(folder: Path, scorer: Scorer, progress: Progress) -> EmbeddedSet:
    """Embed the images of a folder and the folders in it; what is unchanged since an earlier search is not embedded again.

    The embeddings are kept in ``skygen.storage.cache_folder``, under a name made of the scorer's and of every file's name, size
    and date. What was broken off goes on. An image that cannot be decoded gets a row of zeros, which is never found.

    Args:
        folder: of JPEG, PNG, TIFF, WebP, BMP or GIF files.
        scorer: the CLIP.
        progress: is told how many images are done.

    Raises:
        UnavailableError: there is no such folder, or no image in it.
        ConfigError: it holds more than ``LARGEST_FOLDER``.
        DataError: none of its images can be read.
        StorageError: the disk is full or refuses.
    """
    if not folder.is_dir():
        raise UnavailableError(f"{folder}: no such folder; give runs/NAME of recipes/score_pairs.py, or a folder of images.")
    images = list_images(folder)
    if len(images) > LARGEST_FOLDER:
        raise ConfigError(
            f"{folder}: holds {len(images):,} images, more than the {LARGEST_FOLDER:,} that are embedded here; embed them "
            "with recipes/score_pairs.py --scoring.save_embeddings True, and search its run."
        )
    listing = [(image.relative_to(folder).as_posix(), *_date(image)) for image in images]
    identity = {"scorer": scorer.name, "rows": CACHED_ROWS, "files": listing}
    digest = sha256(json.dumps(identity).encode("utf-8", "surrogateescape")).hexdigest()[:16]
    place = cache_folder(folder) / "search" / digest
    shards = EmbeddingShards(place, len(images), CACHED_ROWS)
    if not (place / "files.json").is_file():
        with writing(place / "files.json") as temporary:
            temporary.write_bytes(json.dumps(identity).encode("utf-8", "surrogateescape"))
    missing = [number for number in shards.numbers() if not shards.has(number)]
    done, total = 0, sum(len(shards.span(number)) for number in missing)
    for number in missing:
        progress(done, total)
        span = shards.span(number)
        shards.write(number, _embed(images[span.start : span.stop], scorer).astype(np.float16))
        done += len(span)
        progress(done, total)
    if not find_embedded(shards).any():
        raise DataError(f"{folder}: none of its {len(images):,} images can be read; `skygen check` says why.")
    return EmbeddedSet(folder.resolve().name, shards, scorer.name, images=tuple(images))


def _embed(images: Sequence[Path], scorer: Scorer) -> Float32[np.ndarray, "images dimension"]:
    """Embed images; rows of those that cannot be decoded are zero."""
    rows = np.zeros((len(images), scorer.embed_texts([""]).shape[1]), np.float32)
    for start in range(0, len(images), scorer.batch_size):
        read = []
        for place, image in enumerate(images[start : start + scorer.batch_size], start=start):
            try:
                read.append((place, open_image(image)))
            except ImageError:
                continue
        if read:
            rows[[place for place, _ in read]] = scorer.embed_images([picture for _, picture in read])
    return rows


def _date(image: Path) -> tuple[int, int]:
    status = image.stat()
    return status.st_size, status.st_mtime_ns


def _take(path: Path, places: Int64[np.ndarray, " found"], columns: Sequence[str]) -> list[dict[str, Any]]:
    """Read some rows of a Parquet file, and of it only the row groups they are in."""
    with _reading(path):
        file = open_parquet(path)
        sizes = [file.metadata.row_group(number).num_rows for number in range(file.metadata.num_row_groups)]
        ends = np.cumsum(sizes)
        groups = np.searchsorted(ends, places, side="right")
        found: dict[int, dict[str, Any]] = {}
        for group in np.unique(groups).tolist():
            own = np.unique(places[groups == group])
            table = file.read_row_group(group, columns=list(columns))
            found.update(zip(own.tolist(), table.take(own - (ends[group] - sizes[group])).to_pylist(), strict=True))
    return [found[place] for place in places.tolist()]


@contextmanager
def _reading(path: Path) -> Iterator[None]:
    """Put what Arrow says of a table that cannot be read into a sentence."""
    try:
        yield
    except (pa.ArrowException, OSError, KeyError) as error:
        raise DataError(
            f"{path}: cannot be read ({' '.join(str(error).split())}); run recipes/score_pairs.py again."
        ) from error
