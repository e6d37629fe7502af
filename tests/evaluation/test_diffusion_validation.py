"""Validation while training: the same numbers each time, beside those of the base, and never in the way of the training."""

from __future__ import annotations

import json
import logging
import random  # noqa: TID251  # its state must be as it was
from collections.abc import Iterator
from contextlib import nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from toy import build_stream, build_trainer, train_pairs

from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, Preempted, StorageError
from skygen.evaluation.export_check import check_export
from skygen.evaluation.validation.diffusion_validation import DiffusionValidation, HeldOut, ValidationSettings, choose_held_out
from skygen.evaluation.validation.loss import FixedNoising, compute_losses, encode_items, level_of, quartile_of
from skygen.evaluation.validation.record import last_scores, read_scores
from skygen.evaluation.validation.scores import score_pictures
from skygen.evaluation.validation.undisturbed import undisturbed
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.models.diffusions.noising import AlphaNoising, FlowNoising
from skygen.models.scorer import Scorer
from skygen.runs import Run, RunSettings
from skygen.seeding import Seeds

SEEDS = Seeds(5)
IMAGES = ImageSettings(resolution=64)
FEW = ValidationSettings(steps=1, split="test", pairs=6, images=4, grid=2, num_inference_steps=2, batch_size=4)


def adapted(folder: Path, dropout: float = 0.0) -> tuple[Diffusion, Any]:
    diffusion = Diffusion.load(str(folder))
    lora = LoraSettings(rank=4, lora_alpha=8, targets="attention_ff_conv", lora_dropout=dropout)
    return diffusion, diffusion.attach(lora, SEEDS, base=str(folder))


def moved(folder: Path) -> tuple[Diffusion, Any]:
    """A model whose LoRA does something."""
    diffusion, trained = adapted(folder)
    with torch.no_grad():
        for index, parameter in enumerate(trained.parameters.values()):
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=SEEDS.generator("moved", index)))
    return diffusion, trained


def held_out(world: Path, settings: ValidationSettings = FEW) -> HeldOut:
    where = PairSettings(root=world, split="train")
    training = where.read(Rejects(None))
    return choose_held_out(settings, where, training, IMAGES, CaptionSettings(strip_prefix=True), Rejects(None))


def validation(world: Path, scorer: Scorer | None = None, settings: ValidationSettings = FEW) -> DiffusionValidation:
    return DiffusionValidation(held_out(world, settings), settings, SEEDS, Rejects(None), scorer)


@pytest.fixture
def run(tmp_path: Path) -> Iterator[Run]:
    with Run(RunSettings("mine", tmp_path), FEW) as opened:
        yield opened


@pytest.fixture(scope="module")
def scorer(skyclip_folder: Path) -> Scorer:
    return Scorer.load(str(skyclip_folder))


def by_name(record: dict[str, Any]) -> dict[tuple[str, str], dict[str, Any]]:
    return {(score["name"], score["model"]): score for score in record["scores"]}


def test_held_out_pairs_are_told_from_training_pairs(world: Path) -> None:
    chosen = held_out(world)
    assert (len(chosen.pairs), chosen.subset, chosen.trained_on) == (6, "test", 0)
    assert len(chosen.prompts) == 6
    assert not any(prompt.startswith("a satellite image of") for prompt in chosen.prompts)
    from_training = held_out(world, replace(FEW, split=None))
    assert (from_training.subset, from_training.trained_on) == ("training pairs", 6)
    leaking = held_out(world, replace(FEW, split="train"))
    assert (leaking.subset, leaking.trained_on) == ("train", 6)


def test_settings_out_of_range_are_refused() -> None:
    with pytest.raises(ConfigError, match=r"^validation\.pairs is 0; it must be at least 1$"):
        ValidationSettings(pairs=0)


def test_levels_are_spread_over_the_schedule_whatever_the_count() -> None:
    for count in (4, 64, 100):
        assert np.bincount(quartile_of(range(count), SEEDS)).tolist() == [count // 4] * 4
    assert level_of(3, SEEDS) == level_of(3, SEEDS) != level_of(3, Seeds(6))


def test_the_loss_is_the_same_at_every_call_and_in_every_batch_size(world: Path, stable_diffusion_folder: Path) -> None:
    diffusion, _ = moved(stable_diffusion_folder)
    chosen = held_out(world)
    before = diffusion.family.noising

    def losses(batch_size: int) -> np.ndarray:
        items = encode_items(diffusion, chosen.pairs, chosen.prompts, chosen.images, SEEDS, Rejects(None))
        return compute_losses(diffusion, items, SEEDS, batch_size=batch_size, autocast=nullcontext)

    together, alone = losses(6), losses(1)
    assert together.shape == (6,)
    assert (together > 0).all()
    assert np.array_equal(together, losses(6))
    np.testing.assert_allclose(together, alone, rtol=1e-4)
    assert diffusion.family.noising is before


@pytest.mark.parametrize("kind", ["alphas", "flow"])
def test_noise_and_level_are_those_of_the_item_whatever_the_generator(kind: str) -> None:
    table = torch.linspace(0.999, 0.01, 1000)
    settings = DiffusionSettings()
    noising = AlphaNoising(table, "v_prediction", settings) if kind == "alphas" else FlowNoising(3.0, 1000, settings)
    latents = torch.zeros(8, 4, 2, 2)
    together = FixedNoising(noising, range(8), SEEDS).draw(latents, Seeds(1).generator("x"))
    alone = [FixedNoising(noising, [index], SEEDS).draw(latents[:1], Seeds(2).generator("y")) for index in range(8)]
    assert torch.equal(together.noisy, torch.cat([one.noisy for one in alone]))
    assert torch.equal(together.times, torch.cat([one.times for one in alone]))
    assert together.times.unique().numel() == 8
    assert 0 <= float(together.times.min()) < float(together.times.max()) < 1000
    by_level = sorted(range(8), key=lambda index: level_of(index, SEEDS))
    assert together.times.argsort().tolist() == by_level
    assert FixedNoising(noising, [0], SEEDS).prediction_type == noising.prediction_type


def test_the_loss_is_computed_in_the_precision_of_the_training(world: Path, stable_diffusion_folder: Path, run: Run) -> None:
    """Pitfall 4.9: under mixed precision the model is validated as it is trained, and stays as it is."""
    diffusion, trained = moved(stable_diffusion_folder)
    used: list[bool] = []
    diffusion.network.conv_in.register_forward_hook(lambda *_: used.append(torch.is_autocast_enabled("cpu")))
    few = replace(FEW, grid=1)
    DiffusionValidation(held_out(world), few, SEEDS, Rejects(None), None, lambda: torch.autocast("cpu", torch.bfloat16)).run(
        diffusion, run, 1
    )
    validation(world, settings=few).run(diffusion, run, 2)
    half, full = (record["loss"] for record in read_scores(run.folder))
    assert half == pytest.approx(full, rel=0.05)
    assert half != full
    assert used.count(True) == 4  # two batches, tuned and base; pictures are drawn as generate draws them
    assert used.count(False) > 4
    assert all(parameter.dtype == torch.float32 for parameter in trained.parameters.values())


def test_the_score_of_a_picture_is_the_scorers_own_cosine(scorer: Scorer) -> None:
    """Pitfall 4.18: torchmetrics' CLIPScore breaks on transformers 5, and is not asked."""
    pictures = [Image.new("RGB", (64, 64), color) for color in ("red", "green", "blue")]
    prompts = ["a harbor", "a forest", "the sea"]
    scores, left_out = score_pictures(scorer, prompts, {"tuned": pictures}, [None] * 3, subset="val", seeds=SEEDS)
    assert [(score.name, score.model) for score in scores] == [("skyclip_score", "tuned"), ("skyclip_score", "shuffled")]
    assert scores[0].value == pytest.approx(float(scorer.similarity(pictures, prompts).mean()), abs=1e-6)
    assert left_out == ["kid: not one real image can be read"]


def test_an_unreadable_image_costs_no_other_its_noise(world: Path, stable_diffusion_folder: Path, tmp_path: Path) -> None:
    diffusion, _ = adapted(stable_diffusion_folder)
    chosen, rejects = held_out(world), Rejects(None)
    pairs = list(chosen.pairs)
    pairs[1] = replace(pairs[1], image=tmp_path / "missing.png")
    items = encode_items(diffusion, pairs, chosen.prompts, chosen.images, SEEDS, rejects)
    whole = encode_items(diffusion, chosen.pairs, chosen.prompts, chosen.images, SEEDS, Rejects(None))
    assert [item.index for item in items] == [0, 2, 3, 4, 5]
    assert torch.equal(items[1].latents, whole[2].latents)
    assert (rejects.count, rejects.first_reason) == (1, "missing: no such file")


def test_a_validation_writes_scores_and_grid_with_the_base_beside_it(
    world: Path, stable_diffusion_folder: Path, scorer: Scorer, run: Run
) -> None:
    diffusion, _ = moved(stable_diffusion_folder)
    settings = replace(FEW, images=16, pairs=8, split="train")
    validate = validation(world, scorer, settings)
    validate.run(diffusion, run, 10)
    validate.run(diffusion, run, 20)
    first, second = read_scores(run.folder)
    assert (first.pop("step"), second.pop("step")) == (10, 20)
    assert first == second  # nothing changed between them
    assert "failed" not in first
    assert (first["subset"], first["trained_on"], first["left_out"]) == ("train", 16, [])
    scores = by_name(first)
    assert first["loss"] == scores["validation_loss", "tuned"]["value"]
    assert {model for name, model in scores if name == "validation_loss"} == {"tuned", "base", "tuned - base"}
    assert {model for name, model in scores if name == "skyclip_score"} == {"tuned", "base", "tuned - base", "shuffled", "real"}
    assert {model for name, model in scores if name == "kid"} == {"tuned", "base"}
    assert all((f"validation_loss_quartile_{quartile}", "tuned") in scores for quartile in (1, 2, 3, 4))
    assert sum(scores[f"validation_loss_quartile_{quartile}", "base"]["count"] for quartile in (1, 2, 3, 4)) == 8
    tuned, base, difference = (scores["validation_loss", model]["value"] for model in ("tuned", "base", "tuned - base"))
    assert difference == pytest.approx(tuned - base)
    assert abs(difference) > 1e-3
    assert all(score["interval"][0] <= score["interval"][1] for (_, model), score in scores.items() if model == "tuned - base")
    assert scores["kid", "tuned"]["count"] == scores["skyclip_score", "base"]["count"] == len(held_out(world, settings).pairs)
    assert (last_scores(run.folder)[0], len(last_scores(run.folder)[1])) == (20, len(scores))
    with Image.open(run.folder / "validation" / "grid-step-000010.png") as grid:
        assert json.loads(grid.text["skygen"])["synthetic"] is True  # type: ignore[attr-defined]
        one = np.asarray(grid.convert("RGB"))
    with Image.open(run.folder / "validation" / "grid-step-000020.png") as grid:
        other = np.asarray(grid.convert("RGB"))
    assert np.array_equal(one[80:], other[80:])  # below the headings, which name the step
    assert len(list((run.folder / "validation" / "base").glob("*.png"))) == scores["kid", "tuned"]["count"]


def test_pictures_of_the_base_are_read_after_a_resume_and_not_drawn_again(
    world: Path, stable_diffusion_folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusion, _ = moved(stable_diffusion_folder)
    drawn: list[int] = []
    sample = Diffusion.sample

    def count(self: Diffusion, prompts: Any, *args: Any, **named: Any) -> Any:
        drawn.append(len(prompts))
        return sample(self, prompts, *args, **named)

    monkeypatch.setattr(Diffusion, "sample", count)
    validation(world).run(diffusion, run, 10)
    assert drawn == [2, 2]
    validation(world).run(diffusion, run, 10)
    assert drawn == [2, 2, 2]
    (run.folder / "validation" / "base" / "0001.png").write_bytes(b"torn")
    validation(world).run(diffusion, run, 10)
    assert drawn == [2, 2, 2, 2, 1]
    validation(world, settings=replace(FEW, guidance_scale=2.0)).run(diffusion, run, 10)
    assert drawn == [2, 2, 2, 2, 1, 2, 2]


def test_a_continued_run_drops_what_came_after_its_checkpoint(world: Path, stable_diffusion_folder: Path, run: Run) -> None:
    diffusion, _ = adapted(stable_diffusion_folder)
    first = validation(world)
    for step in (10, 20, 30):
        first.run(diffusion, run, step)
    with (run.folder / "validation" / "scores.jsonl").open("a", encoding="utf-8") as file:
        file.write('{"step": 40, "lo')  # a kill cut it short
    validation(world).run(diffusion, run, 20)
    assert [record["step"] for record in read_scores(run.folder)] == [10, 20]
    assert sorted(path.stem[-2:] for path in (run.folder / "validation").glob("grid-*.png")) == ["10", "20"]


def test_prompts_of_ones_own_make_the_grid_and_few_pictures_no_kid(
    world: Path, stable_diffusion_folder: Path, scorer: Scorer, run: Run
) -> None:
    diffusion, _ = moved(stable_diffusion_folder)
    own = replace(FEW, prompts=("a harbor", "ein Hafen für <b>Schiffe</b>"), images=3)
    validation(world, scorer, own).run(diffusion, run, 10)
    record = read_scores(run.folder)[0]
    assert record["left_out"] == ["kid: it needs 16 real and drawn pictures, and there are 3"]
    with Image.open(run.folder / "validation" / "grid-step-000010.png") as grid:
        assert json.loads(grid.text["skygen"])["prompts"] == list(own.prompts)  # type: ignore[attr-defined]
        assert grid.width == 2 * 24 + 260 + 3 * (224 + 12)


def test_a_whole_model_has_no_base_beside_it(world: Path, stable_diffusion_folder: Path, run: Run) -> None:
    diffusion = Diffusion.load(str(stable_diffusion_folder))
    diffusion.attach(LoraSettings(rank=0), SEEDS)
    validation(world).run(diffusion, run, 10)
    record = read_scores(run.folder)[0]
    assert record["left_out"] == ["base: the whole model is trained, and no base is kept beside it"]
    assert {score["model"] for score in record["scores"]} == {"tuned"}


def train(world: Path, folder: Path, accelerator: Any, run: Run, between: DiffusionValidation | None) -> dict[str, Tensor]:
    """Train two updates with LoRA dropout, and look at the model in between or not."""
    diffusion, trained = adapted(folder, dropout=0.3)
    trainer = build_trainer(
        diffusion,
        trained.parameters,
        build_stream(train_pairs(world), 64),
        accelerator,
        run.folder / ("with" if between else "without"),
        max_train_steps=2,
        ema_decay=0.9,
    )
    for step in trainer.steps():
        if between:
            between.run(diffusion, run, step.step)
    return {name: tensor.detach().clone() for name, tensor in trained.parameters.items()}


def test_validation_changes_no_bit_of_the_training(
    world: Path, stable_diffusion_folder: Path, accelerator: Any, scorer: Scorer, run: Run
) -> None:
    plain = train(world, stable_diffusion_folder, accelerator, run, None)
    watched = train(world, stable_diffusion_folder, accelerator, run, validation(world, scorer))
    assert [("failed" in record, record["step"]) for record in read_scores(run.folder)] == [(False, 1), (False, 2)]
    assert plain.keys() == watched.keys()
    assert len(plain) > 20
    assert all(torch.equal(plain[name], watched[name]) for name in plain)
    started = adapted(stable_diffusion_folder)[1].parameters
    assert any(not torch.equal(plain[name], started[name]) for name in plain)


def state_of(diffusion: Diffusion) -> list[Any]:
    parts = [part for part in diffusion.pipeline.components.values() if isinstance(part, torch.nn.Module)]
    return [
        torch.get_rng_state().tolist(),
        np.random.get_state()[1].tolist(),  # type: ignore[index]
        [module.training for part in parts for module in part.modules()],
        [(parameter.requires_grad, parameter.dtype) for part in parts for parameter in part.parameters()],
        diffusion.family.noising,
    ]


def test_a_validation_without_memory_is_noted_and_training_goes_on_as_before(
    world: Path,
    stable_diffusion_folder: Path,
    scorer: Scorer,
    run: Run,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Pain 13: memory runs out in validation, and takes the LoRA along."""

    def run_out(*_: Any) -> None:
        torch.rand(1), np.random.rand()
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20 GiB.\nmore of it")

    monkeypatch.setattr(Scorer, "embed_images", run_out)
    diffusion, trained = moved(stable_diffusion_folder)
    diffusion.network.train()
    diffusion.network.down_blocks[0].eval()  # modes that one call of train() would not give back
    before, values = state_of(diffusion), {name: p.detach().clone() for name, p in trained.parameters.items()}
    with caplog.at_level(logging.WARNING, logger="skygen"):
        validation(world, scorer).run(diffusion, run, 10)
    assert state_of(diffusion) == before
    assert all(torch.equal(trained.parameters[name], values[name]) for name in values)
    record = read_scores(run.folder)[0]
    assert record["failed"] == "CUDA out of memory. Tried to allocate 20 GiB"
    assert record["loss"] > 0  # what was known by then stays
    assert caplog.messages == [
        "step 10: the validation failed, and the training goes on: CUDA out of memory. Tried to allocate 20 GiB."
    ]
    assert last_scores(run.folder) == (0, [])


@pytest.mark.parametrize("end", [KeyboardInterrupt(), Preempted("stopped by a signal")])
def test_an_interruption_is_no_failure(
    end: BaseException, world: Path, stable_diffusion_folder: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    diffusion, _ = adapted(stable_diffusion_folder)

    def stop(*_: Any, **__: Any) -> None:
        raise end

    monkeypatch.setattr(Diffusion, "sample", stop)
    before = state_of(diffusion)
    with pytest.raises(type(end)):
        validation(world).run(diffusion, run, 10)
    assert state_of(diffusion) == before
    assert read_scores(run.folder) == []


def test_what_is_looked_at_is_put_back(stable_diffusion_folder: Path) -> None:
    diffusion, trained = adapted(stable_diffusion_folder)
    before, of_python = state_of(diffusion), random.getstate()  # of Python here alone: beartype's checks draw from it
    with pytest.raises(ZeroDivisionError), undisturbed(diffusion.pipeline):
        torch.rand(3), np.random.rand(3), random.random()
        diffusion.network.eval().requires_grad_(False)
        assert not torch.is_grad_enabled()
        _ = 1 / 0
    assert random.getstate() == of_python
    assert state_of(diffusion) == before
    assert all(parameter.requires_grad for parameter in trained.parameters.values())


def test_previews_are_what_a_freshly_loaded_adapter_draws(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    """Pain 9: pictures drawn while training differ from those that the exported file gives."""
    diffusion, trained = moved(stable_diffusion_folder)
    trained.save(tmp_path / "adapter")
    before = state_of(diffusion)
    found = check_export(diffusion, tmp_path / "adapter", str(stable_diffusion_folder), seeds=SEEDS)
    assert found.pictures == 2
    assert found.difference <= 2
    assert found.effect is not None
    assert found.effect > 20
    assert state_of(diffusion) == before


def test_an_adapter_that_draws_something_else_is_told(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    diffusion, trained = moved(stable_diffusion_folder)
    trained.save(tmp_path / "adapter")
    with torch.no_grad():
        for parameter in trained.parameters.values():
            parameter.mul_(-1.1)
    sentence = (
        r"adapter: a model loaded from it draws pictures that differ by up to \d+/255 from those of the trained one; keep the "
        r"newest checkpoint, from which the same command exports again, and report which layers are adapted\.$"
    )
    with pytest.raises(StorageError, match=sentence):
        check_export(diffusion, tmp_path / "adapter", str(stable_diffusion_folder), seeds=SEEDS)


def test_a_whole_model_is_checked_too(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    diffusion = Diffusion.load(str(stable_diffusion_folder))
    trained = diffusion.attach(LoraSettings(rank=0), SEEDS)
    trained.save(tmp_path / "model")
    found = check_export(diffusion, tmp_path / "model", "no such base", seeds=SEEDS)
    assert (found.pictures, found.effect) == (2, None)
    assert found.difference <= 2
