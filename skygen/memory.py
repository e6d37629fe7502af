"""Memory: work is done in parts that fit into it, whatever was asked for."""

from __future__ import annotations

import gc
import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import TypeVar, final

import torch

from skygen.errors import ConfigError

_LOG = logging.getLogger("skygen")
Job = TypeVar("Job")
Result = TypeVar("Result")


@final
@dataclass(slots=True)
class Parts:
    """How many pictures a model works on at a time; half as many from where memory does not suffice.

    Args:
        size: at most so many, at least 1.
    """

    size: int

    def work(self, do: Callable[[Sequence[Job]], Sequence[Result]], jobs: Sequence[Job]) -> list[Result]:
        """Return what ``do`` makes of all jobs, in their order.

        Args:
            do: makes one result a job, whatever else is among them.
            jobs: any number.

        Raises:
            ConfigError: memory does not suffice for one job alone.
        """
        results: list[Result] = []
        while len(results) < len(jobs):
            part = jobs[len(results) : len(results) + self.size]
            done = self._try(do, part)
            if done is None:
                self._halve()
            else:
                results += done
        return results

    def _try(self, do: Callable[[Sequence[Job]], Sequence[Result]], part: Sequence[Job]) -> Sequence[Result] | None:
        try:
            return do(part)
        except (RuntimeError, MemoryError) as error:
            if not is_out_of_memory(error):
                raise
        return None

    def _halve(self) -> None:
        """Take half as many; to be called when the error, whose traceback holds on to tensors, is gone."""
        if self.size == 1:
            raise ConfigError(
                "out of memory with one picture at a time: take a smaller --generation.resolution or model, or a device with "
                "more memory."
            )
        _LOG.warning(f"out of memory with {self.size} pictures at a time; going on with {self.size // 2}")
        self.size //= 2
        release_memory()


def release_memory() -> None:
    """Let go of what nothing refers to any more; to be called when the error, whose traceback refers to tensors, is gone."""
    gc.collect()
    if torch.cuda.is_available():
        torch.cuda.empty_cache()


def is_out_of_memory(error: BaseException) -> bool:
    """Say whether memory, of the machine or of the device, did not suffice."""
    words = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or "out of memory" in words or "DefaultCPUAllocator" in words
