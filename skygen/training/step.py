"""What one update of the training loop reports."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import Any


@dataclass(frozen=True, slots=True)
class Step:
    """One update, as it is logged.

    Args:
        step: updates done, this one included.
        total: updates of the whole run.
        loss: mean over the examples of the update.
        gradient_norm: before clipping.
        learning_rate: of this update.
        images_per_second: over all processes.
        data_seconds: that this process waited for data.
        images: examples in the update, over all processes.
        skipped: the loss or gradient was not finite, and the update was left out.
        skipped_keys: ``Pair.key`` of this process's examples in an update that was left out.
    """

    step: int
    total: int
    loss: float
    gradient_norm: float
    learning_rate: float
    images_per_second: float
    data_seconds: float
    images: int
    skipped: bool
    skipped_keys: tuple[str, ...] = ()

    def due(self, every: int) -> bool:
        """Say whether something done ``every`` so many steps is due now; the last step is always due, 0 is never."""
        return every > 0 and (self.step % every == 0 or self.step == self.total)

    def record(self) -> dict[str, Any]:
        """Return the line of ``log.jsonl``."""
        return {name: value for name, value in asdict(self).items() if name != "skipped_keys"}
