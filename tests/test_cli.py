"""The command line: quick help, exit codes, and what each command leaves behind."""

from __future__ import annotations

import errno
import fcntl
import importlib.metadata
import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from source_tree import requirements

from skygen import advisories, cli, diagnosis
from skygen.commands import data
from skygen.evaluation.scores import Score, to_metrics
from skygen.miniature.world import CLASSES, NOVEL_CLASSES

# Processor time, not the clock on the wall: other work on the machine must not decide a test.
MEASURE = """
import sys, time
import tyro
start = time.process_time()
from skygen.cli import main
try:
    main(["--help"])
except SystemExit as end:
    code = end.code
seconds = time.process_time() - start
heavy = sorted({"torch", "numpy", "diffusers", "transformers", "matplotlib", "PIL", "jinja2"} & set(sys.modules))
print("measured", code, seconds, *heavy)
"""


def ends_with(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_help_is_quick_and_loads_nothing_heavy() -> None:
    answer = subprocess.run([sys.executable, "-c", MEASURE], capture_output=True, text=True, check=True)
    *page, measured = answer.stdout.splitlines()
    word, code, seconds, *heavy = measured.split()
    assert (word, code, heavy) == ("measured", "0", [])
    assert float(seconds) < 0.5
    help_page = "\n".join(page)
    assert all(command in help_page for command in ("fabricate", "report", "doctor", "--version"))


def test_version_is_that_of_the_distribution(capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["--version"])
    assert capsys.readouterr().out == f"skygen {importlib.metadata.version('skygen')}\n"


def test_a_misspelt_command_or_flag_ends_with_2(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    assert ends_with(["fabricat", str(tmp_path)]) == 2
    assert ends_with(["fabricate", str(tmp_path), "--pair", "3"]) == 2
    assert "--pairs" in capsys.readouterr().err


def test_fabricate_writes_the_classes_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    folder = tmp_path / "data"
    cli.main(["fabricate", str(folder), "--pairs", "12", "--seed", "3", "--classes", "novel"])
    said = capsys.readouterr()
    assert said.out.startswith(f"{folder}: train ")
    assert said.err.count("\n") == 1
    assert " tiles, " in said.err
    metas = [path for path in folder.glob("meta*/*") if path.is_file()]
    assert len(metas) == 12
    table = next(folder.rglob("*.csv")).read_text()
    assert len(table.splitlines()) > 1


def test_fabricate_draws_a_benchmark_of_the_size_asked_for(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["fabricate", str(tmp_path), "--pairs", "1", "--benchmark", "5"])
    assert "benchmark 5," in capsys.readouterr().out
    assert len(list((tmp_path / "benchmark" / "SkyScript_cls" / "val").iterdir())) == 5


def test_groups_of_classes_are_resolved_and_names_kept() -> None:
    assert data._resolve_classes(["all"]) == CLASSES
    assert data._resolve_classes(["novel", NOVEL_CLASSES[0], "no such"]) == (*NOVEL_CLASSES, "no such")


def test_an_unknown_class_is_one_sentence_and_code_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ends_with(["fabricate", str(tmp_path), "--pairs", "2", "--classes", "golf coarse"]) == 2
    message = capsys.readouterr().err
    assert message.startswith("skygen: ")
    assert "golf coarse" in message
    assert "golf course" in message
    assert message.count("\n") == 1


def test_report_goes_to_the_folder_that_holds_the_runs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    runs = [tmp_path / "runs" / name for name in ("first", "second")]
    for index, run in enumerate(runs):
        run.mkdir(parents=True)
        scores = [Score("cider_d", 0.25 + index, 9, (0.2, 1.4), "tuned", "test")]
        (run / "metrics.json").write_text(json.dumps(to_metrics("captions 1", scores)))
    cli.main(["report", *map(str, runs), "--title", "Two & more"])
    out = capsys.readouterr().out
    page = tmp_path / "runs" / "report.html"
    assert out.splitlines()[-1] == str(page)
    assert [line.split()[2] for line in out.splitlines() if line.startswith("cider_d")] == ["0.2500", "1.2500"]
    assert "<h1>Two &amp; more</h1>" in page.read_text()
    assert [row["value"] for row in json.loads((tmp_path / "runs" / "metrics.json").read_text())["scores"]] == [0.25, 1.25]


def test_report_of_no_run_is_one_sentence_and_its_code(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    gone = tmp_path / "gone"
    assert ends_with(["report", str(gone), "--output", str(tmp_path / "page.html")]) == 65
    assert capsys.readouterr().err == f"skygen: {gone}: no such folder; give the folders of runs, such as runs/NAME.\n"
    assert ends_with(["report"]) == 2
    assert not list(tmp_path.iterdir())


def test_doctor_answers_in_json_with_the_code_of_its_verdict(capsys: pytest.CaptureFixture[str]) -> None:
    code = 0
    try:
        cli.main(["doctor", "--json"])
    except SystemExit as end:
        code = int(end.code or 0)
    answer = json.loads(capsys.readouterr().out)
    found = {finding["name"]: finding for finding in answer["findings"]}
    assert answer["healthy"] is all(finding["healthy"] for finding in answer["findings"]) is (code == 0)
    assert found["torch"]["found"] == importlib.metadata.version("torch")
    places = {"disk here", "disk of HF_HOME", "HF_HOME", "SKYGEN_HOME", "HF_HUB_OFFLINE"}
    assert places | {"python", "tyro", "device", "memory", "file locks", "fonts", "miniature weights"} <= set(found)
    works = {each["what"]: each["works"] for each in answer["possibilities"]}
    assert works["training, drawing, captioning, scoring, reports"] is answer["healthy"]
    assert len(works) == 10
    assert "gradio" not in found  # of an extra


def test_doctor_tells_an_old_and_a_missing_distribution() -> None:
    here = importlib.metadata.version("tyro")
    old = diagnosis.check_requirement(Requirement("tyro>=99"))
    assert (old.healthy, old.found, old.needed) == (False, here, "pip install 'tyro>=99'")
    missing = diagnosis.check_requirement(Requirement("no-such-distribution>=1"))
    assert (missing.healthy, missing.found) == (False, "not installed")
    assert diagnosis.check_requirement(Requirement("tyro>=1")).healthy


def test_doctor_fits_a_terminal_of_80_columns_and_folds_what_is_as_it_must_be(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("COLUMNS", "80")
    cli.main(["doctor"])
    lines = capsys.readouterr().out.splitlines()
    assert max(map(len, lines)) <= 80
    assert len(lines) < 35
    assert lines[-1] == "All is well."
    assert re.match(r"ok    packages           \d\d as they must be: python 3\.", lines[0])
    assert all(line[:6] in ("ok    ", "FAIL  ", "      ") for line in lines[:-1] if line)


def test_doctor_fails_with_a_version_that_something_is_known_against(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    version = importlib.metadata.version
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "2.6.1" if name == "urllib3" else version(name))
    assert ends_with(["doctor"]) == 1
    said = " ".join(capsys.readouterr().out.split())
    assert "FAIL urllib3 2.6.1 CVE-2026-21441: a small answer of a server fills the memory (pip install" in said
    assert "does not training, drawing, captioning, scoring, reports (mend urllib3 2.6.1)" in said
    assert re.search(r"2 of \d\d checks failed\.$", said)


@pytest.mark.parametrize(
    ("version", "known"), [("2.6.1", []), ("2.6.2", ["GHSA-w37p-236h-pfx3"]), ("2.6.3", ["GHSA-w37p-236h-pfx3"]), ("2.6.4", [])]
)
def test_single_versions_that_were_tampered_with_are_known(
    version: str, known: list[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: version)
    assert [each.reference for each in advisories.known_against("lightning")] == known


def test_a_hole_that_cannot_be_reached_is_told_and_no_fault(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(importlib.metadata, "version", lambda name: "12.3.0" if name == "pillow" else "99")
    told = {finding.name: finding for finding in diagnosis.check_advisories()}
    assert told["pillow 12.3.0"].healthy
    assert "CVE-2026-96639" in told["pillow 12.3.0"].found
    assert told["known holes"].healthy


def test_doctor_says_what_an_extra_would_make_possible(monkeypatch: pytest.MonkeyPatch) -> None:
    def nothing(name: str) -> str:
        raise importlib.metadata.PackageNotFoundError(name)

    monkeypatch.setattr(importlib.metadata, "version", nothing)
    monkeypatch.setattr(shutil, "which", lambda name: None)
    found = {each.what: each for each in diagnosis.list_possibilities([])}
    assert found["GeoTIFF"] == diagnosis.Possibility("GeoTIFF", False, "pip install 'skygen[geo]'")
    assert found["METEOR and SPICE"].missing == "pip install 'skygen[coco]', java"
    assert found["captioners in 4 bits"].missing == "pip install 'skygen[quantized]', a GPU"
    assert [each.what for each in found.values() if each.works] == ["training, drawing, captioning, scoring, reports"]


def test_doctor_knows_every_extra() -> None:
    named = {wish.extra for wish in diagnosis._EXTRAS}
    assert len(named) > 5
    assert named == requirements().keys() - {"", "all"}


def test_doctor_misses_the_locks_of_a_disk_that_has_none(monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(file: object, operation: int) -> None:
        raise OSError(errno.ENOLCK, "No locks available")

    assert diagnosis.check_locks().healthy
    monkeypatch.setattr(fcntl, "flock", refuse)
    finding = diagnosis.check_locks()
    assert (finding.healthy, finding.found) == (False, "none here: No locks available")


def test_doctor_adds_up_a_cache_without_counting_a_file_twice(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    (tmp_path / "blobs").mkdir()
    (tmp_path / "blobs" / "a").write_bytes(bytes(12_000))
    (tmp_path / "snapshot").symlink_to(tmp_path / "blobs" / "a")
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path))
    found = {finding.name: finding.found for finding in diagnosis.describe_caches()}
    assert found["SKYGEN_HOME"] == f"{tmp_path}, 12 kB"


def test_a_reader_that_stops_early_is_no_error() -> None:
    """``skygen … | head`` closes the pipe before all is written."""
    command = [sys.executable, "-c", "from skygen.cli import show; show('line\\n' * 200_000)"]
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None and process.stderr is not None
        assert process.stdout.readline() == "line\n"
        process.stdout.close()
        assert process.stderr.read() == ""
        assert process.wait() == 0
