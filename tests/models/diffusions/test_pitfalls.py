"""Pitfalls of diffusion training that the other tests of the families do not pin: see the table in docs/diffusion.md."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.diffusions.small_pipelines import KINDS
from PIL import Image
from torch import Tensor, nn

from skygen.data.framing import ImageSettings, list_buckets
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.preflight import check_autoencoder, choose_images, largest_size, probe_update
from skygen.seeding import Seeds


@pytest.fixture(scope="module", params=KINDS)
def diffusion(request: pytest.FixtureRequest, pipeline_folders: dict[str, Path]) -> Diffusion:
    return Diffusion.load(str(pipeline_folders[request.param]))


def stream_of(world: Path, **images: Any) -> PairStream:
    settings = ImageSettings(**({"resolution": 64, "bucket_step": 32} | images))
    return PairStream(read_pairs(world, split="train"), settings, CaptionSettings(), Seeds(0), Rejects(None))


def noise_of(side: int, count: int = 3) -> list[Image.Image]:
    draw = Seeds(4).numpy("images")
    return [Image.fromarray(draw.integers(0, 255, size=(side, side, 3), dtype=np.uint8)) for _ in range(count)]


def test_pitfall_4_16_the_round_trip_is_measured_in_decibels(diffusion: Diffusion) -> None:
    images = noise_of(diffusion.resolution)
    found = check_autoencoder(diffusion, images)
    expected = []
    for image in images:
        original = np.asarray(image, np.float64)
        pixels = torch.from_numpy(original / 127.5 - 1).permute(2, 0, 1)[None].float()
        with torch.no_grad():
            vae = diffusion.pipeline.vae
            decoded = vae.decode(vae.encode(pixels).latent_dist.mean).sample[0].clamp(-1, 1)
        back = (decoded.permute(1, 2, 0).double().numpy() + 1) * 127.5
        expected.append(10 * np.log10(255**2 / np.mean((back - original) ** 2)))
    assert found.images == len(expected) == 3
    assert found.psnr == pytest.approx(np.mean(expected), abs=1e-3)
    assert found.lowest == pytest.approx(min(expected), abs=1e-3)
    assert 1 < found.lowest <= found.psnr < 40
    assert found.record() == {"images": 3, "psnr": found.psnr, "lowest": found.lowest}
    assert found.summary() == (
        f"autoencoder: 3 training images come back with {found.psnr:.1f} dB, the worst with {found.lowest:.1f}"
    )


def test_pitfall_4_16_images_are_looked_at_as_they_are_trained_on(world: Path) -> None:
    stream = stream_of(world, aspect_buckets=True)
    shown = choose_images(stream)
    assert len(shown) == 8
    assert all(side % 32 == 0 for image in shown for side in image.size)
    assert {image.size for image in choose_images(stream_of(world), count=3)} == {(64, 64)}
    miniature = Diffusion.load("miniature")
    assert 15 < check_autoencoder(miniature, shown[:2]).psnr < 60  # of the miniature's own kind of images, unlike noise


@pytest.mark.parametrize("which", ["encoder", "decoder"])
def test_pain_1_an_autoencoder_that_is_not_finite_ends_before_the_first_update(which: str, diffusion: Diffusion) -> None:
    part: nn.Module = getattr(diffusion.pipeline.vae, which)
    handle = part.register_forward_hook(lambda _, given, made: made * float("nan"))
    try:
        with pytest.raises(DataError) as caught:
            check_autoencoder(diffusion, noise_of(diffusion.resolution))
    finally:
        handle.remove()
    what = {
        "encoder": "the latents of training image 1 of 3 are",
        "decoder": "the pixels that the autoencoder decodes of training image 1 of 3 are",
    }
    assert str(caught.value) == (
        f"{what[which]} not finite in float32; its weights are damaged or of another model: download them again."
    )


def test_pain_1_an_autoencoder_that_overflows_in_half_is_told_from_a_damaged_one(diffusion: Diffusion) -> None:
    def overflow(_: nn.Module, given: tuple[Tensor, ...], made: Tensor) -> Tensor:
        return made * float("inf") if torch.is_autocast_enabled("cpu") else made

    def autocast() -> Any:
        return torch.autocast("cpu", torch.bfloat16)

    images = noise_of(diffusion.resolution)
    handle = diffusion.pipeline.vae.encoder.register_forward_hook(overflow)
    try:
        if diffusion.family.network_name == "unet" and diffusion.family.pipeline_class == "StableDiffusionPipeline":
            with pytest.raises(DataError) as caught:
                check_autoencoder(diffusion, images, autocast)
            assert str(caught.value) == (
                "the latents of training image 1 of 3 are not finite where the autoencoder computes in bfloat16, and are in "
                "float32; set --train.mixed_precision no, or keep latents with --features.root, which are made in the latter."
            )
        else:  # these encode in float32 whatever is around the call
            assert check_autoencoder(diffusion, images, autocast) == check_autoencoder(diffusion, images)
        assert check_autoencoder(diffusion, images).images == 3
    finally:
        handle.remove()


def test_images_that_cannot_be_read_are_no_autoencoder_s_fault(diffusion: Diffusion) -> None:
    with pytest.raises(DataError) as caught:
        check_autoencoder(diffusion, [])
    assert str(caught.value) == (
        "not one of the training images that were looked at can be read; `skygen check` says what is wrong."
    )


@pytest.mark.parametrize("kept", [False, True])
def test_pain_13_an_update_is_tried_for_its_memory_and_changes_nothing(kept: bool, diffusion: Diffusion) -> None:
    other = Diffusion.load(diffusion.pipeline.config._name_or_path)
    trained = other.attach(LoraSettings(rank=2, lora_dropout=0.5), Seeds(1)).parameters
    before = {name: parameter.detach().clone() for name, parameter in trained.items()}
    seen: list[tuple[int, bool]] = []
    handle = other.network.register_forward_pre_hook(
        lambda network, given, named: seen.append((len((*given, *named.values())[0]), network.training)), with_kwargs=True
    )
    other.network.eval()
    state = torch.get_rng_state()
    probe_update(other, trained.values(), (other.resolution, other.resolution), 2, kept=kept)
    handle.remove()
    assert seen == [(2, True)]
    assert not other.network.training
    assert torch.equal(torch.get_rng_state(), state)
    assert len(before) >= 8
    assert all(parameter.grad is None and torch.equal(parameter, before[name]) for name, parameter in trained.items())


def test_pain_13_an_update_that_does_not_fit_is_a_sentence_with_a_remedy(
    stable_diffusion_folder: Path, caplog: pytest.LogCaptureFixture
) -> None:
    diffusion = Diffusion.load(str(stable_diffusion_folder))
    trained = diffusion.attach(LoraSettings(rank=2), Seeds(1)).parameters

    def exhaust(*given: Any, **named: Any) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    diffusion.network.register_forward_pre_hook(exhaust)
    with caplog.at_level(logging.WARNING, "skygen"):  # a run goes on with fewer at a time
        probe_update(diffusion, trained.values(), (64, 64), 16)
    assert [record.message for record in caplog.records] == [
        "16 images of 64 x 64 pixels at a time: the memory of cpu does not suffice; set --model.gradient_checkpointing true, "
        "or --train.train_batch_size 8 with twice --train.gradient_accumulation_steps; otherwise it is taken "
        "apart, which takes longer."
    ]
    with pytest.raises(ConfigError) as caught:
        probe_update(diffusion, trained.values(), (64, 64), 1)
    assert str(caught.value) == (
        "one image of 64 x 64 pixels at a time: the memory of cpu does not suffice; set --model.gradient_checkpointing true, "
        "or take a smaller --images.resolution."
    )
    assert all(parameter.grad is None for parameter in trained.values())


def test_pain_13_what_is_tried_is_the_largest_image() -> None:
    assert largest_size(ImageSettings(resolution=512)) == (512, 512)
    buckets = ImageSettings(resolution=520, bucket_step=64, aspect_buckets=True)
    assert largest_size(buckets) == max(list_buckets(520, 64), key=lambda size: (size[0] * size[1], size))
    assert largest_size(buckets) == (704, 384)
