"""Text encoders of CLIP, as diffusion pipelines read them."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from jaxtyping import Float
from torch import Tensor


def encode_clip(tokenizer: Any, encoder: Any, prompts: Sequence[str], context: int) -> Any:
    """Run a CLIP text encoder on prompts, cut and padded to ``context`` tokens; return all that it says, layer by layer."""
    tokens = tokenizer(list(prompts), padding="max_length", max_length=context, truncation=True, return_tensors="pt")
    return encoder(tokens.input_ids.to(encoder.device), output_hidden_states=True)


def penultimate(said: Any) -> Float[Tensor, "batch tokens dimension"]:
    """Return the states before the last layer, without the final normalisation: what SDXL and Stable Diffusion 3 read."""
    states: Tensor = said.hidden_states[-2]
    return states.float()


def projected(said: Any) -> Float[Tensor, "batch pooled"]:
    """Return the one vector a prompt of a ``CLIPTextModelWithProjection``."""
    vector: Tensor = said.text_embeds
    return vector.float()
