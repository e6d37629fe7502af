"""Sampling in bulk: what is drawn does not depend on batches, processes or interruptions, and the best candidate is kept."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skygen.data.pairs import read_pairs
from skygen.generation.prompts import Prompt
from skygen.generation.sampling import (
    METADATA,
    GenerationSettings,
    SelectionSettings,
    best_candidate,
    draw_samples,
    read_metadata,
    samples_to_draw,
    sort_metadata,
)
from skygen.models.diffusion import Diffusion
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

PROMPTS = [Prompt("a dam"), Prompt("two tanks", "images2/a1_CH_19.jpg", "storage tank"), Prompt("a lake")]


@pytest.fixture(scope="module")
def models(stable_diffusion_folder: Path, skyclip_folder: Path) -> tuple[Diffusion, Scorer]:
    return Diffusion.load(str(stable_diffusion_folder)), Scorer.load(str(skyclip_folder))


def draw(
    models: tuple[Diffusion, Scorer], folder: Path, indices: list[int], *, batch_size: int = 4, candidates: int = 1
) -> list[dict[str, Any]]:
    generation = GenerationSettings(num_inference_steps=2, batch_size=batch_size)
    list(
        draw_samples(
            *models, PROMPTS, indices, generation, SelectionSettings(candidates), Seeds(3), folder, {"model": "base"}
        )
    )  # fmt: skip
    return sort_metadata(folder)


def pixels(folder: Path, record: dict[str, Any]) -> np.ndarray:
    with Image.open(folder / record["file_name"]) as image:
        return np.asarray(image, dtype=np.int16)


def test_a_broken_run_draws_what_is_missing_and_ends_as_an_unbroken_one(
    models: tuple[Diffusion, Scorer], tmp_path: Path
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    expected = draw(models, whole, samples_to_draw(whole, 5))
    draw(models, broken, [0, 3], batch_size=1)
    with (broken / METADATA).open("a") as file:
        file.write('{"file_name": "images/0000')  # a line that a kill cut short
    (broken / "images" / "000003.png").unlink()
    missing = samples_to_draw(broken, 5)
    assert missing == [1, 2, 3, 4]
    (broken / METADATA).write_text("".join(line for line in (broken / METADATA).read_text().splitlines(keepends=True)[:2]))
    records = draw(models, broken, missing, batch_size=3)
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4]
    for record, other in zip(records, expected, strict=True):
        assert record["seed"] == other["seed"]
        assert np.abs(pixels(broken, record) - pixels(whole, other)).max() <= 1  # batches of another size may round apart


def test_processes_share_the_numbers_without_overlap(tmp_path: Path) -> None:
    shares = [samples_to_draw(tmp_path, 7, rank, 3) for rank in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(7))
    assert shares[1] == [1, 4]


def test_prompts_are_taken_in_turn_and_keep_what_is_known_of_them(models: tuple[Diffusion, Scorer], tmp_path: Path) -> None:
    records = draw(models, tmp_path, [0, 1, 4])
    assert [record["text"] for record in records] == ["a dam", "two tanks", "two tanks"]
    assert [record["key"] for record in records] == ["", "images2/a1_CH_19.jpg", "images2/a1_CH_19.jpg"]
    assert [record.get("class") or None for record in records] == [None, "storage tank", "storage tank"]
    assert [pair.class_name for pair in read_pairs(tmp_path)] == [None, "storage tank", "storage tank"]
    assert len({record["seed"] for record in records}) == 3
    assert all(record["synthetic"] and record["model"] == "base" for record in records)


def test_the_best_of_the_candidates_is_kept(models: tuple[Diffusion, Scorer], tmp_path: Path) -> None:
    records = draw(models, tmp_path, [0, 1], candidates=3)
    assert len(records) == 2
    for record in records:
        assert len(record["candidate_scores"]) == 3
        assert record["skyclip_score"] == max(record["candidate_scores"])
        score = models[1].similarity([tmp_path / record["file_name"]], [record["text"]])
        assert abs(float(score[0]) - record["skyclip_score"]) < 1e-5
    assert records[0]["seed"] in {Seeds(3).derive("image", 0, candidate) for candidate in range(3)}


def test_of_equal_candidates_the_first_wins() -> None:
    assert best_candidate([0.1, 0.3, 0.3]) == 1


def test_no_metadata_is_no_records(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == []
