"""Stable Diffusion: a picture follows from its own seed, and the loss is that of the objective."""

from __future__ import annotations

import json
import shutil
from copy import copy
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from diffusers import DDPMScheduler, PNDMScheduler
from torch import Tensor

from skygen.data.batch import Batch
from skygen.errors import ConfigError, UnavailableError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion, DiffusionSettings
from skygen.models.diffusions.noising import AlphaNoising
from skygen.models.diffusions.unet import LORA_PRESETS
from skygen.seeding import Seeds

PROMPTS = ["a harbor", "a dam in a forest", "", "two storage tanks"]


def table_of(diffusion: Diffusion) -> Tensor:
    """The final table of cumulative alphas of a model that has one."""
    assert isinstance(diffusion.family.noising, AlphaNoising)
    return diffusion.family.noising.alphas_cumprod


@pytest.fixture(scope="module")
def diffusion(stable_diffusion_folder: Path) -> Diffusion:
    return Diffusion.load(str(stable_diffusion_folder))


def batch(count: int = 3) -> Batch:
    pixels = torch.rand((count, 3, 64, 64), generator=Seeds(0).generator("pixels")) * 2 - 1
    return Batch(pixels, tuple(PROMPTS[:count]), tuple(map(str, range(count))))


def test_a_picture_follows_from_its_own_seed_in_any_batch(diffusion: Diffusion) -> None:
    together = [np.asarray(image, np.int16) for image in diffusion.sample(PROMPTS, [1, 2, 3, 4], num_inference_steps=3)]
    alone = [
        np.asarray(diffusion.sample([prompt], [seed], num_inference_steps=3)[0], np.int16)
        for prompt, seed in zip(PROMPTS, [1, 2, 3, 4], strict=True)
    ]
    assert len(together) == 4
    assert all(np.abs(one - other).max() <= 1 for one, other in zip(together, alone, strict=True))
    assert np.abs(together[0] - together[1]).max() > 20
    assert {image.shape for image in together} == {(64, 64, 3)}


def test_sampling_leaves_the_network_as_it_was_and_draws_again_the_same(diffusion: Diffusion) -> None:
    diffusion.network.train()
    first, second = (np.asarray(diffusion.sample(["a dam"], [5], num_inference_steps=2)[0]) for _ in range(2))
    assert diffusion.network.training
    assert np.array_equal(first, second)
    assert diffusion.sample(["a dam"], [5], num_inference_steps=1, resolution=32)[0].size == (32, 32)


def test_the_loss_is_one_number_an_image_and_follows_from_the_generator(diffusion: Diffusion) -> None:
    losses = [diffusion.loss(batch(), Seeds(seed).generator("noise")) for seed in (1, 1, 2)]
    assert losses[0].shape == (3,)
    assert torch.equal(losses[0], losses[1])
    assert not torch.equal(losses[0], losses[2])
    assert all(bool((loss > 0).all()) for loss in losses)


def test_min_snr_weighs_the_same_errors_down(stable_diffusion_folder: Path, diffusion: Diffusion) -> None:
    plain = Diffusion(diffusion.pipeline, DiffusionSettings(snr_gamma=0.0)).loss(batch(), Seeds(1).generator("noise"))
    weighed = diffusion.loss(batch(), Seeds(1).generator("noise"))
    assert diffusion.family.noising.prediction_type == "v_prediction"
    assert (weighed < plain).all()


def test_prompts_are_encoded_as_the_pipeline_does_it(diffusion: Diffusion) -> None:
    expected, _ = diffusion.pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(diffusion.encode_prompts(PROMPTS).hidden, expected)


def test_latents_have_the_scale_that_the_autoencoder_names(diffusion: Diffusion) -> None:
    generator = Seeds(1).generator("noise")
    vae = diffusion.pipeline.vae
    drawn = vae.encode(batch().pixels).latent_dist.sample(Seeds(1).generator("noise")) * vae.config.scaling_factor
    assert torch.equal(diffusion.encode_images(batch().pixels, generator), drawn)


def with_schedule(source: Path, folder: Path, **changes: object) -> str:
    shutil.copytree(source, folder)
    path = folder / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    return str(folder)


def test_schedules_that_cannot_be_trained_are_refused(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    terminal = {"rescale_betas_zero_snr": True}
    epsilon = with_schedule(stable_diffusion_folder, tmp_path / "epsilon", prediction_type="epsilon", **terminal)
    with pytest.raises(ConfigError, match="a schedule that ends without signal cannot be weighed with epsilon; set it to 0 or"):
        Diffusion.load(epsilon)
    Diffusion.load(epsilon, objective=DiffusionSettings(snr_gamma=0.0))
    with pytest.raises(ConfigError, match="prediction_type is sample; skygen trains epsilon and v_prediction"):
        Diffusion.load(with_schedule(stable_diffusion_folder, tmp_path / "sample", prediction_type="sample"))
    velocity = Diffusion.load(with_schedule(stable_diffusion_folder, tmp_path / "velocity", **terminal))
    assert table_of(velocity)[-1] == 0


def test_weights_kept_in_half_precision_are_computed_with_in_full(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    half = Diffusion.load(str(stable_diffusion_folder))
    half.pipeline.to(torch.float16)
    half.save_model(tmp_path / "half")
    loaded = Diffusion.load(str(tmp_path / "half"))
    parts = (loaded.network, loaded.pipeline.vae, loaded.pipeline.text_encoder)
    assert [{parameter.dtype for parameter in part.parameters()} for part in parts] == [{torch.float32}] * 3


def test_an_adapter_folder_without_an_adapter_is_explained(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"no pytorch_lora_weights\.safetensors there"):
        Diffusion.load(str(stable_diffusion_folder), tmp_path)


def test_there_is_a_preset_for_each_reach(diffusion: Diffusion) -> None:
    assert sorted(LORA_PRESETS) == ["attention", "attention_ff", "attention_ff_conv", "default"]


def velocity_settings(**changes: Any) -> DiffusionSettings:
    return DiffusionSettings(zero_terminal_snr=True, **changes)


def test_the_schedule_is_rescaled_on_wish_and_the_adapter_remembers(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    name, plain = str(stable_diffusion_folder), Diffusion.load(str(stable_diffusion_folder))
    diffusion = Diffusion.load(name, objective=velocity_settings())
    assert table_of(diffusion)[-1] == 0 < table_of(plain)[-1]
    trained = diffusion.attach(LoraSettings(rank=2), Seeds(1))
    trained.save(tmp_path)
    trained.start_from(tmp_path, "the/base")
    with pytest.raises(ConfigError, match=r"^--model\.adapter \S+: .* in noise; set --diffusion\.zero_terminal_snr true\.$"):
        Diffusion.load(name).attach(LoraSettings(rank=2), Seeds(1)).start_from(tmp_path, "the/base")
    loaded = Diffusion.load(name, tmp_path)
    config = loaded.pipeline.scheduler.config
    assert loaded.objective.zero_terminal_snr
    assert torch.equal(table_of(loaded), table_of(diffusion))
    assert (config.rescale_betas_zero_snr, config.timestep_spacing) == (True, "trailing")
    images = [np.asarray(one.sample(["a dam"], [1], num_inference_steps=3)[0], int) for one in (diffusion, loaded, plain)]
    assert np.array_equal(images[0], images[1])  # the adapter is new and has no effect; the schedule has
    assert np.abs(images[0] - images[2]).max() > 5


def test_a_rescaled_schedule_is_weighed_only_on_wish(diffusion: Diffusion) -> None:
    """Min-SNR gives the timestep without signal, which the rescaling is for, no weight."""
    timesteps, zeros = torch.tensor([0, 999]), torch.zeros((2, 8, 4, 4))
    weights = [
        Diffusion(copy(diffusion.pipeline), velocity_settings(**changes)).family.noising.mix(zeros, zeros, timesteps).weight
        for changes in ({}, {"snr_gamma": 5.0})
    ]
    assert weights[0].tolist() == [1, 1]
    assert weights[1][1] == 0
    assert diffusion.family.noising.mix(zeros, zeros, timesteps).weight[1] < 0.01  # left out, the cap is 5


def test_settings_that_contradict_each_other_are_refused(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"^diffusion\.noise_offset stands in for a schedule .* diffusion\.zero_terminal_snr$"
    ):
        velocity_settings(noise_offset=0.1)
    with pytest.raises(ConfigError, match=r"^diffusion\.snr_gamma is -1; it must be above 0, or 0 for no weighting$"):
        DiffusionSettings(snr_gamma=-1)
    with pytest.raises(ConfigError, match=r"^diffusion\.noise_offset is -1; it must be above 0, or 0 for none$"):
        DiffusionSettings(noise_offset=-1)
    epsilon = with_schedule(stable_diffusion_folder, tmp_path / "epsilon", prediction_type="epsilon")
    with pytest.raises(
        ConfigError, match=r"^--diffusion\.zero_terminal_snr: this model predicts epsilon, .*v-prediction model\.$"
    ):
        Diffusion.load(epsilon, objective=velocity_settings())


def test_a_sampler_that_cannot_begin_in_noise_alone_is_replaced(stable_diffusion_folder: Path) -> None:
    diffusion = Diffusion.load(str(stable_diffusion_folder))
    diffusion.pipeline.scheduler = PNDMScheduler.from_config(diffusion.pipeline.scheduler.config)
    changed = Diffusion(diffusion.pipeline, velocity_settings())
    assert type(changed.pipeline.scheduler).__name__ == "DDIMScheduler"
    assert changed.pipeline.scheduler.config.timestep_spacing == "trailing"
    assert changed.pipeline.scheduler.config.prediction_type == "v_prediction"


def test_both_predictions_have_their_own_target(stable_diffusion_folder: Path, tmp_path: Path) -> None:
    """Stable Diffusion 2.x comes in both."""
    epsilon = Diffusion.load(with_schedule(stable_diffusion_folder, tmp_path / "epsilon", prediction_type="epsilon"))
    velocity = Diffusion.load(str(stable_diffusion_folder))
    clean, noise = (torch.randn((2, 8, 4, 4), generator=Seeds(0).generator(name)) for name in ("clean", "noise"))
    timesteps = torch.tensor([10, 900])
    mixed = [one.family.noising.mix(clean, noise, timesteps) for one in (epsilon, velocity)]
    assert torch.equal(mixed[0].noisy, mixed[1].noisy)
    assert torch.equal(mixed[0].target, noise)
    scheduler = DDPMScheduler.from_config(velocity.pipeline.scheduler.config)
    assert torch.allclose(mixed[1].target, scheduler.get_velocity(clean, noise, timesteps), atol=1e-6)
