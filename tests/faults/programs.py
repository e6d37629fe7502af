"""The recipes and commands that faults are tried on, over a small world, each as the words of one command."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from faults.forking import ROOT, Forks

CHECKPOINTING_STEPS = 3


@dataclass(frozen=True, slots=True)
class World:
    """What the programs read.

    Args:
        data: pairs.
        captioner: its folder.
        diffusion: its folder.
        scorer: its folder.
        folder: for what one program makes and another reads.
    """

    data: Path
    captioner: Path
    diffusion: Path
    scorer: Path
    folder: Path


@dataclass(frozen=True, slots=True)
class Program:
    """A command that writes below one folder.

    Args:
        words: all of them, for a folder.
        prepare: lays what it needs into that folder, or makes what it reads.
        checkpointing_steps: of a training, which it may have to do again; 0 for what saves no checkpoints.
    """

    words: Callable[[World, Path], list[str]]
    prepare: Callable[[World, Path, Forks], None] = field(default=lambda world, root, forks: None)
    checkpointing_steps: int = 0


@dataclass(frozen=True, slots=True)
class Unbroken:
    """What a program has left that nothing befell.

    Args:
        contents: of its folder.
        seconds: that it took.
        size_bytes: that it has added to its folder, on a tmpfs.
    """

    contents: dict[str, Any]
    seconds: float
    size_bytes: int


def recipe(name: str, root: Path, **flags: Any) -> list[str]:
    """Return the words of a recipe whose run is `root/run`; two underscores of a flag are a dot."""
    words = {"run__name": "run", "run__root": root} | flags
    return [str(ROOT / "recipes" / f"{name}.py"), *(f"--{key.replace('__', '.')}={value}" for key, value in words.items())]


def training(name: str, world: World, root: Path, model: Path, **more: Any) -> list[str]:
    flags: dict[str, Any] = {"pairs__root": world.data, "pairs__split": "train", "model__name": model, "images__resolution": 64}
    flags |= {"lora__rank": 4, "lora__lora_dropout": 0.1, "train__train_batch_size": 2, "train__learning_rate": 1e-3}
    flags |= {"train__max_train_steps": 12, "train__checkpointing_steps": CHECKPOINTING_STEPS, "train__ema_decay": 0.9}
    flags |= {"train__gradient_accumulation_steps": 2}
    return recipe(name, root, **flags | more)


def finetune_diffusion(world: World, root: Path, **more: Any) -> list[str]:
    quick = {"validation__steps": 0, "validation__images": 0}
    return training("finetune_diffusion", world, root, world.diffusion, **quick | more)


def finetune_captioner(world: World, root: Path, **more: Any) -> list[str]:
    return training("finetune_captioner", world, root, world.captioner, **more)


def generate(world: World, root: Path, **more: Any) -> list[str]:
    flags = {"pairs__root": world.data, "pairs__split": "train", "model__name": world.diffusion, "scorer__name": world.scorer}
    quick = {"generation__num_inference_steps": 1, "generation__count": 24, "generation__batch_size": 4}
    return recipe("generate", root, **flags | quick | more)


def score_pairs(world: World, root: Path, **more: Any) -> list[str]:
    flags = {"pairs__root": world.data, "scorer__name": world.scorer, "scoring__save_embeddings": True}
    quick = {"scoring__precision": "fp32", "scoring__batch_size": 8, "scoring__dataloader_num_workers": 0}
    return recipe("score_pairs", root, **flags | quick | more)


def caption(world: World, root: Path, **more: Any) -> list[str]:
    flags = {"images": world.data, "model__name": world.captioner, "shard_size": 5}
    quick = {"captioning__batch_size": 5, "captioning__max_new_tokens": 4, "captioning__num_beams": 2}
    return recipe("caption", root, **flags | quick | more)


def screen_images(world: World, root: Path, **more: Any) -> list[str]:
    flags = {"samples__root": world.folder / "drawn" / "run" / "samples", "pairs__root": world.data}
    return recipe("screen_images", root, **flags | {"scorer__name": world.scorer} | more)


def evaluate_images(world: World, root: Path, **more: Any) -> list[str]:
    flags = {"samples__root": world.folder / "drawn" / "run" / "samples", "pairs__root": world.data, "pairs__split": "train"}
    return recipe("evaluate_images", root, **flags | {"scorer__name": world.scorer, "intervals__resamples": 20} | more)


def keep_features(world: World, root: Path) -> list[str]:
    kept = {"features__root": root / "features", "features__shard_size": 32, "features__batch_size": 4}
    return finetune_captioner(world, root, train__max_train_steps=1, **kept)


def keep_prompts(world: World, root: Path) -> list[str]:
    kept = {"features__root": root / "features", "features__shard_size": 32, "features__batch_size": 4}
    return finetune_diffusion(world, root, train__max_train_steps=1, images__crop=False, **kept)


def index(world: World, root: Path) -> list[str]:
    return ["skygen", "index", str(root / "world")]


def export(world: World, root: Path) -> list[str]:
    adapter = world.folder / "tuned" / "run" / "adapter"
    return ["skygen", "export", str(adapter), "--format", "kohya", "--output", str(root / "lora.safetensors"), "--overwrite"]


def report(world: World, root: Path) -> list[str]:
    return ["skygen", "report", str(world.folder / "drawn" / "run"), "--output", str(root / "report.html")]


def copy_world(world: World, root: Path, forks: Forks) -> None:
    shutil.copytree(world.data, root / "world", ignore=shutil.ignore_patterns(".skygen"))  # an index that another test has made


def draw(world: World, root: Path, forks: Forks) -> None:
    """Have pictures to screen or to report, drawn once for all tests of a process."""
    root.mkdir(parents=True, exist_ok=True)
    if not (world.folder / "drawn").exists():
        forks.run(generate(world, world.folder / "drawn"))


def tune(world: World, root: Path, forks: Forks) -> None:
    """Have an adapter to export, trained once for all tests of a process."""
    root.mkdir(parents=True, exist_ok=True)
    if not (world.folder / "tuned").exists():
        forks.run(finetune_diffusion(world, world.folder / "tuned", train__max_train_steps=2))


PROGRAMS = {
    "finetune_diffusion": Program(finetune_diffusion, checkpointing_steps=CHECKPOINTING_STEPS),
    "finetune_captioner": Program(finetune_captioner, checkpointing_steps=CHECKPOINTING_STEPS),
    "generate": Program(generate),
    "score_pairs": Program(score_pairs),
    "caption": Program(caption),
    "screen_images": Program(screen_images, draw),
    "kept features": Program(keep_features),
    "kept prompts and latents": Program(keep_prompts),
    "skygen index": Program(index, copy_world),
    "skygen export": Program(export, tune),
    "skygen report": Program(report, draw),
}
