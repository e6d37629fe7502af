"""The one way to save, verify, find, prune and restore training state.

A checkpoint is a folder ``step-NNNNNN`` that is either whole or absent: it is written under another name, every file is
flushed to the disk and hashed into ``manifest.json``, and only then is the folder renamed. Tensors are safetensors, the rest
is JSON; nothing here can run code when it is read.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from skygen.errors import StorageError
from skygen.storage import flush_to_disk, require_room

if TYPE_CHECKING:
    from torch import Tensor

logger = logging.getLogger("skygen")

MANIFEST = "manifest.json"


@dataclass(frozen=True, slots=True)
class Checkpoint:
    """What a folder ``step-NNNNNN`` holds.

    Args:
        step: updates done when it was saved.
        tensors: groups of named tensors, one safetensors file a group, such as ``parameters`` and ``optimizer``.
        state: plain values that go with them.
    """

    step: int
    tensors: Mapping[str, Mapping[str, Tensor]]
    state: Mapping[str, Any]


@dataclass(frozen=True, slots=True)
class Checkpoints:
    """The checkpoints of one run.

    Args:
        folder: ``runs/<name>/checkpoints``; made at the first save.
        total_limit: how many are kept; 0 keeps all.
    """

    folder: Path
    total_limit: int = 2

    def save(self, checkpoint: Checkpoint) -> Path:
        """Write a checkpoint, then prune older ones; a step that is already there whole is left as it is.

        Raises:
            StorageError: the disk is full or refuses; checkpoints saved before are untouched.
        """
        from safetensors import SafetensorError
        from safetensors.torch import save_file

        final = self.folder / f"step-{checkpoint.step:06d}"
        if verify(final):  # to replace it would leave a moment with neither the old nor the new one
            return final
        working = self.folder / f".{final.name}.{os.getpid()}"
        try:
            shutil.rmtree(working, ignore_errors=True)
            working.mkdir(parents=True)
            for group, tensors in checkpoint.tensors.items():
                save_file(
                    {name: tensor.detach().cpu().contiguous() for name, tensor in tensors.items()},
                    working / f"{group}.safetensors",
                )
            _write_json(working / "state.json", {"step": checkpoint.step, **checkpoint.state})
            _write_json(working / MANIFEST, {path.name: hash_file(path) for path in sorted(working.iterdir())})
            for path in working.iterdir():
                flush_to_disk(path)
            flush_to_disk(working)
            if final.exists():  # and damaged
                _withdraw(final)
            working.replace(final)
            flush_to_disk(self.folder)
        except (OSError, RuntimeError, SafetensorError) as error:  # the writers report a full disk each in its own way
            shutil.rmtree(working, ignore_errors=True)
            raise StorageError(
                f"{final}: the checkpoint could not be written ({error}); free disk space and run the same "
                "command again, it continues from the checkpoint before."
            ) from error
        self._prune(checkpoint.step)
        return final

    def require_room(self, size_bytes: int, saves: int) -> None:
        """See that the disk has room for the checkpoints to come, the one included that is written before an older one goes.

        Args:
            size_bytes: of one checkpoint.
            saves: checkpoints still to be written.

        Raises:
            StorageError: it has not.
        """
        there = len(self._folders())
        most = max(1, self.total_limit + 1 - there) if self.total_limit else saves
        mend = "free disk space, choose another --run.root, or keep fewer with --train.checkpoints_total_limit"
        require_room(self.folder, size_bytes * min(saves, most), mend)

    def latest(self) -> Checkpoint | None:
        """Read the newest checkpoint whose every file has the size and hash that its manifest says; None without one."""
        for folder in reversed(self._folders()):
            if verify(folder):
                return _read(folder)
            logger.warning(f"{folder}: damaged or incomplete, passed over; the run continues from the checkpoint before.")
        return None

    def _folders(self) -> list[Path]:
        folders = (path for path in self.folder.glob("step-*") if path.is_dir() and _step(path) >= 0)
        return sorted(folders, key=_step)  # as numbers: as text, step-1000000 would come before step-999999

    def _prune(self, newest: int) -> None:
        for folder in self._folders():
            if _step(folder) > newest:  # the run continued from before it, so it was damaged
                _withdraw(folder)
        if self.total_limit:
            for folder in self._folders()[: -self.total_limit]:
                _withdraw(folder)
        for leftover in self.folder.glob(".step-*"):
            shutil.rmtree(leftover)


def verify(folder: Path) -> bool:
    """Say whether every file that the manifest of ``folder`` names is there with its hash."""
    try:
        manifest = json.loads((folder / MANIFEST).read_text(encoding="utf-8"))
        return bool(manifest) and all(hash_file(folder / name) == digest for name, digest in manifest.items())
    except (OSError, ValueError, AttributeError):
        return False


def _withdraw(folder: Path) -> None:
    """Take a checkpoint's name away before its files: a kill in between must leave no half one under it."""
    folder.replace(folder.with_name(f".{folder.name}.old.{os.getpid()}"))


def _step(folder: Path) -> int:
    digits = folder.name.removeprefix("step-")
    return int(digits) if digits.isdecimal() else -1


def hash_file(path: Path) -> str:
    """Return the SHA-256 of a file as 64 hexadecimal digits."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _read(folder: Path) -> Checkpoint:
    from safetensors.torch import load_file

    state = json.loads((folder / "state.json").read_text(encoding="utf-8"))
    tensors = {path.stem: load_file(path) for path in sorted(folder.glob("*.safetensors"))}
    return Checkpoint(step=state.pop("step"), tensors=tensors, state=state)


def _write_json(path: Path, value: Any) -> None:
    path.write_text(json.dumps(value, indent=1, sort_keys=True) + "\n", encoding="utf-8")
