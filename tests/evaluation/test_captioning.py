"""Each caption writer's scores stand beside its baselines' and people's, with a count and an interval."""

from __future__ import annotations

import pytest

from skygen.evaluation.captions.coco_caption import score_captions
from skygen.evaluation.captions.trials import lay_out_trials
from skygen.evaluation.captions.writers import REPORTED, STATISTICS, caption_scores, caption_statistics, measure_trial
from skygen.evaluation.scores import Score, format_table, from_metrics, to_metrics
from skygen.seeding import Seeds

REFERENCES = [["a dam in a forest"], ["two storage tanks", "two white tanks"], ["a lake"], ["a road with cars"]]
CAPTIONS = {
    "tuned": ["a dam in a forest", "two storage tanks", "a lake", "a road"],
    "constant": ["a lake", "a lake", "a lake", "a lake"],
}


def score(captions: dict[str, list[str]], references: list[list[str]]) -> list[Score]:
    measured = [measure_trial(trial) for trial in lay_out_trials(captions, references)]
    return caption_scores(measured, subset="test", seeds=Seeds(0))


def test_every_metric_is_given_for_every_writer() -> None:
    scores = score(CAPTIONS, REFERENCES)
    assert [(one.name, one.model) for one in scores] == [(name, writer) for name in REPORTED for writer in CAPTIONS]
    for one in scores:
        assert one.value == pytest.approx(score_captions(CAPTIONS[one.model], REFERENCES)[one.name].corpus)
        assert one.count == 4
        assert one.interval is not None
        assert one.interval[0] <= one.value <= one.interval[1]


def test_people_and_distinct_references_have_rows_of_their_own() -> None:
    repeated = [["a dam", "a dam", "a wall"], ["two tanks", "white tanks"], ["a lake", "a lake"], ["a road"]]
    scores = {(one.name, one.model): one for one in score(CAPTIONS, repeated)}
    assert len(scores) == 2 * len(REPORTED) * 3
    # The image with one reference has no other to stand against; of distinct ones, that of the lake neither.
    assert {(one.count, one.name.endswith("_distinct")) for one in scores.values() if one.model == "human"} == {
        (3, False),
        (2, True),
    }
    distinct = [["a dam", "a wall"], ["two tanks", "white tanks"], ["a lake"], ["a road"]]
    for name in REPORTED:
        for references, ending in ((repeated, ""), (distinct, "_distinct")):
            expected = score_captions(CAPTIONS["tuned"], references)[name].corpus
            assert scores[name + ending, "tuned"].value == pytest.approx(expected)
    assert scores["cider_d", "tuned"].value != scores["cider_d_distinct", "tuned"].value
    rounds = [score_captions(["a dam", "two tanks"], [["a wall"], ["white tanks"]]),
              score_captions(["a wall", "white tanks"], [["a dam"], ["two tanks"]])]  # fmt: skip
    for name in REPORTED:
        assert scores[f"{name}_distinct", "human"].value == pytest.approx(sum(one[name].corpus for one in rounds) / 2)


def test_one_image_has_no_interval() -> None:
    scores = score({"tuned": ["a dam"]}, [["a dam"]])
    assert len(scores) == len(REPORTED)
    assert all(one.interval is None for one in scores)


def test_statistics_show_who_repeats_itself() -> None:
    references = [["a dam", "a wall"], ["two tanks", "A dam."], ["a lake", "a pond"], ["a road", "the road"]]
    scores = caption_statistics(CAPTIONS, references, subset="test", seeds=Seeds(0))
    assert [(one.name, one.model) for one in scores] == [
        (name, writer) for name in STATISTICS for writer in ("tuned", "constant", "human")
    ]
    values = {(one.name, one.model): one.value for one in scores}
    assert values["unique_share", "tuned"] == 1.0
    assert values["unique_share", "constant"] == 0.25
    assert values["vocabulary_size", "constant"] == 2
    assert values["vocabulary_size", "tuned"] == 9  # a dam in forest two storage tanks lake road
    assert values["caption_length", "tuned"] == (5 + 3 + 2 + 2) / 4
    # In the first round people say dam, tanks, lake, road; in the second wall, dam, pond, road.
    assert values["unique_share", "human"] == 1.0
    assert values["vocabulary_size", "human"] == (6 + 6) / 2
    assert values["caption_length", "human"] == 2.0
    assert all(one.count == 4 and (one.interval is not None) == (one.name == "caption_length") for one in scores)


def test_scores_go_to_metrics_and_back() -> None:
    scores = [Score("fid", 12.5, 10, (11.0, 14.0), "tuned", "test", "skyclip:miniature"), Score("kid", 0.1, 10, None, "base")]
    metrics = to_metrics("skygen-1", scores)
    assert metrics["protocol"] == "skygen-1"
    assert set(metrics["scores"][0]) >= {"name", "value", "count", "interval", "model", "subset", "extractor"}
    assert from_metrics(metrics) == scores


def test_the_table_names_value_interval_and_count() -> None:
    lines = format_table([Score("fid", 12.5, 10, (11.0, 14.0), "tuned", "test")]).splitlines()
    assert lines[0].split() == ["metric", "model", "value", "95", "%", "interval", "count", "subset", "extractor"]
    assert lines[2].split() == ["fid", "tuned", "12.5000", "[11.0000,", "14.0000]", "10", "test"]
