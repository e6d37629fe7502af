"""How the captions of a pair become the text of an example."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from skygen.data.captions import strip_view_prefix
from skygen.data.image_metadata import describe_image, describe_in_words
from skygen.data.pair import Pair
from skygen.data.skyscript import view_prefix
from skygen.errors import ConfigError


@dataclass(frozen=True)
class CaptionSettings:
    """How a pair's captions become the text of one training example."""

    strip_prefix: bool = False
    """Drop the fixed opening such as ``a satellite image of``."""
    view_prefix: bool = False
    """Open each caption with how it was taken, ``An aerial image. It shows:`` or ``A satellite image. It shows:``, by its
    source, in the place of its own opening; ``a satellite image of`` where the source is not known."""
    dropout: float = 0.0
    """Share of examples trained with an empty caption, which classifier-free guidance needs."""
    metadata_suffix: float = 0.0
    """Share of captions that end in what is known of how the image was taken, such as ", 0.6 m resolution, National Agriculture
    Imagery Program, June": for generators that are told it in their prompt alone."""

    def __post_init__(self) -> None:
        for name in ("dropout", "metadata_suffix"):
            if not 0 <= getattr(self, name) <= 1:
                raise ConfigError(f"captions.{name} is {getattr(self, name)}; it is a share and must be in [0, 1]")
        if self.strip_prefix and self.view_prefix:
            raise ConfigError("captions.view_prefix opens each caption anew: set captions.strip_prefix to false with it")

    def prepare(self, captions: Sequence[str], source: str | None) -> tuple[str, ...]:
        """Return the captions of a pair as they are trained on, each once.

        Args:
            captions: as the data set has them.
            source: alias of the image collection, which a view prefix follows from.
        """
        return tuple(dict.fromkeys(self._prepare(caption, source) for caption in captions))

    def _prepare(self, caption: str, source: str | None) -> str:
        if self.view_prefix:
            return view_prefix(source) + strip_view_prefix(caption)
        return strip_view_prefix(caption) if self.strip_prefix else caption


def add_metadata(caption: str, pair: Pair, scale: float | None) -> str:
    """Let a caption end in what is known of how its image was taken, see ``image_metadata.describe_in_words``.

    Args:
        caption: as it is trained on; of its own end, points and spaces go.
        pair: of the image.
        scale: pixels that are shown for one of the file; None says nothing of the resolution.

    Returns:
        Such as ``a pier, 0.6 m resolution, June``; the caption as it is where nothing is known.
    """
    metadata = describe_image(pair, scale or 1.0)
    words = describe_in_words(metadata if scale else metadata._replace(gsd=None))
    return f"{caption.rstrip(' .')}, {words}" if words else caption
