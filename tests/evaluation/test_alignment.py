"""CLIP-based scores: against closed forms on small vectors, and through a real, untrained SkyCLIP."""

from __future__ import annotations

import logging
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skygen.errors import DataError
from skygen.evaluation.alignment import (
    align_trials,
    alignment_scores,
    caption_alignment_scores,
    clip_score,
    matched_cosine,
    ref_clip_score,
    shuffled_cosine,
    skyclip_scores,
)
from skygen.evaluation.captions.trials import lay_out_trials
from skygen.evaluation.scores import Score
from skygen.miniature.architectures import build_skyclip
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

SEEDS = Seeds(7)
HALF = np.array([0.5, np.sqrt(0.75)])
"""A unit vector with cosine 1/2 to the first axis."""
EAST, NORTH, WEST = np.array([1.0, 0.0]), np.array([0.0, 1.0]), np.array([-1.0, 0.0])


@pytest.fixture(scope="session")
def scorer(tmp_path_factory: pytest.TempPathFactory) -> Scorer:
    folder = tmp_path_factory.mktemp("skyclip")
    build_skyclip(folder, SEEDS)
    return Scorer.load(str(folder))


def pictures(count: int) -> list[Image.Image]:
    pixels = SEEDS.numpy("test pictures").integers(256, size=(count, 64, 64, 3), dtype=np.uint8)
    return [Image.fromarray(picture) for picture in pixels]


def test_the_cosine_is_that_of_the_angle_whatever_the_lengths() -> None:
    images = np.stack([EAST, EAST, 3.0 * EAST, EAST])
    texts = np.stack([5.0 * EAST, HALF, NORTH, 0.1 * WEST])
    assert matched_cosine(images, texts) == pytest.approx([1.0, 0.5, 0.0, -1.0], abs=1e-15)


def test_the_cosine_of_float32_unit_vectors_stays_in_range() -> None:
    vectors = SEEDS.numpy("test").standard_normal((500, 7)).astype(np.float32)
    vectors /= np.linalg.norm(vectors, axis=1, keepdims=True)
    assert matched_cosine(vectors, vectors).max() <= 1.0


def test_shuffling_never_pairs_an_image_with_its_own_wording() -> None:
    prompts = ["a", "a", "b", "c", "c", "d"]
    axis = {"a": 0, "b": 1, "c": 2, "d": 3}
    texts = np.eye(4)[[axis[prompt] for prompt in prompts]]
    for seed in range(20):
        assert shuffled_cosine(texts, texts, prompts, Seeds(seed)) == pytest.approx(np.zeros(6))


def test_clip_score_is_two_and_a_half_times_the_positive_cosine() -> None:
    images, captions = np.stack([EAST, EAST, EAST]), np.stack([EAST, HALF, WEST])
    assert clip_score(images, captions) == pytest.approx([2.5, 1.25, 0.0])


def test_ref_clip_score_is_the_harmonic_mean_with_the_best_reference() -> None:
    images = np.stack([EAST, EAST, EAST, EAST])
    captions = np.stack([HALF, EAST, EAST, WEST])
    references = [np.stack([EAST, HALF, NORTH]), np.stack([NORTH, HALF]), np.stack([WEST]), np.stack([EAST, EAST])]
    expected = [
        2 * 1.25 * 1.0 / (1.25 + 1.0),  # the second reference is the caption itself
        2 * 2.5 * 0.5 / (2.5 + 0.5),
        0.0,  # the only reference says the opposite
        0.0,  # so does the caption, of image and references: 0 / 0 in the paper
    ]
    assert ref_clip_score(images, captions, references) == pytest.approx(expected)


def test_the_best_possible_ref_clip_score_is_ten_sevenths() -> None:
    one = np.stack([EAST])
    assert ref_clip_score(one, one, [one]) == pytest.approx([10 / 7])


def test_scores_are_means_with_the_interval_of_the_items() -> None:
    generator = SEEDS.numpy("test items")
    images, texts = generator.standard_normal((200, 8)), generator.standard_normal((200, 8))
    prompts = [f"prompt {index}" for index in range(200)]
    own, shuffled = alignment_scores(
        images, images + texts, prompts, model="tuned", subset="test", extractor="skyclip:x", seeds=SEEDS
    )
    items = matched_cosine(images, images + texts)
    assert (own.name, own.model, own.subset, own.extractor, own.count) == ("skyclip_score", "tuned", "test", "skyclip:x", 200)
    assert own.value == pytest.approx(items.mean())
    assert own.interval is not None
    assert own.interval[1] - own.interval[0] == pytest.approx(2 * 1.96 * items.std() / np.sqrt(200), rel=0.1)
    assert (shuffled.name, shuffled.model, shuffled.count) == ("skyclip_score", "shuffled", 200)
    assert shuffled.interval is not None
    assert shuffled.interval[0] < 0.0 < shuffled.interval[1] < own.interval[0]


def test_one_prompt_for_all_has_no_shuffled_score_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scores = alignment_scores(
            np.stack([EAST, HALF]), np.stack([EAST, EAST]), ["a", "a"], model="base", subset="", extractor="x", seeds=SEEDS
        )
    assert [(score.model, score.value) for score in scores] == [("base", 0.75)]
    assert caplog.messages == ["skyclip_score of shuffled prompts is left out, as there is only one prompt"]


def test_a_single_image_has_a_score_without_interval() -> None:
    one = np.stack([EAST])
    (score,) = alignment_scores(one, one, ["a"], model="base", subset="", extractor="x", seeds=SEEDS)
    assert (score.value, score.count, score.interval) == (1.0, 1, None)


def test_a_scorer_gives_its_own_similarities(scorer: Scorer) -> None:
    images, prompts = pictures(4), ["a farm", "two ships", "a farm", "an airport"]
    own, shuffled = skyclip_scores(scorer, images, prompts, model="tuned", subset="val", seeds=SEEDS)
    assert own.value == pytest.approx(scorer.similarity(images, prompts).mean(), abs=1e-6)
    assert own.extractor == shuffled.extractor == f"skyclip:{scorer.name}"
    assert shuffled.value != pytest.approx(own.value, abs=1e-6)
    again = skyclip_scores(scorer, images, prompts, model="tuned", subset="val", seeds=SEEDS)
    assert again == [own, shuffled]


def align(scorer: Scorer, images: list[Any], captions: dict[str, list[str]], references: list[list[str]]) -> list[Score]:
    aligned = align_trials(scorer, images, lay_out_trials(captions, references))
    return caption_alignment_scores(aligned, extractor=f"skyclip:{scorer.name}", subset="test", seeds=SEEDS)


def test_captions_are_scored_against_image_and_references(scorer: Scorer) -> None:
    images, captions = pictures(3), ["a farm", "two ships", "a road"]
    references = [["fields", "a farm"], ["a port"], ["a road", "a street", "cars"]]
    writers = {"tuned": captions, "constant": ["a farm"] * 3}
    scores = align(scorer, images, writers, references)
    assert [(score.name, score.model, score.count) for score in scores] == [
        ("clip_score", "tuned", 3),
        ("clip_score", "constant", 3),
        ("clip_score", "human", 2),
        ("ref_clip_score", "tuned", 3),
        ("ref_clip_score", "constant", 3),
        ("ref_clip_score", "human", 2),
    ]
    assert all(score.interval is not None and score.extractor == f"skyclip:{scorer.name}" for score in scores)
    plain, constant, _, with_references, _, _ = scores
    assert constant.value == pytest.approx(2.5 * np.maximum(scorer.similarity(images, ["a farm"] * 3), 0.0).mean(), abs=1e-6)
    cosines = np.maximum(scorer.similarity(images, captions), 0.0)
    assert plain.value == pytest.approx(2.5 * cosines.mean(), abs=1e-6)
    ship, port = scorer.embed_texts(["two ships", "a port"])
    closeness = np.array([1.0, max(float(ship @ port), 0.0), 1.0])
    expected = 2 * 2.5 * cosines * closeness / np.maximum(2.5 * cosines + closeness, 1e-12)
    assert with_references.value == pytest.approx(expected.mean(), abs=1e-6)


def test_people_are_scored_in_rounds_and_their_copies_count_in_the_first_column_alone(scorer: Scorer) -> None:
    images = pictures(2)
    scores = align(scorer, images, {}, [["a farm", "a farm", "fields"], ["a port", "two ships"]])
    assert [(score.name, score.model) for score in scores] == [
        ("clip_score", "human"),
        ("ref_clip_score", "human"),
        ("ref_clip_score_distinct", "human"),
    ]
    rounds = [["a farm", "a port"], ["a farm", "two ships"], ["fields", "a port"]]
    expected = np.mean([2.5 * np.maximum(scorer.similarity(images, texts), 0.0) for texts in rounds])
    assert scores[0].value == pytest.approx(float(expected), abs=1e-6)
    assert scores[1].value > scores[2].value


def test_images_are_embedded_a_batch_at_a_time(scorer: Scorer, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[int] = []
    told: list[tuple[int, int]] = []
    embed = scorer.embed_images
    monkeypatch.setattr(scorer, "batch_size", 2)
    monkeypatch.setattr(scorer, "embed_images", lambda images: asked.append(len(images)) or embed(images))
    trials = lay_out_trials({"base": ["a farm"] * 5}, [["fields"]] * 5)
    aligned = align_trials(scorer, pictures(5), trials, lambda done, total: told.append((done, total)))
    assert asked == [2, 2, 1]
    assert told == [(2, 5), (4, 5), (5, 5)]
    assert aligned["clip_score"][0].values.shape == (5,)


def test_captions_of_other_images_are_refused(scorer: Scorer) -> None:
    with pytest.raises(DataError, match="There are 2 images but 1 captions; give one for each image, in the same order"):
        align_trials(scorer, pictures(2), lay_out_trials({"base": ["a"]}, [["b"]]))
    with pytest.raises(DataError, match="There is no image to score; give at least one"):
        align_trials(scorer, [], [])


def test_what_does_not_fit_together_is_refused(scorer: Scorer) -> None:
    with pytest.raises(DataError, match="There are 2 images but 1 texts; give one for each image, in the same order"):
        matched_cosine(np.stack([EAST, EAST]), np.stack([EAST]))
    with pytest.raises(DataError, match="There are 1 images but 2 prompts"):
        skyclip_scores(scorer, pictures(1), ["a", "b"], model="base", subset="", seeds=SEEDS)
    with pytest.raises(DataError, match="There is no image to score; give at least one"):
        skyclip_scores(scorer, [], [], model="base", subset="", seeds=SEEDS)
    with pytest.raises(DataError, match="Item 1 has no reference caption"):
        ref_clip_score(np.eye(2), np.eye(2), [np.eye(2), np.empty((0, 2))])
    with pytest.raises(DataError, match=r"Embedding 1 is zero or not finite \(1 such ones\)"):
        matched_cosine(np.eye(2), np.stack([EAST, 0.0 * EAST]))
