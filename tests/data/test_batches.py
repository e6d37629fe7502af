"""Which positions make a batch, and captions of about one length put together."""

from __future__ import annotations

from pathlib import Path

import pytest

from skygen.data.batches import GROUPED_BATCHES, Grouping, Positions, load_batches
from skygen.data.framing import ImageSettings
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.seeding import Seeds

WINDOW = 4 * GROUPED_BATCHES


def lengths(position: int) -> int:
    return (position * 7919) % 101


def batches(first: int, last: int, rank: int = 0, processes: int = 1) -> list[list[int]]:
    grouping = Grouping(lengths, Seeds(3))
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
    positions = Positions(0, 5, 4, grouping=Grouping(stream.length_at, stream.seeds))
    loaded = list(load_batches(stream, positions, workers))
    drawn = [tuple(len(caption) for caption in batch.captions) for batch in loaded]
    assert drawn == [tuple(stream.length_at(position) for position in batch) for batch in positions]
    assert len(drawn) == 5
