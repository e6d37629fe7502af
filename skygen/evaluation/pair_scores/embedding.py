"""Embeddings as fast as a machine makes them: at the precision and in the batches that suit it, and no padding computed.

A short caption is followed by padding up to CLIP's 77 tokens. Its text network looks only back, and is read out at the
caption's last token, so that what follows cannot matter: texts of like length are embedded together, cut after the longest.
"""

from __future__ import annotations

import copy
import time
from collections.abc import Sequence
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float, Int64
from PIL import Image
from torch import Tensor

from skygen.models.scorer import Scorer

Precision = Literal["fp32", "bf16"]
SLOWEST_TRY = 4.0
"""Seconds of a batch after which a larger one is not tried."""
LARGEST_BATCH = 256
"""Of images: 150 MB of pixels at 224 x 224, of which each process that decodes holds two in readiness."""
WORTHWHILE = 1.2
"""How much faster bfloat16 must be to be chosen: less does not make up for its rounding."""


def at_precision(scorer: Scorer, precision: Precision) -> Scorer:
    """Return the same scorer at a precision.

    Its weights are rounded once: torch's autocast rounds them again for every batch, and loses the fused attention, which on
    a processor costs more than bfloat16 gains. What is computed is as exact.
    """
    if precision == "fp32":
        return scorer
    model = copy.deepcopy(scorer.model).to(torch.bfloat16)
    return Scorer(scorer.name, model, scorer.preprocess, scorer.tokenize, scorer.config, scorer.trained_on, scorer.batch_size)


def embed_pixels(scorer: Scorer, pixels: Float[Tensor, "count channels height width"]) -> Float[np.ndarray, "count dimension"]:
    """Embed preprocessed images as unit vectors, float32, whatever the precision of the scorer."""
    weight = next(scorer.model.parameters())
    with torch.inference_mode():
        embedded = scorer.model.encode_image(pixels.to(weight.device, weight.dtype, non_blocking=True), normalize=False)
    return _to_unit(embedded)


def embed_texts(scorer: Scorer, texts: Sequence[str], batch_size: int) -> Float[np.ndarray, "count dimension"]:
    """Embed texts as unit vectors, float32, whatever the precision of the scorer.

    Args:
        scorer: the CLIP.
        texts: at least one; tokenized all together.
        batch_size: texts at a time.
    """
    tokens = scorer.tokenize(list(texts))
    ends = _find_ends(scorer.model, tokens)
    order = torch.arange(len(tokens)) if ends is None else torch.argsort(ends, stable=True)
    parts = []
    with torch.inference_mode():
        for rows in torch.split(order, batch_size):
            chosen = tokens[rows].to(_device(scorer))
            if ends is None:
                parts.append(_to_unit(scorer.model.encode_text(chosen, normalize=False)))
            else:
                parts.append(_to_unit(_encode_cut(scorer.model, chosen, int(ends[rows].max()) + 1)))
    embeddings = np.empty((len(tokens), parts[0].shape[1]), np.float32)
    embeddings[order.numpy()] = np.concatenate(parts)
    return embeddings


def find_batch_size(scorer: Scorer, *, most: int = LARGEST_BATCH) -> int:
    """Find how many images at a time a scorer embeds fastest on this device: doubled for as long as it gains a twentieth.

    Args:
        scorer: the CLIP.
        most: where to stop; also after a try that takes seconds or does not fit the memory.
    """
    rates: dict[int, float] = {}
    size = 8
    while size <= most:
        try:
            seconds = _time_images(scorer, size)
        except torch.OutOfMemoryError:
            break
        rates[size] = size / seconds
        if seconds > SLOWEST_TRY or (size > 8 and rates[size] < 1.05 * rates[size // 2]):
            break
        size *= 2
    return max(rates, key=rates.__getitem__) if rates else 1


def find_precision(scorer: Scorer, batch_size: int = 32) -> Precision:
    """Say whether bfloat16 embeds images a fifth faster than float32 here, by trying both."""
    if _device(scorer).type not in ("cuda", "cpu"):
        return "fp32"
    exact, rounded = (_time_images(each, batch_size) for each in (scorer, at_precision(scorer, "bf16")))
    return "bf16" if rounded * WORTHWHILE < exact else "fp32"


def _time_images(scorer: Scorer, count: int) -> float:
    """Time the embedding of blank images, the better of two tries after a first one that allocates."""
    blank = scorer.preprocess(Image.new("RGB", (64, 64))).repeat(count, 1, 1, 1)
    tries = []
    for _ in range(3):
        start = time.perf_counter()
        embed_pixels(scorer, blank)
        tries.append(time.perf_counter() - start)
        if tries[0] > SLOWEST_TRY:
            return tries[0]
    return min(tries[1:])


def _find_ends(model: Any, tokens: Int64[Tensor, "count context"]) -> Int64[Tensor, " count"] | None:
    """Find the token each text is read out at; None where the network is not known to look only back from there."""
    import open_clip

    if type(model) is not open_clip.CLIP or model.attn_mask is None:
        return None
    if model.text_pool_type == "argmax":
        return tokens.argmax(dim=-1)
    if model.text_pool_type == "eos" and model.text_eos_id is not None:
        return (tokens == model.text_eos_id).int().argmax(dim=-1)
    return None


def _encode_cut(model: Any, tokens: Int64[Tensor, "count context"], length: int) -> Tensor:
    """Embed texts by their first tokens alone: open_clip's own forward pass, with positions and mask as short as they are."""
    short = {"positional_embedding": model.positional_embedding[:length], "attn_mask": model.attn_mask[:length, :length]}
    found = torch.func.functional_call(model, short, kwargs={"text": tokens[:, :length]})
    embedded: Tensor = found["text_features"] if isinstance(found, dict) else found[1]
    return embedded


def _to_unit(embedded: Tensor) -> Float[np.ndarray, "count dimension"]:
    unit: Float[np.ndarray, "count dimension"] = torch.nn.functional.normalize(embedded.float(), dim=-1).cpu().numpy()
    return unit


def _device(scorer: Scorer) -> torch.device:
    device: torch.device = next(scorer.model.parameters()).device
    return device
