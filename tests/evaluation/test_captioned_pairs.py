"""References are counted as often as the data set's files have them."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.evaluation.captions import captioned_pairs
from skygen.evaluation.captions.captioned_pairs import read_captioned_pairs


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    texts = {"a": ["a lake", "a lake", "A satellite image. It shows: a pond"], "b": ["a road"]}
    images = [
        {"filename": f"{name}.png", "split": "test", "sentences": [{"raw": text} for text in some]}
        for name, some in texts.items()
    ]
    (tmp_path / "dataset_own.json").write_text(json.dumps({"images": images, "dataset": "own"}))
    for name in texts:
        Image.fromarray(np.zeros((16, 16, 3), dtype=np.uint8)).save(tmp_path / f"{name}.png")
    return tmp_path


def test_repeats_come_back_and_view_prefixes_go(folder: Path) -> None:
    pairs = read_captioned_pairs(PairSettings(folder, split="test"), Rejects(None))
    assert [pair.captions for pair in pairs] == [("a lake", "a lake", "a pond"), ("a road",)]


def test_of_very_large_lists_each_reference_counts_once_and_it_is_said(
    folder: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(captioned_pairs, "LARGEST_WITH_REPEATS", 10)
    with caplog.at_level(logging.INFO):
        pairs = read_captioned_pairs(PairSettings(folder, split="test"), Rejects(None))
    assert [pair.captions for pair in pairs] == [("a lake", "a pond"), ("a road",)]
    assert f"{folder}: each reference counts once, as its lists are larger than 100 MB" in caplog.messages
