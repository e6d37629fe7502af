"""Features of every fixed framing: the pixels that are encoded are those that the stream would show, whatever their shape."""

from __future__ import annotations

import pickle
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch
from PIL import Image
from torch import Tensor
from training.small_pictures import lay_pictures

from skygen.data.batches import Positions, load_batches
from skygen.data.framing import Framing, ImageSettings, frame
from skygen.data.images import image_to_tensor, open_image
from skygen.data.loading import CaptionSettings, PairStream, StoredFeatures
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import StorageError
from skygen.seeding import Seeds
from skygen.training import feature_cache
from skygen.training.feature_cache import CachedFeatures, FeatureCacheSettings, build_features

SQUASHED = ImageSettings(resolution=32, crop=False)
CENTRED = ImageSettings(resolution=32, center_crop=True)
BUCKETS = ImageSettings(resolution=32, aspect_buckets=True, bucket_step=8)
FRAMINGS = {"squash": SQUASHED, "center_crop": CENTRED, "aspect_buckets": BUCKETS}
SIZES = [(50, 30), (30, 50), (40, 40), (64, 36), (32, 32), (45, 75), (90, 40), (33, 31), (60, 36)]


class Shrinking:
    """An encoder that halves both sides, as an autoencoder divides them, and records what it is shown."""

    def __init__(self, fail_after: int | None = None) -> None:
        self.fail_after = fail_after
        self.seen: list[bytes] = []
        self.shapes: list[tuple[int, ...]] = []

    def encode(self, pixels: Tensor) -> Tensor:
        if pixels.any():  # the grey image that shows the shape does not count
            if len(self.shapes) == self.fail_after:
                raise KeyboardInterrupt
            self.shapes.append(tuple(pixels.shape))
            self.seen += [image.numpy().tobytes() for image in pixels]
        return torch.nn.functional.avg_pool2d(pixels, 2)

    def encoder_fingerprint(self) -> str:
        return "shrinking"


@pytest.fixture
def pairs(tmp_path: Path) -> PairList:
    """Nine images: two squares, one nearly so, three wide, one very wide, two high."""
    return lay_pictures(tmp_path / "data", SIZES)


@pytest.fixture
def settings(tmp_path: Path) -> FeatureCacheSettings:
    return FeatureCacheSettings(tmp_path / "features", "float32", shard_size=6, batch_size=4)


def build(
    encoder: Any,
    pairs: Sequence[Pair],
    settings: FeatureCacheSettings,
    images: ImageSettings = BUCKETS,
    rejects: Rejects | None = None,
    **more: Any,
) -> CachedFeatures:
    return build_features(encoder, pairs, images, settings, rejects or Rejects(None), device="cpu", **more)


def expected(pair: Pair, images: ImageSettings, variant: int) -> Tensor:
    image = open_image(pair.image)
    shown = frame(image.size, images)._replace(variant=variant).apply(image)
    return torch.nn.functional.avg_pool2d(image_to_tensor(shown), 2)


def count_right(features: StoredFeatures, pairs: Sequence[Pair], images: ImageSettings = BUCKETS) -> int:
    """Check all features against the encoder, bit for bit, and count them."""
    right = 0
    for row, pair in enumerate(pairs):
        for variant in range(images.variants):
            found = features.read(row, variant)
            right += found is not None and torch.equal(found, expected(pair, images, variant))
    return right


@pytest.mark.parametrize("workers", [0, 2])
@pytest.mark.parametrize("framing", FRAMINGS)
def test_a_flip_or_turn_by_variant_is_the_encoding_of_the_turned_image(
    pairs: PairList, settings: FeatureCacheSettings, framing: str, workers: int
) -> None:
    images, encoder = FRAMINGS[framing], Shrinking()
    features = build(encoder, pairs, settings, images, workers=workers)
    assert count_right(features, pairs, images) == 9 * 8
    assert len(encoder.seen) == len(set(encoder.seen)) == 9 * 8
    copy: CachedFeatures = pickle.loads(pickle.dumps(features))  # noqa: TID251  # what a DataLoader does
    assert count_right(copy, pairs, images) == 9 * 8


def test_batches_are_of_one_shape_and_each_shape_has_a_folder(pairs: PairList, settings: FeatureCacheSettings) -> None:
    encoder = Shrinking()
    features = build(encoder, pairs, settings)
    images = {shape[1:]: sum(one[0] for one in encoder.shapes if one[1:] == shape[1:]) for shape in encoder.shapes}
    assert images == {(3, 24, 40): 24, (3, 40, 24): 24, (3, 32, 32): 24}  # six of nine are long, half their variants are high
    assert sorted(shape[0] for shape in encoder.shapes) == [2] * 12 + [4] * 12  # 4 and 2 make a shard of 6
    names = [f"shrinking-{shape}-float32" for shape in ("24x40", "32x32", "40x24")]
    assert sorted(store.folder.name for store in features.stores) == names
    assert [len(store) for store in features.stores] == [24] * 3
    assert len(list((settings.root or Path()).rglob("*.safetensors"))) == 12


def test_an_image_is_decoded_once_though_its_variants_have_two_shapes(
    pairs: PairList, settings: FeatureCacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def counting(data: bytes) -> Image.Image:
        opened.append(data)
        return open_image(data)

    monkeypatch.setattr(feature_cache, "open_image", counting)
    build(Shrinking(), pairs, settings)
    assert len(opened) == len(set(opened)) == 9


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_framing_is_that_of_the_image_as_it_lies_on_the_disk(
    pairs: PairList, settings: FeatureCacheSettings, framing: str
) -> None:
    pairs[4].image.unlink()
    features = build(Shrinking(), pairs, settings, FRAMINGS[framing])
    rows = [row for row in range(9) if features.read(row, 0) is not None]
    assert rows == [0, 1, 2, 3, 5, 6, 7, 8]
    assert [features.framing(row) for row in rows] == [frame(SIZES[row], FRAMINGS[framing]) for row in rows]
    assert features.framing(0).original == (50, 30)
    assert features.sizes.tolist()[4] == [0, 0]
    if framing == "aspect_buckets":
        assert features.framing(6) == Framing((90, 40), (11, 0, 78, 40), (40, 24))  # cut to the widest bucket


@pytest.mark.parametrize("framing", FRAMINGS)
def test_the_stream_shows_the_same_with_features_as_with_pixels(
    pairs: PairList, settings: FeatureCacheSettings, framing: str
) -> None:
    images = FRAMINGS[framing]
    features = build(Shrinking(), pairs, settings, images)
    streams = [
        PairStream(pairs, images, CaptionSettings(), Seeds(1), Rejects(None), kept, features.sizes) for kept in (None, features)
    ]
    compared, shapes = 0, set()
    for seen, kept in zip(*[load_batches(stream, Positions(0, 20, 5)) for stream in streams], strict=True):
        assert seen.keys == kept.keys
        assert seen.captions == kept.captions == tuple(f"picture {Path(key).stem}" for key in kept.keys)
        assert kept.features is not None
        assert torch.equal(torch.nn.functional.avg_pool2d(seen.pixels, 2), kept.features)
        assert seen.sizes is not None
        assert kept.sizes is not None
        assert torch.equal(seen.sizes, kept.sizes)
        compared += len(seen.keys)
        shapes.add(kept.features.shape[1:])
    assert compared == 100
    assert len(shapes) == (3 if framing == "aspect_buckets" else 1)


def test_pain_5_features_are_found_by_key_whatever_the_order_of_the_pairs(
    pairs: PairList, settings: FeatureCacheSettings
) -> None:
    """A list that was shuffled, cut and lengthened: no image gets the features, and so the caption, of another."""
    build(Shrinking(), pairs, settings)
    order = [7, 2, 2, 8, 0, 5, 3]
    shuffled = PairList.of([pairs[row] for row in order], pairs[0].image.parent)
    encoder = Shrinking()
    features = build(encoder, shuffled, settings)
    assert encoder.seen == []
    assert count_right(features, shuffled) == len(order) * 8
    different = {value.numpy().tobytes() for row in range(len(order)) if (value := features.read(row, 0)) is not None}
    assert len(different) == len(set(order))


def test_pain_6_stale_features_of_another_framing_are_not_served(pairs: PairList, settings: FeatureCacheSettings) -> None:
    made = {}
    for name, images in FRAMINGS.items():
        encoder = Shrinking()
        upright = replace(images, random_dihedral=False)
        assert count_right(build(encoder, pairs, settings, upright), pairs, upright) == 9
        made[name] = len(encoder.seen)
    # The two squares look the same under all three; the nearly square one is in the square bucket, cut as the middle is.
    assert made == {"squash": 9, "center_crop": 7, "aspect_buckets": 6}
    finer = replace(BUCKETS, bucket_step=2, random_dihedral=False)
    encoder = Shrinking()
    assert count_right(build(encoder, pairs, settings, finer), pairs, finer) == 9
    assert 0 < len(encoder.seen) < 9


def test_a_broken_off_build_goes_on_with_the_rest_alone(pairs: PairList, settings: FeatureCacheSettings) -> None:
    first = Shrinking(fail_after=7)
    with pytest.raises(KeyboardInterrupt):
        build(first, pairs, settings)
    there = sum(6 for _ in (settings.root or Path()).rglob("*.safetensors"))
    assert there == 18
    second = Shrinking()
    assert count_right(build(second, pairs, settings), pairs) == 72
    assert len(second.seen) == 72 - there
    assert len(set(first.seen) | set(second.seen)) == 72


def test_a_flipped_bit_in_one_of_the_folders_is_found(pairs: PairList, settings: FeatureCacheSettings) -> None:
    features = build(Shrinking(), pairs, settings)
    value = features.read(0, 1)
    assert value is not None
    (path,) = [
        path for path in (settings.root or Path()).rglob("*.safetensors") if value.numpy().tobytes() in path.read_bytes()
    ]
    assert path.parent.name == "shrinking-24x40-float32"
    data = bytearray(path.read_bytes())
    data[data.index(value.numpy().tobytes()) + 2] ^= 4
    path.write_bytes(data)
    with pytest.raises(StorageError, match=r"is not what was written; delete it, and the same command makes its features"):
        build(Shrinking(), pairs, settings).read(0, 1)
    path.unlink()
    encoder = Shrinking()
    assert count_right(build(encoder, pairs, settings), pairs) == 72
    assert len(encoder.seen) == 6


def test_two_processes_share_images_of_many_shapes(pairs: PairList, settings: FeatureCacheSettings) -> None:
    """Each process works when the one before waits for it: the second of its waits is that for what the others make."""
    encoders, found = [Shrinking(), Shrinking()], []

    def start(index: int) -> Callable[[], None]:
        waits = []

        def wait() -> None:
            waits.append(index)
            if len(waits) == 2 and index == 0:
                start(1)()

        def run() -> None:
            found.append(build(encoders[index], pairs, settings, process_index=index, processes=2, wait=wait))

        return run

    start(0)()
    assert [count_right(features, pairs) for features in found] == [72, 72]
    assert sum(len(encoder.seen) for encoder in encoders) == 72
    assert all(0 < len(encoder.seen) < 72 for encoder in encoders)


def test_a_picture_of_another_size_than_its_file_announces_is_left_out(
    pairs: PairList, settings: FeatureCacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(feature_cache, "read_size", lambda data: (40, 40))
    rejects = Rejects(None)
    features = build(Shrinking(), pairs, settings, rejects=rejects)
    assert [row for row in range(9) if features.read(row, 0) is not None] == [2]
    assert rejects.count == 8
    assert rejects.first_reason == "damaged: 50 x 30 pixels, where the file announces 40 x 40"
