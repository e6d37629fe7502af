"""Each caption writer's scores stand beside its baselines', with a count and an interval."""

import pytest

from skygen.evaluation.captioning import REPORTED, caption_scores
from skygen.evaluation.captions import score_captions
from skygen.evaluation.scores import Score, format_table, from_metrics, to_metrics
from skygen.seeding import Seeds

REFERENCES = [["a dam in a forest"], ["two storage tanks", "two white tanks"], ["a lake"], ["a road with cars"]]
CAPTIONS = {
    "tuned": ["a dam in a forest", "two storage tanks", "a lake", "a road"],
    "constant": ["a lake", "a lake", "a lake", "a lake"],
}


def test_every_metric_is_given_for_every_writer() -> None:
    scores = caption_scores(CAPTIONS, REFERENCES, subset="test", seeds=Seeds(0))
    assert [(score.name, score.model) for score in scores] == [(name, writer) for name in REPORTED for writer in CAPTIONS]
    for score in scores:
        assert score.value == pytest.approx(score_captions(CAPTIONS[score.model], REFERENCES)[score.name].corpus)
        assert score.count == 4
        assert score.interval is not None
        assert score.interval[0] <= score.value <= score.interval[1]


def test_one_image_has_no_interval() -> None:
    scores = caption_scores({"tuned": ["a dam"]}, [["a dam"]], subset="test", seeds=Seeds(0))
    assert all(score.interval is None for score in scores)


def test_scores_go_to_metrics_and_back() -> None:
    scores = [Score("fid", 12.5, 10, (11.0, 14.0), "tuned", "test", "skyclip:miniature"), Score("kid", 0.1, 10, None, "base")]
    metrics = to_metrics("skygen-v1", scores)
    assert metrics["protocol"] == "skygen-v1"
    assert set(metrics["scores"][0]) >= {"name", "value", "count", "interval", "model", "subset", "extractor"}
    assert from_metrics(metrics) == scores


def test_the_table_names_value_interval_and_count() -> None:
    lines = format_table([Score("fid", 12.5, 10, (11.0, 14.0), "tuned", "test")]).splitlines()
    assert lines[0].split() == ["metric", "model", "value", "95", "%", "interval", "count", "subset", "extractor"]
    assert lines[2].split() == ["fid", "tuned", "12.5000", "[11.0000,", "14.0000]", "10", "test"]
