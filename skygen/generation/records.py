"""Records of finished pictures: each process appends to a list of its own, and in the end they are one, whoever wrote them.

A picture counts as finished only while its file is, byte for byte, the one of which its record was made.
"""

from __future__ import annotations

import json
import os
import shutil
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from hashlib import sha256
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Final, final

from skygen import plain_json
from skygen.errors import DataError
from skygen.signals import wait_until
from skygen.storage import flush_to_disk, storage_error, writing

METADATA: Final = "metadata.jsonl"
"""Hugging Face's name for what is known of the images of an imagefolder."""
SHARDS: Final = ".records"
"""Hidden, so that no reader of the imagefolder takes what is in it for data."""
NAMED: Final = 5
"""Pictures that a sentence names before it counts the others."""

Record = dict[str, Any]


@final
class RecordShard:
    """One process's list of the pictures that it has finished; what is added is on the disk before ``add`` returns.

    Args:
        folder: of the imagefolder.
        rank: of the process, from 0; no two processes share one.
    """

    def __init__(self, folder: Path, rank: int) -> None:
        self.path = folder / SHARDS / f"process-{rank:05d}.jsonl"
        self._file: IO[bytes] | None = None

    def __enter__(self) -> RecordShard:
        try:
            self.path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self.path.open("ab")
            size = self._file.tell()
            whole = self.path.read_bytes().rfind(b"\n") + 1 if size else 0
            if whole < size:  # a line that a kill cut short would spoil the next one
                self._file.truncate(whole)
            flush_to_disk(self.path.parent)
        except OSError as error:
            raise storage_error(self.path, error) from error
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        if self._file is not None:
            self._file.close()

    def add(self, records: Sequence[Mapping[str, Any]]) -> None:
        """Append records in one write.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if self._file is None or not records:
            return
        try:
            self._file.write(b"".join(_line(record) for record in records))
            self._file.flush()
            os.fsync(self._file.fileno())
        except OSError as error:
            raise storage_error(self.path, error) from error


def read_metadata(folder: Path) -> list[Record]:
    """Read the records of an imagefolder, finished or not; a line that a kill cut short is left out.

    Returns:
        In the order of ``metadata.jsonl``; where processes have lists of their own beside it, in the order of the pictures,
        of each picture the latest record.
    """
    records = list(_read_lines(folder / METADATA))
    shards = [record for path in _shards(folder) for record in _read_lines(path)]
    if not shards:
        return records
    latest = {record["index"]: record for record in (*records, *shards)}
    return [latest[index] for index in sorted(latest)]


def describe_file(path: Path) -> dict[str, Any]:
    """Return what a record says of its file: ``size`` in bytes and ``sha256``."""
    content = path.read_bytes()
    return {"size": len(content), "sha256": sha256(content).hexdigest()}


def find_finished(folder: Path, indices: Iterable[int]) -> tuple[dict[int, Record], dict[int, str]]:
    """Look which pictures are finished, by their files.

    Args:
        folder: of the imagefolder.
        indices: of the pictures to look for.

    Returns:
        The record of each finished picture by its number, and of each one that has a record and whose file is not the one
        recorded, what is wrong with the file.
    """
    known: dict[int, list[Record]] = {}
    for path in (*_shards(folder), folder / METADATA):
        for record in _read_lines(path):
            if isinstance(record.get("index"), int) and isinstance(record.get("file_name"), str):
                known.setdefault(record["index"], []).append(record)
    finished: dict[int, Record] = {}
    damaged: dict[int, str] = {}
    for index in indices:
        for record in known.get(index, ()):
            if not (reason := _compare(folder, record)):
                finished[index] = record
                damaged.pop(index, None)
                break
            damaged.setdefault(index, reason)
    return finished, damaged


def merge_records(folder: Path, indices: Sequence[int]) -> list[Record]:
    """Make the lists of all processes into ``metadata.jsonl``, and remove them and what a kill has left half written.

    For when every process has ended. The bytes are the same whichever process drew which picture, and when.

    Args:
        folder: of the imagefolder.
        indices: of all pictures.

    Returns:
        The records, in the order of the pictures.

    Raises:
        DataError: a picture is missing, or is not as it was written; ``metadata.jsonl`` is then as it was.
        StorageError: the disk is full or refuses.
    """
    finished, damaged = find_finished(folder, indices)
    if missing := [index for index in indices if index not in finished]:
        reasons = {index: damaged.get(index, f"{index:06d} was not drawn") for index in missing}
        count, named = f"{len(missing):,} of {len(indices):,}", name_some(reasons)
        raise DataError(f"{folder}: {count} pictures are missing ({named}); the same command draws them.")
    records = [finished[index] for index in indices]
    with writing(folder / METADATA) as temporary, temporary.open("wb") as file:
        file.writelines(_line(record) for record in records)
    shutil.rmtree(folder / SHARDS, ignore_errors=True)
    for half in (*(folder / "images").glob(".*.part"), *folder.glob(".*.part")):
        half.unlink(missing_ok=True)
    return records


def name_some(reasons: Mapping[int, str]) -> str:
    """Name the first pictures of which something is to be said, and count the others."""
    named = [reasons[index] for index in sorted(reasons)[:NAMED]]
    return "; ".join([*named, f"and {len(reasons) - NAMED:,} more"] if len(reasons) > NAMED else named)


def begin_process(folder: Path, rank: int) -> None:
    """Take back what ``end_process`` has said at an earlier start; to be followed by a barrier."""
    _mark(folder, rank).unlink(missing_ok=True)


def end_process(folder: Path, rank: int) -> None:
    """Say that this process has drawn its share."""
    with writing(_mark(folder, rank)):
        pass


def wait_for_processes(folder: Path, processes: int) -> None:
    """Wait until all have drawn their share."""
    wait_until(lambda: all(_mark(folder, rank).exists() for rank in range(processes)))


def _mark(folder: Path, rank: int) -> Path:
    return folder / SHARDS / f"process-{rank:05d}.ended"


def _shards(folder: Path) -> list[Path]:
    return sorted((folder / SHARDS).glob("process-*.jsonl"))


def _read_lines(path: Path) -> Iterator[Record]:
    try:
        lines = path.read_bytes().split(b"\n")[:-1]  # what stands after the last line break was cut short
    except FileNotFoundError:
        return
    for line in lines:
        if not line.strip():
            continue
        with suppress(ValueError):  # of a disk that went away: its picture is drawn again
            record = plain_json.parse(line)
            if isinstance(record, dict):
                yield record


def _compare(folder: Path, record: Record) -> str:
    """Say in what a picture's file differs from its record; nothing where it does not."""
    name = record["file_name"]
    try:
        found = describe_file(folder / name)
    except FileNotFoundError:
        return f"{name} is not there"
    except OSError as error:
        return f"{name} cannot be read ({error.strerror})"
    if "sha256" not in record:
        return f"{name} has no checksum in its record"
    if found["size"] != record.get("size"):
        return f"{name} has {found['size']:,} bytes of {record.get('size', 0):,}"
    return "" if found["sha256"] == record["sha256"] else f"{name} has other bytes than were written"


def _line(record: Mapping[str, Any]) -> bytes:
    return (json.dumps(record) + "\n").encode()
