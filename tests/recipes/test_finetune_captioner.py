"""The captioner's recipe: kept features change nothing but the time, and a reward is one setting away."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file

from recipes.finetune_captioner import Config, PreviewSettings, main
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings
from skygen.data.pairs import PairSettings
from skygen.errors import ConfigError
from skygen.models import captioner as captioners
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import CaptionerSettings
from skygen.models.scorer import ScorerSettings
from skygen.runs import RunSettings
from skygen.training.feature_cache import FeatureCacheSettings
from skygen.training.loop import TrainSettings
from skygen.training.self_critical import RewardSettings


def config(world: Path, captioner_folder: Path, root: Path, name: str, **sections: Any) -> Config:
    return Config(
        run=RunSettings(name=name, root=root),
        pairs=PairSettings(root=world, split="train", limit=12),
        model=sections.pop("model", CaptionerSettings(name=str(captioner_folder))),
        lora=sections.pop("lora", LoraSettings(rank=4)),
        images=ImageSettings(crop=False),
        captions=CaptionSettings(strip_prefix=True, dropout=0.2),
        train=sections.pop("train", TrainSettings(learning_rate=1e-3, max_train_steps=4, train_batch_size=5)),
        **sections,
    )


def adapter_of(root: Path, name: str) -> dict[str, torch.Tensor]:
    return load_file(root / name / "adapter" / "adapter_model.safetensors")


def lines_of(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_kept_features_train_the_same_adapter_and_the_tower_runs_once_an_image(
    world: Path, captioner_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    encoded: list[int] = []
    encode = captioners.Captioner.encode

    def counted(self: Any, pixels: Any) -> Any:
        encoded.append(len(pixels))
        return encode(self, pixels)

    monkeypatch.setattr(captioners.Captioner, "encode", counted)
    main(config(world, captioner_folder, tmp_path, "looked"))
    looked = sum(encoded)
    encoded.clear()
    features = FeatureCacheSettings(root=tmp_path / "features", dtype="float32")
    main(config(world, captioner_folder, tmp_path, "kept", features=features))
    assert looked == 4 * 5
    assert sum(encoded) == 12 * 8 + 2  # every way an image may lie, and one to see the shape, before and after it is said
    encoded.clear()
    main(config(world, captioner_folder, tmp_path, "again", features=features))
    assert encoded == []
    first, second = adapter_of(tmp_path, "looked"), adapter_of(tmp_path, "kept")
    assert len(first) > 20
    assert all(torch.allclose(first[name], second[name], atol=1e-5) for name in first)
    losses = [[line["loss"] for line in lines_of(tmp_path / name / "log.jsonl")] for name in ("looked", "kept")]
    assert losses[0] == pytest.approx(losses[1], abs=1e-4)


def test_features_of_a_tower_that_is_trained_are_not_kept(world: Path, captioner_folder: Path, tmp_path: Path) -> None:
    lora, features = LoraSettings(rank=4, targets="all"), FeatureCacheSettings(root=tmp_path / "features")
    with pytest.raises(ConfigError, match=r"--features\.root keeps what a frozen vision tower says, and --lora\.targets all"):
        main(config(world, captioner_folder, tmp_path, "all", lora=lora, features=features))


@pytest.mark.parametrize("name", ["cider_d", "margin"])
def test_a_reward_goes_on_from_an_adapter_and_is_judged(
    name: Any, world: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    main(config(world, captioner_folder, tmp_path, "first"))
    train = TrainSettings(learning_rate=1e-3, max_train_steps=2, train_batch_size=3, group_by_length=True)
    model = CaptionerSettings(name=str(captioner_folder), adapter=tmp_path / "first" / "adapter")
    rewarded = config(
        world, captioner_folder, tmp_path, "second", model=model, train=train,
        reward=RewardSettings(name=name, samples=3, max_new_tokens=6),
        scorer=ScorerSettings(name=str(skyclip_folder)),
        preview=PreviewSettings(steps=1, images=4, judge=str(skyclip_folder)),
    )  # fmt: skip
    main(rewarded)
    before, after = adapter_of(tmp_path, "first"), adapter_of(tmp_path, "second")
    assert any(not torch.equal(before[key], after[key]) for key in before)
    assert all(float((before[key] - after[key]).abs().max()) < 0.01 for key in before)  # two small steps from where it was
    scores = lines_of(tmp_path / "second" / "previews" / "scores.jsonl")
    assert [line["step"] for line in scores] == [1, 2]
    assert set(scores[0]) == {"step", "images", "cider_d", "distinct", "judge_similarity", "judge_similarity_shuffled"}
    assert len(lines_of(tmp_path / "second" / "previews" / "captions.jsonl")) == 8
    with pytest.raises(ConfigError, match="reward"):
        main(replace(rewarded, reward=RewardSettings(), train=replace(train, max_train_steps=3)))


def test_what_the_margin_cannot_look_at_is_said_before_anything_is_loaded(world: Path, tmp_path: Path) -> None:
    margin, nowhere = RewardSettings(name="margin"), tmp_path / "nowhere"
    features = FeatureCacheSettings(root=tmp_path / "features")
    with pytest.raises(ConfigError, match=r"--reward\.name margin looks at the images, which --features\.root"):
        main(config(world, nowhere, tmp_path, "kept", reward=margin, features=features))
    with pytest.raises(ConfigError, match=r"looks at the other images of a batch: set --train\.train_batch_size to 2"):
        main(config(world, nowhere, tmp_path, "alone", reward=margin, train=TrainSettings(train_batch_size=1)))


def test_resolution_stays_when_training_goes_on_and_with_a_whole_model(
    world: Path, captioner_folder: Path, tmp_path: Path
) -> None:
    train = TrainSettings(max_train_steps=1, train_batch_size=2)
    first = config(world, captioner_folder, tmp_path, "first", train=train)
    main(replace(first, images=ImageSettings(resolution=96, crop=False)))
    model = CaptionerSettings(name=str(captioner_folder), adapter=tmp_path / "first" / "adapter")
    main(config(world, captioner_folder, tmp_path, "second", train=train, model=model))
    assert json.loads((tmp_path / "second" / "adapter" / "skygen.json").read_text())["resolution"] == 96
    whole = config(world, captioner_folder, tmp_path, "whole", train=train, lora=LoraSettings(rank=0))
    main(replace(whole, images=ImageSettings(resolution=48, crop=False)))
    assert captioners.Captioner.load(str(tmp_path / "whole" / "model")).resolution == 48
    half = CaptionerSettings(name=str(captioner_folder), dtype="bfloat16")
    with pytest.raises(ConfigError, match=r"--lora\.rank 0 trains every parameter, which are float32 then"):
        main(config(world, captioner_folder, tmp_path, "half", model=half, lora=LoraSettings(rank=0)))
