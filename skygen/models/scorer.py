"""The scorer: SkyCLIP, or another CLIP, as something that embeds images and texts and compares them."""

from __future__ import annotations

import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, final

import numpy as np
from jaxtyping import Float
from PIL import Image

from skygen.config import CountFromOne
from skygen.data.images import open_image
from skygen.models.scorer_loading import CONFIG, find_source, load_source

Picture = Path | str | Image.Image


@dataclass(frozen=True)
class ScorerSettings:
    """Which CLIP judges."""

    name: str = "miniature"
    """`miniature`; a name of `skygen.models.backbones`, such as `remoteclip-vit-b32`; a checkpoint file (.pt, .safetensors or
    .zip); `open_clip:ARCHITECTURE/TAG` or `open_clip:ARCHITECTURE/PATH`, such as `open_clip:ViT-B-32-quickgelu/openai`; or a
    folder or hub id with `open_clip_config.json`."""
    architecture: str | None = None
    """Of a checkpoint file that is not called as it was published: open_clip's name of its network, with `-quickgelu` where
    it was trained with OpenAI's activation, which its weights do not show."""
    batch_size: CountFromOne = 64
    """Images or texts embedded at a time."""
    also: tuple[str, ...] = ()
    """Further CLIPs that score beside it; one that neither filtered nor trained on the data keeps the comparison honest."""


@final
class Scorer:
    """A CLIP with its own preprocessing, tokenizer and activation.

    Args:
        name: what a report calls it.
        model: an open_clip CLIP, in evaluation mode.
        preprocess: turns a PIL image into the model's input, ``(3, side, side)``.
        tokenize: turns texts into token ids, ``(count, context)``.
        config: open_clip's description of the network and its preprocessing, as in ``open_clip_config.json``.
        trained_on: data sets that it has seen.
        batch_size: images or texts embedded at a time.
    """

    def __init__(
        self,
        name: str,
        model: Any,
        preprocess: Callable[[Image.Image], Any],
        tokenize: Callable[[list[str]], Any],
        config: Mapping[str, Any],
        trained_on: tuple[str, ...] = (),
        batch_size: int = 64,
    ) -> None:
        self.name = name
        self.config = config
        self.model = model.eval().requires_grad_(False)
        self.preprocess = preprocess
        self.tokenize = tokenize
        self.trained_on = trained_on
        self.batch_size = batch_size

    @classmethod
    def load(
        cls, name: str = "miniature", *, device: str = "cpu", batch_size: int = 64, architecture: str | None = None
    ) -> Scorer:
        """Load a CLIP by name.

        Args:
            name: ``miniature``; a key of ``BACKBONES``; the path of a checkpoint file, or the stem of one among the checkpoints
                of ``skygen_home``; ``open_clip:ARCHITECTURE/TAG`` or ``open_clip:ARCHITECTURE/PATH``; or a folder or Hugging
                Face hub id in open_clip's own layout (``open_clip_config.json``, weights, tokenizer).
            device: where it computes.
            batch_size: images or texts embedded at a time.
            architecture: open_clip's name of the network in a checkpoint file that is not called as it was published; given
                with a key of ``BACKBONES`` whose activation is inferred, it overrules that row's network and activation.

        Raises:
            ConfigError: the architecture contradicts an activation that is certain.
            UnavailableError: its weights are not here, are damaged, or are another network's; the sentence says what to do.
            StorageError: there is no room to unpack a compressed archive.
        """
        source = find_source(name, architecture)
        model, preprocess, tokenize, config = load_source(source, device)
        trained_on = source.backbone.trained_on if source.backbone else tuple(config.get("trained_on", ()))
        return cls(name, model, preprocess, tokenize, config, trained_on, batch_size)

    @property
    def resolution(self) -> int:
        """Side in pixels of the square that it sees."""
        size = self.model.visual.image_size
        return int(size if isinstance(size, int) else size[0])

    def save(self, folder: Path) -> None:
        """Write the model to a folder that ``load`` takes: open_clip's own layout, whatever it was loaded from."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        config = {**self.config, "trained_on": list(self.trained_on)}  # open_clip passes over what it does not know
        (folder / CONFIG).write_text(json.dumps(config, indent=1) + "\n", encoding="utf-8")
        if tokenizer := getattr(self.tokenize, "tokenizer", None):  # open_clip's own needs no files
            tokenizer.save_pretrained(folder)
        state = {name: tensor.detach().cpu().contiguous() for name, tensor in self.model.state_dict().items()}
        save_file(state, folder / "open_clip_model.safetensors", metadata={"format": "pt"})

    def embed_images(self, images: Sequence[Picture]) -> Float[np.ndarray, "count dimension"]:
        """Embed images.

        Args:
            images: paths or PIL images of any size.

        Returns:
            Unit vectors, float32.

        Raises:
            ImageError: a file cannot be decoded.
        """
        import torch

        def encode(chunk: Sequence[Picture]) -> Any:
            pictures = [image if isinstance(image, Image.Image) else open_image(Path(image)) for image in chunk]
            pixels = torch.stack([self.preprocess(picture) for picture in pictures])
            return self.model.encode_image(pixels.to(self._device), normalize=True)

        return self._embed(images, encode)

    def embed_texts(self, texts: Sequence[str]) -> Float[np.ndarray, "count dimension"]:
        """Embed texts, each distinct one once.

        Returns:
            Unit vectors, float32.
        """
        distinct = list(dict.fromkeys(texts))
        rows = {text: row for row, text in enumerate(distinct)}
        embeddings = self._embed(
            distinct, lambda chunk: self.model.encode_text(self.tokenize(list(chunk)).to(self._device), normalize=True)
        )
        return embeddings[[rows[text] for text in texts]]

    def similarity(self, images: Sequence[Picture], texts: Sequence[str]) -> Float[np.ndarray, " count"]:
        """Return the cosine in [-1, 1] of each image with the text at the same place."""
        return (self.embed_images(images) * self.embed_texts(texts)).sum(axis=1)

    @property
    def _device(self) -> Any:
        return next(self.model.parameters()).device

    def _embed(self, items: Sequence[Any], encode: Callable[[Sequence[Any]], Any]) -> Float[np.ndarray, "count dimension"]:
        import torch

        chunks = []
        with torch.inference_mode():
            for start in range(0, len(items), self.batch_size):
                chunks.append(encode(items[start : start + self.batch_size]).float().cpu().numpy())
        return np.concatenate(chunks) if chunks else np.empty((0, 0), dtype=np.float32)


def require(name: str, architecture: str | None = None) -> None:
    """Check that a scorer's weights are here, without loading anything.

    Args:
        name: as ``Scorer.load`` takes it.
        architecture: as ``Scorer.load`` takes it.

    Raises:
        UnavailableError: they are not.
    """
    find_source(name, architecture)
