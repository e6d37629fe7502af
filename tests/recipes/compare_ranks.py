"""A program for `accelerate launch`: two updates of the real diffusion LoRA, and from every process what it saw and has."""

import hashlib
import json
import sys
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))

from toy import OneByOne, build_learner, build_stream, build_trainer, train_pairs

IMAGES_AN_UPDATE = 4


class Watched(OneByOne):
    """Notes the noise's seed and the images of every micro-batch."""

    def __init__(self, inner: Any) -> None:
        super().__init__(inner)
        self.noise: list[int] = []
        self.keys: list[list[str]] = []

    def loss(self, batch: Any, generator: torch.Generator) -> torch.Tensor:
        self.noise.append(generator.initial_seed())
        self.keys.append(list(batch.keys))
        return super().loss(batch, generator)


def main(world: Path, model: Path, out: Path) -> None:
    accelerator = Accelerator(cpu=True)
    inner, parameters = build_learner("diffusion", {"diffusion": model})
    learner = Watched(inner)
    size = IMAGES_AN_UPDATE // accelerator.num_processes
    stream = build_stream(train_pairs(world), 64)
    trainer = build_trainer(
        learner, parameters, stream, accelerator, out / "checkpoints", max_train_steps=2, train_batch_size=size
    )
    steps = []
    for step in trainer.steps():
        content = b"".join(parameter.detach().numpy().tobytes() for parameter in parameters.values())
        digest = hashlib.sha256(content).hexdigest()
        numbers = {"loss": step.loss, "gradient_norm": step.gradient_norm, "images": step.images}
        steps.append(numbers | {"parameters": digest})
    seen = {"steps": steps, "noise": learner.noise, "keys": learner.keys}
    (out / f"rank-{accelerator.process_index}-of-{accelerator.num_processes}.json").write_text(json.dumps(seen))


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
