"""Captions in bulk: a shard of images at a time, of which each is a file that is written whole.

A shard's captions follow from its number, its images and the settings alone. A run that was broken off, or that more processes
join, goes on with the shards that are not there, and ends with the same captions.
"""

from __future__ import annotations

import json
from collections import deque
from collections.abc import Callable, Generator, Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import closing
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any, Protocol, TypeVar, final, runtime_checkable

import torch
from PIL import Image

from skygen import plain_json
from skygen.data.captions import strip_view_prefix
from skygen.data.images import fit_image, open_image
from skygen.data.rejects import Reject, Rejects
from skygen.errors import DataError, ImageError
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.fingerprints import fingerprint_weights
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds
from skygen.signals import wait_until
from skygen.storage import writing

AHEAD = 2
"""Batches that are decoded while the model writes."""
DIGITS = 6
"""Of a similarity: float32 has no more."""

Progress = Callable[[int, int], None]
Job = TypeVar("Job")
Result = TypeVar("Result")


@runtime_checkable
class Subject(Protocol):
    """What is captioned: a ``Picture``, or a ``Pair`` with its old captions."""

    @property
    def key(self) -> str:
        """Its name in the ledger."""
        ...

    @property
    def image(self) -> Path:
        """Where the image lies; the path may lead through an archive."""
        ...

    @property
    def captions(self) -> tuple[str, ...]:
        """The old captions, if any."""
        ...


@final
@dataclass(frozen=True, slots=True)
class Written:
    """What was written about one image.

    Args:
        row: of the image in the list.
        candidates: captions, in the order they were proposed; none of an image that cannot be read.
        scores: cosine in [-1, 1] of each with the image; empty without a scorer.
        old_scores: the same of each old caption.
        reason: why the image cannot be read; empty where it can.
    """

    row: int
    candidates: tuple[str, ...] = ()
    scores: tuple[float, ...] = ()
    old_scores: tuple[float, ...] = ()
    reason: str = ""

    @property
    def best(self) -> int:
        """The place of the caption that is taken: the nearest to the image, of equals the first; a blank one only at need."""
        scores = self.scores or (0.0,) * len(self.candidates)
        return max(range(len(self.candidates)), key=lambda place: (bool(self.candidates[place]), scores[place], -place))

    @property
    def text(self) -> str:
        """The caption that is taken."""
        return self.candidates[self.best]

    def to_json(self) -> dict[str, Any]:
        """Return the line of a shard."""
        if self.reason:
            return {"row": self.row, "reason": self.reason}
        scored = {"scores": self.scores, "old_scores": self.old_scores} if self.scores else {}
        return {"row": self.row, "candidates": self.candidates, **scored}

    @classmethod
    def from_json(cls, line: dict[str, Any]) -> Written:
        """Read the line of a shard."""
        lists = {name: tuple(line.get(name, ())) for name in ("candidates", "scores", "old_scores")}
        return cls(row=line["row"], reason=line.get("reason", ""), **lists)


@final
@dataclass(frozen=True, slots=True)
class _Loaded:
    """The images of a batch that could be read, fitted to what sees them, and why the others could not."""

    rows: list[int]
    squares: list[Image.Image]
    pixels: list[torch.Tensor]
    old: list[tuple[str, ...]]
    unreadable: list[tuple[int, Reject]]


@final
@dataclass(frozen=True, slots=True)
class CaptionWriter:
    """Writes the shards of a list of images.

    Args:
        captioner: the model.
        settings: how captions are written; with ``batch_size`` images at a time, which the draws of sampling depend on.
        subjects: all images.
        folder: of the shards.
        seeds: batch ``b`` of shard ``s`` draws from what is derived from (``captions``, s, b).
        rejects: where images that cannot be read are noted.
        max_bad_fraction: largest share of the images that may be so, in [0, 1].
        scorer: compares candidates and old captions with their image; None leaves the first candidate.
        rows: images in a shard.
    """

    captioner: Captioner
    settings: CaptioningSettings
    subjects: Sequence[Subject]
    folder: Path
    seeds: Seeds
    rejects: Rejects
    max_bad_fraction: float = 0.01
    scorer: Scorer | None = None
    rows: int = 512

    def shards(self) -> range:
        """Return the numbers of the shards."""
        return range(-(-len(self.subjects) // self.rows))

    def path(self, number: int) -> Path:
        """Return where a shard lies."""
        return self.folder / f"shard-{number:06d}.jsonl"

    def write(self, rank: int, processes: int, progress: Progress) -> None:
        """Write this process's share of the shards.

        Args:
            rank: of this process, from 0: its shards are ``rank``, ``rank + processes`` and so on.
            processes: that share the work.
            progress: is told the images of this process done and in all, those of an earlier start included.

        Raises:
            DataError: more images than allowed cannot be read; the shards before are written and stay.
        """
        share = self.shards()[rank::processes]
        own = [number for number in share if not self.path(number).is_file()]
        total = sum(len(self._span(number)) for number in share)
        done = total - sum(len(self._span(number)) for number in own)
        progress(done, total)
        work = [rows for number in own for rows in self._batches(number)]
        with closing(read_ahead(self._load, work)) as loaded:
            for number in own:
                written: list[Written] = []
                for place, rows in enumerate(self._batches(number)):
                    batch = next(loaded)
                    self.rejects.add_all(reject for _, reject in batch.unreadable)
                    written += self._caption(batch, Seeds(self.seeds.derive("captions", number, place)))
                    done += len(rows)
                    progress(done, total)
                # before the shard is written: after a disk that went away, its images are to be looked for again
                self.rejects.check(len(self.subjects), self.max_bad_fraction)
                self._save(number, written)

    def wait(self) -> None:
        """Wait for the shards of other processes."""
        wait_until(lambda: all(self.path(number).is_file() for number in reversed(self.shards())))

    def read(self) -> Iterator[Written]:
        """Read all shards, every image once, in the order of the list.

        Raises:
            DataError: a shard does not hold exactly its images.
        """
        for number in self.shards():
            path = self.path(number)
            try:
                written = [Written.from_json(plain_json.parse(line)) for line in path.read_text(encoding="utf-8").splitlines()]
            except (ValueError, KeyError, TypeError):
                written = []
            if [each.row for each in written] != list(self._span(number)):
                raise DataError(
                    f"{path}: damaged, its images are not all there; remove it, and the same command writes it anew"
                )
            yield from written

    def check(self) -> None:
        """Note every image that could not be read, also by an earlier start, and stop if they are too many.

        Raises:
            DataError: they are.
        """
        for written in self.read():
            if written.reason:
                subject = self.subjects[written.row]
                self.rejects.add(subject.key, written.reason, str(subject.image))
        self.rejects.check(len(self.subjects), self.max_bad_fraction)

    def _span(self, number: int) -> range:
        return range(number * self.rows, min(len(self.subjects), (number + 1) * self.rows))

    def _batches(self, number: int) -> list[range]:
        span, size = self._span(number), self.settings.batch_size
        return [span[start : start + size] for start in range(0, len(span), size)]

    def _load(self, rows: range) -> _Loaded:
        loaded = _Loaded([], [], [], [], [])
        for row in rows:
            subject = self.subjects[row]
            try:
                image = open_image(subject.image)
            except ImageError as error:
                loaded.unreadable.append((row, Reject(subject.key, str(error), str(subject.image))))
                continue
            loaded.rows.append(row)
            loaded.squares.append(fit_image(image, self.captioner.resolution, mode="squash"))  # as the captioner would
            loaded.old.append(tuple(subject.captions))
            if self.scorer is not None:
                loaded.pixels.append(self.scorer.preprocess(image))
        return loaded

    def _caption(self, batch: _Loaded, seeds: Seeds) -> list[Written]:
        written = [Written(row, reason=reject.reason) for row, reject in batch.unreadable]
        if batch.rows:
            proposed = [tuple(each) for each in self.captioner.propose(batch.squares, self.settings, seeds)]
            nothing: list[tuple[float, ...]] = [()] * len(proposed)
            new, old = nothing, nothing
            if self.scorer is not None:
                new, old = score_captions(self.scorer, torch.stack(batch.pixels), proposed, batch.old)
            columns = zip(batch.rows, proposed, new, old, strict=True)
            written += [Written(row, candidates, scores, before) for row, candidates, scores, before in columns]
        return sorted(written, key=lambda each: each.row)

    def _save(self, number: int, written: Sequence[Written]) -> None:
        with writing(self.path(number)) as temporary:
            temporary.write_text("".join(json.dumps(each.to_json()) + "\n" for each in written), encoding="utf-8")


def score_captions(
    scorer: Scorer, pixels: torch.Tensor, *captions: Sequence[tuple[str, ...]]
) -> tuple[list[tuple[float, ...]], ...]:
    """Compare images with several sets of captions; each image and each distinct text is embedded once.

    What is compared is what a caption says, without an opening such as ``a satellite image of``: old captions have one and
    new ones may not.

    Args:
        scorer: the CLIP.
        pixels: preprocessed images, one an entry of each set.
        captions: sets of captions; of each, the captions of every image.

    Returns:
        Of each set, the cosines in [-1, 1] of every image, rounded to ``DIGITS``.
    """
    flat = [(place, text) for some in captions for place, texts in enumerate(some) for text in texts]
    device = next(scorer.model.parameters()).device
    with torch.inference_mode():
        images = scorer.model.encode_image(pixels.to(device), normalize=True).float().cpu().numpy()
    if not flat:
        return tuple([()] * len(some) for some in captions)
    texts = scorer.embed_texts([strip_view_prefix(text) for _, text in flat])
    cosines = iter((images[[place for place, _ in flat]] * texts).sum(axis=1).tolist())
    return tuple([tuple(round(next(cosines), DIGITS) for _ in texts) for texts in some] for some in captions)


def read_ahead(load: Callable[[Job], Result], jobs: Sequence[Job]) -> Generator[Result, None, None]:
    """Yield what ``load`` makes of each job, in order, while a thread is ``AHEAD`` jobs ahead.

    One thread: Pillow's decoders let others run meanwhile, and what they warn of is filtered for a whole process.
    """
    with ThreadPoolExecutor(max_workers=1, thread_name_prefix="images") as pool:
        begun: deque[Future[Result]] = deque()
        try:
            for job in jobs:
                begun.append(pool.submit(load, job))
                if len(begun) > AHEAD:
                    yield begun.popleft().result()
            while begun:
                yield begun.popleft().result()
        finally:
            for future in begun:
                future.cancel()


def identify_models(captioner: Captioner, adapter: Path | None, scorer: Scorer | None) -> dict[str, str | None]:
    """Name the weights that captions follow from: other weights under the same path have other names."""
    digest = sha256()
    for file in sorted(adapter.glob("*.safetensors")) if adapter else []:
        digest.update(file.read_bytes())
    return {
        "captioner": fingerprint_weights(captioner.network),
        "adapter": digest.hexdigest()[:16] if adapter else None,
        "scorer": fingerprint_weights(scorer.model) if scorer else None,
    }
