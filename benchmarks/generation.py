"""Pictures a second as a set is drawn, beside the plain pipeline of diffusers called in a loop with the same steps.

    python -m benchmarks.generation
    python -m benchmarks.generation --shape stable_diffusion_1_5 --resolution 256 --batch 2 --pictures 2 --steps 6 \
        --dtype bfloat16

Both draw the same prompts from the same weights on all cores, in turn, after a first round each to warm up; loading does not
count. The plain pipeline computes a batch with as many threads as there are cores. Ours has a process for each core, as
``accelerate launch --config_file recipes/launch/two_cpus.yaml recipes/generate.py`` does, each computing units of one to four
pictures with one thread, so that neither batch nor processes change a byte. On a GPU both draw in this process. The plain
pipeline is float32, as diffusers loads it; ours what ``--dtype`` says. Weights of
Stable Diffusion 1.5's shape are random: what a step costs does not depend on them.
"""

from __future__ import annotations

import argparse
import os
import resource
import statistics
import tempfile
import time
from collections.abc import Callable, Sequence
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import torch

from benchmarks.diffusion_training import build_stable_diffusion_1_5
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.sampling import SamplingSettings, count_together

PROMPTS = ("a harbor", "a dam in a forest", "two storage tanks", "a river")
_loaded: dict[str, Diffusion] = {}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", choices=("stable_diffusion_1_5", "miniature"), default="miniature")
    parser.add_argument("--resolution", type=int, default=0, help="the model's own when left out")
    parser.add_argument("--batch", type=int, default=8, help="of the plain pipeline")
    parser.add_argument("--pictures", type=int, default=16, help="of each turn")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--device", default="cpu")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32", help="of ours, as --model.dtype has it")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="skygen-generation-") as folder:
        name = "miniature"
        if options.shape != name:
            name = str(Path(folder) / "model")
            build_stable_diffusion_1_5(Path(name))
        compare(name, options)


def compare(name: str, options: argparse.Namespace) -> None:
    """Draw with both in turn, and print pictures a second, their ratio, and the largest memory of a process of each."""
    diffusion, dtype = Diffusion.load(name, device=options.device), getattr(torch, options.dtype)
    settings = SamplingSettings(num_inference_steps=options.steps, resolution=options.resolution or diffusion.resolution)
    processes, together = os.cpu_count() or 1, count_together(diffusion.family, settings)
    with ProcessPoolExecutor(processes, get_context("spawn")) as pool:
        ours = partial(draw_in_processes, pool, name, dtype, settings, together)
        if options.device != "cpu":
            own = Diffusion.load(name, device=options.device, dtype=dtype)
            ours = partial(draw_here, own, settings, options.batch)
        plain = partial(draw_plainly, diffusion, settings, options.batch)
        cases: dict[str, Callable[[Sequence[int]], None]] = {"plain pipeline": plain, "skygen": ours}
        taken: dict[str, list[float]] = {case: [] for case in cases}
        for draw in cases.values():
            draw(range(max(options.batch, together * processes)))
        for _ in range(options.repeats):
            for case, draw in cases.items():
                began = time.perf_counter()
                draw(range(options.pictures))
                taken[case].append(time.perf_counter() - began)
    for case, seconds in taken.items():
        print(f"{case}: {options.pictures / statistics.median(seconds):.3f} pictures a second")
    ratios = sorted(plain / own for plain, own in zip(taken["plain pipeline"], taken["skygen"], strict=True))
    print(f"ratio {statistics.median(ratios):.2f}, from {ratios[0]:.2f} to {ratios[-1]:.2f} in {options.repeats} turns")
    memory = [resource.getrusage(who).ru_maxrss / 1e6 for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN)]
    print(f"largest resident memory: {memory[0]:.2f} GB with the plain pipeline, {memory[1]:.2f} GB of each process of ours")


def draw_plainly(diffusion: Diffusion, settings: SamplingSettings, batch: int, numbers: Sequence[int]) -> None:
    """Call the pipeline of diffusers batch by batch."""
    asked: dict[str, Any] = {"height": settings.resolution, "width": settings.resolution}
    asked |= {"num_inference_steps": settings.num_inference_steps, "guidance_scale": settings.guidance_scale}
    for start in range(0, len(numbers), batch):
        some = numbers[start : start + batch]
        generators = [torch.Generator().manual_seed(number) for number in some]
        diffusion.pipeline([PROMPTS[number % len(PROMPTS)] for number in some], generator=generators, **asked)


def draw_in_processes(
    pool: ProcessPoolExecutor, name: str, dtype: torch.dtype, settings: SamplingSettings, together: int, numbers: Sequence[int]
) -> None:
    """Deal units of pictures out to processes of one thread each."""
    units = [numbers[start : start + together] for start in range(0, len(numbers), together)]
    list(pool.map(partial(draw_unit, name, dtype, settings), units))


def draw_unit(name: str, dtype: torch.dtype, settings: SamplingSettings, numbers: Sequence[int]) -> None:
    """Draw in one of the processes; the first call of each loads the model."""
    if name not in _loaded:
        torch.set_num_threads(1)
        _loaded[name] = Diffusion.load(name, dtype=dtype)
    draw_here(_loaded[name], settings, len(numbers), numbers)


def draw_here(diffusion: Diffusion, settings: SamplingSettings, batch: int, numbers: Sequence[int]) -> None:
    """Draw in this process."""
    for start in range(0, len(numbers), batch):
        some = numbers[start : start + batch]
        diffusion.sample([PROMPTS[number % len(PROMPTS)] for number in some], some, settings=settings, together=len(some))


if __name__ == "__main__":
    main()
