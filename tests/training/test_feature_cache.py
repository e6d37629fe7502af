"""What a frozen encoder says of an image is computed once, and is what the encoder would have said."""

from __future__ import annotations

import logging
import pickle
import shutil
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor
from training.small_pictures import lay_pictures, list_pictures

from skygen.data.augmentation import dihedral
from skygen.data.batches import Positions, load_batches
from skygen.data.framing import ImageSettings
from skygen.data.images import fit_image, image_to_tensor, open_image
from skygen.data.loading import CaptionSettings, PairStream, StoredFeatures
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects, read_rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError, DataError, StorageError
from skygen.models.adapters import LoraSettings
from skygen.models.captioner import Captioner
from skygen.seeding import Seeds
from skygen.training import feature_cache, store_filling
from skygen.training.feature_cache import CachedFeatures, FeatureCacheSettings, build_features

UPRIGHT = ImageSettings(resolution=16, crop=False, random_dihedral=False)
TURNED = replace(UPRIGHT, random_dihedral=True)


class PatchMeans:
    """An encoder of 16 patches that counts the images it sees; the grey one that shows the shape does not count."""

    def __init__(self, fingerprint: str = "first", fail_after: int | None = None, factor: float = 1.0) -> None:
        self.fingerprint, self.fail_after, self.factor = fingerprint, fail_after, factor
        self.seen: list[bytes] = []
        self.batches: list[int] = []

    def encode(self, pixels: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        if pixels.any():
            if self.fail_after is not None and len(self.batches) == self.fail_after:
                raise KeyboardInterrupt
            self.batches.append(len(pixels))
            self.seen += [image.numpy().tobytes() for image in pixels]
        return torch.nn.functional.avg_pool2d(pixels, 4).flatten(2).transpose(1, 2) * self.factor

    def encoder_fingerprint(self) -> str:
        return self.fingerprint


@pytest.fixture
def pairs(tmp_path: Path) -> PairList:
    """12 images, no two of them alike, and none alike when turned."""
    return lay_pictures(tmp_path / "data", [(30, 20 + number) for number in range(12)])


@pytest.fixture
def settings(tmp_path: Path) -> FeatureCacheSettings:
    return FeatureCacheSettings(tmp_path / "features", "float32", shard_size=4, batch_size=3)


def build(
    encoder: Any,
    pairs: Sequence[Pair],
    settings: FeatureCacheSettings,
    images: ImageSettings = UPRIGHT,
    rejects: Rejects | None = None,
    **more: Any,
) -> CachedFeatures:
    return build_features(encoder, pairs, images, settings, rejects or Rejects(None), device="cpu", **more)


def expected(pair: Pair, variant: int = 0) -> Tensor:
    square = dihedral(fit_image(open_image(pair.image), 16, mode="squash"), variant)
    with torch.no_grad():
        return PatchMeans().encode(image_to_tensor(square)[None])[0]


def count_right(features: StoredFeatures, pairs: Sequence[Pair], variants: int = 1) -> int:
    """Check all features against the encoder, bit for bit, and count them."""
    right = 0
    for row, pair in enumerate(pairs):
        for variant in range(variants):
            found = features.read(row, variant)
            right += found is not None and torch.equal(found, expected(pair, variant))
    return right


@pytest.mark.parametrize("workers", [0, 2])
def test_every_image_is_encoded_once_and_read_bit_for_bit(
    pairs: PairList, settings: FeatureCacheSettings, workers: int
) -> None:
    encoder = PatchMeans()
    features = build(encoder, pairs, settings, workers=workers)
    assert isinstance(features, StoredFeatures)
    assert len(encoder.seen) == len(set(encoder.seen)) == 12
    assert max(encoder.batches) == 3
    assert count_right(features, pairs) == 12
    assert len(list(features.stores[0].folder.iterdir())) == 3  # shards of four
    again = PatchMeans()
    assert count_right(build(again, pairs, settings), pairs) == 12
    assert again.seen == []


@pytest.mark.parametrize(("change", "variants"), [("random_dihedral", 8), ("random_rotation", 4)])
def test_every_variant_is_kept(pairs: PairList, settings: FeatureCacheSettings, change: Any, variants: int) -> None:
    encoder = PatchMeans()
    features = build(encoder, pairs, settings, replace(UPRIGHT, **{change: True}))
    assert len(set(encoder.seen)) == len(encoder.seen) == 12 * variants
    assert count_right(features, pairs, variants) == 12 * variants
    with pytest.raises(IndexError):
        features.read(0, variants)


def test_an_image_is_decoded_once_for_all_its_variants(
    pairs: PairList, settings: FeatureCacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    opened = []

    def counting(data: bytes) -> Image.Image:
        opened.append(data)
        return open_image(data)

    monkeypatch.setattr(feature_cache, "open_image", counting)
    build(PatchMeans(), pairs, settings, TURNED)
    assert len(opened) == len(set(opened)) == 12


def test_the_stream_reads_what_the_encoder_makes_of_its_pixels(pairs: PairList, settings: FeatureCacheSettings) -> None:
    """The transform is that of ``PairStream``, turned variants included."""
    features = build(PatchMeans(), pairs, settings, TURNED)
    streams = [
        PairStream(pairs, TURNED, CaptionSettings(), Seeds(1), Rejects(None), kept) for kept in (None, pickled(features))
    ]
    compared = 0
    for with_pixels, with_features in zip(*[load_batches(stream, Positions(0, 20, 5), 1) for stream in streams], strict=True):
        assert with_pixels.keys == with_features.keys
        assert with_features.features is not None
        with torch.no_grad():
            assert torch.equal(PatchMeans().encode(with_pixels.pixels), with_features.features)
        compared += len(with_pixels.keys)
    assert compared == 100


def pickled(features: CachedFeatures) -> CachedFeatures:
    copy: CachedFeatures = pickle.loads(pickle.dumps(features))  # noqa: TID251  # what a DataLoader does
    return copy


def test_a_broken_off_build_goes_on_from_the_shards_that_are_there(pairs: PairList, settings: FeatureCacheSettings) -> None:
    first = PatchMeans(fail_after=5)  # batches of 3 and 1 make a shard of 4
    with pytest.raises(KeyboardInterrupt):
        build(first, pairs, settings)
    assert len(first.seen) == 11
    second = PatchMeans()
    assert count_right(build(second, pairs, settings), pairs) == 12
    assert len(second.seen) == 4  # the shard that was not written
    assert set(second.seen) | set(first.seen[:8]) == {image_to_tensor(fit(pair)).numpy().tobytes() for pair in pairs}


def fit(pair: Pair) -> Image.Image:
    return fit_image(open_image(pair.image), 16, mode="squash")


def test_pain_6_stale_features_of_an_image_of_which_one_pixel_has_changed_are_not_served(
    pairs: PairList, settings: FeatureCacheSettings
) -> None:
    build(PatchMeans(), pairs, settings)
    before = expected(pairs[3])
    picture = open_image(pairs[3].image)
    picture.putpixel((0, 0), tuple(255 - value for value in picture.getpixel((0, 0))))  # type: ignore[union-attr]
    picture.save(pairs[3].image)
    encoder = PatchMeans()
    features = build(encoder, pairs, settings)
    assert len(encoder.seen) == 1
    assert count_right(features, pairs) == 12
    assert not torch.equal(expected(pairs[3]), before)


@pytest.mark.parametrize("what", ["encoder", "dtype", "resolution"])
def test_pain_6_stale_features_of_another_encoder_dtype_or_resolution_are_not_served(
    pairs: PairList, settings: FeatureCacheSettings, what: str
) -> None:
    build(PatchMeans(), pairs, settings)
    encoder = PatchMeans("second" if what == "encoder" else "first")
    images = replace(UPRIGHT, resolution=32) if what == "resolution" else UPRIGHT
    build(encoder, pairs, replace(settings, dtype="float16") if what == "dtype" else settings, images)
    assert len(encoder.seen) == 12
    unchanged = PatchMeans()
    assert count_right(build(unchanged, pairs, settings), pairs) == 12
    assert unchanged.seen == []


def test_more_variants_need_only_those_that_are_new(pairs: PairList, settings: FeatureCacheSettings) -> None:
    build(PatchMeans(), pairs, settings)
    encoder = PatchMeans()
    assert count_right(build(encoder, pairs, settings, TURNED), pairs, 8) == 96
    assert len(encoder.seen) == 84


def test_equal_images_under_two_paths_are_kept_once(pairs: PairList, settings: FeatureCacheSettings) -> None:
    shutil.copy(pairs[0].image, pairs[0].image.with_name("copy.png"))
    more = list_pictures(pairs[0].image.parent)
    encoder = PatchMeans()
    features = build(encoder, more, settings)
    assert len(more) == 13
    assert len(encoder.seen) == len(features.stores[0]) == 12
    assert count_right(features, more) == 13


@pytest.mark.parametrize(("dtype", "itemsize"), [("bfloat16", 2), ("float16", 2), ("float32", 4)])
def test_values_are_rounded_to_the_dtype_that_is_asked_for(
    pairs: PairList, settings: FeatureCacheSettings, dtype: Any, itemsize: int
) -> None:
    features = build(PatchMeans(), pairs, replace(settings, dtype=dtype))
    found = features.read(2, 0)
    assert found is not None
    assert torch.equal(found, expected(pairs[2]).to(getattr(torch, dtype)))
    assert found.element_size() == itemsize


def test_images_that_cannot_be_read_are_noted_once_and_stay_none(
    pairs: PairList, settings: FeatureCacheSettings, tmp_path: Path
) -> None:
    pairs[1].image.unlink()
    data = pairs[2].image.read_bytes()
    for row in (2, 5):  # the same damaged bytes twice
        pairs[row].image.write_bytes(data[: len(data) // 2])
    rejects = Rejects(tmp_path / "rejects.jsonl")
    for _ in range(2):
        features = build(PatchMeans(), pairs, settings, TURNED, rejects)
        assert [row for row in range(12) if features.read(row, 7) is None] == [1, 2, 5]
    noted = {entry.key: (entry.reason, entry.where) for entry in read_rejects(tmp_path / "rejects.jsonl")}
    assert len(list(read_rejects(tmp_path / "rejects.jsonl"))) == len(noted) == 3
    assert noted["01.png"] == ("missing: no such file", str(pairs[1].image))
    truncated = "truncated: the file ends before the picture does"
    assert noted["02.png"] == (truncated, str(pairs[2].image))
    assert noted["05.png"] == (truncated, str(pairs[5].image))


def test_nothing_but_unreadable_images_is_no_failure_of_its_own(pairs: PairList, settings: FeatureCacheSettings) -> None:
    for pair in pairs:
        pair.image.unlink()
    rejects = Rejects(None)
    features = build(PatchMeans(), pairs, settings, TURNED, rejects)
    assert rejects.count == 12
    assert [features.read(row, 3) for row in range(12)] == [None] * 12


def test_an_image_that_changes_between_the_two_looks_is_left_out(pairs: PairList, settings: FeatureCacheSettings) -> None:
    def change() -> None:
        shutil.copy(pairs[0].image, pairs[4].image)

    rejects = Rejects(None)
    features = build(PatchMeans(), pairs, settings, rejects=rejects, wait=change)
    assert features.read(4, 0) is None
    assert rejects.first_reason == "changed while its features were made"
    assert count_right(features, pairs) == 11


def test_pairs_that_stay_upright_are_kept_as_they_are_alone(pairs: PairList, settings: FeatureCacheSettings) -> None:
    shutil.copy(pairs[0].image, pairs[11].image)  # one image with a caption that allows turning, and one that does not
    upright = np.array([True] * 6 + [False] * 6)
    encoder = PatchMeans()
    features = pickled(build(encoder, pairs, settings, TURNED, only_upright=upright))
    assert len(encoder.seen) == len(set(encoder.seen)) == 5 + 6 * 8
    assert count_right(features, pairs[:6]) == 6
    assert sum(features.read(row, 7) is not None for row in range(6, 12)) == 6
    for row in range(6):
        with pytest.raises(ValueError, match=rf"^row {row}, variant 1: this pair is kept upright only, as variant 0$"):
            features.read(row, 1)


@pytest.mark.parametrize("processes", [2, 3])
def test_processes_share_the_images_without_overlap(pairs: PairList, settings: FeatureCacheSettings, processes: int) -> None:
    """Each process works when the one before waits for it: the second of its waits is that for what the others make."""
    encoders = [PatchMeans() for _ in range(processes)]
    found = [features for features in in_turn(encoders, pairs, settings) if features is not None]
    assert len(found) == processes
    assert sum(len(encoder.seen) for encoder in encoders) == len({one for each in encoders for one in each.seen}) == 96
    assert all(0 < len(encoder.seen) < 96 for encoder in encoders)
    assert [count_right(features, pairs, 8) for features in found] == [96] * processes


def in_turn(
    encoders: Sequence[PatchMeans], pairs: PairList, settings: FeatureCacheSettings, rejects: Rejects | None = None
) -> list[CachedFeatures]:
    found: list[CachedFeatures] = []

    def start(index: int) -> Callable[[], None]:
        waits = []

        def wait() -> None:
            waits.append(index)
            if len(waits) == 2 and index + 1 < len(encoders):
                start(index + 1)()

        def run() -> None:
            more = {"process_index": index, "processes": len(encoders), "wait": wait}
            found.append(build(encoders[index], pairs, settings, TURNED, rejects, **more))

        return run

    start(0)()
    return found


def test_what_one_process_cannot_decode_is_known_to_all(pairs: PairList, settings: FeatureCacheSettings) -> None:
    for row in range(12):
        if row % 4 == 0:
            pairs[row].image.write_bytes(b"no picture" + bytes([row]))
    rejects = Rejects(None)
    found = in_turn([PatchMeans(), PatchMeans()], pairs, settings, rejects)
    assert len(found) == 2
    for features in found:
        assert [row for row in range(12) if features.read(row, 0) is None] == [0, 4, 8]
    assert rejects.count == 3


def test_a_flipped_bit_in_a_shard_is_found(pairs: PairList, settings: FeatureCacheSettings) -> None:
    features = build(PatchMeans(), pairs, settings)
    path = next(features.stores[0].folder.iterdir())
    data = bytearray(path.read_bytes())
    values = [bytes(memoryview(expected(pair).numpy().tobytes())) for pair in pairs]
    (row, *_) = [row for row, value in enumerate(values) if value in data]
    data[data.index(values[row]) + 2] ^= 4
    path.write_bytes(data)
    features = build(PatchMeans(), pairs, settings)
    with pytest.raises(
        StorageError, match=r"is not what was written; delete it, and the same command makes its features again\.$"
    ):
        features.read(row, 0)
    path.unlink()
    encoder = PatchMeans()
    assert count_right(build(encoder, pairs, settings), pairs) == 12
    assert len(encoder.seen) == 4


def test_a_truncated_shard_is_made_again(
    pairs: PairList, settings: FeatureCacheSettings, caplog: pytest.LogCaptureFixture
) -> None:
    features = build(PatchMeans(), pairs, settings)
    path = next(features.stores[0].folder.iterdir())
    path.write_bytes(path.read_bytes()[:-100])
    encoder = PatchMeans()
    with caplog.at_level(logging.WARNING, logger="skygen"):
        features = build(encoder, pairs, settings)
    assert len(encoder.seen) == 4
    assert count_right(features, pairs) == 12
    assert sum(str(path) in message for message in caplog.messages) == 1
    assert len(list(features.stores[0].folder.iterdir())) == 3  # in the place of the damaged one


@pytest.mark.parametrize(
    ("change", "name", "mend"),
    [
        ({"crop": True}, "crop", "set --images.center_crop true, --images.crop false or --images.aspect_buckets true"),
        ({"random_resized_crop": True}, "random_resized_crop", "set it to false"),
        ({"crop": True, "random_resized_crop": True}, "random_resized_crop", "set it to false"),
        ({"color_jitter": 0.2}, "color_jitter", "set it to 0"),
        ({"crop": True, "center_crop": True, "color_jitter": 0.2}, "color_jitter", "set it to 0"),
    ],
)
def test_what_is_random_cannot_be_kept(
    pairs: PairList, settings: FeatureCacheSettings, change: dict[str, Any], name: str, mend: str
) -> None:
    encoder = PatchMeans()
    with pytest.raises(ConfigError) as refusal:
        build(encoder, pairs, settings, replace(TURNED, **change))
    assert str(refusal.value) == (f"--images.{name} is random and cannot be kept: {mend}, or leave --features.root out.")
    assert encoder.seen == []


def test_settings_that_make_no_sense_are_refused(pairs: PairList, settings: FeatureCacheSettings) -> None:
    for bad in ({"shard_size": 0}, {"batch_size": 0}):
        with pytest.raises(ConfigError, match=r"^features\.shard_size and features\.batch_size must be at least 1$"):
            FeatureCacheSettings(**bad)
    for root, images in ((None, UPRIGHT), (settings.root, replace(UPRIGHT, resolution=0))):
        with pytest.raises(ConfigError, match=r"^--features\.root and a resolution must be set"):
            build(PatchMeans(), pairs, replace(settings, root=root), images)


def test_too_little_room_is_refused_before_anything_is_built(
    pairs: PairList, settings: FeatureCacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(shutil, "disk_usage", lambda place: shutil._ntuple_diskusage(10**6, 10**6 - 9_000, 9_000))
    encoder = PatchMeans()
    with pytest.raises(StorageError) as refusal:
        build(encoder, pairs, settings, TURNED)
    assert str(refusal.value) == (
        f"{settings.root}: 22.3 kB are needed and 9 kB are free; free disk space, choose another "
        "--features.root or fewer pairs, or turn --images.random_dihedral off."
    )
    assert encoder.seen == []
    assert not (settings.root or Path()).exists()
    assert count_right(build(encoder, pairs, settings), pairs) == 12  # one variant finds room


def test_sizes_are_said_before_and_speed_after(
    pairs: PairList, settings: FeatureCacheSettings, caplog: pytest.LogCaptureFixture
) -> None:
    build(PatchMeans(), pairs, settings)
    caplog.clear()
    shown: list[tuple[int, int]] = []
    with caplog.at_level(logging.INFO, logger="skygen"):
        build(PatchMeans(), pairs, settings, TURNED, progress=lambda done, total: shown.append((done, total)))
    before, after = caplog.messages
    assert before.startswith(
        "features: 12 images, 96 with their turned variants, 12 are there; 19.5 kB of 22.3 kB are missing, "
    )
    assert before.endswith(" are free")
    assert after.startswith("features: made 84 in ")
    assert after.endswith(" images a second")
    assert shown[:2] == [(12, 12), (0, 84)]
    assert shown[-1] == (84, 84)
    assert [done for done, _ in shown[1:]] == sorted(done for done, _ in shown[1:])


def test_pain_1_features_that_are_not_finite_are_refused_and_the_file_is_named(
    pairs: PairList, settings: FeatureCacheSettings
) -> None:
    huge = PatchMeans(factor=1e6)  # more than float16's 65,504
    with pytest.raises(DataError) as refusal:
        build(huge, pairs, replace(settings, dtype="float16"))
    assert str(refusal.value) == (f"{pairs[0].image}: its features are too large for float16; set --features.dtype to float32.")
    assert build(huge, pairs, settings).read(0, 0) is not None

    class Overflowing(PatchMeans):
        """What an autoencoder does whose activations overflow: black pictures."""

        def encode(self, pixels: Tensor) -> Tensor:
            features = super().encode(pixels)
            return features.masked_fill(torch.tensor(len(self.seen) == 6), torch.nan)

    broken = Overflowing("broken")
    with pytest.raises(DataError) as refusal:
        build(broken, pairs, replace(settings, batch_size=1))
    assert str(refusal.value) == (
        f"{pairs[5].image}: the encoder gives features that are not finite numbers; leave it out of the data, or use weights "
        "that compute in float32."
    )
    mended = PatchMeans("broken")
    assert count_right(build(mended, pairs, settings), pairs) == 12
    assert len(mended.seen) == 8  # the shard before it was kept


def test_shards_are_not_larger_than_a_limit_in_bytes(
    pairs: PairList, settings: FeatureCacheSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(store_filling, "SHARD_BYTES", 500)  # 232 bytes an image: two
    features = build(PatchMeans(), pairs, replace(settings, shard_size=1024))
    assert len(list(features.stores[0].folder.iterdir())) == 6
    assert count_right(features, pairs) == 12


def test_a_copy_for_a_worker_is_small(pairs: PairList, settings: FeatureCacheSettings) -> None:
    features = build(PatchMeans(), pairs, settings, TURNED)
    features.read(0, 0)
    assert (
        len(pickle.dumps(features)) < 8 * 96 + 8 * 12 + 24 * 150
    )  # a slot a variant, a size a pair, and a name a shard: no keys, no files
    assert features.slots.dtype == np.int64
    assert count_right(pickled(features), pairs, 8) == 96


def test_a_captioner_learns_the_same_from_kept_features(
    captioner_folder: Path, pairs: PairList, settings: FeatureCacheSettings
) -> None:
    captioner = Captioner.load(str(captioner_folder))
    for weight in captioner.network.vision_model.parameters():
        if weight.ndim > 1:  # BLIP's own initial values are of the order of 1e-10: it would see no image
            weight.data = torch.randn(weight.shape, generator=Seeds(0).generator("tower")) * 0.1
    captioner.attach(LoraSettings(rank=2), Seeds(0))
    images = replace(TURNED, resolution=captioner.resolution)
    features = build(captioner, pairs, settings, images)
    streams = [PairStream(pairs, images, CaptionSettings(), Seeds(1), Rejects(None), kept) for kept in (None, features)]
    seen, kept = (next(iter(load_batches(stream, Positions(0, 1, 12)))) for stream in streams)
    assert kept.features is not None
    assert torch.allclose(kept.features, captioner.encode(seen.pixels), atol=1e-5)  # of other batches
    generator = Seeds(0).generator("unused")
    other = replace(kept, features=kept.features.roll(1, 0))
    from_pixels, from_features, from_others = (captioner.loss(batch, generator) for batch in (seen, kept, other))
    assert torch.allclose(from_features, from_pixels, atol=1e-5)
    assert not torch.allclose(from_others, from_pixels, atol=2e-3)  # whose image it is makes a difference
    assert captioner.loss(seen, generator).requires_grad
    again = PatchMeans(captioner.encoder_fingerprint())
    build(again, pairs, settings, images)
    assert again.seen == []  # all were there under the captioner's fingerprint
