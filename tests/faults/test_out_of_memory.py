"""Memory that runs short: batches are made smaller, and what comes of them stays as it was."""

from __future__ import annotations

import json
import logging
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers import UNet2DConditionModel
from faults.figures import Figures
from safetensors.torch import load_file

from recipes import finetune_captioner, finetune_diffusion, generate
from skygen.config import parse
from skygen.data.batch import Batch
from skygen.models.captioner import Captioner
from skygen.models.diffusion import Diffusion

pytestmark = pytest.mark.slow
ADAPTERS = {finetune_captioner: "adapter_model.safetensors", finetune_diffusion: "pytorch_lora_weights.safetensors"}


class Device:
    """Has memory for so many examples at a time; 0 is enough for any."""

    def __init__(self) -> None:
        self.most = 0
        self.refused = 0

    def take(self, rows: int) -> None:
        if self.most and rows > self.most:
            self.refused += 1
            raise torch.OutOfMemoryError(f"CUDA out of memory. Tried to allocate {rows} GiB.")


@pytest.fixture
def device(monkeypatch: pytest.MonkeyPatch) -> Device:
    """What every captioner is trained on, and every generator is trained on and draws on."""
    device = Device()
    for learner in (Captioner, Diffusion):

        def loss(self: Any, batch: Batch, generator: torch.Generator, whole: Any = learner.loss) -> torch.Tensor:
            device.take(len(batch.keys))
            return whole(self, batch, generator)

        monkeypatch.setattr(learner, "loss", loss)

    def forward(self: Any, sample: torch.Tensor, *given: Any, whole: Any = UNet2DConditionModel.forward, **named: Any) -> Any:
        device.take(len(sample))
        return whole(self, sample, *given, **named)

    monkeypatch.setattr(UNet2DConditionModel, "forward", forward)
    return device


def run(recipe: Any, root: Path, name: str, words: dict[str, Any]) -> Path:
    recipe.main(
        parse(recipe.Config, [f"--{key}={value}" for key, value in ({"run.root": root, "run.name": name} | words).items()])
    )
    return root / name


@pytest.mark.parametrize("recipe", list(ADAPTERS), ids=lambda recipe: recipe.__name__.rpartition(".")[2])
def test_a_training_takes_its_micro_batches_apart_and_its_updates_hold_as_many_as_before(
    recipe: Any,
    world: Path,
    captioner_folder: Path,
    stable_diffusion_folder: Path,
    device: Device,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    figures: Figures,
) -> None:
    model = captioner_folder if recipe is finetune_captioner else stable_diffusion_folder
    words = {"pairs.root": world, "pairs.split": "train", "model.name": model, "images.resolution": 64, "lora.rank": 4}
    words |= {"train.max_train_steps": 3, "train.train_batch_size": 6, "train.learning_rate": 1e-3}
    whole = run(recipe, tmp_path, "whole", words)
    device.most = 2
    with caplog.at_level(logging.WARNING, "skygen"):
        apart = run(recipe, tmp_path, "apart", words)
    said = [record.message for record in caplog.records if record.message.startswith("out of memory with")]
    assert said == [
        "out of memory with 6 images at a time; going on with 3, in updates as large as before",
        "out of memory with 3 images at a time; going on with 1, in updates as large as before",
    ]
    steps = [[json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()] for run in (whole, apart)]
    assert [step["images"] for step in steps[1]] == [step["images"] for step in steps[0]] == [6, 6, 6]
    adapters = [load_file(run / "adapter" / ADAPTERS[recipe]) for run in (whole, apart)]
    assert adapters[0].keys() == adapters[1].keys()
    if recipe is finetune_captioner:  # its loss draws nothing: taken apart or not, the updates are the same
        for name, tensor in adapters[0].items():
            torch.testing.assert_close(adapters[1][name], tensor, rtol=1e-3, atol=1e-5)
    assert all(bool(tensor.isfinite().all()) for tensor in adapters[1].values())
    figures("out of memory in training", batches_refused=device.refused, updates=3, updates_made_smaller=0)


def test_drawing_takes_fewer_at_a_time_and_gives_the_same_pictures(
    world: Path,
    stable_diffusion_folder: Path,
    skyclip_folder: Path,
    device: Device,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
    figures: Figures,
) -> None:
    words = {"pairs.root": world, "pairs.split": "train", "model.name": stable_diffusion_folder, "scorer.name": skyclip_folder}
    words |= {"generation.num_inference_steps": 2, "generation.count": 8, "generation.batch_size": 8}
    whole = run(generate, tmp_path, "whole", words)
    device.most = 4
    with caplog.at_level(logging.WARNING, "skygen"):
        apart = run(generate, tmp_path, "apart", words)
    assert any("pictures at a time; going on with" in record.message for record in caplog.records)
    digests = [
        [sha256(path.read_bytes()).hexdigest() for path in sorted(run.glob("samples/images/*.png"))] for run in (whole, apart)
    ]
    assert len(digests[0]) == 8
    assert digests[0] == digests[1]
    figures("out of memory in drawing", batches_refused=device.refused, pictures=8, pictures_that_differ=0)
