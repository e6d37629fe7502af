"""A frozen base dealt out to two processes: the same losses and the same adapter as with the whole of it on each."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from accelerate import Accelerator, DistributedType
from recipes.processes import end_all, finish, launcher, start
from safetensors.torch import load_file
from torch import nn
from toy import Linear, build_stream, train_pairs

from skygen.checkpoints import Checkpoints
from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.training.gradients import GradientSum
from skygen.training.settings import TrainSettings
from skygen.training.sharding import is_sharded, shard_frozen

LOSSES = 1e-6
"""Relative; measured: 1e-7. Gathered weights lie elsewhere in memory, so the last bit of a product can differ."""
ADAPTERS = 1e-4
"""Of values that moved by up to 3e-2; measured: 1.3e-5 at most, where a gradient of about 1e-9 leads Adam, 7e-9 on average."""


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


def test_without_the_launcher_s_word_nothing_is_sharded(accelerator: Accelerator) -> None:
    network = nn.Linear(2, 2)
    assert not shard_frozen(network, [], accelerator)
    assert not is_sharded(network)


def test_a_network_that_cannot_be_sharded_is_refused(accelerator: Accelerator, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(accelerator.state, "distributed_type", DistributedType.FSDP)
    network = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with pytest.raises(ConfigError, match="Sequential: says of no block that it is gathered as one, so FSDP cannot shard it"):
        shard_frozen(network, [], accelerator)
    network._no_split_modules = ["Linear"]  # type: ignore[assignment]
    with pytest.raises(ConfigError, match="FSDP shards what is frozen, and all of this model is trained; give a LoRA"):
        shard_frozen(network, network.parameters(), accelerator)


def test_images_of_several_shapes_are_refused_where_the_base_is_sharded(world: Path, accelerator: Accelerator) -> None:
    learner = Linear()
    parameters, stream = dict(learner.network.named_parameters()), build_stream(train_pairs(world))
    gradients = GradientSum(learner, parameters, stream, TrainSettings(), accelerator, 0)
    shapes = tuple(Batch(torch.zeros(1, 3, 8, side), ("a lake",), ("0",)) for side in (8, 16))
    gradients._join(shapes, (0, 0))
    gradients._sharded = True
    with pytest.raises(ConfigError) as raised:
        gradients._join(shapes, (0, 0))
    assert str(raised.value) == ("step 1: FSDP needs images of one shape in a micro-batch; set --images.aspect_buckets false.")


@pytest.mark.slow
def test_a_sharded_base_trains_the_same_adapter(world: Path, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    program = [str(Path(__file__).parent / "shard_ranks.py"), str(world), str(stable_diffusion_folder), str(tmp_path)]
    finish(start([*launcher(2), *program]), timeout=120)
    ranks: list[dict[str, Any]] = [json.loads((tmp_path / f"rank-{rank}.json").read_text()) for rank in (0, 1)]
    assert len(ranks) == 2
    for seen in ranks:
        whole, sharded = seen["whole"], seen["sharded"]
        assert sharded["losses"] == pytest.approx(whole["losses"], rel=LOSSES)
        assert sharded["images"] == whole["images"] == [4, 2, 4]  # the second process had nothing in the second update
        assert sharded["kinds"] == whole["kinds"] == ["Parameter torch.float32"]
        assert sharded["moved"] == whole["moved"] == 1.0
        assert whole["share"] == 1.0
        assert 0.5 < sharded["share"] < 0.65  # a half, and the LoRA
    groups = [dict(Checkpoints(tmp_path / kind / "checkpoints").latest().tensors) for kind in ("whole", "sharded")]  # type: ignore[union-attr]
    files = [load_file(tmp_path / kind / "adapter" / "pytorch_lora_weights.safetensors") for kind in ("whole", "sharded")]
    differences = []
    for first, second in (files, *((groups[0][name], groups[1][name]) for name in ("parameters", "optimizer"))):
        assert first.keys() == second.keys()
        for name in first:
            assert torch.allclose(first[name], second[name], atol=ADAPTERS, rtol=0), name
            differences.append(float((first[name] - second[name]).abs().mean()))
    assert len(differences) > 100
    assert max(differences) < ADAPTERS / 100
