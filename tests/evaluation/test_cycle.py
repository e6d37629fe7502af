"""The cycle score against closed forms on a toy scorer, through a real network, and captions found by file name."""

from __future__ import annotations

import json
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import Tensor, nn

from skygen.errors import DataError, UnavailableError
from skygen.evaluation.screening.cycle import cycle_scores, read_captions
from skygen.models.scorer import Scorer

VECTORS = {"a lake": (2.0, 0.0), "a pond": (1.0, 1.0), "a road": (0.0, 3.0), "nothing": (-1.0, 0.0)}


class ToyText(nn.Module):
    """Embeds a text as its row of ``VECTORS``, and notes what it was asked."""

    def __init__(self) -> None:
        super().__init__()
        self.table = nn.Parameter(torch.tensor(list(VECTORS.values())))
        self.asked: list[int] = []

    def encode_text(self, tokens: Tensor, normalize: bool = False) -> Tensor:
        self.asked += tokens[:, 0].tolist()
        return self.table[tokens[:, 0]]


def tokenize(texts: Sequence[str]) -> Tensor:
    names = list(VECTORS)
    return torch.tensor([[names.index(text)] for text in texts])


def toy_scorer() -> tuple[Scorer, ToyText]:
    model = ToyText()
    return Scorer("toy", model, lambda image: image, tokenize, {}, batch_size=3), model


def test_the_cycle_score_is_the_cosine_of_prompt_and_caption_each_text_embedded_once() -> None:
    scorer, model = toy_scorer()
    prompts = ["a lake", "a lake", "a lake", "a road", "a lake"]
    captions = ["a lake", "a pond", "a road", "a pond", "nothing"]
    found = cycle_scores(scorer, prompts, captions)
    assert found.dtype == np.float32
    assert found == pytest.approx([1.0, 0.5**0.5, 0.0, 0.5**0.5, -1.0], abs=1e-6)
    assert sorted(model.asked) == [0, 1, 2, 3]


def test_a_view_prefix_is_no_difference() -> None:
    scorer, _ = toy_scorer()
    assert cycle_scores(scorer, ["a satellite image of a lake"], ["a lake"]) == pytest.approx([1.0])


def test_rounding_never_leaves_the_range(skyclip_folder: Path) -> None:
    scorer = Scorer.load(str(skyclip_folder))
    texts = [f"{count} boats on a lake" for count in range(30)]
    found = cycle_scores(scorer, texts, texts)
    assert found.max() <= 1.0
    assert found == pytest.approx(np.ones(30), abs=1e-5)
    crossed = cycle_scores(scorer, texts, texts[::-1])
    assert crossed == pytest.approx((scorer.embed_texts(texts) * scorer.embed_texts(texts[::-1])).sum(axis=1), abs=1e-5)


@pytest.mark.parametrize(("prompts", "captions", "words"), [(["a lake"], [], "1 prompts but 0"), ([], [], "no prompt")])
def test_counts_that_differ_are_refused(prompts: list[str], captions: list[str], words: str) -> None:
    with pytest.raises(DataError, match=words):
        cycle_scores(toy_scorer()[0], prompts, captions)


NAMES = [f"images/{index:06d}.png" for index in range(3)]


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    folder = tmp_path / "set" / "samples"
    (folder / "images").mkdir(parents=True)
    for name in NAMES:
        Image.new("RGB", (8, 8)).save(folder / name)
    return folder


def write(path: Path, lines: Sequence[Any]) -> Path:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_captions_are_found_by_file_name_in_any_order_among_others(samples: Path, tmp_path: Path) -> None:
    lines = [{"file_name": str(samples / name), "text": f"caption of {name}"} for name in reversed(NAMES)]
    lines.append({"file_name": str(tmp_path / "elsewhere" / "boat.png"), "text": "a boat"})
    path = write(tmp_path / "captions.jsonl", lines)
    assert read_captions(path, samples, NAMES) == [f"caption of {name}" for name in NAMES]
    shutil.move(tmp_path / "set", tmp_path / "moved")
    assert read_captions(path, tmp_path / "moved" / "samples", NAMES) == [f"caption of {name}" for name in NAMES]


def test_captions_of_a_working_folder_are_found(samples: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    path = write(tmp_path / "captions.jsonl", [{"file_name": f"set/samples/{name}", "text": name} for name in NAMES])
    assert read_captions(path, samples, NAMES) == NAMES


def test_the_captions_of_another_set_are_not_taken_for_this_ones(samples: Path, tmp_path: Path) -> None:
    shutil.copytree(samples, tmp_path / "other" / "samples")
    path = write(
        tmp_path / "captions.jsonl", [{"file_name": str(tmp_path / "other" / "samples" / name), "text": "x"} for name in NAMES]
    )
    with pytest.raises(DataError, match=r"no caption for 3 of 3 pictures .* images/000000\.png first"):
        read_captions(path, samples, NAMES)


def test_what_does_not_fit_is_said(samples: Path, tmp_path: Path) -> None:
    path = tmp_path / "captions.jsonl"
    with pytest.raises(UnavailableError, match="cannot be read"):
        read_captions(path, samples, NAMES)
    lines = [{"file_name": str(samples / name), "text": name} for name in NAMES]
    write(path, lines[:2])
    with pytest.raises(DataError, match=r"no caption for 1 of 3 pictures .* images/000002\.png first.*recipes/caption\.py"):
        read_captions(path, samples, NAMES)
    write(path, [*lines, {"file_name": str(samples / NAMES[1]), "text": "something else"}])
    with pytest.raises(DataError, match=r"line 4: images/000001\.png has two captions"):
        read_captions(path, samples, NAMES)
    write(path, [*lines[:2], {"file_name": str(samples / NAMES[2])}])
    with pytest.raises(DataError, match="line 3: not a line"):
        read_captions(path, samples, NAMES)
    write(path, [*lines[:2], {"file_name": str(samples / NAMES[2]), "text": None}])
    with pytest.raises(DataError, match="line 3: file_name and text"):
        read_captions(path, samples, NAMES)
