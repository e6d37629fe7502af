"""What a checkpoint file is, told by its bytes: torch's, safetensors, a zip around one, or one of the things it is not."""

from __future__ import annotations

import io
import os
import re
import shutil
import tempfile
import zipfile
import zlib
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Literal, final

from skygen.errors import StorageError, UnavailableError
from skygen.storage import STORAGE_FAULTS, storage_error

Kind = Literal["torch", "zip", "safetensors"]
SUFFIXES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".zip")
"""Endings by which a name is taken for a checkpoint file, rather than for a folder or a hub id."""
BROKEN_ZIP = (zipfile.BadZipFile, zlib.error, EOFError, NotImplementedError, RuntimeError, ValueError)
_HEAD_BYTES = 512
_LONGEST_HEADER = 100_000_000  # safetensors' own limit
_BLOCK = 1 << 20
_PICKLED = b"\x80"  # the first byte of any pickle since protocol 2, torch's files of before 1.6 among them
_PAGE = (b"<!doctype", b"<html", b"<?xml", b"<error")
_TITLE = re.compile(rb"<title>([^<]{1,80})</title>|<code>([^<]{1,80})</code>", re.IGNORECASE)


def recognize(path: Path, content: IO[bytes] | None = None) -> Kind:
    """Tell what a checkpoint file is, whatever it is called.

    Args:
        path: of the file.
        content: to look at in its place, such as the file inside the archive that is at ``path``.

    Returns:
        ``torch`` for what ``torch.save`` writes, ``zip`` for an archive around one, ``safetensors``.

    Raises:
        UnavailableError: it is none of them; the sentence says what it is.
    """
    if content is None:
        try:
            with path.open("rb") as file:
                return recognize(path, file)
        except OSError as error:
            raise UnavailableError(f"{path}: cannot be read ({error.strerror}); give a checkpoint file.") from error
    size = content.seek(0, os.SEEK_END)
    content.seek(0)
    head = content.read(_HEAD_BYTES)
    content.seek(0)
    if head.startswith(b"PK"):
        return _recognize_zip(path, content, size)
    if head[8:9] == b"{" and 0 < int.from_bytes(head[:8], "little") < _LONGEST_HEADER:
        return "safetensors"
    if head.startswith(_PICKLED):
        return "torch"
    raise UnavailableError(f"{path}: {_describe_stranger(head, size)}")


def is_plain(path: Path) -> bool:
    """Say whether a torch file can be mapped: it is a zip whose members are stored, as ``torch.save`` leaves them."""
    if not zipfile.is_zipfile(path):
        return False  # of before torch 1.6
    with zipfile.ZipFile(path) as archive:
        return all(member.compress_type == zipfile.ZIP_STORED for member in archive.infolist())


@contextmanager
def open_archived(path: Path) -> Iterator[Path | IO[bytes]]:
    """Open the one ``.pt`` inside a zip.

    A stored one is read where it lies. A compressed one is first unpacked into a file beside the zip: torch reads here and
    there, and each step back would unpack from the start (605 MB: 36 s in place, 4 s with the file).

    Yields:
        A file to read, or the path of the unpacked one, which goes when the block ends.

    Raises:
        UnavailableError: the zip holds no or several such files, or one of another kind.
        StorageError: the disk does not take the unpacked file.
    """
    with zipfile.ZipFile(path) as archive:
        members = [m for m in archive.infolist() if m.filename.endswith(".pt") and not _is_clutter(m.filename)]
        if len(members) != 1:
            raise UnavailableError(
                f"{path}: holds {len(members)} files ending in .pt, expected exactly one; unpack it and give the right file."
            )
        (member,) = members
        if member.compress_type == zipfile.ZIP_STORED and not member.flag_bits & 1:
            with _Window(path, _find_start(path, member), member.file_size) as window:
                file = io.BufferedReader(window, _BLOCK)
                recognize(path, file)
                yield file
            return
        folder = _pick_folder(path.parent, member.file_size)
        with tempfile.NamedTemporaryFile(dir=folder, prefix=f".{path.stem}.", suffix=".part") as unpacked:
            try:
                with archive.open(member) as source:
                    shutil.copyfileobj(source, unpacked, _BLOCK)
                unpacked.flush()
            except OSError as error:
                if error.errno not in STORAGE_FAULTS:
                    raise
                raise storage_error(unpacked.name, error) from error
            unpacked.seek(0)
            recognize(path, unpacked)
            yield Path(unpacked.name)


def describe_layout(shapes: Mapping[str, object]) -> str | None:
    """Say whose layout the names of tensors are in, where it is not open_clip's.

    Returns:
        Words such as ``a CLIP in transformers' layout``, or None if nothing is recognized.
    """
    for words, marks in _LAYOUTS.items():
        found = next((name for name in shapes for mark in marks if name.startswith(mark)), None)
        if found is not None:
            return f"{words} ({found})"
    return None


_LAYOUTS = {
    "an adapter (LoRA) and no model": ("base_model.model.", "lora_"),
    "a whole Stable Diffusion": ("model.diffusion_model.", "cond_stage_model.", "first_stage_model."),
    "the U-Net of a Stable Diffusion in diffusers' layout": ("down_blocks.", "mid_block.", "up_blocks."),
    "the autoencoder of a Stable Diffusion in diffusers' layout": ("encoder.down_blocks.", "decoder.up_blocks."),
    "a BLIP in transformers' layout": ("text_decoder.",),
    "a CLIP in transformers' layout": ("vision_model.", "text_model."),
}
"""Beginnings of names by the words for them; the first that fits is said."""


def _recognize_zip(path: Path, content: IO[bytes], size: int) -> Kind:
    try:
        with zipfile.ZipFile(content) as archive:
            names = archive.namelist()
    except BROKEN_ZIP as error:
        raise UnavailableError(f"{path}: is cut short or damaged, {size:,} bytes of it are here; download it again.") from error
    finally:
        content.seek(0)
    endings = {name.split("/", 1)[-1] for name in names}
    if "constants.pkl" in endings:
        raise UnavailableError(
            f"{path}: is a TorchScript archive, as OpenAI publishes its own CLIP, and holds no state dict; download the "
            "model that is meant, or name OpenAI's as openai-vit-b32 or openai-vit-l14."
        )
    return "torch" if "data.pkl" in endings else "zip"


def _describe_stranger(head: bytes, size: int) -> str:
    if not size:
        return "is empty; download it again."
    if head.startswith(b"version https://git-lfs"):
        declared = re.search(rb"size (\d+)", head)
        of = f" of {int(declared[1]):,} bytes" if declared else ""
        return f"is only git-lfs's pointer to the file{of}; run `git lfs pull` where it came from, or download the file itself."
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith(_PAGE):
        title = _TITLE.search(head)
        said = f" ({(title[1] or title[2]).decode('utf-8', 'replace').strip()})" if title else ""
        return f"is a web page or an error message{said} and no checkpoint; download the file itself."
    return f"is neither torch's, nor safetensors, nor a zip ({size:,} bytes that begin {head[:8]!r}); download it again."


def _is_clutter(name: str) -> bool:
    return "__MACOSX" in name or name.rsplit("/", 1)[-1].startswith("._")


def _find_start(path: Path, member: zipfile.ZipInfo) -> int:
    """Return where a stored member's bytes begin: its local header's two lengths need not be those of the directory."""
    with path.open("rb") as file:
        file.seek(member.header_offset)
        header = file.read(30)
    if header[:4] != b"PK\x03\x04":
        raise zipfile.BadZipFile("no local header where the directory says")
    return member.header_offset + 30 + int.from_bytes(header[26:28], "little") + int.from_bytes(header[28:30], "little")


def _pick_folder(beside: Path, size: int) -> Path:
    """Choose where a file of a size is unpacked: beside the zip, else where temporary files go."""
    folder = beside if os.access(beside, os.W_OK) else Path(tempfile.gettempdir())
    free = shutil.disk_usage(folder).free
    if size > free:
        raise StorageError(f"{folder}: unpacking the checkpoint needs {size:,} bytes, and {free:,} are free; free disk space.")
    return folder


@final
class _Window(io.RawIOBase):
    """A stretch of a file, as a file of its own."""

    mode = "rb"

    def __init__(self, path: Path, start: int, size: int) -> None:
        super().__init__()
        self._file = path.open("rb", buffering=0)
        self._start, self._size, self._position = start, size, 0

    def readable(self) -> bool:
        return True

    def seekable(self) -> bool:
        return True

    def tell(self) -> int:
        return self._position

    def seek(self, offset: int, whence: int = 0, /) -> int:
        self._position = max(0, offset + (0, self._position, self._size)[whence])
        return self._position

    def readinto(self, buffer: memoryview | bytearray, /) -> int:  # type: ignore[override]  # the base takes any buffer
        wanted = memoryview(buffer)[: max(0, min(len(buffer), self._size - self._position))]
        self._file.seek(self._start + self._position)
        count = self._file.readinto(wanted) or 0
        self._position += count
        return count

    def close(self) -> None:
        self._file.close()
        super().close()
