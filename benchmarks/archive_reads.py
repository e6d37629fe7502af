"""Read members of a zip at random, several processes at once, beside a ``zipfile.ZipFile`` for each process.

    python -m benchmarks.archive_reads --members 300000 --folder /tmp/skygen-archive

Twice: members stored (method 0), whose reading is all overhead, and with the opening of the archive counted and not.
"""

from __future__ import annotations

import argparse
import multiprocessing
import resource
import statistics
import time
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

from skygen.data.archives import Archive
from skygen.seeding import Seeds

BYTES_A_MEMBER = 2_000


class Worker(NamedTuple):
    """What one process took: seconds to open, seconds to read, peak memory in MB above its start."""

    opening: float
    reading: float
    memory_mb: float


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--members", type=int, default=300_000)
    parser.add_argument("--reads", type=int, default=30_000)
    parser.add_argument("--workers", type=int, default=2)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--folder", type=Path, default=Path("/tmp/skygen-archive"))
    options = parser.parse_args()
    path = write_archive(options.folder, options.members)
    start = time.perf_counter()
    Archive(path)
    print(f"{options.members:,} members; own index built or mapped in {time.perf_counter() - start:.2f} s")
    found: dict[str, list[Worker]] = {"zipfile": [], "skygen": []}
    for _ in range(options.repeats):
        for name in found:
            found[name] += run_workers(name, path, options.workers, options.reads, options.members)
    print(f"{'':10} {'open s':>9} {'reads/s':>10} {'MB each':>9}   of {options.workers} processes at once")
    for name, workers in found.items():
        opening, reading, memory = map(statistics.median, zip(*workers, strict=True))
        print(f"{name:10} {opening:9.3f} {options.reads / reading:10,.0f} {memory:9.0f}")
    pairs = list(zip(found["zipfile"], found["skygen"], strict=True))
    print(f"reads, ratio {statistics.median(a.reading / b.reading for a, b in pairs):.2f}")
    whole = statistics.median((a.opening + a.reading) / (b.opening + b.reading) for a, b in pairs)
    print(f"opening and {options.reads:,} reads, ratio {whole:.2f}")


def write_archive(folder: Path, members: int) -> Path:
    """Write a zip of random bytes, unless it is there."""
    path = folder / f"images2-{members}.zip"
    if not path.exists():
        folder.mkdir(parents=True, exist_ok=True)
        draw = Seeds(0).numpy("archive")
        with zipfile.ZipFile(path, "w") as archive:
            for number in range(members):
                archive.writestr(name_member(number), draw.bytes(BYTES_A_MEMBER))
    return path


def name_member(number: int) -> str:
    """Name a member as SkyScript's are named."""
    return f"images2/a{100_000_000 + number * 7919}_CH_19.jpg"


def run_workers(name: str, path: Path, workers: int, reads: int, members: int) -> list[Worker]:
    """Have several processes read at once, each from its own place in the archive."""
    context = multiprocessing.get_context("spawn")
    with context.Pool(workers) as pool:
        tasks = [(name, path, reads, members, number) for number in range(workers)]
        return pool.starmap(read_at_random, tasks)


def read_at_random(name: str, path: Path, reads: int, members: int, seed: int) -> Worker:
    """Open the archive and read members in a random order."""
    numbers = Seeds(seed).numpy("reads").integers(members, size=reads).tolist()
    before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    start = time.perf_counter()
    read: Callable[[str], bytes] = zipfile.ZipFile(path).read if name == "zipfile" else Archive(path).read
    opened = time.perf_counter()
    total = sum(len(read(name_member(number))) for number in numbers)
    ended = time.perf_counter()
    if total != reads * BYTES_A_MEMBER:
        raise AssertionError(f"{name} read {total} bytes of {reads * BYTES_A_MEMBER}")
    memory = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) * 1024 / 1e6
    return Worker(opened - start, ended - opened, memory)


if __name__ == "__main__":
    main()
