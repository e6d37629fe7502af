"""Every kind of file that comes from outside, damaged at random: a sentence, rejects with their reason, or a reading."""

from __future__ import annotations

import resource
import signal
import time
import warnings
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from types import FrameType

import pytest
from faults.amounts import amount
from faults.figures import Figures
from faults.mutations import mutate
from faults.readers import READERS, Reader

from skygen.errors import SkygenError
from skygen.seeding import Seeds

pytestmark = pytest.mark.slow

SECONDS = 30
"""No reader may take so long over a file of a few kilobytes."""
MEMORY_MB = 300
"""No reader may need so much more than it needed for the good file."""


def test_there_is_a_reader_for_every_kind_of_file() -> None:
    assert len(READERS) == 35
    assert len({reader.name for reader in READERS}) == len(READERS)


@pytest.mark.parametrize("reader", READERS, ids=[reader.name for reader in READERS])
def test_a_damaged_file_costs_itself_at_most(
    reader: Reader, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, figures: Figures
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    with as_users_have_it():
        files = reader.make(tmp_path / "files")
        good = {path: path.read_bytes() for path in files}
        for path in files:
            assert len(reader.read(path)) == reader.good, f"{reader.name}: the good {path.name}"
        memory, lost, refused, wrong = forget_peak(), 0, 0, []
        tried = amount(min(20, reader.few), 1000)
        for trial in range(tried):
            path = files[trial % len(files)]
            content = mutate(good[path], Seeds(9).numpy(reader.name, trial))
            put_in_place(path, content)
            try:
                with within(SECONDS):
                    found = reader.read(path)
                lost += count_lost(reader, content, good[path], found)
            except SkygenError as error:
                refused += 1
                if "\n" in str(error) or not str(error).strip():
                    wrong.append(f"trial {trial}, {path.name}: refused by {str(error)!r}, which is no sentence")
            except Exception as error:
                # The run-time types of the suite look into a list of pairs, and report what that raises as their own.
                if type(error).__name__ == "TypeCheckError" and isinstance(first_cause(error), SkygenError):
                    refused += 1
                else:
                    wrong.append(f"trial {trial}, {path.name}: {type(error).__name__}: {error}")
            put_in_place(path, good[path])
        grown = peak_memory() - memory
    assert wrong == []
    assert lost == 0
    assert grown < MEMORY_MB
    assert not (tmp_path / "ran").exists()
    figures(f"damaged: {reader.name}", tried=tried, refused=refused, read=tried - refused, rows_lost=lost, most_mb=grown)


def first_cause(error: BaseException) -> BaseException:
    """Return the error of skygen's that led to another, or else the other."""
    chain: list[BaseException] = [error]
    while (before := chain[-1].__cause__ or chain[-1].__context__) is not None and before not in chain:
        chain.append(before)
    return next((each for each in chain if isinstance(each, SkygenError)), error)


def put_in_place(path: Path, content: bytes) -> None:
    """Write a file as another file of that name: one that is mapped must not change under its reader."""
    other = path.with_name(f".{path.name}.new")
    other.write_bytes(content)
    other.replace(path)


def count_lost(reader: Reader, content: bytes, good: bytes, found: object) -> int:
    """Count the things whose own line is unharmed, and that were not read all the same."""
    if reader.names is None or not isinstance(found, set):
        return 0
    whole = set(content.split(b"\n")[:-1]) & set(good.split(b"\n")[:-1])
    return len({reader.names(line) for line in whole} - found)


def peak_memory() -> int:
    """Return the most memory that this process has had, in megabytes, since ``forget_peak`` where the system can do that."""
    try:
        (line,) = (line for line in Path("/proc/self/status").read_text().splitlines() if line.startswith("VmHWM:"))
        return int(line.split()[1]) // 1024
    except (OSError, ValueError):
        return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024


def forget_peak() -> int:
    """Begin to look for the peak anew; return what it is now."""
    with suppress(OSError):  # not Linux, or not allowed: a peak from before may then hide a later one
        Path("/proc/self/clear_refs").write_text("5")
    return peak_memory()


@contextmanager
def as_users_have_it() -> Iterator[None]:
    """A warning of a library is no error outside of the tests."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        yield


@contextmanager
def within(seconds: int) -> Iterator[None]:
    """Raise TimeoutError in what takes longer."""

    def stop(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"more than {seconds} seconds")

    before, begun = signal.signal(signal.SIGALRM, stop), time.monotonic()
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)
    if time.monotonic() - begun > seconds:  # code in C is not interrupted
        raise TimeoutError(f"more than {seconds} seconds")
