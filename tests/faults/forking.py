"""Programs as a user starts them, but each a fork of one process that has imported what they need.

An import of torch, diffusers and transformers takes some ten seconds; a fork that has them begins in some milliseconds, and
hundreds of kills become affordable. What is forked has computed nothing yet: no thread of torch's is lost in a fork.
"""

from __future__ import annotations

import atexit
import contextlib
import gc
import importlib
import json
import os
import runpy
import signal
import subprocess
import sys
import threading
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]
IMPORTED = (
    "accelerate.utils", "diffusers.pipelines.stable_diffusion.pipeline_stable_diffusion", "jinja2", "matplotlib.pyplot",
    "open_clip", "peft", "pyarrow.compute", "pyarrow.csv", "pyarrow.parquet", "safetensors.torch", "torch._dynamo",
    "torchmetrics.functional.image", "torchmetrics.image.fid", "torchmetrics.image.kid", "torchvision.transforms.v2",
    "transformers.models.auto.processing_auto", "transformers.models.blip.image_processing_blip",
    "transformers.models.blip.modeling_blip", "transformers.models.blip.processing_blip",
    "transformers.models.clip.modeling_clip", "transformers.models.clip.tokenization_clip",
    "skygen.cli", "skygen.data.exports.export", "skygen.evaluation.reports.report", "skygen.generation.bulk",
    "skygen.generation.caption_writing", "skygen.models.captioner", "skygen.models.diffusion", "skygen.models.judge",
    "skygen.models.lora_export", "skygen.models.scorer", "skygen.training.loop",
)  # fmt: skip
"""What the recipes import sooner or later."""
SETTLED_SECONDS = 0.01


@dataclass(slots=True)
class Fork:
    """A started program.

    Args:
        server: that has forked it.
        pid: of the fork, which leads a session of its own.
        said: the file that its standard output and standard error go to.
        code: that it has ended with, once that is known.
        begun: when, by a clock that counts from anywhere.
        seconds: that it was seen to run.
    """

    server: Forks
    pid: int
    said: Path
    code: int | None = None
    begun: float = field(default_factory=time.monotonic)
    seconds: float = 0.0

    @property
    def text(self) -> str:
        """What it has said until now."""
        return self.said.read_text(encoding="utf-8", errors="replace")

    def poll(self) -> int | None:
        """Return the code that it has ended with, a signal's number negative; None while it runs."""
        if self.code is None:
            self.code = self.server.ask(do="poll", pid=self.pid)
            self.seconds = time.monotonic() - self.begun
        return self.code

    def kill(self) -> str:
        """Kill -9 it and all that it has started; return what it said."""
        with contextlib.suppress(ProcessLookupError):  # it has ended by itself
            os.killpg(self.pid, signal.SIGKILL)
        return self.wait(60)

    def wait(self, seconds: float = 300) -> str:
        """Wait for it to end; return what it said."""
        wait_until(lambda: self.poll() is not None, f"{self.said}: it did not end", seconds)
        return self.text

    def wait_at_most(self, seconds: float) -> None:
        """Let it run so long, or until it ends."""
        deadline = time.monotonic() + seconds
        while time.monotonic() < deadline and self.poll() is None:
            time.sleep(min(SETTLED_SECONDS, max(0.0, deadline - time.monotonic())))

    def wait_until(self, is_so: Callable[[], bool], what: str, seconds: float = 300) -> None:
        """Wait for something that it does; it must not end before."""
        wait_until(lambda: is_so() or self.poll() is not None, f"{what}: {self.text}", seconds)
        assert is_so(), self.text

    def has_left_something_running(self) -> bool:
        """Say whether something that it has started runs on."""
        try:
            os.killpg(self.pid, 0)
        except ProcessLookupError:
            return False
        return True

    def finish(self, code: int = 0, seconds: float = 300) -> str:
        """Wait for it to end as it should; return what it said."""
        said = self.wait(seconds)
        assert self.code == code, said
        return said


class Forks:
    """The process that is forked, started with this object and ended by `close`.

    Where this machine allows it, it has a mount namespace of its own: disks that it mounts are seen by it and its forks, and
    are gone when it ends.

    Args:
        folder: for what the programs say, and for their caches, which are empty: nothing of this machine's own is found.
        environment: of the process and all its forks, beside what is usual.
    """

    def __init__(self, folder: Path, environment: Mapping[str, str] | None = None) -> None:
        self.hub, self.home = folder / "hub", folder / "home"
        self.has_disks = _can_have_disks()
        own = ["unshare", "--map-root-user", "--mount"] if self.has_disks else []
        usual = {"OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
        usual |= {"HF_HOME": str(self.hub), "SKYGEN_HOME": str(self.home)}
        environment = os.environ | usual | dict(environment or {})
        self.folder, self._count = folder, 0
        self._process = subprocess.Popen(
            [*own, sys.executable, __file__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env=environment,
        )
        self.ask(do="begin")

    def ask(self, **request: Any) -> Any:
        """Send a request to the process, and return its answer."""
        assert self._process.stdin is not None and self._process.stdout is not None
        self._process.stdin.write(json.dumps(request) + "\n")
        self._process.stdin.flush()
        answer = self._process.stdout.readline()
        assert answer, f"the process that is forked has ended with {self._process.wait()}"
        return json.loads(answer)

    def start(self, words: list[str]) -> Fork:
        """Start a program: a file and its arguments, or `skygen` and its arguments."""
        self._count += 1
        said = self.folder / f"said-{self._count:04d}.txt"
        said.touch()
        return Fork(self, self.ask(do="start", words=words, said=str(said)), said)

    def run(self, words: list[str], code: int = 0) -> str:
        """Start a program, wait for it to end as it should, and return what it said."""
        return self.start(words).finish(code)

    def set_disk(self, path: Path, size_bytes: int) -> Path:
        """Give a folder a disk of its own, of so many bytes, or give the one that it has another size.

        Returns:
            The name under which the disk can be looked at from here; by its own the forks alone see it.
        """
        path.mkdir(parents=True, exist_ok=True)
        self.ask(do="set_disk", path=str(path), size_bytes=size_bytes)
        return Path(f"/proc/{self._process.pid}/root") / path.relative_to("/")

    def remove_disk(self, path: Path) -> None:
        """Take a folder's disk away, with all that is on it."""
        self.ask(do="remove_disk", path=str(path))

    def close(self) -> None:
        """End the process; the kernel kills with it what it has forked."""
        self._process.kill()
        self._process.communicate()


def _can_have_disks() -> bool:
    """Say whether this machine lets its user mount a disk in a namespace of their own."""
    try:
        tried = ["unshare", "--map-root-user", "--mount", "mount", "-t", "tmpfs", "-o", "size=64k", "none", "/mnt"]
        return subprocess.run(tried, capture_output=True, check=False).returncode == 0
    except OSError:
        return False


def wait_until(is_so: Callable[[], bool], what: str, seconds: float = 300) -> None:
    deadline = time.monotonic() + seconds
    while not is_so():
        assert time.monotonic() < deadline, what
        time.sleep(SETTLED_SECONDS)


def serve() -> None:
    """Import, then answer requests from standard input, a line each, until it is closed."""
    sys.path.pop(0)  # this file's folder, which is in no user's path
    disks = set()
    for name in IMPORTED:
        importlib.import_module(name)
    gc.freeze()  # a collection in a fork would copy the memory that it looks at
    answers = os.fdopen(os.dup(1), "w")
    for line in sys.stdin:
        request = json.loads(line)
        answer: int | None = 0
        if request["do"] == "start":
            answer = os.fork()
            if not answer:
                answers.close()
                become(**request)
        elif request["do"] == "poll":
            pid, status = os.waitpid(request["pid"], os.WNOHANG)
            answer = os.waitstatus_to_exitcode(status) if pid else None
        elif request["do"] == "set_disk":
            options = f"{'remount,' if request['path'] in disks else ''}size={request['size_bytes']}"
            subprocess.run(["mount", "-t", "tmpfs", "-o", options, "none", request["path"]], check=True)
            disks.add(request["path"])
        elif request["do"] == "remove_disk":
            subprocess.run(["umount", "--lazy", request["path"]], check=True)
            disks.remove(request["path"])
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


def become(do: str, words: list[str], said: str) -> None:
    """Be the program from now on."""
    import ctypes

    from skygen import cli

    os.setsid()
    ctypes.CDLL(None).prctl(1, signal.SIGKILL)  # PR_SET_PDEATHSIG: not to outlive the tests
    file = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    os.dup2(file, 1)
    os.dup2(file, 2)
    sys.argv = words
    code: Any = 0
    try:
        if words[0] == "skygen":
            cli.main(words[1:])
        else:
            runpy.run_path(words[0], run_name="__main__")
    except SystemExit as ended:
        code = ended.code or 0
    except BaseException:
        traceback.print_exc()
        code = 1
    finally:  # as Python ends, but without taking apart the many modules, which are in memory that forks share
        threading._shutdown()  # type: ignore[attr-defined]
        atexit._run_exitfuncs()
        sys.stdout.flush()
        sys.stderr.flush()
    os._exit(code)


if __name__ == "__main__":
    serve()
    os._exit(0)
