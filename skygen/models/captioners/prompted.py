"""What families share: a processor that is whole, and captions that continue a prompt which is the same for every image."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import torch
from jaxtyping import Float, Int64
from torch import Tensor

from skygen.errors import UnavailableError
from skygen.models.captioners.family import IGNORED, CaptionTokens


def load_processor(kind: Any, source: str) -> Any:
    """Load a processor of transformers.

    Args:
        kind: its class.
        source: folder or hub id.

    Raises:
        UnavailableError: the tokenizer's files are missing.
    """
    missing = f"{source}: the files of its tokenizer are not here; copy or download all of the model again."
    try:
        processor = kind.from_pretrained(source)
    except (ValueError, AttributeError) as error:  # transformers finds nothing to build a tokenizer from
        raise UnavailableError(missing) from error
    letter = processor.tokenizer("a", add_special_tokens=False).input_ids
    if processor.tokenizer.decode(letter, skip_special_tokens=True).strip() != "a":  # transformers has made up an empty one
        raise UnavailableError(missing)
    return processor


def spell(tokenizer: Any, captions: Sequence[str]) -> list[list[int]]:
    """Return the tokens of captions, and of nothing else; one that spells a special token, such as ``<image>``, is text too."""
    if not captions:
        return []
    spelled: list[list[int]] = tokenizer(list(captions), add_special_tokens=False, split_special_tokens=True).input_ids
    # T5's has its end among the pieces that it splits words into; what no word is made of is left in
    special = set(tokenizer.all_special_ids) - {tokenizer.unk_token_id}
    return [[token for token in tokens if token not in special] for tokens in spelled]


def continue_prompt(
    prompt: Sequence[int], captions: Sequence[Sequence[int]], end: int, max_length: int, padding: int
) -> CaptionTokens:
    """Put each caption after the prompt, and what ends it after the caption.

    Args:
        prompt: tokens that every row begins with, image places included.
        captions: tokens of each.
        end: token that ends a caption.
        max_length: most tokens of a caption, ``end`` included; of longer ones the last are dropped.
        padding: token that fills the shorter rows on the right.

    Returns:
        On the CPU; the targets are those of the caption and ``end``, each at the position before its own.
    """
    endings = [[*caption[: max_length - 1], end] for caption in captions]
    width = len(prompt) + max((len(ending) for ending in endings), default=1) - 1  # the last token predicts nothing
    inputs = torch.full((len(endings), width), padding)
    mask = torch.zeros_like(inputs)
    targets = torch.full_like(inputs, IGNORED)
    for row, ending in enumerate(endings):
        length = len(prompt) + len(ending) - 1
        inputs[row, :length] = torch.tensor([*prompt, *ending[:-1]])
        mask[row, :length] = 1
        targets[row, len(prompt) - 1 : length] = torch.tensor(ending)
    return CaptionTokens(inputs, mask, targets, len(prompt) - 1)


def repeat_prompt(prompt: Sequence[int], images: int, device: torch.device) -> dict[str, Int64[Tensor, "images tokens"]]:
    """Return ``input_ids`` and ``attention_mask`` of the prompt alone, once an image."""
    ids = torch.tensor([list(prompt)], device=device).repeat(images, 1)
    return {"input_ids": ids, "attention_mask": torch.ones_like(ids)}


def stop_tokens(network: Any, end: int) -> list[int]:
    """Return the tokens that end what is generated: the one that captions are trained to end with, and the model's own."""
    own = network.generation_config.eos_token_id
    return sorted({end, *([own] if isinstance(own, int) else own or [])})


def as_encoder_outputs(image: Float[Tensor, "batch places channels"]) -> dict[str, Any]:
    """Return ``mm_encoder_outputs``, which transformers' models read in place of pixels, of what ``Family.project`` returns."""
    from transformers.modeling_outputs import BaseModelOutputWithPooling

    return {"image": BaseModelOutputWithPooling(pooler_output=image)}
