"""From the stream of pairs to batches: which positions a process reads, and the loader that reads them."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from itertools import chain, groupby
from signal import SIG_IGN, SIGTERM, SIGUSR1, signal
from typing import NamedTuple

import numpy as np
import torch
from torch.utils.data import DataLoader, Sampler

from skygen.data.batch import Batch, Example
from skygen.data.framing import Size
from skygen.data.loading import PairStream
from skygen.seeding import Seeds

GROUPED_BATCHES = 50
"""Batches of all processes that are sorted by shape and length together."""


class GroupKey(NamedTuple):
    """What examples are put together by.

    Args:
        shape: width and height; those of one shape make whole batches.
        length: of the caption, in any unit.
    """

    shape: Size = (0, 0)
    length: int = 0


@dataclass(slots=True)
class Grouping:
    """The stream in another order: images of one shape come together, and captions of about one length.

    Each window of fifty batches (of all processes together) is sorted by shape and length and cut into batches, which are then
    shuffled. Each shape first fills as many batches as it can; what is left of all of them shares the last ones. What a window
    holds stays the same, so that a round still shows every pair once; and an order is a function of its window alone, so that
    any step can be read first.

    Args:
        key_at: shape and length of the example at a position.
        seeds: of the run; the order of the batches in a window follows from them.
    """

    key_at: Callable[[int], GroupKey]
    seeds: Seeds
    _window: tuple[int, list[int]] = field(default=(-1, []))

    @classmethod
    def of(cls, stream: PairStream, *, by_length: bool) -> Grouping | None:
        """Make the order that a stream needs; None where its own will do: all images are of one shape.

        Args:
            stream: whose examples are grouped by their shape, where they have several.
            by_length: group by the length of the captions too.
        """
        if not (by_length or stream.images.aspect_buckets):
            return None

        def key_at(position: int) -> GroupKey:
            return GroupKey(stream.shape_at(position), stream.length_at(position) if by_length else 0)

        return cls(key_at, stream.seeds)

    def positions(self, places: range, batch_size: int) -> list[int]:
        """Return the stream positions that stand at consecutive places of this order.

        Args:
            places: in one batch.
            batch_size: of all processes together.
        """
        window, first = divmod(places.start, batch_size * GROUPED_BATCHES)
        if self._window[0] != window:
            self._window = (window, self._order(window, batch_size))
        return self._window[1][first : first + len(places)]

    def _order(self, window: int, batch_size: int) -> list[int]:
        start = window * batch_size * GROUPED_BATCHES
        keys = {position: self.key_at(position) for position in range(start, start + batch_size * GROUPED_BATCHES)}
        whole, rest = [], []
        for _, group in groupby(sorted(keys, key=keys.__getitem__), lambda position: keys[position].shape):
            alike = list(group)
            filled = len(alike) // batch_size * batch_size
            whole += alike[:filled]
            rest += alike[filled:]
        batches = np.array(whole + rest).reshape(GROUPED_BATCHES, batch_size)
        shuffled = self.seeds.numpy("batches", window).permutation(batches)  # rows change places, none is taken apart
        return [int(position) for position in shuffled.flatten()]


@dataclass(frozen=True, slots=True)
class Positions(Sampler[list[int]]):
    """The stream positions that one process reads, a micro-batch at a time.

    Args:
        first: number of the first micro-batch, counted over the whole run.
        last: one past the number of the last.
        batch_size: images in a micro-batch of one process.
        rank: of this process.
        processes: in all.
        grouping: puts images of one shape and captions of about one length together; without it the order is the stream's.
    """

    first: int
    last: int
    batch_size: int
    rank: int = 0
    processes: int = 1
    grouping: Grouping | None = None

    def __iter__(self) -> Iterator[list[int]]:
        for micro_batch in range(self.first, self.last):
            start = (micro_batch * self.processes + self.rank) * self.batch_size
            places = range(start, start + self.batch_size)
            if self.grouping is None:
                yield list(places)
            else:
                yield self.grouping.positions(places, self.batch_size * self.processes)

    def __len__(self) -> int:
        return max(0, self.last - self.first)


def collate(examples: Sequence[Example | None]) -> tuple[Batch, ...]:
    """Stack the examples that could be read, those of one shape together; none where not one could be read.

    Images of several shapes can meet in a micro-batch; each shape is a batch of its own, so that nothing is cut or left out.
    """
    shapes: dict[tuple[int, ...], list[Example]] = {}
    for example in examples:
        if example is not None:
            shape = example.pixels.shape if example.features is None else example.features.shape
            shapes.setdefault(tuple(shape), []).append(example)
    return tuple(_stack(alike) for alike in shapes.values())


def _stack(examples: Sequence[Example]) -> Batch:
    features = [example.features for example in examples if example.features is not None]
    sizes = [example.sizes for example in examples if example.sizes is not None]
    return Batch(
        torch.stack([example.pixels for example in examples]),
        tuple(example.caption for example in examples),
        tuple(example.key for example in examples),
        torch.stack(features) if features else None,
        tuple(example.references for example in examples),
        tuple(example.metadata for example in examples),
        torch.tensor(sizes, dtype=torch.float32) if sizes else None,
    )


def load_batches(stream: PairStream, positions: Positions, workers: int = 0) -> Iterator[Batch]:
    """Read the images at ``positions``, in order, with any number of worker processes; each batch is of one shape."""
    return chain.from_iterable(load_micro_batches(stream, positions, workers))


def load_micro_batches(stream: PairStream, positions: Positions, workers: int = 0) -> DataLoader[tuple[Batch, ...]]:
    """Read the micro-batches at ``positions``, in order, with any number of worker processes; see ``collate`` for the parts."""
    return DataLoader(
        stream,  # type: ignore[arg-type]  # an endless map-style dataset, addressed by position
        batch_sampler=positions,
        num_workers=workers,
        collate_fn=collate,
        worker_init_fn=_ignore_stop_signals,
        pin_memory=torch.cuda.is_available(),
        generator=torch.Generator(),  # else the loader would draw from, and so move, the global generator
    )


def _ignore_stop_signals(worker: int) -> None:
    """Leave SIGTERM to the training process: schedulers send it to all, and without its workers it could not end its step."""
    signal(SIGTERM, SIG_IGN)
    signal(SIGUSR1, SIG_IGN)
