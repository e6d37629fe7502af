"""Named protocols: what they refuse, and that each computes what its name promises."""

from __future__ import annotations

import math
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file
from torchvision.models import inception_v3

from skygen.errors import ConfigError, UnavailableError
from skygen.evaluation.images.extractors import FeatureSettings, build_extractor
from skygen.evaluation.images.features import judge_extractor, scorer_extractor, to_embeddings
from skygen.evaluation.images.legacy import FEATURES, dot_products, inception_score, mhn_extractor, split_mhn
from skygen.evaluation.images.protocols import PROTOCOLS, find_protocol
from skygen.models.judge import Judge
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds, published_permutation


def pictures(folder: Path, count: int, side: int = 70) -> list[Path]:
    paths = [folder / f"{index}.png" for index in range(count)]
    for index, path in enumerate(paths):
        pixels = Seeds(3).numpy("picture", index).integers(0, 255, (side, side + index, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(path)
    return paths


def test_a_protocol_takes_its_own_networks_alone() -> None:
    rsdiff = find_protocol("rsdiff-1093")
    rsdiff.check_networks(("inception",), "openai-vit-b32")
    with pytest.raises(ConfigError, match=r"--protocol rsdiff-1093 takes features of inception alone; give --features"):
        rsdiff.check_networks(("scorer",), "openai-vit-b32")
    with pytest.raises(ConfigError, match=r"scores by openai-vit-b32 alone; give --scorer\.name openai-vit-b32"):
        rsdiff.check_networks(("inception",), "miniature")
    find_protocol("skygen-1").check_networks(("scorer", "judge"), "miniature")
    with pytest.raises(ConfigError, match=r"--protocol fid: give one of skygen-1, rsdiff-1093, mhn-2023"):
        find_protocol("fid")


def test_a_protocol_is_of_its_own_images_alone() -> None:
    rsdiff, official = find_protocol("rsdiff-1093"), "RSICD test (1,093 images)"
    rsdiff.check_counts(1093, official, {"tuned": 1093})
    with pytest.raises(ConfigError, match=r"is of 1,093 pictures, there are 1,092 of tuned"):
        rsdiff.check_counts(1093, official, {"tuned": 1092})
    with pytest.raises(ConfigError, match=r"is of 1,093 real images, and 1,092 can be read"):
        rsdiff.check_counts(1092, official, {"tuned": 1093})
    with pytest.raises(ConfigError, match=r"is of RSICD test, and these images are no published split"):
        rsdiff.check_counts(1093, None, {"tuned": 1093})
    find_protocol("skygen-1").check_counts(3, None, {"tuned": 5})


def test_protocols_with_faults_say_them() -> None:
    assert len(PROTOCOLS) == 3
    assert [bool(protocol.faults) for protocol in PROTOCOLS.values()] == [False, True, True]
    assert any("810 are in RSICD's training split" in fault for fault in PROTOCOLS["mhn-2023"].faults)


def test_the_permutation_of_rsdiff_is_that_of_pythons_generator() -> None:
    assert published_permutation(17, 6).tolist() == [0, 5, 1, 2, 3, 4]
    assert sorted(published_permutation(17, 1093).tolist()) == list(range(1093))


def test_networks_without_their_weights_are_refused_at_once(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"--features\.extractors inception: give the file of its weights by --features"):
        FeatureSettings(("inception",))
    with pytest.raises(ConfigError, match=r"name at least one, and each once"):
        FeatureSettings(("scorer", "scorer"))
    with pytest.raises(UnavailableError, match=r"inception_v3 on RSICD's 30 classes"):
        mhn_extractor(tmp_path / "gone.pth")
    save_file({"weight": torch.zeros(2)}, tmp_path / "other.safetensors")
    with pytest.raises(UnavailableError, match=r"not torchvision's inception_v3 with 30 classes"):
        mhn_extractor(tmp_path / "other.safetensors")


@pytest.mark.slow
def test_the_features_of_mhn_are_those_of_torchvisions_network(tmp_path: Path) -> None:
    torch.manual_seed(0)  # noqa: TID251
    network = inception_v3(weights=None, num_classes=30, init_weights=False).eval()
    save_file(network.state_dict(), tmp_path / "mhn.safetensors")
    extractor, paths = mhn_extractor(tmp_path / "mhn.safetensors", batch_size=2), pictures(tmp_path, 3)
    features, logits = split_mhn(extractor.extract(paths))
    assert features.shape == (3, FEATURES)
    for row, path in enumerate(paths):
        image = Image.open(path).convert("RGB").resize((256, 256), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(image)).permute(2, 0, 1).float() / 255
        mean, spread = torch.tensor([0.485, 0.456, 0.406]), torch.tensor([0.229, 0.224, 0.225])
        with torch.inference_mode():
            expected = network(((pixels - mean[:, None, None]) / spread[:, None, None])[None])[0]
        np.testing.assert_allclose(logits[row], expected.numpy(), rtol=1e-3, atol=1e-4)
        np.testing.assert_allclose(network.fc(torch.from_numpy(features[row])).detach().numpy(), logits[row], atol=1e-3)


def test_the_inception_score_is_that_of_its_formula() -> None:
    logits = Seeds(5).numpy("logits").standard_normal((40, 7)) * 3
    shares = np.exp(logits) / np.exp(logits).sum(axis=1, keepdims=True)
    divergence = (shares * (np.log(shares) - np.log(shares.mean(axis=0)))).sum(axis=1).mean()
    score = inception_score(logits, model="tuned", subset="test", extractor="mhn")
    assert score.value == pytest.approx(math.exp(divergence), rel=1e-5)
    sure = inception_score(np.eye(5).repeat(4, axis=0) * 100, model="tuned", subset="test", extractor="mhn")
    assert sure.value == pytest.approx(5, rel=1e-4)


def test_the_dot_product_is_of_embeddings_that_keep_their_length(tmp_path: Path, skyclip_folder: Path) -> None:
    scorer, paths = Scorer.load(str(skyclip_folder), batch_size=2), pictures(tmp_path, 3)
    texts = ["a dam", "a mill", "two lakes"]
    found = dot_products(scorer, paths, texts)
    for value, path, text in zip(found, paths, texts, strict=True):
        with torch.inference_mode():
            seen = scorer.model.encode_image(scorer.preprocess(Image.open(path).convert("RGB"))[None])[0]
            said = scorer.model.encode_text(scorer.tokenize([text]))[0]
        assert value == pytest.approx(float(seen.double() @ said.double()) / 100, rel=1e-4)
    assert not np.allclose(found * 100, scorer.similarity(paths, texts), atol=1e-3)


def test_what_the_judge_looks_at_is_what_its_last_layer_is_given(tmp_path: Path) -> None:
    judge, paths = Judge.load("miniature", batch_size=2), pictures(tmp_path, 3)
    extractor = judge_extractor(judge)
    features = extractor.extract(paths)
    layer = [module for module in judge.network.modules() if isinstance(module, torch.nn.Linear)][-1]
    with torch.inference_mode():
        shares = layer(torch.from_numpy(features)).softmax(dim=1).numpy()
    np.testing.assert_allclose(shares, judge.probabilities(paths), atol=1e-5)
    assert len(extractor.weights) == 16


def test_a_vision_transformer_is_an_extractor_by_name(tmp_path: Path) -> None:
    from transformers import BitImageProcessor, Dinov2Config, Dinov2Model

    torch.manual_seed(0)  # noqa: TID251
    config = Dinov2Config(hidden_size=24, num_hidden_layers=2, num_attention_heads=2, image_size=28, patch_size=14)
    network = Dinov2Model(config).eval()
    network.save_pretrained(tmp_path / "dino")
    BitImageProcessor(size={"shortest_edge": 28}, crop_size={"height": 28, "width": 28}).save_pretrained(tmp_path / "dino")
    extractor, paths = build_extractor(str(tmp_path / "dino"), FeatureSettings(), None, "cpu"), pictures(tmp_path, 3)
    features = extractor.extract(paths)
    processor = BitImageProcessor.from_pretrained(tmp_path / "dino")
    pixels = processor([Image.open(path).convert("RGB") for path in paths], return_tensors="pt").pixel_values
    with torch.inference_mode():
        expected = network(pixels).last_hidden_state[:, 0].numpy()
    np.testing.assert_allclose(features, expected, atol=1e-5)
    with pytest.raises(UnavailableError, match=r"no config\.json there"):
        build_extractor(str(tmp_path / "gone"), FeatureSettings(), None, "cpu")


def test_embeddings_come_back_from_a_scorers_features(tmp_path: Path, skyclip_folder: Path) -> None:
    scorer, paths = Scorer.load(str(skyclip_folder)), pictures(tmp_path, 2)
    extractor = scorer_extractor(scorer)
    np.testing.assert_allclose(to_embeddings(extractor.extract(paths)), scorer.embed_images(paths), atol=1e-6)
    assert f"{scorer.resolution} px" in extractor.seen
