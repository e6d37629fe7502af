"""FID's Inception without its published weights, for tests."""

from __future__ import annotations

import io

import torch
from torchmetrics.image.fid import NoTrainInceptionV3


class UntrainedInception(NoTrainInceptionV3):  # type: ignore[misc]
    """The network as its constructor leaves it when nothing is loaded."""

    def __init__(self) -> None:
        empty = io.BytesIO()
        torch.save({}, empty)  # noqa: TID251  # the constructor insists on a file
        empty.seek(0)
        super().__init__("inception-v3-compat", ["2048"], empty)

    def load_state_dict(self, *_: object, **__: object) -> None:
        return None
