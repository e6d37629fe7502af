"""The table of CLIPs agrees with open_clip's own, and says of what each has seen."""

from __future__ import annotations

from collections import Counter

import open_clip
import pytest

from skygen.data.benchmarks import BENCHMARK_SETS, RETRIEVAL_SETS
from skygen.models.backbones import BACKBONES, SKYSCRIPT_BACKBONES, find_close, in_sample

INFERRED = {
    "remoteclip-rn50", "remoteclip-vit-b32", "remoteclip-vit-l14", "georsclip-vit-l14", "georsclip-vit-l14-336",
}  # fmt: skip


def test_every_row_agrees_with_open_clip_s_description_of_its_network() -> None:
    compared = 0
    for name, row in BACKBONES.items():
        network = open_clip.get_model_config(row.architecture)
        assert network is not None, name
        assert network["vision_cfg"]["image_size"] == row.image_size, name
        assert network["text_cfg"]["context_length"] == row.context_length, name
        assert network["text_cfg"].get("hf_tokenizer_name", "") == row.tokenizer, name
        assert row.quick_gelu or not network.get("quick_gelu"), f"{name}: its network has QuickGELU by its name"
        compared += 1
    assert compared == 32


def test_every_row_with_a_tag_agrees_with_open_clip_s_description_of_its_weights() -> None:
    compared = 0
    for name, row in BACKBONES.items():
        if not row.tag:
            continue
        weights = open_clip.get_pretrained_cfg(row.architecture, row.tag)
        assert weights["hf_hub"] == f"{row.repository}/{row.file}", name
        assert weights.get("quick_gelu", False) == row.quick_gelu, name
        for setting in ("mean", "std", "interpolation", "resize_mode"):
            value = weights[setting]
            assert (tuple(value) if isinstance(value, list) else value) == getattr(row.preprocessing, setting), (name, setting)
        compared += 1
    assert compared == 13


def test_the_rows_are_all_there() -> None:
    assert Counter(name.split("-")[0] for name in BACKBONES) == {
        "skyclip": 5, "clip": 1, "remoteclip": 3, "georsclip": 6, "farslip1": 2, "farslip2": 2, "openai": 5, "laion2b": 4,
        "siglip": 2, "siglip2": 2,
    }  # fmt: skip
    assert all(row.archive or row.repository for row in BACKBONES.values())
    assert all(row.trained_on for row in BACKBONES.values())
    assert {name for name, row in BACKBONES.items() if not row.certain} == INFERRED
    places = [row.url if row.archive else f"{row.repository}/{row.file}" for row in BACKBONES.values()]
    assert len(set(places)) == len(places)


def test_skyscript_s_rows_have_the_activation_of_each_published_file() -> None:
    """SkyScript's own notebooks: ViT-L/14 with force_quick_gelu, ViT-B/32 without."""
    activations = {name: (row.architecture, row.quick_gelu) for name, row in SKYSCRIPT_BACKBONES.items()}
    assert len(activations) == 6
    assert {quick for architecture, quick in activations.values() if architecture == "ViT-L-14"} == {True}
    assert {quick for architecture, quick in activations.values() if architecture == "ViT-B-32"} == {False}


@pytest.mark.parametrize(
    ("name", "quick_gelu"),
    [
        ("remoteclip-vit-b32", True),
        ("georsclip-vit-b32", True),
        ("georsclip-vit-l14", True),
        ("georsclip-vit-h14", False),
        ("farslip1-vit-b32", True),
        ("openai-vit-l14", True),
        ("laion2b-vit-b32-e16", False),
        ("laion2b-vit-l14", False),
    ],
)
def test_the_activation_of_the_others(name: str, quick_gelu: bool) -> None:
    assert BACKBONES[name].quick_gelu is quick_gelu


def test_the_normalizations_that_differ() -> None:
    different = {name: row.preprocessing for name, row in BACKBONES.items() if row.preprocessing.mean[0] == 0.5}
    assert sorted(different) == [
        "laion2b-vit-l14", "siglip-vit-b16", "siglip-vit-so400m-14", "siglip2-vit-b16", "siglip2-vit-so400m-14",
    ]  # fmt: skip
    assert {settings.std for settings in different.values()} == {(0.5, 0.5, 0.5)}
    assert {name for name, settings in different.items() if settings.resize_mode == "shortest"} == {"laion2b-vit-l14"}


def test_what_is_published_where() -> None:
    assert BACKBONES["georsclip-vit-b32-ret-2"].url == (
        "https://huggingface.co/Zilun/GeoRSCLIP/resolve/main/ckpt/RS5M_ViT-B-32_RET-2.pt"
    )
    assert BACKBONES["remoteclip-rn50"].url == "https://huggingface.co/chendelong/RemoteCLIP/resolve/main/RemoteCLIP-RN50.pt"
    assert BACKBONES["siglip2-vit-b16"].url == "https://huggingface.co/timm/ViT-B-16-SigLIP2"


@pytest.mark.parametrize(
    ("name", "dataset", "expected"),
    [
        ("remoteclip-vit-l14", "RSICD", True),
        ("remoteclip-vit-l14", "ucmcaptions", True),
        ("remoteclip-vit-l14", "UCM-Captions", True),
        ("remoteclip-vit-l14", "UCM", True),
        ("remoteclip-vit-l14", "SkyScript", False),
        ("georsclip-vit-b32", "fMoW", True),
        ("georsclip-vit-b32", "millionaid", True),
        ("georsclip-vit-b32", "RSITMD", False),
        ("georsclip-vit-b32-ret-2", "RSITMD", True),
        ("georsclip-vit-b32-rsicd", "RSITMD", False),
        ("skyclip-vit-b32-top50pct", "SkyScript", True),
        ("skyclip-vit-b32-top50pct", "SkyScript_cls", False),
        ("openai-vit-b32", "aid", False),
    ],
)
def test_what_is_in_sample(name: str, dataset: str, expected: bool) -> None:
    assert in_sample(BACKBONES[name].trained_on, dataset) is expected


def test_nothing_known_is_nothing_in_sample() -> None:
    names = [*BENCHMARK_SETS, *RETRIEVAL_SETS]
    assert len(names) == 15
    assert [name for name in names if in_sample((), name)] == []
    assert [name for name in names if in_sample(names, name)] == names


def test_names_of_data_sets_are_those_of_the_benchmarks() -> None:
    """Else a bracket would silently be missing from a report."""
    ours = {name for row in BACKBONES.values() for name in row.trained_on if name in {*BENCHMARK_SETS, *RETRIEVAL_SETS}}
    assert ours == {"SkyScript", "RSICD", "RSITMD", "ucmcaptions", "fmow", "millionaid"}


def test_close_names() -> None:
    assert find_close("SkyCLIP-vit-l14", BACKBONES)[0] == "skyclip-vit-l14-top30pct"
    assert find_close("zzz", BACKBONES) == []
