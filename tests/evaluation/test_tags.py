"""Counts and colours in rule-made captions."""

import pytest

from skygen.evaluation.captions.tags import KINDS, focus_tags, tag_scores
from skygen.seeding import Seeds

REFERENCES = [
    ["man made storage tank with tanks of 3 and colour of red, surrounded by natural tree"],
    ["building of apartments with building levels of 4 and roof colour of grey"],
    ["landuse of forest with leaf type of broadleaved, surrounded by lanes of 2"],
]


def test_only_the_focus_object_s_tags_count() -> None:
    assert len(KINDS) == 2
    assert focus_tags(REFERENCES[0][0], KINDS["count_accuracy"]) == {"tanks of 3"}
    assert focus_tags(REFERENCES[1][0], KINDS["colour_accuracy"]) == {"roof colour of grey"}
    assert focus_tags("a satellite image of " + REFERENCES[2][0], KINDS["count_accuracy"]) == frozenset()


def test_a_writer_is_right_where_it_says_the_same_number_and_colour() -> None:
    said = [
        "man made storage tank with tanks of 2 and colour of red",
        "building of apartments with building levels of 4 and roof colour of white",
        "landuse of forest",
    ]
    scores = {(score.name, score.model): score for score in tag_scores(
        {"tuned": said, "real": [texts[0] for texts in REFERENCES]}, REFERENCES, subset="test", seeds=Seeds(0)
    )}  # fmt: skip
    assert {key: score.value for key, score in scores.items()} == pytest.approx({
        ("count_accuracy", "tuned"): 0.5, ("colour_accuracy", "tuned"): 0.5,
        ("count_accuracy", "real"): 1.0, ("colour_accuracy", "real"): 1.0,
    })  # fmt: skip
    assert {score.count for score in scores.values()} == {2}


def test_sentences_without_tags_have_no_such_score() -> None:
    assert tag_scores({"tuned": ["a lake"]}, [["A blue lake near some trees."]], subset="test", seeds=Seeds(0)) == []
