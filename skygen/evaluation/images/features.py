"""Networks that turn images into the features that distances between sets of images compare."""

from __future__ import annotations

import hashlib
import io
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final, final

import numpy as np
from jaxtyping import Float, UInt8
from PIL import Image

from skygen.data.images import open_image
from skygen.errors import UnavailableError
from skygen.models.fingerprints import fingerprint_weights
from skygen.models.scorer import Picture, Scorer
from skygen.models.weights import hide_loading_bars, locate, read_state_dict, reading_weights

if TYPE_CHECKING:
    from skygen.models.judge import Judge

INCEPTION_FILE: Final = "weights-inception-2015-12-05-6726825d.pth"
"""The network of Heusel et al. 2017 (TensorFlow, 5 December 2015) as torch-fidelity converted it; 91 MB."""
INCEPTION_SHA256: Final = "6726825d"
"""How the SHA-256 of that file begins; its name says so."""


@final
@dataclass(frozen=True, slots=True)
class Extractor:
    """A network as a function from images to features.

    Args:
        name: what a ``Score`` calls it; scores are comparable only under the same name.
        extract: turns images, paths or PIL images of any size, into features, float32, a row an image.
        weights: how the hash of the weights begins: of the file's SHA-256, or ``fingerprint_weights``.
        seen: in words, how an image is brought to the size that the network sees.
    """

    name: str
    extract: Callable[[Sequence[Picture]], Float[np.ndarray, "count dimension"]]
    weights: str = ""
    seen: str = ""


def scorer_extractor(scorer: Scorer) -> Extractor:
    """Make the extractor that suits overhead images: the image embeddings of SkyCLIP or another CLIP.

    The unit vectors are multiplied by √dimension. KID's kernel (x·y / dimension + 1)³ was made for features whose
    coordinates are about 1; of unit vectors it would see little but the mean. Scaled, it is (cosine + 1)³. FID is
    thereby that of the unit vectors times the dimension.

    Args:
        scorer: the CLIP.
    """

    def extract(images: Sequence[Picture]) -> Float[np.ndarray, "count dimension"]:
        embeddings = scorer.embed_images(images)
        scale = np.float32(np.sqrt(embeddings.shape[1]))
        return embeddings * scale

    rule = scorer.config.get("preprocess_cfg") or {}
    seen = f"{scorer.resolution} px, {rule.get('interpolation', 'bicubic')}, {rule.get('resize_mode', 'shortest')}"
    return Extractor(f"skyclip:{scorer.name}", extract, fingerprint_weights(scorer.model), seen)


def to_embeddings(features: Float[np.ndarray, "count dimension"]) -> Float[np.ndarray, "count dimension"]:
    """Turn the features of ``scorer_extractor`` back into unit vectors."""
    embeddings: Float[np.ndarray, "count dimension"] = features / np.float32(np.sqrt(features.shape[1]))
    return embeddings


def judge_extractor(judge: Judge) -> Extractor:
    """Make an extractor of a classifier that was trained on real overhead images: what its last linear layer looks at.

    Args:
        judge: the classifier.

    Raises:
        UnavailableError: it ends in no linear layer.
    """
    import torch
    from torch import nn

    layers = [module for module in judge.network.modules() if isinstance(module, nn.Linear)]
    if not layers or layers[-1].out_features != len(judge.class_names):
        raise UnavailableError(
            f"judge {judge.name}: it ends in no linear layer, so it has no features; name another extractor."
        )

    def extract(images: Sequence[Picture]) -> Float[np.ndarray, "count dimension"]:
        looked_at: list[np.ndarray] = [np.empty((0, layers[-1].in_features), dtype=np.float32)]

        def note(module: nn.Module, inputs: tuple[torch.Tensor, ...]) -> None:
            looked_at.append(inputs[0].float().flatten(1).cpu().numpy())

        handle = layers[-1].register_forward_pre_hook(note)
        try:
            judge.probabilities(images)
        finally:
            handle.remove()
        return np.concatenate(looked_at)

    return Extractor(f"judge-features:{judge.name}", extract, fingerprint_weights(judge.network), f"{judge.resolution} px")


def judgement_extractor(judge: Judge) -> Extractor:
    """Make the function from images to the probability of each of the judge's classes, which is kept like features are."""
    return Extractor(f"judge:{judge.name}", judge.probabilities, fingerprint_weights(judge.network), f"{judge.resolution} px")


def transformer_extractor(name: str, *, device: str = "cpu", batch_size: int = 32) -> Extractor:
    """Make an extractor of a self-supervised vision transformer, such as ``facebook/dinov2-base``: its class token.

    DINOv2's features follow human judgement of generated images better than Inception's (Stein et al. 2023, "Exposing flaws of
    generative model evaluation metrics", section 4).

    Args:
        name: a folder in transformers' layout, or an id on the Hugging Face hub.
        device: where it computes.
        batch_size: images at a time.

    Raises:
        UnavailableError: the weights are not here, or are not those of such a model.
    """
    import torch
    from transformers import AutoImageProcessor, AutoModel

    source = locate(name, "extractor", "config.json")
    hide_loading_bars()
    with reading_weights(name):
        network = AutoModel.from_pretrained(source, use_safetensors=True, dtype=torch.float32).to(device).eval()
        processor = AutoImageProcessor.from_pretrained(source)
    if not hasattr(network.config, "hidden_size"):
        raise UnavailableError(f"{name}: no vision transformer; name one such as facebook/dinov2-base.")

    @torch.inference_mode()
    def extract(images: Sequence[Picture]) -> Float[np.ndarray, "count dimension"]:
        features = [np.empty((0, network.config.hidden_size), dtype=np.float32)]
        for start in range(0, len(images), batch_size):
            chunk = [_open(image) for image in images[start : start + batch_size]]
            pixels = processor(chunk, return_tensors="pt").pixel_values.to(device)
            features.append(network(pixel_values=pixels).last_hidden_state[:, 0].float().cpu().numpy())
        return np.concatenate(features)

    size = getattr(processor, "crop_size", None) or processor.size
    return Extractor(f"transformer:{name}", extract, fingerprint_weights(network), f"{dict(size)}, as its processor has it")


def inception_extractor(
    weights: Path, *, sha256: str = INCEPTION_SHA256, device: str = "cpu", batch_size: int = 32, resized: int | None = None
) -> Extractor:
    """Make the extractor of the FID that papers print: the 2,048 pooled features of the 2015 Inception.

    The file is checked now and read at the first use, by the reader that unpickles nothing but tensors. Images are brought
    to 299 pixels by torchmetrics, bilinear with antialiasing.

    Args:
        weights: torch-fidelity's file; nothing is downloaded.
        sha256: how the file's SHA-256 must begin; another one stands for another network, and its scores are comparable
            with no published FID. The extractor's name carries it.
        device: where it computes.
        batch_size: images at a time; images of one size that follow each other share a batch.
        resized: side that images are squeezed to before that, by Pillow's bicubic filter, as some protocols do.

    Raises:
        UnavailableError: the file is missing or is another one.
    """
    remedy = f"download {INCEPTION_FILE} from release v0.2.0 of torch-fidelity (github.com/toshas/torch-fidelity)"
    if not weights.is_file():
        raise UnavailableError(f"{weights}: the Inception network of FID is not there; {remedy} and give its path.")
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()
    if not found.startswith(sha256):
        raise UnavailableError(
            f"{weights}: not the Inception network of FID, its SHA-256 begins with {found[:8]} instead of {sha256}; "
            f"{remedy} again."
        )

    @cache
    def network() -> Any:
        return _build_inception(weights).to(device)

    def extract(images: Sequence[Picture]) -> Float[np.ndarray, "count 2048"]:
        import torch

        features = [np.empty((0, 2048), dtype=np.float32)]
        with torch.inference_mode():
            for pixels in _batch_by_size(images, batch_size, resized):
                features.append(network()(torch.from_numpy(pixels).to(device)).float().cpu().numpy())
        return np.concatenate(features)

    seen = "299 px, bilinear, antialiased" + (f", after {resized} px, bicubic" if resized else "")
    name = f"inception-v3-compat:{found[:8]}" + (f", {resized} px" if resized else "")
    return Extractor(name, extract, found[:16], seen)


def _build_inception(weights: Path) -> Any:
    """Build the network. Its constructor unpickles anything, so it is handed a rewritten copy that holds tensors alone."""
    import torch
    from torchmetrics.image.fid import NoTrainInceptionV3

    copy = io.BytesIO()
    torch.save(read_state_dict(weights), copy)  # noqa: TID251  # stays in memory; the constructor takes nothing but a file
    copy.seek(0)
    return NoTrainInceptionV3("inception-v3-compat", ["2048"], copy).eval()


def _open(image: Picture) -> Image.Image:
    return image.convert("RGB") if isinstance(image, Image.Image) else open_image(Path(image))


def _batch_by_size(
    images: Sequence[Picture], batch_size: int, resized: int | None
) -> Iterator[UInt8[np.ndarray, "batch 3 height width"]]:
    batch: list[np.ndarray] = []
    for image in images:
        picture = _open(image)
        if resized:
            picture = picture.resize((resized, resized), Image.Resampling.BICUBIC)
        pixels = np.asarray(picture).transpose(2, 0, 1)
        if batch and (len(batch) == batch_size or batch[0].shape != pixels.shape):
            yield np.stack(batch)
            batch = []
        batch.append(pixels)
    if batch:
        yield np.stack(batch)
