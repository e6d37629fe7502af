"""What a served page lets in: called by which names, from which pages, by which ways, and how much of what.

It stands before all of gradio, whose own checks stay behind it. Gradio answers under any ``Host``, so that a foreign page whose
name is made to lead here could read and call it (DNS rebinding), and it has ways that these pages do not use.
"""

from __future__ import annotations

import asyncio
import ipaddress
import re
from collections.abc import Awaitable, Callable, MutableMapping
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, final
from urllib.parse import urlsplit

from demo.brake import Brake
from demo.calls import Refusal, check_files, check_named, check_numbered, read_call

Message = MutableMapping[str, Any]
Receive = Callable[[], Awaitable[Message]]
Send = Callable[[Message], Awaitable[None]]
Application = Callable[[Message, Receive, Send], Awaitable[None]]

LARGEST_FORM: Final = 8_192
"""Bytes of a name with its password."""
LARGEST_BODY: Final = 262_144
"""Bytes of a call: the longest texts and lists of a page are a tenth of it, and files are uploaded apart."""
LARGEST_DRAINED: Final = 150_000_000
"""Bytes that are let run out before they are refused: who still sends does not read the reason."""
READ: Final = frozenset(
    {"", "assets", "config", "favicon.ico", "login", "logout", "robots.txt", "static", "svelte", "theme.css"}
    | {f"gradio_api/{way}" for way in ("app_id", "call", "heartbeat", "info", "login_check", "openapi.json", "queue")}
    | {f"gradio_api/{way}" for way in ("startup-events", "theme.css", "upload_progress", "user", "file=")}
)
"""First pieces of what is read; gradio has more, such as a proxy, editors of the page, and other people's runs."""
CALLS: Final = frozenset(f"gradio_api/{way}" for way in ("call", "cancel", "queue", "reset"))
TOOLS: Final = "gradio_api/mcp"
HEADERS: Final = (
    (b"x-content-type-options", b"nosniff"),
    (b"x-frame-options", b"DENY"),  # or another page could lay itself over the buttons
    (b"referrer-policy", b"same-origin"),  # "no-referrer" would make the page's own Origin "null"
)
_AUTHORITY = re.compile(r"(\[[0-9a-f:.]+\]|[a-z0-9._-]+)(?::\d{1,5})?", re.ASCII | re.IGNORECASE)


@dataclass(frozen=True)
class Rules:
    """What holds for one served page.

    Args:
        names: that it may be called by, in small letters; the address that a connection has reached is always one.
        partners: names of other addresses that show it, such as a reverse proxy's; pages from there are its own.
        folder: holds uploads and what was made; no other file is given out or taken.
        largest_upload: bytes of one, which may have several files.
        most_kept: bytes of uploads and of copies that browsers are shown, which gradio takes away by the hour.
        tools: whether MCP is offered.
    """

    names: frozenset[str]
    partners: frozenset[str]
    folder: Path
    largest_upload: int
    most_kept: int
    tools: bool = False

    def holds(self, place: str) -> bool:
        """Tell whether a place that somebody names is a file of this page."""
        try:
            path = Path(place).resolve()
            return path.is_relative_to(self.folder.resolve()) and path.is_file()
        except (OSError, ValueError):  # a name that is too long, or has a zero byte
            return False

    def count_kept(self) -> int:
        """Return how many bytes lie in gradio's own folders, which are named by SHA-256."""
        kept = 0
        for path in self.folder.glob("*/*"):
            if len(path.parent.name) == 64:
                with suppress(FileNotFoundError):  # it is just being taken away
                    kept += path.stat().st_size
        return kept


@final
class Door:
    """The outermost layer of a served page (ASGI).

    Args:
        application: gets what is let in.
        rules: of this page.
        functions: of the page by number, as ``gr.Blocks.fns`` has them.
    """

    def __init__(self, application: Application, rules: Rules, functions: dict[int, Any]) -> None:
        self._application = application
        self._rules = rules
        self._functions = functions
        self._brake = Brake()

    async def __call__(self, scope: Message, receive: Receive, send: Send) -> None:
        """Let a request in, or refuse it with one sentence."""
        if scope["type"] == "websocket":  # gradio 6 has none
            await receive()
            await send({"type": "websocket.close", "code": 1008})
            return
        if scope["type"] != "http":
            await self._application(scope, receive, send)
            return
        answer = _Answer(send)
        try:
            headers = _read_headers(scope)
            self._check_names(scope, headers)
            way = self._check_way(scope)
            receive = await self._check_body(scope, headers, way, receive)
        except Refusal as refusal:
            await answer.refuse(refusal)
            return
        if way == "login" and scope["method"] == "POST":
            await self._log_in(scope, receive, answer)
        else:
            await self._application(scope, receive, answer)

    async def _log_in(self, scope: Message, receive: Receive, answer: _Answer) -> None:
        client = str((scope.get("client") or ("",))[0])
        await asyncio.sleep(self._brake.begin(client))
        await self._application(scope, receive, answer)
        if answer.status < 400:
            self._brake.succeed(client)

    def _check_names(self, scope: Message, headers: dict[str, str]) -> None:
        host = headers.get("host", "")
        if not self._is_own(host, scope):
            raise Refusal(400, "This page is not served under that name; see --server.names.")
        origin = headers.get("origin")
        if origin is not None and not self._is_own_origin(origin, host):
            raise Refusal(403, "Another page may not call this one.")
        site = headers.get("sec-fetch-site", "none")
        followed = scope["method"] in ("GET", "HEAD") and headers.get("sec-fetch-mode") == "navigate"
        if site in ("cross-site", "same-site") and not (followed and scope["path"] == "/"):
            raise Refusal(403, "Another page may not call this one.")
        forwarded = headers.get("x-forwarded-host")
        if forwarded is not None and not self._is_own(forwarded, scope):
            raise Refusal(400, "This page is not served under that name; see --server.names.")

    def _is_own(self, authority: str, scope: Message) -> bool:
        found = _AUTHORITY.fullmatch(authority)
        if found is None:
            return False
        name = found[1].lower().rstrip(".").strip("[]")
        return name in self._rules.names | self._rules.partners or _address(name) == _reached(scope)

    def _is_own_origin(self, origin: str, host: str) -> bool:
        try:
            parts = urlsplit(origin)
            name = parts.hostname
        except ValueError:
            return False
        # with the port: another program on this machine is another page
        return parts.scheme in ("http", "https") and (parts.netloc.lower() == host.lower() or name in self._rules.partners)

    def _check_way(self, scope: Message) -> str:
        """Return the first piece of the path, two of gradio's interface, and refuse what the page does not use."""
        method, path = scope["method"], scope["path"]
        pieces = path.strip("/").split("/")
        way = "/".join(pieces[: 2 if pieces[0] == "gradio_api" else 1])
        if way.startswith("gradio_api/file="):
            way = "gradio_api/file="
        writable = {*CALLS, "login", "gradio_api/upload"} | ({TOOLS} if self._rules.tools else set())
        known = READ | writable
        if way not in known or (way == "gradio_api/call" and "v2" in pieces[2:3]):
            raise Refusal(404, "There is nothing of that name here.")
        sent = {"POST", "DELETE"} if way == TOOLS else {"POST"} if way in writable else set()  # DELETE ends a session of MCP
        if method not in {"GET", "HEAD"} | sent:
            raise Refusal(405, "This cannot be done here in that way.")
        if way == "gradio_api/file=" and not self._rules.holds(path.partition("file=")[2]):
            raise Refusal(403, "This file is not given out.")
        return way

    async def _check_body(self, scope: Message, headers: dict[str, str], way: str, receive: Receive) -> Receive:
        if scope["method"] != "POST":
            return receive
        length = headers.get("content-length", "")
        if not (length.isascii() and length.isdigit() and len(length) < 16):
            raise Refusal(411, "Say how long the body is.")
        # of an upload, gradio checks each file while it comes; around them a form has some lines
        most = {"gradio_api/upload": self._rules.largest_upload + LARGEST_FORM, "login": LARGEST_FORM}.get(way, LARGEST_BODY)
        if int(length) > most:
            if int(length) <= LARGEST_DRAINED:
                await _drain(receive)
            raise Refusal(413, f"This is too large; at most {most:,} bytes are taken.")
        if way == "gradio_api/upload" and await asyncio.to_thread(self._rules.count_kept) + int(length) > self._rules.most_kept:
            raise Refusal(507, "There is no room for more files now; those of the last hour go first.")
        if way in ("login", "gradio_api/upload"):
            return receive
        if headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
            raise Refusal(415, "Send JSON, with the content type application/json.")
        body = await _read_body(receive)
        call = read_call(body)
        check_files(call, self._rules.holds)
        if way == "gradio_api/call":
            check_named(self._functions, scope["path"].strip("/").split("/")[2:], call)
        elif way == "gradio_api/queue":
            check_numbered(self._functions, call)
        return _again(body, receive)


@final
class _Answer:
    """Sends what the page answers, with the headers of every page, and without the words of an unforeseen failure."""

    def __init__(self, send: Send) -> None:
        self._send = send
        self._cut = False
        self.status = 0

    async def __call__(self, message: Message) -> None:
        if self._cut:
            return
        if message["type"] == "http.response.start":
            self.status = int(message["status"])
            if self.status == 500:
                await self.refuse(Refusal(500, "Something went wrong here; the log of the server says what."))
                self._cut = True
                return
            message["headers"] = [*message.get("headers", ()), *HEADERS]
        await self._send(message)

    async def refuse(self, refusal: Refusal) -> None:
        """Answer instead of the page."""
        length = str(len(refusal.body)).encode()
        headers = [(b"content-type", b"application/json"), (b"content-length", length), *HEADERS]
        if refusal.status in (411, 413):
            headers.append((b"connection", b"close"))  # the body is not read
        await self._send({"type": "http.response.start", "status": refusal.status, "headers": headers})
        await self._send({"type": "http.response.body", "body": refusal.body})


def _read_headers(scope: Message) -> dict[str, str]:
    headers: dict[str, str] = {}
    for name, value in scope["headers"]:
        key = name.decode("latin-1").lower()
        if key in headers and key in ("host", "origin", "content-length", "content-type", "x-forwarded-host"):
            raise Refusal(400, f"The header {key} is there twice.")
        headers[key] = value.decode("latin-1")
    return headers


def _address(name: str) -> ipaddress.IPv4Address | ipaddress.IPv6Address | None:
    try:
        address = ipaddress.ip_address(name)
    except ValueError:
        return None
    return getattr(address, "ipv4_mapped", None) or address


def _reached(scope: Message) -> object:
    """Return the address of this machine that a connection has reached; of none, what equals nothing."""
    server = scope.get("server")
    return (_address(str(server[0])) if server else None) or object()


async def _read_body(receive: Receive) -> bytes:
    body, more = b"", True
    while more:
        message = await receive()
        if message["type"] != "http.request":
            raise Refusal(400, "The body was cut short.")
        body, more = body + message.get("body", b""), message.get("more_body", False)
    return body


async def _drain(receive: Receive) -> None:
    while (await receive()).get("more_body", False):
        pass


def _again(body: bytes, receive: Receive) -> Receive:
    """Give a body that has been read to the next who asks for it."""
    waiting: list[Message] = [{"type": "http.request", "body": body, "more_body": False}]

    async def give() -> Message:
        return waiting.pop() if waiting else await receive()

    return give
