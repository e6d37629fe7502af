"""What older papers report, for comparison with their tables alone: a fine-tuned Inception, its score, and a dot product.

Protocol ``mhn-2023`` of Txt2Img-MHN (Xu et al. 2023, "Txt2Img-MHN: Remote Sensing Image Generation from Text Using Modern
Hopfield Networks"); its faults are listed in ``protocols``.
"""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Final

import numpy as np
from jaxtyping import Float
from PIL import Image

from skygen.data.images import open_image
from skygen.errors import UnavailableError
from skygen.evaluation.images.features import Extractor
from skygen.evaluation.scores import Score
from skygen.models.scorer import Picture, Scorer
from skygen.models.weights import read_state_dict

MHN_CLASSES: Final = 30
"""Scene classes of RSICD."""
MHN_SIDE: Final = 256
FEATURES: Final = 2048
_MEAN, _SPREAD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)  # of ImageNet


def mhn_extractor(weights: Path, *, device: str = "cpu", batch_size: int = 32) -> Extractor:
    """Make the extractor of Txt2Img-MHN's protocol: pooled features and class scores of an Inception-v3 of 30 classes.

    Args:
        weights: state dict of torchvision's ``inception_v3`` with a last layer of 30 classes, ``.pt``, ``.pth`` or
            ``.safetensors``. None was published: it is fine-tuned on RSICD by whoever uses the protocol.
        device: where it computes.
        batch_size: images at a time.

    Returns:
        An extractor of 2,048 features followed by the 30 class scores (logits): see ``split_mhn``.

    Raises:
        UnavailableError: the file is missing, or is of another network.
    """
    import hashlib

    import torch
    from torchvision.models import inception_v3

    if not weights.is_file():
        raise UnavailableError(f"{weights}: not there; fine-tune torchvision's inception_v3 on RSICD's 30 classes and give it.")
    network: Any = inception_v3(weights=None, num_classes=MHN_CLASSES, init_weights=False)
    try:
        network.load_state_dict(read_state_dict(weights))
    except RuntimeError as error:
        raise UnavailableError(
            f"{weights}: not torchvision's inception_v3 with {MHN_CLASSES} classes; give that network's state dict."
        ) from error
    network = network.to(device).eval()
    pooled: list[torch.Tensor] = []
    network.avgpool.register_forward_hook(lambda module, inputs, output: pooled.append(output.flatten(1)))
    mean, spread = (torch.tensor(values, device=device)[:, None, None] for values in (_MEAN, _SPREAD))
    with weights.open("rb") as file:
        found = hashlib.file_digest(file, "sha256").hexdigest()[:16]

    @torch.inference_mode()
    def extract(images: Sequence[Picture]) -> Float[np.ndarray, "count dimension"]:
        rows = [np.empty((0, FEATURES + MHN_CLASSES), dtype=np.float32)]
        for start in range(0, len(images), batch_size):
            pixels = torch.stack([_to_pixels(image) for image in images[start : start + batch_size]]).to(device)
            scores = network((pixels - mean) / spread)
            rows.append(torch.cat([pooled.pop(), scores], dim=1).float().cpu().numpy())
        return np.concatenate(rows)

    return Extractor(f"mhn-inception-v3:{found[:8]}", extract, found, f"{MHN_SIDE} px, bilinear, ImageNet's mean and spread")


def split_mhn(
    rows: Float[np.ndarray, "count dimension"],
) -> tuple[Float[np.ndarray, "count features"], Float[np.ndarray, "count classes"]]:
    """Part what ``mhn_extractor`` says into features and class scores."""
    return rows[:, :FEATURES], rows[:, FEATURES:]


def inception_score(logits: Float[np.ndarray, "count classes"], *, model: str, subset: str, extractor: str) -> Score:
    """Compute the inception score of one split, by torchmetrics.

    Salimans et al. 2016, "Improved Techniques for Training GANs", section 4: exp of the mean divergence of each picture's class
    distribution from that of all. It knows no real image, and is as good as the classes are.

    Args:
        logits: class scores of each picture.
        model: whose pictures they are.
        subset: of the data.
        extractor: the network.

    Returns:
        ``inception_score``, in [1, classes]; without an interval, which one split does not give.
    """
    import torch
    from torchmetrics.image.inception import InceptionScore

    identity: Any = torch.nn.Identity()
    with warnings.catch_warnings(), torch.random.fork_rng(devices=[]):  # it shuffles, which one split does not see
        warnings.filterwarnings("ignore", r"Metric `InceptionScore` will save|std\(\): degrees of freedom", UserWarning)
        metric = InceptionScore(identity, splits=1, sync_on_compute=False)
        metric.update(torch.from_numpy(logits.astype(np.float64)))
        value = float(metric.compute()[0])
    return Score("inception_score", value, len(logits), None, model, subset, extractor)


def dot_products(scorer: Scorer, paths: Sequence[Path], texts: Sequence[str]) -> Float[np.ndarray, " count"]:
    """Compute what that protocol calls a CLIP score: dot products of embeddings of whatever length, divided by 100.

    Args:
        scorer: the CLIP.
        paths: of the images.
        texts: one for each.

    Returns:
        Values without a scale, float64.
    """
    import torch

    device = next(scorer.model.parameters()).device
    values = [np.empty(0)]
    with torch.inference_mode():
        for start in range(0, len(paths), scorer.batch_size):
            chunk = slice(start, start + scorer.batch_size)
            pixels = torch.stack([scorer.preprocess(open_image(path)) for path in paths[chunk]]).to(device)
            seen = scorer.model.encode_image(pixels, normalize=False).double()
            said = scorer.model.encode_text(scorer.tokenize(list(texts[chunk])).to(device), normalize=False).double()
            values.append(((seen * said).sum(dim=1) / 100).cpu().numpy())
    return np.concatenate(values)


def _to_pixels(image: Picture) -> Any:
    from torchvision.transforms.functional import to_tensor

    picture = image.convert("RGB") if isinstance(image, Image.Image) else open_image(Path(image))
    return to_tensor(picture.resize((MHN_SIDE, MHN_SIDE), Image.Resampling.BILINEAR))
