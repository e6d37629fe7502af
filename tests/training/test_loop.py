"""The rules of the one training loop, on a linear learner and on the two real ones."""

from __future__ import annotations

import logging
import math
import os
import shutil
import signal
from dataclasses import replace
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import pytest
import torch
from torch import Tensor, nn
from toy import SIDE, Linear, OneByOne, build_learner, build_stream, build_trainer, train_pairs

from skygen.data.batch import Batch
from skygen.data.framing import ImageSettings
from skygen.data.images import open_image
from skygen.data.loading import CaptionSettings
from skygen.data.pair import Pair
from skygen.errors import ConfigError, Preempted, SkygenError, StorageError
from skygen.models.adapters import LoraSettings
from skygen.signals import StopSignal
from skygen.training.loop import Step, Trainer
from skygen.training.optimizer import learning_rate_at

KINDS = ["linear", "diffusion", "captioner"]
RESOLUTIONS = {"linear": SIDE, "diffusion": 64, "captioner": 64}


@pytest.fixture(scope="module")
def pairs(world: Path) -> list[Pair]:
    return train_pairs(world)


@pytest.fixture(scope="module")
def folders(captioner_folder: Path, stable_diffusion_folder: Path) -> dict[str, Path]:
    return {"captioner": captioner_folder, "diffusion": stable_diffusion_folder}


def linear(pairs: list[Pair], accelerator: Any, folder: Path, learner: Any = None, **settings: Any) -> Trainer:
    learner = learner or Linear(noise=0.3)
    return build_trainer(
        learner, dict(learner.network.named_parameters()), build_stream(pairs), accelerator, folder, **settings
    )


def copies(tensors: Any) -> dict[str, Tensor]:
    return {name: tensor.detach().clone() for name, tensor in tensors.items()}


def equal(first: dict[str, Tensor], second: dict[str, Tensor]) -> bool:
    return first.keys() == second.keys() and len(first) > 0 and all(torch.equal(first[name], second[name]) for name in first)


@pytest.mark.parametrize("kind", KINDS)
def test_accumulating_two_batches_of_two_is_one_batch_of_four(
    kind: str, pairs: list[Pair], folders: dict[str, Path], accelerator: Any, tmp_path: Path
) -> None:
    def gradient(batch_size: int, accumulation: int) -> tuple[Tensor, Step]:
        learner, parameters = build_learner(kind, folders)
        stream = build_stream(pairs, RESOLUTIONS[kind])
        trainer = build_trainer(
            OneByOne(learner) if kind != "captioner" else learner,
            parameters,
            stream,
            accelerator,
            tmp_path / "none",
            train_batch_size=batch_size,
            gradient_accumulation_steps=accumulation,
            max_grad_norm=0.0,
        )
        step = next(trainer.steps())
        return torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None]), step

    (whole, one), (parts, two) = gradient(4, 1), gradient(2, 2)
    assert whole.norm() > 0
    assert (whole - parts).abs().max() <= 1e-6 * max(1.0, float(whole.abs().max()))
    assert one.loss == pytest.approx(two.loss, rel=1e-6)
    assert one.gradient_norm == pytest.approx(float(whole.norm()), rel=1e-5)
    assert one.images == two.images == 4


def test_the_logged_norm_is_that_before_clipping_and_the_gradient_is_clipped(
    pairs: list[Pair], accelerator: Any, tmp_path: Path
) -> None:
    def first(limit: float) -> tuple[float, float]:
        trainer = linear(pairs, accelerator, tmp_path / "none", Linear(scale=100.0), max_grad_norm=limit)
        step = next(trainer.steps())
        gradients = [p.grad for p in trainer.parameters.values() if p.grad is not None]
        return step.gradient_norm, float(torch.cat([gradient.flatten() for gradient in gradients]).norm())

    (logged, clipped), (logged_unclipped, unclipped) = first(0.5), first(0.0)
    assert logged == pytest.approx(logged_unclipped)
    assert logged_unclipped == pytest.approx(unclipped, rel=1e-5)
    assert unclipped > 50
    assert clipped == pytest.approx(0.5, rel=1e-3)


def test_the_optimizer_runs_at_the_planned_learning_rate(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    trainer = linear(pairs, accelerator, tmp_path, max_train_steps=5)
    used = []
    for step in trainer.steps():
        assert {group["lr"] for group in trainer.optimizer.param_groups} == {step.learning_rate}
        used.append(step.learning_rate)
    assert used == [learning_rate_at(step, 5, trainer.settings) for step in range(5)]


def test_the_plan_is_said_at_the_start(
    pairs: list[Pair], accelerator: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO, "skygen")
    trainer = linear(pairs, accelerator, tmp_path, max_train_steps=5, gradient_accumulation_steps=3)
    assert next(trainer.steps()).step == 1
    plan = "learning rate 0.005 at update 1, 0.01 at update 2, 0.0025 at update 5; 12 images an update (4 x 3 x 1)"
    assert caplog.messages == [plan]
    trainer.save()
    again = linear(pairs, accelerator, tmp_path, max_train_steps=5, gradient_accumulation_steps=3)
    assert next(again.steps()).step == 2
    assert caplog.messages == [plan, "continues after step 1 of 5", plan]


class Usage(NamedTuple):
    """What the operating system says of a disk."""

    total: int
    used: int
    free: int


ONE_CHECKPOINT = (3 * SIDE * SIDE + 1) * 4 * (1 + 1 + 2)
"""Bytes of the linear learner's parameters, their mean, and the two means of AdamW."""


@pytest.mark.parametrize(
    ("limit", "saves", "there", "counted"), [(2, 6, 0, 3), (2, 6, 2, 1), (0, 6, 0, 7), (5, 1, 0, 2)], ids=str
)
def test_a_disk_without_room_for_the_checkpoints_is_refused_before_the_first_step(
    limit: int,
    saves: int,
    there: int,
    counted: int,
    pairs: list[Pair],
    accelerator: Any,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    def begin() -> Trainer:
        limits = {"checkpoints_total_limit": limit, "checkpointing_steps": 1, "ema_decay": 0.5}
        trainer = linear(pairs, accelerator, tmp_path / "run", max_train_steps=saves, **limits)
        trainer.checkpoints = replace(trainer.checkpoints, total_limit=limit)
        return trainer

    for _ in range(there):
        trainer = begin()
        next(trainer.steps())
        trainer.save()
    free = [0]
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, free[0]))
    free[0] = ONE_CHECKPOINT * counted
    assert next(begin().steps()).step == there + 1
    free[0] -= 1
    stepped = []
    with pytest.raises(StorageError) as raised:
        for step in begin().steps():
            stepped.append(step)
    assert stepped == []
    needed = f"{ONE_CHECKPOINT * counted / 1000:.3g} kB"
    assert str(raised.value) == (
        f"{tmp_path / 'run'}: {needed} are needed and {(ONE_CHECKPOINT * counted - 1) / 1000:.3g} kB are free; free disk "
        "space, choose another --run.root, or keep fewer with --train.checkpoints_total_limit."
    )


def test_a_finished_run_needs_no_room(
    pairs: list[Pair], accelerator: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    trainer = linear(pairs, accelerator, tmp_path, max_train_steps=1)
    assert [step.step for step in trainer.steps()] == [1]
    trainer.save()
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, 0))
    assert list(linear(pairs, accelerator, tmp_path, max_train_steps=1).steps()) == []


def test_a_damaged_newest_checkpoint_leads_to_the_one_before_it_and_is_replaced(
    pairs: list[Pair], accelerator: Any, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    trainer = linear(pairs, accelerator, tmp_path / "run")
    expected: dict[str, Tensor] = {}
    for step in trainer.steps():
        if step.step in (2, 4):
            trainer.save()
        expected = copies(trainer.parameters)
    newest = tmp_path / "run" / "step-000004"
    with (newest / "optimizer.safetensors").open("r+b") as file:
        file.seek(-1, os.SEEK_END)
        file.write(b"x")
    resumed = linear(pairs, accelerator, tmp_path / "run")
    steps = []
    for step in resumed.steps():
        steps.append(step.step)
        if step.step == 3:
            assert newest.is_dir()  # until there is a better one
            resumed.save()
    said = f"{newest}: damaged or incomplete, passed over; the run continues from the checkpoint before."
    assert said in caplog.messages
    assert steps == [3, 4, 5, 6]
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["step-000002", "step-000003"]
    assert equal(copies(resumed.parameters), expected)


def test_a_linear_learner_learns(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    losses = [step.loss for step in linear(pairs, accelerator, tmp_path, Linear(), max_train_steps=80).steps()]
    assert sum(losses[-10:]) < 0.5 * sum(losses[:10])


def test_half_precision_and_nothing_to_train_are_refused(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    learner = Linear()
    learner.network.bfloat16()
    with pytest.raises(ConfigError, match=r"weight: trained parameters are float32, this one is torch\.bfloat16"):
        linear(pairs, accelerator, tmp_path, learner)
    with pytest.raises(ConfigError, match="nothing to train: the LoRA targets match no layer"):
        build_trainer(learner, {}, build_stream(pairs), accelerator, tmp_path)


class Poisoned(Linear):
    """Its loss, or only its gradient, is not a number on the calls listed."""

    def __init__(self, calls: range, kind: str) -> None:
        super().__init__()
        self.calls = calls
        self.kind = kind
        self.called = 0

    def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
        losses = super().loss(batch, generator)
        self.called += 1
        if self.called - 1 not in self.calls:
            return losses
        if self.kind == "loss":
            return losses * float("nan")
        return losses + (losses - losses.detach()).abs().sqrt()  # the square root's slope at 0 is infinite


@pytest.mark.parametrize("kind", ["loss", "gradient"])
def test_an_update_that_is_not_finite_is_left_out(kind: str, pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    trainer = linear(pairs, accelerator, tmp_path, Poisoned(range(2, 4), kind), max_train_steps=6, ema_decay=0.5)
    seen, before = [], copies(trainer.parameters)
    for step in trainer.steps():
        now = copies(trainer.parameters)
        assert step.skipped == equal(before, now)
        assert all(bool(tensor.isfinite().all()) for tensor in (*now.values(), *trainer.average.values()))
        seen.append(step.skipped)
        before = now
        assert bool(step.skipped_keys) == step.skipped
        assert len(step.skipped_keys) == (4 if step.skipped else 0)
    assert seen == [False, False, True, True, False, False]


def test_values_that_are_not_finite_are_never_saved(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    trainer = linear(pairs, accelerator, tmp_path, max_train_steps=2)
    list(trainer.steps())
    trainer.save()
    saved = trainer.checkpoints.latest()
    with torch.no_grad():
        trainer.parameters["bias"].fill_(float("inf"))
    trainer.step = 3
    with pytest.raises(SkygenError, match=r"step 3: bias holds values that are not finite, so nothing is saved; lower"):
        trainer.save()
    latest = trainer.checkpoints.latest()
    assert saved is not None and latest is not None
    assert (latest.step, saved.step) == (2, 2)
    assert bool(latest.tensors["parameters"]["bias"].isfinite().all())


def test_a_run_that_ends_with_values_that_are_not_finite_ends_in_an_error(
    pairs: list[Pair], accelerator: Any, tmp_path: Path
) -> None:
    trainer = linear(pairs, accelerator, tmp_path, max_train_steps=2)
    with pytest.raises(SkygenError, match="step 2: weight holds values that are not finite"):
        for step in trainer.steps():
            if step.step == 2:
                with torch.no_grad():
                    trainer.parameters["weight"][0, 0] = float("nan")


def test_ten_updates_in_a_row_that_are_not_finite_end_the_run(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    trainer = linear(pairs, accelerator, tmp_path, Poisoned(range(1, 50), "loss"), max_train_steps=50)
    with pytest.raises(SkygenError, match=r"step 11: the loss or its gradient was not finite 10 times in a row; lower"):
        list(trainer.steps())
    assert trainer.step == 11


@pytest.mark.parametrize("kind", ["diffusion", "captioner"])
def test_one_step_moves_the_lora_and_nothing_else(
    kind: str, pairs: list[Pair], folders: dict[str, Path], accelerator: Any, tmp_path: Path
) -> None:
    learner, parameters = build_learner(kind, folders)
    frozen = {name: p for name, p in learner.network.named_parameters() if name not in parameters}
    if kind == "diffusion":
        frozen |= dict(learner.pipeline.vae.named_parameters()) | dict(learner.pipeline.text_encoder.named_parameters())
    base, before = copies(frozen), copies(parameters)
    trainer = build_trainer(learner, parameters, build_stream(pairs, 64), accelerator, tmp_path, train_batch_size=2)
    step = next(trainer.steps())
    second = [name for name in parameters if "lora_B" in name]
    assert step.gradient_norm > 0
    assert math.isfinite(step.loss)
    assert len(second) == len(parameters) // 2 > 10
    assert [name for name in second if not parameters[name].any()] == []
    assert [name for name in before if torch.equal(before[name], parameters[name])] == []
    assert {parameter.dtype for parameter in parameters.values()} == {torch.float32}
    assert equal(base, copies(frozen))


@pytest.mark.parametrize("kind", KINDS)
def test_three_steps_and_three_more_are_six_bit_for_bit(
    kind: str, pairs: list[Pair], folders: dict[str, Path], accelerator: Any, tmp_path: Path
) -> None:
    def begin(name: str) -> Trainer:
        learner, parameters = build_learner(kind, folders, LoraSettings(rank=2, lora_dropout=0.1))
        stream = build_stream(pairs, RESOLUTIONS[kind], captions=CaptionSettings(dropout=0.3))
        sizes = {"train_batch_size": 2, "gradient_accumulation_steps": 2}
        return build_trainer(learner, parameters, stream, accelerator, tmp_path / name, ema_decay=0.9, **sizes)

    unbroken, broken = begin("unbroken"), begin("broken")
    records = [step.record() for step in unbroken.steps()]
    for step in broken.steps():
        if step.step == 2:
            broken.save()
        if step.step == 4:
            break  # as by a kill: two updates after the checkpoint are lost
    resumed = begin("broken")
    again = [step.record() for step in resumed.steps()]
    same = ("step", "loss", "gradient_norm", "learning_rate", "images")
    assert [[record[name] for name in same] for record in again] == [[record[name] for name in same] for record in records[2:]]
    assert equal(copies(resumed.parameters), copies(unbroken.parameters))
    assert equal(resumed.average, unbroken.average)
    assert not equal(resumed.average, copies(resumed.parameters))
    resumed.adopt_average()
    assert equal(resumed.average, copies(resumed.parameters))


def test_noise_differs_between_steps_micro_batches_and_seeds(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    class Listening(Linear):
        def loss(self, batch: Batch, generator: torch.Generator) -> Tensor:
            heard.append(generator.initial_seed())
            return super().loss(batch, generator)

    heard: list[int] = []
    for seed in (1, 2):
        learner = Listening()
        stream = build_stream(pairs, seed=seed)
        parameters = dict(learner.network.named_parameters())
        folder = tmp_path / str(seed)
        list(build_trainer(learner, parameters, stream, accelerator, folder, gradient_accumulation_steps=2).steps())
    assert len(heard) == len(set(heard)) == 2 * 6 * 2


@pytest.fixture
def begun(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> Path:
    trainer = linear(pairs, accelerator, tmp_path / "begun")
    next(trainer.steps())
    trainer.save()
    return tmp_path / "begun"


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        ({"train_batch_size": 2}, "begun with train_batch_size = 4, now it is 2; go on with the first, or start anew"),
        ({"gradient_accumulation_steps": 3}, "begun with gradient_accumulation_steps = 1, now it is 3"),
        ({"ema_decay": 0.5}, r"begun with ema_decay = 0\.0, now it is 0\.5"),
    ],
)
def test_other_settings_do_not_continue_a_run(
    settings: dict[str, Any], sentence: str, begun: Path, pairs: list[Pair], accelerator: Any
) -> None:
    with pytest.raises(ConfigError, match=sentence):
        next(linear(pairs, accelerator, begun, **settings).steps())


def test_other_data_another_seed_or_another_model_do_not_continue_a_run(
    begun: Path, pairs: list[Pair], accelerator: Any
) -> None:
    def refusal(stream: Any, network: nn.Module | None = None) -> str:
        learner = Linear()
        learner.network = network or learner.network
        trainer = build_trainer(learner, dict(learner.network.named_parameters()), stream, accelerator, begun)
        with pytest.raises(ConfigError) as raised:
            next(trainer.steps())
        return str(raised.value)

    assert "begun with seed = 5, now it is 6" in refusal(build_stream(pairs, seed=6))
    assert "begun with pairs = " in refusal(build_stream(pairs[1:]))
    assert "begun with images = " in refusal(build_stream(pairs, images=ImageSettings(resolution=SIDE, random_dihedral=False)))
    assert "begun with captions = " in refusal(build_stream(pairs, captions=CaptionSettings(dropout=0.5)))
    assert "holds other trained parameters than this model and LoRA have" in refusal(build_stream(pairs), nn.Linear(3, 2))


@pytest.mark.skipif(find_spec("prodigyopt") is None, reason="prodigyopt is not installed")
def test_another_optimizer_does_not_continue_a_run(begun: Path, pairs: list[Pair], accelerator: Any) -> None:
    with pytest.raises(ConfigError, match="begun with optimizer = adamw, now it is prodigy; go on with the first"):
        next(linear(pairs, accelerator, begun, optimizer="prodigy", learning_rate=1.0).steps())


OPTIMIZERS = [("adamw_8bit", "bitsandbytes", 1e-2), ("prodigy", "prodigyopt", 1.0)]


@pytest.mark.parametrize(("optimizer", "package", "learning_rate"), OPTIMIZERS)
def test_other_optimizers_skip_what_is_not_finite_and_continue_bit_for_bit(
    optimizer: str, package: str, learning_rate: float, pairs: list[Pair], accelerator: Any, tmp_path: Path
) -> None:
    if find_spec(package) is None:
        pytest.skip(f"{package} is not installed")

    def begin(name: str) -> Trainer:
        learner = Poisoned(range(1, 2), "gradient") if name == "whole" else Linear()
        return linear(pairs, accelerator, tmp_path / name, learner, optimizer=optimizer, learning_rate=learning_rate)

    whole, states = begin("whole"), []
    for step in whole.steps():
        if step.step == 3:
            whole.save()
        states.append((step.skipped, copies(whole.parameters)))
    assert [skipped for skipped, _ in states] == [False, True, False, False, False, False]
    assert equal(states[0][1], states[1][1])
    assert not equal(states[1][1], states[2][1])
    (tmp_path / "whole").rename(tmp_path / "resumed")
    resumed = begin("resumed")
    assert [step.step for step in resumed.steps()] == [4, 5, 6]
    assert equal(copies(resumed.parameters), states[-1][1])


def test_a_longer_run_and_another_learning_rate_do_continue(begun: Path, pairs: list[Pair], accelerator: Any) -> None:
    trainer = linear(pairs, accelerator, begun, max_train_steps=8, learning_rate=1e-3)
    assert [step.step for step in trainer.steps()] == [2, 3, 4, 5, 6, 7, 8]


def test_a_finished_run_has_nothing_left_to_do(pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    trainer = linear(pairs, accelerator, tmp_path, max_train_steps=2)
    for _ in trainer.steps():
        pass
    trainer.save()
    again = linear(pairs, accelerator, tmp_path, max_train_steps=2)
    assert list(again.steps()) == []
    assert equal(copies(again.parameters), copies(trainer.parameters))


def test_a_signal_lets_the_step_end_and_saves(pairs: list[Pair], accelerator: Any, tmp_path: Path, stop: StopSignal) -> None:
    trainer = linear(pairs, accelerator, tmp_path, stop=stop)
    seen = []
    with pytest.raises(Preempted, match="stopped by a signal after step 3; the same command continues"):
        for step in trainer.steps():
            seen.append(step.step)
            if step.step == 2:
                os.kill(os.getpid(), signal.SIGTERM)
    assert seen == [1, 2, 3]
    latest = trainer.checkpoints.latest()
    assert latest is not None
    assert latest.step == 3
    assert equal(dict(latest.tensors["parameters"]), copies(trainer.parameters))
    resumed = linear(pairs, accelerator, tmp_path)
    assert [step.step for step in resumed.steps()] == [4, 5, 6]


def test_a_signal_to_the_loader_s_workers_too_does_not_break_the_step(
    pairs: list[Pair], accelerator: Any, tmp_path: Path, stop: StopSignal
) -> None:
    """A scheduler signals every process of a job; a worker that died of it would end the training without its save."""
    trainer = linear(pairs, accelerator, tmp_path, stop=stop, dataloader_num_workers=1, max_train_steps=40)
    with pytest.raises(Preempted, match="after step 3"):
        for step in trainer.steps():
            if step.step == 2:
                children = Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()
                workers = [int(child) for child in children if is_worker(int(child))]
                assert len(workers) == 1
                for process in (*workers, os.getpid()):
                    os.kill(process, signal.SIGTERM)
    latest = trainer.checkpoints.latest()
    assert latest is not None
    assert latest.step == 3


def is_worker(process: int) -> bool:
    """Say whether a process is a fork of this one: it has the same command line."""
    return Path(f"/proc/{process}/cmdline").read_bytes() == Path("/proc/self/cmdline").read_bytes()


@pytest.mark.parametrize("good", [0, 2])
def test_unreadable_images_make_the_update_smaller(good: int, pairs: list[Pair], accelerator: Any, tmp_path: Path) -> None:
    bad = [replace(pair, image=tmp_path / "absent.jpg") for pair in pairs[: 4 - good]]
    trainer = linear([*pairs[4 : 4 + good], *bad], accelerator, tmp_path / "run", max_train_steps=2)
    before = copies(trainer.parameters)
    steps = list(trainer.steps())
    assert [(step.images, step.skipped) for step in steps] == [(good, False)] * 2
    assert all(math.isfinite(step.loss) for step in steps)
    assert equal(before, copies(trainer.parameters)) == (good == 0)


def test_the_gradient_is_the_mean_over_the_images_that_could_be_read(
    pairs: list[Pair], accelerator: Any, tmp_path: Path
) -> None:
    def gradient(data: list[Pair], batch_size: int) -> Tensor:
        learner = OneByOne(Linear())
        stream = build_stream(data, images=ImageSettings(resolution=SIDE, random_dihedral=False))
        parameters = dict(learner.network.named_parameters())
        settings = {"train_batch_size": batch_size, "max_grad_norm": 0.0}
        next(build_trainer(learner, parameters, stream, accelerator, tmp_path / "none", **settings).steps())
        return torch.cat([p.grad.flatten() for p in parameters.values() if p.grad is not None])

    plain = [squared(pair, tmp_path) for pair in pairs[:4]]
    bad = [replace(pair, image=tmp_path / "absent.jpg") for pair in plain[2:]]
    whole, part = gradient(plain[:2], 2), gradient([*plain[:2], *bad], 4)
    assert whole.norm() > 0
    assert torch.allclose(part, whole, atol=1e-6)


@pytest.mark.parametrize("unreadable", [0, 2])
def test_the_update_at_the_end_of_a_round_counts_each_of_its_images_once(
    unreadable: int, pairs: list[Pair], accelerator: Any, tmp_path: Path
) -> None:
    """Five pairs in micro-batches of two and updates of three: the second ends in another round than it begins in."""
    plain = [squared(pair, tmp_path) for pair in pairs[:5]]
    data = [*plain[unreadable:], *(replace(pair, image=tmp_path / "absent.jpg") for pair in plain[:unreadable])]
    learner = OneByOne(Linear())
    stream = build_stream(data, images=ImageSettings(resolution=SIDE, random_dihedral=False))
    sizes = {"train_batch_size": 2, "gradient_accumulation_steps": 3, "max_grad_norm": 0.0, "learning_rate": 1e-30}
    trainer = build_trainer(learner, dict(learner.network.named_parameters()), stream, accelerator, tmp_path / "none", **sizes)
    steps = trainer.steps()
    assert next(steps).step == 1
    second = next(steps)
    examples = [example for example in (stream[position] for position in range(6, 12)) if example is not None]
    assert second.images == len(examples)
    assert len(examples) == 6 if not unreadable else 0 < len(examples) < 6
    one_by_one = []
    for example in examples:
        learner.network.zero_grad()
        batch = Batch(example.pixels[None], (example.caption,), (example.key,))
        learner.loss(batch, torch.Generator()).sum().backward()
        one_by_one.append(torch.cat([p.grad.flatten().clone() for p in trainer.parameters.values() if p.grad is not None]))
    assert second.gradient_norm == pytest.approx(float(torch.stack(one_by_one).mean(0).norm()), rel=1e-5)


def squared(pair: Pair, folder: Path) -> Pair:
    """Return a pair of which every place makes the same example: one caption, and nothing to crop."""
    path = folder / f"{pair.image.stem}.png"
    open_image(pair.image).resize((16, 16)).save(path)
    return replace(pair, captions=pair.captions[:1], image=path)
