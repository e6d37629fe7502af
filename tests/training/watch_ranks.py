"""A program for `accelerate launch`: what two processes plan, see and hold, and what they say when one of them goes astray."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toy import Linear, build_stream, build_trainer, train_pairs

from skygen.errors import SkygenError
from skygen.training.loop import Trainer
from skygen.training.reduction import checksum

UPDATES = 6


class Watched(Linear):
    """Notes the noise's seed of every micro-batch; where told, moves its own weight by one unit in the last place, or spoils
    its loss in the third update, or has memory for one example at a time."""

    def __init__(self) -> None:
        super().__init__(noise=0.3)
        self.heard: list[int] = []
        self.strays = self.spoils = self.is_narrow = False

    def loss(self, batch: Any, generator: torch.Generator) -> torch.Tensor:
        self.heard.append(generator.initial_seed())
        if self.strays:
            stray(self)
        if self.is_narrow and len(batch.keys) > 1:
            raise torch.OutOfMemoryError("CUDA out of memory.")
        return super().loss(batch, generator) * (float("nan") if self.spoils and len(self.heard) == 3 else 1.0)


def stray(learner: Linear) -> None:
    weight: Any = learner.network.weight
    with torch.no_grad():
        weight[0, 7] = torch.nextafter(weight[0, 7], torch.tensor(9.0))


def begin(world: Path, folder: Path, accelerator: Accelerator, **settings: Any) -> tuple[Trainer, Watched]:
    learner = Watched()
    parameters = dict(learner.network.named_parameters())
    usual = {"max_train_steps": UPDATES, "train_batch_size": 4 // accelerator.num_processes, "ema_decay": 0.5}
    return build_trainer(
        learner, parameters, build_stream(train_pairs(world)), accelerator, folder, **(usual | settings)
    ), learner


def watch(world: Path, folder: Path, accelerator: Accelerator, accumulation: int) -> dict[str, Any]:
    trainer, learner = begin(world, folder, accelerator, gradient_accumulation_steps=accumulation)
    rates, used, losses = [], [], []
    for step in trainer.steps():
        rates.append(step.learning_rate)
        used += [group["lr"] for group in trainer.optimizer.param_groups[:1]]
        losses.append(step.loss)
    return {"rates": rates, "used": used, "losses": losses, "noise": learner.heard}


def go_astray(world: Path, folder: Path, accelerator: Accelerator) -> dict[str, str]:
    """Let the second process differ at the start, in the first update, before a save, and in what it continues from."""
    second = accelerator.process_index == 1
    said: dict[str, str] = {}

    def note(when: str, trainer: Trainer, learner: Watched) -> None:
        try:
            for step in trainer.steps():
                if step.step == 2:
                    if second and when == "save":
                        stray(learner)
                    trainer.save()
            said[when] = ""
        except SkygenError as error:
            said[when] = str(error)

    for when in ("never", "start", "update", "save"):
        trainer, learner = begin(world, folder / when, accelerator)
        if second and when == "start":
            stray(learner)
        learner.strays = second and when == "update"
        note(when, trainer, learner)
    note("resume", *begin(world, folder / ("elsewhere" if second else "never"), accelerator, max_train_steps=UPDATES + 1))
    return said


def spoil(world: Path, folder: Path, accelerator: Accelerator) -> dict[str, Any]:
    """Let the second process have a loss that is not finite, and too little memory."""
    trainer, learner = begin(world, folder / "spoilt", accelerator)
    learner.spoils = accelerator.process_index == 1
    steps = [(step.skipped, list(step.skipped_keys), checksum(trainer.parameters).tolist()) for step in trainer.steps()]
    narrow, learner = begin(world, folder / "narrow", accelerator)
    learner.noise, learner.is_narrow = 0.0, accelerator.process_index == 1
    losses = [step.loss for step in narrow.steps()]
    wide, learner = begin(world, folder / "wide", accelerator)
    learner.noise = 0.0
    return {"spoilt": steps, "narrow": losses, "wide": [step.loss for step in wide.steps()]}


def main(world: Path, out: Path) -> None:
    accelerator = Accelerator(cpu=True)
    rank, processes = accelerator.process_index, accelerator.num_processes
    seen: dict[str, Any] = {str(each): watch(world, out / str(each), accelerator, each) for each in (1, 3)}
    if processes > 1:
        seen["said"] = go_astray(world, out, accelerator)
        seen |= spoil(world, out, accelerator)
    (out / f"rank-{rank}-of-{processes}.json").write_text(json.dumps(seen))
    accelerator.end_training()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
