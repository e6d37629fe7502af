"""Precision, recall, density and coverage: against plain loops, closed forms and expected values that are known."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest

from skygen.errors import ConfigError, DataError
from skygen.evaluation.images import neighbourhoods
from skygen.evaluation.images.neighbourhoods import Neighbourhoods, compare_neighbourhoods, neighbourhood_scores
from skygen.seeding import Seeds

SEEDS = Seeds(7)
LABELS = {"model": "tuned", "subset": "test", "extractor": "skyclip:x"}


def normals(count: int, dimension: int, *position: int | str) -> np.ndarray:
    return SEEDS.numpy("test", *position).standard_normal((count, dimension))


def means(found: Neighbourhoods) -> list[float]:
    return [float(values.mean()) for values in (found.precision, found.recall, found.density, found.coverage)]


def brute_force(real: np.ndarray, generated: np.ndarray, k: int) -> list[list[float]]:
    def radius(rows: np.ndarray, index: int) -> float:
        return sorted(math.dist(rows[index], row) for other, row in enumerate(rows) if other != index)[k - 1]

    real_radii = [radius(real, index) for index in range(len(real))]
    generated_radii = [radius(generated, index) for index in range(len(generated))]
    holders = [
        [math.dist(picture, centre) <= reach for centre, reach in zip(real, real_radii, strict=True)] for picture in generated
    ]
    return [
        [float(any(row)) for row in holders],
        [
            float(any(math.dist(picture, centre) <= reach for centre, reach in zip(generated, generated_radii, strict=True)))
            for picture in real
        ],
        [sum(row) / k for row in holders],
        [float(any(row[index] for row in holders)) for index in range(len(real))],
    ]


@pytest.mark.parametrize("k", [1, 3, 5])
def test_every_image_is_where_plain_loops_find_it(k: int) -> None:
    real, generated = normals(40, 4, "real"), 0.8 * normals(30, 4, "generated") + 1.3
    found = compare_neighbourhoods(real, generated, neighbours=k)
    expected = brute_force(real, generated, k)
    for values, wanted in zip((found.precision, found.recall, found.density, found.coverage), expected, strict=True):
        assert values.tolist() == wanted
        assert 0.0 < values.mean() < 1.0


def test_a_set_is_all_precise_and_all_covered_by_itself() -> None:
    real = normals(80, 32, "real").astype(np.float32)
    assert means(compare_neighbourhoods(real, real)) == [1.0, 1.0, pytest.approx(1 + 1 / 5), 1.0]
    shuffled = real[SEEDS.numpy("order").permutation(80)]
    assert means(compare_neighbourhoods(real, shuffled)) == [1.0, 1.0, pytest.approx(1 + 1 / 5), 1.0]


def test_copies_are_at_distance_zero_wherever_they_lie() -> None:
    """Each image stands there seven times, more than k: every radius is 0, and every copy must still be inside."""
    far_off = 100.0 + normals(9, 48, "real").astype(np.float32)
    copies = np.repeat(far_off, 7, axis=0)
    precision, recall, density, coverage = means(compare_neighbourhoods(copies, far_off[[0, 1, 2] * 6]))
    assert (precision, recall, coverage) == (1.0, pytest.approx(3 / 9), pytest.approx(3 / 9))
    assert density == pytest.approx(7 / 5)
    assert means(compare_neighbourhoods(copies, copies + np.float32(0.01))) == [0.0, 0.0, 0.0, 0.0]


def test_the_edge_of_a_ball_belongs_to_it_and_what_lies_beyond_does_not() -> None:
    """Balls of radius 1 around 0, 1, ... 9, and images left of them that are too near to each other to reach a real one."""
    real = np.arange(10.0)[:, None]
    generated = np.array([[-0.9999], [-1.0], [-1.0001], [-1.0001], [-0.9999]])
    found = compare_neighbourhoods(real, generated, neighbours=1)
    assert found.precision.tolist() == found.density.tolist() == [1.0, 1.0, 0.0, 0.0, 1.0]
    assert found.coverage.tolist() == [1.0] + [0.0] * 9
    assert found.recall.sum() == 0.0


def test_sets_far_apart_share_nothing() -> None:
    real, generated = normals(30, 6, "real"), normals(50, 6, "generated") + 100.0
    assert means(compare_neighbourhoods(real, generated)) == [0.0, 0.0, 0.0, 0.0]


def test_a_collapse_is_precise_and_reaches_little() -> None:
    real = normals(300, 6, "real")
    collapsed = 0.05 * normals(300, 6, "generated")
    precision, recall, density, coverage = means(compare_neighbourhoods(real, collapsed))
    assert precision == 1.0
    assert density > 1.2
    assert recall < 0.05
    assert coverage < 0.3


def test_halves_of_one_set_have_the_density_and_coverage_that_naeem_expects() -> None:
    real, generated, k = 60, 90, 5
    values = []
    for draw in range(60):
        both = normals(real + generated, 8, draw)
        values.append(means(compare_neighbourhoods(both[:real], both[real:])))
    precision, recall, density, coverage = np.mean(values, axis=0)
    errors = np.std(values, axis=0) / np.sqrt(len(values))
    missed = math.prod((real - i) / (real + generated - i) for i in range(1, k + 1))
    assert density == pytest.approx(1.0, abs=4 * errors[2])
    assert coverage == pytest.approx(1 - missed, abs=4 * errors[3])
    assert min(precision, recall) > 0.85


def test_blocks_give_what_one_table_gives(monkeypatch: pytest.MonkeyPatch) -> None:
    real, generated = normals(41, 5, "real"), normals(37, 5, "generated") + 0.5
    whole = compare_neighbourhoods(real, generated)
    monkeypatch.setattr(neighbourhoods, "BLOCK_BYTES", 8 * 41 * 3)
    parts = compare_neighbourhoods(real, generated)
    for name in ("precision", "recall", "density", "coverage"):
        assert np.array_equal(getattr(whole, name), getattr(parts, name))


def test_no_table_of_all_distances_is_ever_made(monkeypatch: pytest.MonkeyPatch) -> None:
    sizes = []
    original = neighbourhoods._squared_distances

    def noting(rows: np.ndarray, columns: np.ndarray) -> object:
        for block, distances in original(rows, columns):
            sizes.append(distances.nbytes)
            yield block, distances

    monkeypatch.setattr(neighbourhoods, "_squared_distances", noting)
    monkeypatch.setattr(neighbourhoods, "BLOCK_BYTES", 1 << 16)
    compare_neighbourhoods(normals(600, 2, "real"), normals(500, 2, "generated"))
    assert len(sizes) > 100
    assert max(sizes) <= 1 << 16


def test_scores_carry_the_counts_they_average_over_and_an_interval(caplog: pytest.LogCaptureFixture) -> None:
    real, generated = normals(120, 4, "real"), normals(100, 4, "generated") + 0.5
    found = compare_neighbourhoods(real, generated, neighbours=3)
    with caplog.at_level(logging.WARNING):
        scores = neighbourhood_scores(real, generated, **LABELS, seeds=SEEDS, neighbours=3)
    assert [(score.name, score.count) for score in scores] == [
        ("precision", 100), ("recall", 120), ("density", 100), ("coverage", 120),
    ]  # fmt: skip
    assert [score.value for score in scores] == means(found)
    for score in scores:
        assert (score.model, score.subset, score.extractor) == ("tuned", "test", "skyclip:x")
        assert score.interval is not None
        assert score.interval[0] < score.value < score.interval[1]
    assert caplog.messages == [
        "precision, recall, density and coverage of tuned depend on the count below 1000 images a side, and there are 120 real "
        "and 100 generated ones: compare them at equal counts only"
    ]


def test_many_images_are_not_warned_of(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        scores = neighbourhood_scores(normals(1000, 2, "a"), normals(1000, 2, "b"), **LABELS, seeds=SEEDS)
    assert len(scores) == 4
    assert caplog.messages == []


def test_with_no_more_images_than_neighbours_nothing_is_given_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        assert neighbourhood_scores(normals(50, 4), normals(5, 4), **LABELS, seeds=SEEDS) == []
    assert caplog.messages == [
        "precision, recall, density and coverage of tuned are left out: with k = 5 they need at least 6 images on both sides, "
        "and there are 50 real and 5 generated ones"
    ]
    assert len(neighbourhood_scores(normals(6, 4, "a"), normals(6, 4, "b"), **LABELS, seeds=SEEDS)) == 4


def test_what_cannot_be_compared_is_refused() -> None:
    with pytest.raises(DataError, match="Real images have 4 features and generated ones 5; use one extractor for both"):
        compare_neighbourhoods(normals(9, 4), normals(9, 5))
    with pytest.raises(DataError, match="There are 5 real images, at least 6 are needed for balls of 5 neighbours; give more"):
        compare_neighbourhoods(normals(5, 4), normals(9, 4))
    with pytest.raises(ConfigError, match=r"neighbours is 0; .* give 1 or more, such as 5"):
        compare_neighbourhoods(normals(9, 4), normals(9, 4), neighbours=0)
    damaged = normals(9, 4)
    damaged[3, 1] = np.inf
    with pytest.raises(DataError, match=r"The features of generated image 3 are not finite \(1 such images\)"):
        neighbourhood_scores(normals(9, 4), damaged, **LABELS, seeds=SEEDS)
