"""Embeddings in files of equally many rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skygen.evaluation.shards import EmbeddingShards


@pytest.fixture
def filled(tmp_path: Path) -> EmbeddingShards:
    shards = EmbeddingShards(tmp_path / "embeddings", 10, rows=4)
    values = np.arange(20, dtype=np.float32).reshape(10, 2)
    for number in shards.numbers():
        shards.write(number, values[shards.span(number).start : shards.span(number).stop])
    return shards


def test_rows_are_found_in_any_order_and_any_number_of_times(filled: EmbeddingShards) -> None:
    rows = np.array([9, 0, 4, 4, 3])
    assert np.array_equal(filled.take(rows), np.stack([2 * rows, 2 * rows + 1], axis=1))
    assert filled.take(rows).dtype == np.float32
    assert filled.take(np.array([], dtype=np.int64)).size == 0


def test_the_last_file_is_short_and_all_come_in_order(filled: EmbeddingShards) -> None:
    assert [(span.start, span.stop, len(block)) for span, block in filled.blocks()] == [(0, 4, 4), (4, 8, 4), (8, 10, 2)]
    assert all(isinstance(block, np.memmap) for _, block in filled.blocks())
    assert len(EmbeddingShards(filled.folder, 0).numbers()) == 0


def test_a_file_is_there_once_it_is_written(tmp_path: Path) -> None:
    shards = EmbeddingShards(tmp_path, 3, rows=2)
    assert [shards.has(number) for number in shards.numbers()] == [False, False]
    shards.write(1, np.zeros((1, 2), np.float16))
    assert [shards.has(number) for number in shards.numbers()] == [False, True]
    with pytest.raises(ValueError, match="has 2 rows, not 1"):
        shards.write(0, np.zeros((1, 2), np.float16))
    assert [path.name for path in tmp_path.iterdir()] == ["000001.npy"]
