"""A scorer as torchmetrics' ``CLIPScore`` takes it, so that SkyCLIP and its kin can judge in pipelines that use torchmetrics.

    from torchmetrics.multimodal import CLIPScore

    metric = CLIPScore(model_name_or_path=clip_score_pair(Scorer.load("remoteclip-vit-b32")))
    metric.update(images, captions)  # uint8 tensors (channels, height, width), and texts
    metric.compute()  # max(0, mean of 100 · cosine)

torchmetrics 1.9 asks its argument for a model and a processor. It means those of transformers, but transformers 5 returns from
them what torchmetrics 1.9 cannot take; these here return plain tensors. The limit at zero is of the mean: a negative
cosine among others counts as it is, whereas ``skygen.evaluation.alignment.clip_score`` sets each one to zero by itself.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from types import SimpleNamespace
from typing import TYPE_CHECKING, Any, final

import numpy as np
from PIL import Image

from skygen.errors import DataError
from skygen.models.scorer import Scorer

if TYPE_CHECKING:
    from torch import Tensor


def clip_score_pair(scorer: Scorer) -> Callable[[], tuple[ClipFeatures, ClipProcessor]]:
    """Make what ``CLIPScore(model_name_or_path=...)`` takes.

    Args:
        scorer: the CLIP. It is not copied: where the metric moves it to a device, it is moved.

    Returns:
        A function without arguments that returns the model and the processor.
    """
    return lambda: (ClipFeatures(scorer), ClipProcessor(scorer))


@final
class ClipFeatures:
    """The networks of a scorer, with the names that transformers gives to their methods.

    Args:
        scorer: the CLIP.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer
        self.config = SimpleNamespace()  # says nothing of a longest text: the processor has cut it already

    def to(self, device: Any) -> ClipFeatures:
        """Move the scorer to a device."""
        self._scorer.model.to(device)
        return self

    def get_image_features(self, pixel_values: Tensor) -> Tensor:
        """Embed preprocessed images.

        Args:
            pixel_values: ``(count, 3, side, side)``.

        Returns:
            Vectors of any length, float32, ``(count, dimension)``.
        """
        return self._scorer.model.encode_image(pixel_values).float()

    def get_text_features(self, input_ids: Tensor, attention_mask: Tensor) -> Tensor:
        """Embed texts.

        Args:
            input_ids: tokens, ``(count, context)``.
            attention_mask: not needed: the network reads a text up to its end token.

        Returns:
            Vectors of any length, float32, ``(count, dimension)``.
        """
        return self._scorer.model.encode_text(input_ids).float()


@final
class ClipProcessor:
    """The preprocessing and the tokenizer of a scorer, called as a processor of transformers is.

    Args:
        scorer: the CLIP.
    """

    def __init__(self, scorer: Scorer) -> None:
        self._scorer = scorer

    def __call__(
        self,
        text: Sequence[str] | None = None,
        images: Sequence[Tensor] | None = None,
        return_tensors: str = "pt",
        padding: bool = True,
    ) -> dict[str, Tensor]:
        """Turn texts or images into what the networks take.

        Args:
            text: of any length; what is beyond the context is cut off, as ``Scorer.embed_texts`` does.
            images: ``(3, height, width)`` or, grey, ``(1, height, width)``; whole numbers from 0 to 255.
            return_tensors: torch's, whatever it says.
            padding: to the full context, whatever it says.

        Returns:
            ``input_ids`` and ``attention_mask`` for texts, ``pixel_values`` for images.

        Raises:
            DataError: an image has other channels or numbers.
        """
        import torch

        processed: dict[str, Tensor] = {}
        if text is not None:
            processed["input_ids"] = self._scorer.tokenize(list(text))
            processed["attention_mask"] = torch.ones_like(processed["input_ids"])
        if images is not None:
            pictures = [_to_picture(image, place) for place, image in enumerate(images)]
            processed["pixel_values"] = torch.stack([self._scorer.preprocess(picture) for picture in pictures])
        return processed


def _to_picture(image: Tensor, place: int) -> Image.Image:
    """Turn a tensor into the picture that a scorer preprocesses; a guess at the range of its numbers would be a wrong score."""
    pixels = image.detach().cpu().numpy()
    if pixels.ndim != 3 or pixels.shape[0] not in (1, 3):
        raise DataError(f"Image {place} has the shape {pixels.shape}; give (3, height, width), or (1, height, width) for grey.")
    if pixels.dtype.kind not in "iu" or pixels.min() < 0 or pixels.max() > 255:
        raise DataError(
            f"Image {place} has {pixels.dtype} numbers from {pixels.min():g} to {pixels.max():g}; give whole numbers from 0 to "
            "255, such as (image * 255).round().to(torch.uint8)."
        )
    channels_last = pixels.astype(np.uint8).transpose(1, 2, 0)
    return Image.fromarray(np.ascontiguousarray(np.broadcast_to(channels_last, (*channels_last.shape[:2], 3))))
