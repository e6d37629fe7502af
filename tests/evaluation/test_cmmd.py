"""CMMD: against plain loops, closed forms, and what is expected of sets of one distribution."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from skygen.errors import DataError
from skygen.evaluation.images import cmmd as module
from skygen.evaluation.images.cmmd import cmmd, cmmd_scores
from skygen.seeding import Seeds

SEEDS = Seeds(7)
LABELS = {"model": "tuned", "subset": "test", "extractor": "skyclip:x"}


def normals(count: int, dimension: int, *position: int | str) -> np.ndarray:
    return SEEDS.numpy("test", *position).standard_normal((count, dimension))


def unit(rows: np.ndarray) -> np.ndarray:
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def kernel(one: np.ndarray, other: np.ndarray) -> float:
    return math.exp(-(math.dist(one, other) ** 2) / (2 * 10**2))


def mean_within(rows: np.ndarray) -> float:
    """The mean kernel of two different images."""
    values = [kernel(one, other) for i, one in enumerate(rows) for j, other in enumerate(rows) if i != j]
    return sum(values) / len(values)


def brute_force(real: np.ndarray, generated: np.ndarray) -> float:
    between = [kernel(one, other) for one in real for other in generated]
    return 1000 * (mean_within(real) + mean_within(generated) - 2 * sum(between) / len(between))


@pytest.mark.parametrize(("real_count", "generated_count"), [(30, 30), (40, 7), (2, 25)])
def test_it_is_that_of_plain_loops_over_unit_vectors(real_count: int, generated_count: int) -> None:
    real, generated = normals(real_count, 6, "real") + 0.5, normals(generated_count, 6, "generated") - 0.2
    expected = brute_force(unit(real), unit(generated))
    assert abs(expected) > 0.5
    assert cmmd(real, generated) == pytest.approx(expected, abs=1e-5)
    assert cmmd(generated, real) == pytest.approx(expected, abs=1e-5)


def test_only_directions_count() -> None:
    real, generated = normals(20, 6, "real").astype(np.float32), normals(20, 6, "generated").astype(np.float32) + 1
    lengths = SEEDS.numpy("lengths").uniform(0.01, 100, (20, 1)).astype(np.float32)
    assert cmmd(real * lengths, generated) == pytest.approx(cmmd(real, generated), abs=1e-5)


@pytest.mark.parametrize("angle", [0.1, 1.0, math.pi / 2, math.pi])
def test_two_points_are_as_far_apart_as_the_kernel_says(angle: float) -> None:
    here, there = np.array([[1.0, 0.0]] * 5), np.array([[math.cos(angle), math.sin(angle)]] * 8)
    distance = 2 * math.sin(angle / 2)
    assert cmmd(here, there) == pytest.approx(2 * 1000 * (1 - math.exp(-(distance**2) / 200)), rel=1e-4)


def test_a_set_beside_itself_is_below_zero_by_the_likeness_of_each_image_to_itself() -> None:
    rows = normals(50, 8, "real")
    expected = -1000 * 2 * (1 - mean_within(unit(rows))) / 50
    assert expected < -0.1
    assert cmmd(rows, rows) == pytest.approx(expected, abs=1e-5)


def test_the_published_code_s_estimator_is_larger_by_as_much_as_is_said() -> None:
    real, generated = unit(normals(30, 6, "real") + 0.5), unit(normals(20, 6, "generated"))

    def mean(rows: np.ndarray, others: np.ndarray) -> float:
        return sum(kernel(one, other) for one in rows for other in others) / (len(rows) * len(others))

    published = 1000 * (mean(real, real) + mean(generated, generated) - 2 * mean(real, generated))
    more = 1000 * ((1 - mean_within(real)) / 30 + (1 - mean_within(generated)) / 20)
    assert published == pytest.approx(cmmd(real, generated) + more, abs=1e-5)
    assert 0 < more < 10 / 30 + 10 / 20


def test_it_has_no_bias_from_the_count() -> None:
    values = [cmmd(normals(10, 4, i, "a") + 1, normals(15, 4, i, "b") + 1) for i in range(200)]
    assert np.mean(values) == pytest.approx(0.0, abs=4 * np.std(values) / np.sqrt(200))
    assert min(values) < 0.0 < max(values)


def test_tiles_give_what_one_table_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = normals(50, 5, "real"), normals(41, 5, "generated") + 0.5
    whole, scores = cmmd(real, generated), cmmd_scores(real, generated, **LABELS, seeds=SEEDS, resamples=20)
    monkeypatch.setattr(module, "TILE", 16)
    assert cmmd(real, generated) == pytest.approx(whole, abs=1e-5)
    (tiled,) = cmmd_scores(real, generated, **LABELS, seeds=SEEDS, resamples=20)
    assert tiled.interval == pytest.approx(scores[0].interval, abs=1e-5)


def test_the_score_carries_the_count_the_extractor_and_an_interval_of_halves() -> None:
    real, generated = normals(61, 4, "real"), normals(50, 4, "generated") + 0.5
    (score,) = cmmd_scores(real, generated, **LABELS, seeds=SEEDS, resamples=40)
    assert (score.name, score.count, score.model, score.subset, score.extractor) == (
        "cmmd", 50, "tuned", "test", "skyclip:x",
    )  # fmt: skip
    assert score.value == pytest.approx(cmmd(real, generated), abs=1e-5)
    assert [score] == cmmd_scores(real, generated, **LABELS, seeds=SEEDS, resamples=40)
    halves = SEEDS.numpy("half samples", 50, 40)
    values = []
    for draw in range(40):
        order = SEEDS.numpy("half of the real images", draw).permutation(61)
        values.append(cmmd(real[order[:30]], generated[halves.permutation(50)[:25]]))
    spread = np.quantile(np.array(values) - np.mean(values), [0.025, 0.975])
    assert score.interval == pytest.approx(score.value + spread, abs=1e-5)


def test_intervals_hold_the_expected_score_of_fresh_sets() -> None:
    scores = []
    for draw in range(20):
        real, generated = normals(60, 4, draw, "real") + 1, 1.3 * normals(60, 4, draw, "generated") + 1.5
        scores += cmmd_scores(real, generated, **LABELS, seeds=SEEDS, resamples=40)
    expected = np.mean([score.value for score in scores])
    held = sum(score.interval is not None and score.interval[0] <= expected <= score.interval[1] for score in scores)
    assert held >= 16  # of 20; 19 or 20 are expected


def test_few_images_have_no_interval_and_one_has_no_score(caplog: pytest.LogCaptureFixture) -> None:
    (score,) = cmmd_scores(normals(3, 4, "real"), normals(9, 4, "generated"), **LABELS, seeds=SEEDS)
    assert (score.count, score.interval) == (9, None)
    with caplog.at_level(logging.WARNING):
        assert cmmd_scores(normals(9, 4), normals(1, 4), **LABELS, seeds=SEEDS) == []
    assert caplog.messages == [
        "cmmd of tuned is left out: it needs at least 2 images on both sides, and there are 9 real and 1 generated ones"
    ]


def test_features_that_cannot_be_compared_are_refused() -> None:
    with pytest.raises(DataError, match="Real images have 4 features and generated ones 5; use one extractor for both"):
        cmmd(normals(9, 4), normals(9, 5))
    with pytest.raises(DataError, match="There are 1 generated images, at least 2 are needed; give more"):
        cmmd(normals(9, 4), normals(1, 4))
    for bad in (0.0, np.nan):
        damaged = normals(9, 4)
        damaged[3] = bad
        with pytest.raises(DataError, match=r"CMMD needs features .* finite and not zero"):
            cmmd_scores(damaged, normals(9, 4), **LABELS, seeds=SEEDS)
