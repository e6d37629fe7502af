"""skygen: captions and synthetic images for remote sensing, judged by SkyCLIP.

The public names are loaded when they are first used, so that ``import skygen`` takes no torch and no time.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from skygen.data.pair import Pair
    from skygen.data.pairs import read_pairs
    from skygen.evaluation.captions.coco_caption import score_captions
    from skygen.models.captioner import Captioner
    from skygen.models.diffusion import Diffusion
    from skygen.models.scorer import Scorer
    from skygen.seeding import Seeds

__all__ = ["Captioner", "Diffusion", "Pair", "Scorer", "Seeds", "read_pairs", "score_captions"]

_MODULES = {
    "Captioner": "skygen.models.captioner",
    "Diffusion": "skygen.models.diffusion",
    "Pair": "skygen.data.pair",
    "Scorer": "skygen.models.scorer",
    "Seeds": "skygen.seeding",
    "read_pairs": "skygen.data.pairs",
    "score_captions": "skygen.evaluation.captions.coco_caption",
}


if not TYPE_CHECKING:  # a type checker shall see the names above, and refuse others

    def __getattr__(name: str) -> Any:
        """Load a public name (PEP 562)."""
        if name not in _MODULES:
            raise AttributeError(f"module 'skygen' has no attribute {name!r}")
        return getattr(import_module(_MODULES[name]), name)


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
