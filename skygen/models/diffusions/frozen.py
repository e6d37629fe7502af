"""What the frozen parts of a pipeline say of images and prompts, as rows that can be kept and read back.

Both are encoded outside any autocast: what is kept for later runs must not depend on the precision of the one that made it.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from hashlib import sha256
from typing import Any, final

import torch
from jaxtyping import Float
from torch import Tensor

from skygen.models.diffusions.family import Conditioning, DiffusionFamily
from skygen.models.diffusions.latents import LatentDistribution
from skygen.models.fingerprints import fingerprint_weights

SCHEMA = 1
"""Raised when a family comes to read other layers, or to cut and pad prompts in another way."""
ENCODERS = ("text_encoder", "text_encoder_2", "text_encoder_3")
TOKENIZERS = ("tokenizer", "tokenizer_2", "tokenizer_3")
_OF_NO_EFFECT = frozenset({"transformers_version", "dtype", "torch_dtype", "architectures"})
_AFTER_ENCODING = frozenset({"scaling_factor", "shift_factor", "latents_mean", "latents_std"})
"""What ``DiffusionFamily.scale_latents`` reads: kept latents are not scaled."""


@final
class LatentEncoder:
    """An autoencoder as ``training.feature_cache`` takes it: images become the distribution of their latents.

    Args:
        family: a loaded pipeline.
    """

    def __init__(self, family: DiffusionFamily) -> None:
        self.family = family

    def encode(self, pixels: Float[Tensor, "batch 3 height width"]) -> Float[Tensor, "batch twice_channels high wide"]:
        """Encode pixels in [-1, 1].

        Returns:
            Mean and log-variance one after the other along the channels, float32, not scaled; see ``unpack_latents``.
        """
        with torch.autocast(pixels.device.type, enabled=False):
            latents = self.family.encode_images(pixels)
        return torch.cat([latents.mean, latents.log_variance], dim=1).float()

    def encoder_fingerprint(self) -> str:
        """Name the autoencoder by its class, its weights and its config, but for what scales latents afterwards."""
        vae = self.family.pipeline.vae
        about = [SCHEMA, type(vae).__name__, bool(getattr(vae, "use_tiling", False)), _describe(vae, _AFTER_ENCODING)]
        return _name("vae", about, [fingerprint_weights(vae)])


def unpack_latents(features: Float[Tensor, "batch twice_channels height width"]) -> LatentDistribution:
    """Take kept latents apart.

    Args:
        features: rows of ``LatentEncoder.encode`` in any float type, on any device.

    Returns:
        Float32, not scaled; the log-variance in [-30, 20].
    """
    mean, log_variance = features.float().chunk(2, dim=1)
    return LatentDistribution(mean, log_variance)


@final
class PromptEncoder:
    """The text encoders of a pipeline as ``training.prompt_cache`` takes them: a prompt becomes one row of numbers.

    Args:
        family: a loaded pipeline; its null prompt is encoded, to know the shapes.
    """

    def __init__(self, family: DiffusionFamily) -> None:
        self.family = family
        null = self._encode([""])
        self._tokens, self._dimension = int(null.hidden.shape[1]), int(null.hidden.shape[2])
        self._pooled = 0 if null.pooled is None else int(null.pooled.shape[1])

    def encode(self, prompts: Sequence[str]) -> Float[Tensor, "batch values"]:
        """Encode prompts as the pipeline does it when it samples; ``""`` is the null prompt.

        Returns:
            The states of all tokens, then the pooled vector where there is one, float32.
        """
        conditioning = self._encode(prompts)
        hidden = conditioning.hidden.float().flatten(1)
        return hidden if conditioning.pooled is None else torch.cat([hidden, conditioning.pooled.float()], dim=1)

    def unpack(self, rows: Float[Tensor, "batch values"]) -> Conditioning:
        """Undo the packing of ``encode``.

        Args:
            rows: in any float type, on any device.

        Returns:
            Float32, without sizes, which are of the image and not of the prompt.
        """
        values = self._tokens * self._dimension
        if rows.shape[1] != values + self._pooled:
            raise ValueError(f"a row has {rows.shape[1]} values; the null prompt has {values + self._pooled}")
        hidden = rows[:, :values].float().reshape(len(rows), self._tokens, self._dimension)
        return Conditioning(hidden, rows[:, values:].float() if self._pooled else None)

    def encoder_fingerprint(self) -> str:
        """Name all that decides what a prompt becomes: tokenizers, text encoders, which states of them, the null prompt."""
        pipeline = self.family.pipeline
        parts = [part for name in ENCODERS if (part := getattr(pipeline, name, None)) is not None]
        tokenizers = [part for name in TOKENIZERS if (part := getattr(pipeline, name, None)) is not None]
        about = [
            SCHEMA,
            self.family.pipeline_class,
            (self._tokens, self._dimension, self._pooled),
            bool(getattr(pipeline.config, "force_zeros_for_empty_prompt", False)),
            getattr(pipeline, "tokenizer_max_length", None),
            [[type(part).__name__, _describe(part, frozenset())] for part in parts],
            [_describe_tokenizer(tokenizer) for tokenizer in tokenizers],
        ]
        return _name("text", about, [fingerprint_weights(part) for part in parts])

    def _encode(self, prompts: Sequence[str]) -> Conditioning:
        device: torch.device = self.family.pipeline.text_encoder.device
        with torch.no_grad(), torch.autocast(device.type, enabled=False):
            return self.family.encode_prompts(prompts)


def _describe(part: Any, but: frozenset[str]) -> dict[str, str]:
    """Return the config of a network, without where it was loaded from and by which version."""
    config = part.config.to_dict() if hasattr(part.config, "to_dict") else dict(part.config)
    return {name: str(value) for name, value in config.items() if name[0] != "_" and name not in _OF_NO_EFFECT | but}


def _describe_tokenizer(tokenizer: Any) -> list[Any]:
    """Return the rules of a tokenizer; those of padding and cutting are of its last call, and change with each."""
    special = {name: str(value) for name, value in tokenizer.special_tokens_map.items()}
    about: list[Any] = [type(tokenizer).__name__, int(tokenizer.model_max_length), special]
    rules = getattr(tokenizer, "backend_tokenizer", None)
    if rules is None:
        return [*about, tokenizer.get_vocab()]
    return [*about, {name: rule for name, rule in json.loads(rules.to_str()).items() if name not in ("padding", "truncation")}]


def _name(kind: str, about: Sequence[Any], weights: Sequence[str]) -> str:
    digest = sha256(json.dumps([about, weights], sort_keys=True).encode())
    return f"{kind}-{digest.hexdigest()[:24]}"
