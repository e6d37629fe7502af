"""open_clip's own names, of networks and of weights, turned into the terms of ``skygen.models.backbones``."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePosixPath
from typing import Any

from skygen.errors import UnavailableError
from skygen.models.backbones import Backbone, Preprocessing, find_close


def ad_hoc(architecture: str) -> Backbone:
    """Describe weights of which only the network is known.

    Args:
        architecture: open_clip's name; with ``-quickgelu`` for weights trained with OpenAI's activation.

    Returns:
        A row with the preprocessing on which all weights that open_clip knows for this network agree, or else CLIP's.

    Raises:
        UnavailableError: open_clip knows no such network.
    """
    import open_clip

    network = open_clip.get_model_config(architecture)
    if network is None:
        close = find_close(architecture, open_clip.list_models())
        raise UnavailableError(
            f"--scorer.architecture {architecture}: open_clip knows no such network"
            + (f"; names close to it are {', '.join(close)}." if close else "; give a name such as ViT-B-32.")
        )
    tags = open_clip.list_pretrained_tags_by_model(architecture)
    settings = {_take_preprocessing(open_clip.get_pretrained_cfg(architecture, tag)) for tag in tags}
    return _describe(architecture, network, settings.pop() if len(settings) == 1 else Preprocessing())


def from_tag(name: str, architecture: str, tag: str) -> Backbone:
    """Describe weights that open_clip knows by a tag.

    The activation is the tag's: open_clip itself only warns where it is not the network's.

    Args:
        name: the whole name that a user gave, ``open_clip:ARCHITECTURE/TAG``.
        architecture: open_clip's name of the network.
        tag: open_clip's name of the weights.

    Raises:
        UnavailableError: open_clip knows no such network, or no such weights for it.
    """
    import open_clip

    known = ad_hoc(architecture)
    config = open_clip.get_pretrained_cfg(architecture, tag)
    if not config:
        tags = open_clip.list_pretrained_tags_by_model(architecture)
        raise UnavailableError(
            f"--scorer.name {name}: {tag or 'nothing'} is no file that is here and no tag of open_clip's for {architecture}; "
            f"write open_clip:ARCHITECTURE/TAG or open_clip:ARCHITECTURE/PATH, its tags being {', '.join(tags) or 'none'}."
        )
    place = config["hf_hub"]  # REPOSITORY/ or REPOSITORY/FILE
    repository, file = (place.rstrip("/"), "") if place.endswith("/") else _split(place)
    return Backbone(
        architecture,
        known.quick_gelu or bool(config.get("quick_gelu")),
        repository=repository,
        file=file,
        tag=tag,
        preprocessing=_take_preprocessing(config),
        image_size=known.image_size,
        context_length=known.context_length,
        tokenizer=known.tokenizer,
    )


def _describe(architecture: str, network: Mapping[str, Any], preprocessing: Preprocessing) -> Backbone:
    text, size = network["text_cfg"], network["vision_cfg"]["image_size"]
    return Backbone(
        architecture,
        bool(network.get("quick_gelu")),
        preprocessing=preprocessing,
        image_size=size if isinstance(size, int) else size[0],
        context_length=text.get("context_length", 77),
        tokenizer=text.get("hf_tokenizer_name", ""),
        certain=False,
    )


def _take_preprocessing(config: Mapping[str, Any]) -> Preprocessing:
    return Preprocessing(
        tuple(config["mean"]),
        tuple(config["std"]),
        config.get("interpolation", "bicubic"),
        config.get("resize_mode", "shortest"),
    )


def _split(place: str) -> tuple[str, str]:
    path = PurePosixPath(place)
    return str(path.parent), path.name
