"""Stable Diffusion XL: what it is told of sizes, its autoencoder's precision, its null prompt."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from models.diffusions.build_stable_diffusion_xl import RESOLUTION, build
from torch import Tensor

from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.models.diffusions.family import Conditioning
from skygen.models.diffusions.noising import AlphaNoising
from skygen.seeding import Seeds


def table_of(diffusion: Diffusion) -> Tensor:
    """The final table of cumulative alphas of a model that has one."""
    assert isinstance(diffusion.family.noising, AlphaNoising)
    return diffusion.family.noising.alphas_cumprod


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("xl") / "xl"
    build(path)
    return path


@pytest.fixture
def diffusion(folder: Path) -> Diffusion:
    return Diffusion.load(str(folder))


def batch(captions: tuple[str, ...] = ("a dam", "")) -> Batch:
    pixels = torch.rand((len(captions), 3, RESOLUTION, RESOLUTION), generator=Seeds(0).generator("pixels")) * 2 - 1
    return Batch(pixels, captions, tuple(map(str, range(len(captions)))))


def watch(diffusion: Diffusion) -> list[dict[str, Any]]:
    """Note what the UNet is told beside latents, timesteps and prompts."""
    seen: list[dict[str, Any]] = []
    diffusion.network.register_forward_pre_hook(
        lambda _, __, given: seen.append(given["added_cond_kwargs"]) and None, with_kwargs=True
    )
    return seen


def test_sizes_stay_float32_and_are_those_that_the_sampler_gives(diffusion: Diffusion) -> None:
    seen = watch(diffusion)
    diffusion.loss(batch(), Seeds(1).generator("noise"))
    diffusion.sample(["a dam"], [1], num_inference_steps=1, guidance_scale=1.0)
    trained, drawn = (given["time_ids"] for given in seen)
    assert trained.dtype == drawn.dtype == torch.float32
    assert trained.tolist() == [[32, 32, 0, 0, 32, 32]] * 2
    assert drawn.tolist() == trained[:1].tolist()


def test_sizes_are_not_rounded_with_a_network_in_half_precision(diffusion: Diffusion) -> None:
    seen = watch(diffusion)
    diffusion.network.to(torch.bfloat16)
    said = diffusion.encode_prompts(["a dam"])
    sizes = torch.tensor([[1023.0, 769.0, 3.0, 257.0, 1021.0, 511.0]])
    noisy = torch.randn((1, 4, 16, 16), generator=Seeds(0).generator("noisy"))
    prediction = diffusion.family.denoise(noisy, torch.tensor([7]), Conditioning(said.hidden, said.pooled, sizes))
    assert prediction.dtype == torch.float32
    assert seen[0]["time_ids"].dtype == torch.float32
    assert seen[0]["time_ids"].tolist() == [[1023, 769, 3, 257, 1021, 511]]
    assert seen[0]["text_embeds"].dtype == torch.bfloat16
    assert sizes.bfloat16().tolist() != sizes.tolist()


def test_sizes_tell(diffusion: Diffusion) -> None:
    said = diffusion.encode_prompts(["a dam"])
    noisy = torch.randn((1, 4, 16, 16), generator=Seeds(0).generator("noisy"))
    whole, cropped, unsaid = (
        diffusion.family.denoise(noisy, torch.tensor([7]), Conditioning(said.hidden, said.pooled, sizes))
        for sizes in (
            torch.tensor([[32.0, 32.0, 0.0, 0.0, 32.0, 32.0]]),
            torch.tensor([[900.0, 700.0, 0.0, 40.0, 32.0, 32.0]]),
            None,
        )
    )
    assert torch.equal(whole, unsaid)
    assert not torch.equal(whole, cropped)


def test_an_autoencoder_that_asks_for_it_encodes_in_full_precision(diffusion: Diffusion) -> None:
    pixels = batch().pixels
    full = diffusion.family.encode_images(pixels)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        upcast = diffusion.family.encode_images(pixels)
        latents = diffusion.encode_images(pixels, Seeds(1).generator("noise"))
        diffusion.pipeline.vae.register_to_config(force_upcast=False)
        rounded = diffusion.family.encode_images(pixels)
    assert torch.equal(upcast.mean, full.mean)
    assert torch.equal(upcast.log_variance, full.log_variance)
    assert latents.dtype == torch.float32
    assert not torch.equal(rounded.mean.float(), full.mean)


def test_statistics_of_each_channel_take_the_place_of_a_shift(diffusion: Diffusion) -> None:
    mean, std = [0.1, -0.2, 0.3, 0.4], [1.0, 2.0, 3.0, 4.0]
    diffusion.pipeline.vae.register_to_config(latents_mean=mean, latents_std=std)
    raw = torch.randn((2, 4, 3, 3), generator=Seeds(0).generator("raw"))
    scaled = diffusion.family.scale_latents(raw)
    expected = torch.stack([(raw[:, c] - mean[c]) / std[c] * 0.13025 for c in range(4)], dim=1)
    assert torch.allclose(scaled, expected, atol=1e-6)


def test_the_null_prompt_is_zeros_only_where_the_sampler_takes_zeros(diffusion: Diffusion) -> None:
    null, some = diffusion.encode_prompts([""]), diffusion.encode_prompts(["", "a dam"])
    assert null.pooled is not None
    assert not null.hidden.any()
    assert not null.pooled.any()
    assert not some.hidden[0].any()
    assert some.hidden[1].all(dim=-1).any()
    diffusion.pipeline.register_to_config(force_zeros_for_empty_prompt=False)
    words = diffusion.encode_prompts([""])
    assert words.hidden.any()
    expected = diffusion.pipeline.encode_prompt(["a dam"], device="cpu")
    assert torch.equal(words.hidden, expected[1])


def test_a_schedule_that_ends_in_noise_reaches_the_sampler(tmp_path: Path) -> None:
    build(tmp_path / "velocity", prediction_type="v_prediction")
    plain = Diffusion.load(str(tmp_path / "velocity"))
    diffusion = Diffusion.load(str(tmp_path / "velocity"), objective=DiffusionSettings(zero_terminal_snr=True))
    assert table_of(diffusion)[-1] == 0 < table_of(plain)[-1]
    config = diffusion.pipeline.scheduler.config
    assert type(diffusion.pipeline.scheduler) is type(plain.pipeline.scheduler)
    assert (config.rescale_betas_zero_snr, config.timestep_spacing) == (True, "trailing")
    diffusion.pipeline.scheduler.set_timesteps(10)
    assert diffusion.pipeline.scheduler.timesteps[0] == 999
    assert diffusion.family.sampling_options() == {"guidance_rescale": 0.7}
    assert plain.family.sampling_options() == {}
    assert bool(diffusion.loss(batch(), Seeds(1).generator("noise")).isfinite().all())


def test_a_pipeline_without_one_of_its_text_encoders_is_refused(folder: Path) -> None:
    pipeline = Diffusion.load(str(folder)).pipeline
    pipeline.register_modules(text_encoder=None)
    with pytest.raises(
        ConfigError, match=r"^model_index\.json: it names no text_encoder; skygen needs Stable Diffusion XL with both"
    ):
        Diffusion(pipeline)
