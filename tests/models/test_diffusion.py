"""Stable Diffusion: a picture follows from its own seed, and the loss is that of the objective."""

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import torch

from skygen.data.loading import Batch
from skygen.errors import ConfigError, UnavailableError
from skygen.models.diffusion import LORA_PRESETS, Diffusion, DiffusionSettings
from skygen.seeding import Seeds

PROMPTS = ["a harbor", "a dam in a forest", "", "two storage tanks"]


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
    assert diffusion.prediction_type == "v_prediction"
    assert (weighed < plain).all()


def test_prompts_are_encoded_as_the_pipeline_does_it(diffusion: Diffusion) -> None:
    expected, _ = diffusion.pipeline.encode_prompt(PROMPTS, "cpu", 1, do_classifier_free_guidance=False)
    assert torch.equal(diffusion.encode_prompts(PROMPTS), expected)


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
    assert velocity.alphas_cumprod[-1] == 0


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
