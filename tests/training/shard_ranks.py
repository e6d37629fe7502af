"""A program for `accelerate launch`: the same LoRA trained on a whole UNet and on one that is dealt out to two processes."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator, DistributedType
from torch import nn

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toy import build_stream, build_trainer, train_pairs

from skygen.data.framing import ImageSettings
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion
from skygen.seeding import Seeds
from skygen.training.sharding import is_sharded, shard_frozen

UPDATES = 3


def train(world: Path, model: Path, out: Path, accelerator: Accelerator, sharded: bool) -> dict[str, Any]:
    """Train on a stream of which the second process cannot read the images of the second update."""
    accelerator.state.distributed_type = DistributedType.FSDP if sharded else DistributedType.MULTI_CPU
    diffusion = Diffusion.load(str(model))
    trained = diffusion.attach(LoraSettings(rank=4, lora_dropout=0.1), Seeds(5))
    before = {name: parameter.detach().clone() for name, parameter in trained.parameters.items()}
    held = sum(parameter.numel() for parameter in diffusion.network.parameters())
    assert shard_frozen(diffusion.network, trained.parameters.values(), accelerator) == sharded
    assert is_sharded(diffusion.network) == sharded
    here = sum(whole_or_share(parameter).numel() for parameter in diffusion.network.parameters())
    pairs = train_pairs(world)
    images = ImageSettings(resolution=64, random_dihedral=False)
    plain = build_stream(pairs, images=images)
    bad = {example.key for example in (plain[6], plain[7]) if example is not None}
    pairs = [replace(pair, image=Path("absent.jpg")) if pair.key in bad else pair for pair in pairs]
    stream = build_stream(pairs, images=images)
    settings = {"max_train_steps": UPDATES, "train_batch_size": 2, "lr_warmup_steps": 0}
    trainer = build_trainer(diffusion, trained.parameters, stream, accelerator, out / "checkpoints", **settings)
    counts, losses = [], []
    for step in trainer.steps():
        counts.append(step.images)
        losses.append(step.loss)
    trainer.save()
    if accelerator.is_main_process:
        trained.save(out / "adapter")
    accelerator.wait_for_everyone()
    moved = [name for name in before if not torch.equal(before[name], trained.parameters[name])]
    kinds = {f"{type(parameter).__name__} {parameter.dtype}" for parameter in trained.parameters.values()}
    return {
        "losses": losses,
        "images": counts,
        "moved": len(moved) / len(before),
        "kinds": sorted(kinds),
        "share": here / held,
    }


def whole_or_share(parameter: nn.Parameter) -> torch.Tensor:
    local: torch.Tensor = parameter.to_local() if hasattr(parameter, "to_local") else parameter
    return local


def main(world: Path, model: Path, out: Path) -> None:
    accelerator = Accelerator(cpu=True)
    seen = {kind: train(world, model, out / kind, accelerator, kind == "sharded") for kind in ("whole", "sharded")}
    (out / f"rank-{accelerator.process_index}.json").write_text(json.dumps(seen))
    accelerator.end_training()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
