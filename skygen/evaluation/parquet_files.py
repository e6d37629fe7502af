"""Tables of scores as Parquet, with a seal among what a file says of itself."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skygen.evaluation.seals import BLANK, check_seal, seal
from skygen.storage import writing


def write_parquet(path: Path, blocks: Iterable[pa.Table]) -> None:
    """Write a table, a block at a time.

    Args:
        path: of the file.
        blocks: all of one schema.

    Raises:
        StorageError: the disk is full or refuses.
    """
    writer: pq.ParquetWriter | None = None
    with writing(path) as temporary:
        for block in blocks:
            writer = writer or pq.ParquetWriter(temporary, block.schema, compression="zstd")
            writer.write_table(block)
        if writer is not None:
            writer.add_key_value_metadata({"skygen": BLANK.decode()})
            writer.close()
            seal(temporary)


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a table that is what was written.

    Raises:
        OSError: it is not there, or no Parquet; where an earlier version wrote it, so may what is read of it.
        pyarrow.ArrowException: the same.
        StorageError: its bytes are not those that were written.
    """
    check_seal(path)
    return pq.ParquetFile(path)
