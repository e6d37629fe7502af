"""Weights put into a network whole or not at all, and what a file that does not fit looks like instead."""

from __future__ import annotations

import re
from collections.abc import Collection, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skygen.errors import UnavailableError
from skygen.models.checkpoint_files import describe_layout

if TYPE_CHECKING:
    from torch import Tensor

Shapes = Mapping[str, tuple[int, ...]]
LEFT_BY_OLDER_VERSIONS = frozenset(
    {
        "attn_mask",
        "text.attn_mask",
        "text.transformer.embeddings.position_ids",
        "input_resolution",
        "context_length",
        "vocab_size",
    }
)
"""Constants that older versions of open_clip, of transformers and of OpenAI's code save beside the weights."""
_LISTED = 3
_BLOCK_NUMBER = re.compile(r"resblocks\.(\d+)\.")
_STAGE_BLOCK = re.compile(r"visual\.layer\d\.\d+\.conv1\.weight")


def fit(model: Any, state: Mapping[str, Tensor], path: Path, architecture: str) -> None:
    """Put weights into a network, every one of them in its place.

    Args:
        model: of open_clip.
        state: weights by name, as ``read_state_dict`` returns them.
        path: where they come from.
        architecture: open_clip's name of the network.

    Raises:
        UnavailableError: some are missing, left over or of another shape; the sentence says what the file looks like.
    """
    from open_clip.convert import convert_state_dict
    from open_clip.model import convert_to_custom_text_state_dict

    wanted = model.state_dict()
    given = convert_state_dict(model, dict(state))
    if "positional_embedding" in given and "text.positional_embedding" in wanted:
        given = convert_to_custom_text_state_dict(given)
    given = {name: tensor for name, tensor in given.items() if name in wanted or name not in LEFT_BY_OLDER_VERSIONS}
    for name in ("logit_scale", "logit_bias"):  # one number, with or without a dimension around it
        if name in given and name in wanted and given[name].numel() == wanted[name].numel():
            given[name] = given[name].reshape(wanted[name].shape)
    complaint = _compare(to_shapes(given), to_shapes(wanted))
    if complaint:
        looks = describe_network(to_shapes(given))
        raise UnavailableError(
            f"{path}: does not hold a {architecture} ({complaint}); it looks like {looks}: give that model's own name or "
            "architecture, or the right file."
        )
    model.load_state_dict(given, strict=True)


def to_shapes(state: Mapping[str, Tensor]) -> dict[str, tuple[int, ...]]:
    """Return the shape of each tensor by name."""
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def describe_network(shapes: Shapes) -> str:
    """Say in words what network tensors of these shapes belong to."""
    layout = describe_layout(shapes)
    if layout:
        return layout
    facts = _measure(shapes)
    if facts is None:
        beginnings = list(dict.fromkeys(name.split(".", 1)[0] for name in shapes))
        return f"no CLIP that open_clip knows (names begin {', '.join(beginnings[:_LISTED])})"
    names = guess_architectures(shapes)
    known = " or ".join(names) if names else "a CLIP that open_clip has no name for"
    width, layers, patch, *_ = facts
    tower = f"patch {patch}, " if patch else ""
    return f"{known} (image tower: {tower}width {width}, {layers} layers; {facts[6]} text positions)"


def guess_architectures(shapes: Shapes) -> list[str]:
    """List open_clip's names of the networks that tensors of these shapes fit; the activation leaves no trace in them.

    Returns:
        Names without ``-quickgelu``, the shortest first; empty for what open_clip does not know.
    """
    import open_clip

    facts = _measure(shapes)
    if facts is None:
        return []
    configs = {name: open_clip.get_model_config(name) for name in open_clip.list_models()}
    fitting = [name for name, config in configs.items() if not name.endswith("-quickgelu") and _expect(config) == facts]
    return sorted(fitting, key=lambda name: (len(name), name))


_Facts = tuple[int, int, int, int, int, int, int, int]
"""Width, layers and patch of the image tower, its side in pixels, size of the embedding, width, positions and vocabulary of
the text tower."""


def _measure(shapes: Shapes) -> _Facts | None:
    """Read a network's measures off its shapes; None if it is no CLIP of open_clip's own making."""
    names = {name.removeprefix("text."): shape for name, shape in shapes.items()}
    stem, positions, vocabulary = (
        names.get(name) for name in ("visual.conv1.weight", "positional_embedding", "token_embedding.weight")
    )
    projection = names.get("text_projection", names.get("text_projection.weight"))
    if stem is None or positions is None or vocabulary is None or projection is None or len(stem) != 4:
        return None
    text = (positions[-1], positions[0], vocabulary[0])
    if grid := names.get("visual.positional_embedding"):
        layers = 1 + max((int(m[1]) for n in names if n.startswith("visual.") and (m := _BLOCK_NUMBER.search(n))), default=-1)
        side = round((grid[0] - 1) ** 0.5) * stem[2]
        return (stem[0], layers, stem[2], side, projection[-1], *text)
    if pool := names.get("visual.attnpool.positional_embedding"):
        side = round((pool[0] - 1) ** 0.5) * 32
        return (stem[0] * 2, sum(map(bool, map(_STAGE_BLOCK.fullmatch, names))), 0, side, projection[-1], *text)
    return None


def _expect(config: Mapping[str, Any]) -> _Facts | None:
    """Return the measures that a network of open_clip's would have; None for those with a tower of timm or transformers."""
    vision, text = config["vision_cfg"], config["text_cfg"]
    if "timm_model_name" in vision or "hf_model_name" in text or "multimodal_cfg" in config:
        return None
    layers = vision["layers"]
    tower = (vision["width"], sum(layers) if isinstance(layers, list) else layers, vision.get("patch_size") or 0)
    words = (text["width"], text.get("context_length", 77), text.get("vocab_size", 49408))
    return (*tower, vision["image_size"], config["embed_dim"], *words)


def _compare(given: Shapes, wanted: Shapes) -> str:
    """Say how two sets of named shapes differ, in a few words; nothing if they do not."""
    other = [f"{n} is {given[n]} and not {wanted[n]}" for n in wanted if n in given and given[n] != wanted[n]]
    counts = [
        _list("missing", [name for name in wanted if name not in given]),
        _list("unexpected", [name for name in given if name not in wanted]),
        _list("of another shape", other),
    ]
    return "; ".join(filter(None, counts))


def _list(word: str, names: Collection[str]) -> str:
    shown = list(names)[:_LISTED]
    more = ", …" if len(names) > len(shown) else ""
    return f"{len(names)} {word}: {', '.join(shown)}{more}" if names else ""
