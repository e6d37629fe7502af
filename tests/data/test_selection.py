"""Which scored pairs are kept."""

from __future__ import annotations

import numpy as np
import pytest

from skygen.data.selection import keep_threshold
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
