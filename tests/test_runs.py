"""A run's folder tells how it went, and a recipe's exit code tells a scheduler."""

import errno
import json
import logging
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import pytest

from skygen.errors import ConfigError, DataError, Preempted, SkygenError, StorageError, UnavailableError
from skygen.runs import Continuation, Run, RunSettings, launch
from skygen.signals import StopSignal, wait_until
from skygen.training.loop import Step


@dataclass(frozen=True)
class Settings:
    run: RunSettings = field(default_factory=lambda: RunSettings(name="a"))
    rate: float = 1.0


def settings_in(folder: Path, seed: int = 0) -> Settings:
    return Settings(RunSettings(name="a", root=folder, seed=seed))


def open_run(folder: Path, seed: int = 0, *, is_main: bool = True) -> Run:
    settings = settings_in(folder, seed)
    return Run(settings.run, settings, is_main=is_main)


def status(folder: Path) -> dict[str, Any]:
    fields = json.loads((folder / "a" / "run_status.json").read_text())
    assert 0 <= fields.pop("seconds") < 60
    return fields


def step(number: int, loss: float = 0.5) -> Step:
    return Step(number, 6, loss, 1.0, 1e-3, 10.0, 0.0, 4, skipped=False)


def logged(folder: Path) -> list[int]:
    return [json.loads(line)["step"] for line in (folder / "a" / "log.jsonl").read_text().splitlines()]


@pytest.mark.parametrize(
    ("error", "code"),
    [
        (SkygenError("it broke"), 1),
        (ConfigError("it broke"), 2),
        (DataError("it broke"), 65),
        (UnavailableError("it broke"), 69),
        (StorageError("it broke"), 74),
        (Preempted("it broke"), 75),
    ],
)
def test_each_failure_has_its_exit_code_and_one_sentence(
    error: SkygenError, code: int, capsys: pytest.CaptureFixture[str]
) -> None:
    def main(config: Settings) -> None:
        raise error

    with pytest.raises(SystemExit) as ended:
        launch(main, Settings, [])
    assert ended.value.code == code
    assert capsys.readouterr().err == "skygen: it broke\n"


def test_a_disk_that_fills_up_anywhere_ends_with_74(capsys: pytest.CaptureFixture[str]) -> None:
    def main(config: Settings) -> None:
        raise OSError(errno.ENOSPC, "No space left on device", "runs/a/picture.png")

    with pytest.raises(SystemExit) as ended:
        launch(main, Settings, [])
    assert ended.value.code == 74
    assert "runs/a/picture.png: cannot be written (No space left on device); free disk space" in capsys.readouterr().err


def test_what_nobody_foresaw_keeps_its_traceback() -> None:
    def main(config: Settings) -> None:
        raise FileNotFoundError(errno.ENOENT, "No such file", "x")

    with pytest.raises(FileNotFoundError):
        launch(main, Settings, [])


def test_ctrl_c_ends_with_130_and_a_wrong_flag_with_2() -> None:
    def main(config: Settings) -> None:
        raise KeyboardInterrupt

    with pytest.raises(SystemExit) as interrupted:
        launch(main, Settings, [])
    with pytest.raises(SystemExit) as misspelt:
        launch(main, Settings, ["--raet", "1"])
    assert (interrupted.value.code, misspelt.value.code) == (130, 2)


def test_main_gets_the_parsed_config() -> None:
    got: list[Settings] = []
    launch(got.append, Settings, ["--rate", "2"])
    assert got == [Settings(rate=2.0)]


def test_the_status_file_says_how_it_stands(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        assert status(tmp_path) == {"state": "running", "step": 0, "reason": ""}
        run.log(step(1))
    assert status(tmp_path) == {"state": "finished", "step": 1, "reason": ""}


@pytest.mark.parametrize(
    ("error", "state", "reason"),
    [
        (Preempted("stopped by a signal"), "preempted", "stopped by a signal"),
        (KeyboardInterrupt(), "preempted", "interrupted"),
        (SystemExit(75), "preempted", "stopped at once by a second signal"),
        (DataError("bad rows"), "failed", "bad rows"),
        (ZeroDivisionError(), "failed", "ZeroDivisionError"),
    ],
)
def test_the_status_file_says_how_it_ended(error: BaseException, state: str, reason: str, tmp_path: Path) -> None:
    with pytest.raises(type(error)), open_run(tmp_path) as run:
        run.log(step(1))
        run.log(step(2))
        raise error
    assert status(tmp_path) == {"state": state, "step": 2, "reason": reason}


def test_the_record_of_a_run_is_complete(tmp_path: Path) -> None:
    with open_run(tmp_path, seed=4):
        pass
    assert (tmp_path / "a" / "config.yaml").read_text().startswith("run:\n  name: a\n")
    environment = json.loads((tmp_path / "a" / "environment.json").read_text())
    assert environment["versions"]["torch"][0].isdigit()
    assert environment["command"] == sys.argv
    assert len(environment["commit"]) in (40, len("unknown"))


def test_another_seed_does_not_continue_a_run(tmp_path: Path) -> None:
    with open_run(tmp_path, seed=1):
        pass
    with (
        pytest.raises(ConfigError, match=r"begun with --run\.seed 1, now it is 2; go on with the first"),
        open_run(tmp_path, seed=2),
    ):
        pass
    assert status(tmp_path)["state"] == "finished"
    with open_run(tmp_path, seed=1):
        pass


def test_a_continued_run_logs_each_step_once(tmp_path: Path) -> None:
    """Killed after step 4, continued from the checkpoint of step 2; the kill cut the last line short."""
    with open_run(tmp_path) as run:
        for number in range(1, 5):
            run.log(step(number, loss=0.1))
    with (tmp_path / "a" / "log.jsonl").open("a") as file:
        file.write('{"step": 5, "lo')
    with open_run(tmp_path) as run:
        assert status(tmp_path)["step"] == 4
        for number in range(3, 7):
            run.log(step(number, loss=0.2))
    assert logged(tmp_path) == [1, 2, 3, 4, 5, 6]
    losses = [json.loads(line)["loss"] for line in (tmp_path / "a" / "log.jsonl").read_text().splitlines()]
    assert losses == [0.1, 0.1, 0.2, 0.2, 0.2, 0.2]


def test_a_finished_run_started_again_keeps_its_step(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        run.log(step(6))
    with open_run(tmp_path):
        pass
    assert status(tmp_path) == {"state": "finished", "step": 6, "reason": ""}
    assert logged(tmp_path) == [6]


def test_only_the_main_process_writes(tmp_path: Path) -> None:
    with open_run(tmp_path, is_main=False) as run:
        run.log(step(1))
        run.append("rows.jsonl", {"a": 1})
        run.write_text("x.txt", "x")
    assert [path for path in tmp_path.rglob("*") if path.is_file()] == []


def test_a_place_that_cannot_be_written_is_a_storage_error(tmp_path: Path) -> None:
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "rows.jsonl").mkdir()
    with open_run(tmp_path) as run, pytest.raises(StorageError, match=r"rows\.jsonl: cannot be written"):
        run.append("rows.jsonl", {"a": 1})


def test_a_first_signal_is_noted_and_a_second_ends_with_75(stop: StopSignal) -> None:
    assert not stop.requested
    signal.raise_signal(signal.SIGUSR1)
    assert stop.requested
    with pytest.raises(SystemExit) as ended:
        signal.raise_signal(signal.SIGTERM)
    assert ended.value.code == 75


ORPHAN = """
import os, subprocess, sys
child = subprocess.Popen([sys.executable, "-c", '''
import time
from dataclasses import dataclass
from skygen.runs import launch
@dataclass(frozen=True)
class Settings:
    rate: float = 1.0
def main(config):
    print("up", flush=True)
    time.sleep(60)
launch(main, Settings, [])
'''], stdout=subprocess.PIPE)
child.stdout.readline()
print(child.pid, flush=True)
os.kill(os.getpid(), 9)
"""


@pytest.mark.parametrize(("launcher", "outlives"), [({"ACCELERATE_MIXED_PRECISION": "no"}, False), ({}, True)])
def test_a_recipe_dies_with_its_launcher_but_not_with_a_shell(
    launcher: dict[str, str], outlives: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name in ("ACCELERATE_MIXED_PRECISION", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    for name, value in launcher.items():
        monkeypatch.setenv(name, value)
    child = int(subprocess.run([sys.executable, "-c", ORPHAN], stdout=subprocess.PIPE, text=True, check=False).stdout)
    assert wait_for_end(child, seconds=2.0 if outlives else 60.0) is not outlives


def wait_for_end(process: int, seconds: float) -> bool:
    """Wait for a process that is not our child; kill it when it does not end by itself."""
    deadline = time.monotonic() + seconds
    with suppress(FileNotFoundError, ProcessLookupError):  # it has ended, and nothing tells of it any more
        while Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] != "Z":
            if time.monotonic() > deadline:
                os.kill(process, signal.SIGKILL)
                return False
            time.sleep(0.05)
    return True


def test_what_is_begun_is_not_gone_on_with_under_other_settings(tmp_path: Path) -> None:
    continuation = Continuation("samples/metadata.jsonl", ("rate",))
    settings = settings_in(tmp_path)
    with Run(settings.run, settings, continuation=continuation) as run:
        pass
    changed = replace(settings, rate=2.0)
    with Run(changed.run, changed, continuation=continuation):  # nothing is there yet that could be mixed up
        pass
    run.write_text("samples/metadata.jsonl", "{}\n")
    for _ in range(2):  # being refused once must not make the new settings those of the run
        with (
            pytest.raises(ConfigError, match=r"begun with --rate 2\.0, now it is 1\.0; go on with the first, or take another"),
            Run(settings.run, settings, continuation=continuation),
        ):
            pass
    with Run(changed.run, changed, continuation=continuation):
        pass


def test_a_run_that_an_earlier_version_began_goes_on_where_its_settings_are_the_defaults_of_today(tmp_path: Path) -> None:
    continuation = Continuation("samples/metadata.jsonl", ("rate",))
    settings = settings_in(tmp_path)
    with Run(settings.run, settings, continuation=continuation) as run:
        run.write_text("samples/metadata.jsonl", "{}\n")
    record = tmp_path / "a" / "config.yaml"
    lines = record.read_text().splitlines(keepends=True)
    record.write_text("".join(line for line in lines if not line.startswith("rate")))  # as if there had been no such setting
    assert len(record.read_text()) < sum(map(len, lines))
    changed = replace(settings, rate=2.0)
    with (
        pytest.raises(ConfigError, match=r"begun with --rate 1\.0, now it is 2\.0"),
        Run(changed.run, changed, continuation=continuation),
    ):
        pass
    with Run(settings.run, settings, continuation=continuation):
        pass


HOLDER = """
import sys, time
from pathlib import Path
from skygen.runs import Run, RunSettings
from dataclasses import dataclass
@dataclass(frozen=True)
class Settings:
    run: RunSettings
settings = Settings(RunSettings("a", root=Path(sys.argv[1])))
with Run(settings.run, settings):
    print("open", flush=True)
    time.sleep(60)
"""


@pytest.fixture
def holder(tmp_path: Path) -> Iterator[subprocess.Popen[str]]:
    """Another process that has the run ``a`` open."""
    process = subprocess.Popen([sys.executable, "-c", HOLDER, str(tmp_path)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    assert process.stdout.readline() == "open\n"
    yield process
    process.kill()
    process.communicate()


def test_a_run_that_another_process_writes_is_refused_and_left_as_it_is(holder: subprocess.Popen[str], tmp_path: Path) -> None:
    files = [path for path in (tmp_path / "a").iterdir() if path.is_file()]
    before = {path.name: path.read_bytes() for path in files}
    assert len(before) == 4
    refused = (
        rf"a: process {holder.pid} on \S+ \(since \S+ \S+ UTC\) is at work there; wait until it has ended, stop it, or take "
        r"another --run\.name\.$"
    )
    with pytest.raises(ConfigError, match=refused), open_run(tmp_path):
        pass
    assert {path.name: path.read_bytes() for path in files} == before


def test_a_killed_process_lets_go_of_its_run_and_the_next_says_so(
    holder: subprocess.Popen[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    holder.kill()
    holder.wait()
    with caplog.at_level(logging.WARNING, "skygen"), open_run(tmp_path):
        pass
    assert [record.message.partition(" on ")[0] for record in caplog.records] == [f"{tmp_path / 'a'}: process {holder.pid}"]
    assert caplog.records[0].message.endswith("was at work there and has ended without a word; this one goes on in its place")
    caplog.clear()
    with caplog.at_level(logging.WARNING, "skygen"), open_run(tmp_path):  # it has said that it ended
        pass
    assert caplog.records == []


def test_a_run_heeds_a_signal_between_two_pieces_of_work(tmp_path: Path) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with (
        pytest.raises(Preempted, match=r"^stopped by a signal after 2 of 3 drawn; the same command continues\.$"),
        open_run(tmp_path) as run,
    ):
        run.progress("drawn", 1, 3)
        signal.raise_signal(signal.SIGTERM)
        run.progress("drawn", 2, 3)
    assert json.loads((tmp_path / "a" / "run_status.json").read_text())["state"] == "preempted"
    assert signal.getsignal(signal.SIGTERM) is before


def test_a_signal_that_comes_with_the_last_piece_of_work_stops_nothing(tmp_path: Path) -> None:
    with open_run(tmp_path) as run:
        signal.raise_signal(signal.SIGUSR1)
        run.progress("drawn", 3, 3)
    assert json.loads((tmp_path / "a" / "run_status.json").read_text())["state"] == "finished"


def test_who_waits_for_other_processes_heeds_a_signal(stop: StopSignal) -> None:
    wait_until(lambda: True)
    looks = iter((False, False, True))
    wait_until(lambda: next(looks))
    signal.raise_signal(signal.SIGTERM)
    with pytest.raises(Preempted, match="stopped by a signal after its own share"):
        wait_until(lambda: False)


def test_the_examples_of_an_update_that_was_left_out_are_noted_by_every_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for rank in (0, 1):
        monkeypatch.setenv("RANK", str(rank))
        with open_run(tmp_path, is_main=rank == 0) as run:
            run.log(step(1))
            run.log(replace(step(2), skipped=True, skipped_keys=(f"a{rank}", f"b{rank}")))
    lines = [json.loads(line) for line in (tmp_path / "a" / "skipped.jsonl").read_text().splitlines()]
    assert lines == [{"step": 2, "process": rank, "keys": [f"a{rank}", f"b{rank}"]} for rank in (0, 1)]
    assert "keys" not in (tmp_path / "a" / "log.jsonl").read_text()
