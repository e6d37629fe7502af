"""How a page of the demo is served: to whom, under which names, within which limits.

Everybody else's machine stays out unless accounts are given, and what comes in passes ``demo.door`` first:

SKYGEN_DEMO_AUTH=anna:secret,bert:another python demo/app.py --server.host 0.0.0.0 --server.names lab-7.example.org

What the buttons do can also be asked for by a program, with gradio's client; ``view_api`` tells the parameters:

from gradio_client import Client, handle_file

client = Client("http://127.0.0.1:7860", auth=("anna", "secret"))
client.view_api()
pictures = client.predict("An aerial image. It shows: A winding river.", seed=3, steps=20, api_name="/draw")
caption, score = client.predict(handle_file("tile.png"), api_name="/describe")

One call is computed at a time and 16 wait; more are told that the queue is full. A file is given by uploading it, as
``handle_file`` does with one of the caller's machine; addresses are not fetched.
"""

from __future__ import annotations

import importlib.util
import ipaddress
import os
import signal
import socket
import tempfile
from collections.abc import AsyncIterator, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import httpx

from demo.appearance import CSS, make_theme
from demo.door import Door, Rules
from skygen.errors import ConfigError, StorageError, UnavailableError
from skygen.runs import logger

if TYPE_CHECKING:
    import gradio as gr

ACCOUNTS: Final = "SKYGEN_DEMO_AUTH"
"""Environment variable with the accounts: a command line would be seen by all on this machine, and kept with the run."""
LARGEST_FILE: Final = 10_000_000
"""Bytes; the largest tiles of the data sets have a tenth of it."""
LARGEST_UPLOAD: Final = 100_000_000
"""Bytes of the files that are chosen together."""
MOST_KEPT: Final = 2_000_000_000
"""Bytes of uploads and of copies for browsers, all visitors together; gradio takes away what is older than an hour."""


@dataclass(frozen=True)
class ServerSettings:
    """Where the page is served."""

    host: str = "127.0.0.1"
    """Address it listens on; only this machine can reach the default. Any other needs accounts in SKYGEN_DEMO_AUTH."""
    port: int = 7860
    """Port it listens on."""
    names: tuple[str, ...] = ()
    """Further names that browsers call it by, such as a reverse proxy's; it answers under no other."""
    root_path: str = ""
    """Path below which a reverse proxy shows it, such as /skygen."""
    mcp: bool = False
    """Also offer the page's functions as tools to language models (MCP); to those on this machine only."""


def read_accounts(text: str) -> list[tuple[str, str]]:
    """Read names with their passwords.

    Args:
        text: ``user:password``, several with commas between them.

    Returns:
        Name and password of each.

    Raises:
        ConfigError: one is incomplete or there twice; the message does not repeat it.
    """
    accounts = []
    for number, account in enumerate(text.split(",") if text.strip() else [], 1):
        user, _, password = account.partition(":")
        if not user.strip() or not password.strip():
            raise ConfigError(f"{ACCOUNTS}: account {number} is incomplete; write user:password[,user:password].")
        accounts.append((user.strip(), password))
    if len({user for user, _ in accounts}) < len(accounts):
        raise ConfigError(f"{ACCOUNTS}: a user is there twice; give each one password.")
    return accounts


def is_loopback(host: str) -> bool:
    """Tell whether an address to listen on is reached from this machine only; a name other than localhost is not."""
    try:
        return host == "localhost" or ipaddress.ip_address(host.strip("[]")).is_loopback
    except ValueError:
        return False


def check(settings: ServerSettings) -> list[tuple[str, str]]:
    """Refuse to serve what would be open to all, before anything is loaded.

    Returns:
        Accounts of those who may use the page; none where everybody on this machine may.

    Raises:
        ConfigError: the page would be reached from beyond this machine without accounts, or the settings are wrong.
        UnavailableError: a package that MCP needs is not installed.
    """
    accounts = read_accounts(os.environ.get(ACCOUNTS, ""))
    if not accounts and not is_loopback(settings.host):
        raise ConfigError(
            f"--server.host {settings.host} lets other machines in: set {ACCOUNTS}=user:password first, or leave the host out."
        )
    if not 1 <= settings.port <= 65_535:
        raise ConfigError(f"--server.port is {settings.port}; choose 1 to 65535.")
    if settings.root_path and not settings.root_path.startswith("/"):
        raise ConfigError(f"--server.root_path is {settings.root_path!r}; begin it with a slash, as in /skygen.")
    if settings.mcp and accounts:
        raise ConfigError(f"--server.mcp asks nobody for an account: leave it out, or unset {ACCOUNTS} and serve this machine.")
    if settings.mcp and importlib.util.find_spec("mcp") is None:
        raise UnavailableError('--server.mcp needs the package mcp: install it with `pip install "gradio[mcp]"`.')
    return accounts


def address(settings: ServerSettings) -> str:
    """Return where a browser on this machine finds the page."""
    host = "localhost" if settings.host in ("0.0.0.0", "::", "[::]") else _in_brackets(settings.host)
    return f"http://{host}:{settings.port}"


@contextmanager
def opening(settings: ServerSettings) -> Iterator[Path]:
    """Make a folder for what a page is sent and shows; it goes with the page, also when the page is asked to end.

    The page has to be built inside: its components note where the folder is.

    Args:
        settings: are checked first.

    Raises:
        ConfigError, UnavailableError: as ``check`` does.
    """
    check(settings)
    signal.signal(signal.SIGTERM, signal.default_int_handler)  # ends as Ctrl-C does
    with tempfile.TemporaryDirectory(prefix="skygen-demo-") as folder:
        os.environ["GRADIO_TEMP_DIR"] = folder
        yield Path(folder)


def serve(page: gr.Blocks, settings: ServerSettings, folder: Path) -> None:
    """Serve a page until it is interrupted or asked to end.

    Args:
        page: was built inside of ``opening``.
        settings: where, and to whom.
        folder: from ``opening``; of no other file anything is given out or read.

    Raises:
        ConfigError, UnavailableError: as ``check`` does.
        StorageError: the address or the port cannot be had.
    """
    accounts = check(settings)
    if not is_loopback(settings.host):
        logger.info("Passwords and pictures cross the network unencrypted; put a proxy with TLS before it where that matters.")
    start(page, settings, folder, accounts)
    page.block_thread()


def start(page: gr.Blocks, settings: ServerSettings, folder: Path, accounts: list[tuple[str, str]]) -> None:
    """Serve a page, and return; ``page.close()`` ends it.

    Args:
        page: with its queue.
        settings: have been checked.
        folder: of uploads and of what is made.
        accounts: names with passwords; none where everybody may use it.

    Raises:
        StorageError: the address or the port cannot be had.
        UnavailableError: MCP cannot be offered, or the page does not answer.
    """
    hung: list[Door] = []
    rules = _rules(settings, folder)  # not inside: asking for this machine's name may take long, and gradio waits 5 s

    @asynccontextmanager
    async def hang_door(application: Any) -> AsyncIterator[None]:
        # gradio puts its own layers around the middleware that it is given, and one of them answers some requests itself
        door = Door(application.middleware_stack, rules, page.fns)
        application.middleware_stack = door
        hung.append(door)
        yield

    try:
        page.launch(**launching(settings, accounts), prevent_thread_lock=True, app_kwargs=_application(hang_door))
    except OSError as error:
        raise StorageError(
            f"{settings.host}:{settings.port} cannot be listened on: choose another --server.port, or end what uses it."
        ) from error
    except Exception as error:
        page.close(verbose=False)
        # gradio asks the page whether it has started: a proxy may answer in its place, which gradio tells by a bare Exception
        if type(error) is not Exception and not isinstance(error, httpx.HTTPError):
            raise
        raise UnavailableError(
            f"{address(settings)} does not answer this machine itself: set NO_PROXY=localhost,127.0.0.1 if a proxy is set, "
            "or try again when the machine is less busy."
        ) from error
    if not hung or page.app.middleware_stack is not hung[0]:
        page.close(verbose=False)
        raise UnavailableError("This version of gradio lets nothing stand before it: install the one in constraints.txt.")
    if settings.mcp and page.mcp_error:
        page.close(verbose=False)
        raise UnavailableError(f"MCP cannot be offered: {page.mcp_error}; leave --server.mcp out.")


def launching(settings: ServerSettings, accounts: list[tuple[str, str]]) -> dict[str, Any]:
    """Return what a page is launched with: no sharing, no monitoring, no words of foreign errors.

    Args:
        settings: where it is served.
        accounts: of those who may use it.
    """
    return {
        "server_name": _in_brackets(settings.host),
        "server_port": settings.port,
        "root_path": settings.root_path,
        "auth": accounts or None,
        "quiet": True,
        "share": False,
        "_frontend": False,  # no second check, which gives the page 3 s to answer, and would have it shared where it does not
        "show_error": False,
        "max_file_size": LARGEST_FILE,
        "strict_cors": True,
        "enable_monitoring": False,
        "run_history": False,
        "mcp_server": settings.mcp,
        "pwa": False,
        "ssr_mode": False,
        "state_session_capacity": 256,
        "footer_links": ["settings"],
        "theme": make_theme(),
        "css": CSS,
    }


def _in_brackets(host: str) -> str:
    """Write an IPv6 address as addresses of pages do."""
    return f"[{host.strip('[]')}]" if ":" in host else host


def _application(lifespan: Any) -> dict[str, Any]:
    return {"docs_url": None, "redoc_url": None, "openapi_url": None, "lifespan": lifespan}


def _rules(settings: ServerSettings, folder: Path) -> Rules:
    own = {"localhost", settings.host.strip("[]").lower()}
    own |= {"127.0.0.1", "::1"} if is_loopback(settings.host) else {name.lower() for name in _machine_names()}
    partners = frozenset(name.lower().rstrip(".") for name in settings.names)
    return Rules(frozenset(own), partners, folder, LARGEST_UPLOAD, MOST_KEPT, settings.mcp)


def _machine_names() -> set[str]:
    return {name for name in (socket.gethostname(), socket.getfqdn()) if name}
