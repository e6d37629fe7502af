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

from skygen.data.images import open_image
from skygen.errors import UnavailableError
from skygen.models.backbones import BACKBONES, Backbone
from skygen.models.weights import locate, read_state_dict, reading_weights
from skygen.storage import skygen_home

CONFIG = "open_clip_config.json"
Picture = Path | str | Image.Image


@dataclass(frozen=True)
class ScorerSettings:
    """Which CLIP judges."""

    name: str = "miniature"
    """``miniature``, a name of ``skygen.models.backbones``, or a folder or hub id with ``open_clip_config.json``."""
    batch_size: int = 64
    """Images or texts embedded at a time."""


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
    def load(cls, name: str = "miniature", *, device: str = "cpu", batch_size: int = 64) -> Scorer:
        """Load a CLIP by name.

        Args:
            name: ``miniature``, a key of ``BACKBONES``, or a folder or Hugging Face hub id in open_clip's own layout
                (``open_clip_config.json``, weights, tokenizer).
            device: where it computes.
            batch_size: images or texts embedded at a time.

        Raises:
            UnavailableError: its weights are not here; the sentence says what to download and where to put it.
        """
        if name in BACKBONES:
            return cls(name, *_load_published(BACKBONES[name], device), BACKBONES[name].trained_on, batch_size)
        return cls(name, *_load_own_layout(_locate(name), device), (), batch_size)

    def save(self, folder: Path) -> None:
        """Write the model to a folder that ``load`` takes: open_clip's own layout, whatever it was loaded from."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        (folder / CONFIG).write_text(json.dumps(self.config, indent=1) + "\n", encoding="utf-8")
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


def require(name: str) -> None:
    """Check that a scorer's weights are here, without loading anything.

    Raises:
        UnavailableError: they are not.
    """
    if name in BACKBONES:
        _find_published(BACKBONES[name])
    else:
        _locate(name)


def _locate(name: str) -> str:
    if name != "miniature" and not Path(name).is_dir() and name.count("/") != 1:
        raise UnavailableError(
            f"--scorer.name {name}: not a scorer that skygen knows, not a folder, and not an id on the Hugging Face hub; the "
            f"known names are miniature, {', '.join(BACKBONES)}."
        )
    return locate(name, "skyclip", CONFIG)


Loaded = tuple[Any, Callable[[Image.Image], Any], Callable[[list[str]], Any], Mapping[str, Any]]


def _load_own_layout(place: str, device: str) -> Loaded:
    """Load a folder or hub id that brings its own ``open_clip_config.json``."""
    import open_clip
    from huggingface_hub import hf_hub_download
    from open_clip.transform import PreprocessCfg, image_transform_v2

    is_folder = Path(place).is_dir()
    schema = f"local-dir:{place}" if is_folder else f"hf-hub:{place}"
    with reading_weights(place):
        config = json.loads(Path(f"{place}/{CONFIG}" if is_folder else hf_hub_download(place, CONFIG)).read_text("utf-8"))
        try:  # without require_pretrained, a folder that lacks its weights would become a CLIP of random ones
            model = open_clip.create_model(schema, device=device, require_pretrained=True)
        except RuntimeError as error:
            raise UnavailableError(
                f"{place}: its weights are missing or do not fit its {CONFIG}; copy the whole model again."
            ) from error
        tokenize = open_clip.get_tokenizer(schema)
    preprocess = image_transform_v2(PreprocessCfg(**model.visual.preprocess_cfg), is_train=False)
    return model, preprocess, tokenize, config


def _find_published(backbone: Backbone) -> Path:
    """Find a downloaded checkpoint: converted, unpacked, or as the zip it came in."""
    folder = skygen_home() / "checkpoints"
    candidates = (f"{backbone.archive}.safetensors", f"{backbone.archive}/epoch_20.pt", f"{backbone.archive}.zip")
    for candidate in candidates:
        if (folder / candidate).is_file():
            return folder / candidate
    raise UnavailableError(
        f"{backbone.archive}: its weights are not here; download {backbone.url} and put it at "
        f"{folder / backbone.archive}.zip, or the file inside it at {folder / backbone.archive}/epoch_20.pt."
    )


def _load_published(backbone: Backbone, device: str) -> Loaded:
    path = _find_published(backbone)
    import open_clip

    model, _, preprocess = open_clip.create_model_and_transforms(
        backbone.architecture, pretrained=None, force_quick_gelu=backbone.quick_gelu, device=device
    )
    try:
        model.load_state_dict(read_state_dict(path), strict=True)
    except RuntimeError as error:
        raise UnavailableError(f"{path}: does not hold a {backbone.architecture}; is it another model's file?") from error
    network = open_clip.get_model_config(backbone.architecture) or {}
    preprocessing = {name: model.visual.preprocess_cfg[name] for name in ("mean", "std", "interpolation", "resize_mode")}
    config = {"model_cfg": network | {"quick_gelu": backbone.quick_gelu}, "preprocess_cfg": preprocessing}
    return model, preprocess, open_clip.get_tokenizer(backbone.architecture), config
