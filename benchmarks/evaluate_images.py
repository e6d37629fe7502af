"""What evaluating pictures costs: seconds of each metric, and how memory grows with the number of images.

    python -m benchmarks.evaluate_images
    python -m benchmarks.evaluate_images --pairs 1000 10000 --processes 2

As many real as generated images are made, 64 pixels wide, of coarse noise: what a metric costs does not depend on what is seen.
Each size is evaluated by a run of its own of ``recipes/evaluate_images.py`` with the miniature's scorer and judge, the
smallest first; the peak is that of the largest process so far, the libraries included.
"""

from __future__ import annotations

import argparse
import json
import resource
import subprocess
import tempfile
import time
from pathlib import Path

import numpy as np
from PIL import Image

from skygen.seeding import Seeds

CLASSES = ("forest", "highway", "river", "residential", "pasture")
SIDE = 64


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--pairs", type=int, nargs="+", default=[1000, 10000])
    parser.add_argument("--processes", type=int, choices=(1, 2), default=1)
    parser.add_argument("--resamples", type=int, default=200)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skygen-evaluate-") as name:
        folder = Path(name)
        write_images(folder, max(options.pairs))
        for count in sorted(options.pairs):
            measure(folder, count, options)


def write_images(folder: Path, count: int) -> None:
    """Write folders of real images, a class each, and an imagefolder as ``recipes/generate.py`` leaves it."""
    start = time.monotonic()
    for side in ("real", "drawn"):
        for index in range(count):
            coarse = Seeds(1).numpy(side, index).integers(0, 255, (8, 8, 3), dtype=np.uint8)
            path = folder / side / (CLASSES[index % len(CLASSES)] if side == "real" else "images") / f"{index:06d}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(coarse).resize((SIDE, SIDE), Image.Resampling.BICUBIC).save(path)
    print(f"{2 * count} images written in {time.monotonic() - start:.0f} s")


def measure(folder: Path, count: int, options: argparse.Namespace) -> None:
    """Evaluate so many of the images on either side."""
    records = [
        {"file_name": f"images/{index:06d}.png", "text": f"a satellite image of a {name}", "index": index, "seed": index,
         "key": "", "class": name, "model": "tuned"}
        for index, name in enumerate(CLASSES[index % len(CLASSES)] for index in range(count))
    ]  # fmt: skip
    (folder / "drawn" / "metadata.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    config = f"recipes/launch/{('cpu', 'two_cpus')[options.processes - 1]}.yaml"
    launch = ["accelerate", "launch", "--quiet", "--config_file", config]
    words = ["recipes/evaluate_images.py", "--run.root", str(folder / "runs"), "--run.name", str(count), "--samples.root",
             str(folder / "drawn"), "--pairs.root", str(folder / "real"), "--pairs.limit", str(count), "--judge.name",
             "miniature", "--intervals.resamples", str(options.resamples)]  # fmt: skip
    start = time.monotonic()
    subprocess.run([*launch, *words], check=True, stderr=subprocess.DEVNULL)
    seconds, peak = time.monotonic() - start, resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss * 1024
    metrics = json.loads((folder / "runs" / str(count) / "metrics.json").read_text())
    print(f"{count} pairs, {options.processes} processes: {seconds:.0f} s, peak {peak / 1e6:.0f} MB a process")
    for name, spent in sorted(metrics["seconds"].items(), key=lambda item: -item[1]):
        print(f"  {spent:8.1f} s  {name}")


if __name__ == "__main__":
    main()
