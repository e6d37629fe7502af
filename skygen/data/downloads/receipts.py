"""What was downloaded into a folder: sizes and checksums, against which a later look or a later download is held.

The authors publish no checksums. So what a file is when it is first fetched, and found whole, is what it must be from then
on (trust on first use); the few MD5s that others have published are checked besides.
"""

from __future__ import annotations

import json
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path

from skygen import plain_json
from skygen.errors import DataError, UnavailableError
from skygen.storage import storage_error, writing

try:
    import fcntl
except ImportError:  # Windows: two processes that fetch the same file there must be avoided by hand
    fcntl = None  # type: ignore[assignment]

logger = logging.getLogger("skygen")

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
    with _locked(root / FOLDER / "downloads.lock"), writing(receipts_file(root)) as temporary:
        entries = {key: asdict(value) for key, value in (read_receipts(root) | {name: receipt}).items()}
        temporary.write_text(json.dumps(entries, indent=1) + "\n", encoding="utf-8")


@contextmanager
def alone(root: Path, name: str) -> Iterator[None]:
    """Keep other processes from fetching the same file meanwhile; a killed one lets go by being killed.

    Raises:
        Busy: another process is at it.
    """
    with _locked(root / FOLDER / f"{name.replace('/', '_')}.lock", root / name):
        yield


@contextmanager
def _locked(path: Path, what: Path | None = None) -> Iterator[None]:
    """Hold a lock on a file, which stays: to remove it would let two processes hold two files of one name.

    Args:
        path: of the lock.
        what: it stands for, if a process that comes second is not to wait.
    """
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        file = path.open("ab")
    except OSError as error:
        raise storage_error(path, error) from error
    with file:
        if fcntl is not None:
            try:
                fcntl.flock(file.fileno(), fcntl.LOCK_EX | (fcntl.LOCK_NB if what else 0))
            except BlockingIOError:
                raise Busy(f"{what}: another process is downloading it; wait until it has ended, or stop it.") from None
            except OSError as error:
                logger.debug("%s: no locks here (%s)", path, error)  # two processes must be kept apart by hand
        yield
