"""The judge: any image classifier of transformers, and how a small one is trained."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import nn
from toy import build_stream, build_trainer

from skygen.data.batch import Batch
from skygen.data.images import fit_image, image_to_tensor
from skygen.data.pair import Pair
from skygen.errors import UnavailableError
from skygen.miniature.architectures import build_judge
from skygen.models.judge import ClassificationLearner, Judge
from skygen.seeding import Seeds

CLASSES = ("AnnualCrop", "sea lake", "tennis_court")


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    build_judge(tmp_path / "judge", CLASSES, Seeds(7))
    return tmp_path / "judge"


def noise(index: int, side: int = 64) -> Image.Image:
    values = Seeds(1).numpy("noise", index, side).integers(0, 256, (side, side, 3), dtype=np.uint8)
    return Image.fromarray(values)


def batch_of(images: list[Image.Image]) -> Batch:
    pixels = torch.stack([image_to_tensor(image) for image in images])
    return Batch(pixels, ("",) * len(images), tuple(f"{index}.png" for index in range(len(images))))


def labels_of(batch: Batch) -> dict[str, int]:
    return {key: index % len(CLASSES) for index, key in enumerate(batch.keys)}


def test_probabilities_are_those_of_the_classes_in_words_whatever_the_batch(folder: Path, tmp_path: Path) -> None:
    judge = Judge.load(str(folder), batch_size=2)
    assert judge.class_names == ("annual crop", "sea lake", "tennis court")
    images = [noise(index, side) for index, side in enumerate((64, 96, 130, 64, 20))]
    images[1].save(tmp_path / "one.png")
    rows = judge.probabilities([images[0], tmp_path / "one.png", *images[2:]])
    assert rows.shape == (5, 3)
    assert np.allclose(rows.sum(axis=1), 1, atol=1e-6)
    assert np.allclose(rows, Judge.load(str(folder), batch_size=64).probabilities(images), atol=1e-6)
    assert judge.probabilities([]).shape == (0, 3)


def test_the_miniature_is_small_and_follows_from_its_seeds(folder: Path, tmp_path: Path) -> None:
    build_judge(tmp_path / "again", CLASSES, Seeds(7))
    build_judge(tmp_path / "other", CLASSES, Seeds(8))
    first, again, other = (load_file(place / "model.safetensors") for place in (folder, tmp_path / "again", tmp_path / "other"))
    assert sum(tensor.numel() for tensor in first.values()) < 300_000
    assert all(torch.equal(first[name], again[name]) for name in first)
    assert not all(torch.equal(first[name], other[name]) for name in first)
    assert Judge.load(str(folder)).resolution == 64


def without_head(folder: Path) -> None:
    tensors = load_file(folder / "model.safetensors")
    kept = {name: tensor for name, tensor in tensors.items() if not name.startswith("classifier")}
    assert len(kept) == len(tensors) - 2
    save_file(kept, folder / "model.safetensors", metadata={"format": "pt"})


def of_another_kind(folder: Path) -> None:
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "blip"}))


@pytest.mark.parametrize(
    ("damage", "sentence"),
    [
        (lambda folder: (folder / "config.json").unlink(), r"no config\.json there, so this is no judge"),
        (lambda folder: (folder / "model.safetensors").unlink(), r"its files are not all here"),
        (without_head, r"lacks classifier\.\S+, so this is no trained image classifier"),
        (of_another_kind, r"not an image classifier of transformers"),
    ],
)
def test_what_is_no_judge_is_explained(folder: Path, damage: Callable[[Path], Any], sentence: str) -> None:
    damage(folder)
    with pytest.raises(UnavailableError, match=sentence):
        Judge.load(str(folder))


def test_training_sees_an_image_as_judging_does(folder: Path) -> None:
    """At 64 pixels nothing is resized: the loss is the negative logarithm of the probability that the judge gives."""
    judge = Judge.load(str(folder))
    images = [noise(index) for index in range(3)]
    batch = batch_of(images)
    losses = ClassificationLearner(judge, labels_of(batch), 0.0).loss(batch, Seeds(0).generator("unused"))
    expected = -np.log(judge.probabilities(images)[range(3), range(3)])
    assert np.allclose(losses.detach().numpy(), expected, atol=1e-5)


def test_larger_pictures_are_squashed_as_in_training(folder: Path) -> None:
    judge = Judge.load(str(folder))
    picture = noise(0).resize((150, 90), Image.Resampling.BICUBIC)
    small = fit_image(picture, 64, mode="squash")
    assert np.allclose(judge.probabilities([picture]), judge.probabilities([small]), atol=0.01)


def test_label_smoothing_asks_for_every_class_a_little(folder: Path) -> None:
    judge = Judge.load(str(folder))
    batch = batch_of([noise(index) for index in range(3)])
    generator = Seeds(0).generator("unused")
    plain, smooth = (ClassificationLearner(judge, labels_of(batch), share).loss(batch, generator) for share in (0.0, 0.3))
    uniform = -np.log(judge.probabilities([noise(index) for index in range(3)])).mean(axis=1)
    assert np.allclose(smooth.detach().numpy(), 0.7 * plain.detach().numpy() + 0.3 * uniform, atol=1e-5)


def test_settled_statistics_follow_from_the_parameters_alone(folder: Path) -> None:
    """A checkpoint holds parameters and no statistics: after a resume they must come out the same."""
    batch = batch_of([noise(index) for index in range(6)])
    settled = []
    for start in (0.0, 5.0):
        judge = Judge.load(str(folder))
        normalisations = [module for module in judge.network.modules() if isinstance(module, nn.BatchNorm2d)]
        assert len(normalisations) > 5
        for module in normalisations:
            module.running_mean.fill_(start)  # type: ignore[union-attr]  # these have one
        ClassificationLearner(judge, labels_of(batch)).settle_statistics([batch, batch])
        assert not judge.network.training
        assert {module.momentum for module in normalisations} == {0.1}
        settled.append(judge.probabilities([noise(9)]))
    assert np.array_equal(settled[0], settled[1])
    assert not np.allclose(settled[0], Judge.load(str(folder)).probabilities([noise(9)]), atol=1e-3)


def test_a_network_without_batch_normalisation_is_left_as_it_is() -> None:
    from transformers import ViTConfig, ViTForImageClassification, ViTImageProcessor

    config = ViTConfig(
        hidden_size=8, num_hidden_layers=1, num_attention_heads=1, intermediate_size=8, image_size=16, patch_size=8
    )
    judge = Judge("vit", ViTForImageClassification(config), ViTImageProcessor(size={"height": 16, "width": 16}))
    before = judge.probabilities([noise(0)])
    batch = batch_of([noise(0, 16)])
    ClassificationLearner(judge, {"0.png": 0}).settle_statistics([batch])
    assert np.array_equal(judge.probabilities([noise(0)]), before)
    assert judge.resolution == 16


def test_a_judge_learns_what_its_classes_look_like(folder: Path, accelerator: Any, tmp_path: Path) -> None:
    """Three colours, thirty updates; what is saved and loaded again knows them all."""
    pairs, colours = [], ("olive", "navy", "maroon")
    for index in range(12):
        path = tmp_path / f"{index}.png"
        picture = Image.blend(Image.new("RGB", (64, 64), colours[index % 3]), noise(index), 0.2)
        picture.save(path)
        pairs.append(Pair(path.name, path, ("a tile",), class_name=CLASSES[index % 3]))
    judge = Judge.load(str(folder))
    learner = ClassificationLearner(judge, {pair.key: index % 3 for index, pair in enumerate(pairs)})
    stream = build_stream(pairs, side=64)
    parameters = dict(judge.network.named_parameters())
    trainer = build_trainer(learner, parameters, stream, accelerator, tmp_path / "checkpoints", max_train_steps=30)
    losses = [step.loss for step in trainer.steps()]
    assert len(losses) == 30
    judge.network.eval()
    learner.settle_statistics([batch_of([Image.open(pair.image).convert("RGB") for pair in pairs])])
    judge.save(tmp_path / "trained")
    rows = Judge.load(str(tmp_path / "trained")).probabilities([pair.image for pair in pairs])
    assert rows.argmax(axis=1).tolist() == [0, 1, 2] * 4
