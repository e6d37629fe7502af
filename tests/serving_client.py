"""Serves pages of the demo in processes of their own, and speaks to them in bytes, as nothing well-behaved would."""

from __future__ import annotations

import http.client
import json
import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
JSON = {"Content-Type": "application/json"}
CALL = "/gradio_api/call/"


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    text: str
    headers: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True)
class Served:
    """A page that is served on this machine."""

    port: int
    folder: Path
    """Where its temporary folder is."""
    process: int

    @property
    def address(self) -> str:
        return f"http://127.0.0.1:{self.port}"

    def ask(
        self, path: str, method: str = "GET", headers: Mapping[str, str] | None = None, body: bytes | None = None
    ) -> Answer:
        """Send one request; the headers are sent as they are, with the length of the body."""
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=60)
        try:
            connection.request(method, path, body, dict(headers or {}))
            answer = connection.getresponse()
            return Answer(answer.status, answer.read().decode("utf-8", "replace"), dict(answer.headers.items()))
        finally:
            connection.close()

    def send(self, request: bytes) -> Answer:
        """Send bytes that no library would."""
        with socket.create_connection(("127.0.0.1", self.port), timeout=60) as connection:
            connection.sendall(request)
            answer = http.client.HTTPResponse(connection)
            answer.begin()
            return Answer(answer.status, answer.read().decode("utf-8", "replace"), dict(answer.headers.items()))

    def call(self, name: str, data: Any, **more: Any) -> Answer:
        """Call a function of the page and wait for what comes of it; a refusal before it is queued is returned as it is.

        Args:
            name: of the function.
            data: its arguments.
            more: beside them, such as ``session_hash`` of a visitor who has been there before.
        """
        # allow_nan: some of the tests want to send what is no JSON
        answer = self.ask(f"{CALL}{name}", "POST", JSON, json.dumps({"data": data, **more}).encode())
        if answer.status != 200:
            return answer
        return self.ask(f"{CALL}{name}/{json.loads(answer.text)['event_id']}")

    def upload(self, content: bytes, name: str) -> Answer:
        """Upload a file under a name."""
        lines = (b"--limit", f'Content-Disposition: form-data; name="files"; filename="{name}"'.encode())
        body = b"\r\n".join((*lines, b"Content-Type: image/png", b"", content, b"--limit--", b""))
        return self.ask("/gradio_api/upload", "POST", {"Content-Type": "multipart/form-data; boundary=limit"}, body)

    def resident(self) -> float:
        """Return how many MB of memory the server has resident."""
        status = Path(f"/proc/{self.process}/status").read_text(encoding="utf-8")
        return int(status.partition("VmRSS:")[2].split()[0]) / 1024


def file_of(path: str, **more: Any) -> dict[str, Any]:
    """Name a file as gradio's own script does."""
    return {"path": path, "meta": {"_type": "gradio.FileData"}, **more}


def free_port() -> int:
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        return int(free.getsockname()[1])


@contextmanager
def serving(
    program: Path, folder: Path, *settings: str, port: int, environment: Mapping[str, str] | None = None
) -> Iterator[Served]:
    """Serve a page in a process of its own; its log goes to ``log.txt`` in the folder."""
    surroundings = {**os.environ, "CUDA_VISIBLE_DEVICES": "", "TMPDIR": str(folder), **(environment or {})}
    with (folder / "log.txt").open("w", encoding="utf-8") as log:
        server = subprocess.Popen([sys.executable, program, *settings], stdout=log, stderr=log, env=surroundings, cwd=ROOT)
        page = Served(port, folder, server.pid)
        try:
            wait_for(page, server)
            yield page
        finally:
            server.terminate()
            server.wait(30)
    assert list(folder.glob("skygen-demo-*")) == []


def wait_for(page: Served, server: subprocess.Popen[bytes], seconds: float = 180.0) -> None:
    end = time.monotonic() + seconds
    while True:
        try:
            if page.ask("/gradio_api/startup-events").status in (200, 401):
                return
        except ConnectionError:
            pass
        said = (page.folder / "log.txt").read_text(encoding="utf-8")
        assert server.poll() is None, f"the server has ended: {said}"
        assert time.monotonic() < end, f"{page.address} does not answer: {said}"
        time.sleep(0.2)
