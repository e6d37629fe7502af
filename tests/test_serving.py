"""How the demo's pages are served: to nobody else by default, and unharmed by what nobody well-behaved sends."""

from __future__ import annotations

import asyncio
import importlib.util
import re
from collections.abc import Iterator
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import httpx
import pytest
from serving_client import ROOT, Served, free_port, serving

from demo import app, rating
from demo.calls import Refusal, check_numbered, read_call
from demo.door import Door, Rules
from demo.serving import ACCOUNTS, ServerSettings, address, check, is_loopback, read_accounts, start
from demo.studio import Config
from skygen.errors import ConfigError, SkygenError, StorageError, UnavailableError

BEYOND = ("0.0.0.0", "::", "192.168.1.5", "lab-7.example.org")
OPEN = "--server.host {} lets other machines in: set SKYGEN_DEMO_AUTH=user:password first, or leave the host out."


@pytest.fixture(autouse=True)
def no_accounts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv(ACCOUNTS, raising=False)


@pytest.mark.parametrize("host", BEYOND)
def test_a_host_beyond_this_machine_is_refused_without_accounts(host: str, monkeypatch: pytest.MonkeyPatch) -> None:
    settings = ServerSettings(host=host)
    with pytest.raises(ConfigError, match=f"^{re.escape(OPEN.format(host))}$"):
        check(settings)
    monkeypatch.setenv(ACCOUNTS, "anna:se:cret, bert:another")
    assert check(settings) == [("anna", "se:cret"), ("bert", "another")]


@pytest.mark.parametrize("host", ["127.0.0.1", "localhost", "::1", "[::1]", "127.0.0.2"])
def test_this_machine_alone_needs_no_accounts(host: str) -> None:
    assert is_loopback(host)
    assert check(ServerSettings(host=host)) == []


def test_both_pages_refuse_before_anything_is_read_or_loaded(tmp_path: Path) -> None:
    settings = ServerSettings(host="0.0.0.0")
    with pytest.raises(ConfigError, match=re.escape(OPEN.format("0.0.0.0"))):
        app.main(Config(server=settings))
    with pytest.raises(ConfigError, match=re.escape(OPEN.format("0.0.0.0"))):
        rating.main(rating.Config((tmp_path / "no run",), server=settings))


@pytest.mark.parametrize("text", ["anna", "anna:", ":hidden-word", "anna:hidden-word,", "anna: ", "a:hidden-word,a:b"])
def test_bad_accounts_are_refused_without_repeating_them(text: str) -> None:
    with pytest.raises(ConfigError, match=r"^SKYGEN_DEMO_AUTH: ") as refused:
        read_accounts(text)
    assert "hidden-word" not in str(refused.value)


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        (ServerSettings(port=0), "--server.port is 0; choose 1 to 65535."),
        (ServerSettings(root_path="skygen"), "--server.root_path is 'skygen'; begin it with a slash, as in /skygen."),
    ],
)
def test_other_wrong_settings_are_told(settings: ServerSettings, words: str) -> None:
    with pytest.raises(ConfigError, match=f"^{re.escape(words)}$"):
        check(settings)


def test_tools_for_language_models_are_off_and_need_their_package(monkeypatch: pytest.MonkeyPatch) -> None:
    assert not ServerSettings().mcp
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UnavailableError, match=r'^--server\.mcp needs the package mcp: .*pip install "gradio\[mcp\]"`\.$'):
        check(ServerSettings(mcp=True))


def test_tools_for_language_models_are_for_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: name)
    assert check(ServerSettings(mcp=True)) == []
    monkeypatch.setenv(ACCOUNTS, "anna:secret-word")
    with pytest.raises(ConfigError, match=r"^--server\.mcp asks nobody for an account: "):
        check(ServerSettings(mcp=True))


@pytest.mark.parametrize(
    ("host", "seen"), [("0.0.0.0", "localhost"), ("::1", "[::1]"), ("[::1]", "[::1]"), ("lab-7", "lab-7"), ("::", "localhost")]
)
def test_the_address_that_is_told_can_be_opened(host: str, seen: str) -> None:
    assert address(ServerSettings(host=host, port=8000)) == f"http://{seen}:8000"


@pytest.mark.parametrize(
    ("failure", "kind", "words"),
    [
        (OSError("no port"), StorageError, "127.0.0.1:7860 cannot be listened on: choose another --server.port"),
        (Exception("code 503"), UnavailableError, "http://127.0.0.1:7860 does not answer this machine itself: set NO_PROXY="),
        (httpx.ReadError("reset"), UnavailableError, "http://127.0.0.1:7860 does not answer this machine itself"),
        (None, UnavailableError, "This version of gradio lets nothing stand before it"),
    ],
)
def test_a_page_that_cannot_be_served_is_told(
    failure: Exception | None, kind: type[SkygenError], words: str, tmp_path: Path
) -> None:
    def launch(**settings: Any) -> None:
        if failure:
            raise failure

    page = SimpleNamespace(fns={}, launch=launch, close=lambda verbose: None)
    with pytest.raises(kind, match=f"^{re.escape(words)}"):
        start(page, ServerSettings(), tmp_path, [])


def test_what_fails_for_another_reason_is_not_blamed_on_a_proxy(tmp_path: Path) -> None:
    def launch(**settings: Any) -> None:
        raise KeyError("theme")

    closed: list[bool] = []
    page = SimpleNamespace(fns={}, launch=launch, close=lambda verbose: closed.append(True))
    with pytest.raises(KeyError, match="theme"):
        start(page, ServerSettings(), tmp_path, [])
    assert closed == [True]


def knock(
    rules: Rules, kind: str = "http", reached: str = "192.168.1.5", path: str = "/", method: str = "GET", **headers: str
) -> int:
    """Send a request to a door with nothing but "inside" behind it, and return the status."""
    sent: list[Any] = []

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        await send({"type": "http.response.start", "status": 200, "headers": []})
        await send({"type": "http.response.body", "body": b"inside"})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"{}", "more_body": False}

    async def send(message: Any) -> None:
        sent.append(message)

    lines = [(name.replace("_", "-").encode(), value.encode()) for name, value in headers.items()]
    scope = {"type": kind, "method": method, "path": path, "headers": lines, "server": (reached, 7860)}
    asyncio.run(Door(inside, rules, {})(scope, receive, send))
    if kind == "websocket":
        assert [message["type"] for message in sent] == ["websocket.close"]
        return 403
    assert (sent[-1]["body"] == b"inside") == (sent[0]["status"] == 200)
    assert (b"x-frame-options", b"DENY") in sent[0]["headers"]
    return int(sent[0]["status"])


@pytest.fixture
def rules(tmp_path: Path) -> Rules:
    return Rules(frozenset({"localhost", "lab-7"}), frozenset({"skygen.example.org"}), tmp_path, 1000, 5000)


def test_uploads_end_where_too_much_is_kept(rules: Rules) -> None:
    copies = rules.folder / ("0" * 64)
    copies.mkdir()
    (rules.folder / "own.png").write_bytes(bytes(9000))  # what the page keeps for itself does not count
    upload = {"host": "localhost", "content_length": "900"}
    assert knock(rules, path="/gradio_api/upload", method="POST", **upload) == 200
    (copies / "tile.png").write_bytes(bytes(4500))
    assert knock(rules, path="/gradio_api/upload", method="POST", **upload) == 507


@pytest.mark.parametrize("host", ["localhost:7860", "LAB-7", "lab-7.:80", "192.168.1.5:7860", "skygen.example.org"])
def test_a_page_answers_under_its_own_names(rules: Rules, host: str) -> None:
    assert knock(rules, host=host) == 200
    assert knock(rules, host=host, origin=f"http://{host}") == 200


FOREIGN_HOSTS = (
    "evil.example",
    "localhost.evil.example",
    "192.168.1.6",
    "127.0.0.1",
    "localhost@evil.example",
    "evil.example/localhost",
    "localhost:x",
    "local host",
    "[::1",
    "",
)


@pytest.mark.parametrize("host", FOREIGN_HOSTS)
def test_a_page_answers_under_no_other_name(rules: Rules, host: str) -> None:
    assert knock(rules, host=host) == 400
    assert knock(rules, host="localhost", x_forwarded_host=host) == 400


def test_a_mapped_address_is_the_address_itself(rules: Rules) -> None:
    assert knock(rules, reached="::ffff:192.168.1.5", host="192.168.1.5:7860") == 200
    assert knock(rules, reached="fd00::7", host="[fd00:0::7]:7860") == 200
    assert knock(rules, reached="fd00::7", host="[fd00::8]:7860") == 400


@pytest.mark.parametrize(
    "origin",
    ["http://evil.example", "null", "http://localhost:9999", "file://localhost:7860", "http://[", "", "localhost:7860"],
)
def test_another_page_may_not_call(rules: Rules, origin: str) -> None:
    assert knock(rules, host="localhost:7860", origin=origin) == 403


def test_the_page_of_a_proxy_may_call(rules: Rules) -> None:
    assert knock(rules, host="localhost:7860", origin="https://skygen.example.org") == 200


def test_a_link_elsewhere_may_open_the_page_and_nothing_else(rules: Rules) -> None:
    followed = {"host": "localhost", "sec_fetch_site": "cross-site", "sec_fetch_mode": "navigate"}
    assert knock(rules, **followed) == 200
    assert knock(rules, **followed, path="/logout") == 403
    assert knock(rules, **{**followed, "sec_fetch_mode": "no-cors"}) == 403


def test_websockets_are_closed(rules: Rules) -> None:
    assert knock(rules, "websocket", host="localhost") == 403


@pytest.mark.parametrize(
    ("path", "status"),
    [
        ("/gradio_api/info", 200),
        ("/assets/index.js", 200),
        ("/gradio_api/proxy=http://evil.example", 404),
        ("/gradio_api/vibe-code", 404),
        ("/gradio_api/dev/reload", 404),
        ("/gradio_api/mcp", 404),
        ("/monitoring/summary", 404),
        ("//gradio_api/info", 200),
    ],
)
def test_only_what_the_page_uses_is_there(rules: Rules, path: str, status: int) -> None:
    assert knock(rules, host="localhost", path=path) == status


def part(kind: str, name: str = "textbox") -> Any:
    return SimpleNamespace(
        stateful=False, skip_api=False, label="Field", api_info=lambda: {"type": kind}, get_block_name=lambda: name
    )


@pytest.mark.parametrize(
    ("kind", "name", "value", "fits"),
    [
        ("string", "textbox", "words", True),
        ("string", "textbox", 3, False),
        ("string", "textbox", None, True),
        ("number", "slider", 3, True),
        ("number", "slider", 3.5, True),
        ("number", "slider", "3", False),
        ("number", "slider", True, False),
        ("number", "slider", None, False),
        ("integer", "number", None, True),
        ("integer", "number", [3], False),
        ("boolean", "checkbox", True, True),
        ("boolean", "checkbox", 1, False),
        ("array", "gallery", {"any": "thing"}, True),
    ],
)
def test_values_have_to_fit_their_components(kind: str, name: str, value: Any, fits: bool) -> None:
    functions = {4: SimpleNamespace(inputs=[part(kind, name)])}
    call = {"fn_index": 4, "data": [value]}
    if fits:
        check_numbered(functions, call)
        return
    with pytest.raises(Refusal, match="This has to be") as refused:
        check_numbered(functions, call)
    assert refused.value.status == 422


@pytest.mark.parametrize(
    "body", [b"", b"{", b"\xff", b"[" * 100_000, b"[NaN]", b"[-Infinity]", b"[1e999]", b'["\\ud800"]', b"9" * 9999]
)
def test_what_is_no_json_is_refused(body: bytes) -> None:
    with pytest.raises(Refusal):
        read_call(body)


@pytest.fixture(scope="module")
def guarded(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A page that the whole network could reach, for those with an account."""
    port, environment = free_port(), {ACCOUNTS: "anna:secret-word,bert:another"}
    settings = ("--host", "0.0.0.0", "--port", str(port))
    folder = tmp_path_factory.mktemp("guarded")
    with serving(ROOT / "tests" / "small_page.py", folder, *settings, port=port, environment=environment) as page:
        yield page


@pytest.mark.slow
@pytest.mark.parametrize(
    "path", ["/config", "/gradio_api/info", "/gradio_api/call/draw/x", "/gradio_api/queue/data?session_hash=x"]
)
def test_without_an_account_nothing_is_answered(guarded: Served, path: str) -> None:
    assert guarded.ask(path).status == 401
    assert guarded.call("draw", ["a", 3, 2, 2.0, True]).status == 401
    assert guarded.upload(b"words", "a.png").status == 401


@pytest.mark.slow
def test_with_an_account_the_page_draws(guarded: Served, tmp_path: Path) -> None:
    from gradio_client import Client

    with pytest.raises(Exception, match="login"):
        Client(guarded.address, auth=("anna", "guessed"), verbose=False, analytics_enabled=False)
    client = Client(
        guarded.address, auth=("anna", "secret-word"), verbose=False, analytics_enabled=False, download_files=str(tmp_path)
    )
    try:
        assert Path(client.predict("a river", 3, 2, 2.0, True, api_name="/draw")).read_bytes()[:4] == b"\x89PNG"
    finally:
        client.close()
    assert guarded.ask("/", headers={"Host": "evil.example"}).status == 400
    assert guarded.ask("/", headers={"Host": "localhost"}).status == 200
    assert "secret-word" not in (guarded.folder / "log.txt").read_text(encoding="utf-8")
