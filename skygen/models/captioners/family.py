"""What a captioner asks of a family of image-to-text models.

A network is cut in three: a vision tower that sees pixels, a bridge that turns its features into what the text decoder reads,
and the decoder. What is frozen, tower or tower and bridge, need run only once an image.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int64
from torch import Tensor, nn

IGNORED = -100
"""The target of a position that predicts nothing: padding, prompt, image."""


@dataclass(frozen=True, slots=True)
class CaptionTokens:
    """Captions as a decoder is trained on them, the family's prompt and image places included.

    Args:
        input_ids: what the decoder reads, padded on the right.
        attention_mask: 1 for a token, 0 for padding.
        targets: the token that each position predicts, already shifted; ``IGNORED`` where it predicts nothing. Exactly the
            tokens of the caption and the one that ends it are targets.
        prompt_length: positions before the first that predicts anything, the same in every row.
    """

    input_ids: Int64[Tensor, "batch tokens"]
    attention_mask: Int64[Tensor, "batch tokens"]
    targets: Int64[Tensor, "batch tokens"]
    prompt_length: int = 0

    @property
    def predicting(self) -> int:
        """Positions from the first that predicts anything on: those whose logits are worth their memory."""
        return self.input_ids.shape[1] - self.prompt_length

    def to(self, device: torch.device) -> CaptionTokens:
        """Return the tokens on ``device``."""
        parts = (self.input_ids, self.attention_mask, self.targets)
        inputs, mask, targets = (part.to(device, non_blocking=True) for part in parts)
        return CaptionTokens(inputs, mask, targets, self.prompt_length)


@runtime_checkable
class Family(Protocol):
    """One family of captioners; an instance holds a loaded network.

    A family is a final class with a constructor ``(network, processor, prompt=None)`` and a classmethod ``load``. ``project``
    of ``encode`` is what the network itself computes from pixels, ``logits`` and ``generate`` are what it computes from there.
    """

    network: Any
    processor: Any
    prompt: str
    lora_presets: ClassVar[Mapping[str, str]]
    """Preset to a regular expression of whole module names: ``text_decoder``, ``text_decoder_and_bridge``, ``all``."""

    @classmethod
    def load(cls, source: str, options: Mapping[str, Any], prompt: str | None = None) -> Family:
        """Load network and processor.

        Args:
            source: folder or hub id.
            options: what ``from_pretrained`` of the network is given beside: dtype, quantization.
            prompt: what the decoder is asked; the family's own when left out.
        """
        ...

    @property
    def vision(self) -> nn.Module:
        """The vision tower."""
        ...

    @property
    def bridge(self) -> nn.Module | None:
        """What stands between tower and decoder; None where the decoder reads the tower's features itself."""
        ...

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        ...

    def use_resolution(self, resolution: int) -> None:
        """See squares of another size from now on.

        Raises:
            ConfigError: this family cannot, or not this size; the sentence says which it can.
        """
        ...

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch patches features"]:
        """Run the vision tower on pixels in [-1, 1]; the family's own mean and spread are applied here."""
        ...

    def project(self, features: Float[Tensor, "batch patches features"]) -> Float[Tensor, "batch places channels"]:
        """Run the bridge: the tower's features as the decoder reads them."""
        ...

    def tokenize(self, captions: Sequence[str], max_length: int) -> CaptionTokens:
        """Turn captions into a decoder's inputs and targets.

        Args:
            captions: one an image.
            max_length: most tokens of a caption, start and end included but not prompt and image places; longer ones are cut.

        Returns:
            On the CPU.
        """
        ...

    def logits(
        self, image: Float[Tensor, "batch places channels"], tokens: CaptionTokens
    ) -> Float[Tensor, "batch predicting words"]:
        """Predict each position's next token, for the positions of ``tokens.input_ids`` from ``tokens.prompt_length`` on.

        Args:
            image: from ``project``.
            tokens: on the network's device.
        """
        ...

    def generate(self, image: Float[Tensor, "batch places channels"], options: Mapping[str, Any]) -> list[str]:
        """Write captions with transformers' ``generate``.

        Args:
            image: from ``project``.
            options: of ``generate``, such as num_beams, do_sample, max_new_tokens, num_return_sequences.

        Returns:
            ``num_return_sequences`` captions an image, those of one image together, without prompt and special tokens.
        """
        ...
