"""The Vendi score and the differences between pictures of one prompt, against closed forms, and that they see a collapse."""

from __future__ import annotations

import numpy as np
import pytest

from skygen.errors import DataError
from skygen.evaluation.images.diversity import (
    diversity_scores,
    prompt_diversity,
    prompt_diversity_scores,
    vendi_score,
)
from skygen.seeding import Seeds

SEEDS = Seeds(7)


def test_it_counts_directions() -> None:
    east, axes = np.array([[3.0, 0.0, 0.0, 0.0]]), np.eye(4)
    assert vendi_score(np.repeat(east, 5, axis=0)) == pytest.approx(1.0)
    assert vendi_score(axes * [[1.0], [2.0], [3.0], [4.0]]) == pytest.approx(4.0)
    assert vendi_score(np.repeat(axes[:3], 7, axis=0)) == pytest.approx(3.0)


@pytest.mark.parametrize("cosine", [0.0, 0.3, 0.9])
def test_two_images_at_an_angle(cosine: float) -> None:
    pair = np.array([[1.0, 0.0], [cosine, np.sqrt(1 - cosine**2)]])
    shares = np.array([(1 + cosine) / 2, (1 - cosine) / 2])
    assert vendi_score(pair) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()))


def test_more_images_than_dimensions_and_fewer_agree_with_the_kernel() -> None:
    for count, dimension in ((40, 6), (6, 40)):
        rows = SEEDS.numpy("rows", count).standard_normal((count, dimension))
        unit = rows / np.linalg.norm(rows, axis=1, keepdims=True)
        shares = np.linalg.eigvalsh(unit @ unit.T / count)
        shares = shares[shares > 1e-12]
        assert vendi_score(rows.astype(np.float32)) == pytest.approx(np.exp(-(shares * np.log(shares)).sum()), rel=1e-5)


def test_a_collapse_is_seen_beside_as_many_real_images() -> None:
    draw = SEEDS.numpy("features")
    real = draw.standard_normal((90, 16))
    few = np.repeat(draw.standard_normal((3, 16)), 20, axis=0) + 0.05 * draw.standard_normal((60, 16))
    tuned, beside = diversity_scores(real, few, model="tuned", subset="test", extractor="toy", seeds=SEEDS)
    assert (tuned.name, tuned.model, tuned.count, beside.model, beside.count) == ("vendi_score", "tuned", 60, "real", 60)
    assert tuned.interval is not None
    assert beside.interval is not None
    assert tuned.interval[0] < tuned.value < tuned.interval[1] < 4 < 8 < beside.interval[0] < beside.value
    alone = diversity_scores(real[:10], few, model="tuned", subset="test", extractor="toy", seeds=SEEDS)
    assert [score.model for score in alone] == ["tuned"]


def test_features_of_nothing_are_refused() -> None:
    for bad in (np.zeros((0, 3)), np.zeros((2, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(DataError, match="Vendi"):
            vendi_score(bad)


def test_pictures_of_one_prompt_differ_as_plain_loops_find() -> None:
    prompts = ["a pier", "a field", "a pier", "a road", "a pier", "a field"]
    features = SEEDS.numpy("features").standard_normal((6, 5)).astype(np.float32) * [[1], [2], [3], [4], [5], [6]]

    def distance(one: int, other: int) -> float:
        first, second = features[one], features[other]
        return 1 - float(first @ second / np.linalg.norm(first) / np.linalg.norm(second))

    expected = [np.mean([distance(0, 2), distance(0, 4), distance(2, 4)]), distance(1, 5)]
    assert prompt_diversity(features, prompts) == pytest.approx(expected, abs=1e-6)


def test_each_prompt_weighs_the_same_and_lone_pictures_nothing() -> None:
    apart, same = np.eye(4)[:2], np.tile(np.eye(4)[2:3], (6, 1))
    features, prompts = np.concatenate([apart, same, np.eye(4)[3:]]), ["a pier"] * 2 + ["a field"] * 6 + ["a road"]
    (score,) = prompt_diversity_scores(features, prompts, model="tuned", subset="test", extractor="toy", seeds=SEEDS)
    assert (score.name, score.value, score.count) == ("prompt_diversity", pytest.approx(0.5), 2)
    assert (score.model, score.subset, score.extractor) == ("tuned", "test", "toy")
    assert score.interval == (pytest.approx(0.0), pytest.approx(1.0))


def test_opposite_and_equal_pictures_are_the_ends_of_the_range() -> None:
    east = np.array([[3.0, 4.0]])
    assert prompt_diversity(np.concatenate([east, -east]), ["a pier"] * 2).tolist() == [pytest.approx(2.0)]
    assert prompt_diversity(np.repeat(east, 4, axis=0), ["a pier"] * 4).tolist() == [pytest.approx(0.0, abs=1e-12)]


def test_prompts_that_occur_once_have_no_score_and_one_pair_no_interval() -> None:
    labels = {"model": "tuned", "subset": "test", "extractor": "toy"}
    assert prompt_diversity_scores(np.eye(3), ["a", "b", "c"], **labels, seeds=SEEDS) == []
    (score,) = prompt_diversity_scores(np.eye(3), ["a", "b", "a"], **labels, seeds=SEEDS)
    assert (score.count, score.value, score.interval) == (1, pytest.approx(1.0), None)


def test_a_generator_that_repeats_itself_for_every_prompt_is_seen_where_the_vendi_score_is_blind() -> None:
    prompts = [f"prompt {number}" for number in range(40) for _ in range(4)]
    draw = SEEDS.numpy("features")
    varied = draw.standard_normal((160, 16))
    repeating = np.repeat(draw.standard_normal((40, 16)), 4, axis=0)
    assert vendi_score(repeating) == pytest.approx(vendi_score(varied), rel=0.2)
    assert prompt_diversity(repeating, prompts).max() < 1e-9 < 0.5 < prompt_diversity(varied, prompts).mean()


def test_pictures_without_a_prompt_are_refused() -> None:
    with pytest.raises(DataError, match="There are 3 pictures but 2 prompts; give one for each picture"):
        prompt_diversity(np.eye(3), ["a", "a"])
    for bad in (np.zeros((2, 3)), np.full((2, 3), np.nan)):
        with pytest.raises(DataError, match="Prompt diversity needs features"):
            prompt_diversity(bad, ["a", "a"])
    with pytest.raises(DataError, match="Prompt diversity needs features"):
        prompt_diversity(np.zeros((0, 3)), [])
