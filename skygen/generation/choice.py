"""The candidates of a picture: drawn, scored, judged by one who has no say, and the best of them chosen."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from hashlib import sha256
from typing import Any, final

import torch
from PIL import Image

from skygen.data.archives import read_bytes
from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.data.images import open_image
from skygen.data.pair import to_words
from skygen.errors import DataError, ImageError
from skygen.generation.picture_list import Picture
from skygen.generation.prompts import Prompt
from skygen.generation.settings import GenerationSettings, SelectionSettings, describe_settings
from skygen.memory import Parts
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.sampling import count_together
from skygen.models.judge import Judge
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds


@final
@dataclass(frozen=True, slots=True)
class Models:
    """What draws and who looks at it.

    Args:
        diffusion: draws.
        scorer: scores each candidate against its prompt, and so chooses; None leaves the scores out, and needs one candidate.
        judge: says of each candidate how likely it shows the class that is meant; the choice does not depend on it.
    """

    diffusion: Diffusion
    scorer: Scorer | None = None
    judge: Judge | None = None


@final
@dataclass(frozen=True, slots=True)
class Wanted:
    """What is to be drawn; picture ``i`` takes prompt and beginning ``i`` modulo their number.

    Args:
        prompts: one or more.
        seeds: candidate ``c`` of picture ``i`` starts from the seed derived from (``image``, i, c).
        origin: noted of every picture: base model, adapter, ``model`` (``tuned`` or ``base``).
        metadata: how the pictures are to look as if taken, for a model that is told it; what it leaves open, a prompt may say.
        beginnings: images that pictures begin as; none where they begin as noise.
    """

    prompts: Sequence[Prompt]
    seeds: Seeds
    origin: dict[str, Any]
    metadata: ImageMetadata = UNKNOWN
    beginnings: Sequence[Picture] = ()


@final
@dataclass(frozen=True, slots=True)
class Chosen:
    """A picture that was chosen, and its record, not yet saved."""

    image: Image.Image
    record: dict[str, Any]


@final
@dataclass(frozen=True, slots=True)
class _Job:
    """One candidate of one picture."""

    index: int
    prompt: Prompt
    seed: int
    metadata: ImageMetadata
    beginning: Picture | None


@final
class Candidates:
    """Draws the candidates of pictures and chooses among them.

    Args:
        models: see there.
        wanted: see there.
        generation: steps, guidance, size, batch.
        selection: candidates a picture.

    Attributes:
        unit: pictures that are drawn together and at the same places, so that no byte depends on who draws them and when;
            unit ``u`` has the pictures from ``u * unit`` on.
        is_exact: whether that is so, on the CPU; elsewhere any pictures may be drawn together.
    """

    def __init__(self, models: Models, wanted: Wanted, generation: GenerationSettings, selection: SelectionSettings) -> None:
        self._models, self._wanted, self._generation, self._selection = models, wanted, generation, selection
        self.is_exact = models.diffusion.network.device.type == "cpu"
        together = generation.together or count_together(models.diffusion.family, generation)
        self.unit = max(1, together // selection.candidates) if self.is_exact else 1
        self._rows = together if self.is_exact else max(1, generation.batch_size)
        self._scored_at_a_time = Parts(1 if self.is_exact else self._rows)

    def draw(self, indices: Sequence[int]) -> list[Chosen]:
        """Draw pictures, each the best of its candidates.

        Args:
            indices: of the pictures; on the CPU those of one unit.
        """
        jobs = [[self._job(index, number) for number in range(self._selection.candidates)] for index in indices]
        with _threads(self._generation.threads if self.is_exact else 0):
            kept = self._race(jobs) if self._selection.is_racing else [list(range(len(own))) for own in jobs]
            finished = [own[place] for own, places in zip(jobs, kept, strict=True) for place in places]
            images = self._sample(finished)
            scores = self._score(images, finished)
            judged = self._judge(images, finished)
        chosen, start = [], 0
        for own, places in zip(jobs, kept, strict=True):
            end = start + len(places)
            best = best_candidate(scores[start:end]) if scores else 0
            record = self._record(own, places, places[best], scores[start:end], judged[start:end])
            chosen.append(Chosen(images[start + best], record))
            start = end
        return chosen

    def _job(self, index: int, number: int) -> _Job:
        wanted = self._wanted
        prompt = wanted.prompts[index % len(wanted.prompts)]
        told = UNKNOWN
        if self._models.diffusion.metadata is not None:
            wished = {name: value for name, value in wanted.metadata._asdict().items() if value is not None}
            told = prompt.metadata._replace(**wished)
        beginning = wanted.beginnings[index % len(wanted.beginnings)] if wanted.beginnings else None
        return _Job(index, prompt, wanted.seeds.derive("image", index, number), told, beginning)

    def _race(self, jobs: Sequence[Sequence[_Job]]) -> list[list[int]]:
        """Return of each picture the candidates that look best on the way, by their numbers, in their order."""
        every = [job for own in jobs for job in own]
        scores = self._score(self._look(every), every)
        kept = []
        for start in range(0, len(every), self._selection.candidates):
            own = scores[start : start + self._selection.candidates]
            order = sorted(range(len(own)), key=lambda place: (-own[place], place))
            kept.append(sorted(order[: self._selection.finished]))
        return kept

    def _sample(self, jobs: Sequence[_Job]) -> list[Image.Image]:
        parts = Parts(min(self._rows, len(jobs)))
        return parts.work(lambda some: self._draw_some(some, parts.size), jobs)

    def _look(self, jobs: Sequence[_Job]) -> list[Image.Image]:
        """Return what the denoiser takes each picture to be after a part of the steps."""
        asked = self._generation
        steps = asked.num_inference_steps * (asked.strength if self._wanted.beginnings else 1.0)
        look = max(1, math.ceil(self._selection.look_after * int(steps)))
        parts = Parts(min(self._rows, len(jobs)))

        def draw(some: Sequence[_Job]) -> list[Image.Image]:
            seen: list[Image.Image] = []

            def stop(done: int, _total: int) -> None:
                if done >= look:
                    raise _SeenEnough

            def see(_place: int, image: Image.Image) -> None:
                seen.append(image)

            with suppress(_SeenEnough):
                self._draw_some(some, parts.size, on_step=stop, on_preview=see, preview_every=look)
            return seen

        return parts.work(draw, jobs)

    def _draw_some(self, jobs: Sequence[_Job], together: int, **watching: Any) -> list[Image.Image]:
        return self._models.diffusion.sample(
            [job.prompt.text for job in jobs],
            [job.seed for job in jobs],
            settings=self._generation,
            metadata=[job.metadata for job in jobs],
            images=[_open_beginning(job.beginning) for job in jobs if job.beginning is not None],
            together=together,
            **watching,
        )

    def _score(self, images: Sequence[Image.Image], jobs: Sequence[_Job]) -> list[float]:
        scorer = self._models.scorer
        if scorer is None:
            return []

        def score(some: Sequence[tuple[Image.Image, _Job]]) -> list[float]:
            similar = scorer.similarity([image for image, _ in some], [job.prompt.text for _, job in some])
            return [float(each) for each in similar]

        return self._scored_at_a_time.work(score, list(zip(images, jobs, strict=True)))

    def _judge(self, images: Sequence[Image.Image], jobs: Sequence[_Job]) -> list[float | None]:
        """Return how likely each picture shows the class that is meant, in [0, 1]; None where the judge does not know it."""
        judge = self._models.judge
        if judge is None:
            return []
        likely = judge.probabilities(images)
        meant = [to_words(job.prompt.class_name or "") for job in jobs]
        return [
            float(row[judge.class_names.index(name)]) if name in judge.class_names else None
            for row, name in zip(likely, meant, strict=True)
        ]

    def _record(
        self, jobs: Sequence[_Job], places: Sequence[int], best: int, scores: Sequence[float], judged: Sequence[float | None]
    ) -> dict[str, Any]:
        job, asked = jobs[best], self._generation
        scored = dict(zip(places, scores, strict=True)) if scores else {}
        judgements = dict(zip(places, judged, strict=True)) if judged else {}
        listed = [scored.get(place) for place in range(len(jobs))]  # None of those that were given up
        return {
            "file_name": f"images/{job.index:06d}.png",
            "text": job.prompt.text,
            "index": job.index,
            "seed": job.seed,
            "key": job.prompt.key,
            "class": job.prompt.class_name,
            **({"skyclip_score": scored[best], "candidate": best, "candidate_scores": listed} if scores else {}),
            **({"candidate_judgements": [judgements.get(place) for place in range(len(jobs))]} if judged else {}),
            **describe_settings(asked),
            **(_describe_beginning(job.beginning, asked.strength) if job.beginning is not None else {}),
            "synthetic": True,
            **self._wanted.origin,
            **({"metadata": job.metadata._asdict()} if job.metadata != UNKNOWN else {}),
        }


def best_candidate(scores: Sequence[float]) -> int:
    """Return the place of the highest score, the first of equals."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


class _SeenEnough(Exception):
    """Ends a drawing that was begun for a look alone."""


def _open_beginning(beginning: Picture) -> Image.Image:
    try:
        return open_image(beginning.image)
    except ImageError as error:
        raise DataError(f"{beginning.image}: {error}; take it out of --generation.images, or mend it.") from error


def _describe_beginning(beginning: Picture, strength: float) -> dict[str, Any]:
    digest = sha256(read_bytes(beginning.image)).hexdigest()
    return {"begins_as": beginning.key, "begins_as_sha256": digest, "strength": strength}


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Have torch compute with so many threads for a while; with 0, with as many as it does anyhow."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)
