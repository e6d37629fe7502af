"""What every metric of generated images must do on real tiles: worse pictures score worse; and FID is torchmetrics' own."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image, ImageFilter
from torchmetrics.image.fid import FrechetInceptionDistance, NoTrainInceptionV3
from untrained_inception import UntrainedInception

from skygen.data.images import open_image
from skygen.evaluation.images.cmmd import cmmd
from skygen.evaluation.images.features import inception_extractor, scorer_extractor
from skygen.evaluation.images.fidelity import frechet_distance, kernel_distance
from skygen.evaluation.images.neighbourhoods import compare_neighbourhoods
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

SEEDS = Seeds(7)
TILES = 160
"""A side: more than the miniature's 128 features, so that FID's covariances are regular."""
BLURS = (0.5, 1.0, 2.0, 4.0)
QUALITIES = (75, 40, 15, 5)
A_FEW = 3 / TILES
"""A share of images may move up by as much: a mildly blurred tile can slip into a ball that its sharp one just missed."""

Embed = Callable[[Sequence[Image.Image]], np.ndarray]


def stored_as_jpeg(tile: Image.Image, quality: int) -> Image.Image:
    file = io.BytesIO()
    tile.save(file, "JPEG", quality=quality)
    return open_image(file.getvalue())


@pytest.fixture(scope="module")
def embed() -> Embed:
    return scorer_extractor(Scorer.load("miniature", device="cpu")).extract


@pytest.fixture
def tiles(shared_data: Callable[[str], Path]) -> tuple[list[Image.Image], list[Image.Image]]:
    """Two sets of tiles of all classes, none in both."""
    paths = sorted(shared_data("eurosat_rgb").rglob("*.jpg"))
    every = [open_image(paths[row]) for row in SEEDS.numpy("tiles").permutation(len(paths))[: 2 * TILES]]
    assert len(every) == 2 * TILES
    return every[:TILES], every[TILES:]


def damage(tiles: list[Image.Image], kind: str) -> list[list[Image.Image]]:
    """The tiles as they are, then worse and worse."""
    if kind == "blur":
        worse = [[tile.filter(ImageFilter.GaussianBlur(radius)) for tile in tiles] for radius in BLURS]
    else:
        worse = [[stored_as_jpeg(tile, quality) for tile in tiles] for quality in QUALITIES]
    return [tiles, *worse]


@pytest.mark.parametrize("kind", ["blur", "JPEG"])
def test_growing_damage_grows_in_every_distance_and_in_no_neighbourhood(
    embed: Embed, tiles: tuple[list[Image.Image], list[Image.Image]], kind: str
) -> None:
    real = embed(tiles[0])
    sets = [embed(some) for some in damage(tiles[1], kind)]
    assert len(sets) == 5
    for distance in (frechet_distance, lambda one, other: kernel_distance(one, other, seeds=SEEDS), cmmd):
        values = [distance(real, some) for some in sets]
        assert (np.diff(values) > 0).all(), values
    found = [compare_neighbourhoods(real, some) for some in sets]
    for name, at_most in (("precision", 0.96), ("recall", 0.5), ("density", 0.7), ("coverage", 0.5)):
        values = [float(getattr(one, name).mean()) for one in found]
        assert values[-1] < at_most * values[0], (name, values)
        if name != "density":  # it rises a little with the mildest blur, which moves tiles to where many are
            assert (np.diff(values) <= A_FEW).all(), (name, values)


def test_two_sets_of_one_kind_are_near(embed: Embed, tiles: tuple[list[Image.Image], list[Image.Image]]) -> None:
    real, other = (embed(some) for some in tiles)
    blurred = embed([tile.filter(ImageFilter.GaussianBlur(1.0)) for tile in tiles[1]])
    for distance in (lambda one, other: kernel_distance(one, other, seeds=SEEDS), cmmd):
        assert abs(distance(real, other)) < 0.1 * distance(real, blurred)
    found = compare_neighbourhoods(real, other)
    assert min(found.precision.mean(), found.recall.mean(), found.coverage.mean()) > 0.9
    assert found.density.mean() == pytest.approx(1.0, abs=0.15)


def test_turning_every_tile_changes_no_distance_much(embed: Embed, tiles: tuple[list[Image.Image], list[Image.Image]]) -> None:
    """Overhead images have no up: a set of turned tiles is as good as the set itself."""
    real, upright = (embed(some) for some in tiles)
    turned = embed([tile.transpose(Image.Transpose.ROTATE_90) for tile in tiles[1]])
    blurred = embed([tile.filter(ImageFilter.GaussianBlur(1.0)) for tile in tiles[1]])
    for distance in (frechet_distance, lambda one, other: kernel_distance(one, other, seeds=SEEDS), cmmd):
        plain = distance(real, upright)
        assert abs(distance(real, turned) - plain) < 0.2 * (distance(real, blurred) - plain)


def test_fid_through_the_inception_extractor_is_that_of_torchmetrics(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Torchmetrics builds its network from the same file and is given pixels; here features go between."""
    monkeypatch.setattr(NoTrainInceptionV3, "INPUT_IMAGE_SIZE", 80)  # 299 takes 2 s an image
    path = tmp_path / "inception.pth"
    torch.save(UntrainedInception().state_dict(), path)  # noqa: TID251  # as torch-fidelity's file is
    generator = SEEDS.numpy("test pictures")
    real, generated = generator.integers(256, size=(2, 6, 40, 48, 3), dtype=np.uint8)
    generated[..., 0] //= 2
    metric = FrechetInceptionDistance(feature=2048, feature_extractor_weights_path=str(path))
    for pixels, is_real in ((real, True), (generated, False)):
        metric.update(torch.from_numpy(pixels).permute(0, 3, 1, 2), real=is_real)
    expected = float(metric.compute())
    extractor = inception_extractor(path, sha256=hashlib.sha256(path.read_bytes()).hexdigest())
    features = [extractor.extract([Image.fromarray(picture) for picture in pixels]) for pixels in (real, generated)]
    assert expected > 0
    assert frechet_distance(*features) == pytest.approx(expected, rel=1e-4)
