"""Thresholds that real pairs set, and the gain of a choice that is told apart from what a model draws."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest

from skygen.errors import ConfigError, DataError
from skygen.evaluation.screening.selection_gain import selection_gain
from skygen.evaluation.screening.thresholds import calibrate_threshold
from skygen.seeding import Seeds

SEEDS = Seeds(0)


def test_a_threshold_drops_the_share_of_real_pairs_that_it_is_asked_to() -> None:
    own = np.append(np.arange(100) / 100, np.nan)
    threshold = calibrate_threshold(own, np.array([0.01, 0.03, 0.9, np.nan]), 0.05)
    assert threshold.value == 0.04
    assert threshold.count == 100
    assert threshold.mismatched_share == pytest.approx(1 / 3)
    assert "33.3% of mismatched real pairs reach it" in threshold.describe()
    assert calibrate_threshold(own, own[:0], 0.0).value == 0
    assert calibrate_threshold(own, own[:0], 0.0).mismatched_share is None
    with pytest.raises(ConfigError, match=r"threshold\.quantile"):
        calibrate_threshold(own, own, 1.0)
    with pytest.raises(DataError, match="held-out pairs"):
        calibrate_threshold(np.array([np.nan]), own, 0.05)


def record(scores: list[float], **more: Any) -> dict[str, Any]:
    return {"file_name": "images/000000.png", "model": "tuned", "candidate_scores": scores, **more}


def test_a_choice_among_noise_gains_in_the_eyes_of_who_chose_and_not_in_a_judges() -> None:
    generator = Seeds(3).numpy("noise")
    scores, judged = generator.normal(0.3, 0.05, (400, 4)), generator.integers(0, 2, (400, 4)).astype(float)
    records = [
        record(some.tolist(), candidate=int(some.argmax()), candidate_judgements=seen.tolist())
        for some, seen in zip(scores, judged, strict=True)
    ]
    found = {score.name: score for score in selection_gain(records, extractor="skyclip:m", judge="judge:m", seeds=SEEDS)}
    assert list(found) == [
        "skyclip_selection_gain", "skyclip_score_of_one_candidate", "judge_selection_gain", "judge_score_of_one_candidate",
    ]  # fmt: skip
    gain = found["skyclip_selection_gain"]
    assert gain.value == pytest.approx((scores.max(axis=1) - scores.mean(axis=1)).mean())
    assert gain.value == pytest.approx(1.029 * 0.05, abs=0.005)  # the largest of four normal values is 1.029 sigma up
    assert gain.interval is not None
    assert 0 < gain.interval[0] < gain.value < gain.interval[1]
    assert "in-sample" in gain.subset
    unbiased = found["judge_selection_gain"]
    assert unbiased.interval is not None
    assert unbiased.interval[0] < 0 < unbiased.interval[1]
    assert unbiased.extractor == "judge:m"
    assert found["judge_score_of_one_candidate"].value == pytest.approx(judged.mean())


def test_without_a_judge_or_a_choice_there_is_nothing_to_tell_of_it() -> None:
    assert selection_gain([record([0.5]), {"text": "unscored"}], extractor="skyclip:m", seeds=SEEDS) == []
    gain, one = selection_gain([record([0.5]), record([0.1, 0.3])], extractor="skyclip:m", seeds=SEEDS)
    assert gain.value == pytest.approx(0.1)  # the highest, where no choice is told
    assert (gain.count, gain.interval, one.value) == (1, None, pytest.approx(0.2))
    raced = {"candidate_scores": [0.5, None], "candidate": 0, "candidate_judgements": [1.0, None]}
    assert selection_gain([raced], extractor="skyclip:m", judge="judge:m", seeds=SEEDS) == []  # what was given up has no score
    strange = record([0.1, 0.3], candidate_judgements=[None, None])
    assert [score.name for score in selection_gain([strange], extractor="skyclip:m", judge="judge:m", seeds=SEEDS)] == [
        "skyclip_selection_gain", "skyclip_score_of_one_candidate",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("more", "said"),
    [
        ({"candidate_judgements": [1.0]}, "1 candidate_judgements for 2 candidates"),
        ({"candidate_judgements": [1.0, 1.5]}, r"must be in \[0, 1\]"),
        ({"candidate": 2}, "candidate 2 was chosen of 2"),
    ],
)
def test_records_that_do_not_add_up_are_named(more: dict[str, Any], said: str) -> None:
    with pytest.raises(DataError, match=rf"images/000000.png: .*{said}"):
        selection_gain([record([0.1, 0.3], **more)], extractor="skyclip:m", seeds=SEEDS)
