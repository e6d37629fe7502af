"""One bit flipped: where a hash is kept it is found out, the file is named, and an older or a new one takes its place."""

from __future__ import annotations

import json
import logging
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from faults.amounts import amount
from faults.contents import contents, require_same
from faults.figures import Figures
from faults.forking import Forks
from faults.programs import World, finetune_captioner, finetune_diffusion, generate, keep_features, score_pairs
from faults.readers import make_embedded

from skygen.checkpoints import Checkpoint, Checkpoints
from skygen.errors import StorageError
from skygen.evaluation.search.embedded_set import open_run
from skygen.models.adapter_files import HASHED, read_about, write_about
from skygen.seeding import Seeds
from skygen.training.tensor_store import TensorStore

pytestmark = pytest.mark.slow
FLIPS = amount(60, 1000)


def flip(path: Path, draw: np.random.Generator) -> Callable[[], object]:
    """Flip one bit of a file, wherever; return what puts it back."""
    before = path.read_bytes()
    content = bytearray(before)
    content[-1 - int(draw.integers(len(content)))] ^= 1 << int(draw.integers(8))
    path.write_bytes(content)
    return lambda: path.write_bytes(before)


def flip_in_every_row(path: Path) -> None:
    """Flip the last bit of every row of a shard's values."""
    content = bytearray(path.read_bytes())
    length = int.from_bytes(content[:8], "little")
    values = json.loads(content[8 : 8 + length])["values"]
    begin, end = values["data_offsets"]
    size = (end - begin) // values["shape"][0]
    for last in range(begin + size, end + 1, size):
        content[8 + length + last - 1] ^= 1
    path.write_bytes(content)


def test_a_flipped_bit_in_any_file_of_a_checkpoint_is_found_and_the_older_one_is_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, figures: Figures
) -> None:
    checkpoints, draw = Checkpoints(tmp_path), Seeds(1).numpy("flips")
    for step in (1, 2):
        values = torch.arange(300.0) * step
        tensors = {"parameters": {"a": values, "b": values.bfloat16()}, "optimizer": {"a": values}, "average": {"a": values}}
        newest = checkpoints.save(Checkpoint(step, tensors, {"seed": 3, "pairs": "0123456789abcdef"}))
    files = sorted(newest.iterdir())
    assert [path.name for path in files] == [
        "average.safetensors", "manifest.json", "optimizer.safetensors", "parameters.safetensors", "state.json"
    ]  # fmt: skip
    for path in files:
        detected = 0
        for _ in range(FLIPS):
            put_back = flip(path, draw)
            caplog.clear()
            found = checkpoints.latest()
            assert found is not None
            assert (found.tensors["parameters"]["a"] == torch.arange(300.0) * found.step).all()
            detected += found.step == 1 and f"{newest}: damaged or incomplete, passed over" in caplog.text
            put_back()
        figures(f"flipped bits: {path.name} of a checkpoint", flips=FLIPS, detected=detected)
        assert detected == FLIPS
    found = checkpoints.latest()
    assert found is not None
    assert found.step == 2


def test_a_flipped_bit_in_kept_features_is_found_before_they_are_used(
    tmp_path: Path, caplog: pytest.LogCaptureFixture, figures: Figures
) -> None:
    draw, detected = Seeds(2).numpy("flips"), 0
    keys = draw.integers(256, size=(8, 32), dtype=np.uint8)
    values = torch.from_numpy(draw.normal(size=(8, 3, 5))).float()
    TensorStore(tmp_path).add(keys, values)
    (path,) = tmp_path.glob("*.safetensors")
    with caplog.at_level(logging.WARNING, logger="skygen"):
        for _ in range(5 * FLIPS):
            put_back = flip(path, draw)
            caplog.clear()
            named = ""
            try:
                store = TensorStore(tmp_path)
                for row, slot in enumerate(store.locate(keys).tolist()):
                    if slot >= 0:
                        assert torch.equal(store.read(slot), values[row])
            except StorageError as error:
                named = str(error)
            detected += str(path) in named or str(path) in caplog.text
            put_back()
    figures("flipped bits: a shard of kept features or prompts", flips=5 * FLIPS, detected=detected)
    assert detected == 5 * FLIPS


@pytest.mark.parametrize("name", HASHED)
def test_a_flipped_bit_in_an_adapter_is_found_where_it_is_loaded(name: str, tmp_path: Path, figures: Figures) -> None:
    draw, detected = Seeds(3).numpy("flips"), 0
    path = tmp_path / name
    path.write_bytes(draw.bytes(2000))
    write_about(tmp_path, {"base": "miniature"})
    assert read_about(tmp_path) == {"base": "miniature"}
    for _ in range(FLIPS):
        put_back = flip(path, draw)
        with pytest.raises(StorageError, match="its bytes are not those that were written; copy the adapter again"):
            read_about(tmp_path)
        detected += 1
        put_back()
    figures("flipped bits: a file of an adapter", flips=FLIPS, detected=detected)


def test_a_flipped_bit_in_embeddings_or_scores_is_found_or_changes_nothing(tmp_path: Path, figures: Figures) -> None:
    """Where the bit is one of the seal itself, the values are right."""
    draw = Seeds(8).numpy("flips")
    shard, scores, _ = make_embedded(tmp_path)

    def read() -> tuple[list[object], ...]:
        found = open_run(scores.parent)
        assert found is not None
        rows = np.arange(found.embeddings.count)
        return found.embeddings.take(rows).tolist(), found.show(rows), found.kept().tolist()

    whole, moment = read(), 0
    for path in (shard, scores):
        detected = 0
        for _ in range(FLIPS):
            put_back = flip(path, draw)
            os.utime(path, ns=(moment := moment + 1, moment))  # a file's date tells a new one, and a disk's clock is coarse
            try:
                assert read() == whole
            except StorageError as error:
                assert str(error).startswith(f"{path}: its bytes are not those that were written; ")
                detected += 1
            put_back()
        assert detected > 0.95 * FLIPS
        figures(f"flipped bits: {path.suffix} of embeddings and scores", flips=FLIPS, detected=detected, values_changed=0)


def test_a_search_names_the_damaged_file_and_the_same_command_makes_it_again(
    small_world: World, forks: Forks, tmp_path: Path, figures: Figures
) -> None:
    words, run, draw = score_pairs(small_world, tmp_path), tmp_path / "run", Seeds(9).numpy("flips")
    forks.run(words)
    expected = contents(run)
    (shard,), (part,) = (run / "embeddings").glob("*.npy"), (run / "parts" / "scores").glob("*.parquet")
    flip(shard, draw)
    said = forks.run(["skygen", "search", str(run), "--text", "a bridge"], StorageError.exit_code)
    sentence = "its bytes are not those that were written; delete it, and run again what made it."
    assert said.splitlines()[-1] == f"skygen: {shard}: {sentence}"
    shard.unlink()
    forks.run(words)
    require_same(expected, contents(run))
    flip(part, draw)
    said = forks.run(words, StorageError.exit_code)
    assert f"skygen: {part}: {sentence}" in said
    part.unlink()
    forks.run(words)
    require_same(expected, contents(run))
    figures("flipped bits: embeddings and scores that are read", flips=2, detected=2, runs_equal=2)


def test_a_training_passes_over_a_damaged_checkpoint_and_comes_to_the_same_end(
    small_world: World, forks: Forks, tmp_path: Path, figures: Figures
) -> None:
    words, run = finetune_captioner(small_world, tmp_path / "root"), tmp_path / "root" / "run"
    forks.run(words)
    expected, draw = contents(run), Seeds(4).numpy("flips")
    flip(run / "checkpoints" / "step-000012" / "parameters.safetensors", draw)
    (run / "adapter" / "adapter_model.safetensors").unlink()
    said = forks.run(words)
    assert f"{run / 'checkpoints' / 'step-000012'}: damaged or incomplete, passed over" in said
    assert "continues after step 9 of 12" in said
    require_same(expected, contents(run))
    figures("flipped bits: the newest checkpoint of a training", flips=1, detected=1, runs_equal=1)


def test_a_training_on_damaged_features_names_each_file_to_delete_and_then_comes_to_the_same_end(
    small_world: World, forks: Forks, tmp_path: Path, figures: Figures
) -> None:
    words, run = keep_features(small_world, tmp_path), tmp_path / "run"
    forks.run(words)
    expected = contents(run)
    shutil.rmtree(run)
    shards = sorted((tmp_path / "features").rglob("*.safetensors"))
    assert len(shards) == 12  # of 48 images, each turned in 8 ways
    for path in shards:
        flip_in_every_row(path)
    deleted, fork = [], forks.start(words)
    while "Traceback" not in fork.wait() and fork.code == StorageError.exit_code:
        (path,) = [path for path in shards if f"skygen: {path}: row " in fork.text]
        assert "is not what was written; delete it, and the same command makes its features again." in fork.text
        path.unlink()
        deleted.append(path)
        fork = forks.start(words)
    assert fork.code == 0, fork.text
    assert len(deleted) == len(set(deleted)) > 0
    require_same(expected, contents(run))
    figures("flipped bits: features that a training reads", flips=len(deleted), detected=len(deleted), runs_equal=1)


def test_a_damaged_adapter_draws_nothing(small_world: World, forks: Forks, tmp_path: Path, figures: Figures) -> None:
    forks.run(finetune_diffusion(small_world, tmp_path, run__name="tuned", train__max_train_steps=1))
    adapter = tmp_path / "tuned" / "adapter"
    flip(adapter / "pytorch_lora_weights.safetensors", Seeds(6).numpy("flips"))
    said = forks.run(generate(small_world, tmp_path, model__adapter=adapter), StorageError.exit_code)
    (sentence,) = [line for line in said.splitlines() if line.startswith("skygen: ")]
    assert f"{adapter / 'pytorch_lora_weights.safetensors'}: its bytes are not those that were written" in sentence
    figures("flipped bits: an adapter that generate is given", flips=1, detected=1)


def test_damaged_pictures_are_drawn_again_and_nothing_else_is(
    small_world: World, forks: Forks, tmp_path: Path, figures: Figures
) -> None:
    words, samples, draw = generate(small_world, tmp_path), tmp_path / "run" / "samples", Seeds(6).numpy("flips")
    forks.run(words)
    expected, pictures = contents(tmp_path), sorted((samples / "images").glob("*.png"))
    assert len(pictures) == 24
    chosen = [pictures[place] for place in draw.permutation(24)[: amount(3, 20)]]
    for path in chosen:
        flip(path, draw)
    untouched = {path: path.stat().st_mtime_ns for path in pictures if path not in chosen}
    said = forks.run(words)
    assert f"{samples}: {len(chosen)} pictures are drawn again (" in said
    assert " has other bytes than were written" in said  # it names some of them
    assert {path: path.stat().st_mtime_ns for path in untouched} == untouched
    require_same(expected, contents(tmp_path))
    figures("flipped bits: generated pictures", flips=len(chosen), detected=len(chosen), drawn_again=len(chosen))
