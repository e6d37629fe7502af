"""A small network of each kind that captions, what is true of it alone, and how tests show it pictures and train it."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from models.captioners import (
    build_blip,
    build_blip2,
    build_florence2,
    build_git,
    build_idefics3,
    build_paligemma,
    build_qwen2_5_vl,
)
from PIL import Image
from torch import Tensor, nn

from skygen.data.batch import Batch
from skygen.data.images import image_to_tensor
from skygen.models.captioner import Captioner
from skygen.models.captioners.family import Family
from skygen.seeding import Seeds

UNEQUAL = ("", "a beach", "three storage tanks beside a railway station")
PRESETS = ("text_decoder", "text_decoder_and_bridge", "all")
OVERHEAD = "Describe this overhead image in one sentence."


@dataclass(frozen=True)
class SmallNetwork:
    """What a test of every family has to know of one.

    Args:
        model_type: as transformers names it.
        build: writes it to a folder.
        side: of the squares that it is shown.
        other_side: of other squares that it can see.
        seen: patches and width of what the tower says of an image of ``side``.
        read: places and width of what the decoder reads of it.
        text: adapted linear layers of the decoder, by the beginning of their names; every preset has them.
        bridge: those that the preset of decoder and bridge has too.
        vision: those that only ``all`` has.
        unadapted: linear layers that no preset has.
        specials: special tokens that a caption may spell.
        prompt: what it is asked where nothing else is said.
        other_prompt: what else it may be asked.
        starts: tokens before a caption that count as tokens of it.
    """

    model_type: str
    build: Callable[[Path], None]
    side: int
    other_side: int
    seen: tuple[int, int]
    read: tuple[int, int]
    text: Mapping[str, int]
    bridge: Mapping[str, int]
    vision: Mapping[str, int]
    unadapted: frozenset[str]
    specials: tuple[str, ...]
    prompt: str = ""
    other_prompt: str = "a photo of"
    starts: int = 0

    def adapted(self, preset: str) -> dict[str, int]:
        """How many linear layers of each part a preset adapts."""
        parts = (self.text, self.bridge, self.vision)[: PRESETS.index(preset) + 1]
        return {beginning: count for part in parts for beginning, count in part.items()}


def blip() -> SmallNetwork:
    return SmallNetwork(
        "blip",
        build_blip.build,
        side=build_blip.RESOLUTION,
        other_side=48,
        seen=(build_blip.PLACES, 32),
        read=(build_blip.PLACES, 32),
        text={"text_decoder.bert.": 20},
        bridge={},  # the bridge is the decoder's cross-attention
        vision={"vision_model.": 8, "text_decoder.cls.": 2},  # with the tower the head that says the words is adapted
        unadapted=frozenset(),
        specials=("[SEP]", "[DEC]"),
        other_prompt="",  # BLIP is asked nothing
        starts=1,
    )


def blip2(build: Callable[[Path], None], text: Mapping[str, int]) -> SmallNetwork:
    return SmallNetwork(
        "blip-2",
        build,
        side=build_blip2.RESOLUTION,
        other_side=42,
        seen=(17, 32),
        read=(build_blip2.QUESTIONS, 32),
        text=text,
        bridge={"qformer.": 10 + 6, "language_projection": 1},  # two layers, of which the first looks at the patches
        vision={"vision_model.": 8},
        unadapted=frozenset({"language_model.lm_head"}),
        specials=("<image>", "</s>"),
        starts=1,
    )


def git() -> SmallNetwork:
    return SmallNetwork(
        "git",
        build_git.build,
        side=build_git.RESOLUTION,
        other_side=48,
        seen=(build_git.PLACES, 48),
        read=(build_git.PLACES, 32),
        text={"git.encoder.": 12},
        bridge={"git.visual_projection.": 1},
        vision={"git.image_encoder.": 12},
        unadapted=frozenset({"output"}),
        specials=("[SEP]", "[CLS]"),
        starts=1,
    )


def idefics3(model_type: str, build: Callable[[Path], None]) -> SmallNetwork:
    return SmallNetwork(
        model_type,
        build,
        side=build_idefics3.RESOLUTION,
        other_side=16,
        seen=(64, 48),
        read=(build_idefics3.PLACES, 48),
        text={"model.text_model.": 14},
        bridge={"model.connector.": 1},
        vision={"model.vision_model.": 12},
        unadapted=frozenset({"lm_head"}),
        specials=("<image>", "<end_of_utterance>"),
        prompt=OVERHEAD,
    )


def qwen() -> SmallNetwork:
    return SmallNetwork(
        "qwen2_5_vl",
        build_qwen2_5_vl.build,
        side=84,  # three by three places, so that the windows of two by two are not all full
        other_side=56,
        seen=(36, 32),
        read=(9, 32),
        text={"model.language_model.": 14},
        bridge={"model.visual.merger.": 2},
        vision={"model.visual.blocks.": 10},
        unadapted=frozenset({"lm_head"}),
        specials=("<|image_pad|>", "<|im_end|>"),
        prompt=OVERHEAD,
    )


def paligemma(build: Callable[[Path], None]) -> SmallNetwork:
    return SmallNetwork(
        "paligemma",
        build,
        side=build_paligemma.RESOLUTION,
        other_side=14,
        seen=(build_paligemma.PLACES, 32),
        read=(build_paligemma.PLACES, 32),
        text={"model.language_model.": 14},
        bridge={"model.multi_modal_projector.": 1},
        vision={"model.vision_tower.": 12},
        unadapted=frozenset({"lm_head"}),
        specials=("<image>", "<eos>"),
        prompt="caption en",
    )


def florence2() -> SmallNetwork:
    return SmallNetwork(
        "florence2",
        build_florence2.build,
        side=64,  # eight by eight patches, so that the windows of three by three are not all full
        other_side=32,
        seen=(64, 32),
        read=(65, 32),
        text={"model.language_model.encoder.": 12, "model.language_model.decoder.": 20},
        bridge={"model.multi_modal_projector.": 1},
        vision={"model.vision_tower.": 16},
        unadapted=frozenset({"lm_head"}),
        specials=("<image>", "</s>"),
        prompt="<CAPTION>",
        starts=1,
    )


NETWORKS = {
    "blip": blip(),
    "blip-2": blip2(build_blip2.build, {"language_model.": 12}),  # two layers of 6
    "blip-2 with T5": blip2(build_blip2.build_with_t5, {"language_model.encoder.": 2 * 7, "language_model.decoder.": 2 * 11}),
    "git": git(),
    "idefics3": idefics3("idefics3", build_idefics3.build),
    "smolvlm": idefics3("smolvlm", build_idefics3.build_smolvlm),
    "qwen2_5_vl": qwen(),
    "paligemma": paligemma(build_paligemma.build),
    "paligemma 2": paligemma(build_paligemma.build_second),
    "florence2": florence2(),
}


def pictures(side: int, count: int = 3) -> list[Image.Image]:
    """Squares of noise, the same each time."""
    draw = Seeds(0).numpy("pictures")
    return [Image.fromarray(draw.integers(0, 256, (side, side, 3), dtype=np.uint8)) for _ in range(count)]


def pixels(side: int, count: int = 3) -> Tensor:
    """The pictures in [-1, 1]."""
    return torch.stack([image_to_tensor(picture) for picture in pictures(side, count)])


def batch_of(captioner: Captioner, captions: tuple[str, ...], rows: slice = slice(None)) -> Batch:
    """A picture of the captioner's size for each caption, of which the rows alone are kept."""
    return Batch(pixels(captioner.resolution, len(captions))[rows], captions[rows], captions[rows])


def losses(captioner: Captioner, captions: tuple[str, ...], rows: slice = slice(None)) -> Tensor:
    """One a caption."""
    with torch.no_grad():
        return captioner.loss(batch_of(captioner, captions, rows), Seeds(0).generator("unused"))


def image_of(family: Family, count: int = 3) -> Tensor:
    """What the decoder reads of the pictures."""
    with torch.no_grad():
        return family.project(family.encode(pixels(family.resolution, count)))


def train(captioner: Captioner, parameters: list[nn.Parameter], steps: int, learning_rate: float) -> list[float]:
    """Take steps on the same captions, and return the loss before each."""
    optimizer = torch.optim.AdamW(parameters, lr=learning_rate)
    history = []
    for _ in range(steps):
        loss = captioner.loss(batch_of(captioner, UNEQUAL), Seeds(0).generator("unused")).mean()
        loss.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        optimizer.zero_grad()
        history.append(float(loss.detach()))
    return history
