"""The frozen parts of every family give rows that can be kept, and names that change with all that decides the rows."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
from models.diffusions import build_stable_diffusion_3, small_pipelines
from torch import Tensor

from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.families import FAMILIES
from skygen.models.diffusions.family import DiffusionFamily
from skygen.models.diffusions.frozen import LatentEncoder, PromptEncoder, unpack_latents
from skygen.seeding import Seeds

KINDS = (*small_pipelines.KINDS, "without_t5")
PROMPTS = ["two storage tanks", "", "a dam in a forest"]


@pytest.fixture(scope="module")
def folders(pipeline_folders: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    folder = tmp_path_factory.mktemp("family") / "without_t5"
    build_stable_diffusion_3.build(folder, with_t5=False)
    return pipeline_folders | {"without_t5": folder}


@pytest.fixture(params=KINDS)
def kind(request: pytest.FixtureRequest) -> str:
    return str(request.param)


@pytest.fixture
def family(kind: str, folders: dict[str, Path]) -> DiffusionFamily:
    return load(folders[kind])


def load(folder: Path) -> DiffusionFamily:
    return Diffusion.load(str(folder)).family


def pixels(side: int = 32) -> Tensor:
    return torch.rand((3, 3, side, 2 * side), generator=Seeds(0).generator("pixels")) * 2 - 1


def test_every_family_is_looked_at(folders: dict[str, Path]) -> None:
    assert {json.loads((folder / "model_index.json").read_text())["_class_name"] for folder in folders.values()} == set(
        FAMILIES
    )


@torch.no_grad()
def test_latents_come_back_bit_for_bit_in_float32_and_nearly_so_in_half(family: DiffusionFamily) -> None:
    direct = family.encode_images(pixels())
    kept = LatentEncoder(family).encode(pixels())
    channels = direct.mean.shape[1]
    assert kept.shape == (3, 2 * channels, *direct.mean.shape[2:])
    assert kept.dtype == torch.float32
    again = unpack_latents(kept)
    assert torch.equal(again.mean, direct.mean)
    assert torch.equal(again.log_variance, direct.log_variance)
    half = unpack_latents(kept.half())
    assert half.mean.dtype == half.log_variance.dtype == torch.float32
    assert torch.allclose(half.mean, direct.mean, rtol=1e-3, atol=1e-3)
    draws = [one.sample(Seeds(1).generator("noise")) for one in (direct, again, half)]
    assert torch.equal(draws[0], draws[1])
    assert torch.allclose(draws[0], draws[2], rtol=1e-2, atol=1e-2 * float(draws[0].std()))


@torch.no_grad()
def test_every_epoch_draws_anew_from_what_is_kept(folders: dict[str, Path]) -> None:
    kept = unpack_latents(LatentEncoder(load(folders["stable_diffusion"])).encode(pixels()))
    generator = Seeds(2).generator("noise")
    draws = torch.stack([kept.sample(generator) for _ in range(400)])
    deviation = torch.exp(0.5 * kept.log_variance)
    assert not torch.equal(draws[0], draws[1])
    assert ((draws.mean(dim=0) - kept.mean).abs() < 6 * deviation / 20).all()  # 20 is the root of 400
    assert ((draws.std(dim=0) / deviation - 1).abs() < 0.25).all()


@torch.no_grad()
def test_what_is_kept_does_not_depend_on_the_precision_around_it(family: DiffusionFamily) -> None:
    latents, prompts = LatentEncoder(family), PromptEncoder(family)
    outside = latents.encode(pixels()), prompts.encode(PROMPTS)
    with torch.autocast("cpu", torch.bfloat16):
        assert not torch.equal(torch.ones(2, 2) @ torch.full((2, 2), 1.001), torch.full((2, 2), 2.002))  # it is on
        inside = latents.encode(pixels()), prompts.encode(PROMPTS)
    assert torch.equal(outside[0], inside[0])
    assert torch.equal(outside[1], inside[1])


def test_prompts_come_back_bit_for_bit(kind: str, family: DiffusionFamily) -> None:
    encoder = PromptEncoder(family)
    rows = encoder.encode(PROMPTS)
    with torch.no_grad():
        direct = family.encode_prompts(PROMPTS)
    assert rows.ndim == 2
    assert rows.dtype == torch.float32
    assert not rows.requires_grad
    again = encoder.unpack(rows)
    assert torch.equal(again.hidden, direct.hidden)
    assert again.sizes is None
    if kind == "stable_diffusion":
        assert direct.pooled is None
        assert again.pooled is None
    else:
        assert direct.pooled is not None
        assert again.pooled is not None
        assert torch.equal(again.pooled, direct.pooled)
        assert rows.shape[1] == direct.hidden[0].numel() + direct.pooled.shape[1]
    assert encoder.unpack(rows.half()).hidden.dtype == torch.float32
    with pytest.raises(ValueError, match=rf"^a row has {rows.shape[1] - 1} values; the null prompt has {rows.shape[1]}$"):
        encoder.unpack(rows[:, 1:])


def test_a_fingerprint_stays_the_same_when_nothing_that_decides_has_changed(
    family: DiffusionFamily, kind: str, folders: dict[str, Path]
) -> None:
    latents, prompts = LatentEncoder(family), PromptEncoder(family)
    names = latents.encoder_fingerprint(), prompts.encoder_fingerprint()
    prompts.encode(PROMPTS)
    other = load(folders[kind])
    with torch.no_grad():
        next(getattr(other.pipeline, other.network_name).parameters()).add_(1.0)  # the denoiser has no part in it
    other.pipeline.tokenizer(["a"], padding="max_length", max_length=5, truncation=True)  # a tokenizer remembers its last call
    assert names == (LatentEncoder(other).encoder_fingerprint(), PromptEncoder(other).encoder_fingerprint())
    assert names == (latents.encoder_fingerprint(), prompts.encoder_fingerprint())
    assert all(name.replace("-", "").isalnum() for name in names)


def change_config(folder: Path, part: str, **values: Any) -> None:
    path = folder / part
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def nudge(part: str) -> Callable[[DiffusionFamily], None]:
    def change(family: DiffusionFamily) -> None:
        with torch.no_grad():
            next(iter(getattr(family.pipeline, part).parameters())).view(-1)[0].add_(1e-3)

    return change


@pytest.mark.parametrize(
    ("kind", "change"),
    [
        ("stable_diffusion", nudge("text_encoder")),
        ("stable_diffusion_xl", nudge("text_encoder_2")),
        ("stable_diffusion_3", nudge("text_encoder_3")),
        ("stable_diffusion", lambda family: setattr(family.pipeline.tokenizer, "model_max_length", 9)),
        ("stable_diffusion", lambda family: family.pipeline.tokenizer.add_tokens(["quarry"])),
        ("stable_diffusion", lambda family: setattr(family.pipeline.text_encoder.config, "hidden_act", "relu")),
        ("stable_diffusion_xl", lambda family: family.pipeline.register_to_config(force_zeros_for_empty_prompt=False)),
        ("stable_diffusion_3", lambda family: family.pipeline.text_encoder.to(torch.bfloat16)),
    ],
    ids=["weight", "second", "third", "length", "vocabulary", "activation", "null prompt", "dtype"],
)
def test_pain_6_stale_prompts_of_other_encoders_have_another_name(
    kind: str, change: Callable[[DiffusionFamily], None], folders: dict[str, Path]
) -> None:
    family = load(folders[kind])
    before = PromptEncoder(family).encoder_fingerprint()
    change(family)
    assert PromptEncoder(family).encoder_fingerprint() != before


def test_pain_6_stale_latents_of_another_autoencoder_have_another_name(folders: dict[str, Path], tmp_path: Path) -> None:
    family = load(folders["stable_diffusion"])
    names = {LatentEncoder(family).encoder_fingerprint()}
    nudge("vae")(family)
    names.add(LatentEncoder(family).encoder_fingerprint())
    for number, (name, value) in enumerate({"act_fn": "gelu", "scaling_factor": 0.5, "sample_size": 96}.items()):
        folder = shutil.copytree(folders["stable_diffusion"], tmp_path / str(number))
        change_config(folder, "vae/config.json", **{name: value})
        name_now = LatentEncoder(load(folder)).encoder_fingerprint()
        assert (name_now in names) == (name == "scaling_factor")  # which is applied to what is kept, and not kept
        names.add(name_now)
    assert len(names) == 4


def test_families_do_not_share_a_name(folders: dict[str, Path]) -> None:
    names = [name for folder in folders.values() for name in fingerprints(load(folder))]
    assert len(names) == 8
    assert len(set(names)) == 8 - 1  # the autoencoder of both Stable Diffusions 3 is one


def fingerprints(family: DiffusionFamily) -> tuple[str, str]:
    return LatentEncoder(family).encoder_fingerprint(), PromptEncoder(family).encoder_fingerprint()
