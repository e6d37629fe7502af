"""Pictures a second of ``Diffusion.sample``, beside the plain pipeline of diffusers called with the same batch and steps.

    python -m benchmarks.generation
    python -m benchmarks.generation --shape stable_diffusion_1_5 --resolution 256 --batch 2 --pictures 2 --steps 3

Both draw with the same loaded weights, in turn in one process, after one picture each to warm up. Those of Stable Diffusion
1.5's shape are random: what a step costs does not depend on them. On the CPU ours computes one picture at a time, so that the
batch changes no byte; the plain pipeline computes the whole batch.
"""

from __future__ import annotations

import argparse
import resource
import statistics
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from benchmarks.diffusion_training import build_stable_diffusion_1_5
from skygen.models.diffusion import Diffusion

PROMPTS = ("a harbor", "a dam in a forest", "two storage tanks", "a river")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("stable_diffusion_1_5", "miniature"), default="miniature")
    parser.add_argument("--resolution", type=int, default=0, help="the model's own when left out")
    parser.add_argument("--batch", type=int, default=4)
    parser.add_argument("--pictures", type=int, default=8, help="of each turn")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skygen-generation-") as folder:
        name = "miniature"
        if options.shape != name:
            name = str(Path(folder) / "model")
            build_stable_diffusion_1_5(Path(name))
        compare(Diffusion.load(name, device=options.device), options)


def compare(diffusion: Diffusion, options: argparse.Namespace) -> None:
    """Draw with both in turn, and print pictures a second and their ratio."""
    side = options.resolution or diffusion.resolution

    def ours(prompts: list[str], seeds: list[int]) -> Any:
        return diffusion.sample(prompts, seeds, num_inference_steps=options.steps, resolution=side)

    def plain(prompts: list[str], seeds: list[int]) -> Any:
        generators = [torch.Generator().manual_seed(seed) for seed in seeds]
        asked = {"num_inference_steps": options.steps, "guidance_scale": 5.0, "height": side, "width": side}
        return diffusion.pipeline(prompts, generator=generators, **asked).images

    cases: dict[str, Callable[[list[str], list[int]], Any]] = {"plain pipeline": plain, "skygen": ours}
    taken: dict[str, list[float]] = {case: [] for case in cases}
    for draw in cases.values():
        draw([PROMPTS[0]], [0])
    for _ in range(options.repeats):
        for case, draw in cases.items():
            began = time.perf_counter()
            for start in range(0, options.pictures, options.batch):
                numbers = list(range(start, min(start + options.batch, options.pictures)))
                draw([PROMPTS[number % len(PROMPTS)] for number in numbers], numbers)
            taken[case].append(time.perf_counter() - began)
    for case, seconds in taken.items():
        print(f"{case}: {options.pictures / statistics.median(seconds):.3f} pictures a second")
    print(f"ratio {statistics.median(taken['plain pipeline']) / statistics.median(taken['skygen']):.2f}")
    print(f"largest resident memory of both: {resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e6:.2f} GB")


if __name__ == "__main__":
    main()
