from __future__ import annotations

import numpy as np
import pyarrow as pa
import pytest

from skygen.data.balance import balance_weights


def test_each_group_carries_the_same_weight_and_null_is_a_group() -> None:
    weights = balance_weights(pa.array(["Asia", "Europe", "Europe", None, "Europe", None]))
    assert weights.dtype == np.float64
    np.testing.assert_allclose(weights, [1 / 3, 1 / 9, 1 / 9, 1 / 6, 1 / 9, 1 / 6], rtol=1e-15)
    assert weights.sum() == pytest.approx(1.0, abs=1e-15)


def test_chunks_and_dictionaries_change_nothing() -> None:
    plain = pa.array(["a", None, "b", "a", "c", "a"])
    chunked = pa.chunked_array([plain[:2], plain[2:4], plain[4:]])
    expected = balance_weights(plain)
    for groups in (chunked, plain.dictionary_encode(), chunked.dictionary_encode()):
        np.testing.assert_array_equal(balance_weights(groups), expected)


def test_a_number_can_be_a_group() -> None:
    np.testing.assert_allclose(balance_weights(pa.array([2019, 2020, 2020], pa.int16())), [0.5, 0.25, 0.25])


def test_no_pairs_have_no_weights() -> None:
    assert balance_weights(pa.array([], pa.string())).shape == (0,)
    assert balance_weights(pa.chunked_array([], pa.string())).shape == (0,)


def test_a_draw_with_the_weights_evens_out_a_skewed_set() -> None:
    from skygen.seeding import Seeds

    groups = np.array(["US"] * 9000 + ["KE"] * 100)
    drawn = Seeds(1).numpy("draw").choice(groups, size=20_000, p=balance_weights(pa.array(groups)))
    assert np.mean(drawn == "KE") == pytest.approx(0.5, abs=0.015)  # 4 standard errors
