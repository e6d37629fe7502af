"""Fine-tuning of a Stable Diffusion by ``recipes/finetune_diffusion.py``, beside diffusers' train_text_to_image_lora.py.

    python -m benchmarks.diffusion_training --peer TRAIN_TEXT_TO_IMAGE_LORA.py
    python -m benchmarks.diffusion_training --peer TRAIN_TEXT_TO_IMAGE_LORA.py --shape miniature --batch 16 --steps 30

Each case is the whole script, in a process of its own, in turn, watched in the same way: when torch's optimizer steps, how long
a DataLoader's ``next`` takes, the largest resident memory. The weights of Stable Diffusion 1.5's shape are random: what a step
costs does not depend on them. Both train a LoRA of the same rank on the attention layers, with the same batch, on the same
folder of images. Ours is run without caches, with caches that it has to make first (cold), and with those it finds (warm). The
peer is a file of the diffusers repository (examples/text_to_image) and needs ``datasets`` and ``tensorboard``.
"""

from __future__ import annotations

import argparse
import json
import os
import resource
import runpy
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from itertools import pairwise
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from skygen.evaluation.intervals import bootstrap_interval
from skygen.models.weights import MINIATURE
from skygen.seeding import Seeds

RECIPE = Path(__file__).resolve().parents[1] / "recipes" / "finetune_diffusion.py"
CONTEXT = 77
"""Tokens of CLIP's text encoder."""
Command = list[str]


@dataclass(frozen=True, slots=True)
class Watched:
    """What one run of a script took.

    Args:
        steps: seconds from one optimizer step to the next; the way to the first is not among them.
        waiting: of these, seconds in a DataLoader's ``next``.
        before: seconds from the start of the script, its imports included, to the first optimizer step.
        peak_mb: largest resident memory, in 10^6 bytes; on a GPU, largest allocated there.
    """

    steps: tuple[float, ...]
    waiting: float
    before: float
    peak_mb: float


def main() -> None:
    if "--watch" in sys.argv[1:2]:
        return watch(Path(sys.argv[2]), Path(sys.argv[3]), sys.argv[4:])
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument(
        "--peer", type=Path, required=True, help="diffusers' examples/text_to_image/train_text_to_image_lora.py"
    )
    parser.add_argument("--shape", choices=("stable_diffusion_1_5", "miniature"), default="stable_diffusion_1_5")
    parser.add_argument("--resolution", type=int, default=0, help="256, and 64 of the miniature, when left out")
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--steps", type=int, default=7, help="of each run; the first is left out of the figures")
    parser.add_argument("--repeats", type=int, default=2)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--rank", type=int, default=4)
    parser.add_argument("--workers", type=int, default=0)
    parser.add_argument("--compile", action="store_true", help="ours is compiled too, in a case of its own")
    options = parser.parse_args()
    options.resolution = options.resolution or (64 if options.shape == "miniature" else 256)
    folder = Path(tempfile.mkdtemp(prefix="skygen-diffusion-training-"))
    try:
        compare(folder, options)
    finally:
        shutil.rmtree(folder)


def compare(folder: Path, options: argparse.Namespace) -> None:
    """Run every case in turn, and print medians and ratios to the peer in float32."""
    model = MINIATURE / "stable_diffusion"
    if options.shape != "miniature":
        model = folder / "model"
        build_stable_diffusion_1_5(model)
    write_images(folder / "images", options)
    cases = list_cases(folder, model, options)
    found: dict[str, list[Watched]] = {name: [] for name in cases}
    for turn in range(options.repeats):
        for name, command in cases.items():
            found[name].append(run_watched(command(turn), folder / "watched.json"))
            print(
                f"{name}, run {turn + 1}: {statistics.median(found[name][-1].steps):.3f} s a step", file=sys.stderr, flush=True
            )
    print_table(found, options)


def list_cases(folder: Path, model: Path, options: argparse.Namespace) -> dict[str, Callable[[int], Command]]:
    """Return, by name, what gives the words of each case's n-th run."""

    def peer(precision: str) -> Callable[[int], Command]:
        return lambda turn: peer_command(folder / f"peer-{precision}-{turn}", folder, model, precision, options)

    def ours(name: str, *flags: str, keep: str = "", dtype: str = "bfloat16") -> Callable[[int], Command]:
        def command(turn: int) -> Command:
            kept = ["--features.root", str(folder / keep.format(turn))] if keep else []
            return [*skygen_command(folder, model, f"{name}-{turn}", dtype, options), *kept, *flags]

        return command

    cases = {
        "peer, float32": peer("no"),
        "peer, bf16": peer("bf16"),
        "skygen, float32, nothing kept": ours("plain", dtype="float32"),
        "skygen, float32, warm": ours("full", keep="full", dtype="float32"),
        "skygen, bf16, cold": ours("cold", keep="kept-{}"),
        "skygen, bf16, warm": ours("warm", keep="kept-{}"),
    }
    if options.compile:
        cases["skygen, bf16, warm, compiled"] = ours("compiled", "--model.compile", "True", keep="kept-{}")
    return cases


def peer_command(output: Path, folder: Path, model: Path, precision: str, options: argparse.Namespace) -> Command:
    """Return the script of diffusers and its flags."""
    flags = {
        "pretrained_model_name_or_path": model,
        "train_data_dir": folder / "images",
        "caption_column": "text",
        "cache_dir": folder / "peer-datasets",
        "output_dir": output,
        "resolution": options.resolution,
        "train_batch_size": options.batch,
        "max_train_steps": options.steps,
        "checkpointing_steps": 1_000_000,
        "lr_warmup_steps": 0,
        "rank": options.rank,
        "seed": 0,
        "snr_gamma": 5.0,
        "mixed_precision": precision,
        "dataloader_num_workers": options.workers,
    }
    return [str(options.peer), *(f"--{name}={value}" for name, value in flags.items()), "--center_crop"]


def skygen_command(folder: Path, model: Path, name: str, dtype: str, options: argparse.Namespace) -> Command:
    """Return the recipe and its flags."""
    flags = {
        "run.name": name,
        "run.root": folder / "runs",
        "pairs.root": folder / "images",
        "model.name": model,
        "model.dtype": dtype,
        "images.resolution": options.resolution,
        "images.center_crop": True,
        "images.random_dihedral": False,
        "captions.dropout": 0.0,
        "lora.rank": options.rank,
        "lora.targets": "attention",
        "train.train_batch_size": options.batch,
        "train.max_train_steps": options.steps,
        "train.checkpointing_steps": 1_000_000,
        "train.mixed_precision": "bf16" if dtype == "bfloat16" else "no",
        "train.dataloader_num_workers": options.workers,
    }
    return [str(RECIPE), *(word for key, value in flags.items() for word in (f"--{key}", str(value)))]


def run_watched(command: Command, answer: Path) -> Watched:
    """Run a script under ``watch`` in a process of its own."""
    words = [sys.executable, "-m", "benchmarks.diffusion_training", "--watch", str(answer), *command]
    environment = os.environ | {"HF_HUB_OFFLINE": "1", "TOKENIZERS_PARALLELISM": "false"}
    done = subprocess.run(words, capture_output=True, text=True, env=environment, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stdout[-2000:]}\n{done.stderr[-4000:]}")
    read = json.loads(answer.read_text(encoding="utf-8"))
    return Watched(**(read | {"steps": tuple(read["steps"])}))


def watch(answer: Path, script: Path, arguments: Sequence[str]) -> None:
    """Run a script in this process as if it had been started, and write what it took."""
    from torch.optim.optimizer import register_optimizer_step_post_hook
    from torch.utils.data import dataloader

    moments: list[tuple[float, float]] = []
    waited = 0.0
    advance: Any = dataloader._BaseDataLoaderIter.__next__

    def advance_watched(self: Any) -> Any:
        nonlocal waited
        begun = time.perf_counter()
        try:
            return advance(self)
        finally:
            waited += time.perf_counter() - begun

    def note(*_: Any) -> None:
        if torch.cuda.is_available():
            torch.cuda.synchronize()
        moments.append((time.perf_counter(), waited))

    dataloader._BaseDataLoaderIter.__next__ = advance_watched  # type: ignore[method-assign]
    register_optimizer_step_post_hook(note)
    sys.argv = [str(script), *arguments]
    begun = time.perf_counter()
    try:
        runpy.run_path(str(script), run_name="__main__")
    except SystemExit as end:
        if end.code:
            raise
    steps = tuple(later[0] - earlier[0] for earlier, later in pairwise(moments))
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e6  # Linux counts kibibytes
    if torch.cuda.is_available():
        peak = torch.cuda.max_memory_allocated() / 1e6
    watched = Watched(steps, moments[-1][1] - moments[0][1], moments[0][0] - begun, peak)
    answer.write_text(json.dumps(asdict(watched)), encoding="utf-8")


def print_table(found: Mapping[str, Sequence[Watched]], options: argparse.Namespace) -> None:
    """Print medians over all steps of all runs; ratios are of a run's median step to that of the same turn's peer."""
    print(f"{options.shape}, {options.resolution} pixels, batch {options.batch}, rank {options.rank}, {options.images} images")
    print(f"{options.repeats} runs of {options.steps - 1} steps each, {torch.get_num_threads()} threads, {_device()}")
    print(
        f"{'case':32} {'s a step':>9} {'images/s':>9} {'waiting':>8} {'before s':>9} {'peak MB':>8}  times as fast as the peer"
    )
    reference = next(iter(found.values()))
    for name, runs in found.items():
        step = statistics.median(second for run in runs for second in run.steps)
        waiting = sum(run.waiting for run in runs) / sum(sum(run.steps) for run in runs)
        before, peak = (statistics.median(getattr(run, part) for run in runs) for part in ("before", "peak_mb"))
        ratios = np.array(
            [a / b for one, own in zip(reference, runs, strict=True) for a, b in zip(one.steps, own.steps, strict=True)]
        )
        low, high = bootstrap_interval(ratios, seeds=Seeds(0), statistic=lambda items: float(np.median(items)))
        speed = f"{np.median(ratios):.2f} [{low:.2f}, {high:.2f}]"
        print(f"{name:32} {step:9.3f} {options.batch / step:9.3f} {waiting:8.2%} {before:9.1f} {peak:8.0f}  {speed}")


def _device() -> str:
    return torch.cuda.get_device_name() if torch.cuda.is_available() else "the processor"


def build_stable_diffusion_1_5(folder: Path) -> None:
    """Write a pipeline of Stable Diffusion 1.5's shape with random weights, which reads the miniature's tokens."""
    from diffusers import AutoencoderKL, DDPMScheduler, StableDiffusionPipeline, UNet2DConditionModel
    from transformers import AutoTokenizer, CLIPTextConfig, CLIPTextModel

    Seeds(0).reset_global("weights")
    widths = (128, 256, 512, 512)
    vae = AutoencoderKL(
        block_out_channels=widths,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=2,
        latent_channels=4,
        sample_size=512,
    )
    unet = UNet2DConditionModel(sample_size=64, cross_attention_dim=768)  # whose other defaults are those of 1.5
    text = CLIPTextConfig(
        vocab_size=49_408, hidden_size=768, intermediate_size=3072, num_hidden_layers=12, num_attention_heads=12
    )
    scheduler = DDPMScheduler(beta_start=0.00085, beta_end=0.012, beta_schedule="scaled_linear", clip_sample=False)
    tokenizer = AutoTokenizer.from_pretrained(MINIATURE / "stable_diffusion" / "tokenizer", model_max_length=CONTEXT)
    pipeline = StableDiffusionPipeline(
        vae, CLIPTextModel(text), tokenizer, unet, scheduler, safety_checker=None, feature_extractor=None,
        requires_safety_checker=False,
    )  # fmt: skip
    pipeline.save_pretrained(folder, safe_serialization=True)


def write_images(root: Path, options: argparse.Namespace) -> None:
    """Write JPEGs a fifth larger than the training resolution, each with a caption of its own, as an imagefolder."""
    root.mkdir()
    draw, side = Seeds(0).numpy("images"), options.resolution * 6 // 5
    lines = []
    for number in range(options.images):
        coarse = Image.fromarray(draw.integers(0, 256, (side // 12, side // 12, 3), dtype="uint8"))
        coarse.resize((side, side), Image.Resampling.BICUBIC).save(root / f"{number:04d}.jpg", quality=88)
        lines.append(json.dumps({"file_name": f"{number:04d}.jpg", "text": f"a satellite image of building number {number}"}))
    (root / "metadata.jsonl").write_text("\n".join(lines) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
