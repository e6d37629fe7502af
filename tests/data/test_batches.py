"""Which positions make a batch: images of one shape and captions of about one length put together."""

from __future__ import annotations

from itertools import chain
from pathlib import Path

import pytest
from PIL import Image

from skygen.data.batches import GROUPED_BATCHES, Grouping, GroupKey, Positions, load_batches, load_micro_batches
from skygen.data.framing import ImageSettings
from skygen.data.images import read_sizes
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.seeding import Seeds

WINDOW = 4 * GROUPED_BATCHES


def lengths(position: int) -> int:
    return (position * 7919) % 101


def batches(first: int, last: int, rank: int = 0, processes: int = 1) -> list[list[int]]:
    grouping = Grouping(lambda position: GroupKey(length=lengths(position)), Seeds(3))
    return list(Positions(first, last, 4 // processes, rank, processes, grouping))


def test_a_window_holds_what_it_held_and_its_batches_are_of_one_length() -> None:
    found = batches(0, 2 * GROUPED_BATCHES)
    assert len(found) == 100
    for window in range(2):
        positions = [position for batch in found[window * GROUPED_BATCHES :][:GROUPED_BATCHES] for position in batch]
        assert sorted(positions) == list(range(window * WINDOW, (window + 1) * WINDOW))
    padding = [max(map(lengths, batch)) * len(batch) - sum(map(lengths, batch)) for batch in found]
    ungrouped = [[4 * batch + place for place in range(4)] for batch in range(100)]
    before = [max(map(lengths, batch)) * len(batch) - sum(map(lengths, batch)) for batch in ungrouped]
    assert sum(padding) < 0.1 * sum(before)


def test_the_batches_of_a_window_do_not_come_in_the_order_of_their_length() -> None:
    longest = [max(map(lengths, batch)) for batch in batches(0, GROUPED_BATCHES)]
    assert longest != sorted(longest)
    assert longest[:10] != [max(map(lengths, batch)) for batch in batches(GROUPED_BATCHES, GROUPED_BATCHES + 10)]


def test_any_step_can_be_read_first_and_processes_share_one_order() -> None:
    whole = batches(0, 120)
    assert batches(73, 120) == whole[73:]
    first, second = batches(0, 120, 0, 2), batches(0, 120, 1, 2)
    assert [one + two for one, two in zip(first, second, strict=True)] == whole


@pytest.mark.parametrize("workers", [0, 2])
def test_a_stream_is_grouped_by_the_captions_that_it_draws(world: Path, workers: int) -> None:
    stream = PairStream(read_pairs(world), ImageSettings(resolution=16), CaptionSettings(), Seeds(1), Rejects(None))
    positions = Positions(0, 5, 4, grouping=Grouping.of(stream, by_length=True))
    loaded = list(load_batches(stream, positions, workers))
    drawn = [tuple(len(caption) for caption in batch.captions) for batch in loaded]
    assert drawn == [tuple(stream.length_at(position) for position in batch) for batch in positions]
    assert len(drawn) == 5


SHAPES = ((512, 512), (576, 448), (448, 576), (640, 384), (384, 640))


def keys(position: int) -> GroupKey:
    """Half of the images are squares, one in sixteen is of the rarest shape."""
    return GroupKey(SHAPES[min(4, 8 - (position * 7919 % 256).bit_length())], lengths(position))


def shaped(first: int, last: int, size: int = 8, rank: int = 0, processes: int = 1) -> list[list[int]]:
    return list(Positions(first, last, size // processes, rank, processes, Grouping(keys, Seeds(3))))


@pytest.mark.parametrize("size", [2, 8, 32])
def test_batches_are_of_one_shape_but_for_those_that_share_the_rest(size: int) -> None:
    """Five shapes leave less than five batches over; each window holds what it held."""
    for window in range(4):
        found = shaped(window * GROUPED_BATCHES, (window + 1) * GROUPED_BATCHES, size)
        flat = sorted(position for batch in found for position in batch)
        assert flat == list(range(window * size * GROUPED_BATCHES, (window + 1) * size * GROUPED_BATCHES))
        mixed = [batch for batch in found if len({keys(position).shape for position in batch}) > 1]
        assert len(found) == GROUPED_BATCHES
        assert len(mixed) <= len(SHAPES) - 1
        padding = sum(max(map(lengths, batch)) * size - sum(map(lengths, batch)) for batch in found)
        flat_padding = sum(101 * size - sum(map(lengths, batch)) for batch in found)
        assert padding < 0.35 * flat_padding


def test_an_order_by_shape_is_that_of_any_first_step_and_of_any_number_of_processes() -> None:
    whole = shaped(0, 120)
    assert shaped(73, 120) == whole[73:]
    for processes in (2, 4):
        ranks = [shaped(0, 120, 8, rank, processes) for rank in range(processes)]
        assert [list(chain.from_iterable(parts)) for parts in zip(*ranks, strict=True)] == whole
    first, second = shaped(0, 50, 8, 0, 2), shaped(0, 50, 8, 1, 2)
    alike = [{keys(p).shape for p in one} == {keys(p).shape for p in two} for one, two in zip(first, second, strict=True)]
    assert sum(alike) >= 46  # so that the processes take about the same time


def bucketed(folder: Path, count: int) -> PairStream:
    pairs = []
    for number in range(count):
        path = folder / f"{number}.png"
        Image.new("RGB", [(40, 40), (80, 50), (50, 80), (44, 40)][number % 4]).save(path)
        if number == 5:
            path.write_bytes(b"no image")
        pairs.append(Pair(path.name, path, (f"field {number}",)))
    images = ImageSettings(resolution=32, aspect_buckets=True, bucket_step=8)
    return PairStream(pairs, images, CaptionSettings(), Seeds(2), Rejects(None), sizes=read_sizes(pairs, Rejects(None)))


@pytest.mark.parametrize("workers", [0, 2])
def test_a_round_in_buckets_shows_every_pair_once_in_batches_of_one_shape(tmp_path: Path, workers: int) -> None:
    stream = bucketed(tmp_path, 200)  # a round is a window: 50 batches of 4
    positions = Positions(0, 50, 4, grouping=Grouping.of(stream, by_length=False))
    parts = list(load_micro_batches(stream, positions, workers))
    shown = [key for micro_batch in parts for batch in micro_batch for key in batch.keys]
    assert sorted(shown) == sorted(pair.key for pair in stream.pairs if pair.key != "5.png")
    assert len(parts) == 50
    assert sum(len(micro_batch) == 1 for micro_batch in parts) >= 48  # three shapes
    assert {tuple(batch.pixels.shape[2:]) for micro_batch in parts for batch in micro_batch} == {(32, 32), (24, 40), (40, 24)}
    as_they_come = list(load_micro_batches(stream, Positions(0, 50, 4)))
    assert sum(len(micro_batch) == 1 for micro_batch in as_they_come) < 25


def test_two_processes_read_in_buckets_what_one_does(tmp_path: Path) -> None:
    stream = bucketed(tmp_path, 60)
    alone = Positions(3, 9, 4, grouping=Grouping.of(stream, by_length=True))
    ranks = [Positions(3, 9, 2, rank, 2, Grouping.of(stream, by_length=True)) for rank in range(2)]
    loaded = [load_micro_batches(stream, one) for one in (alone, *ranks)]
    read = [[[key for batch in parts for key in batch.keys] for parts in batches] for batches in loaded]
    assert [sorted(keys) for keys in read[0]] == [sorted(one + two) for one, two in zip(*read[1:], strict=True)]
    assert len(read[0]) == 6


def test_a_stream_of_squares_needs_no_other_order_unless_by_length(world: Path) -> None:
    pairs = read_pairs(world)
    stream = PairStream(pairs, ImageSettings(resolution=16), CaptionSettings(), Seeds(1), Rejects(None))
    assert Grouping.of(stream, by_length=False) is None
    assert Grouping.of(stream, by_length=True) is not None
