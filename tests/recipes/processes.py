"""Recipes as a user starts them, in one process or several, that are watched, killed and never left running."""

from __future__ import annotations

import atexit
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterable
from contextlib import suppress
from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory

from faults.forking import Forks

ROOT = Path(__file__).resolve().parents[2]
STARTED: list[subprocess.Popen[str]] = []


def launcher(processes: int) -> list[str]:
    """Return the words of `accelerate launch` for one or two processes on the processor."""
    config = ROOT / "recipes" / "launch" / ("cpu.yaml" if processes == 1 else "two_cpus.yaml")
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = str(free.getsockname()[1])
    launch = [sys.executable, "-m", "accelerate.commands.launch", "--quiet", "--config_file", str(config)]
    return launch if processes == 1 else [*launch, "--main_process_port", port]


def start(command: list[str]) -> subprocess.Popen[str]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    process = subprocess.Popen(
        command, cwd=ROOT, env=environment, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True
    )
    STARTED.append(process)
    return process


def finish(process: subprocess.Popen[str], code: int = 0, timeout: float = 400) -> str:
    """Wait for a process to end as it should, and return what it said."""
    said, _ = process.communicate(timeout=timeout)
    assert process.returncode == code, said
    return said


@cache
def forks() -> Forks:
    """Return the process that recipes without a launcher are forked from: each would import for ten seconds else."""
    folder = TemporaryDirectory()
    server = Forks(Path(folder.name))
    atexit.register(lambda: (server.close(), folder.cleanup()))
    return server


def run(command: list[str], code: int = 0, timeout: float = 400) -> str:
    """Run a recipe to its end, and return what it said."""
    if command[0] == sys.executable and command[1].endswith(".py"):
        return forks().start(command[1:]).finish(code, timeout)
    return finish(start(command), code, timeout)


def wait_until(is_so: Callable[[], bool], process: subprocess.Popen[str], what: str, seconds: float = 300) -> None:
    """Wait for something that a running process does; it must not end before."""
    deadline = time.monotonic() + seconds
    while not is_so():
        assert process.poll() is None, process.communicate()[0]
        assert time.monotonic() < deadline, what
        time.sleep(0.002)


def wait_for(path: Path, process: subprocess.Popen[str]) -> None:
    wait_until(path.exists, process, f"{path} did not come")


def family(process: int) -> list[int]:
    """Return a process's descendants and itself, those first: torchrun's workers are in sessions of their own."""
    below = []
    for path in Path(f"/proc/{process}/task").glob("*/children"):
        with suppress(FileNotFoundError, ProcessLookupError):  # the thread has ended since
            below += [member for child in path.read_text().split() for member in family(int(child))]
    return [*below, process]


def kill(members: Iterable[int]) -> None:
    """Kill -9 processes, in their order."""
    for member in members:
        with suppress(ProcessLookupError):  # it ended with the one killed before it
            os.kill(member, signal.SIGKILL)


def kill_all(process: int) -> None:
    """Kill -9 a process and all that it started."""
    kill(family(process))


def end_all() -> None:
    """End what a test that failed has left running."""
    while STARTED:
        process = STARTED.pop()
        if process.poll() is None:
            kill_all(process.pid)
            process.communicate()
