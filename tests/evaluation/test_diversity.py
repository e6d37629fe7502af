"""The Vendi score against closed forms, and that it sees what a collapse is."""

from __future__ import annotations

import numpy as np
import pytest

from skygen.errors import DataError
from skygen.evaluation.images.diversity import diversity_scores, vendi_score
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
