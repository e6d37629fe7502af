"""Text encoders that wait on the CPU while nobody asks them: a T5 holds more memory than the denoiser that is trained."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, final

import torch
from torch import nn


@final
class TextEncoders:
    """The text encoders of a pipeline, and where they are.

    Args:
        pipeline: of diffusers, its text encoders where they compute.
    """

    def __init__(self, pipeline: Any) -> None:
        self._pipeline = pipeline
        self.away = False

    @property
    def networks(self) -> tuple[nn.Module, ...]:
        """Those that the pipeline has, by their names in order."""
        parts = sorted(self._pipeline.components.items())
        return tuple(part for name, part in parts if name.startswith("text_encoder") and part is not None)

    def offload(self) -> None:
        """Move them to the CPU."""
        self.away = True
        for network in self.networks:
            network.to("cpu")

    @contextmanager
    def brought_to(self, device: torch.device) -> Iterator[None]:
        """Bring them back for a while, where they are away.

        Args:
            device: of the denoiser.
        """
        moved = self.networks if self.away else ()
        try:
            for network in moved:
                network.to(device)
            yield
        finally:
            for network in moved:
                network.to("cpu")
