"""The one writer of artifacts: ``runs/<name>/``, its record, and how a recipe begins and ends."""

from __future__ import annotations

import json
import logging
import os
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, TypeVar

from skygen import config as configuration
from skygen import plain_json
from skygen.environment import describe_environment
from skygen.errors import ConfigError, Preempted, SkygenError, StorageError
from skygen.signals import StopSignal, end_with_launcher
from skygen.storage import STORAGE_FAULTS, alone, append_lines, appending, remove_halves, storage_error, writing

if TYPE_CHECKING:
    from skygen.training.loop import Step

logger = logging.getLogger("skygen")

Config = TypeVar("Config")
INTERRUPTED = 130
LOCK = ".lock"
SECONDS_BETWEEN_LINES = 10.0


@dataclass(frozen=True)
class RunSettings:
    """Where the artifacts of a run go, and its seed."""

    name: str
    """Folder below ``root``; the same name again continues the run."""
    root: Path = Path("runs")
    """Folder of all runs."""
    seed: int = 0
    """All randomness of the run follows from it."""

    def __post_init__(self) -> None:
        below = Path(self.name).parts
        if not self.name.strip() or Path(self.name).is_absolute() or ".." in below or not below or not self.name.isprintable():
            raise ConfigError(f"--run.name {self.name[:60]!r}: give the name of a folder below --run.root, such as first-try.")


@dataclass(frozen=True, slots=True)
class Continuation:
    """What a run that is started again goes on with, and the settings that must then be the same.

    Args:
        begun: pattern of the files below the run's folder that show that there is something to go on with.
        settings: sections, or keys of sections such as ``generation.guidance_scale``.
    """

    begun: str
    settings: tuple[str, ...]


class Run:
    """One run's folder, opened by a recipe as a context manager.

    Entering writes ``config.yaml``, ``environment.json`` and ``run_status.json`` (``running``); leaving writes how it ended.
    Only the main process writes; on the others every method does nothing. While it is open, no other process can open it, and
    signals that ask for an end are heeded between two pieces of work.

    Args:
        settings: name, root and seed.
        config: the recipe's whole config, kept as the record of the run.
        is_main: whether this process writes.
        continuation: what the same command goes on with; None where every start does all anew.
    """

    def __init__(
        self, settings: RunSettings, config: Any, *, is_main: bool = True, continuation: Continuation | None = None
    ) -> None:
        self._continuation = continuation
        self.folder = settings.root / settings.name
        self.step = 0
        self._config = config
        self._is_main = is_main
        self._said = -SECONDS_BETWEEN_LINES
        self._begun = time.monotonic()
        self._log_begun = False
        self._rates: dict[str, tuple[float, int]] = {}
        self._held = ExitStack()
        self.stop = StopSignal()

    def __enter__(self) -> Run:
        with ExitStack() as entered:
            if self._is_main:
                entered.enter_context(alone(self.folder / LOCK, f"{self.folder}", "take another --run.name"))
            self.stop.listen()
            entered.callback(self.stop.leave)
            self._begin()
            self._held = entered.pop_all()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None) -> None:
        with self._held:
            self._end(error)

    def path(self, *parts: str) -> Path:
        """Return a path inside the run's folder; the folder above it is made."""
        path = self.folder.joinpath(*parts)
        path.parent.mkdir(parents=True, exist_ok=True)
        return path

    def write_text(self, name: str, text: str) -> None:
        """Write a whole file so that a reader sees the old text or the new, never a half.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if not self._is_main:
            return
        with writing(self.folder / name) as temporary:
            temporary.write_text(text, encoding="utf-8")

    def write_json(self, name: str, value: Any) -> None:
        """Write a JSON file, whole or not at all."""
        self.write_text(name, json.dumps(value, indent=1) + "\n")

    def append(self, name: str, record: Mapping[str, Any]) -> None:
        """Append one line of JSON, in one write.

        Raises:
            StorageError: the disk is full or refuses.
        """
        if not self._is_main:
            return
        try:
            with self.path(name).open("a", encoding="utf-8") as file:
                file.write(json.dumps(record) + "\n")
        except OSError as error:
            raise storage_error(self.folder / name, error) from error

    def log(self, step: Step) -> None:
        """Append one training step to ``log.jsonl``; every few seconds also say it on standard error.

        The first step logged drops the lines that an earlier process wrote after the checkpoint this one continues from.
        """
        if not self._log_begun:
            self.truncate_log(step.step - 1)
            self._log_begun = True
        self.step = step.step
        self.append("log.jsonl", step.record())
        if step.skipped_keys:
            self._note_skipped(step)
        now = time.monotonic()
        if self._is_main and (now - self._said > SECONDS_BETWEEN_LINES or step.step == step.total):
            left = (step.total - step.step) * step.images / max(step.images_per_second, 1e-9)
            logger.info(
                f"{self.folder.name}: step {step.step}/{step.total}  loss {step.loss:.4f}  gradient {step.gradient_norm:.3f}  "
                f"{step.images_per_second:.1f} images/s  {left / 60:.1f} min left"
            )
            self._said = now

    def _note_skipped(self, step: Step) -> None:
        """Append the examples of an update that was left out to ``skipped.jsonl``: each process those that it has seen."""
        record = {"step": step.step, "process": int(os.environ.get("RANK", "0")), "keys": step.skipped_keys}
        with appending(self.path("skipped.jsonl")) as descriptor:
            append_lines(descriptor, (json.dumps(record) + "\n").encode())

    def progress(self, done_word: str, done: int, total: int) -> None:
        """Say every few seconds how far a recipe has come, how fast it goes, and how long it will still take.

        The rate is that since the first call with the same words, which may come before anything is done.

        Raises:
            Preempted: a signal has asked for the end, and there is still something to do.
        """
        self.tell(done_word, done, total)
        if done < total:
            self.stop.heed(f"{done} of {total} {done_word}")

    def tell(self, done_word: str, done: int, total: int) -> None:
        """Say what ``progress`` says, where something else looks after signals."""
        now = time.monotonic()
        begun, before = self._rates.setdefault(done_word, (now, done))
        if self._is_main and (now - self._said > SECONDS_BETWEEN_LINES or done == total):
            how_fast = ""
            if done > before and now > begun:
                rate = (done - before) / (now - begun)
                how_fast = f"  {rate:.1f} a second, {(total - done) / rate / 60:.1f} min left"
            logger.info(f"{self.folder.name}: {done_word} {done}/{total}{how_fast}")
            self._said = now

    def write_lines(self, name: str, records: Iterable[Mapping[str, Any]]) -> None:
        """Write a whole JSONL file."""
        self.write_text(name, "".join(json.dumps(record) + "\n" for record in records))

    def truncate_log(self, step: int) -> None:
        """Drop the lines of ``log.jsonl`` after ``step``: a continued run writes them again."""
        path = self.folder / "log.jsonl"
        if self._is_main and path.exists():
            self.write_text("log.jsonl", "".join(line for logged, line in _whole_lines(path) if logged <= step))

    def _begin(self) -> None:
        self._check_continuing()
        self.step = self._last_step()
        self.write_text("config.yaml", configuration.dump(self._config))
        self.write_json("environment.json", describe_environment())
        self._write_status("running", "")

    def _end(self, error: BaseException | None) -> None:
        if error is None:
            if self._is_main:
                remove_halves(self.folder)  # of earlier starts: whoever has shared in this one has written all of its part
            self._write_status("finished", "")
        elif isinstance(error, Preempted | KeyboardInterrupt):
            self._write_status("preempted", str(error) or "interrupted")
        elif isinstance(error, SystemExit) and error.code == Preempted.exit_code:
            self._write_status("preempted", "stopped at once by a second signal")
        else:
            self._write_status("failed", str(error) or type(error).__name__)

    def _last_step(self) -> int:
        path = self.folder / "log.jsonl"
        lines = _whole_lines(path) if path.exists() else []
        return lines[-1][0] if lines else 0

    def _check_continuing(self) -> None:
        """Refuse to continue a run with other settings than it was begun with: its parts would not belong together."""
        path = self.folder / "config.yaml"
        if not path.exists():
            return
        before = configuration.complete(configuration.read_yaml(path), self._config)
        now = configuration.to_tree(self._config)
        begun = self._continuation and any(self.folder.glob(self._continuation.begun))
        for name in ("run.seed", *(self._continuation.settings if self._continuation and begun else ())):
            section, _, key = name.partition(".")
            old, new = (tree.get(section, {}).get(key) if key else tree.get(section) for tree in (before, now))
            if old != new:
                raise ConfigError(
                    f"{path}: this run was begun with --{name} {_show(old)}, now it is {_show(new)}; "
                    "go on with the first, or take another --run.name."
                )

    def _write_status(self, state: str, reason: str) -> None:
        seconds = round(time.monotonic() - self._begun, 1)
        self.write_json("run_status.json", {"state": state, "step": self.step, "reason": reason, "seconds": seconds})


def _show(value: Any) -> Any:
    """Name a setting's value; an empty one would be a hole in the sentence."""
    return "left out" if value in (None, "") else value


def launch(main: Callable[[Config], None], schema: type[Config], argv: Sequence[str] | None = None) -> None:
    """Run a recipe: parse its config, call ``main``, and end with the exit code of the contract.

    An explained failure is one sentence on standard error; only what nobody foresaw shows a traceback.

    Args:
        main: the recipe.
        schema: its config dataclass.
        argv: the words after the program's name.
    """
    with explaining("interrupted; the same command continues the run."):
        main(configuration.parse(schema, argv))


@contextmanager
def explaining(interrupted: str) -> Iterator[None]:
    """Set up logging for a program, and end it with the exit code of the contract when what is inside fails.

    Args:
        interrupted: what to say after Ctrl-C.
    """
    os.environ.setdefault("DIFFUSERS_DISABLE_REMOTE_CODE", "1")
    logging.basicConfig(level=logging.INFO, format="%(message)s", stream=sys.stderr)
    for noisy in ("httpx", "open_clip", "root", "accelerate", "huggingface_hub"):
        logging.getLogger(noisy if noisy != "root" else None).setLevel(logging.WARNING)
    logging.getLogger("diffusers.loaders.lora_base").setLevel(logging.ERROR)  # it misses a text encoder in every UNet LoRA
    logger.setLevel(logging.INFO)
    end_with_launcher()
    try:
        yield
    except SkygenError as error:
        sys.stderr.write(f"skygen: {error}\n")
        sys.exit(error.exit_code)
    except OSError as error:
        if error.errno not in STORAGE_FAULTS:
            raise
        sys.stderr.write(f"skygen: {storage_error(error.filename or 'a file', error)}\n")
        sys.exit(StorageError.exit_code)
    except KeyboardInterrupt:
        sys.stderr.write(f"skygen: {interrupted}\n")
        sys.exit(INTERRUPTED)


def _whole_lines(path: Path) -> list[tuple[int, str]]:
    """Read the lines of ``log.jsonl``, each with its step, but those that a kill has cut short or a disk damaged."""
    lines = []
    for line in path.read_text(encoding="utf-8", errors="replace").splitlines(keepends=True):
        with suppress(ValueError, TypeError, LookupError):
            if line.strip() and line.endswith("\n"):
                lines.append((int(plain_json.parse(line)["step"]), line))
    return lines
