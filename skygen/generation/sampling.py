"""Sampling in bulk: picture ``i`` follows from the run's seed and ``i`` alone, so a broken run goes on where it stopped.

On the CPU that holds to the last bit, whatever the batches, the processes and the interruptions: sums round otherwise in other
batches and with other numbers of threads, so pictures are computed there one by one, with ``generation.threads`` threads.
"""

from __future__ import annotations

import logging
from collections import deque
from collections.abc import Iterator, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final

import torch
from PIL import Image

from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.errors import SkygenError
from skygen.generation.memory import Parts
from skygen.generation.prompts import Prompt
from skygen.generation.provenance import save_synthetic
from skygen.generation.records import METADATA as METADATA
from skygen.generation.records import RecordShard, describe_file, find_finished, name_some
from skygen.generation.records import read_metadata as read_metadata
from skygen.models.diffusion import Diffusion
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

_LOG = logging.getLogger("skygen")
WRITERS: Final = 2
"""Threads that compress and write pictures; zlib lets others run meanwhile."""


@dataclass(frozen=True)
class GenerationSettings:
    """How many pictures, and how each is drawn."""

    count: int = 0
    """Pictures in all, the prompts taken in turn; 0 draws one a prompt."""
    num_inference_steps: int = 20
    """Denoising steps."""
    guidance_scale: float = 5.0
    """Weight of the prompt; 1 is none."""
    resolution: int | None = None
    """Side in pixels; the model's own when left out."""
    batch_size: int = 16
    """Pictures drawn at a time on a GPU, fewer where memory does not suffice, and between two writes of the records."""
    threads: int = 1
    """Of one process on the CPU; another number changes the last bit of some pictures. 0 leaves it to torch. More processes
    use more cores and change nothing."""


@dataclass(frozen=True)
class SelectionSettings:
    """Best of N: draw several candidates and keep the one that SkyCLIP finds nearest to the prompt."""

    candidates: int = 1
    """Candidates a picture; with 1 nothing is selected."""


@dataclass(frozen=True, slots=True)
class Sample:
    """One finished picture: its number and the line of ``metadata.jsonl``."""

    index: int
    record: dict[str, Any]


@final
@dataclass(frozen=True, slots=True)
class _Job:
    """One candidate of one picture."""

    index: int
    prompt: Prompt
    seed: int
    metadata: ImageMetadata


@final
@dataclass(frozen=True, slots=True)
class _Drawn:
    """A picture that was chosen, and its record, not yet saved."""

    image: Image.Image
    record: dict[str, Any]


def samples_to_draw(folder: Path, count: int, rank: int = 0, processes: int = 1) -> list[int]:
    """List the numbers that this process still has to draw: its share, less what an earlier run finished.

    A picture whose file is not, byte for byte, the one of its record is drawn again, and the log says so.
    """
    share = range(rank, count, processes)
    finished, damaged = find_finished(folder, share)
    if damaged:
        _LOG.warning(f"{folder}: {len(damaged):,} pictures are drawn again ({name_some(damaged)})")
    return [index for index in share if index not in finished]


def draw_samples(
    diffusion: Diffusion,
    scorer: Scorer | None,
    prompts: Sequence[Prompt],
    indices: Sequence[int],
    generation: GenerationSettings,
    selection: SelectionSettings,
    seeds: Seeds,
    folder: Path,
    origin: dict[str, Any],
    metadata: ImageMetadata = UNKNOWN,
    *,
    rank: int = 0,
    ahead: int = 0,
) -> Iterator[Sample]:
    """Draw, select and save pictures, a batch at a time.

    Args:
        diffusion: the model.
        scorer: scores each candidate against its prompt; None leaves the scores out, and needs ``candidates`` 1.
        prompts: picture ``i`` draws prompt ``i mod len(prompts)``.
        indices: numbers of the pictures to draw.
        generation: steps, guidance, size, batch.
        selection: candidates a picture.
        seeds: candidate ``c`` of picture ``i`` starts from the seed derived from (``image``, i, c).
        folder: gets ``images/NNNNNN.png`` and, batch by batch, this process's records.
        origin: noted in every picture and line: base model, adapter, ``model`` (``tuned`` or ``base``).
        metadata: how the pictures are to look as if taken, for a model that is told it; what it leaves open, a prompt may say.
        rank: of this process.
        ahead: batches that may be drawn while an earlier one is still being written; with 0 each is on the disk first.

    Yields:
        Each picture when it and its record are on the disk. Whatever was drawn before an error or an interruption is, too.
    """
    drawing = _Drawing(diffusion, scorer, prompts, generation, selection, seeds, origin, metadata)
    per_batch = pictures_at_a_time(generation, selection)
    waiting: deque[list[Future[Sample]]] = deque()
    with RecordShard(folder, rank) as shard, ThreadPoolExecutor(WRITERS, thread_name_prefix="pictures") as pool:
        try:
            for start in range(0, len(indices), per_batch):
                drawn = drawing.draw(indices[start : start + per_batch])
                waiting.append([pool.submit(_save, each, folder) for each in drawn])
                while len(waiting) > ahead:
                    yield from _finish(waiting.popleft(), shard)
            while waiting:
                yield from _finish(waiting.popleft(), shard)
        finally:
            while waiting:
                with suppress(SkygenError, OSError):  # the first error is the one to hear of
                    _finish(waiting.popleft(), shard)


def pictures_at_a_time(generation: GenerationSettings, selection: SelectionSettings) -> int:
    """Return how many pictures are drawn, candidates and all, before they are written."""
    return max(1, generation.batch_size // selection.candidates)


def best_candidate(scores: Sequence[float]) -> int:
    """Return the place of the highest score, the first of equals."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


@final
class _Drawing:
    """What pictures are drawn with; arguments as of ``draw_samples``."""

    def __init__(
        self,
        diffusion: Diffusion,
        scorer: Scorer | None,
        prompts: Sequence[Prompt],
        generation: GenerationSettings,
        selection: SelectionSettings,
        seeds: Seeds,
        origin: dict[str, Any],
        metadata: ImageMetadata,
    ) -> None:
        self.diffusion, self.scorer, self.prompts, self.generation = diffusion, scorer, prompts, generation
        self.candidates, self.seeds, self.origin, self.metadata = selection.candidates, seeds, origin, metadata
        self._is_exact = diffusion.network.device.type == "cpu"
        size = 1 if self._is_exact else max(1, generation.batch_size)
        self._drawn_at_a_time, self._scored_at_a_time = Parts(size), Parts(size)

    def draw(self, indices: Sequence[int]) -> list[_Drawn]:
        """Draw the candidates of pictures, and choose among them."""
        jobs = [job for index in indices for job in self._jobs(index)]
        with _threads(self.generation.threads if self._is_exact else 0):
            images = self._drawn_at_a_time.work(self._sample, jobs)
            scores = self._scored_at_a_time.work(self._score, list(zip(images, jobs, strict=True))) if self.scorer else []
        drawn = []
        for start in range(0, len(jobs), self.candidates):
            own = scores[start : start + self.candidates]
            best = best_candidate(own) if own else 0
            drawn.append(_Drawn(images[start + best], self._record(jobs[start + best], own, best)))
        return drawn

    def _jobs(self, index: int) -> list[_Job]:
        prompt = self.prompts[index % len(self.prompts)]
        told = UNKNOWN
        if self.diffusion.metadata is not None:
            wished = {name: value for name, value in self.metadata._asdict().items() if value is not None}
            told = prompt.metadata._replace(**wished)
        return [_Job(index, prompt, self.seeds.derive("image", index, number), told) for number in range(self.candidates)]

    def _sample(self, jobs: Sequence[_Job]) -> list[Image.Image]:
        return self.diffusion.sample(
            [job.prompt.text for job in jobs],
            [job.seed for job in jobs],
            num_inference_steps=self.generation.num_inference_steps,
            guidance_scale=self.generation.guidance_scale,
            resolution=self.generation.resolution,
            metadata=[job.metadata for job in jobs],
        )

    def _score(self, drawn: Sequence[tuple[Image.Image, _Job]]) -> list[float]:
        assert self.scorer is not None
        return [
            float(score)
            for score in self.scorer.similarity([image for image, _ in drawn], [job.prompt.text for _, job in drawn])
        ]

    def _record(self, job: _Job, scores: Sequence[float], best: int) -> dict[str, Any]:
        return {
            "file_name": f"images/{job.index:06d}.png",
            "text": job.prompt.text,
            "index": job.index,
            "seed": job.seed,
            "key": job.prompt.key,
            "class": job.prompt.class_name,
            **({"skyclip_score": scores[best], "candidate_scores": list(scores)} if scores else {}),
            "num_inference_steps": self.generation.num_inference_steps,
            "guidance_scale": self.generation.guidance_scale,
            "synthetic": True,
            **self.origin,
            **({"metadata": job.metadata._asdict()} if job.metadata != UNKNOWN else {}),
        }


@contextmanager
def _threads(number: int) -> Iterator[None]:
    """Have torch compute with so many threads for a while; with 0, with as many as it does anyhow."""
    before = torch.get_num_threads()
    torch.set_num_threads(number or before)
    try:
        yield
    finally:
        torch.set_num_threads(before)


def _save(drawn: _Drawn, folder: Path) -> Sample:
    path = folder / drawn.record["file_name"]
    save_synthetic(drawn.image, path, drawn.record)
    return Sample(drawn.record["index"], drawn.record | describe_file(path))


def _finish(saving: Sequence[Future[Sample]], shard: RecordShard) -> list[Sample]:
    """Wait until pictures are written, and add their records; where some cannot be, still those of the others."""
    samples, errors = [], []
    for future in saving:
        try:
            samples.append(future.result())
        except (SkygenError, OSError) as error:
            errors.append(error)
    shard.add([sample.record for sample in samples])
    if errors:
        raise errors[0]
    return samples
