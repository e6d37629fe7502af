"""Trained models -> package data: half precision, and a card beside each that says how it was made and what it scores.

python recipes/miniature/pack.py
"""

from __future__ import annotations

import json
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file

from skygen.config import read_yaml
from skygen.errors import UnavailableError
from skygen.evaluation.scores import Score, from_metrics
from skygen.models.weights import MINIATURE
from skygen.runs import launch, logger

PART_RUNS = {
    "skyclip": ("miniature-skyclip-named", "miniature-skyclip"),
    "captioner": ("miniature-captioner-more", "miniature-captioner"),
    "stable_diffusion": ("miniature-diffusion", "miniature-autoencoder"),
    "judge": ("miniature-judge",),
}
"""The run whose model is shipped, and those that it builds on."""
SCORE_RUNS = {
    "skyclip": ("miniature-scorer",),
    "captioner": ("miniature-captioner-scores",),
    "stable_diffusion": ("miniature-scenes-scores", "miniature-eurosat-scores", "miniature-autoencoder"),
    "judge": ("miniature-judge",),
}
TITLES = {
    "skyclip": "SkyCLIP-miniature",
    "captioner": "Captioner-miniature",
    "stable_diffusion": "Stable-Diffusion-miniature",
    "judge": "Judge-miniature",
}
WORLD = "of the 26 classes of the fabricated world"
COPERNICUS = "Contains modified Copernicus Sentinel data."
NOTES = {
    "skyclip": f"An open_clip ViT (8-pixel patches, 64 pixels), trained on all {WORLD} and "
    f"on EuroSAT's train images. {COPERNICUS}",
    "captioner": f"A BLIP captioner, trained on 20 {WORLD} and on EuroSAT's train images; the other six are left for a LoRA. "
    f"{COPERNICUS}",
    "stable_diffusion": f"A Stable Diffusion at 64 pixels, trained on 20 {WORLD} and on EuroSAT's train images; the other six "
    f"are left for a LoRA. Its text encoder is SkyCLIP-miniature's, frozen; its autoencoder has seen all of them. {COPERNICUS}",
    "judge": f"A ResNet classifier, trained on all {WORLD} and on EuroSAT's train images; it shares no weights with "
    f"SkyCLIP-miniature. {COPERNICUS}",
}


@dataclass(frozen=True)
class Config:
    """Pack the miniature's models."""

    runs: Path = Path("runs")
    """Folder of the runs that trained and scored them."""
    output: Path = field(default=MINIATURE)
    """Where the package keeps them."""


def main(config: Config) -> None:
    for part, runs in PART_RUNS.items():
        source = config.runs / runs[0] / "model"
        if not source.is_dir():
            raise UnavailableError(f"{source}: not there; train it first, see recipes/miniature/build.sh.")
        target = config.output / part
        shutil.rmtree(target, ignore_errors=True)
        shutil.copytree(source, target)
        for path in target.rglob("*.safetensors"):
            save_file({name: to_half(tensor) for name, tensor in load_file(path).items()}, path, metadata={"format": "pt"})
        (target / "README.md").write_text(write_card(part, config.runs), encoding="utf-8")
    size = sum(path.stat().st_size for path in config.output.rglob("*") if path.is_file())
    logger.info(f"{config.output}: {size / 1e6:.2f} MB")


def to_half(tensor: torch.Tensor) -> torch.Tensor:
    """Halve what is float; loading makes it float32 again."""
    return tensor.half() if tensor.is_floating_point() else tensor


def write_card(part: str, runs: Path) -> str:
    """Write a model card from the records of the runs that trained and scored the part."""
    lines = ["---", "license: mit", "tags: [remote-sensing, miniature]", "---", f"# {TITLES[part]}", "", NOTES[part], ""]
    lines += ["Built by `recipes/miniature/build.sh`. A small model for trying skygen offline; not for any real use.", ""]
    lines += ["| training | steps | images a step | seconds | data | device |", "|---|---|---|---|---|---|"]
    for run in PART_RUNS[part]:
        lines.append(describe_training(runs / run))
    lines += ["", "| score | of | value | 95 % interval | count | run | subset |", "|---|---|---|---|---|---|---|"]
    for run in SCORE_RUNS[part]:
        path = runs / run / "metrics.json"
        if path.is_file():
            lines += [describe_score(row, run) for row in from_metrics(json.loads(path.read_text(encoding="utf-8")))]
    return "\n".join(lines) + "\n"


def describe_training(run: Path) -> str:
    """Say in a table row how long a run trained, on what."""
    steps = [json.loads(line) for line in (run / "log.jsonl").read_text(encoding="utf-8").splitlines()]
    seconds = sum(step["images"] / step["images_per_second"] for step in steps)
    environment = json.loads((run / "environment.json").read_text(encoding="utf-8"))
    data = describe_data(read_yaml(run / "config.yaml")["pairs"])
    return f"| {run.name} | {steps[-1]['step']} | {steps[-1]['images']} | {seconds:.0f} | {data} | {environment['device']} |"


def describe_data(pairs: dict[str, Any]) -> str:
    """Name the data sets without the folders they lay in."""
    more = [Path(place).name for place in pairs.get("also", [])]
    return ", ".join([f"{Path(pairs['root']).name}/{pairs['csv']}", *more])


def describe_score(score: Score, run: str) -> str:
    """Turn a score into a table row."""
    interval = "" if score.interval is None else f"[{score.interval[0]:.4f}, {score.interval[1]:.4f}]"
    cells = (score.name, score.model, f"{score.value:.4f}", interval, score.count, run, score.subset)
    return "| " + " | ".join(map(str, cells)) + " |"


if __name__ == "__main__":
    launch(main, Config)
