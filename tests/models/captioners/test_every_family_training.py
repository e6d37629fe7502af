"""Every family in training: a preset adapts what it names, and nothing but the adapter changes, which is loaded as it was."""

from __future__ import annotations

import copy
import re
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest
import torch
from models.captioners.small_networks import (
    NETWORKS,
    PRESETS,
    UNEQUAL,
    batch_of,
    losses,
    pictures,
    pixels,
    train,
)
from torch import Tensor

from skygen.data.batch import Batch
from skygen.models.adapters import LoraSettings, Trained
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.seeding import Seeds

SETTINGS = CaptioningSettings(max_new_tokens=6)


@dataclass(frozen=True)
class Training:
    """A captioner after one step with dropout and two without.

    Args:
        captioner: asked another prompt than its own, about squares of another side.
        adapter: what was trained.
        untrained: the weights before the adapter was attached.
        attached: the weights before the first step, those of the adapter too.
        history: the loss before each step.
    """

    captioner: Captioner
    adapter: Trained
    untrained: dict[str, Tensor]
    attached: dict[str, Tensor]
    history: list[float]


@pytest.fixture(scope="module")
def asked_otherwise(kind: str, folder_of: Callable[[str], Path]) -> Captioner:
    captioner = Captioner.load(str(folder_of(kind)), prompt=NETWORKS[kind].other_prompt)
    captioner.family.use_resolution(NETWORKS[kind].other_side)
    return captioner


@pytest.fixture(scope="module")
def untrained_captions(asked_otherwise: Captioner) -> list[str]:
    return asked_otherwise.caption(pictures(asked_otherwise.resolution), SETTINGS)


@pytest.fixture(scope="module", params=PRESETS)
def preset(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture(scope="module")
def training(kind: str, folder_of: Callable[[str], Path], asked_otherwise: Captioner, preset: str) -> Training:
    captioner = copy.deepcopy(asked_otherwise)
    untrained = copy.deepcopy(captioner.network.state_dict())
    adapter = captioner.attach(LoraSettings(rank=2, targets=preset), Seeds(0), base=str(folder_of(kind)))
    attached = copy.deepcopy(captioner.network.state_dict())
    captioner.network.train()
    parameters = list(adapter.parameters.values())
    history = train(captioner, parameters, 1, 0.01)
    captioner.network.eval()  # dropout moves the loss of a T5 more than three steps do
    history += train(captioner, parameters, 2, 0.01)
    return Training(captioner, adapter, untrained, attached, history)


def test_a_preset_adapts_the_linear_layers_of_its_parts(
    kind: str, captioner: Captioner, training: Training, preset: str
) -> None:
    modules = dict(captioner.network.named_modules())
    linear = {name for name, module in modules.items() if isinstance(module, torch.nn.Linear)}
    matched = {name for name in modules if re.fullmatch(captioner.family.lora_presets[preset], name)}
    assert matched <= linear
    wanted = NETWORKS[kind].adapted(preset)
    assert {beginning: sum(name.startswith(beginning) for name in matched) for beginning in wanted} == wanted
    assert len(matched) == sum(wanted.values())
    if preset == "all":
        assert linear - matched == NETWORKS[kind].unadapted
    for matrix in (".lora_A.", ".lora_B."):
        assert {name.partition(matrix)[0] for name in training.adapter.parameters if matrix in name} == matched
    assert len(training.adapter.parameters) == 2 * len(matched)


def test_a_preset_tells_what_is_frozen(kind: str, training: Training, preset: str) -> None:
    """With a frozen bridge ``encode`` gives the decoder's places, else the tower's patches."""
    network, captioner = NETWORKS[kind], training.captioner
    assert captioner.encoder_is_frozen == (preset != "all")
    captioner.family.use_resolution(network.side)
    encoded = captioner.encode(pixels(network.side, 2))
    captioner.family.use_resolution(network.other_side)
    assert encoded.shape == (2, *(network.read if preset == "text_decoder" else network.seen))


def test_training_changes_the_adapter_alone(kind: str, training: Training, preset: str) -> None:
    after = training.captioner.network.state_dict()
    assert all(value.isfinite().all() for value in after.values())
    base = {name.replace(".base_layer", ""): value for name, value in after.items() if ".lora_" not in name}
    assert set(base) == set(training.untrained)
    assert all(torch.equal(value, training.untrained[name]) for name, value in base.items())
    changed = {name for name, value in after.items() if not torch.equal(value, training.attached[name])}
    layers = sum(NETWORKS[kind].adapted(preset).values())
    assert len(changed) == len(training.adapter.parameters) == 2 * layers
    grown = [float(value.detach().abs().max()) for name, value in training.adapter.parameters.items() if ".lora_B." in name]
    assert len(grown) == layers
    assert min(grown) > 1e-3


def test_the_loss_falls(training: Training) -> None:
    assert len(training.history) == 3
    assert all(np.isfinite(training.history))
    assert training.history[2] < training.history[1]  # of the two without dropout


def test_kept_features_serve_as_well_as_pixels(training: Training) -> None:
    captioner = training.captioner
    kept = captioner.encode(pixels(captioner.resolution))
    unseen = Batch(pixels(captioner.resolution)[..., :0, :0], UNEQUAL, UNEQUAL, features=kept)
    with torch.no_grad():
        from_kept = captioner.loss(unseen, Seeds(0).generator("unused"))
    assert torch.equal(from_kept, losses(captioner, UNEQUAL))


@pytest.mark.parametrize("preset", ["text_decoder", "all"], indirect=True, scope="module")
def test_a_saved_adapter_writes_the_same_captions(
    kind: str, folder: Path, training: Training, untrained_captions: list[str], tmp_path: Path
) -> None:
    training.adapter.save(tmp_path / "adapter")
    again = Captioner.load(str(folder), tmp_path / "adapter")
    assert (again.family.prompt, again.resolution) == (NETWORKS[kind].other_prompt, NETWORKS[kind].other_side)
    written = training.captioner.caption(pictures(again.resolution), SETTINGS)
    assert again.caption(pictures(again.resolution), SETTINGS) == written
    assert written != untrained_captions  # the steps have an effect


@pytest.fixture(scope="module")
def half(kind: str, folder_of: Callable[[str], Path]) -> Captioner:
    captioner = Captioner.load(str(folder_of(kind)), dtype="bfloat16")
    captioner.family.use_resolution(NETWORKS[kind].side)
    return captioner


@pytest.fixture(scope="module", params=["default", "all"])
def adapted_half(half: Captioner, request: pytest.FixtureRequest) -> tuple[Captioner, Trained]:
    captioner = copy.deepcopy(half)
    return captioner, captioner.attach(LoraSettings(rank=2, targets=request.param), Seeds(0))


def test_half_precision(captioner: Captioner, adapted_half: tuple[Captioner, Trained]) -> None:
    learner, adapter = adapted_half
    assert learner.network.dtype == learner.encode(pixels(learner.resolution)).dtype == torch.bfloat16
    assert {parameter.dtype for parameter in adapter.parameters.values()} == {torch.float32}
    assert torch.allclose(losses(learner, UNEQUAL), losses(captioner, UNEQUAL), rtol=0.05)
    learner = copy.deepcopy(learner)
    parameters = [parameter for parameter in learner.network.parameters() if parameter.requires_grad]
    learner.network.train()
    assert all(np.isfinite(train(learner, parameters, 2, 1e-3)))
    assert all(parameter.isfinite().all() for parameter in parameters)
    assert len(parameters) == len(adapter.parameters)
    assert len(learner.caption(pictures(learner.resolution), CaptioningSettings(max_new_tokens=3))) == 3


def test_mixed_precision(training: Training) -> None:
    require_mixed_precision(training.captioner, training.adapter)


def test_mixed_precision_over_half(adapted_half: tuple[Captioner, Trained]) -> None:
    require_mixed_precision(*adapted_half)


def require_mixed_precision(captioner: Captioner, adapter: Trained) -> None:
    """Under autocast the losses are near those without, and every gradient is finite, with dropout too."""
    expected, generator = losses(captioner, UNEQUAL), Seeds(0).generator("unused")
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert torch.allclose(captioner.loss(batch_of(captioner, UNEQUAL), generator).detach(), expected, rtol=0.1)
        captioner.network.train()
        found = captioner.loss(batch_of(captioner, UNEQUAL), generator).mean()
    captioner.network.eval()
    found.backward()  # type: ignore[no-untyped-call]
    decoder = getattr(captioner.network.config, "text_config", None)
    apart = 1.5 if decoder is not None and decoder.model_type == "t5" else 0.3  # dropout may double the loss of a T5
    assert float(found.detach()) == pytest.approx(float(expected.mean()), rel=apart)
    gradients = [parameter.grad for parameter in adapter.parameters.values()]
    captioner.network.zero_grad()
    assert all(gradient is not None and gradient.isfinite().all() for gradient in gradients)
    assert len(gradients) > 20
