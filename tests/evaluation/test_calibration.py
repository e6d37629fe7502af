"""What cosines are worth: areas, intervals and rank correlations against closed forms."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skygen.data.pair import Pair
from skygen.data.table import PairList
from skygen.evaluation.pair_scores.calibration import calibration_scores, rank_correlation, roc_auc, rounding_scores
from skygen.evaluation.pair_scores.table import PairScores
from skygen.evaluation.scores import Score
from skygen.seeding import Seeds

NAN = float("nan")


def scores_of(**columns: tuple[list[float], list[float], list[float]]) -> PairScores:
    count = len(next(iter(columns.values()))[0])
    pairs = PairList.of([Pair(f"{number}.jpg", Path(f"{number}.jpg"), ("a",)) for number in range(count)], Path())
    parts = [{name: np.asarray(values[place]) for name, values in columns.items()} for place in range(3)]
    return PairScores(pairs, np.arange(count), *parts)


def measure(scores: PairScores) -> dict[tuple[str, str, str], Score]:
    found = calibration_scores(scores, subset="all", extractor="skyclip:x", seeds=Seeds(0))
    return {(score.name, score.model, score.subset): score for score in found}


@pytest.mark.parametrize(
    ("matched", "mismatched", "area"),
    [
        ([0.6, 0.7], [0.1, 0.2], 1.0),
        ([0.1, 0.2], [0.6, 0.7], 0.0),
        ([0.5], [0.5], 0.5),
        ([0.3, 0.5], [0.2, 0.4], 0.75),  # three of the four couples
        ([0.3, 0.4], [0.3], 0.75),  # one tie, one above
    ],
)
def test_the_area_is_the_share_of_couples_in_order(matched: list[float], mismatched: list[float], area: float) -> None:
    assert roc_auc(np.array(matched), np.array(mismatched)) == pytest.approx(area)


def test_the_area_of_two_normal_distributions_is_that_of_the_books() -> None:
    draw = Seeds(0).numpy("normal")
    own, other = draw.normal(1.0, 1.0, 4000), draw.normal(0.0, 1.0, 4000)
    found = measure(scores_of(captions=(own.tolist(), own.tolist(), other.tolist())))["matching_roc_auc", "real", "all"]
    assert found.count == 4000
    assert found.value == pytest.approx(0.7602, abs=0.015)  # the normal distribution at 1 / sqrt(2)
    assert found.interval is not None
    low, high = found.interval
    # DeLong's variance there: (P(two own above one other) + P(one own above two others) - 2 area^2) / 4000
    assert high - low == pytest.approx(2 * 1.96 * 0.00528, rel=0.08)
    assert low < found.value < high


def test_scores_are_given_for_each_column_and_pairs_without_a_caption_do_not_count() -> None:
    found = measure(
        scores_of(title=([0.2, 0.4], [0.1, 0.3], [0.0, 0.3]), further=([0.5, NAN], [0.2, NAN], [0.1, NAN])),
    )
    assert found["skyclip_score", "real", "all, title"].value == pytest.approx(0.3)
    assert found["skyclip_score", "shuffled", "all, title"].value == pytest.approx(0.15)
    assert found["skyclip_margin", "real", "all, title"].value == pytest.approx(0.2)
    assert found["matching_roc_auc", "real", "all, title"].value == pytest.approx(0.75)
    further = found["skyclip_score", "real", "all, further"]
    assert (further.value, further.count) == (0.5, 1)
    assert found["matching_roc_auc", "real", "all, further"].interval is None
    assert len(found) == 8


def test_captions_of_one_wording_leave_nothing_to_compare() -> None:
    found = measure(scores_of(captions=([0.2, 0.4], [NAN, NAN], [NAN, NAN])))
    assert list(found) == [("skyclip_score", "real", "all")]


def test_rank_correlation_is_spearmans() -> None:
    ranks = np.array([1.0, 2.0, 3.0, 4.0, 5.0])
    assert rank_correlation(ranks, ranks**3) == pytest.approx(1.0)
    assert rank_correlation(ranks, -ranks) == pytest.approx(-1.0)
    # 1 - 6 (0 + 1 + 1 + 1 + 1) / (5 (25 - 1))
    assert rank_correlation(ranks, np.array([1.0, 3.0, 2.0, 5.0, 4.0])) == pytest.approx(0.8)
    # ties share a rank: Pearson's of (1, 2.5, 2.5, 4) and (1, 2, 3, 4)
    assert rank_correlation(np.array([0.1, 0.2, 0.2, 0.3]), ranks[:4]) == pytest.approx(4.5 / 22.5**0.5)


def test_rounding_is_the_largest_difference_the_order_and_what_is_kept() -> None:
    exact = np.array([0.1, 0.2, 0.3, 0.4, NAN])
    rounded = np.array([0.1, 0.2, 0.42, 0.41, 0.5])
    found = rounding_scores(rounded, exact, lambda values: values >= np.sort(values)[-1], subset="all", extractor="x")
    values = {score.name: score.value for score in found}
    assert values["bf16_largest_difference"] == pytest.approx(0.12)
    assert values["bf16_rank_correlation"] == pytest.approx(0.8)
    assert values["bf16_kept_overlap"] == 0.0
    assert {score.count for score in found} == {4}
    same = rounding_scores(exact, exact, lambda values: values >= 0.3, subset="all", extractor="x")
    assert [score.value for score in same] == [0.0, 1.0, 1.0]
    assert rounding_scores(exact[4:], exact[4:], lambda values: values > 0, subset="all", extractor="x") == []
