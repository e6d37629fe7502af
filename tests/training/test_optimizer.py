"""The learning rate is a function of the step, and every optimizer's state survives as named tensors."""

from __future__ import annotations

import sys
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from skygen.checkpoints import Checkpoint, Checkpoints
from skygen.errors import ConfigError, UnavailableError
from skygen.seeding import Seeds
from skygen.training.optimizer import (
    OptimizerSettings,
    build_optimizer,
    count_state_bytes,
    learning_rate_at,
    optimizer_tensors,
    restore_optimizer,
    step_unless,
)

PACKAGES = {"adamw": "torch", "adamw_8bit": "bitsandbytes", "prodigy": "prodigyopt"}
KINDS = [
    pytest.param(kind, marks=pytest.mark.skipif(find_spec(package) is None, reason=f"{package} is not installed"))
    for kind, package in PACKAGES.items()
]
RATES = {"adamw": 0.1, "adamw_8bit": 0.1, "prodigy": 1.0}


def test_the_learning_rate_rises_to_the_peak_and_falls_along_half_a_cosine() -> None:
    settings = OptimizerSettings(learning_rate=0.4, lr_warmup_steps=10)
    curve = {step: learning_rate_at(step, 110, settings) for step in (0, 4, 9, 10, 60, 109, 110, 200)}
    assert curve[0] == pytest.approx(0.04)
    assert curve[4] == pytest.approx(0.2)
    assert curve[9] == curve[10] == pytest.approx(0.4)
    assert curve[60] == pytest.approx(0.2)
    assert 0 < curve[109] < 2e-4
    assert curve[110] == curve[200] == 0


def test_a_constant_learning_rate_stays_after_the_warm_up() -> None:
    settings = OptimizerSettings(learning_rate=0.4, lr_scheduler="constant", lr_warmup_steps=2)
    assert [learning_rate_at(step, 5, settings) for step in range(5)] == [0.2, 0.4, 0.4, 0.4, 0.4]


def test_no_warm_up_starts_at_the_peak_and_a_warm_up_as_long_as_the_run_is_no_error() -> None:
    assert learning_rate_at(0, 5, OptimizerSettings(learning_rate=0.4)) == 0.4
    assert learning_rate_at(4, 5, OptimizerSettings(learning_rate=0.4, lr_warmup_steps=5)) == 0.4


def parameters() -> dict[str, nn.Parameter]:
    seeds = Seeds(0)
    shapes = {"weight": (3, 2), "bias": (3,), "scale": ()}
    return {name: nn.Parameter(torch.randn(shape, generator=seeds.generator(name))) for name, shape in shapes.items()}


def test_matrices_decay_and_vectors_do_not() -> None:
    held = parameters()
    before = {name: parameter.detach().clone() for name, parameter in held.items()}
    optimizer = build_optimizer(held, OptimizerSettings(learning_rate=0.1, adam_weight_decay=0.5))
    for parameter in held.values():
        parameter.grad = torch.zeros_like(parameter)
    optimizer.step()
    assert torch.allclose(held["weight"], before["weight"] * (1 - 0.1 * 0.5))
    assert torch.equal(held["bias"], before["bias"])
    assert torch.equal(held["scale"], before["scale"])


def large(seed: int = 0) -> dict[str, nn.Parameter]:
    """Return parameters of which one is large enough for a state of 8 bits, and one begins at zero, as a LoRA's second."""
    shapes = {"down": (70, 60), "bias": (3,)}
    held = {name: nn.Parameter(torch.randn(shape, generator=Seeds(seed).generator(name))) for name, shape in shapes.items()}
    return held | {"up": nn.Parameter(torch.zeros(3, 2))}


def build(kind: Any, held: dict[str, nn.Parameter]) -> torch.optim.Optimizer:
    return build_optimizer(held, OptimizerSettings(optimizer=kind, learning_rate=RATES[kind]))


def step(held: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, number: int, leave_out: bool = False) -> None:
    for name, parameter in held.items():
        parameter.grad = torch.randn(parameter.shape, generator=Seeds(1).generator(name, number))
        if leave_out:
            parameter.grad.fill_(float("nan"))
    step_unless(optimizer, torch.tensor(leave_out))


def everything(held: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer) -> dict[str, Tensor]:
    """Return copies of the parameters and of all that the optimizer keeps."""
    tensors = {**held, **optimizer_tensors(optimizer, held)}
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def assert_equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> None:
    assert first.keys() == second.keys()
    assert [name for name in first if not torch.equal(first[name], second[name])] == []


@pytest.mark.parametrize("kind", KINDS)
def test_an_optimizer_restored_from_a_checkpoint_goes_on_bit_for_bit(kind: str, tmp_path: Path) -> None:
    unbroken = large()
    optimizer = build(kind, unbroken)
    for number in range(3):
        step(unbroken, optimizer, number)
    groups = {"parameters": unbroken, "optimizer": optimizer_tensors(optimizer, unbroken)}
    Checkpoints(tmp_path).save(Checkpoint(3, groups, {}))
    before = everything(unbroken, optimizer)
    quantities = {label.partition("/")[0] for label in before}
    own = {
        "adamw": {"exp_avg", "exp_avg_sq"},
        "adamw_8bit": {"state1", "state2", "absmax1", "absmax2", "qmap1", "qmap2"},
        "prodigy": {"s", "p0", "exp_avg", "exp_avg_sq", "param_groups"},
    }
    assert quantities == {*unbroken, "step", *own[kind]}
    saved = Checkpoints(tmp_path).latest()
    assert saved is not None
    resumed = {name: nn.Parameter(tensor.clone()) for name, tensor in saved.tensors["parameters"].items()}
    resumed = {name: resumed[name] for name in unbroken}
    again = build(kind, resumed)
    restore_optimizer(again, resumed, saved.tensors["optimizer"])
    assert_equal(everything(resumed, again), before)
    for number in range(3, 6):
        step(unbroken, optimizer, number)
        step(resumed, again, number)
    assert_equal(everything(resumed, again), everything(unbroken, optimizer))
    assert not torch.equal(unbroken["down"], before["down"])
    assert torch.equal(saved.tensors["optimizer"]["step/down"].double(), torch.tensor(3.0).double())  # what was read stays


@pytest.mark.parametrize("kind", KINDS)
def test_an_update_that_is_left_out_changes_neither_parameters_nor_state(kind: str) -> None:
    held = large()
    optimizer = build(kind, held)
    step(held, optimizer, 0)
    before = everything(held, optimizer)
    step(held, optimizer, 1, leave_out=True)
    assert_equal(everything(held, optimizer), before)
    step(held, optimizer, 1)
    assert not torch.equal(held["down"], before["down"])


@pytest.mark.parametrize("kind", KINDS)
def test_the_size_of_the_state_is_known_before_the_first_update(kind: Any) -> None:
    held = large()
    optimizer = build(kind, held)
    step(held, optimizer, 0)
    state = optimizer_tensors(optimizer, held)
    tables = sum(tensor.nbytes for label, tensor in state.items() if label.startswith("qmap"))
    actual = sum(tensor.nbytes for tensor in state.values()) - tables
    assert count_state_bytes(held, OptimizerSettings(optimizer=kind)) == pytest.approx(actual, rel=0.02)


def fit(kind: Any, learning_rate: float, updates: int) -> tuple[float, torch.optim.Optimizer]:
    """Return how far from its target a weight of 4,800 values is, from 1 at the start, after updates towards it."""
    target = torch.randn(80, 60, generator=Seeds(2).generator("target"))
    held = {"weight": nn.Parameter(torch.zeros(80, 60))}
    settings = OptimizerSettings(optimizer=kind, learning_rate=learning_rate, adam_weight_decay=0.0)
    optimizer = build_optimizer(held, settings)
    for _ in range(updates):
        held["weight"].grad = held["weight"].detach() - target
        step_unless(optimizer, torch.tensor(False))
    return float((held["weight"].detach() - target).norm() / target.norm()), optimizer


@pytest.mark.skipif(find_spec("bitsandbytes") is None, reason="bitsandbytes is not installed")
def test_eight_bits_learn_what_32_bits_do() -> None:
    exact, _ = fit("adamw", 0.05, 30)
    rounded, optimizer = fit("adamw_8bit", 0.05, 30)
    (state,) = optimizer.state.values()
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    assert 0.01 < exact < 0.6
    assert rounded == pytest.approx(exact, abs=0.02)


@pytest.mark.skipif(find_spec("prodigyopt") is None, reason="prodigyopt is not installed")
def test_prodigy_finds_its_learning_rate_and_prints_nothing(capsys: pytest.CaptureFixture[str]) -> None:
    left, optimizer = fit("prodigy", 1.0, 200)
    assert optimizer.param_groups[0]["d0"] == 1e-6
    assert optimizer.param_groups[0]["d"] > 1e-3
    assert left < 0.1
    build("prodigy", large())  # with weight decay, of which the package prints a line
    assert capsys.readouterr() == ("", "")


def test_prodigy_with_the_learning_rate_of_another_optimizer_is_refused() -> None:
    with pytest.raises(ConfigError) as raised:
        build_optimizer(large(), OptimizerSettings(optimizer="prodigy"))
    assert str(raised.value) == (
        "--train.optimizer prodigy finds the learning rate itself and multiplies it by --train.learning_rate, which is 0.0001 "
        "and would hold it still; set --train.learning_rate 1."
    )


@pytest.mark.parametrize(
    ("kind", "module", "extra"), [("adamw_8bit", "bitsandbytes", "quantized"), ("prodigy", "prodigyopt", "prodigy")]
)
def test_a_missing_package_is_named_with_its_extra(kind: str, module: str, extra: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in (module, f"{module}.optim"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(UnavailableError) as raised:
        build(kind, large())
    sentence = str(raised.value)
    assert sentence.startswith(f"--train.optimizer {kind} needs {module} (")
    assert sentence.endswith(f'; install it with `pip install "skygen[{extra}]"`, or take --train.optimizer adamw.')
