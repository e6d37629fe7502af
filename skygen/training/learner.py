"""What the training loop asks of a model."""

from __future__ import annotations

from typing import Protocol, runtime_checkable

import torch
from jaxtyping import Float
from torch import Tensor, nn

from skygen.data.batch import Batch


@runtime_checkable
class Learner(Protocol):
    """A model that can be trained on pairs."""

    @property
    def network(self) -> nn.Module:
        """What is put into training mode."""
        ...

    @property
    def divisible(self) -> bool:
        """Whether an example's loss is its own, whatever else is in the batch: such a batch may be taken apart."""
        ...

    def loss(self, batch: Batch, generator: torch.Generator) -> Float[Tensor, " batch"]:
        """Return one loss an example; the loop owns the reduction."""
        ...


@runtime_checkable
class JointLearner(Learner, Protocol):
    """A learner whose loss looks at the examples of all processes."""

    def join(self) -> None:
        """Do this process's part of it without any example."""
        ...
