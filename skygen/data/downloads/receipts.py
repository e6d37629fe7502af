"""What was downloaded into a folder: sizes and checksums, against which a later look or a later download is held.

The authors publish no checksums. So what a file is when it is first fetched, and found whole, is what it must be from then
on (trust on first use); the few MD5s that others have published are checked besides.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from skygen import plain_json, storage
from skygen.errors import ConfigError, DataError, UnavailableError

FOLDER = ".skygen"


class Busy(UnavailableError):
    """Another process is fetching the same file."""


@dataclass(frozen=True, slots=True)
class Receipt:
    """One download.

    Args:
        size: bytes.
        sha256: in hexadecimal.
        url: it came from; empty for a file that was there already.
        time: when it was found whole, ISO 8601, UTC.
        files: that it was unpacked to; 0 where it was not.
        unpacked: bytes of those files.
    """

    size: int
    sha256: str
    url: str
    time: str
    files: int = 0
    unpacked: int = 0


def receipts_file(root: Path) -> Path:
    """Return where the receipts of a folder are kept."""
    return root / FOLDER / "downloads.json"


def read_receipts(root: Path) -> dict[str, Receipt]:
    """Read the receipts of a folder, by path relative to it.

    Raises:
        DataError: the file is damaged.
    """
    path = receipts_file(root)
    try:
        content = plain_json.parse(path.read_text(encoding="utf-8"))
        receipts = {name: Receipt(**entry) for name, entry in content.items()}
        for receipt in receipts.values():
            if not isinstance(receipt.size, int) or not isinstance(receipt.sha256, str):
                raise ValueError("a size or checksum is of the wrong kind")
        return receipts
    except FileNotFoundError:
        return {}
    except (OSError, ValueError, TypeError, AttributeError) as error:
        raise DataError(
            f"{path}: cannot be read ({error}); remove it, and the files it stood for are checked anew by `skygen download`."
        ) from error


def keep_receipt(root: Path, name: str, receipt: Receipt) -> None:
    """Add a receipt, or replace the one of the same name.

    Raises:
        StorageError: the disk does not take it.
    """
    with storage.appending(root / FOLDER / "downloads.lock"), storage.writing(receipts_file(root)) as temporary:
        entries = {key: asdict(value) for key, value in (read_receipts(root) | {name: receipt}).items()}
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


@contextmanager
def alone(root: Path, name: str) -> Iterator[None]:
    """Keep other processes from fetching the same file meanwhile, see ``skygen.storage.alone``.

    Raises:
        Busy: another process is at it.
        StorageError: the disk is full or refuses.
    """
    with ExitStack() as stack:
        try:
            lock = root / FOLDER / f"{name.replace('/', '_')}.lock"
            stack.enter_context(storage.alone(lock, str(root / name), "fetch other files meanwhile"))
        except ConfigError as error:
            raise Busy(str(error)) from None
        yield
