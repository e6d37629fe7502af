from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest

from skygen import storage
from skygen.errors import StorageError
from skygen.storage import cache_folder, cache_folders, can_be_named, skygen_home, writing


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize(
    ("path", "fits"),
    [("images2/a.jpg", True), ("a" * 255, True), ("a" * 256, False), ("ä" * 127, True), ("ä" * 128, False),
     ("/".join(["a" * 200] * 5), True), ("a\0b", False), ("", True)],
)  # fmt: skip
def test_a_path_that_no_disk_takes_is_told(path: str, fits: bool) -> None:
    assert can_be_named(path) is fits


def test_a_file_is_there_only_when_it_is_whole(tmp_path: Path) -> None:
    path = tmp_path / "deep" / "file.txt"
    with writing(path) as temporary:
        temporary.write_text("new")
        assert not path.exists()
        assert temporary.parent == path.parent
    assert path.read_text() == "new"
    assert names(path.parent) == ["file.txt"]


def test_after_a_failure_the_old_file_is_as_it_was(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    path.write_text("old")
    with pytest.raises(RuntimeError, match="stopped"), writing(path) as temporary:
        temporary.write_text("half")
        raise RuntimeError("stopped")
    assert path.read_text() == "old"
    assert names(tmp_path) == ["file.txt"]


def test_two_writers_of_one_file_do_not_mix(tmp_path: Path) -> None:
    """Also not in two containers, in each of which the writer is process 1."""
    path = tmp_path / "file.txt"
    with writing(path) as first:
        first.write_text("first")
        with writing(path) as second:
            second.write_text("second")
        assert path.read_text() == "second"
    assert path.read_text() == "first"
    assert names(tmp_path) == ["file.txt"]


def test_a_full_disk_is_told_from_an_input_that_is_missing(tmp_path: Path) -> None:
    path = tmp_path / "file.txt"
    with pytest.raises(StorageError) as caught, writing(path):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
    assert str(caught.value) == (
        f"{path}: cannot be written (No space left on device); free disk space or choose another place."
    )
    with pytest.raises(FileNotFoundError), writing(path):
        (tmp_path / "absent").read_text()
    assert names(tmp_path) == []


@pytest.mark.parametrize("kind", ["a folder in its place", "a file in the place of its folder"])
def test_a_place_that_takes_no_file_is_named(kind: str, tmp_path: Path) -> None:
    path = tmp_path / "place" / "file.txt"
    if kind == "a folder in its place":
        path.mkdir(parents=True)
    else:
        path.parent.write_text("")
    with pytest.raises(StorageError) as caught, writing(path) as temporary:
        temporary.write_text("x")
    assert str(caught.value).startswith(f"{path}: cannot be written (")
    assert [name for name in names(tmp_path) if name != "place"] == []


def test_home_is_where_it_is_said_to_be(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    assert skygen_home() == tmp_path / "home"
    monkeypatch.delenv("SKYGEN_HOME")
    assert skygen_home() == Path.home() / ".cache" / "skygen"


def test_what_is_derived_lies_in_the_data_set_or_else_at_home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    one, other = tmp_path / "one", tmp_path / "other"
    assert cache_folder(tmp_path) == tmp_path / ".skygen"
    monkeypatch.setattr(storage.os, "access", lambda path, mode: False)
    assert cache_folder(one).parent == cache_folder(other).parent == tmp_path / "home" / "derived"
    assert cache_folder(one) != cache_folder(other)
    assert cache_folders(one) == [cache_folder(one), one / ".skygen"]  # what another person has left there can be read
