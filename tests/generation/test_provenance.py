"""A generated picture says that it is synthetic, and how to make it again."""

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.errors import StorageError
from skygen.generation.provenance import DIGITAL_SOURCE_TYPE, save_synthetic

RECORD = {"text": 'a "dam" <b>', "seed": 7, "num_inference_steps": 20, "guidance_scale": 5.0, "base": "miniature"}


def test_the_file_carries_its_record(tmp_path: Path) -> None:
    image = Image.fromarray(np.arange(192, dtype=np.uint8).reshape(8, 8, 3))
    save_synthetic(image, tmp_path / "a.png", RECORD)
    with Image.open(tmp_path / "a.png") as read:
        assert np.array_equal(np.asarray(read), np.asarray(image))
        assert json.loads(read.info["skygen"]) == RECORD
        assert DIGITAL_SOURCE_TYPE in read.info["XML:com.adobe.xmp"]
        assert read.info["parameters"].startswith('a "dam" <b>\nSteps: 20, CFG scale: 5.0, Seed: 7')
    assert [path.name for path in tmp_path.iterdir()] == ["a.png"]


def test_the_same_picture_is_the_same_bytes(tmp_path: Path) -> None:
    for name in ("a.png", "b.png"):
        save_synthetic(Image.new("RGB", (8, 8)), tmp_path / name, RECORD)
    assert (tmp_path / "a.png").read_bytes() == (tmp_path / "b.png").read_bytes()


def test_a_place_that_cannot_be_written_is_explained(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("in the way")
    with pytest.raises(StorageError, match=r"cannot be written .* free disk space"):
        save_synthetic(Image.new("RGB", (8, 8)), tmp_path / "file" / "a.png", RECORD)
