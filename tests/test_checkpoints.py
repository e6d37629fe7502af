"""A checkpoint is whole or absent: whatever happens to the newest, the one before it is found."""

import resource
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from skygen.checkpoints import Checkpoint, Checkpoints, verify
from skygen.errors import StorageError


def checkpoint(step: int, size: int = 8) -> Checkpoint:
    tensors = {"parameters": {"w": torch.full((size,), float(step))}, "optimizer": {"step/w": torch.tensor(float(step))}}
    return Checkpoint(step, tensors, {"seed": 0})


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.fixture
def saved(tmp_path: Path) -> Checkpoints:
    checkpoints = Checkpoints(tmp_path / "checkpoints")
    checkpoints.save(checkpoint(1))
    checkpoints.save(checkpoint(2))
    return checkpoints


def test_without_a_checkpoint_there_is_none(tmp_path: Path) -> None:
    assert Checkpoints(tmp_path / "absent").latest() is None


def test_what_is_saved_is_read_back(saved: Checkpoints) -> None:
    latest = saved.latest()
    assert latest is not None
    assert (latest.step, latest.state) == (2, {"seed": 0})
    assert torch.equal(latest.tensors["parameters"]["w"], torch.full((8,), 2.0))
    assert latest.tensors["optimizer"]["step/w"] == 2


def flip_a_bit(folder: Path) -> None:
    path = folder / "parameters.safetensors"
    content = bytearray(path.read_bytes())
    content[-3] ^= 1
    path.write_bytes(content)


def cut_short(folder: Path) -> None:
    path = folder / "parameters.safetensors"
    path.write_bytes(path.read_bytes()[:-4])


def lose_a_file(folder: Path) -> None:
    (folder / "optimizer.safetensors").unlink()


def change_the_state(folder: Path) -> None:
    (folder / "state.json").write_text('{"step": 3, "seed": 0}')


def lose_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").unlink()


def tear_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text((folder / "manifest.json").read_text()[:40])


def empty_the_manifest(folder: Path) -> None:
    (folder / "manifest.json").write_text("{}")


DAMAGES = [flip_a_bit, cut_short, lose_a_file, change_the_state, lose_the_manifest, tear_the_manifest, empty_the_manifest]


@pytest.mark.parametrize("damage", DAMAGES)
def test_a_damaged_checkpoint_is_passed_over_and_said(
    damage: Callable[[Path], None], saved: Checkpoints, caplog: pytest.LogCaptureFixture
) -> None:
    damage(saved.folder / "step-000002")
    latest = saved.latest()
    assert latest is not None
    assert latest.step == 1
    assert "step-000002: damaged or incomplete, passed over" in caplog.text


def test_a_half_written_folder_is_never_found_and_is_cleared_away(saved: Checkpoints) -> None:
    half = saved.folder / ".step-000003.4711"
    half.mkdir()
    (half / "parameters.safetensors").write_bytes(b"half")
    (saved.folder / "step-notes").mkdir()
    latest = saved.latest()
    assert latest is not None
    assert latest.step == 2
    saved.save(checkpoint(3))
    assert names(saved.folder) == ["step-000002", "step-000003", "step-notes"]


def test_older_ones_are_pruned_by_number_not_by_spelling(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=2)
    for step in (999_998, 999_999, 1_000_000):
        checkpoints.save(checkpoint(step))
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 1_000_000
    assert names(tmp_path) == ["step-1000000", "step-999999"]


def test_zero_keeps_all(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=0)
    for step in range(1, 5):
        checkpoints.save(checkpoint(step))
    assert len(names(tmp_path)) == 4


def test_a_damaged_newer_one_does_not_push_out_the_good_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=1)
    checkpoints.save(checkpoint(5))
    flip_a_bit(tmp_path / "step-000005")
    checkpoints.save(checkpoint(3))
    latest = checkpoints.latest()
    assert latest is not None
    assert latest.step == 3


def test_a_damaged_one_is_replaced_when_its_step_comes_again(saved: Checkpoints) -> None:
    flip_a_bit(saved.folder / "step-000002")
    saved.save(checkpoint(2))
    assert verify(saved.folder / "step-000002")


def test_a_whole_one_is_not_touched_when_saved_again(saved: Checkpoints) -> None:
    """Between removing the old and renaming the new, a kill would leave neither."""
    before = (saved.folder / "step-000002" / "manifest.json").stat().st_ino
    saved.save(checkpoint(2))
    assert (saved.folder / "step-000002" / "manifest.json").stat().st_ino == before


@contextmanager
def no_file_above(size: int) -> Iterator[None]:
    """Let every write fail that would make a file larger, as a full disk does."""
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)


def test_a_full_disk_is_explained_and_leaves_what_was_there(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path, total_limit=1)
    checkpoints.save(checkpoint(1))
    with no_file_above(50_000), pytest.raises(StorageError) as raised:
        checkpoints.save(checkpoint(2, size=100_000))
    assert "step-000002: the checkpoint could not be written" in str(raised.value)
    assert "free disk space and run the same command again" in str(raised.value)
    assert names(tmp_path) == ["step-000001"]
    assert verify(tmp_path / "step-000001")
