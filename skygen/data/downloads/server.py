"""Asking the server: requests, redirects, refusals, and how long to wait before asking again."""

from __future__ import annotations

import platform
import time
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from typing import TYPE_CHECKING

from skygen.errors import UnavailableError
from skygen.seeding import Seeds

if TYPE_CHECKING:
    import httpx

MOST_REDIRECTS = 5
_TRANSIENT = frozenset({408, 416, 425, 429})
"""Refusals that say something of this request or this moment, not of the file."""


@dataclass(frozen=True, slots=True)
class Patience:
    """How long a server is waited for.

    Args:
        tries: in a row that bring nothing new, before the transfer is given up.
        first_wait: seconds before the second try; each further wait is twice as long, less up to half of it.
        longest_wait: seconds.
        longest_retry_after: seconds that a server's ``Retry-After`` may ask for.
        timeout: seconds of silence that count as a failure.
        sleep: how to wait.
    """

    tries: int = 7
    first_wait: float = 1.0
    longest_wait: float = 60.0
    longest_retry_after: float = 300.0
    timeout: float = 30.0
    sleep: Callable[[float], None] = time.sleep


class Missing(UnavailableError):
    """The server has no such file, or does not give it out; another file may still be had."""


@contextmanager
def client_of(patience: Patience) -> Iterator[httpx.Client]:
    """Open what sends requests; it takes no compressed answer, of which a range would be a range of something else."""
    import httpx

    with httpx.Client(timeout=patience.timeout, headers={"User-Agent": "skygen", "Accept-Encoding": "identity"}) as client:
        yield client


@contextmanager
def answering(client: httpx.Client, method: str, url: str, headers: dict[str, str] | None = None) -> Iterator[httpx.Response]:
    """Send a request and follow its redirects, but never from HTTPS to something weaker.

    Raises:
        UnavailableError: a redirect leads astray.
    """
    request = client.build_request(method, url, headers=headers)
    allowed = {"https", request.url.scheme}
    for _ in range(MOST_REDIRECTS + 1):
        with closing(client.send(request, stream=True)) as response:
            following = response.next_request
            if following is None:
                yield response
                return
        if following.url.scheme not in allowed:
            raise UnavailableError(f"{url}: the server sends us on to {following.url}, which is not HTTPS; it is not followed.")
        request = following
    raise UnavailableError(f"{url}: more than {MOST_REDIRECTS} redirects follow each other; give another address.")


def ask_size(client: httpx.Client, url: str) -> int | None:
    """Ask how many bytes a file has; None if the server does not say.

    Raises:
        Missing: it has no such file.
        UnavailableError: it cannot be reached.
    """
    import httpx

    try:
        with answering(client, "HEAD", url) as response:
            if response.status_code == 405:  # this server knows no HEAD
                return None
            raise_if_missing(response, url)
            length = response.headers.get("Content-Length", "")
            return int(length) if response.status_code == 200 and length.isdecimal() else None
    except httpx.RequestError as error:
        raise UnavailableError(f"{url}: cannot be reached ({to_reason(error)}); try again later.") from error


def raise_if_missing(response: httpx.Response, url: str) -> None:
    """Raise what a refusal amounts to that waiting does not mend.

    Raises:
        Missing: the server answers 404, 403, or the like.
    """
    code = response.status_code
    if 400 <= code < 500 and code not in _TRANSIENT:
        raise Missing(f"{url}: the server answers {code} {response.reason_phrase}; it may have moved: give a mirror's address.")


def is_encoded(response: httpx.Response) -> bool:
    """Say whether an answer is compressed, though that was not asked for."""
    return response.headers.get("Content-Encoding", "identity") != "identity"


def to_reason(error: Exception) -> str:
    """Put into words why a request failed."""
    return str(error) or type(error).__name__


def seconds_to_wait(url: str, tried: int, asked: float | None, patience: Patience) -> float:
    """Return how many seconds to wait before the next try.

    Args:
        url: of the file; files and the machines of a cluster differ, so that they do not all come back at once.
        tried: how often in vain, at least 1.
        asked: seconds that the server asks for.
        patience: its first and longest wait.
    """
    if asked is not None:
        return min(asked, patience.longest_retry_after)
    share = Seeds(0).derive("wait", platform.node(), url, tried) / 2**63
    return min(patience.first_wait * 2.0 ** (tried - 1), patience.longest_wait) * (0.5 + share / 2)


def read_retry_after(text: str | None) -> float | None:
    """Read the header ``Retry-After``, seconds or a date; return seconds from now, None where it says nothing."""
    if text is None or text.strip().isdecimal():
        return float(text) if text else None
    with suppress(ValueError):
        moment = parsedate_to_datetime(text)
        return max(0.0, (moment.astimezone(UTC) - datetime.now(UTC)).total_seconds())
    return None
