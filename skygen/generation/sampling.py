"""Sampling in bulk: picture ``i`` follows from the run's seed and ``i`` alone, so a broken run goes on where it stopped."""

from __future__ import annotations

import json
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from PIL import Image

from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.generation.prompts import Prompt
from skygen.generation.provenance import save_synthetic
from skygen.models.diffusion import Diffusion
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

METADATA = "metadata.jsonl"


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
    """Pictures drawn at a time; does not change any of them."""


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


def samples_to_draw(folder: Path, count: int, rank: int = 0, processes: int = 1) -> list[int]:
    """List the numbers that this process still has to draw: its share, less what an earlier run finished."""
    finished = {record["index"] for record in read_metadata(folder) if (folder / record["file_name"]).is_file()}
    return [index for index in range(rank, count, processes) if index not in finished]


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
        folder: gets ``images/NNNNNN.png`` and, line by line, ``metadata.jsonl``.
        origin: noted in every picture and line: base model, adapter, ``model`` (``tuned`` or ``base``).
        metadata: how the pictures are to look as if taken, for a model that is told it.
    """
    (folder / "images").mkdir(parents=True, exist_ok=True)
    per_batch = max(1, generation.batch_size // selection.candidates)
    for start in range(0, len(indices), per_batch):
        chunk = indices[start : start + per_batch]
        jobs = [(index, candidate) for index in chunk for candidate in range(selection.candidates)]
        texts = [prompts[index % len(prompts)].text for index, _ in jobs]
        numbers = [seeds.derive("image", *job) for job in jobs]
        images = diffusion.sample(
            texts,
            numbers,
            num_inference_steps=generation.num_inference_steps,
            guidance_scale=generation.guidance_scale,
            resolution=generation.resolution,
            metadata=[metadata] * len(texts),
        )
        scores = [float(score) for score in scorer.similarity(images, texts)] if scorer else [0.0] * len(jobs)
        for place, index in enumerate(chunk):
            own = slice(place * selection.candidates, (place + 1) * selection.candidates)
            best = own.start + best_candidate(scores[own])
            record = {
                "file_name": f"images/{index:06d}.png",
                "text": texts[best],
                "index": index,
                "seed": numbers[best],
                "key": prompts[index % len(prompts)].key,
                "class": prompts[index % len(prompts)].class_name,
                **({"skyclip_score": scores[best], "candidate_scores": scores[own]} if scorer else {}),
                "num_inference_steps": generation.num_inference_steps,
                "guidance_scale": generation.guidance_scale,
                "synthetic": True,
                **origin,
            }
            yield _save(images[best], index, record, folder)


def best_candidate(scores: Sequence[float]) -> int:
    """Return the place of the highest score, the first of equals."""
    return max(range(len(scores)), key=lambda place: (scores[place], -place))


def read_metadata(folder: Path) -> list[dict[str, Any]]:
    """Read the finished lines of ``metadata.jsonl``; a last line that a kill cut short is left out."""
    path = folder / METADATA
    if not path.is_file():
        return []
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    return [json.loads(line) for line in lines if line.endswith("\n") and line.strip()]


def sort_metadata(folder: Path) -> list[dict[str, Any]]:
    """Put ``metadata.jsonl`` in the order of the pictures, each once, whichever process finished first."""
    records = {record["index"]: record for record in read_metadata(folder)}
    ordered = [records[index] for index in sorted(records)]
    working = folder / f".{METADATA}"
    working.write_text("".join(json.dumps(record) + "\n" for record in ordered), encoding="utf-8")
    working.replace(folder / METADATA)
    return ordered


def _save(image: Image.Image, index: int, record: dict[str, Any], folder: Path) -> Sample:
    save_synthetic(image, folder / record["file_name"], record)
    with (folder / METADATA).open("a", encoding="utf-8") as file:
        file.write(json.dumps(record) + "\n")
    return Sample(index, record)
