"""Which scored pairs are kept, and that the list of them reads back."""

from pathlib import Path

import numpy as np
import pytest

from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.selection import keep_threshold, write_pair_list
from skygen.errors import ConfigError


def test_a_share_is_of_all_pairs() -> None:
    similarity = np.arange(100, dtype=np.float32)
    assert (similarity >= keep_threshold(similarity, "top_30_percent")).sum() == 30
    assert (similarity >= keep_threshold(similarity, "top_100_percent")).sum() == 100
    assert (similarity >= keep_threshold(similarity, "top_0.1_percent")).sum() == 1


def test_pairs_that_tie_with_the_last_one_stay() -> None:
    similarity = np.array([0.1, 0.2, 0.2, 0.2, 0.3], dtype=np.float32)
    assert (similarity >= keep_threshold(similarity, "top_40_percent")).sum() == 4


def test_a_number_is_the_threshold_itself() -> None:
    assert keep_threshold(np.zeros(3, dtype=np.float32), "0.25") == 0.25


@pytest.mark.parametrize("keep", ["best", "top_0_percent", "top_101_percent", "top_30"])
def test_any_other_rule_is_refused(keep: str) -> None:
    with pytest.raises(ConfigError, match=r"give top_N_percent, N in \(0, 100\], or a least similarity"):
        keep_threshold(np.zeros(3, dtype=np.float32), keep)


def test_the_list_reads_back_with_every_caption_and_the_score(tmp_path: Path) -> None:
    pairs = [
        Pair("images2/a1_CH_19.jpg", tmp_path / "x", ('a "quoted", tree', "an oak"), class_name="tree"),
        Pair("images2/a2_US_20.jpg", tmp_path / "y", ("a dam",)),
    ]
    write_pair_list(tmp_path / "kept.csv", [(pairs[1], 0.5), (pairs[0], 0.75)], scorer="runs/my clip")
    read = read_pairs(tmp_path, csv="kept.csv")
    assert [pair.key for pair in read] == [pair.key for pair in pairs]
    assert [pair.captions for pair in read] == [pair.captions for pair in pairs]
    assert [pair.similarity for pair in read] == [0.75, 0.5]
    assert read[0].class_name == "tree"
