"""The text-to-image recipe: what is kept changes nothing but the time, and what is validated and told is what is exported."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from recipes.processes import ROOT, end_all, finish, launcher, start
from safetensors.torch import load_file

from recipes import finetune_captioner, generate, pretrain_skyclip
from recipes.finetune_diffusion import Config, main
from skygen.checkpoints import Checkpoints
from skygen.commands.data import index
from skygen.config import parse
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, Preempted, UnavailableError
from skygen.evaluation.validation.held_out import choose_held_out
from skygen.evaluation.validation.loss import compute_losses, encode_items
from skygen.evaluation.validation.record import read_scores
from skygen.miniature.fabricate import fabricate
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.frozen import LatentEncoder, PromptEncoder
from skygen.models.diffusions.metadata_record import RECORD_FILE
from skygen.models.diffusions.metadata_record import WEIGHTS_FILE as METADATA_FILE
from skygen.runs import Run
from skygen.seeding import Seeds

ADAPTER = "adapter/pytorch_lora_weights.safetensors"
BUCKETS = {"images.aspect_buckets": True, "images.resolution": 48}
SQUARES = {"images.center_crop": True, "images.random_dihedral": False}
ALMOST = 1e-4
"""Mean difference of values that moved by 1e-2 where a part of a micro-batch is one image; measured: 0, for none is here."""
FSDP = """# The recipe, as it is under a launch file that says FSDP: accelerate takes that from GPUs alone.
import os, sys
sys.path.insert(0, os.getcwd())
from accelerate import DistributedType
from recipes import finetune_diffusion as recipe
from skygen.runs import launch

start = recipe.start_accelerator

def start_sharding(*settings):
    accelerator = start(*settings)
    accelerator.state.distributed_type = DistributedType.FSDP
    return accelerator

recipe.start_accelerator = start_sharding
launch(recipe.main, recipe.Config)
"""
TEST_CSV = "SkyScript_test_30K_filtered_by_CLIP_openai.csv"
TRAIN_CSV = "SkyScript_train_unfiltered_5M.csv"
SHARDED = 1e-6
"""Mean difference of values that moved by 1e-2; measured: 5e-8."""
TOLD = ("gsd", "source", "month", "place")


class Crash(Exception):
    """What ends a run in the middle."""


@pytest.fixture(autouse=True)
def _nothing_runs_on() -> Iterator[None]:
    yield
    end_all()


@pytest.fixture(scope="module")
def indexed(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A fabricated data set of 40 pairs, 32 of them to train on, whose index says when and where each image was taken."""
    root = tmp_path_factory.mktemp("indexed") / "world"
    fabricate(root, pairs=40, seed=3)
    index(root)
    return root


class Recipe:
    """Runs the recipe as the command line does, on 32 pixels."""

    def __init__(self, data: Path, model: Path, root: Path) -> None:
        self.root = root
        self.words: dict[str, Any] = {"run.root": root, "pairs.root": data, "pairs.split": "train", "model.name": model}
        self.words |= {"images.resolution": 32, "lora.rank": 4, "train.learning_rate": 1e-2}
        self.words |= {"train.max_train_steps": 3, "train.train_batch_size": 4}

    def config(self, name: str, **words: Any) -> Config:
        return parse(Config, list(flags(self.words | {"run.name": name} | words)))

    def __call__(self, name: str, words: dict[str, Any]) -> Path:
        main(self.config(name, **words))
        return self.root / name


def flags(words: dict[str, Any]) -> Iterator[str]:
    for key, value in words.items():
        if isinstance(value, tuple):
            yield from (f"--{key}", *value)
        elif value is not None:
            yield f"--{key}={value}"


@pytest.fixture
def recipe(indexed: Path, stable_diffusion_folder: Path, tmp_path: Path) -> Recipe:
    return Recipe(indexed, stable_diffusion_folder, tmp_path)


@pytest.fixture
def encoded(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    """How many images and prompts the frozen encoders are given to keep."""
    counts: Counter[str] = Counter()
    for encoder, name in ((LatentEncoder, "images"), (PromptEncoder, "prompts")):
        encode = encoder.encode

        def counted(self: Any, things: Any, name: str = name, encode: Any = encode) -> Any:
            counts[name] += len(things)
            return encode(self, things)

        monkeypatch.setattr(encoder, "encode", counted)
    return counts


@contextmanager
def ended_after(step: int, how: str) -> Iterator[None]:
    """End a run when it has logged a step: at once, or by a signal that it may answer."""
    log = Run.log

    def logged(self: Run, logged_step: Any) -> None:
        log(self, logged_step)
        if logged_step.step == step:
            if how == "crash":
                raise Crash
            signal.raise_signal(signal.SIGTERM)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(Run, "log", logged)
        yield


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def sentence(raised: pytest.ExceptionInfo[Exception]) -> str:
    return str(raised.value)


def draw(diffusion: Diffusion) -> np.ndarray[Any, Any]:
    picture = diffusion.sample(["a dam in a forest"], [3], num_inference_steps=3, resolution=32)[0]
    return np.asarray(picture).astype(int)


def test_over_kept_features_an_ended_run_goes_on_and_everything_is_kept_once(
    recipe: Recipe, encoded: Counter[str], tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    words = BUCKETS | {"features.root": tmp_path / "features", "train.max_train_steps": 6, "train.checkpointing_steps": 2}
    words |= {"train.ema_decay": 0.9, "lora.lora_dropout": 0.1, "metadata.fields": TOLD}
    unbroken = recipe("unbroken", words)
    assert encoded["images"] > 32
    assert encoded["prompts"] > 20
    shapes = read_json(unbroken / "ledger.json")["images"]["shapes"]
    assert len(shapes) > 1
    assert sum(shapes.values()) == 32
    encoded.clear()
    caplog.set_level(logging.INFO, "skygen")
    caplog.clear()
    with ended_after(3, "crash"), pytest.raises(Crash):
        recipe("broken", words)
    with ended_after(4, "signal"), pytest.raises(Preempted, match=r"^stopped by a signal after step 5;"):
        recipe("broken", words)
    broken = recipe("broken", words)
    assert encoded == {}
    said = [record.getMessage() for record in caplog.records]
    assert sum("there; 0 bytes of" in line for line in said) == 3 * 2  # features and prompts, in each of three runs
    assert [line for line in said if line.startswith("continues")] == [
        "continues after step 2 of 6",
        "continues after step 5 of 6",
    ]
    files = ("pytorch_lora_weights.safetensors", METADATA_FILE)
    assert [(broken / "adapter" / name).read_bytes() for name in files] == [
        (unbroken / "adapter" / name).read_bytes() for name in files
    ]
    assert [record["step"] for record in read_lines(broken / "log.jsonl")] == [1, 2, 3, 4, 5, 6]


def test_features_kept_in_float32_train_the_same_adapter(recipe: Recipe, encoded: Counter[str], tmp_path: Path) -> None:
    """Bit for bit where the autoencoder gets as many images at a time: its sums on a CPU differ between 1, 2 to 8, and 16."""
    features = {"features.dtype": "float32", "features.batch_size": 4}
    differences = {}
    for framing, words in (("squares", SQUARES), ("buckets", BUCKETS)):
        looked = recipe(f"looked-{framing}", words)
        assert encoded == {}
        kept = recipe(f"kept-{framing}", words | features | {"features.root": tmp_path / framing})
        assert encoded["images"] >= 32
        assert encoded["prompts"] > 20
        encoded.clear()
        assert read_json(kept / "ledger.json") == read_json(looked / "ledger.json")
        losses = [[step["loss"] for step in read_lines(run / "log.jsonl")] for run in (looked, kept)]
        assert len(losses[0]) == 3
        assert losses[0] == pytest.approx(losses[1], rel=1e-5)
        first, second = (load_file(run / ADAPTER) for run in (looked, kept))
        assert len(first) > 20
        differences[framing] = [float((first[name] - second[name]).abs().mean()) for name in first]
    assert max(differences["squares"]) == 0
    assert max(differences["buckets"]) < ALMOST  # whose micro-batches fall into parts of one to four images


def generated(recipe: Recipe, scorer: Path, name: str, **words: Any) -> np.ndarray[Any, Any]:
    prompts = recipe.root / "prompts.txt"
    prompts.write_text("two storage tanks\n")
    given = {"run.name": name, "run.root": recipe.root, "prompts.file": prompts, "model.name": recipe.words["model.name"]}
    given |= {"scorer.name": scorer, "generation.num_inference_steps": 3, "generation.resolution": 32}
    generate.main(parse(generate.Config, list(flags(given | words))))
    (line,) = read_lines(recipe.root / name / "samples" / "metadata.jsonl")
    return np.asarray(Image.open(recipe.root / name / "samples" / line["file_name"])).astype(int)


def test_what_the_images_metadata_has_taught_is_saved_drawn_with_and_gone_on_with(recipe: Recipe, skyclip_folder: Path) -> None:
    told = {"metadata.fields": ("month", "source")}
    first = recipe("first", told | {"train.max_train_steps": 6})
    assert sorted(path.name for path in (first / "adapter").iterdir()) == sorted(
        ["README.md", "skygen.json", "pytorch_lora_weights.safetensors", METADATA_FILE, RECORD_FILE]
    )
    record = read_json(first / "adapter" / RECORD_FILE)
    assert record["fields"] == ["source", "month"]
    assert record["statistics"] == {"images": 32, "known": {"source": 32, "month": 32}}
    wishes: dict[str, dict[str, Any]] = {
        "untold": {},
        "swiss": {"metadata.source": "CH"},
        "landsat": {"metadata.source": "L8", "metadata.month": 4},
    }
    pictures = {
        name: generated(recipe, skyclip_folder, name, **{"model.adapter": first / "adapter"} | wish)
        for name, wish in wishes.items()
    }
    for one, other in (("untold", "swiss"), ("untold", "landsat"), ("swiss", "landsat")):
        assert np.abs(pictures[one] - pictures[other]).max() > 3, (one, other)
    (line,) = read_lines(recipe.root / "swiss" / "samples" / "metadata.jsonl")
    assert line["metadata"]["source"] == "CH"
    on = {"model.adapter": first / "adapter", "train.max_train_steps": 1, "train.learning_rate": 1e-5}
    second, anew = recipe("second", told | on), recipe("anew", told | on | {"model.adapter": None})
    for name, fewest in (("pytorch_lora_weights.safetensors", 20), (METADATA_FILE, 12)):
        before, after, other = (load_file(run / "adapter" / name) for run in (first, second, anew))
        assert len(before) >= fewest
        assert before.keys() == after.keys() == other.keys()
        assert all(torch.allclose(before[key], after[key], atol=1e-4, rtol=0) for key in before)
        assert any(not torch.equal(before[key], after[key]) for key in before)
        assert any(not torch.allclose(before[key], other[key], atol=1e-3, rtol=0) for key in before)
    with pytest.raises(ConfigError) as raised:
        recipe("third", on)
    assert sentence(raised) == (
        f"--model.adapter {first / 'adapter'}: was trained with metadata, and would go on without; set --metadata.fields as "
        f"{RECORD_FILE} there has them."
    )


def test_what_the_metadata_cannot_say_is_refused_in_a_sentence(recipe: Recipe, world: Path, skyclip_folder: Path) -> None:
    plain = recipe("plain", {"train.max_train_steps": 1})
    told = recipe("told", {"train.max_train_steps": 1, "metadata.fields": ("gsd", "source")})
    assert not (plain / "adapter" / RECORD_FILE).exists()
    wishes: list[tuple[Path, dict[str, Any], str]] = [
        (plain, {"metadata.source": "CH"},
         "metadata: this model was trained without it; leave it out, or give another --model.adapter."),
        (told, {"metadata.month": 6}, "metadata.month: the adapter was trained on gsd, source alone; leave it out."),
        (told, {"metadata.month": 13}, "metadata.month is 13; it must be from 1 to 12"),
    ]  # fmt: skip
    for number, (run, wish, said) in enumerate(wishes):
        with pytest.raises(ConfigError) as raised:
            generated(recipe, skyclip_folder, f"refused-{number}", **{"model.adapter": run / "adapter"} | wish)
        assert sentence(raised) == said
    with pytest.raises(ConfigError) as raised:
        recipe("unindexed", {"pairs.root": world, "metadata.fields": ("month",)})
    assert sentence(raised) == (
        "metadata.fields: month is known of none of 48 pairs looked at; leave it out, or give pairs that say it."
    )


def test_text_encoders_are_trained_and_load_with_plain_diffusers(
    recipe: Recipe, stable_diffusion_folder: Path, encoded: Counter[str], tmp_path: Path
) -> None:
    from diffusers import StableDiffusionPipeline

    words = SQUARES | {"lora.text_encoders": True, "features.root": tmp_path / "features", "train.max_train_steps": 6}
    run = recipe("both", words)
    assert encoded["images"] >= 32
    assert encoded["prompts"] == 0  # what is trained says something else at every step
    tensors = load_file(run / ADAPTER)
    assert {key.split(".")[0] for key in tensors} == {"unet", "text_encoder"}
    updates = [tensor for key, tensor in tensors.items() if key.startswith("text_encoder.") and ".lora_B." in key]
    assert len(updates) > 5
    assert all(tensor.any() for tensor in updates)
    loaded = draw(Diffusion.load(str(stable_diffusion_folder), run / "adapter"))
    pipeline = StableDiffusionPipeline.from_pretrained(stable_diffusion_folder, safety_checker=None)
    pipeline.load_lora_weights(str(run / "adapter"), weight_name="pytorch_lora_weights.safetensors")
    assert np.array_equal(draw(Diffusion(pipeline)), loaded)
    pipeline.text_encoder.disable_adapters()
    assert np.abs(draw(Diffusion(pipeline)) - loaded).max() > 3


def test_what_is_validated_is_the_average_that_is_exported(
    recipe: Recipe, skyclip_folder: Path, encoded: Counter[str], tmp_path: Path
) -> None:
    words = SQUARES | {"features.root": tmp_path / "features", "metadata.fields": TOLD, "validation.scorer": skyclip_folder}
    words |= {"train.max_train_steps": 5, "train.ema_decay": 0.9, "validation.steps": 2, "validation.split": "test"}
    words |= {"validation.pairs": 4, "validation.images": 2, "validation.grid": 2, "validation.num_inference_steps": 2}
    run, config = recipe("validated", words), recipe.config("validated", **words)
    assert encoded["prompts"] > 20  # the held-out captions are not among them: the text encoders come back for those
    records = read_scores(run)
    assert [record["step"] for record in records] == [2, 4, 5]
    assert all("failed" not in record and record["trained_on"] == 0 for record in records)
    assert all((run / "validation" / f"grid-step-{step:06d}.png").is_file() for step in (2, 4, 5))
    last = records[-1]
    assert {score["name"] for score in last["scores"]} > {"validation_loss", "skyclip_score"}
    exported = Diffusion.load(config.model.name, run / "adapter")
    assert validation_loss(exported, config) == pytest.approx(last["loss"], rel=1e-6)

    checkpoint = Checkpoints(run / "checkpoints").latest()
    assert checkpoint is not None
    assert checkpoint.step == 5
    trained = Diffusion.of(config.model)
    parameters = trained.attach(config.lora, Seeds(0), metadata=config.metadata).parameters
    losses = {}
    for name in ("average", "parameters"):
        assert checkpoint.tensors[name].keys() == parameters.keys()
        with torch.no_grad():
            for key, parameter in parameters.items():
                parameter.copy_(checkpoint.tensors[name][key])
        losses[name] = validation_loss(trained, config)
    assert losses["average"] == pytest.approx(last["loss"], rel=1e-6)
    assert abs(losses["parameters"] - last["loss"]) > 1e-3 * last["loss"]

    card = (run / "adapter" / "README.md").read_text()
    assert f"fingerprint: `{config.pairs.read(Rejects(None)).fingerprint()}`" in card
    assert f"| `validation_loss` | `tuned` | {last['loss']:.4f} |" in card
    assert "- pairs: `40 listed, 32 usable, 8 filtered (8 by pairs.split);" in card
    assert str(tmp_path) not in card


def validation_loss(diffusion: Diffusion, config: Config) -> float:
    """Compute anew what a run's validation computes."""
    rejects, seeds, count = Rejects(None), Seeds(config.run.seed), config.validation.pairs
    images = config.images.for_model(diffusion.resolution, diffusion.size_step)
    training = config.pairs.read(rejects)
    held_out = choose_held_out(config.validation, config.pairs, training, images, config.captions, rejects)
    items = encode_items(diffusion, held_out.pairs[:count], held_out.prompts[:count], images, seeds, rejects)
    return float(compute_losses(diffusion, items, seeds, batch_size=count, autocast=nullcontext).mean())


def damage(data: Path, csv: str, root: Path) -> tuple[Path, str]:
    """Copy a data set without its index, and cut short the first image of a list; return the copy and that image's key."""
    shutil.copytree(data, root, ignore=shutil.ignore_patterns(".skygen"))
    key = (root / csv).read_text().splitlines()[1].split(",")[0]
    (root / key).write_bytes((root / key).read_bytes()[:600])
    return root, key


def test_a_bad_held_out_image_is_noted_apart_and_does_not_end_the_training(
    recipe: Recipe, indexed: Path, tmp_path: Path
) -> None:
    damaged, key = damage(indexed, TEST_CSV, tmp_path / "damaged")
    words = {"pairs.root": damaged, "train.max_train_steps": 1, "validation.steps": 1, "validation.split": "test"}
    run = recipe("validated", words | {"validation.images": 0, "validation.grid": 0, "validation.scorer": ""})
    assert [reject["key"] for reject in read_lines(run / "validation" / "rejects.jsonl")] == [key]
    (record,) = read_scores(run)
    assert record["loss"] > 0
    assert record["scores"][0]["count"] == 3
    assert not (run / "rejects.jsonl").exists()
    account = read_json(run / "ledger.json")
    assert (account["listed"], account["usable"], account["quarantined"]) == (32, 32, {})


@pytest.mark.parametrize("kept", [True, False], ids=["kept", "looked_at"])
def test_every_row_is_accounted_for_with_and_without_an_index(
    kept: bool, recipe: Recipe, indexed: Path, tmp_path: Path
) -> None:
    damaged, _ = damage(indexed, TRAIN_CSV, tmp_path / "damaged")
    words = SQUARES | {"pairs.root": damaged, "pairs.max_bad_fraction": 0.1, "train.train_batch_size": 16}
    words |= {"train.max_train_steps": 2} | ({"features.root": tmp_path / "features"} if kept else {})
    for name, filtered in (("listed", {}), ("indexed", {"by pairs.split": 8})):  # an index knows of the other splits
        if name == "indexed":
            index(damaged)
        run = recipe(name, words)
        account = read_json(run / "ledger.json")
        assert account["listed"] == 31 + 1 + sum(filtered.values())
        assert (account["usable"], account["merged"], account["filtered"]) == (31, {}, filtered)
        assert account["quarantined"] == {"truncated": 1}
        (reject,) = read_lines(run / "rejects.jsonl")
        assert reject["reason"] == "truncated: the file ends before the picture does"
        assert sum(account["images"]["shapes"].values()) == 31
        assert "31 usable, " in (run / "adapter" / "README.md").read_text()
        assert [step["images"] for step in read_lines(run / "log.jsonl")] in ([15, 16], [16, 15])


def test_a_scorer_that_is_not_here_is_refused_before_anything_is_loaded(recipe: Recipe, tmp_path: Path) -> None:
    nowhere = {"validation.steps": 1, "validation.scorer": tmp_path / "scorer", "model.name": tmp_path / "model"}
    with pytest.raises(UnavailableError) as raised:
        recipe("refused", nowhere)
    assert f"{tmp_path / 'scorer'}: not a scorer that skygen knows, not a file, not a folder, and not an id" in sentence(raised)
    assert raised.value.exit_code == 69
    assert not (recipe.root / "refused").exists()
    with pytest.raises(UnavailableError, match=str(tmp_path / "model")):
        recipe("refused", nowhere | {"validation.steps": 0})


def test_rectangles_are_refused_where_a_model_looks_at_squares(
    world: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    refused = 0
    for module, model in ((finetune_captioner, captioner_folder), (pretrain_skyclip, skyclip_folder)):
        words = {"run.name": "a", "run.root": tmp_path, "pairs.root": world, "pairs.split": "train", "model.name": model}
        given = list(flags(words | {"images.aspect_buckets": True, "images.crop": True}))
        with pytest.raises(ConfigError) as raised:
            module.main(parse(module.Config, given))
        refused += sentence(raised) == "images.aspect_buckets: this model looks at squares alone; set it to false"
    assert refused == 2


def test_a_whole_model_that_would_forget_what_it_was_told_is_refused(recipe: Recipe) -> None:
    with pytest.raises(ConfigError) as raised:
        recipe("refused", {"lora.rank": 0, "metadata.fields": ("source",), "model.name": "nowhere"})
    assert sentence(raised) == (
        "--lora.rank 0 leaves a whole model behind, which is loaded without what --metadata.fields has taught it: set a rank, "
        "or leave the fields out."
    )


def test_a_whole_model_is_trained_over_kept_features(recipe: Recipe, encoded: Counter[str], tmp_path: Path) -> None:
    words = SQUARES | {"lora.rank": 0, "train.max_train_steps": 2, "train.learning_rate": 1e-3}
    looked = recipe("looked", words)
    features = {"features.root": tmp_path / "features", "features.dtype": "float32", "features.batch_size": 4}
    kept = recipe("kept", words | features)
    assert encoded["images"] >= 32
    name = "model/unet/diffusion_pytorch_model.safetensors"
    first, second = (load_file(run / name) for run in (looked, kept))
    assert len(first) > 100
    assert all(torch.equal(first[key], second[key]) for key in first)
    before = load_file(Path(recipe.words["model.name"]) / "unet" / "diffusion_pytorch_model.safetensors")
    assert sum(not torch.equal(first[key], before[key]) for key in first) > 0.9 * len(first)


@pytest.mark.slow
def test_a_sharded_base_trains_the_same_adapter_and_refuses_what_one_process_does_alone(recipe: Recipe, tmp_path: Path) -> None:
    (tmp_path / "sharded.py").write_text(FSDP)
    program = {"whole": ROOT / "recipes" / "finetune_diffusion.py", "sharded": tmp_path / "sharded.py"}
    words = recipe.words | SQUARES | {"features.root": tmp_path / "features", "metadata.fields": TOLD}

    def command(name: str, **more: Any) -> list[str]:
        return [*launcher(2), str(program[name]), *flags(words | {"run.name": name} | more)]

    for name in program:
        finish(start(command(name)))
    for name, fewest in (("pytorch_lora_weights.safetensors", 20), (METADATA_FILE, 12)):
        whole, sharded = (load_file(tmp_path / run / "adapter" / name) for run in ("whole", "sharded"))
        assert len(whole) >= fewest
        assert whole.keys() == sharded.keys()
        assert max(float((whole[key] - sharded[key]).abs().mean()) for key in whole) < SHARDED
    said = finish(start(command("sharded", **{"run.name": "refused", "validation.steps": 1, "validation.scorer": ""})), code=1)
    assert (
        "skygen: --validation.steps: a denoiser that is divided among processes can only be called by all of them together; "
        "set it to 0, and draw with recipes/generate.py afterwards."
    ) in said
    assert read_json(tmp_path / "refused" / "run_status.json")["state"] == "failed"
