"""Caption baselines: which caption wins, and that shuffling leaves nothing in place."""

from __future__ import annotations

import logging
from collections import Counter
from pathlib import Path

import numpy as np
import pytest

from skygen.data.pair import Pair
from skygen.errors import DataError
from skygen.evaluation.captions.baselines import (
    class_mode_captions,
    constant_caption,
    derangement,
    shuffled_captions,
    trivial_captions,
)
from skygen.seeding import Seeds

SEEDS = Seeds(7)


def pair(class_name: str | None, *captions: str) -> Pair:
    return Pair(key="a.png", image=Path("a.png"), captions=captions, class_name=class_name)


def test_the_constant_caption_is_the_most_frequent_one() -> None:
    assert constant_caption(["a pond", "a road", "a road", "a pond", "a road"]) == "a road"


def test_of_equally_frequent_captions_the_first_seen_is_said() -> None:
    assert constant_caption(["a road", "a pond", "a barn", "a pond", "a road"]) == "a road"


def test_no_training_caption_is_an_error_that_says_so() -> None:
    with pytest.raises(DataError, match="needs at least one training caption, and there is none; give training pairs"):
        constant_caption([])


def test_each_class_says_its_own_most_frequent_caption() -> None:
    train = [
        pair("farm", "a field", "green fields"),
        pair("farm", "green fields"),
        pair("port", "a ship"),
        pair(None, "a ship", "a ship", "some houses"),
    ]
    evaluated = [pair("port", "x"), pair("farm", "x"), pair("airport", "x"), pair(None, "x")]
    assert class_mode_captions(train, evaluated) == ["a ship", "green fields", "a ship", "a ship"]


def test_the_fallback_is_the_constant_over_all_training_captions() -> None:
    train = [pair("farm", "a field"), pair("port", "a ship"), pair(None, "a pond", "a pond")]
    assert class_mode_captions(train, [pair(None, "x"), pair("farm", "x")]) == ["a pond", "a field"]


def test_class_mode_is_given_where_a_class_is_known_in_both(caplog: pytest.LogCaptureFixture) -> None:
    train = [pair("farm", "a field"), pair(None, "a pond", "a pond")]
    with caplog.at_level(logging.INFO):
        assert trivial_captions(train, [pair("farm", "x"), pair("port", "x")]) == {
            "constant": ["a pond", "a pond"],
            "class_mode": ["a field", "a pond"],
        }
        assert caplog.messages == []
        assert trivial_captions(train, [pair(None, "x"), pair("port", "x")]) == {"constant": ["a pond", "a pond"]}
    assert caplog.messages == ["class_mode is left out, as no class is known both in training and here"]


@pytest.mark.parametrize("count", [2, 3, 5, 100])
def test_distinct_captions_are_permuted_and_none_stays(count: int) -> None:
    captions = [f"caption {index}" for index in range(count)]
    for seed in range(20):
        shuffled = shuffled_captions(captions, Seeds(seed))
        assert sorted(shuffled) == sorted(captions)
        assert all(new != old for new, old in zip(shuffled, captions, strict=True))


def test_equal_captions_are_never_dealt_back_up_to_half_of_all() -> None:
    captions = ["a"] * 50 + ["b"] * 30 + ["c"] * 20
    for seed in range(20):
        shuffled = shuffled_captions(captions, Seeds(seed))
        assert Counter(shuffled) == Counter(captions)
        assert all(new != old for new, old in zip(shuffled, captions, strict=True))


def test_above_half_as_few_as_possible_stay_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    captions = ["a"] * 7 + ["b"] * 2 + ["c"]
    with caplog.at_level(logging.WARNING):
        shuffled = shuffled_captions(captions, SEEDS)
    # Three places hold another text, so only three of the seven can get one.
    assert sum(new == old for new, old in zip(shuffled, captions, strict=True)) == 4
    assert caplog.messages == ["4 of 10 shuffled texts stay in place, as one text fills more than half of them"]


def test_one_text_and_no_text_are_returned_as_they_are() -> None:
    assert shuffled_captions(["a", "a"], SEEDS) == ["a", "a"]
    assert shuffled_captions([], SEEDS) == []


def test_the_shuffle_follows_from_the_seed_and_reaches_every_place() -> None:
    texts = list("abcd")
    assert np.array_equal(derangement(texts, Seeds(3)), derangement(texts, Seeds(3)))
    reached = {tuple(derangement(texts, Seeds(seed)).tolist()) for seed in range(300)}
    assert len(reached) == 9  # all derangements of four
