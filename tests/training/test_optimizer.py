"""The learning rate is a function of the step, and the optimizer's state survives as named tensors."""

import pytest
import torch
from torch import nn

from skygen.seeding import Seeds
from skygen.training.optimizer import OptimizerSettings, build_optimizer, learning_rate_at, optimizer_tensors, restore_optimizer


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


def test_a_restored_optimizer_goes_on_bit_for_bit() -> None:
    def step(held: dict[str, nn.Parameter], optimizer: torch.optim.Optimizer, number: int) -> None:
        for name, parameter in held.items():
            parameter.grad = torch.randn(parameter.shape, generator=Seeds(1).generator(name, number))
        optimizer.step()

    unbroken = parameters()
    optimizer = build_optimizer(unbroken, OptimizerSettings(learning_rate=0.1))
    step(unbroken, optimizer, 0)
    saved = {name: tensor.clone() for name, tensor in optimizer_tensors(optimizer, unbroken).items()}
    copies = {name: nn.Parameter(parameter.detach().clone()) for name, parameter in unbroken.items()}
    assert sorted(saved) == sorted(f"{kind}/{name}" for kind in ("exp_avg", "exp_avg_sq", "step") for name in unbroken)
    resumed = build_optimizer(copies, OptimizerSettings(learning_rate=0.1))
    restore_optimizer(resumed, copies, saved)
    step(unbroken, optimizer, 1)
    step(copies, resumed, 1)
    assert len(copies) == 3
    assert all(torch.equal(copies[name], unbroken[name]) for name in copies)
    assert saved["step/weight"] == 1  # what was read is not written to
