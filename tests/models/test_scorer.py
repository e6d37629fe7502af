"""The scorer: unit vectors, each text once, and the right activation for each published file."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image

from skygen.errors import UnavailableError
from skygen.models.backbones import BACKBONES, Backbone
from skygen.models.scorer import Scorer, require
from skygen.seeding import Seeds

TEXTS = ["a harbor", "a dam", "a harbor", "", "a dam", "a forest"]


@pytest.fixture(scope="module")
def scorer(skyclip_folder: Path) -> Scorer:
    return Scorer.load(str(skyclip_folder))


def pictures(count: int = 5) -> list[Image.Image]:
    draw = Seeds(0).numpy("pictures")
    return [Image.fromarray(draw.integers(0, 256, (40 + 9 * i, 80, 3), dtype=np.uint8)) for i in range(count)]


def test_embeddings_are_unit_vectors_in_the_order_of_the_input(scorer: Scorer) -> None:
    images, texts = scorer.embed_images(pictures()), scorer.embed_texts(TEXTS)
    assert (images.shape, texts.shape) == ((5, 128), (6, 128))
    assert (images.dtype, texts.dtype) == (np.float32, np.float32)
    for embeddings in (images, texts):
        assert np.allclose(np.linalg.norm(embeddings, axis=1), 1, atol=1e-6)
    assert np.array_equal(texts[0], texts[2])
    assert not np.allclose(texts[0], texts[1])
    assert np.allclose(scorer.embed_images(pictures()[::-1]), images[::-1], atol=1e-6)


def test_each_distinct_text_is_encoded_once(scorer: Scorer) -> None:
    given: list[str] = []

    def tokenize(texts: list[str]) -> Any:
        given.extend(texts)
        return scorer.tokenize(texts)

    counting = Scorer("counting", scorer.model, scorer.preprocess, tokenize, scorer.config, batch_size=2)
    assert np.allclose(counting.embed_texts(TEXTS), scorer.embed_texts(TEXTS), atol=1e-6)
    assert sorted(given) == sorted(set(TEXTS))


def test_the_size_of_the_batch_changes_nothing(skyclip_folder: Path, scorer: Scorer) -> None:
    one_by_one = Scorer.load(str(skyclip_folder), batch_size=1)
    texts = TEXTS[:5]
    together = scorer.similarity(pictures(), texts)
    assert together.shape == (5,)
    assert np.allclose(one_by_one.similarity(pictures(), texts), together, atol=1e-5)
    assert np.abs(together).max() <= 1
    assert np.allclose(together[2:3], scorer.similarity(pictures()[2:3], texts[2:3]), atol=1e-5)


def test_files_and_pictures_are_the_same(scorer: Scorer, tmp_path: Path) -> None:
    (picture,) = pictures(1)
    picture.save(tmp_path / "a.png")
    embedded = [scorer.embed_images([source])[0] for source in (picture, tmp_path / "a.png", str(tmp_path / "a.png"))]
    assert np.array_equal(embedded[0], embedded[1])
    assert np.array_equal(embedded[0], embedded[2])


def test_nothing_embeds_to_nothing(scorer: Scorer) -> None:
    assert len(scorer.embed_images([])) == len(scorer.embed_texts([])) == len(scorer.similarity([], [])) == 0


TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 32, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module")
def architecture(tmp_path_factory: pytest.TempPathFactory) -> str:
    path = tmp_path_factory.mktemp("architecture") / "skygen-test-tiny.json"
    path.write_text(json.dumps(TINY))
    open_clip.add_model_config(path)
    return path.stem


@pytest.fixture
def published(architecture: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Any:
    """The file of a published CLIP that was trained with QuickGELU, and the network it holds."""
    Seeds(0).reset_global("architecture", "tiny")
    network = open_clip.create_model(architecture, pretrained=None, force_quick_gelu=True).eval()
    path = tmp_path / "checkpoints" / "Tiny" / "epoch_20.pt"
    path.parent.mkdir(parents=True)
    torch.save({"state_dict": {f"module.{n}": t for n, t in network.state_dict().items()}}, path)  # noqa: TID251  # made up
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path))
    for name, quick_gelu in (("tiny", True), ("tiny-wrong", False)):
        monkeypatch.setitem(BACKBONES, name, Backbone(architecture, quick_gelu, "Tiny", ("SkyScript",)))
    monkeypatch.setitem(BACKBONES, "tiny-other", Backbone("ViT-S-32-alt", True, "Tiny", ()))
    return network


def test_a_published_file_is_loaded_with_its_activation(published: Any) -> None:
    right, wrong = Scorer.load("tiny"), Scorer.load("tiny-wrong")
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("ViT-B-32")(["a harbor"])
        expected = published.encode_text(tokens, normalize=True).numpy()
    assert np.allclose(right.embed_texts(["a harbor"]), expected, atol=1e-6)
    assert np.abs(wrong.embed_texts(["a harbor"]) - expected).max() > 1e-4
    assert np.abs(right.embed_images(pictures()) - wrong.embed_images(pictures())).max() > 1e-4
    assert (right.name, right.trained_on) == ("tiny", ("SkyScript",))


def test_another_model_s_file_is_refused(published: Any) -> None:
    with pytest.raises(UnavailableError, match=r"epoch_20\.pt: does not hold a ViT-S-32-alt; is it another model's file\?"):
        Scorer.load("tiny-other")


def test_a_file_that_is_not_here_says_what_to_download_and_where_to_put_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path))
    with pytest.raises(UnavailableError) as raised:
        require("skyclip-vit-l14-top30pct")
    said = str(raised.value)
    assert "https://opendatasharing.s3.us-west-2.amazonaws.com/SkyScript/ckpt/SkyCLIP_ViT_L14_top30pct.zip" in said
    assert f"put it at {tmp_path}/checkpoints/SkyCLIP_ViT_L14_top30pct.zip" in said


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(UnavailableError, match="not an id on the Hugging Face hub; the known names are miniature"):
        Scorer.load("skyclip")


def test_the_table_has_the_activation_of_each_published_file() -> None:
    """SkyScript's own notebooks: ViT-L/14 with force_quick_gelu, ViT-B/32 without."""
    activations = {name: (backbone.architecture, backbone.quick_gelu) for name, backbone in BACKBONES.items()}
    assert len(activations) == 6
    assert {quick for architecture, quick in activations.values() if architecture == "ViT-L-14"} == {True}
    assert {quick for architecture, quick in activations.values() if architecture == "ViT-B-32"} == {False}
