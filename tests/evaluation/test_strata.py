"""Scores by group: who is in which, and the mean of each."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skygen.data.pair import Box, Pair
from skygen.evaluation.strata import name_groups, score_strata
from skygen.seeding import Seeds


def pair(caption: str, **facts: object) -> Pair:
    return Pair("k", Path("k.jpg"), (f"a satellite image of {caption}",), **facts)  # type: ignore[arg-type]


def test_groups_are_those_in_which_the_items_differ() -> None:
    kenya, france = Box(37.0, -1.0, 37.01, -0.99), Box(2.0, 47.0, 2.01, 47.01)
    pairs = [
        pair("a dam", source="CH", gsd=0.1, box=kenya),
        pair("a dam", source="CH", gsd=0.5, box=france),
        pair("a mill", source="CH", gsd=10.0, box=france),
        None,
    ]
    groups = name_groups(pairs, ["dam", "dam", "mill", ""])
    assert groups == {
        "class": ["dam", "dam", "mill", ""],
        "continent": ["Africa", "Europe", "Europe", ""],
        "gsd": ["to 1 m (VHR1)", "to 1 m (VHR1)", "4 to 10 m (HR1)", ""],
        "caption frequency": ["2 to 10 times", "2 to 10 times", "caption occurs once", ""],
    }


def test_a_box_across_the_antimeridian_lies_where_it_lies() -> None:
    fiji, france = Box(179.99, -16.6, -179.99, -16.5), Box(2.0, 47.0, 2.01, 47.01)
    assert name_groups([pair("x", box=fiji), pair("x", box=france)], ["", ""])["continent"] == ["Oceania", "Europe"]


def test_nothing_is_grouped_where_nothing_is_known() -> None:
    assert name_groups([None, None], ["", ""]) == {}


def test_each_group_has_the_mean_of_its_own_items_the_lowest_first() -> None:
    values = np.array([1.0, 0.0, 1.0, 0.5, 0.7, np.nan, 9.0])
    groups = {"class": ["a", "a", "a", "b", "b", "b", "alone"]}
    found = score_strata(groups, values, name="m", model="tuned", subset="test", extractor="x", seeds=Seeds(1))
    assert [(one.stratum, one.group, one.score.count) for one in found] == [("class", "b", 2), ("class", "a", 3)]
    assert found[0].score.value == pytest.approx(0.6)
    assert found[1].score.value == pytest.approx(2 / 3)
    assert found[1].score.interval is not None and found[1].score.interval[0] < 2 / 3 < found[1].score.interval[1]
    assert found[0].to_json()["score"]["model"] == "tuned"
