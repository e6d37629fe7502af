"""A generator learns the same from kept latents and prompts as from images and captions."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from models.diffusions.small_pipelines import KINDS
from PIL import Image

from skygen.data.batch import Batch
from skygen.data.batches import Positions, load_batches
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import DataError
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion
from skygen.models.diffusions.frozen import LatentEncoder, PromptEncoder, unpack_latents
from skygen.seeding import Seeds
from skygen.training.feature_cache import CachedFeatures, FeatureCacheSettings, build_features
from skygen.training.prompt_cache import build_prompts

CAPTIONS = ("two storage tanks", "a dam in a forest", "a harbor", "a river and a bridge")
BUCKETS = ImageSettings(resolution=32, aspect_buckets=True, bucket_step=8)
SQUARES = ImageSettings(resolution=32, center_crop=True, random_dihedral=False)


@pytest.fixture
def pairs(tmp_path: Path) -> PairList:
    """Two images of one shape, two of its turned twin's."""
    (tmp_path / "data").mkdir()
    draw = Seeds(0).numpy("pictures")
    found = []
    for number, caption in enumerate(CAPTIONS):
        size = (60, 100, 3) if number < 2 else (100, 60, 3)
        path = tmp_path / "data" / f"{number}.png"
        Image.fromarray(draw.integers(0, 256, size, dtype=np.uint8)).save(path)
        found.append(Pair(path.name, path, (caption,)))
    return PairList.of(found, tmp_path / "data")


@pytest.fixture
def settings(tmp_path: Path) -> FeatureCacheSettings:
    return FeatureCacheSettings(tmp_path / "features", "float32", batch_size=4)


def keep(diffusion: Diffusion, pairs: PairList, images: ImageSettings, settings: FeatureCacheSettings) -> CachedFeatures:
    return build_features(LatentEncoder(diffusion.family), pairs, images, settings, Rejects(None), device="cpu")


def batches(
    pairs: PairList, images: ImageSettings, features: CachedFeatures, *, kept: bool, dropout: float = 0.0
) -> list[Batch]:
    source = features if kept else None
    captions = CaptionSettings(dropout=dropout)
    stream = PairStream(pairs, images, captions, Seeds(1), Rejects(None), source, features.sizes)
    return list(load_batches(stream, Positions(0, 5, 4)))


def loss(diffusion: Diffusion, batch: Batch) -> torch.Tensor:
    return diffusion.loss(batch, Seeds(2).generator("noise")).detach()


@pytest.fixture(params=KINDS)
def diffusion(request: pytest.FixtureRequest, pipeline_folders: dict[str, Path]) -> Diffusion:
    diffusion = Diffusion.load(str(pipeline_folders[request.param]))
    diffusion.attach(LoraSettings(rank=2), Seeds(0))
    return diffusion


def test_the_latents_that_are_drawn_from_what_is_kept_are_bit_for_bit_those_of_the_pixels_and_so_is_the_loss(
    diffusion: Diffusion, pairs: PairList, settings: FeatureCacheSettings
) -> None:
    """Batches of four where the latents were made and where they are made: the same arithmetic.

    An autoencoder may give its latents with the channels innermost; what is kept has lost that, and a convolution over another
    layout adds up in another order: the losses are compared in one layout bit for bit, and closely in their own.
    """
    features = keep(diffusion, pairs, SQUARES, settings)
    half = keep(diffusion, pairs, SQUARES, replace(settings, dtype="float16"))
    compared = 0
    for seen, kept, rounded in zip(
        batches(pairs, SQUARES, features, kept=False),
        batches(pairs, SQUARES, features, kept=True),
        batches(pairs, SQUARES, half, kept=True),
        strict=True,
    ):
        assert kept.features is not None
        with torch.no_grad():
            conditioning = diffusion.encode_prompts(seen.captions)
            drawn = diffusion.encode_images(seen.pixels, Seeds(3).generator("latents"))
            again = diffusion.family.scale_latents(unpack_latents(kept.features).sample(Seeds(3).generator("latents")))
            assert torch.equal(drawn, again)
            losses = [
                diffusion.denoising_loss(latents.contiguous(), conditioning, Seeds(4).generator("noise"))
                for latents in (drawn, again)
            ]
        assert torch.equal(*losses)
        expected = loss(diffusion, seen)
        others = replace(kept, features=kept.features.roll(1, 0))
        exact, rounding, wrong = (float((loss(diffusion, one) - expected).abs().max()) for one in (kept, rounded, others))
        assert exact < 1e-5 * float(expected.max())
        assert rounding < 0.1 * wrong  # whose image it is makes a difference, and half precision makes little
        assert exact < 0.01 * wrong
        compared += len(seen.keys)
    assert compared == 20


def test_the_loss_from_kept_latents_and_prompts_in_buckets_is_that_from_images_and_captions(
    diffusion: Diffusion, pairs: PairList, settings: FeatureCacheSettings
) -> None:
    features = keep(diffusion, pairs, BUCKETS, settings)
    prompts = build_prompts(PromptEncoder(diffusion.family), CAPTIONS, settings)
    dropped, compared, shapes = 0, 0, set()
    for seen, kept in zip(
        batches(pairs, BUCKETS, features, kept=False, dropout=0.3),
        batches(pairs, BUCKETS, features, kept=True, dropout=0.3),
        strict=True,
    ):
        assert kept.features is not None
        diffusion.prompts = None
        expected = loss(diffusion, seen)
        diffusion.prompts = prompts
        assert torch.allclose(loss(diffusion, kept), expected, rtol=1e-4)
        dropped += kept.captions.count("")
        compared += len(kept.keys)
        shapes.add(tuple(kept.features.shape[2:]))
    assert compared == 20
    assert 0 < dropped < 20
    assert len(shapes) == 2


def test_pain_5_the_caption_of_each_image_is_its_own_and_one_that_is_not_kept_stops_the_run(
    diffusion: Diffusion, pairs: PairList, settings: FeatureCacheSettings
) -> None:
    features = keep(diffusion, pairs, SQUARES, settings)
    diffusion.prompts = build_prompts(PromptEncoder(diffusion.family), CAPTIONS, settings)
    own: dict[str, Any] = {pair.key: pair.captions[0] for pair in pairs}
    checked = 0
    for batch in batches(pairs, SQUARES, features, kept=True):
        assert batch.captions == tuple(own[key] for key in batch.keys)
        assert batch.features is not None
        for key, row in zip(batch.keys, batch.features, strict=True):
            expected = features.read([pair.key for pair in pairs].index(key), 0)
            assert expected is not None
            assert torch.equal(row, expected)
            checked += 1
        with pytest.raises(DataError, match=r'"a harbour" is not among the prompts that were kept'):
            loss(diffusion, replace(batch, captions=("a harbour",) * len(batch.keys)))
    assert checked == 20


def test_pain_6_stale_latents_and_prompts_of_another_autoencoder_or_text_encoder_are_not_served(
    pipeline_folders: dict[str, Path], pairs: PairList, settings: FeatureCacheSettings
) -> None:
    diffusion = Diffusion.load(str(pipeline_folders["stable_diffusion"]))
    before = keep(diffusion, pairs, SQUARES, settings).read(0, 0)
    prompts = build_prompts(PromptEncoder(diffusion.family), CAPTIONS, settings).read(CAPTIONS)
    for part in ("vae", "text_encoder"):
        with torch.no_grad():
            for parameter in getattr(diffusion.pipeline, part).parameters():
                parameter.mul_(1.1)
    after = keep(diffusion, pairs, SQUARES, settings).read(0, 0)
    prompts_after = build_prompts(PromptEncoder(diffusion.family), CAPTIONS, settings).read(CAPTIONS)
    assert before is not None
    assert after is not None
    assert not torch.allclose(before, after, rtol=1e-3)
    assert not torch.allclose(prompts.hidden, prompts_after.hidden, rtol=1e-3)
    back = Diffusion.load(str(pipeline_folders["stable_diffusion"]))
    again = keep(back, pairs, SQUARES, settings).read(0, 0)
    assert again is not None
    assert torch.equal(again, before)
