"""Which scored pairs are kept."""

from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from skygen.data.selection import check_rule, keep_rows, rank_rows
from skygen.errors import ConfigError
from skygen.seeding import Seeds


def kept(similarity: list[float], keep: str, keys: list[str] | None = None, classes: list[str] | None = None) -> list[int]:
    count = len(similarity)
    names = pa.array(keys or [f"{number:03d}" for number in range(count)], pa.string())
    mask = keep_rows(np.asarray(similarity, dtype=np.float64), names, pa.array(classes or [None] * count, pa.string()), keep)
    return np.flatnonzero(mask).tolist()


def test_a_share_is_of_all_pairs_and_exact() -> None:
    similarity = [float(value) for value in range(100)]
    assert kept(similarity, "top_30_percent") == list(range(70, 100))
    assert kept(similarity, "top_100_percent") == list(range(100))
    assert kept(similarity, "top_0.1_percent") == [99]


def test_of_pairs_that_tie_the_earlier_key_is_kept() -> None:
    similarity = [0.1, 0.2, 0.2, 0.2, 0.3]
    assert kept(similarity, "top_40_percent") == [1, 4]
    assert kept(similarity, "top_40_percent", keys=["a", "d", "c", "b", "e"]) == [3, 4]


def test_a_share_of_each_class_leaves_no_class_empty() -> None:
    similarity = [0.9, 0.8, 0.7, 0.6, 0.1, 0.2, 0.3, 0.05]
    classes = ["pier"] * 4 + ["dam"] * 3 + [""]
    assert kept(similarity, "top_50_percent_per_class", classes=classes) == [0, 1, 5, 6, 7]
    assert kept(similarity, "top_1_percent_per_class", classes=classes) == [0, 6, 7]
    assert kept(similarity, "top_50_percent", classes=classes) == [0, 1, 2, 3]


def test_a_number_is_the_threshold_itself() -> None:
    assert kept([0.2, 0.25, 0.3], "0.25") == [1, 2]


def test_nothing_is_kept_of_nothing() -> None:
    assert kept([], "top_30_percent") == kept([], "0.5") == []


@pytest.mark.parametrize("keep", ["best", "top_0_percent", "top_101_percent", "top_30", "top_30_percent_per_source"])
def test_any_other_rule_is_refused(keep: str) -> None:
    with pytest.raises(ConfigError, match=r"give top_N_percent or top_N_percent_per_class, N in \(0, 100\], or a least simi"):
        check_rule(keep)


def test_the_best_come_first_ties_by_key_and_what_is_no_number_last() -> None:
    similarity = np.array([0.1, float("nan"), 0.3, 0.1, float("nan")])
    keys = pa.chunked_array([["d", "b"], ["c", "a", "e"]])
    assert rank_rows(similarity, keys).tolist() == [2, 3, 0, 1, 4]
    assert kept([0.1, float("nan"), 0.3], "top_67_percent") == [0, 2]
    assert kept([0.1, float("nan"), 0.3], "0.05") == [0, 2]


def test_a_fraction_is_as_exact_of_many_as_of_few() -> None:
    draw = Seeds(0).numpy("selection")
    similarity = draw.normal(size=100_003).round(2)  # many ties
    keys = pa.array([f"{number:06d}" for number in draw.permutation(100_003)])
    classes = pa.array([None if number < 3 else f"class {number % 700}" for number in range(100_003)])
    mask = keep_rows(similarity, keys, classes, "top_30_percent")
    assert mask.sum() == round(100_003 * 0.3)
    assert similarity[mask].min() >= similarity[~mask].max()
    each = keep_rows(similarity, keys, classes, "top_30_percent_per_class")
    names = np.array(classes.fill_null("").to_pylist())
    expected = {name: max(1, round(count * 0.3)) for name, count in zip(*np.unique(names, return_counts=True), strict=True)}
    assert len(expected) == 701
    assert dict(zip(*np.unique(names[each], return_counts=True), strict=True)) == expected
