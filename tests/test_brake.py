"""Guessed passwords: whoever fails again and again waits, and nobody else does."""

from __future__ import annotations

import asyncio
from pathlib import Path
from typing import Any

import pytest

from demo import brake, door
from demo.brake import FIRST_WAIT, FORGOTTEN_AFTER, FREE, LONGEST_WAIT, MOST_ADDRESSES, Brake


def test_each_failure_after_the_first_few_doubles_the_wait_up_to_a_bound() -> None:
    slowing = Brake(lambda: 0.0)
    waits = [slowing.begin("10.0.0.1") for _ in range(FREE + 40)]
    assert waits[:FREE] == [0.0] * FREE
    assert waits[FREE : FREE + 3] == [FIRST_WAIT, 2 * FIRST_WAIT, 4 * FIRST_WAIT]
    assert waits[-1] == LONGEST_WAIT
    assert slowing.begin("10.0.0.2") == 0.0


def test_the_right_password_and_time_take_the_wait_away() -> None:
    now = [0.0]
    slowing = Brake(lambda: now[0])
    for _ in range(FREE + 1):
        slowing.begin("10.0.0.1")
    slowing.succeed("10.0.0.1")
    assert slowing.begin("10.0.0.1") == 0.0
    for _ in range(FREE + 1):
        slowing.begin("10.0.0.1")
    now[0] += FORGOTTEN_AFTER + 1
    assert slowing.begin("10.0.0.1") == 0.0


def test_what_is_remembered_of_addresses_is_bounded() -> None:
    slowing = Brake(lambda: 0.0)
    for number in range(MOST_ADDRESSES + 10):
        for _ in range(FREE + 1):
            slowing.begin(str(number))
    assert slowing.begin(str(MOST_ADDRESSES + 9)) > 0.0
    assert slowing.begin("0") == 0.0  # of the oldest nothing is known any longer


def test_the_door_lets_guesses_wait_and_what_is_no_login_not(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    waits: list[float] = []

    async def sleep(seconds: float) -> None:
        waits.append(seconds)

    async def inside(scope: Any, receive: Any, send: Any) -> None:
        status = 400 if scope["path"] == "/login" and scope["guessed"] else 200
        await send({"type": "http.response.start", "status": status, "headers": []})
        await send({"type": "http.response.body", "body": b""})

    async def receive() -> Any:
        return {"type": "http.request", "body": b"", "more_body": False}

    async def send(message: Any) -> None:
        pass

    monkeypatch.setattr(door.asyncio, "sleep", sleep)
    rules = door.Rules(frozenset({"localhost"}), frozenset(), tmp_path, 1000, 5000)
    guarded = door.Door(inside, rules, {})

    def knock(path: str, method: str = "POST", guessed: bool = True) -> None:
        headers = [(b"host", b"localhost"), (b"content-length", b"0")]
        scope = {"type": "http", "method": method, "path": path, "headers": headers, "guessed": guessed}
        asyncio.run(guarded({**scope, "server": ("127.0.0.1", 7860), "client": ("10.0.0.1", 1)}, receive, send))

    for _ in range(brake.FREE + 2):
        knock("/login")
    assert waits == [0.0] * FREE + [FIRST_WAIT, 2 * FIRST_WAIT]
    knock("/config", "GET")
    assert len(waits) == FREE + 2
    knock("/login", guessed=False)
    knock("/login")
    assert waits[-1] == 0.0
