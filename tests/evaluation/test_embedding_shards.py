"""Embeddings in files of equally many rows."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from skygen.errors import StorageError
from skygen.evaluation.seals import BLANK
from skygen.evaluation.shards import ROWS, EmbeddingShards


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


def test_a_folder_is_opened_by_what_lies_in_it(tmp_path: Path) -> None:
    assert EmbeddingShards.found_in(tmp_path / "none").count == 0
    shards = EmbeddingShards(tmp_path, ROWS + 3)
    for number in shards.numbers():
        shards.write(number, np.zeros((len(shards.span(number)), 2), np.float16))
    (tmp_path / ".000002.npy.0123.part").touch()
    assert EmbeddingShards.found_in(tmp_path) == shards


def test_other_programs_read_a_file_and_one_without_a_seal_is_read(filled: EmbeddingShards) -> None:
    path = filled.folder / "000001.npy"
    values = np.load(path, allow_pickle=False)
    assert values.tolist() == [[8, 9], [10, 11], [12, 13], [14, 15]]
    np.save(path, values)
    assert filled.map(1).tolist() == values.tolist()


def test_a_damaged_file_is_named_whenever_it_is_read(filled: EmbeddingShards) -> None:
    path = filled.folder / "000001.npy"
    content = bytearray(path.read_bytes())
    content[-len(BLANK) - 1] ^= 1  # of the last value
    path.write_bytes(content)
    for _ in range(2):
        with pytest.raises(StorageError) as caught:
            filled.take(np.arange(10))
        assert str(caught.value) == (
            f"{path}: its bytes are not those that were written; delete it, and run again what made it."
        )
    assert filled.map(0).tolist() == [[0, 1], [2, 3], [4, 5], [6, 7]]
