"""One file over HTTP, however often it takes: what has arrived stays on the disk, and any later process goes on from there.

A file grows as ``NAME.part``; ``NAME.part.json`` holds the server's own mark of the version it belongs to (RFC 9110:
``ETag`` or ``Last-Modified``). With the mark in ``If-Range`` a server sends the rest only of that very version.
"""

from __future__ import annotations

import hashlib
import json
import logging
import re
from collections.abc import Callable, Iterable
from contextlib import suppress
from dataclasses import asdict, dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING, final

from skygen import plain_json
from skygen.data.downloads.server import (
    Patience,
    answering,
    is_encoded,
    raise_if_missing,
    read_retry_after,
    seconds_to_wait,
    to_reason,
)
from skygen.errors import StorageError, UnavailableError
from skygen.storage import flush_to_disk, writing

if TYPE_CHECKING:
    import httpx

logger = logging.getLogger("skygen")

HEAD_BYTES = 512
"""So much of a file is looked at before an older start of it is given up."""
_BLOCK = 1 << 20
_CONTENT_RANGE = re.compile(r"bytes (\d+)-(\d+)/(\d+)")


class _Interruption(Exception):
    """A try brought less than the whole file; the next one may bring more."""

    def __init__(self, reason: str, retry_after: float | None = None) -> None:
        super().__init__(reason)
        self.retry_after = retry_after


@final
class Digests:
    """Size, MD5 and SHA-256 of bytes as they come."""

    def __init__(self) -> None:
        self.size = 0
        self._md5 = hashlib.md5(usedforsecurity=False)
        self._sha256 = hashlib.sha256()

    @classmethod
    def of(cls, path: Path) -> Digests:
        """Read a file; one that is not there is empty."""
        digests = cls()
        if path.is_file():
            with path.open("rb") as file:
                while block := file.read(_BLOCK):
                    digests.update(block)
        return digests

    def update(self, block: bytes) -> None:
        """Take in the next bytes."""
        self.size += len(block)
        self._md5.update(block)
        self._sha256.update(block)

    @property
    def md5(self) -> str:
        """In hexadecimal."""
        return self._md5.hexdigest()

    @property
    def sha256(self) -> str:
        """In hexadecimal."""
        return self._sha256.hexdigest()


@dataclass(frozen=True, slots=True)
class Version:
    """What the server said of the file when its first byte was sent.

    Args:
        total: bytes.
        etag: its mark, with quotes.
        last_modified: its date, as written.
    """

    total: int
    etag: str | None = None
    last_modified: str | None = None

    @property
    def validator(self) -> str | None:
        """What ``If-Range`` takes: not a weak ETag, which says that two files mean the same, not that they are the same."""
        return self.etag if self.etag and not self.etag.startswith("W/") else self.last_modified


def version_file(part: Path) -> Path:
    """Return where the version of a part is written."""
    return part.with_name(f"{part.name}.json")


def read_version(part: Path) -> Version | None:
    """Read which version a part belongs to; None where that cannot be known."""
    with suppress(OSError, ValueError, TypeError, KeyError):
        content = plain_json.parse(version_file(part).read_text(encoding="utf-8"))
        if isinstance(content["total"], int) and all(
            isinstance(content[name], str | None) for name in ("etag", "last_modified")
        ):
            return Version(**content)
    return None


def discard(part: Path) -> None:
    """Remove a part and what is known of it."""
    part.unlink(missing_ok=True)
    version_file(part).unlink(missing_ok=True)


def fetch(
    client: httpx.Client,
    url: str,
    part: Path,
    *,
    fits: Callable[[bytes], bool],
    patience: Patience,
    progress: Callable[[int, int], None],
) -> Digests:
    """Fetch a file, or the rest of one, until it is all there.

    Args:
        client: from ``client_of``.
        url: of the file.
        part: where it grows; what is there is used if the server still has that version.
        fits: says of the first bytes, 512 or the whole file, whether they can be those of the file and not of an error page.
        patience: with the server.
        progress: is told of bytes that have arrived, and of how many are still to come.

    Returns:
        Size and checksums of the whole file.

    Raises:
        Missing: the server answers 404, 403, or the like.
        UnavailableError: it cannot be reached, breaks off again and again, or sends something else; what has come stays.
        StorageError: the disk does not take it; what has come stays.
    """
    try:
        part.parent.mkdir(parents=True, exist_ok=True)
        return _Transfer(client, url, part, fits, progress).run(patience)
    except OSError as error:
        kept = part.stat().st_size if part.is_file() else 0
        raise StorageError(
            f"{part}: cannot be written ({error.strerror}) after {kept:,} bytes, which are kept; free disk space or choose "
            "another place, and give the same command again to go on."
        ) from error


@final
class _Transfer:
    def __init__(
        self,
        client: httpx.Client,
        url: str,
        part: Path,
        fits: Callable[[bytes], bool],
        progress: Callable[[int, int], None],
    ) -> None:
        self._client, self._url, self._part, self._fits, self._progress = client, url, part, fits, progress
        self._version = read_version(part)
        if self._version is None:
            discard(part)
        self._digests = Digests.of(part)
        self._restarts = 0

    def run(self, patience: Patience) -> Digests:
        import httpx

        furthest, fruitless = self._digests.size, 0
        while not self._is_whole():
            restarts = self._restarts
            try:
                self._attempt()
            except (_Interruption, httpx.RequestError) as error:
                if self._restarts == restarts and self._digests.size > furthest:
                    fruitless = 0
                furthest = self._digests.size
                fruitless += 1
                if fruitless + self._restarts >= patience.tries:
                    raise UnavailableError(self._explain(to_reason(error))) from error
                asked = error.retry_after if isinstance(error, _Interruption) else None
                wait = seconds_to_wait(self._url, fruitless, asked, patience)
                logger.warning("%s: %s; going on in %.0f s.", self._part.stem, to_reason(error), wait)
                patience.sleep(wait)
        flush_to_disk(self._part)
        return self._digests

    def _is_whole(self) -> bool:
        if self._version is not None and self._digests.size > self._version.total:
            self._restart()
        return self._version is not None and self._digests.size == self._version.total

    def _attempt(self) -> None:
        """Ask once, for the rest or for the whole."""
        offset, headers = self._digests.size, {}
        if offset and self._version is not None and self._version.validator:
            headers = {"Range": f"bytes={offset}-", "If-Range": self._version.validator}
        with answering(self._client, "GET", self._url, headers) as response:
            raise_if_missing(response, self._url)
            version, code = self._version, response.status_code
            if code == 206 and headers and version is not None and _is_the_rest(response, version, offset):
                self._take(response.iter_raw(), version)
            elif code == 200:
                self._begin(response)
            elif code in {206, 416}:
                self._restart()
                raise _Interruption("the server gives another piece than was asked for")
            else:
                retry_after = read_retry_after(response.headers.get("Retry-After"))
                raise _Interruption(f"the server answers {code} {response.reason_phrase}".strip(), retry_after)

    def _begin(self, response: httpx.Response) -> None:
        """Look at the first bytes, and only then give up an older start."""
        length = response.headers.get("Content-Length", "")
        if not length.isdecimal() or is_encoded(response):
            raise UnavailableError(f"{self._url}: the server does not say how long the file is; use another mirror.")
        version = Version(int(length), response.headers.get("ETag"), response.headers.get("Last-Modified"))
        pieces = response.iter_raw()
        head = b""
        for piece in pieces:
            head += piece
            if len(head) >= HEAD_BYTES:
                break
        if len(head) < min(HEAD_BYTES, version.total):
            raise _Interruption("the connection broke off")
        if not self._fits(head):
            raise UnavailableError(
                f"{self._url}: the server sends something else, beginning with {head[:40].decode('latin-1')!a}; open the "
                "address in a browser to see whether it asks to log in, or use another mirror."
            )
        self._restart()
        with writing(version_file(self._part)) as temporary:
            temporary.write_text(json.dumps(asdict(version)) + "\n", encoding="utf-8")
        self._version = version
        self._take(chain([head], pieces), version)

    def _take(self, pieces: Iterable[bytes], version: Version) -> None:
        with self._part.open("ab") as file:
            for piece in pieces:
                if self._digests.size + len(piece) > version.total:
                    break
                file.write(piece)
                self._digests.update(piece)
                self._progress(len(piece), version.total - self._digests.size)
            else:
                if self._digests.size < version.total:
                    raise _Interruption("the connection broke off")
                return
        self._restart()
        raise _Interruption("the server sends more than it promised")

    def _restart(self) -> None:
        """Forget what has come; the part goes first, so that a kill never leaves it beside another version's mark."""
        self._restarts += self._digests.size > 0
        discard(self._part)
        self._version, self._digests = None, Digests()

    def _explain(self, reason: str) -> str:
        total = f" of {self._version.total:,}" if self._version else ""
        return (
            f"{self._url}: given up for now ({reason}); {self._digests.size:,}{total} bytes are in {self._part}, and the same "
            "command goes on from there."
        )


def _is_the_rest(response: httpx.Response, version: Version, offset: int) -> bool:
    """Say whether a partial answer begins where it should, in the version that it should be of."""
    found = _CONTENT_RANGE.fullmatch(response.headers.get("Content-Range", ""))
    if found is None or is_encoded(response):
        return False
    first, last, total = map(int, found.groups())
    length, etag = response.headers.get("Content-Length"), response.headers.get("ETag", version.etag)
    fits_itself = length in {None, str(last - first + 1)} and first <= last < total
    return fits_itself and (first, total, etag) == (offset, version.total, version.etag)
