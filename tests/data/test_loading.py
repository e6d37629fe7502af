"""The stream of examples has no state: any process, worker and resume sees the same ones at the same place."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from skygen.data.augmentation import dihedral
from skygen.data.batch import Batch
from skygen.data.batches import Positions, collate, load_batches, load_micro_batches
from skygen.data.framing import Framing, ImageSettings, frame
from skygen.data.images import image_to_tensor, open_image, read_sizes
from skygen.data.loading import CaptionSettings, PairStream, fingerprint, resample_systematically
from skygen.data.pair import Pair
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError
from skygen.seeding import Seeds

SMALL = ImageSettings(resolution=16)


@pytest.fixture(scope="module")
def pairs(world: Path) -> list[Pair]:
    return read_pairs(world, split="train")


def stream(
    pairs: Sequence[Pair], images: ImageSettings = SMALL, captions: CaptionSettings | None = None, seed: int = 1
) -> PairStream:
    return PairStream(pairs, images, captions or CaptionSettings(), Seeds(seed), Rejects(None))


def keys(batches: list[Batch]) -> list[str]:
    return [key for batch in batches for key in batch.keys]


def same(first: Batch, second: Batch) -> bool:
    return torch.equal(first.pixels, second.pixels) and (first.captions, first.keys) == (second.captions, second.keys)


def test_any_place_can_be_read_first(pairs: list[Pair]) -> None:
    in_order = stream(pairs)
    walked = [in_order[position] for position in range(130)]
    jumped = stream(pairs)
    assert len(pairs) < 60  # so that position 129 lies in a later shuffle
    for position in (129, 3, 60, 0):
        there, here = jumped[position], walked[position]
        assert there is not None
        assert here is not None
        assert torch.equal(there.pixels, here.pixels)
        assert (there.caption, there.key) == (here.caption, here.key)


def test_every_shuffle_holds_each_pair_once_and_no_two_are_alike(pairs: list[Pair]) -> None:
    count = len(pairs)
    read = keys(list(load_batches(stream(pairs), Positions(0, 3 * count, 1))))
    shuffles = [read[start : start + count] for start in range(0, 3 * count, count)]
    assert [sorted(shuffle) for shuffle in shuffles] == [sorted(pair.key for pair in pairs)] * 3
    assert len({tuple(shuffle) for shuffle in shuffles}) == 3


def test_another_seed_is_another_order(pairs: list[Pair]) -> None:
    orders = [keys(list(load_batches(stream(pairs, seed=seed), Positions(0, 4, 5)))) for seed in (1, 1, 2)]
    assert orders[0] == orders[1] != orders[2]


def test_processes_share_one_order_without_overlap(pairs: list[Pair]) -> None:
    alone = list(load_batches(stream(pairs), Positions(2, 6, batch_size=6)))
    ranks = [list(load_batches(stream(pairs), Positions(2, 6, 2, rank, processes=3))) for rank in range(3)]
    together = [collate_batches(parts) for parts in zip(*ranks, strict=True)]
    assert len(together) == 4
    assert all(same(one, many) for one, many in zip(alone, together, strict=True))
    assert all(len(set(batch.keys)) == 6 for batch in together)


def collate_batches(parts: tuple[Batch, ...]) -> Batch:
    pixels = torch.cat([part.pixels for part in parts])
    captions = tuple(caption for part in parts for caption in part.captions)
    return Batch(pixels, captions, tuple(key for part in parts for key in part.keys))


def test_worker_processes_change_nothing(pairs: list[Pair]) -> None:
    global_state = torch.get_rng_state()
    loaded = [list(load_batches(stream(pairs), Positions(5, 13, 4), workers)) for workers in (0, 2)]
    assert len(loaded[0]) == len(loaded[1]) == 8
    assert all(same(one, other) for one, other in zip(*loaded, strict=True))
    assert torch.equal(torch.get_rng_state(), global_state)


def test_pixels_are_the_picture_turned_in_one_of_eight_ways(pairs: list[Pair], tmp_path: Path) -> None:
    open_image(pairs[0].image).resize((16, 16)).save(tmp_path / "square.png")
    only = replace(pairs[0], image=tmp_path / "square.png")
    whole = image_to_tensor(open_image(only.image))
    turned = {torch.rot90(v, k, (1, 2)).numpy().tobytes() for v in (whole, whole.flip(2)) for k in range(4)}
    examples = [stream([only])[position] for position in range(64)]
    seen = {example.pixels.numpy().tobytes() for example in examples if example is not None}
    assert len(examples) == 64
    assert seen == turned
    plain = stream([only], replace(SMALL, random_dihedral=False))[3]
    assert plain is not None
    assert torch.equal(plain.pixels, whole)
    assert plain.pixels.min() >= -1
    assert plain.pixels.max() <= 1


def test_captions_are_dropped_as_often_as_asked_and_drawn_from_all(pairs: list[Pair]) -> None:
    """Within 4 standard deviations, 0.3 +- 0.065 of 800."""
    several = replace(pairs[0], captions=("a satellite image of a dam", "two"))
    drawn = [
        example.caption
        for example in map(stream([several], captions=CaptionSettings(dropout=0.3)).__getitem__, range(800))
        if example is not None
    ]
    assert len(drawn) == 800
    assert abs(drawn.count("") / 800 - 0.3) < 0.065
    assert abs(drawn.count("two") / 800 - 0.35) < 0.07
    assert set(drawn) == {"", "two", "a satellite image of a dam"}


def test_dropout_changes_no_other_draw(pairs: list[Pair]) -> None:
    """Two runs that differ in dropout alone see the same pixels."""
    kept, dropped = (stream(pairs, captions=CaptionSettings(dropout=share))[7] for share in (0.0, 1.0))
    assert kept is not None
    assert dropped is not None
    assert (kept.caption != "", dropped.caption) == (True, "")
    assert torch.equal(kept.pixels, dropped.pixels)


def test_the_view_prefix_goes_only_when_asked(pairs: list[Pair]) -> None:
    pair = replace(pairs[0], captions=("a satellite image of a dam",))
    captions = [stream([pair], captions=CaptionSettings(strip_prefix=strip))[0] for strip in (True, False)]
    assert [example.caption for example in captions if example is not None] == ["a dam", "a satellite image of a dam"]


def test_the_view_prefix_can_say_how_the_image_was_taken(pairs: list[Pair]) -> None:
    settings = CaptionSettings(view_prefix=True)
    said = []
    for source in ("CH", "S2", None):
        pair = replace(pairs[0], captions=("a satellite image of a dam",), source=source)
        example = stream([pair], captions=settings)[0]
        assert example is not None
        said.append(example.caption)
    assert said == ["An aerial image. It shows: a dam", "A satellite image. It shows: a dam", "a satellite image of a dam"]
    with pytest.raises(ConfigError, match=r"set captions\.strip_prefix to false"):
        CaptionSettings(strip_prefix=True, view_prefix=True)


@pytest.fixture
def damaged(pairs: list[Pair], tmp_path: Path) -> Pair:
    path = tmp_path / "cut.jpg"
    path.write_bytes(pairs[1].image.read_bytes()[:300])
    return replace(pairs[1], key="cut.jpg", image=path)


@pytest.mark.parametrize("workers", [0, 1])
def test_a_bad_image_makes_the_batch_smaller_and_is_noted(
    workers: int, pairs: list[Pair], damaged: Pair, tmp_path: Path
) -> None:
    few = [*pairs[:3], damaged]
    rejects = Rejects(tmp_path / "rejects.jsonl")
    reader = PairStream(few, SMALL, CaptionSettings(), Seeds(1), rejects)
    batches = list(load_batches(reader, Positions(0, 3, 4), workers))
    assert [sorted(batch.keys) for batch in batches] == [sorted(pair.key for pair in pairs[:3])] * 3
    assert [tuple(batch.pixels.shape) for batch in batches] == [(3, 3, 16, 16)] * 3
    assert [len(batch.captions) for batch in batches] == [3, 3, 3]
    lines = (tmp_path / "rejects.jsonl").read_text().splitlines()
    assert len(lines) == 1
    assert '"key": "cut.jpg"' in lines[0]
    assert str(damaged.image) in lines[0]


def test_a_batch_of_bad_images_holds_none(damaged: Pair) -> None:
    (parts,) = load_micro_batches(stream([damaged]), Positions(0, 1, 4))
    assert parts == ()
    assert collate([]) == ()


def test_a_fingerprint_tells_keys_captions_and_order(pairs: list[Pair]) -> None:
    changed = [pairs[1:], pairs[::-1], [replace(pairs[0], captions=("other",)), *pairs[1:]], pairs]
    assert len({fingerprint(some) for some in changed}) == 4
    assert fingerprint(list(pairs)) == fingerprint(pairs)


def weighted(pairs: list[Pair], root: Path, **choice: Any) -> PairList:
    chosen = PairSettings(root, split="train", **choice).read(Rejects(None))
    assert list(chosen) == pairs
    assert chosen.weights is not None
    return chosen


@pytest.mark.parametrize("offset", [0.0, 0.3, 0.5, 0.999])
def test_an_item_is_drawn_as_often_as_its_weight_says_rounded(offset: float) -> None:
    weights = Seeds(5).numpy("weights").exponential(size=500) ** 2
    weights[[0, 3, 499]] = 0.0
    drawn = resample_systematically(weights, offset)
    expected = weights / weights.sum() * 500
    counts = np.bincount(drawn, minlength=500)
    assert len(drawn) == 500
    assert (np.diff(drawn) >= 0).all()
    assert ((counts >= np.floor(expected - 1e-9)) & (counts <= np.ceil(expected + 1e-9))).all()
    assert counts[0] == counts[3] == counts[499] == 0


def test_over_all_offsets_each_item_comes_as_often_as_its_weight_says() -> None:
    """The mean over 1,000 evenly spaced offsets is within 1 / 1,000 of the expectation."""
    weights = Seeds(6).numpy("weights").random(40)
    offsets = (np.arange(1000) + 0.5) / 1000
    counts = np.array([np.bincount(resample_systematically(weights, float(offset)), minlength=40) for offset in offsets])
    np.testing.assert_allclose(counts.mean(0), weights / weights.sum() * 40, atol=0.001)


def test_equal_weights_draw_each_item_once() -> None:
    for count in (1, 7, 1000, 99_991):
        assert resample_systematically(np.full(count, 1 / count), 0.7).tolist() == list(range(count))


@pytest.mark.filterwarnings("ignore:This DataLoader will create 4 worker processes:UserWarning")
def test_weighted_draws_are_the_same_for_any_workers_and_after_a_resume(pairs: list[Pair], world: Path) -> None:
    chosen = weighted(pairs, world, balance="source", caption_temperature=0.5)
    loaded = [list(load_batches(stream(chosen), Positions(0, 24, 5), workers)) for workers in (0, 1, 4)]
    assert [len(batches) for batches in loaded] == [24, 24, 24]
    assert all(same(one, other) for batches in loaded[1:] for one, other in zip(loaded[0], batches, strict=True))
    resumed = list(load_batches(stream(chosen), Positions(17, 24, 5)))
    assert len(resumed) == 7
    assert all(same(one, other) for one, other in zip(loaded[0][17:], resumed, strict=True))
    ranks = [list(load_batches(stream(chosen), Positions(0, 6, 2, rank, processes=2))) for rank in range(2)]
    together = [collate_batches(parts) for parts in zip(*ranks, strict=True)]
    whole = list(load_batches(stream(chosen), Positions(0, 6, 4)))
    assert all(same(one, many) for one, many in zip(whole, together, strict=True))


def test_a_balanced_stream_shows_each_source_equally_often(pairs: list[Pair], world: Path) -> None:
    """To within one draw for each pair, in every round."""
    chosen = weighted(pairs, world, balance="source")
    sources = {pair.key: pair.source for pair in chosen}
    seen = keys(list(load_batches(stream(chosen), Positions(0, len(chosen), 1))))
    drawn, listed = Counter(sources[key] for key in seen), Counter(sources.values())
    assert len(seen) == len(chosen)
    assert len(listed) > 3
    assert max(listed.values()) > 2 * min(listed.values())
    assert all(abs(drawn[source] - len(chosen) / len(listed)) <= 1 for source in listed)
    assert seen != sorted(seen)
    assert fingerprint(chosen) != fingerprint(pairs)


def test_a_list_of_pairs_gives_the_stream_that_its_pairs_give(pairs: list[Pair], world: Path) -> None:
    chosen = PairSettings(world, split="train").read(Rejects(None))
    assert chosen.weights is None
    batches = [list(load_batches(stream(some), Positions(0, 3, 8))) for some in (pairs, chosen)]
    assert all(same(one, other) for one, other in zip(*batches, strict=True))
    assert fingerprint(chosen) == fingerprint(pairs)


def test_a_repeated_caption_counts_once_and_all_distinct_ones_come_along(pairs: list[Pair]) -> None:
    repeated = [replace(pairs[0], captions=("a satellite image of a lake", "a lake", "a lake", "a lake", "a boat"))]
    stripped = stream(repeated, captions=CaptionSettings(strip_prefix=True))
    drawn = Counter(example.caption for position in range(400) if (example := stripped[position]) is not None)
    assert set(drawn) == {"a lake", "a boat"}
    assert 150 < drawn["a lake"] < 250
    first = stripped[0]
    assert first is not None
    assert first.references == ("a lake", "a boat")
    assert stripped.references() == [("a lake", "a boat")]
    assert stream(pairs).references(limit=5) == [tuple(dict.fromkeys(pairs[len(pairs) * i // 5].captions)) for i in range(5)]


def test_an_image_whose_caption_names_a_direction_is_not_turned(pairs: list[Pair]) -> None:
    both = [replace(pairs[0], captions=("a lake in the upper left", "a lake"))]
    as_it_is = image_to_tensor(open_image(pairs[0].image).resize((16, 16), 3))
    looked = stream(both, replace(SMALL, crop=False))
    turned = {"a lake in the upper left": 0, "a lake": 0}
    for position in range(200):
        example = looked[position]
        assert example is not None
        turned[example.caption] += not torch.equal(example.pixels, as_it_is)
    assert turned["a lake in the upper left"] == 0
    assert 60 < turned["a lake"] < 115  # seven of eight


def test_kept_features_stand_for_the_images(pairs: list[Pair]) -> None:
    asked: list[tuple[int, int]] = []

    class Kept:
        def read(self, row: int, variant: int) -> torch.Tensor | None:
            asked.append((row, variant))
            return None if row == 0 else torch.full((2, 3), float(10 * row + variant))

        def framing(self, row: int) -> Framing:
            return frame(open_image(pairs[row].image).size, images)

    images = replace(SMALL, crop=False)
    kept = PairStream(pairs, images, CaptionSettings(), Seeds(1), Rejects(None), Kept())
    looked = PairStream(pairs, images, CaptionSettings(), Seeds(1), Rejects(None))
    positions = Positions(0, 1, len(pairs))
    (batch,) = list(load_batches(kept, positions))
    (pictures,) = list(load_batches(looked, positions))
    assert len(batch.keys) == len(pairs) - 1
    assert [key for key in pictures.keys if key != pairs[0].key] == list(batch.keys)
    assert batch.features is not None and batch.features.shape == (len(pairs) - 1, 2, 3)
    assert batch.pixels.shape == (len(pairs) - 1, 3, 0, 0)
    assert len({variant for _, variant in asked}) > 4
    for row, key in enumerate(batch.keys):  # the same image is turned the same way, whether it is looked at or kept
        place = pictures.keys.index(key)
        source = next(index for index, pair in enumerate(pairs) if pair.key == key)
        variant = int(batch.features[row, 0, 0]) - 10 * source
        square = open_image(pairs[source].image).resize((16, 16), 3)
        assert torch.equal(pictures.pixels[place], image_to_tensor(dihedral(square, variant)))


def in_shapes(folder: Path, count: int) -> list[Pair]:
    """Make pairs of pictures of three proportions, every seventh too damaged to read; captions say how each was taken."""
    pairs = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", [(40, 40), (80, 50), (50, 80)][number % 3], (number % 256, 0, 0)).save(path)
        if number % 7 == 6:
            path.write_bytes(b"no image")
        captions = (f"a satellite image of field {number % 5}", "a lake in the north.") if number % 2 else ("a lake.",)
        time = datetime(2020, 1 + number % 12, 1, tzinfo=UTC)
        pairs.append(Pair(path.name, path, captions, source="US" if number % 4 else None, gsd=1.0, time=time))
    return pairs


BUCKETED = ImageSettings(resolution=32, aspect_buckets=True, bucket_step=8)


def test_each_example_says_how_it_was_framed_and_taken(pairs: list[Pair]) -> None:
    for images in (SMALL, replace(SMALL, random_resized_crop=True), replace(SMALL, center_crop=True), BUCKETED):
        examples = [example for position in range(40) if (example := stream(pairs, images)[position]) is not None]
        assert len(examples) == 40
        for example in examples:
            pair = next(pair for pair in pairs if pair.key == example.key)
            size = open_image(pair.image).size
            assert example.sizes is not None
            assert sorted(example.sizes[:2]) == sorted(size)
            assert example.sizes[4:] == tuple(example.pixels.shape[1:])
            assert example.metadata.source == pair.source
            assert pair.gsd is not None and example.metadata.gsd is not None
            if images.random_resized_crop:
                assert example.metadata.gsd <= pair.gsd * max(size) / 16 + 1e-9
            else:
                assert example.metadata.gsd == pytest.approx(pair.gsd / frame(size, images).scale)
    (batch,) = load_batches(stream(pairs, SMALL), Positions(0, 1, 8))
    assert batch.sizes is not None and (batch.sizes.shape, batch.sizes.dtype) == ((8, 6), torch.float32)
    assert len(batch.metadata) == 8


def test_the_middle_is_shown_each_time_where_that_is_asked_for(pairs: list[Pair], tmp_path: Path) -> None:
    wide = Image.fromarray(Seeds(0).numpy("pixels").integers(0, 256, (16, 90, 3), dtype=np.uint8))
    wide.save(tmp_path / "wide.png")
    only = [replace(pairs[0], image=tmp_path / "wide.png")]
    images = replace(SMALL, center_crop=True, random_dihedral=False)
    middle = image_to_tensor(wide.crop((37, 0, 53, 16)))
    examples = [stream(only, images)[position] for position in range(20)]
    assert all(example is not None and torch.equal(example.pixels, middle) for example in examples)
    assert len({example.sizes for position in range(20) if (example := stream(only, SMALL)[position]) is not None}) > 10


def test_the_shape_of_an_example_is_known_before_its_image_is_opened(tmp_path: Path) -> None:
    pairs = in_shapes(tmp_path, 40)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    sizes = read_sizes(pairs, rejects)
    known = PairStream(pairs, BUCKETED, CaptionSettings(), Seeds(1), rejects, sizes=sizes)
    shapes = Counter[tuple[int, int]]()
    for position in range(200):
        example, (width, height) = known[position], known.shape_at(position)
        assert example is not None or (width, height) == (32, 32)
        if example is not None:
            assert tuple(example.pixels.shape) == (3, height, width)
            shapes[width, height] += 1
    assert sorted(shapes) == [(24, 40), (32, 32), (40, 24)]
    assert min(shapes.values()) > 30
    assert rejects.count == 5
    for image in tmp_path.glob("*.png"):
        image.unlink()
    assert known.shape_at(3) == known.shape_at(3)  # no image is opened
    with pytest.raises(ValueError, match="nothing says how large the images are"):
        stream(pairs, BUCKETED).shape_at(0)
    assert stream(pairs, SMALL).shape_at(0) == (16, 16)
    with pytest.raises(ValueError, match="there are sizes of 3 images and 40 pairs"):
        PairStream(pairs, BUCKETED, CaptionSettings(), Seeds(1), rejects, sizes=sizes[:3])


def test_kept_features_say_the_shape_and_the_framing_too(tmp_path: Path) -> None:
    pairs = in_shapes(tmp_path, 21)
    sizes = read_sizes(pairs, Rejects(None))
    asked = Counter[int]()

    class Kept:
        def read(self, row: int, variant: int) -> torch.Tensor | None:
            asked[row] += 1
            width, height = self.framing(row)._replace(variant=variant).shape if sizes[row, 0] else (0, 0)
            return torch.zeros(8, height // 8, width // 8) if width else None

        def framing(self, row: int) -> Framing:
            assert sizes[row, 0], "an image that could not be read has no framing"
            return frame((int(sizes[row, 0]), int(sizes[row, 1])), BUCKETED)

    settings = CaptionSettings(metadata_suffix=0.5, dropout=0.1)
    kept = PairStream(pairs, BUCKETED, settings, Seeds(1), Rejects(None), Kept())
    looked = PairStream(pairs, BUCKETED, settings, Seeds(1), Rejects(None), sizes=sizes)
    shapes = [kept.shape_at(position) for position in range(84)]
    assert shapes == [looked.shape_at(position) for position in range(84)]
    assert max(asked.values()) == 1  # a row's size is asked for once
    read = 0
    for position in range(84):
        one, other = kept[position], looked[position]
        assert (one is None) == (other is None)
        if one is not None and other is not None:
            assert (one.caption, one.metadata, one.sizes, one.key) == (other.caption, other.metadata, other.sizes, other.key)
            assert one.features is not None and one.features.shape[1:] == (shapes[position][1] // 8, shapes[position][0] // 8)
            read += 1
    assert read == 72
    assert kept.texts() == looked.texts()


def test_captions_end_in_how_the_image_was_taken_as_often_as_asked(tmp_path: Path) -> None:
    """0.4 +- 0.07 of 800 lies within 4 standard deviations."""
    Image.new("RGB", (8, 8)).save(tmp_path / "a.png")
    time = datetime(2019, 6, 3, tzinfo=UTC)
    pair = Pair("a.png", tmp_path / "a.png", ("a pier.",), source="US", gsd=1.0, time=time)
    said = stream([pair], captions=CaptionSettings(metadata_suffix=0.4))
    texts = Counter(example.caption for position in range(800) if (example := said[position]) is not None)
    ending = "a pier, 0.5 m resolution, National Agriculture Imagery Program, June"  # 8 pixels are shown as 16
    assert set(texts) == {"a pier.", ending}
    assert abs(texts[ending] / 800 - 0.4) < 0.07
    unknown = stream([replace(pair, source=None, gsd=None, time=None)], captions=CaptionSettings(metadata_suffix=1.0))[0]
    assert unknown is not None and unknown.caption == "a pier."
    with pytest.raises(ConfigError, match=r"^captions\.metadata_suffix is 1\.5; it is a share and must be in \[0, 1\]$"):
        CaptionSettings(metadata_suffix=1.5)


def test_an_ending_changes_no_other_draw(pairs: list[Pair]) -> None:
    plain, said = (
        [stream(pairs, captions=CaptionSettings(dropout=0.3, metadata_suffix=share))[position] for position in range(60)]
        for share in (0.0, 1.0)
    )
    longer = 0
    for one, other in zip(plain, said, strict=True):
        assert one is not None and other is not None
        assert torch.equal(one.pixels, other.pixels) and (one.key, one.sizes) == (other.key, other.sizes)
        assert other.caption.startswith(one.caption.rstrip(" ."))
        assert (one.caption == "") == (other.caption == "")
        longer += len(other.caption) > len(one.caption)
    assert longer > 30


@pytest.mark.parametrize("images", [BUCKETED, SMALL, replace(SMALL, crop=False)])
@pytest.mark.parametrize(
    "settings",
    [
        CaptionSettings(),
        CaptionSettings(strip_prefix=True, dropout=0.2),
        CaptionSettings(view_prefix=True, metadata_suffix=0.5),
        CaptionSettings(metadata_suffix=1.0, dropout=0.2),
    ],
)
def test_every_text_of_the_stream_is_foreseen_and_no_other(
    images: ImageSettings, settings: CaptionSettings, tmp_path: Path
) -> None:
    pairs = in_shapes(tmp_path, 6)
    sizes = read_sizes(pairs, Rejects(None))
    known = PairStream(pairs, images, settings, Seeds(1), Rejects(None), sizes=sizes)
    listed = PairStream(PairList.of(pairs, tmp_path), images, settings, Seeds(1), Rejects(None), sizes=sizes)
    assert listed.texts() == known.texts()
    drawn = {example.caption for position in range(6 * 40) if (example := known[position]) is not None}
    assert len(known.texts()) == len(set(known.texts()))
    assert set(known.texts()) == drawn
    examples = [known[position] for position in range(50)]
    lengths = [len(example.caption) for example in examples if example is not None]
    assert [known.length_at(position) for position in range(50)] == lengths


def test_texts_that_no_one_can_foresee_are_refused(pairs: list[Pair]) -> None:
    said = CaptionSettings(metadata_suffix=0.5)
    with pytest.raises(ConfigError, match=r"^captions\.metadata_suffix says a resolution .*: set one of them off$"):
        stream(pairs, replace(SMALL, random_resized_crop=True), said).texts()
    with pytest.raises(ValueError, match="nothing says how large the images are"):
        stream(pairs, SMALL, said).texts()


def test_a_window_over_two_rounds_shuffles_neither_of_them_twice(pairs: list[Pair], monkeypatch: pytest.MonkeyPatch) -> None:
    shuffles = Counter[int]()
    drawn = PairStream._draw_epoch

    def counted(self: PairStream, epoch: int) -> Any:
        shuffles[epoch] += 1
        return drawn(self, epoch)

    monkeypatch.setattr(PairStream, "_draw_epoch", counted)
    alternating = stream(pairs)
    for offset in range(10):
        for position in (offset, len(pairs) + offset):
            alternating.length_at(position)
    assert shuffles == {0: 1, 1: 1}
