"""A checkpoint becomes safetensors that hold its weights bit by bit, and a scorer finds them."""

from __future__ import annotations

import hashlib
import json
import logging
import subprocess
import sys
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import open_clip
import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file
from torch import Tensor

from skygen.errors import StorageError, UnavailableError
from skygen.models.backbones import BACKBONES, Backbone
from skygen.models.convert import convert
from skygen.models.scorer import Scorer
from skygen.models.weights import read_state_dict
from skygen.seeding import Seeds

TINY = {
    "embed_dim": 16,
    "vision_cfg": {"image_size": 48, "layers": 2, "width": 32, "head_width": 16, "patch_size": 16},
    "text_cfg": {"context_length": 77, "vocab_size": 49408, "width": 32, "heads": 2, "layers": 2},
}


@pytest.fixture(scope="module", autouse=True)
def architecture(tmp_path_factory: pytest.TempPathFactory) -> None:
    folder = tmp_path_factory.mktemp("architectures")
    for name, quick in (("skygen-test-convert", False), ("skygen-test-convert-quickgelu", True)):
        (folder / f"{name}.json").write_text(json.dumps(TINY | {"quick_gelu": quick}))
    open_clip.add_model_config(folder)


@pytest.fixture
def checkpoints(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setitem(BACKBONES, "tiny", Backbone("skygen-test-convert", True, "Tiny", ("SkyScript",)))
    return tmp_path / "home" / "checkpoints"


def weights() -> dict[str, Tensor]:
    Seeds(0).reset_global("architecture", "tiny")
    return open_clip.create_model("skygen-test-convert", pretrained=None).state_dict()


def publish(path: Path, state: dict[str, Tensor] | None = None) -> Path:
    state = weights() if state is None else state
    content: dict[str, Any] = {
        "epoch": 20,
        "state_dict": {f"module.{name}": tensor for name, tensor in state.items()},
        "optimizer": {
            "state": {
                n: {"exp_avg": torch.zeros_like(t), "exp_avg_sq": torch.zeros_like(t)} for n, t in enumerate(state.values())
            },
            "param_groups": [{"lr": np.float64(1e-9)}],
        },
    }
    path.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content, path)  # noqa: TID251  # a published file is made up
    return path


def publish_zip(path: Path, method: int) -> Path:
    inner = publish(path.with_name("inner.pt"))
    with zipfile.ZipFile(path, "w", method) as archive:
        archive.write(inner, "Tiny/epoch_20.pt")
    inner.unlink()
    return path


@pytest.mark.parametrize("form", ["pt", "stored", "deflated", "safetensors"])
def test_the_weights_and_nothing_else_are_written(form: str, checkpoints: Path, tmp_path: Path) -> None:
    path = tmp_path / "download" / "Tiny.zip"
    path.parent.mkdir()
    match form:
        case "pt":
            path = publish(tmp_path / "download" / "Tiny" / "epoch_20.pt")
        case "stored" | "deflated":
            publish_zip(path, zipfile.ZIP_STORED if form == "stored" else zipfile.ZIP_DEFLATED)
        case _:
            path = convert(publish(path.with_suffix(".pt")), path.with_suffix(".safetensors")).path
    seen: list[tuple[int, int]] = []
    converted = convert(path, progress=lambda done, total: seen.append((done, total)))
    assert converted.path == checkpoints / "tiny.safetensors"
    state = weights()
    written = load_file(converted.path)
    assert sorted(written) == sorted(state)
    assert all(torch.equal(written[name], tensor) and written[name].dtype == tensor.dtype for name, tensor in state.items())
    assert [found.name for found in checkpoints.iterdir()] == ["tiny.safetensors"]
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert (converted.tensors, converted.size) == (len(state), converted.path.stat().st_size)
    assert (converted.name, converted.sha256, converted.source_size) == ("tiny", digest, path.stat().st_size)
    assert (converted.architectures, converted.quick_gelu) == (("skygen-test-convert",), True)
    assert converted.network.startswith("skygen-test-convert (image tower: patch 16, width 32, 2 layers")
    with safe_open(converted.path, framework="numpy") as file:
        assert file.metadata() == {
            "format": "pt", "source": path.name, "source_sha256": digest, "backbone": "tiny", "told_architecture": "",
            "architectures": "skygen-test-convert", "quick_gelu": "true",
        }  # fmt: skip
    assert seen == sorted(seen)
    assert seen[-1][0] == seen[-1][1]
    assert len({total for _, total in seen}) == 1


def test_a_scorer_finds_what_was_converted(checkpoints: Path, tmp_path: Path) -> None:
    path = publish(tmp_path / "Tiny" / "epoch_20.pt")
    expected = Scorer.load(str(path)).embed_texts(["a harbor"])
    with pytest.raises(UnavailableError, match="Tiny: its weights are not here"):
        Scorer.load("tiny")
    converted = convert(path)
    copy = converted.path.with_name("renamed.safetensors")
    copy.write_bytes(converted.path.read_bytes())
    for name in ("tiny", str(converted.path), "renamed"):
        scorer = Scorer.load(name)
        assert np.array_equal(scorer.embed_texts(["a harbor"]), expected), name
        assert scorer.trained_on == ("SkyScript",)


def test_what_the_user_says_of_a_file_goes_with_it(checkpoints: Path, tmp_path: Path) -> None:
    path = publish(tmp_path / "mine" / "epoch_7.pt")
    unknown = convert(path)
    assert (unknown.name, unknown.quick_gelu) == ("mine", None)
    with pytest.raises(UnavailableError, match=r"its network must be named; give --scorer\.architecture"):
        Scorer.load("mine")
    told = convert(path, architecture="skygen-test-convert-quickgelu")
    assert (told.name, told.quick_gelu) == ("mine", True)
    assert np.array_equal(
        Scorer.load("mine").embed_texts(["a dam"]),
        Scorer.load(str(path), architecture="skygen-test-convert-quickgelu").embed_texts(["a dam"]),
    )
    elsewhere = convert(path, tmp_path / "other" / "b.safetensors", architecture="skygen-test-convert")
    assert (elsewhere.name, elsewhere.quick_gelu) == (str(tmp_path / "other" / "b.safetensors"), False)
    with pytest.raises(UnavailableError, match=r"--scorer\.architecture Tiny: open_clip knows no such network"):
        convert(path, architecture="Tiny")


def test_every_kind_of_number_and_shape_survives(checkpoints: Path, tmp_path: Path) -> None:
    draw = Seeds(0).generator("kinds")
    kinds = (torch.float64, torch.float32, torch.float16, torch.bfloat16, torch.int64, torch.int32, torch.uint8, torch.bool)
    state = {str(kind): torch.randn(3, 5, generator=draw).mul(9).abs().to(kind) for kind in kinds}
    state |= {"scalar": torch.tensor(4.6), "empty": torch.zeros(0, 3), "turned": torch.randn(4, 6, generator=draw).T}
    state |= {"part": torch.randn(9, 4, generator=draw)[::2], "nan": torch.tensor([float("nan"), -0.0])}
    written = load_file(convert(publish(tmp_path / "a.pt", state)).path)
    assert sorted(written) == sorted(state)
    for name, tensor in state.items():
        assert written[name].dtype == tensor.dtype
        assert torch.equal(written[name], tensor) or name == "nan", name
    assert written["nan"].numpy().tobytes() == state["nan"].numpy().tobytes()
    with pytest.raises(UnavailableError, match="odd: is of the type complex64, which is not for weights"):
        convert(publish(tmp_path / "b.pt", {"odd": torch.zeros(2, dtype=torch.complex64)}))
    assert [found.name for found in checkpoints.iterdir()] == ["a.safetensors"]


def test_what_reads_back_otherwise_gets_no_name(checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import skygen.models.convert as module

    path = publish(tmp_path / "mine.pt")
    write = module._write

    def damage(temporary: Path, *arguments: Any) -> None:
        write(temporary, *arguments)
        content = bytearray(temporary.read_bytes())
        content[-3] ^= 1
        temporary.write_bytes(content)

    monkeypatch.setattr(module, "_write", damage)
    with pytest.raises(
        StorageError, match=r"mine\.safetensors: cannot be written \(.* reads back otherwise than it was written\)"
    ):
        convert(path)
    assert list(checkpoints.iterdir()) == []


def test_a_file_is_not_written_over_itself(checkpoints: Path, tmp_path: Path) -> None:
    path = convert(publish(tmp_path / "mine.pt")).path
    with pytest.raises(UnavailableError, match=r"mine\.safetensors: is what would be written; give another --output\."):
        convert(path)
    assert len(load_file(path)) == len(weights())


def test_another_file_than_the_published_one_is_noted(
    checkpoints: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    path = publish(tmp_path / "Tiny.pt")
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    for sha256, count in ((digest, 0), ("0" * 64, 1)):
        monkeypatch.setitem(BACKBONES, "tiny", replace(BACKBONES["tiny"], sha256=sha256))
        caplog.clear()
        convert(path)
        noted = [
            record.getMessage() for record in caplog.records if record.name == "skygen" and record.levelno == logging.WARNING
        ]
        expected = f"{path}: is not the file that was published by that name (its SHA-256 is {digest})"
        assert noted == [expected] * count


def test_what_is_no_checkpoint_is_refused(checkpoints: Path, tmp_path: Path) -> None:
    (tmp_path / "a.pt").write_text("<html>no</html>")
    with pytest.raises(UnavailableError, match=r"a\.pt: is a web page or an error message and no checkpoint"):
        convert(tmp_path / "a.pt")
    assert not checkpoints.exists()


PEAK = """
import resource, sys
import open_clip, numpy, torch, safetensors.torch
from pathlib import Path
from skygen.models.convert import convert
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
convert(Path(sys.argv[1]), Path(sys.argv[2]))
print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before)
"""


@pytest.mark.slow
def test_a_vit_b32_of_real_size_takes_little_more_memory_than_its_weights(checkpoints: Path, tmp_path: Path) -> None:
    """605 MB of weights in a file of 1.8 GB."""
    state = open_clip.create_model("ViT-B-32", pretrained=None).state_dict()
    size = sum(tensor.numel() * tensor.element_size() for tensor in state.values())
    path = publish(tmp_path / "SkyCLIP_ViT_B32_top50pct" / "epoch_20.pt", state)
    assert path.stat().st_size > 2.9 * size
    output = tmp_path / "out.safetensors"
    ran = subprocess.run([sys.executable, "-c", PEAK, str(path), str(output)], capture_output=True, text=True, check=True)
    assert int(ran.stdout) * 1024 < 1.6 * size
    written = read_state_dict(output)
    assert all(torch.equal(written[name], tensor) for name, tensor in state.items())
