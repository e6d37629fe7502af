"""Stable Diffusion 3: flow matching as published, a transformer's presets, an optional T5."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler
from models.diffusions.build_stable_diffusion_3 import RESOLUTION, build

from skygen.data.batch import Batch
from skygen.errors import ConfigError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.models.diffusions.noising import FlowNoising
from skygen.seeding import Seeds


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("sd3") / "sd3"
    build(path)
    return path


@pytest.fixture(scope="module")
def diffusion(folder: Path) -> Diffusion:
    return Diffusion.load(str(folder))


def batch() -> Batch:
    pixels = torch.rand((2, 3, RESOLUTION, RESOLUTION), generator=Seeds(0).generator("pixels")) * 2 - 1
    return Batch(pixels, ("a dam", ""), ("a", "b"))


def noising(diffusion: Diffusion) -> FlowNoising:
    assert isinstance(diffusion.family.noising, FlowNoising)
    return diffusion.family.noising


def test_the_objective_is_flow_with_the_models_own_shift(diffusion: Diffusion) -> None:
    assert diffusion.family.noising.prediction_type == "flow"
    assert (noising(diffusion).shift, noising(diffusion).timesteps) == (3.0, 1000)


def test_the_loss_is_the_published_one(diffusion: Diffusion) -> None:
    """Written out: noise, then sigmas, of one generator; the transformer at 1000 sigma; the error of the velocity."""
    draws = Seeds(1).generator("noise")
    latents = diffusion.encode_images(batch().pixels, draws)
    noise = torch.randn(latents.shape, generator=draws)
    plain = torch.randn(2, generator=draws).sigmoid()
    sigmas = 3 * plain / (1 + 2 * plain)
    noisy = (1 - sigmas)[:, None, None, None] * latents + sigmas[:, None, None, None] * noise
    said = diffusion.encode_prompts(batch().captions)
    predicted = diffusion.network(
        hidden_states=noisy, timestep=1000 * sigmas, encoder_hidden_states=said.hidden, pooled_projections=said.pooled
    ).sample
    expected = (predicted - (noise - latents)).square().mean(dim=(1, 2, 3))
    assert torch.allclose(diffusion.loss(batch(), Seeds(1).generator("noise")), expected, rtol=1e-4)


def test_noised_latents_are_those_of_the_scheduler(diffusion: Diffusion) -> None:
    scheduler = FlowMatchEulerDiscreteScheduler.from_config(diffusion.pipeline.scheduler.config)
    places = torch.tensor([0, 250, 999])
    clean, noise = (torch.randn((3, 16, 4, 4), generator=Seeds(0).generator(name)) for name in ("clean", "noise"))
    mixed = noising(diffusion).mix(clean, noise, scheduler.sigmas[places])
    assert torch.allclose(mixed.noisy, scheduler.scale_noise(clean, scheduler.timesteps[places], noise), atol=1e-6)
    assert torch.allclose(mixed.times, scheduler.timesteps[places], rtol=1e-6)
    assert torch.equal(mixed.target, noise - clean)
    assert torch.equal(mixed.weight, torch.ones(3))


def test_it_draws_with_the_pipelines_own_scheduler(folder: Path) -> None:
    diffusion = Diffusion.load(str(folder))
    told: list[float] = []

    def note(_: Any, __: Any, given: dict[str, Any]) -> None:
        told.append(float(given["timestep"][0]))

    diffusion.network.register_forward_pre_hook(note, with_kwargs=True)
    before = diffusion.pipeline.scheduler
    image = np.asarray(diffusion.sample(["a dam"], [1], num_inference_steps=4)[0])
    expected = FlowMatchEulerDiscreteScheduler(shift=3.0)
    expected.set_timesteps(4)
    assert told == expected.timesteps.tolist()
    assert diffusion.pipeline.scheduler is before
    plain = diffusion.pipeline(
        "a dam", generator=torch.Generator().manual_seed(1), num_inference_steps=4, guidance_scale=5.0
    ).images[0]
    assert np.array_equal(image, np.asarray(plain))


def test_without_its_t5_zeros_stand_in_its_place(tmp_path: Path) -> None:
    build(tmp_path / "light", with_t5=False)
    diffusion = Diffusion.load(str(tmp_path / "light"))
    said = diffusion.encode_prompts(["a dam", ""])
    expected = diffusion.pipeline.encode_prompt(["a dam", ""], prompt_2=None, prompt_3=None, device="cpu")
    assert torch.equal(said.hidden, expected[0])
    assert not said.hidden[:, -256:].any()
    assert said.hidden[:, :-256].any()
    assert diffusion.sample(["a dam"], [1], num_inference_steps=1)[0].size == (32, 32)


def test_convolutions_are_refused(folder: Path) -> None:
    diffusion = Diffusion.load(str(folder))
    with pytest.raises(
        ConfigError,
        match=r"^--lora\.targets attention_ff_conv: a StableDiffusion3Pipeline denoises with a transformer, which has no "
        r"convolutions to adapt; give attention or attention_ff\.$",
    ):
        diffusion.attach(LoraSettings(targets="attention_ff_conv"), Seeds(0))
    with pytest.raises(ConfigError, match=r"^--lora\.targets all: this model has default, attention, attention_ff\.$"):
        diffusion.attach(LoraSettings(targets="all"), Seeds(0))


@pytest.mark.parametrize(
    ("settings", "sentence"),
    [
        (
            {"snr_gamma": 5.0},
            "--diffusion.snr_gamma: flow matching is weighed by how its noise levels are drawn; leave it out or set it to 0 "
            "for this model.",
        ),
        (
            {"noise_offset": 0.1},
            "--diffusion.noise_offset: flow matching already learns from noise alone, and its sampler begins with noise that "
            "has no offset; set it to 0 for this model.",
        ),
        (
            {"zero_terminal_snr": True},
            "--diffusion.zero_terminal_snr: flow matching ends in pure noise as it is; set it to false for this model.",
        ),
    ],
)
def test_settings_for_tables_of_alphas_are_refused(settings: dict[str, Any], sentence: str, diffusion: Diffusion) -> None:
    with pytest.raises(ConfigError) as caught:
        Diffusion(diffusion.pipeline, DiffusionSettings(**settings))
    assert str(caught.value) == sentence
    Diffusion(diffusion.pipeline, DiffusionSettings(snr_gamma=0.0))


def test_a_shift_by_the_size_of_the_image_is_refused(tmp_path: Path) -> None:
    build(tmp_path / "dynamic", use_dynamic_shifting=True)
    with pytest.raises(ConfigError, match=r"^scheduler/scheduler_config\.json: use_dynamic_shifting is true; .* has it\.$"):
        Diffusion.load(str(tmp_path / "dynamic"))
