"""Tables of scores as Parquet, whose pages have checksums that are compared whenever they are read."""

from __future__ import annotations

from collections.abc import Iterable
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq

from skygen.storage import writing


def write_parquet(path: Path, blocks: Iterable[pa.Table]) -> None:
    """Write a table, a block at a time; other programs may pass over the checksums.

    Args:
        path: of the file.
        blocks: at least one, all of one schema.

    Raises:
        StorageError: the disk is full or refuses.
    """
    writer: pq.ParquetWriter | None = None
    with writing(path) as temporary:
        for block in blocks:
            writer = writer or pq.ParquetWriter(temporary, block.schema, compression="zstd", write_page_checksum=True)
            writer.write_table(block)
        if writer is not None:
            writer.close()


def open_parquet(path: Path) -> pq.ParquetFile:
    """Open a table; what a flipped bit has made of its values raises when they are read.

    Raises:
        OSError: it is not there, or no Parquet; from the methods of what is returned too.
        pyarrow.ArrowException: the same.
    """
    return pq.ParquetFile(path, page_checksum_verification=True)
