"""The closed loop as a user starts it, with tiny settings: it ends, every picture is accounted for, nothing is done twice."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections import Counter
from pathlib import Path
from subprocess import PIPE
from typing import Any

import pytest

from skygen.data.pairs import read_pairs

REPOSITORY = Path(__file__).resolve().parents[2]
TINY = {
    "PAIRS": "60", "BENCHMARK": "26", "STEPS": "4", "CAPTIONER_STEPS": "4", "PICTURES": "8", "TEST_PICTURES": "6",
    "SHARE": "0.05", "DENOISING": "12", "CLASSES": "base",  # so few updates teach nothing new, and nothing bad is kept
}  # fmt: skip


def close_loop(out: Path, *words: str, code: int = 0, **settings: str) -> str:
    tools = Path(sys.executable).parent
    environment = {**os.environ, **TINY, **settings, "OUT": str(out), "OMP_NUM_THREADS": "1"}
    environment["PATH"] = f"{tools}{os.pathsep}{os.environ['PATH']}"
    command = ["bash", "recipes/closed_loop.sh", *words]
    # a session of its own: what the script has started must not outlive a test that gives up
    with subprocess.Popen(
        command, stdout=PIPE, stderr=PIPE, text=True, env=environment, cwd=REPOSITORY, start_new_session=True
    ) as script:
        try:
            said, complaints = script.communicate(timeout=1500)
        except BaseException:
            os.killpg(script.pid, signal.SIGKILL)
            raise
    assert script.returncode == code, complaints
    return said + complaints


def read_lines(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def ages(out: Path) -> dict[Path, int]:
    """Return when each file was last written, but for the page and the lineage, which are made anew of the rest."""
    written = {path: path.stat().st_mtime_ns for path in out.rglob("*") if path.is_file()}
    return {path: when for path, when in written.items() if path.name not in ("rounds.html", "lineage.jsonl", "settings")}


@pytest.mark.slow
def test_the_loop_ends_adds_up_and_goes_on(tmp_path: Path) -> None:
    out = tmp_path / "loop"
    close_loop(out, "1")
    rows = read_lines(out / "lineage.jsonl")
    assert [(row["round"], row["index"]) for row in rows] == [(number, index) for number in (0, 1) for index in range(8)]
    assert len({row["file"] for row in rows}) == len({row["sha256"] for row in rows}) == 16
    for number in (0, 1):
        screened = read_lines(out / f"round-{number}" / "screen" / "screened.jsonl")
        assert Counter(line["verdict"] for line in screened) == Counter(
            row["verdict"] for row in rows if row["round"] == number
        )
        assert all(-1.0 <= row["cycle_score"] <= 1.0 for row in rows)
    listed = read_pairs(out, csv=out / "synthetic-1.csv")
    used = {row["file"] for row in rows if row["used_in"] == [1]}
    assert 0 < len(used) == len(listed)
    assert {pair.key for pair in listed} == used <= {row["file"] for row in rows if row["verdict"] == "kept"}
    real = read_pairs(out / "data", csv=out / "pairs" / "kept.csv")
    assert len(used) / (len(used) + len(real)) <= float(TINY["SHARE"])
    assert [len(row["trained_on"]) for row in rows] == [1] * 8 + [2] * 8
    tests = [read_lines(out / f"round-{number}" / "test" / "samples" / "metadata.jsonl") for number in (0, 1)]
    assert [(row["text"], row["seed"]) for row in tests[0]] == [(row["text"], row["seed"]) for row in tests[1]]
    page = (out / "rounds.html").read_text(encoding="utf-8")
    assert "round 1 against round 0" in page
    assert "judge_accuracy" in page

    before = ages(out)
    assert "== " not in close_loop(out, "1")
    assert ages(out) == before
    assert (out / "rounds.html").read_text(encoding="utf-8") == page
    assert "go on with the first" in close_loop(out, "1", code=2, STEPS="7")
    assert ages(out) == before
