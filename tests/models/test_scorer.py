"""The scorer: unit vectors, each text once, and the right activation for each published file."""

from __future__ import annotations

import json
import logging
import re
import shutil
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from skygen.errors import ConfigError, UnavailableError
from skygen.models.backbones import BACKBONES, Backbone
from skygen.models.fitting import guess_architectures, to_shapes
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
SIGLIP = {
    "embed_dim": 64,
    "init_logit_bias": -10,
    "custom_text": True,
    "vision_cfg": {"image_size": 160, "timm_model_name": "test_vit", "timm_model_pretrained": False, "timm_proj": "none"},
    "text_cfg": {
        "context_length": 24, "vocab_size": 3000, "hf_tokenizer_name": "nobody/sentences",
        "tokenizer_kwargs": {"clean": "canonicalize"}, "width": 64, "heads": 2, "layers": 2, "no_causal_mask": True,
        "proj_bias": True, "pool_type": "last",
    },
}  # fmt: skip
NETWORKS = {"skygen-test-tiny": TINY, "skygen-test-tiny-quickgelu": TINY | {"quick_gelu": True}, "skygen-test-siglip": SIGLIP}
PLAIN, QUICK = list(NETWORKS)[:2]


@pytest.fixture(scope="module", autouse=True)
def architectures(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("architectures")
    for name, network in NETWORKS.items():
        (folder / f"{name}.json").write_text(json.dumps(network))
    open_clip.add_model_config(folder)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder where a scorer looks for checkpoints."""
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    (tmp_path / "home" / "checkpoints").mkdir(parents=True)
    return tmp_path / "home" / "checkpoints"


def build(name: str = PLAIN, **settings: Any) -> Any:
    Seeds(0).reset_global("architecture", "tiny")
    network = open_clip.create_model(name, pretrained=None, **settings).eval()
    for parameter in network.parameters():  # far from zero, so that a wrong activation shows
        parameter.data.mul_(3)
    return network


def write(path: Path, content: Any) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)  # noqa: TID251  # a published file is made up
    return path


def publish(path: Path, network: Any, before: str = "module.") -> Path:
    """Write a network as SkyCLIP is: wrapped, prefixed, with the optimizer's state and a numpy scalar in it."""
    state = network.state_dict()
    return write(
        path,
        {
            "epoch": 20,
            "name": "SkyCLIP",
            "state_dict": {f"{before}{name}": tensor for name, tensor in state.items()},
            "optimizer": {
                "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4)}},
                "param_groups": [{"lr": np.float64(1e-9), "betas": (0.9, 0.98), "params": [0]}],
            },
            "scaler": {"scale": 65536.0},
        },
    )


def add_row(monkeypatch: pytest.MonkeyPatch, name: str = "tiny", architecture: str = PLAIN, quick: bool = True) -> None:
    monkeypatch.setitem(BACKBONES, name, Backbone(architecture, quick, "Tiny", ("SkyScript",)))


def embed_with(network: Any, texts: list[str], context: int = 77) -> Any:
    """Embed with open_clip itself."""
    with torch.inference_mode():
        tokens = open_clip.get_tokenizer("ViT-B-32", context_length=context)(texts)
        return network.encode_text(tokens, normalize=True).numpy()


@pytest.mark.parametrize("trained_quick", [True, False], ids=["trained with QuickGELU", "trained with GELU"])
@pytest.mark.parametrize("loaded_quick", [True, False], ids=["loaded with QuickGELU", "loaded with GELU"])
def test_a_published_file_is_loaded_with_its_activation(
    trained_quick: bool, loaded_quick: bool, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A swap loads without a word: only the embeddings show it."""
    network = build(force_quick_gelu=trained_quick)
    publish(checkpoints / "Tiny" / "epoch_20.pt", network)
    add_row(monkeypatch, quick=loaded_quick)
    loaded = Scorer.load("tiny")
    with torch.inference_mode():
        images = network.encode_image(torch.stack([loaded.preprocess(picture) for picture in pictures()]), normalize=True)
    differences = [
        np.abs(loaded.embed_texts(["a harbor"]) - embed_with(network, ["a harbor"])).max(),
        np.abs(loaded.embed_images(pictures()) - images.numpy()).max(),
    ]
    assert (loaded.name, loaded.trained_on) == ("tiny", ("SkyScript",))
    assert loaded.config["model_cfg"]["quick_gelu"] is loaded_quick
    if trained_quick == loaded_quick:
        assert max(differences) < 1e-6
    else:
        assert min(differences) > 1e-4


def test_it_embeds_as_open_clip_does_that_is_given_the_clean_weights(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(force_quick_gelu=True)
    clean = write(tmp_path / "clean.pt", network.state_dict())
    publish(checkpoints / "Tiny" / "epoch_20.pt", network)
    add_row(monkeypatch)
    model, _, preprocess = open_clip.create_model_and_transforms(QUICK, pretrained=str(clean))
    with torch.inference_mode():
        images = model.eval().encode_image(torch.stack([preprocess(p) for p in pictures()]), normalize=True).numpy()
    scorer = Scorer.load("tiny")
    assert np.allclose(scorer.embed_images(pictures()), images, atol=1e-6)
    assert np.allclose(scorer.embed_texts(TEXTS), embed_with(model, TEXTS), atol=1e-6)


@pytest.mark.parametrize("place", ["Tiny.safetensors", "tiny.safetensors", "Tiny/epoch_20.pt", "Tiny.zip"])
def test_a_published_file_is_found_in_every_form(place: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    network = build()
    path = checkpoints / place
    if place.endswith(".safetensors"):
        save_file(network.state_dict(), path)
    elif place.endswith(".zip"):
        inner = publish(checkpoints / "inner.pt", network)
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.write(inner, "Tiny/epoch_20.pt")
    else:
        publish(path, network)
    add_row(monkeypatch, quick=False)
    require("tiny")
    assert np.allclose(Scorer.load("tiny").embed_texts(TEXTS), embed_with(network, TEXTS), atol=1e-6)


def test_what_older_versions_save_beside_the_weights_is_passed_over(checkpoints: Path, tmp_path: Path) -> None:
    network = build()
    extra = {"attn_mask": torch.zeros(77, 77), "context_length": torch.tensor(77), "input_resolution": torch.tensor(32)}
    state = network.half().state_dict() | extra
    state["logit_scale"] = state["logit_scale"].reshape(1)
    scorer = Scorer.load(str(write(tmp_path / "old.pt", state)), architecture=PLAIN)
    assert np.allclose(scorer.embed_texts(TEXTS), embed_with(network.float(), TEXTS), atol=1e-6)


def test_weights_that_do_not_fit_are_named_briefly(checkpoints: Path, tmp_path: Path) -> None:
    state = build().state_dict()
    del state["ln_final.bias"], state["text_projection"]
    state |= {f"extra.{number}": torch.zeros(1) for number in range(5)}
    state["logit_scale"] = torch.zeros(2)
    with pytest.raises(UnavailableError) as raised:
        Scorer.load(str(write(tmp_path / "a.pt", state)), architecture=PLAIN)
    assert str(raised.value) == (
        f"{tmp_path}/a.pt: does not hold a skygen-test-tiny (2 missing: text_projection, ln_final.bias; 5 unexpected: extra.0, "
        "extra.1, extra.2, …; 1 of another shape: logit_scale is (2,) and not ()); it looks like no CLIP that open_clip "
        "knows (names begin positional_embedding, logit_scale, visual): give that model's own name or architecture, or the "
        "right file."
    )


@pytest.mark.parametrize(
    ("names", "said"),
    [
        (
            ["vision_model.post_layernorm.bias", "logit_scale"],
            "a CLIP in transformers' layout (vision_model.post_layernorm.bias)",
        ),
        (["text_decoder.bert.x", "vision_model.x"], "a BLIP in transformers' layout (text_decoder.bert.x)"),
        (["conv_in.bias", "down_blocks.0.x"], "the U-Net of a Stable Diffusion in diffusers' layout (down_blocks.0.x)"),
        (["encoder.down_blocks.0.x"], "the autoencoder of a Stable Diffusion in diffusers' layout (encoder.down_blocks.0.x)"),
        (["model.diffusion_model.x"], "a whole Stable Diffusion (model.diffusion_model.x)"),
        (["base_model.model.x.lora_A.weight"], "an adapter (LoRA) and no model (base_model.model.x.lora_A.weight)"),
        (["fc.weight", "fc.bias"], "no CLIP that open_clip knows (names begin fc)"),
    ],
)
def test_another_kind_of_model_is_named(names: list[str], said: str, checkpoints: Path, tmp_path: Path) -> None:
    path = write(tmp_path / "a.pt", {name: torch.zeros(1) for name in names})
    with pytest.raises(UnavailableError, match=re.escape(f"it looks like {said}: give that model's own name or architecture")):
        Scorer.load(str(path), architecture=PLAIN)


def test_another_clip_s_file_is_named(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    publish(checkpoints / "Tiny" / "epoch_20.pt", build())
    add_row(monkeypatch, architecture="ViT-S-32-alt")
    with pytest.raises(UnavailableError) as raised:
        Scorer.load("tiny")
    assert "epoch_20.pt: does not hold a ViT-S-32-alt (216 missing: " in str(raised.value)
    assert str(raised.value).endswith(
        "it looks like skygen-test-tiny (image tower: patch 16, width 32, 2 layers; 77 text positions): give that model's own "
        "name or architecture, or the right file."
    )


def test_the_shapes_of_a_file_tell_its_network() -> None:
    told = {name: guess_architectures(to_shapes(build(name).state_dict())) for name in ("RN50", PLAIN, QUICK)}
    assert told == {"RN50": ["RN50"], PLAIN: [PLAIN], QUICK: [PLAIN]}


# ------------------------------------------------------------------------------------------- preprocessing and tokens


def load_as(row: str, checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> Scorer:
    """Load the tiny network with the preprocessing of a published one, whose own would take gigabytes."""
    monkeypatch.setitem(BACKBONES, row, replace(BACKBONES[row], architecture=PLAIN, tokenizer="", quick_gelu=False))
    save_file(build().state_dict(), checkpoints / f"{row}.safetensors")
    return Scorer.load(row)


@pytest.mark.parametrize(
    ("row", "white"),
    [("laion2b-vit-l14", (1.0, 1.0, 1.0)), ("skyclip-vit-l14-top50pct", (1.9303, 2.0749, 2.1459))],
)
def test_pixels_are_normalized_as_in_training(
    row: str, white: tuple[float, ...], checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = load_as(row, checkpoints, monkeypatch)
    pixels = scorer.preprocess(Image.new("RGB", (64, 64), "white"))
    assert tuple(pixels.shape) == (3, 32, 32)
    assert np.allclose(pixels[:, 0, 0], white, atol=1e-4)
    scorer.save(checkpoints / "saved")
    again = Scorer.load(str(checkpoints / "saved"))
    assert torch.equal(again.preprocess(pictures()[3]), scorer.preprocess(pictures()[3]))
    assert np.allclose(again.embed_texts(TEXTS), scorer.embed_texts(TEXTS), atol=1e-6)


@pytest.mark.parametrize(("row", "ends"), [("laion2b-vit-l14", False), ("siglip-vit-b16", True)])
def test_an_elongated_picture_is_cropped_or_squashed(
    row: str, ends: bool, checkpoints: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Red at both ends of a black strip is seen only where nothing is cropped."""
    strip = Image.new("RGB", (200, 50), "black")
    for place in (0, 170):
        strip.paste("red", (place, 0, place + 30, 50))
    pixels = load_as(row, checkpoints, monkeypatch).preprocess(strip)
    assert bool(pixels[0].max() > 0.9) is ends


def test_a_file_with_more_positions_is_given_as_many_tokens(checkpoints: Path, tmp_path: Path) -> None:
    network = build(force_context_length=248)
    path = write(tmp_path / "long.pt", network.state_dict())
    scorer = Scorer.load(str(path), architecture=PLAIN)
    long = " ".join(["a harbor beside a dam"] * 40)
    assert scorer.tokenize([long]).shape == (1, 248)
    assert np.allclose(scorer.embed_texts([long]), embed_with(network, [long], 248), atol=1e-6)
    scorer.save(tmp_path / "saved")
    assert np.allclose(Scorer.load(str(tmp_path / "saved")).embed_texts([long]), scorer.embed_texts([long]), atol=1e-6)
    state = network.state_dict() | {"positional_embedding_res": torch.zeros(248, 32)}
    with pytest.raises(
        UnavailableError, match=r"keeps LongCLIP's second table of positions .* for which open_clip has no place"
    ):
        Scorer.load(str(write(tmp_path / "two.pt", state)), architecture=PLAIN)


def test_a_siglip_brings_its_own_tokenizer(checkpoints: Path, captioner_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A sigmoid's bias, a tower of timm's, a tokenizer beside the weights."""
    row = Backbone("skygen-test-siglip", False, repository="nobody/siglip", tag="webli", tokenizer="nobody/sentences")
    monkeypatch.setitem(BACKBONES, "siglip-tiny", row)
    network = build("skygen-test-siglip")
    save_file(network.state_dict(), checkpoints / "siglip-tiny.safetensors")
    with pytest.raises(UnavailableError, match="siglip-tiny: its tokenizer is not here and the Hugging Face hub cannot be"):
        require("siglip-tiny")
    (checkpoints / "siglip-tiny").mkdir()
    for name in ("tokenizer.json", "tokenizer_config.json"):
        shutil.copy(captioner_folder / name, checkpoints / "siglip-tiny")
    scorer = Scorer.load("siglip-tiny")
    assert scorer.tokenize(["a harbor"]).shape == (1, 24)
    assert float(scorer.model.logit_bias) == -30  # as built, and multiplied like every parameter
    with torch.inference_mode():
        expected = network.encode_text(scorer.tokenize(["a harbor"]), normalize=True).numpy()
    assert np.allclose(scorer.embed_texts(["a harbor"]), expected, atol=1e-6)
    scorer.save(checkpoints / "saved")
    again = Scorer.load(str(checkpoints / "saved"))
    assert np.allclose(again.embed_texts(TEXTS), scorer.embed_texts(TEXTS), atol=1e-6)


# --------------------------------------------------------------------------------------------------------- names


def test_a_file_is_known_by_what_the_user_says_or_by_what_it_is_called(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    network = build(force_quick_gelu=True)
    expected = embed_with(network, TEXTS)
    path = publish(tmp_path / "mine.pt", network)
    for name in (str(path), f"open_clip:{QUICK}/{path}"):
        scorer = Scorer.load(name, architecture=None if ":" in name else QUICK)
        assert np.allclose(scorer.embed_texts(TEXTS), expected, atol=1e-6), name
        assert scorer.trained_on == ()
    assert np.abs(Scorer.load(str(path), architecture=PLAIN).embed_texts(TEXTS) - expected).max() > 1e-4
    add_row(monkeypatch)
    for place in ("Tiny/epoch_20.pt", "Tiny.pt", "tiny.bin"):
        scorer = Scorer.load(str(publish(tmp_path / "elsewhere" / place, network)))
        assert np.allclose(scorer.embed_texts(TEXTS), expected, atol=1e-6), place
        assert scorer.trained_on == ("SkyScript",)
    publish(checkpoints / "Tiny" / "epoch_20.pt", network)
    with pytest.raises(ConfigError) as raised:
        Scorer.load("tiny", architecture=PLAIN)
    assert str(raised.value) == (
        "--scorer.architecture skygen-test-tiny: tiny was trained with QuickGELU; leave the setting out, or give the name with "
        "-quickgelu at its end."
    )
    assert np.allclose(Scorer.load("tiny", architecture=QUICK).embed_texts(TEXTS), expected, atol=1e-6)
    monkeypatch.setitem(BACKBONES, "tiny", replace(BACKBONES["tiny"], certain=False))  # as RemoteCLIP's
    assert np.abs(Scorer.load("tiny", architecture=PLAIN).embed_texts(TEXTS) - expected).max() > 1e-4


def test_a_file_of_unknown_network_is_refused_before_anything_is_loaded(checkpoints: Path, tmp_path: Path) -> None:
    path = publish(tmp_path / "mine.pt", build())
    with pytest.raises(
        UnavailableError, match=r"mine\.pt: is not called like a file that skygen knows, so its network must be"
    ):
        require(str(path))
    with pytest.raises(UnavailableError) as raised:
        require(str(path), "vit-b32-quickgelu")
    assert str(raised.value).startswith(
        "--scorer.architecture vit-b32-quickgelu: open_clip knows no such network; names close to it are ViT-B-32-quickgelu, "
    )
    with pytest.raises(UnavailableError, match=r"gone\.pt: no such file; give the path of a checkpoint that is there\."):
        require(str(tmp_path / "gone.pt"))


def test_a_tag_of_open_clip_s_brings_its_own_activation(checkpoints: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """open_clip itself only warns of a plain network with weights that were trained with QuickGELU."""
    weights = open_clip.get_pretrained_cfg("ViT-B-32", "openai") | {"hf_hub": "nobody/tiny.openai/", "mean": (0.1, 0.2, 0.3)}
    monkeypatch.setitem(open_clip.pretrained._PRETRAINED, PLAIN, {"openai": weights})
    network = build(force_quick_gelu=True)
    name = f"open_clip:{PLAIN}/openai"
    with pytest.raises(UnavailableError) as raised:
        require(name)
    place = checkpoints / f"{PLAIN}-openai"
    assert str(raised.value) == (
        f"{PLAIN}-openai: its weights are not here and the Hugging Face hub cannot be reached; where it can, run `hf download "
        f'nobody/tiny.openai --include "open_clip*" --include "*token*" --local-dir {place}` '
        f"(https://huggingface.co/nobody/tiny.openai), and copy what it brings to {place} here."
    )
    place.mkdir()
    save_file(network.state_dict(), place / "open_clip_model.safetensors")
    scorer = Scorer.load(name)
    assert np.allclose(scorer.embed_texts(TEXTS), embed_with(network, TEXTS), atol=1e-6)
    assert tuple(scorer.config["preprocess_cfg"]["mean"]) == (0.1, 0.2, 0.3)
    with pytest.raises(
        UnavailableError, match=r"laion is no file that is here and no tag of open_clip's for .* being openai\."
    ):
        require(f"open_clip:{PLAIN}/laion")
    with pytest.raises(UnavailableError, match="open_clip knows no such network; names close to it are ViT-B-32"):
        require("open_clip:VIT_B_32/openai")


@pytest.mark.parametrize(
    ("name", "command", "place"),
    [
        ("remoteclip-vit-b32", "hf download chendelong/RemoteCLIP RemoteCLIP-ViT-B-32.pt", "RemoteCLIP-ViT-B-32.pt"),
        ("georsclip-vit-h14", "hf download Zilun/GeoRSCLIP ckpt/RS5M_ViT-H-14.pt", "ckpt/RS5M_ViT-H-14.pt"),
    ],
)
def test_a_file_on_the_hub_that_is_not_here_says_what_to_run(name: str, command: str, place: str, checkpoints: Path) -> None:
    with pytest.raises(UnavailableError) as raised:
        Scorer.load(name)
    assert str(raised.value) == (
        f"{name}: its weights are not here and the Hugging Face hub cannot be reached; where it can, run `{command} "
        f"--local-dir {checkpoints}` ({BACKBONES[name].url}), and copy what it brings to {checkpoints / place} here."
    )
    assert raised.value.exit_code == 69


@pytest.mark.parametrize("place", ["ckpt/RS5M_Tiny.pt", "RS5M_Tiny.pt", "RS5M_Tiny.safetensors", "hub"])
def test_a_file_of_the_hub_is_found_here_or_in_its_cache(
    place: str, checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(BACKBONES, "tiny", Backbone(PLAIN, False, repository="nobody/tiny", file="ckpt/RS5M_Tiny.pt"))
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(tmp_path / "hub"))
    network = build()
    if place == "hub":
        model = tmp_path / "hub" / "models--nobody--tiny"
        write(model / "snapshots" / "abc" / "ckpt" / "RS5M_Tiny.pt", network.state_dict())
        (model / "refs").mkdir()
        (model / "refs" / "main").write_text("abc")
    elif place.endswith(".safetensors"):
        save_file(network.state_dict(), checkpoints / place)
    else:
        write(checkpoints / place, network.state_dict())
    assert np.allclose(Scorer.load("tiny").embed_texts(TEXTS), embed_with(network, TEXTS), atol=1e-6)


def test_a_file_that_is_not_here_says_what_to_download_and_where_to_put_it(checkpoints: Path) -> None:
    with pytest.raises(UnavailableError) as raised:
        require("skyclip-vit-l14-top30pct")
    place = checkpoints / "SkyCLIP_ViT_L14_top30pct"
    assert str(raised.value) == (
        "SkyCLIP_ViT_L14_top30pct: its weights are not here; run `skygen download SkyCLIP_ViT_L14_top30pct`, or download "
        "https://opendatasharing.s3.us-west-2.amazonaws.com/SkyScript/ckpt/SkyCLIP_ViT_L14_top30pct.zip and put it at "
        f"{place}.zip, or the file inside it at {place}/epoch_20.pt."
    )


def test_an_unknown_name_lists_the_known_ones(checkpoints: Path) -> None:
    with pytest.raises(UnavailableError) as raised:
        Scorer.load("skyclip")
    said = str(raised.value)
    assert said.startswith(
        "--scorer.name skyclip: not a scorer that skygen knows (did you mean skyclip-vit-l14-top30pct or "
        "skyclip-vit-l14-top50pct?), not a file, not a folder, and not an id on the Hugging Face hub; the known names are "
        "miniature, "
    )
    assert all(name in said for name in BACKBONES)


@pytest.mark.parametrize("content", ["{", "[]", "{}", '{"model_cfg": {}}', '{"model_cfg": 3}'])
def test_a_folder_with_a_spoilt_description_is_explained(content: str, skyclip_folder: Path, tmp_path: Path) -> None:
    shutil.copytree(skyclip_folder, tmp_path / "model")
    (tmp_path / "model" / "open_clip_config.json").write_text(content)
    with pytest.raises(UnavailableError, match=r"open_clip_config\.json: is no description of a CLIP as open_clip writes it"):
        Scorer.load(str(tmp_path / "model"))


LOOKING = """
import sys, time
from skygen.errors import UnavailableError
from skygen.models.scorer import require
begun = time.process_time()  # which does not depend on what else runs
try:
    require("laion2b-vit-l14")
except UnavailableError:
    print(round(time.process_time() - begun, 1), sorted({"torch", "open_clip", "transformers"} & set(sys.modules)))
"""


def test_looking_is_quick_and_loads_nothing(checkpoints: Path) -> None:
    ran = subprocess.run([sys.executable, "-c", LOOKING], capture_output=True, text=True, check=True)
    seconds, loaded = ran.stdout.split(" ", 1)
    assert float(seconds) < 3
    assert loaded.strip() == "[]"


def test_loading_leaves_the_log_alone(
    checkpoints: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    """open_clip warns of random weights, which skygen replaces, and sets up the root logger to say so."""
    path = publish(tmp_path / "mine.pt", build())
    caplog.clear()
    handlers = list(logging.getLogger().handlers)
    Scorer.load(str(path), architecture=PLAIN)
    assert [record.message for record in caplog.records if record.levelno >= logging.WARNING] == []
    assert (logging.getLogger().handlers, logging.getLogger().filters) == (handlers, [])


@pytest.mark.slow
def test_a_vit_b32_of_real_size_is_loaded_from_a_zip_as_published(checkpoints: Path) -> None:
    """151 million weights, both of Adam's moments, numpy scalars, `module.`, deflated: 1.8 GB as SkyCLIP_ViT_B32_top50pct."""
    network = build("ViT-B-32")
    parameters = list(network.parameters())
    assert (len(network.state_dict()), sum(p.numel() for p in parameters)) == (302, 151_277_313)
    moments = {i: {"exp_avg": torch.zeros_like(p), "exp_avg_sq": torch.zeros_like(p)} for i, p in enumerate(parameters)}
    content = {
        "state_dict": {f"module.{name}": tensor for name, tensor in network.state_dict().items()},
        "optimizer": {"state": moments, "param_groups": [{"lr": np.float64(1e-9)}]},
    }
    inner = write(checkpoints / "inner.pt", content)
    with zipfile.ZipFile(checkpoints / "SkyCLIP_ViT_B32_top50pct.zip", "w", zipfile.ZIP_DEFLATED, compresslevel=1) as archive:
        archive.write(inner, "SkyCLIP_ViT_B32_top50pct/epoch_20.pt")
    inner.unlink()
    scorer = Scorer.load("skyclip-vit-b32-top50pct")
    assert np.allclose(scorer.embed_texts(["a harbor"]), embed_with(network, ["a harbor"]), atol=1e-5)
    assert [path.name for path in checkpoints.iterdir()] == ["SkyCLIP_ViT_B32_top50pct.zip"]
