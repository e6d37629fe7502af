"""Zero-shot classification: worked by hand on small vectors, and through a real, untrained SkyCLIP."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.data.benchmarks import Benchmark
from skygen.data.rejects import Rejects
from skygen.errors import DataError
from skygen.evaluation.scores import Score
from skygen.evaluation.zero_shot import (
    SEVEN_SETS,
    classification_scores,
    classifier_weights,
    classify,
    mean_of_seven,
    zero_shot_scores,
)
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

SEEDS = Seeds(7)
TEMPLATES = ("a satellite photo of {}.", "a satellite image of {}")


@pytest.fixture(scope="module")
def scorer(skyclip_folder: Path) -> Scorer:
    return Scorer.load(str(skyclip_folder), batch_size=4)


def draw(path: Path, index: int) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.fromarray(SEEDS.numpy("picture", index).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
    return path


def test_the_nearest_class_comes_first_and_of_equals_the_earlier() -> None:
    images = np.array([[1.0, 0.0], [0.6, 0.8], [0.0, 1.0]])
    weights = np.array([[0.0, 1.0], [1.0, 0.0], [0.0, 1.0]])
    assert classify(images, weights).tolist() == [[1, 0, 2], [0, 2, 1], [0, 2, 1]]


def test_embeddings_that_are_not_finite_are_refused() -> None:
    with pytest.raises(DataError, match="not finite"):
        classify(np.array([[np.nan, 0.0]]), np.eye(2))


def test_a_class_is_the_normalized_mean_of_its_normalized_prompts(scorer: Scorer) -> None:
    weights = classifier_weights(scorer, ("dam", "barn"), TEMPLATES)
    prompts = scorer.embed_texts(["a satellite photo of barn.", "a satellite image of barn"])
    mean = prompts.mean(axis=0)
    assert np.allclose(weights[1], mean / np.linalg.norm(mean), atol=1e-6)
    assert np.allclose(np.linalg.norm(weights, axis=1), 1, atol=1e-6)


def test_top_1_and_top_5_are_shares_of_all_images_beside_chance() -> None:
    ranking = np.array([[0, 1, 2, 3, 4, 5], [0, 1, 2, 3, 4, 5], [5, 4, 3, 2, 1, 0], [5, 4, 3, 2, 1, 0]])
    labels = np.array([0, 4, 5, 0])  # first, fifth, first, sixth
    scores = classification_scores(ranking, labels, subset="own", extractor="skyclip:x", seeds=SEEDS)
    assert [(score.name, score.model, score.value, score.count) for score in scores] == [
        ("zero_shot_top_1", "scorer", 0.5, 4), ("zero_shot_top_1", "random", pytest.approx(1 / 6), 4),
        ("zero_shot_top_5", "scorer", 0.75, 4), ("zero_shot_top_5", "random", pytest.approx(5 / 6), 4),
    ]  # fmt: skip
    assert {(score.subset, score.extractor) for score in scores} == {("own", "skyclip:x")}
    assert [score.interval is None for score in scores] == [False, True, False, True]
    five = classification_scores(ranking[:2, :5], labels[:2], subset="own", extractor="skyclip:x", seeds=SEEDS)
    assert [score.name for score in five] == ["zero_shot_top_1", "zero_shot_top_1"]


def test_unreadable_images_are_noted_each_and_not_counted(scorer: Scorer, tmp_path: Path) -> None:
    images = [draw(tmp_path / folder / f"{index}.png", index) for folder in "ab" for index in range(5)]
    for folder in "ab":  # the same name in two folders is two images
        (tmp_path / folder / "3.png").write_bytes(b"not an image")
    labels = tuple(index % 2 for index in range(10))
    benchmark = Benchmark("own", tuple(images), labels, ("dam", "barn"), TEMPLATES)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    seen: list[tuple[int, int]] = []
    scores = zero_shot_scores(scorer, benchmark, SEEDS, rejects, lambda done, total: seen.append((done, total)))
    assert [(score.count, score.subset) for score in scores] == [(8, "own"), (8, "own")]
    assert scores[0].extractor == f"skyclip:{scorer.name}"
    assert seen == [(4, 10), (8, 10), (10, 10)]
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [line["where"] for line in lines] == [str(tmp_path / folder / "3.png") for folder in "ab"]

    kept = [index for index in range(10) if index % 5 != 3]
    weights = classifier_weights(scorer, benchmark.class_names, TEMPLATES)
    nearest = (scorer.embed_images([images[index] for index in kept]) @ weights.T).argmax(axis=1)
    assert scores[0].value == pytest.approx(np.mean(nearest == [labels[index] for index in kept]))


def test_a_benchmark_without_a_readable_image_is_explained(scorer: Scorer, tmp_path: Path) -> None:
    benchmark = Benchmark("own", (tmp_path / "a.jpg", tmp_path / "b.jpg"), (0, 1), ("dam", "barn"))
    with pytest.raises(DataError, match="none of 2 images can be read; the first reason: missing: no such file"):
        zero_shot_scores(scorer, benchmark, SEEDS, Rejects(None))


def test_the_mean_of_seven_weighs_sets_alike_and_leaves_out_the_eighth() -> None:
    assert set(SEVEN_SETS) == {"aid", "eurosat", "fmow", "millionaid", "patternnet", "nwpu", "rsicb"}
    scores = [Score("zero_shot_top_1", 0.9, 10, None, "scorer", "SkyScript_cls", "skyclip:x")]
    for place, name in enumerate(SEVEN_SETS):
        count = 1000 if place else 100
        scores.append(Score("zero_shot_top_1", 0.1 * (place + 1), count, None, "scorer", name, "skyclip:x"))
        scores.append(Score("zero_shot_top_1", 0.01, count, None, "random", name, "skyclip:x"))
        scores.append(Score("zero_shot_top_5", 1.0, count, None, "scorer", name, "skyclip:x"))
    own, chance = mean_of_seven(scores)
    assert (own.name, own.model, own.subset, own.count) == ("zero_shot_top_1_mean_of_seven", "scorer", "seven sets", 6100)
    assert (own.value, chance.value) == pytest.approx((0.4, 0.01))
    assert (chance.model, chance.interval) == ("random", None)
    variance = (0.09 / 100 + (0.16 + 0.21 + 0.24 + 0.25 + 0.24 + 0.21) / 1000) / 49
    assert own.interval == pytest.approx((0.4 - 1.96 * variance**0.5, 0.4 + 1.96 * variance**0.5), abs=1e-5)
    assert mean_of_seven([score for score in scores if score.subset != "fmow"]) == []
    assert mean_of_seven([]) == []
