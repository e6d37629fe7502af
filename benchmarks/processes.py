"""Cases measured as processes of their own: nothing that one has loaded or cached in memory helps another."""

from __future__ import annotations

import json
import resource
import statistics
import subprocess
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Measured:
    """What one run of a case took.

    Args:
        seconds: of the case itself, without the start of Python and its imports.
        peak_mb: largest resident memory of the process, in 10^6 bytes, mapped files included.
        base_mb: the same before the case began, of Python and its imports.
    """

    seconds: float
    peak_mb: float
    base_mb: float


def run_case(module: str, case: str, arguments: Sequence[str]) -> Measured:
    """Run ``python -m MODULE --case CASE …`` and read what it measured."""
    words = [sys.executable, "-m", module, "--case", case, *arguments]
    answer = subprocess.run(words, check=True, capture_output=True, text=True)
    return Measured(**json.loads(answer.stdout.splitlines()[-1]))


def serve_case(case: Callable[[], object]) -> None:
    """Measure a case in this process, and print what it took for ``run_case``."""
    base = _peak_mb()
    start = time.perf_counter()
    kept = case()  # held until memory is read: what a user would go on to work with
    seconds = time.perf_counter() - start
    print(json.dumps({"seconds": seconds, "peak_mb": _peak_mb(), "base_mb": base}))
    del kept


def alternate(module: str, cases: Sequence[str], arguments: Sequence[str], repeats: int) -> dict[str, list[Measured]]:
    """Run the cases in turn, A B A B …, so that a machine that drifts drifts for all."""
    found: dict[str, list[Measured]] = {case: [] for case in cases}
    for _ in range(repeats):
        for case in cases:
            found[case].append(run_case(module, case, arguments))
    return found


def print_table(found: Mapping[str, Sequence[Measured]], against: str) -> None:
    """Print medians, and their ratio to one of the cases."""
    print(f"{'case':32} {'seconds':>10} {'of ' + against:>16} {'peak MB':>9} {'of ' + against:>16}")
    reference = found[against]
    for case, runs in found.items():
        seconds, peak = (statistics.median(getattr(run, name) for run in runs) for name in ("seconds", "peak_mb"))
        times = statistics.median(a.seconds / b.seconds for a, b in zip(runs, reference, strict=True))
        sizes = statistics.median(a.peak_mb / b.peak_mb for a, b in zip(runs, reference, strict=True))
        print(f"{case:32} {seconds:10.3f} {times:16.4f} {peak:9.0f} {sizes:16.3f}")


def _peak_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts kibibytes
