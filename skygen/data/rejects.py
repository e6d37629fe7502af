"""The ledger of bad data: what was left out and why, so that nothing is dropped in silence."""

from __future__ import annotations

import json
import os
from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import NamedTuple

from skygen.errors import DataError, StorageError
from skygen.storage import append_lines, appending, writing

LONGEST_SHOWN = 300
"""Characters of a reason in an error: a damaged row may name a megabyte."""


class Reject(NamedTuple):
    """One line of the ledger.

    Args:
        key: a ``Pair.key``, or ``FILE:ROW`` of a row that made no pair.
        reason: a few words, such as ``truncated file``.
        where: the file, and the row in it, in full.
        part: such as ``caption 3``, where the pair itself is kept.
    """

    key: str
    reason: str
    where: str
    part: str | None = None


class Rejects:
    """Appends one JSON line ``{"key", "reason", "where"}`` for every row or image that is not used, each key once.

    Ranks and loader workers share one file: a line is a single write to a file opened for appending, and before it a
    process reads what the others have added. No file is made before the first line.

    Args:
        path: of the file, ``rejects.jsonl`` in a run; None keeps the entries in memory alone, for use without a run.
    """

    def __init__(self, path: Path | None) -> None:
        self.path = path
        self.first_reason: str | None = None
        self._seen: dict[tuple[str, str | None], None] = {}
        self._position = 0
        self._look()

    def add(self, key: str, reason: str, where: str, *, part: str | None = None) -> None:
        """Note that something is not used; a second note on the same thing changes nothing.

        Args:
            key: a ``Pair.key``, or ``FILE:ROW`` of a row that made no pair.
            reason: a few words, such as ``truncated file``.
            where: the file, and the row in it, in full.
            part: such as ``caption 3``, where the pair itself is kept; such a line is not in ``count``.

        Raises:
            StorageError: if the file cannot be written.
        """
        self.add_all([Reject(key, reason, where, part)])

    def add_all(self, entries: Iterable[Reject]) -> None:
        """Note many at once, such as those that an earlier look at the data found.

        Raises:
            StorageError: if the file cannot be written.
        """
        new = [entry for entry in entries if (entry.key, entry.part) not in self._seen]
        if not new:
            return
        if self.path is None:
            for entry in new:
                self._note(entry.key, entry.part, entry.reason)
            return
        with appending(self.path) as descriptor:
            self._read_on(descriptor)
            lines: dict[tuple[str, str | None], bytes] = {}
            for entry in new:
                if (entry.key, entry.part) not in self._seen:
                    lines.setdefault((entry.key, entry.part), _to_line(entry))
            append_lines(descriptor, b"".join(lines.values()))
            self._read_on(descriptor)

    @property
    def count(self) -> int:
        """Rows or images that are not used, by this process's last look at the file; single captions do not count."""
        return sum(part is None for _, part in self._seen)

    def check(self, total: int, max_bad_fraction: float, *, bad: int | None = None) -> None:
        """Stop when too much of the data is bad.

        Args:
            total: rows or pairs in all, the bad ones included.
            max_bad_fraction: the largest share that may be bad, in [0, 1].
            bad: how many of ``total`` are bad; where it is not given, what all processes have noted until now.

        Raises:
            DataError: if more are.
        """
        if bad is None:
            self._look()
            bad = self.count
        if bad > max_bad_fraction * total:
            listed = f"{self.path} lists each" if self.path else f"the first: {self.first_reason}"
            raise DataError(
                f"{bad} of {total} rows or images cannot be used ({bad / max(total, 1):.1%}), more than the "
                f"{max_bad_fraction:.1%} allowed; {listed}; mend the data, or allow more with --pairs.max_bad_fraction"
            )

    def _look(self) -> None:
        if self.path is not None and self.path.exists():
            with _storage_errors(self.path), self.path.open("rb") as file:
                self._read_on(file.fileno())

    def _read_on(self, descriptor: int) -> None:
        """Take in the lines written since the last look."""
        data = b"".join(_read_from(descriptor, self._position))
        whole, _, torn = data.rpartition(b"\n")
        self._position += len(data) - len(torn)
        for line in whole.split(b"\n"):
            with suppress(ValueError, KeyError, TypeError):  # a line torn by a crash: its reject is found anew
                entry = json.loads(line)
                self._note(entry["key"], entry.get("part"), entry["reason"])

    def _note(self, key: str, part: str | None, reason: str) -> None:
        self._seen[key, part] = None
        self.first_reason = self.first_reason or reason[:LONGEST_SHOWN]


def read_rejects(path: Path) -> Iterator[Reject]:
    """Read a ledger from its file; lines that are no entries, such as one torn by a crash, are passed over."""
    with _storage_errors(path), path.open("rb") as file:
        for line in file:
            with suppress(ValueError, KeyError, TypeError):
                entry = json.loads(line)
                yield Reject(entry["key"], entry["reason"], entry["where"], entry.get("part"))


def write_rejects(path: Path, entries: Iterable[Reject]) -> None:
    """Write a whole ledger at once, in the place of one that may be there."""
    with writing(path) as temporary, temporary.open("wb") as file:
        file.writelines(map(_to_line, entries))


def _to_line(entry: Reject) -> bytes:
    plain = {"key": entry.key, "reason": entry.reason, "where": entry.where} | ({"part": entry.part} if entry.part else {})
    # A file name that is not UTF-8 holds lone surrogates; written as \udcNN they are still JSON.
    return json.dumps(plain, ensure_ascii=False).encode("utf-8", "backslashreplace") + b"\n"


def _read_from(descriptor: int, position: int) -> Iterator[bytes]:
    os.lseek(descriptor, position, os.SEEK_SET)  # writes go to the end all the same: O_APPEND
    while block := os.read(descriptor, 1 << 20):
        yield block


@contextmanager
def _storage_errors(path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise StorageError(f"the ledger of bad data {path} cannot be read: {error.strerror}") from error
