"""Weights that are not here are explained, and a published checkpoint is read whatever it was wrapped in."""

from __future__ import annotations

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

from skygen.errors import StorageError, UnavailableError
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


def write_zip(path: Path, *members: str, method: int = zipfile.ZIP_DEFLATED, content: Any = None) -> Path:
    inner = write_torch(path.with_name("inner.pt"), training_checkpoint() if content is None else content)
    with zipfile.ZipFile(path, "w", method) as archive:
        for member in members:
            archive.write(inner, member)
    inner.unlink()
    return path


def write_prefixed(path: Path, before: str) -> Path:
    return write_torch(path, {"model": {f"{before}{name}": tensor for name, tensor in state().items()}})


def test_the_same_weights_are_read_from_every_wrapping(tmp_path: Path) -> None:
    save_file(state(), tmp_path / "a.safetensors")
    members = ("SkyCLIP/epoch_20.pt", "__MACOSX/SkyCLIP/._epoch_20.pt")
    paths = [
        tmp_path / "a.safetensors",
        write_torch(tmp_path / "bare.pt", state()),
        write_torch(tmp_path / "epoch_20.pt", training_checkpoint()),
        write_prefixed(tmp_path / "compiled.pt", "_orig_mod.module."),
        write_zip(tmp_path / "deflated.zip", *members),
        write_zip(tmp_path / "stored.zip", *members, method=zipfile.ZIP_STORED),
    ]
    torch.save(training_checkpoint(), tmp_path / "old.pt", _use_new_zipfile_serialization=False)  # noqa: TID251  # made up
    paths.append(tmp_path / "old.pt")
    for name, source in (("called.zip", "epoch_20.pt"), ("called.pt", "stored.zip"), ("called.bin", "a.safetensors")):
        paths.append(Path(shutil.copy(tmp_path / source, tmp_path / name)))
    with (
        zipfile.ZipFile(tmp_path / "bare.pt") as plain,
        zipfile.ZipFile(tmp_path / "z.pt", "w", zipfile.ZIP_DEFLATED) as packed,
    ):
        for member in plain.infolist():
            packed.writestr(member.filename, plain.read(member))
    paths.append(tmp_path / "z.pt")  # packed once more by somebody; mapped, it would be read as noise
    before = sorted(tmp_path.iterdir())
    for path in paths:
        read = read_state_dict(path)
        assert sorted(read) == sorted(state()), path
        assert all(torch.equal(read[name], tensor) for name, tensor in state().items()), path
    assert len(paths) == 11
    assert sorted(tmp_path.iterdir()) == before  # the unpacked copy is gone


def test_a_stored_zip_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    paths = [write_zip(tmp_path / f"{m}.zip", "a/epoch_20.pt", method=m) for m in (zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED)]

    def refuse(*arguments: Any, **settings: Any) -> Any:
        raise PermissionError(13, "no temporary files here")

    monkeypatch.setattr("tempfile.NamedTemporaryFile", refuse)
    assert len(read_state_dict(paths[0])) == len(state())
    with pytest.raises(UnavailableError, match="no temporary files here"):
        read_state_dict(paths[1])


def test_a_zip_that_unpacks_to_more_than_the_disk_has_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_zip(tmp_path / "published.zip", "a/epoch_20.pt")
    usage = shutil.disk_usage(tmp_path)._replace(free=1000)
    monkeypatch.setattr("shutil.disk_usage", lambda _: usage)
    with pytest.raises(StorageError, match=r"unpacking the checkpoint needs [\d,]+ bytes, and 1,000 are free; free disk space"):
        read_state_dict(path)
    assert [found.name for found in tmp_path.iterdir()] == ["published.zip"]


class Payload:
    def __init__(self, marker: Path) -> None:
        self.marker = marker

    def __reduce__(self) -> Any:
        return os.mkdir, (str(self.marker),)


@pytest.mark.parametrize("place", ["torch file", "bare pickle", "beside the weights", "in a stored zip", "in a deflated zip"])
def test_a_pickle_that_would_run_code_is_refused_and_does_not_run(place: str, tmp_path: Path) -> None:
    path, marker = tmp_path / "evil.pt", tmp_path / "ran"
    hostile = {**training_checkpoint(), "args": Payload(marker)}
    match place:
        case "torch file":
            write_torch(path, Payload(marker))
        case "bare pickle":
            path.write_bytes(pickle.dumps(Payload(marker), protocol=2))
        case "beside the weights":
            write_torch(path, hostile)
        case "in a stored zip":
            write_zip(path, "epoch_20.pt", method=zipfile.ZIP_STORED, content=hostile)
        case _:
            write_zip(path, "epoch_20.pt", content=hostile)
    with pytest.raises(UnavailableError) as raised:
        read_state_dict(path)
    assert str(raised.value) == f"{path}: holds something other than tensors and is not loaded (posix.mkdir)."
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


def torch_script(path: Path) -> Path:
    """What OpenAI publishes its CLIP as, by the members of its archive."""
    with zipfile.ZipFile(path, "w") as archive:
        for name in ("data.pkl", "constants.pkl", "code/__torch__/model.py"):
            archive.writestr(f"ViT-B-32/{name}", b"x")
    return path


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:9119b7731c17dd66\nsize 1710635010\n"
PAGE = b"\n<!DOCTYPE html><html><head><title>Sign in</title></head></html>"
ERROR = b'<?xml version="1.0" encoding="UTF-8"?>\n<Error><Code>AccessDenied</Code></Error>'


@pytest.mark.parametrize(
    ("content", "said"),
    [
        (POINTER, "is only git-lfs's pointer to the file of 1,710,635,010 bytes; run `git lfs pull` where it came from, or "
         "download the file itself."),
        (PAGE, "is a web page or an error message (Sign in) and no checkpoint; download the file itself."),
        (ERROR, "is a web page or an error message (AccessDenied) and no checkpoint; download the file itself."),
        (b"", "is empty; download it again."),
        (b"hello, world", "is neither torch's, nor safetensors, nor a zip (12 bytes that begin b'hello, w'); download it "
         "again."),
    ],
    ids=["pointer", "page", "error of a server", "empty", "text"],
)  # fmt: skip
@pytest.mark.parametrize("place", ["a.pt", "a.safetensors", "a.zip", "in a zip"])
def test_what_is_no_checkpoint_is_named(content: bytes, said: str, place: str, tmp_path: Path) -> None:
    path = tmp_path / place.replace("in a zip", "b.zip")
    if place == "in a zip":
        with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
            archive.writestr("a/epoch_20.pt", content)
    else:
        path.write_bytes(content)
    with pytest.raises(UnavailableError) as raised:
        read_state_dict(path)
    assert str(raised.value) == f"{path}: {said}"


@pytest.mark.parametrize("method", [None, zipfile.ZIP_STORED, zipfile.ZIP_DEFLATED], ids=["bare", "stored", "deflated"])
def test_a_torchscript_archive_is_named(method: int | None, tmp_path: Path) -> None:
    path = torch_script(tmp_path / "ViT-B-32.pt")
    if method is not None:
        with zipfile.ZipFile(tmp_path / "outer.zip", "w", method) as archive:
            archive.write(path, "a/ViT-B-32.pt")
        path = tmp_path / "outer.zip"
    with pytest.raises(UnavailableError) as raised:
        read_state_dict(path)
    assert str(raised.value) == (
        f"{path}: is a TorchScript archive, as OpenAI publishes its own CLIP, and holds no state dict; download the model that "
        "is meant, or name OpenAI's as openai-vit-b32 or openai-vit-l14."
    )


def test_a_file_of_something_else_is_refused(tmp_path: Path) -> None:
    for content in ({"epoch": 3}, {}, [1, 2], {"state_dict": {}}, {"weight": torch.zeros(2), "step": 3}):
        with pytest.raises(UnavailableError, match=r"a\.pt: not a state dict of tensors; give the \.pt that training wrote\."):
            read_state_dict(write_torch(tmp_path / "a.pt", content))
    with pytest.raises(UnavailableError, match=r"b\.pt: cannot be read \(No such file or directory\); give a checkpoint file"):
        read_state_dict(tmp_path / "b.pt")


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
