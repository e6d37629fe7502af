"""What is trained where the denoiser is told how an image was taken: its LoRA, or all of it, and what does the telling."""

from __future__ import annotations

from pathlib import Path
from typing import final

from torch import nn

from skygen.models.adapters import Trained
from skygen.models.diffusions.metadata import MetadataConditioner


@final
class ToldDenoiser:
    """The trained part of a denoiser together with its metadata conditioner, saved in one folder.

    Args:
        trained: the LoRA, or the whole model.
        conditioner: attached to the same denoiser.
    """

    def __init__(self, trained: Trained, conditioner: MetadataConditioner) -> None:
        self._trained = trained
        self._conditioner = conditioner

    @property
    def folder_name(self) -> str:
        """Below the run's folder."""
        return self._trained.folder_name

    @property
    def parameters(self) -> dict[str, nn.Parameter]:
        """The trained parameters by name, in a fixed order."""
        return {**self._trained.parameters, **self._conditioner.trained_parameters}

    def save(self, folder: Path) -> None:
        """Write both, see ``Trained.save``."""
        self._trained.save(folder)
        self._conditioner.save(folder)

    def start_from(self, folder: Path, name: str) -> None:
        """Take over the values of both, see ``Trained.start_from``."""
        self._trained.start_from(folder, name)
        self._conditioner.start_from(folder)
