"""A file server on this machine that can be told, request by request, how to go wrong."""

from __future__ import annotations

import hashlib
import threading
from collections import defaultdict, deque
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

Fault = Callable[["Handler", bytes], None]


class Server(ThreadingHTTPServer):
    """Serves ``files`` by path; each request for a path takes its next fault, and without one all goes well."""

    daemon_threads = True

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.files: dict[str, bytes] = {}
        self.faults: defaultdict[str, deque[Fault]] = defaultdict(deque)
        self.log: list[tuple[str, str, dict[str, str]]] = []

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}"

    def requests(self, method: str = "GET") -> list[dict[str, str]]:
        """Return the headers of each request, in order."""
        return [headers for said, _, headers in self.log if said == method]


class Handler(BaseHTTPRequestHandler):
    """Answers GET with ranges and If-Range, and HEAD."""

    server: Server

    def do_GET(self) -> None:
        path = self.path.lstrip("/")
        self.server.log.append(("GET", path, dict(self.headers.items())))
        faults = self.server.faults[path]
        content = self.server.files.get(path)
        if faults:
            faults.popleft()(self, content or b"")
        elif content is None:
            self.answer(404, b"<html>no such key</html>")
        else:
            serve(self, content)

    def do_HEAD(self) -> None:
        path = self.path.lstrip("/")
        self.server.log.append(("HEAD", path, dict(self.headers.items())))
        content = self.server.files.get(path)
        self.send_response(200 if content is not None else 404)
        self.send_header("Content-Length", str(len(content or b"")))
        self.end_headers()

    def answer(self, code: int, body: bytes, headers: dict[str, str] | None = None, *, length: int | None = None) -> None:
        """Answer with a body, whose length may be a lie, and hang up."""
        self.send_response(code)
        self.send_header("Content-Length", str(len(body) if length is None else length))
        for name, value in (headers or {}).items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def log_message(self, *_: object) -> None:
        """Say nothing on standard error."""


def etag_of(content: bytes) -> str:
    return f'"{hashlib.md5(content).hexdigest()}"'


def find_offset(handler: Handler, content: bytes) -> int:
    """Return where a range request wants to begin, 0 where If-Range names another version."""
    fresh = handler.headers.get("If-Range") in {None, etag_of(content)}
    asked = handler.headers.get("Range", "bytes=0-")
    return int(asked.removeprefix("bytes=").rstrip("-")) if fresh else 0


def serve(handler: Handler, content: bytes) -> None:
    """Answer as a good server does."""
    break_off_after(len(content))(handler, content)


def break_off_after(count: int) -> Fault:
    """Hang up after so many bytes of the body."""

    def fault(handler: Handler, content: bytes) -> None:
        offset, total = find_offset(handler, content), len(content)
        headers = {"ETag": etag_of(content)}
        if offset >= total:
            handler.answer(416, b"", headers | {"Content-Range": f"bytes */{total}"})
        elif offset:
            headers["Content-Range"] = f"bytes {offset}-{total - 1}/{total}"
            handler.answer(206, content[offset:][:count], headers, length=total - offset)
        else:
            handler.answer(200, content[:count], headers, length=total)

    return fault


def ignore_range(handler: Handler, content: bytes) -> None:
    handler.answer(200, content, {"ETag": etag_of(content)})


def shift_range(handler: Handler, content: bytes) -> None:
    """Give a piece of the right length that begins one byte too early."""
    offset, total = find_offset(handler, content) - 1, len(content)
    span = f"bytes {offset}-{total - 2}/{total}"
    handler.answer(206, content[offset:-1], {"ETag": etag_of(content), "Content-Range": span})


def change_to(content: bytes, then: Fault = serve) -> Fault:
    """Serve other content from now on."""

    def fault(handler: Handler, _: bytes) -> None:
        handler.server.files[handler.path.lstrip("/")] = content
        then(handler, content)

    return fault


def refuse(code: int, body: bytes = b"", **headers: str) -> Fault:
    named = {name.replace("_", "-"): value for name, value in headers.items()}
    return lambda handler, _: handler.answer(code, body, named)


def promise(length: int) -> Fault:
    """Send the whole body under a false length."""
    return lambda handler, content: handler.answer(200, content, {"ETag": etag_of(content)}, length=length)


@contextmanager
def serving() -> Iterator[Server]:
    """Run a server until the end of the block."""
    server = Server()
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()
