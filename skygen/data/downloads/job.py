"""``skygen download``: published files into place, checked, and resumed wherever an earlier try ended."""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Literal, final

from skygen.data.downloads.plan import Item, find_present
from skygen.data.downloads.receipts import Busy, Receipt, alone, keep_receipt, read_receipts, receipts_file
from skygen.data.downloads.server import Missing, Patience, client_of
from skygen.data.downloads.transfer import Digests, discard, fetch
from skygen.data.downloads.unpacking import begins_well, find_fault, measure_folder, unpack
from skygen.errors import DataError, SkygenError, StorageError
from skygen.storage import flush_to_disk, storage_error, to_words

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("skygen")

SPACE_MARGIN = 200_000_000
"""Bytes that must stay free besides."""
READ_AT_ONCE = 1_000_000_000
"""A smaller archive has every member read against its checksum after it has come; a larger one only when asked."""

Done = Literal["downloaded", "checked", "already there"]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What became of one file: ``downloaded``, ``checked`` against its receipt, or ``already there``."""

    name: str
    path: Path
    done: Done


def download(
    items: Sequence[Item],
    *,
    progress: Callable[[int, int], None] | None = None,
    verify: bool = False,
    patience: Patience | None = None,
) -> tuple[Outcome, ...]:
    """Fetch what is planned and not there yet; whatever stops it, the same call goes on from there.

    A file that the server does not have, or that is wrong, does not keep the others from being fetched.

    Args:
        items: from ``plan``.
        progress: is told bytes that have come since the call, and those plus what is still to come; the second grows where a
            size was not known or a file had to be fetched again.
        verify: read what is there already and compare it with its receipt, every member of an archive included.
        patience: with the server.

    Returns:
        What became of each.

    Raises:
        UnavailableError: the server lacks a file, cannot be reached, or another process is fetching the same.
        DataError: a file is not what was published, or not what its receipt says.
        StorageError: the disk has no room, or does not take it.
    """
    _check_space(items)
    patience = patience or Patience()
    tally = _Tally(items, progress)
    outcomes: list[Outcome] = []
    faults: list[SkygenError] = []
    with client_of(patience) as client:
        for item in items:
            try:
                with alone(item.root, item.file.place):
                    outcomes.append(_obtain(item, client, tally, verify, patience))
            except (Missing, Busy, DataError) as error:
                if len(items) > 1:  # what is raised at the end may be hours away, and names one of them
                    logger.warning("%s", error)
                faults.append(error)
                tally.drop(item)
    if faults:
        more = len(faults) - 1
        others = f" (and {more} other file{'s' * (more > 1)} failed too)." if more else "."
        raise type(faults[0])(str(faults[0]).removesuffix(".") + others)
    return tuple(outcomes)


def _check_space(items: Sequence[Item]) -> None:
    """Compare what is to come, by disk, with what is free; an unpacked archive needs its size twice."""
    needs: dict[int, tuple[Path, int]] = {}
    for item in items:
        if item.state != "here":
            folder = next(path for path in (item.root.absolute(), *item.root.absolute().parents) if path.exists())
            _, needed = needs.get(folder.stat().st_dev, (folder, 0))
            needs[folder.stat().st_dev] = folder, needed + item.left + (item.size or 0) * item.file.unpacked
    for folder, needed in needs.values():
        free = shutil.disk_usage(folder).free
        if needed + SPACE_MARGIN > free:
            raise StorageError(
                f"{folder}: {to_words(needed)} are needed and {to_words(SPACE_MARGIN)} to spare, but {to_words(free)} are "
                "free; free disk space, choose another folder, or download less at once."
            )


@final
class _Tally:
    """Adds up, over all files, what has come and what is still to come."""

    def __init__(self, items: Sequence[Item], progress: Callable[[int, int], None] | None) -> None:
        self._progress = progress
        self._arrived = 0
        self._left = {item.file.name: item.left for item in items}

    def count(self, item: Item, arrived: int, left: int) -> None:
        self._arrived += arrived
        self._left[item.file.name] = left
        if self._progress is not None:
            self._progress(self._arrived, self._arrived + sum(self._left.values()))

    def drop(self, item: Item) -> None:
        """Expect no more of a file."""
        self._left[item.file.name] = 0


def _obtain(item: Item, client: httpx.Client, tally: _Tally, verify: bool, patience: Patience) -> Outcome:
    """Bring one file into place, from wherever an earlier try left it."""
    present = find_present(item)
    known = read_receipts(item.root).get(item.file.place)
    if present == item.folder and item.file.unpacked:
        tally.drop(item)
        return Outcome(item.file.name, present, _check_folder(item, known, verify))
    if present is not None and present != item.target:  # a checkpoint that has been unpacked or converted
        tally.drop(item)
        return Outcome(item.file.name, present, "already there")
    if item.file.unpacked and item.folder.exists():
        raise DataError(
            f"{item.folder}: is there, but holds no {item.file.holds}; move it away, and give the same command again."
        )
    if item.target.is_file():
        tally.drop(item)
        receipt, done = _check_file(item, known, verify)
    else:
        receipt, done = _fetch_whole(item, client, tally, known, patience), "downloaded"
    if item.file.unpacked:
        files, size = unpack(item.target, item.folder, item.file.holds)
        receipt, done = replace(receipt, files=files, unpacked=size), "downloaded"
    if receipt != known:
        keep_receipt(item.root, item.file.place, receipt)
    if item.file.unpacked:
        _remove_own_archive(item, receipt)
    return Outcome(item.file.name, item.destination, done)


def _fetch_whole(item: Item, client: httpx.Client, tally: _Tally, known: Receipt | None, patience: Patience) -> Receipt:
    """Fetch a file until it stands its checks: once more from the start, if it does not the first time."""
    name = item.target.name
    for often in ("; it is removed, and fetched once more", " again; it is removed"):
        digests = fetch(
            client,
            item.url,
            item.part,
            fits=lambda head: begins_well(name, head),
            patience=patience,
            progress=lambda arrived, left: tally.count(item, arrived, left),
        )
        fault = _find_difference(item, digests, known)
        fault = fault or find_fault(item.part, name, deep=digests.size < READ_AT_ONCE)
        if fault is None:
            return _put_in_place(item, digests)
        discard(item.part)
        logger.warning("%s: what came %s%s.", item.url, fault, often)
    raise DataError(f"{item.url}: what came, twice, {fault}; it was removed: try again later, or use another mirror.")


def _put_in_place(item: Item, digests: Digests) -> Receipt:
    try:
        item.part.replace(item.target)
        flush_to_disk(item.target.parent)
    except OSError as error:
        raise storage_error(item.target, error) from error
    discard(item.part)
    return _receipt_of(digests, item.url)


def _receipt_of(digests: Digests, url: str) -> Receipt:
    return Receipt(digests.size, digests.sha256, url, datetime.now(UTC).isoformat(timespec="seconds"))


def _check_file(item: Item, known: Receipt | None, verify: bool) -> tuple[Receipt, Done]:
    """Compare a file that is there with its receipt: by size, or in full if asked to or if it has none."""
    size = item.target.stat().st_size
    expected = known.size if known else item.size if item.exact else size
    if size != expected:
        raise _not_as_published(item, f"is {size:,} bytes where {expected:,} are right")
    if known and not verify:
        return known, "already there"
    digests = Digests.of(item.target)
    fault = _find_difference(item, digests, known) or find_fault(
        item.target, item.target.name, deep=verify or size < READ_AT_ONCE
    )
    if fault:
        raise _not_as_published(item, fault)
    return known or _receipt_of(digests, ""), "checked"


def _check_folder(item: Item, known: Receipt | None, verify: bool) -> Done:
    """Compare a folder with what was unpacked to it; one that was made by hand is taken as it is."""
    if known:
        _remove_own_archive(item, known)
    if not verify or not known or not known.files:
        return "already there"
    files, size = measure_folder(item.folder)
    if (files, size) != (known.files, known.unpacked):
        raise DataError(
            f"{item.folder}: holds {files:,} files of {size:,} bytes, where {known.files:,} of {known.unpacked:,} bytes were "
            "unpacked; move it away, and give the same command again."
        )
    return "checked"


def _remove_own_archive(item: Item, receipt: Receipt) -> None:
    """Remove an archive that is unpacked, unless a user put it there."""
    if receipt.url:
        item.target.unlink(missing_ok=True)


def _find_difference(item: Item, digests: Digests, known: Receipt | None) -> str | None:
    if item.file.md5 and digests.md5 != item.file.md5:
        return f"has the MD5 {digests.md5} instead of {item.file.md5}"
    if known and (digests.size, digests.sha256) != (known.size, known.sha256):
        return (
            f"is not what it was on {known.time[:10]} (SHA-256 {digests.sha256[:12]}, then {known.sha256[:12]}; if it was "
            f"published anew, remove its entry from {receipts_file(item.root)})"
        )
    return None


def _not_as_published(item: Item, fault: str) -> DataError:
    return DataError(f"{item.target}: {fault}; move it away, and give the same command again to download it.")
