"""A seal is part of the file, covers all of it, and does not trouble other readers."""

from __future__ import annotations

from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skygen.errors import StorageError
from skygen.evaluation.parquet_files import open_parquet, write_parquet
from skygen.evaluation.seals import BLANK, check_seal, seal

TABLE = pa.table({"key": ["a", "b", "c"], "caption": ["crc32:0123abcd", "a dam", ""], "similarity": [0.25, 0.5, 1.0]})


def test_other_programs_read_a_sealed_table(tmp_path: Path) -> None:
    write_parquet(tmp_path / "scores.parquet", [TABLE.slice(0, 2), TABLE.slice(2)])
    assert pq.read_table(tmp_path / "scores.parquet").equals(TABLE)
    assert open_parquet(tmp_path / "scores.parquet").read().equals(TABLE)
    assert pq.read_metadata(tmp_path / "scores.parquet").num_row_groups == 2


def test_a_table_without_a_seal_is_read(tmp_path: Path) -> None:
    pq.write_table(TABLE.drop_columns("caption"), tmp_path / "earlier.parquet")
    assert open_parquet(tmp_path / "earlier.parquet").read(columns=["key"]).column("key").to_pylist() == ["a", "b", "c"]


def test_every_bit_before_and_after_a_seal_counts(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"some values, " + BLANK + b", and what follows")
    seal(path)
    content = path.read_bytes()
    assert (len(content), content.count(b"crc32:"), BLANK in content) == (45, 1, False)
    check_seal(path)
    found = 0
    begin, end = content.index(b"crc32:"), content.index(b", and")
    for number, place in enumerate([*range(begin), *range(end, len(content))]):
        for bit in range(8):
            damaged = bytearray(content)
            damaged[place] ^= 1 << bit
            copy = tmp_path / f"{number}-{bit}"
            copy.write_bytes(damaged)
            with pytest.raises(StorageError, match=r": its bytes are not those that were written; delete it, and run again"):
                check_seal(copy)
            found += 1
    assert found == 8 * (45 - len(BLANK))


def test_a_file_without_a_place_for_it_is_not_sealed(tmp_path: Path) -> None:
    (tmp_path / "file").write_bytes(b"some values")
    with pytest.raises(ValueError, match="has no place for a seal"):
        seal(tmp_path / "file")
    check_seal(tmp_path / "file")
