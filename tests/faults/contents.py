"""What a folder holds: whether each file in it is whole, and whether two folders hold the same but for clocks and names."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from hashlib import sha256
from itertools import zip_longest
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow.ipc
import pyarrow.parquet
import torch
import yaml
from PIL import Image
from safetensors import safe_open

CLOCKS = {"images_per_second", "data_seconds", "seconds", "estimate"}
"""Fields that tell how long something took, or will take."""
OF_A_START = {"environment.json"}
"""Files that tell which command, machine and process made the rest."""
APPENDED = {"log.jsonl", "rejects.jsonl", "skipped.jsonl"}
"""Files that grow by lines: the last may be cut short, and whoever reads them knows."""
BLOCK = 4096
"""Bytes that a tmpfs gives a file at a time."""
LASTING = {".skygen", ".gitattributes"}
"""Names with a dot that are meant to stay."""
LOCK = ".lock"
"""Ending of files that say who is at work, and stay."""
COMMIT = re.compile(r"^\| `commit` \| `\w+` \|$", re.MULTILINE)
"""A card's line that changes when somebody commits while the tests run."""
TEXTS = {".json", ".jsonl", ".csv", ".md", ".yaml", ".txt", ".html"}


def final_files(folder: Path) -> list[Path]:
    """List the files under final names: none that is still being written, which have a dot before their own or a folder's."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.name.endswith(LOCK) and not _is_unfinished(path.relative_to(folder)))


def leftovers(folder: Path) -> list[Path]:
    """List what is still being written, or was when something was killed."""
    found = (path for path in folder.rglob("*") if path.is_file())
    return sorted(path for path in found if not path.name.endswith(LOCK) and _is_unfinished(path.relative_to(folder)))


def _is_unfinished(path: Path) -> bool:
    return any(part.startswith(".") and part not in LASTING for part in path.parts)


def size_on_disk(folder: Path) -> int:
    """Return the bytes that the files of a folder take on a tmpfs, which gives them in blocks."""
    return sum(-(-path.stat().st_size // BLOCK) * BLOCK for path in folder.rglob("*") if path.is_file())


def require_whole(folder: Path) -> int:
    """Read every file under a final name to its end; return how many there are."""
    files = final_files(folder)
    for path in files:
        try:
            _read_to_its_end(path)
        except Exception as error:
            raise AssertionError(f"{path} is there under its final name, and is not whole: {error!r}") from error
    return len(files)


def _read_to_its_end(path: Path) -> None:
    kind = path.suffix
    if kind == ".jsonl":
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        whole = [line for line in lines if line.endswith("\n")]
        assert len(lines) == len(whole) or path.name in APPENDED, "its last line is cut short"
        for line in whole:
            json.loads(line)
    elif kind == ".json":
        json.loads(path.read_text(encoding="utf-8"))
    elif kind == ".yaml":
        assert yaml.safe_load(path.read_text(encoding="utf-8")), "it is empty"
    elif kind == ".safetensors":
        with safe_open(path, framework="np") as file:  # compares the length with what the header says
            assert list(file.keys()), "it holds nothing"
    elif kind in (".png", ".jpg"):
        with Image.open(path) as picture:
            picture.load()
    elif kind == ".npy":
        np.load(path, allow_pickle=False)
    elif kind == ".parquet":
        pyarrow.parquet.read_table(path)
    elif kind == ".arrow":
        pyarrow.ipc.open_file(path).read_all()
    else:
        assert path.read_bytes(), "it is empty"


def contents(folder: Path, named: Path | None = None) -> dict[str, Any]:
    """Return what the files of a folder hold, by their names.

    Left out is what tells when, by which command and how fast; the folder's own path is a word in texts. Shards of kept
    features may be cut differently each time: they are one entry, a digest a key.

    Args:
        folder: that is looked at.
        named: its path as those knew it who wrote there, where that is another.
    """
    found: dict[str, Any] = {}
    for path in final_files(folder):
        name = path.relative_to(folder).as_posix()
        if path.name in OF_A_START:
            continue
        if len(path.stem) == 64 and path.suffix == ".safetensors":
            rows = found.setdefault(f"{Path(name).parent.as_posix()}/*", {})
            for key, digest in _rows(path):
                assert key not in rows, f"{path}: kept twice"
                rows[key] = digest
        elif path.suffix in TEXTS:
            text = path.read_text(encoding="utf-8").replace(str(named or folder), "FOLDER")
            text = COMMIT.sub("", text)
            found[name] = _without_clocks(path.suffix, text)
        else:
            found[name] = sha256(path.read_bytes()).hexdigest()
    return found


def _rows(path: Path) -> Iterator[tuple[str, str]]:
    with safe_open(path, framework="pt") as file:
        keys, values = file.get_tensor("keys"), file.get_tensor("values")
    for key, value in zip(keys, values, strict=True):
        yield bytes(key.tolist()).hex(), sha256(value.reshape(-1).view(torch.uint8).numpy().tobytes()).hexdigest()


def _without_clocks(kind: str, text: str) -> Any:
    if kind == ".jsonl":
        return [_drop_clocks(json.loads(line)) for line in text.splitlines()]
    return _drop_clocks(json.loads(text)) if kind == ".json" else text


def _drop_clocks(value: Any) -> Any:
    return {name: each for name, each in value.items() if name not in CLOCKS} if isinstance(value, dict) else value


def require_same(first: dict[str, Any], second: dict[str, Any]) -> None:
    """Require that two folders hold the same; name the files that differ."""
    assert first.keys() == second.keys()
    different = {name: _differences(first[name], second[name]) for name in first if first[name] != second[name]}
    assert not different, different


def _differences(first: Any, second: Any) -> list[tuple[str, str]]:
    """Return what differs, line by line."""
    lines = (
        str(each).splitlines() if isinstance(each, str) else each if isinstance(each, list) else [each]
        for each in (first, second)
    )
    return [(str(one), str(other)) for one, other in zip_longest(*lines) if one != other]
