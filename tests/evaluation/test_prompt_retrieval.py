"""The rank of a picture's own prompt among the distinct prompts: against plain loops and known rankings."""

from __future__ import annotations

import numpy as np
import pytest

from skygen.errors import DataError
from skygen.evaluation.images.prompt_retrieval import prompt_retrieval_scores
from skygen.evaluation.scores import Score
from skygen.seeding import Seeds

SEEDS = Seeds(7)


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def score(images: np.ndarray, texts: np.ndarray, prompts: list[str]) -> dict[tuple[str, str], Score]:
    scores = prompt_retrieval_scores(images, texts, prompts, model="tuned", subset="test", extractor="skyclip:x", seeds=SEEDS)
    return {(one.model, one.name): one for one in scores}


def test_recalls_are_those_of_plain_loops() -> None:
    prompts = [f"prompt {number}" for number in (*range(30), *range(0, 30, 2))]
    draw = SEEDS.numpy("embeddings")
    of_prompt = unit(draw.standard_normal((30, 6)))
    texts = np.stack([of_prompt[int(prompt.split()[1])] for prompt in prompts])
    images = unit(texts + 0.6 * draw.standard_normal((45, 6)))
    found = score(images, texts, prompts)
    for k in (1, 5, 10):
        hits = []
        for image, text in zip(images, texts, strict=True):
            nearer = sum(float(image @ other) > float(image @ text) for other in of_prompt if other is not text)
            hits.append(nearer < k)
        one = found["tuned", f"image_to_prompt_recall_at_{k}"]
        assert one.value == pytest.approx(np.mean(hits))
        assert 0.0 < one.value < 1.0
        assert (one.count, one.subset, one.extractor) == (45, "test", "skyclip:x")
        assert one.interval is not None
        assert one.interval[0] < one.value < one.interval[1]
        chance = found["random", f"image_to_prompt_recall_at_{k}"]
        assert (chance.value, chance.count, chance.interval) == (pytest.approx(k / 30), 45, None)
    assert len(found) == 6


def test_pictures_at_their_own_prompts_are_all_found_and_dealt_out_anew_none_is() -> None:
    texts = np.eye(12)
    prompts = [str(number) for number in range(12)]
    assert score(texts, texts, prompts)["tuned", "image_to_prompt_recall_at_1"].value == 1.0
    moved = score(np.roll(texts, 1, axis=0), texts, prompts)
    assert moved["tuned", "image_to_prompt_recall_at_1"].value == 0.0


def test_a_prompt_that_comes_twice_is_one_candidate() -> None:
    prompts = ["a pier", "a field", "a pier", "a road"]
    rows = np.eye(3)[[0, 1, 0, 2]]
    found = score(rows, rows, prompts)
    assert found["tuned", "image_to_prompt_recall_at_1"].value == 1.0
    assert found["random", "image_to_prompt_recall_at_1"].value == pytest.approx(1 / 3)
    assert set(found) == {(model, "image_to_prompt_recall_at_1") for model in ("tuned", "random")}


def test_a_scorer_to_which_all_prompts_are_equal_finds_nothing() -> None:
    rows = np.tile(np.array([[0.6, 0.8]], dtype=np.float32), (20, 1))
    found = score(rows, rows, [str(number) for number in range(20)])
    assert [found["tuned", f"image_to_prompt_recall_at_{k}"].value for k in (1, 5, 10)] == [0.0, 0.0, 0.0]


def test_a_single_prompt_has_nothing_to_be_found_among() -> None:
    assert score(np.eye(4), np.tile(np.eye(4)[:1], (4, 1)), ["a pier"] * 4) == {}


def test_pictures_without_their_prompts_are_refused() -> None:
    with pytest.raises(DataError, match="There is no picture to rank prompts for"):
        score(np.empty((0, 4)), np.empty((0, 4)), [])
    with pytest.raises(DataError, match="There are 4 pictures but 3 embedded prompts; give one for each picture"):
        score(np.eye(4), np.eye(4)[:3], ["a"] * 4)
    with pytest.raises(DataError, match="There are 4 pictures but 3 prompts; give one for each picture"):
        score(np.eye(4), np.eye(4), ["a", "b", "c"])
    with pytest.raises(DataError, match="not finite"):
        score(np.full((4, 4), np.nan), np.eye(4), ["a", "b", "c", "d"])
