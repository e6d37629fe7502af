"""A loss or gradient that is not finite: the update is left out and told with its examples; nothing of it is ever saved."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from faults.amounts import amount
from faults.figures import Figures
from safetensors.torch import load_file

from recipes import finetune_captioner, finetune_diffusion
from skygen.config import parse
from skygen.data.batch import Batch
from skygen.errors import SkygenError
from skygen.models.captioner import Captioner
from skygen.models.diffusion import Diffusion
from skygen.seeding import Seeds

pytestmark = pytest.mark.slow
KINDS: dict[str, tuple[Any, Any]] = {
    "captioner": (finetune_captioner, Captioner),
    "diffusion": (finetune_diffusion, Diffusion),
}
Poison = Callable[[set[int], str], list[tuple[str, ...]]]


@pytest.fixture
def poison(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Poison:
    """Spoil the loss of some updates, or only its gradient; return what examples each update has had."""
    _, learner = KINDS[request.getfixturevalue("kind")]

    def spoil(updates: set[int], what: str) -> list[tuple[str, ...]]:
        seen: list[tuple[str, ...]] = []

        def loss(self: Any, batch: Batch, generator: torch.Generator, whole: Any = learner.loss) -> torch.Tensor:
            seen.append(batch.keys)
            losses: torch.Tensor = whole(self, batch, generator)
            if len(seen) not in updates:
                return losses
            if what == "loss":
                return losses * float("nan")
            return losses + (losses - losses.detach()).abs().sqrt()  # the square root's slope at 0 is infinite

        monkeypatch.setattr(learner, "loss", loss)
        return seen

    return spoil


@pytest.fixture
def run(kind: str, world: Path, captioner_folder: Path, stable_diffusion_folder: Path, tmp_path: Path) -> Callable[..., Path]:
    """Train for so many updates of two examples, with a checkpoint after each."""
    recipe, _ = KINDS[kind]
    words: dict[str, Any] = {"run.root": tmp_path, "run.name": "run", "pairs.root": world, "pairs.split": "train"}
    words |= {"model.name": captioner_folder if kind == "captioner" else stable_diffusion_folder, "images.resolution": 64}
    words |= {"lora.rank": 2, "train.train_batch_size": 2, "train.checkpointing_steps": 1, "train.ema_decay": 0.5}
    words |= {"validation.steps": 0, "validation.images": 0} if kind == "diffusion" else {}

    def train(updates: int) -> Path:
        more = words | {"train.max_train_steps": updates}
        recipe.main(parse(recipe.Config, [f"--{key}={value}" for key, value in more.items()]))
        return tmp_path / "run"

    return train


def count_values(run: Path) -> int:
    """Count the values that a run has kept; each is finite."""
    files = [*run.glob("checkpoints/step-*/*.safetensors"), *run.glob("adapter/*.safetensors")]
    assert len(files) >= 3
    values = 0
    for file in files:
        for name, tensor in load_file(file).items():
            assert bool(tensor.isfinite().all()), f"{file}: {name}"
            values += tensor.numel()
    return values


@pytest.mark.parametrize("what", ["loss", "gradient"])
@pytest.mark.parametrize("kind", list(KINDS))
def test_updates_that_are_not_finite_are_left_out_and_told(
    kind: str, what: str, poison: Poison, run: Callable[..., Path], figures: Figures
) -> None:
    updates = amount(6, 60)
    draw = Seeds(7).numpy("poisoned updates", *what.encode())
    bad = sorted(1 + draw.choice(updates, updates // 3, replace=False))
    seen = poison(set(map(int, bad)), what)
    folder = run(updates)
    steps = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    assert [step["step"] for step in steps if step["skipped"]] == bad
    told = [json.loads(line) for line in (folder / "skipped.jsonl").read_text().splitlines()]
    assert told == [{"step": step, "process": 0, "keys": list(seen[step - 1])} for step in bad]
    assert count_values(folder) > 0
    figures("updates that are not finite", left_out=len(bad), updates=updates, values_saved_not_finite=0)


@pytest.mark.parametrize("kind", list(KINDS))
def test_a_row_of_them_ends_the_run_and_the_checkpoint_before_it_stands(
    kind: str, poison: Poison, run: Callable[..., Path], tmp_path: Path, figures: Figures
) -> None:
    poison(set(range(3, 100)), "loss")
    with pytest.raises(SkygenError, match="step 12: the loss or its gradient was not finite 10 times in a row"):
        run(50)
    folder = tmp_path / "run"
    status = json.loads((folder / "run_status.json").read_text())
    assert (status["state"], status["step"]) == ("failed", 12)
    assert not (folder / "adapter").exists()
    assert count_values(folder) > 0
    figures("updates that are not finite", rows_that_ended_a_run=1)
