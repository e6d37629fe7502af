"""Weights that are not here are explained, and a published checkpoint is read whatever it was wrapped in."""

import os
import pickle
import shutil
import zipfile
from collections import OrderedDict
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from safetensors.torch import save_file
from torch import Tensor

from skygen.errors import UnavailableError
from skygen.models.captioner import Captioner
from skygen.models.diffusion import Diffusion
from skygen.models.scorer import Scorer
from skygen.models.weights import locate, read_state_dict
from skygen.seeding import Seeds


def state() -> dict[str, Tensor]:
    shapes = {"visual.proj": (4, 3), "logit_scale": (), "ids": (2,)}
    return {name: torch.randn(shape, generator=Seeds(0).generator(name)) for name, shape in shapes.items()}


def training_checkpoint() -> dict[str, Any]:
    """What open_clip's training under DistributedDataParallel and AMP leaves, with the numpy scalars of its schedule."""
    return {
        "epoch": 20,
        "name": "SkyCLIP",
        "state_dict": OrderedDict((f"module.{name}", tensor) for name, tensor in state().items()),
        "optimizer": {
            "state": {0: {"step": torch.tensor(3.0), "exp_avg": torch.zeros(4, 3)}},
            "param_groups": [{"lr": np.float64(1e-9), "betas": (0.9, 0.98), "params": [0]}],
        },
        "scaler": {
            "scale": 65536.0,
            "growth_factor": 2.0,
            "backoff_factor": 0.5,
            "growth_interval": 2000,
            "_growth_tracker": 7,
        },
    }


def write_torch(path: Path, content: Any) -> Path:
    torch.save(content, path)  # noqa: TID251  # a published file is made up
    return path


def write_zip(path: Path, *members: str) -> Path:
    inner = write_torch(path.with_name("inner.pt"), training_checkpoint())
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for member in members:
            archive.write(inner, member)
    return path


def test_the_same_weights_are_read_from_every_wrapping(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    paths = [
        tmp_path / "a.safetensors",
        write_torch(tmp_path / "bare.pt", state()),
        write_torch(tmp_path / "epoch_20.pt", training_checkpoint()),
        write_zip(tmp_path / "published.zip", "SkyCLIP/epoch_20.pt", "__MACOSX/SkyCLIP/._epoch_20.pt"),
    ]
    for path in paths:
        read = read_state_dict(path)
        assert sorted(read) == sorted(state()), path
        assert all(torch.equal(read[name], tensor) for name, tensor in state().items()), path


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", ["torch file", "bare pickle", "beside the weights"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(place: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    match place:
        case "torch file":
            write_torch(path, Payload(marker))
        case "bare pickle":
            path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
        case _:
            write_torch(path, {**training_checkpoint(), "args": Payload(marker)})
    with pytest.raises(UnavailableError, match=r"evil\.pt: holds something other than tensors and is not loaded"):
        read_state_dict(path)
    assert not marker.exists()


@pytest.mark.parametrize("name", ["cut.pt", "cut.safetensors", "cut.zip"])
def test_a_file_cut_short_is_explained(name: str, tmp_path: Path) -> None:
    save_file(state(), tmp_path / "cut.safetensors")
    write_torch(tmp_path / "cut.pt", training_checkpoint())
    write_zip(tmp_path / "cut.zip", "epoch_20.pt")
    path = tmp_path / name
    path.write_bytes(path.read_bytes()[: path.stat().st_size // 2])
    with pytest.raises(UnavailableError, match=name):
        read_state_dict(path)


@pytest.mark.parametrize(
    ("members", "count"), [(("a/epoch_20.pt", "b/epoch_20.pt"), 2), (("a/readme.txt",), 0)], ids=["two", "none"]
)
def test_a_zip_without_exactly_one_checkpoint_is_refused(members: tuple[str, ...], count: int, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=rf"holds {count} files ending in \.pt, expected exactly one; unpack it"):
        read_state_dict(write_zip(tmp_path / "published.zip", *members))


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match="not a state dict of tensors"):
        read_state_dict(write_torch(tmp_path / "a.pt", {"epoch": 3}))
    (tmp_path / "a.txt").write_text("hello")
    with pytest.raises(UnavailableError, match=r"a\.txt"):
        read_state_dict(tmp_path / "a.txt")


def test_a_folder_is_found_and_one_without_the_file_is_not(captioner_folder: Path, tmp_path: Path) -> None:
    assert locate(str(captioner_folder), "captioner", "config.json") == str(captioner_folder)
    with pytest.raises(UnavailableError) as raised:
        locate(str(tmp_path), "stable_diffusion", "model_index.json")
    assert str(raised.value) == (
        f"{tmp_path}: no model_index.json there, so this is no stable diffusion; give a folder saved by save_pretrained, "
        "an id on the Hugging Face hub, or `miniature`."
    )
    assert raised.value.exit_code == 69


def test_a_hub_id_that_is_not_cached_says_what_to_download(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    with pytest.raises(UnavailableError, match=r"run `hf download nobody/nothing`, then copy that cache here \(HF_HOME\)"):
        locate("nobody/nothing", "captioner", "config.json")


@pytest.mark.parametrize(
    ("kind", "lost"),
    [
        ("captioner", "model.safetensors"),
        ("captioner", "tokenizer_config.json"),
        ("stable_diffusion", "unet/diffusion_pytorch_model.safetensors"),
        ("stable_diffusion", "text_encoder/model.safetensors"),
        ("skyclip", "open_clip_model.safetensors"),
    ],
)
def test_a_model_that_was_copied_in_part_is_explained(
    kind: str, lost: str, captioner_folder: Path, stable_diffusion_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    source = {"captioner": captioner_folder, "stable_diffusion": stable_diffusion_folder, "skyclip": skyclip_folder}[kind]
    load: Any = {"captioner": Captioner, "stable_diffusion": Diffusion, "skyclip": Scorer}[kind].load
    folder = tmp_path / kind
    shutil.copytree(source, folder)
    (folder / lost).unlink()
    if lost == "tokenizer_config.json":
        (folder / "tokenizer.json").unlink()
    with pytest.raises(UnavailableError) as raised:
        load(str(folder))
    assert str(folder) in str(raised.value)
    assert "\n" not in str(raised.value)
