"""Where weights are found, and the one reader of published checkpoint files.

Looking comes before importing: a name whose weights are not here ends with code 69 and one sentence within seconds, before
torch or diffusers are loaded.
"""

from __future__ import annotations

import re
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from errno import ENOENT
from pathlib import Path
from typing import IO, TYPE_CHECKING, Any

from skygen.errors import StorageError, UnavailableError
from skygen.models.checkpoint_files import is_plain, open_archived, recognize

if TYPE_CHECKING:
    from torch import Tensor

MINIATURE = Path(__file__).parents[1] / "miniature" / "weights"
HUB_TIMEOUT_SECONDS = 3.0


@dataclass(frozen=True)
class ModelSettings:
    """Which model, and the adapter on it."""

    name: str = "miniature"
    """``miniature``, a folder, or an id on the Hugging Face hub."""
    adapter: Path | None = None
    """Folder of a saved adapter, ``runs/<name>/adapter``."""


def locate(name: str, part: str, index_file: str) -> str:
    """Find the weights that ``--model.name`` or ``--scorer.name`` names.

    Args:
        name: ``miniature``, a folder, or an id on the Hugging Face hub.
        part: which of the miniature's models, such as ``captioner``.
        index_file: the file that makes a folder such a model, such as ``model_index.json``.

    Returns:
        A folder as a string, or the hub id where the hub can be reached or its cache holds the model.

    Raises:
        UnavailableError: the weights are not here and cannot be fetched now.
    """
    folder = MINIATURE / part if name == "miniature" else Path(name).expanduser()
    if (folder / index_file).is_file():
        return str(folder)
    if name == "miniature" or folder.is_dir() or folder.is_absolute() or name.count("/") != 1:
        raise UnavailableError(
            f"{folder}: no {index_file} there, so this is no {part.replace('_', ' ')}; give a folder "
            "saved by save_pretrained, an id on the Hugging Face hub, or `miniature`."
        )
    if hub_answers():
        return name
    if find_cached(name, index_file):
        stay_offline()
        return name
    raise UnavailableError(
        f"{name}: not in the Hugging Face cache and the hub cannot be reached; where it can, run `hf download {name}`, then "
        f"copy that cache here (HF_HOME) or give the downloaded folder's path in place of the name."
    )


@contextmanager
def reading_weights(name: str) -> Iterator[None]:
    """Explain what a library raises where a folder or a hub's cache holds only a part of a model.

    Raises:
        UnavailableError: files are missing or damaged.
    """
    from safetensors import SafetensorError

    try:
        yield
    except (OSError, SafetensorError) as error:
        if isinstance(error, OSError) and error.errno not in (None, ENOENT):
            raise
        reason = str(error).strip().splitlines()[0].rstrip(".")
        raise UnavailableError(f"{name}: its files are not all here ({reason}); copy or download all of it again.") from error


def hide_loading_bars() -> None:
    """Switch off the bars that transformers and diffusers draw for reading files from the disk; downloads keep theirs."""
    from diffusers.utils import logging as diffusers_logging
    from transformers.utils import logging as transformers_logging

    diffusers_logging.disable_progress_bar()
    transformers_logging.disable_progress_bar()


def read_state_dict(path: Path) -> dict[str, Tensor]:
    """Read a published checkpoint: safetensors, ``.pt``, or a zip with exactly one ``.pt``, whatever it is called.

    The optimizer beside the weights is dropped, and the ``module.`` that data-parallel training leaves before every name.
    Nothing but tensors and numpy scalars is ever unpickled (SkyCLIP's files hold a numpy scalar in the optimizer's state).

    Returns:
        Tensors by name, on the CPU; mapped from the file where that is possible, so that only what is used is read.

    Raises:
        UnavailableError: the file is not such a checkpoint; the sentence says what it is.
        StorageError: there is no room to unpack a compressed one.
    """
    kind = recognize(path)
    if kind == "safetensors":
        from safetensors.torch import load_file

        with reading_weights(str(path)):
            return load_file(path)
    try:
        if kind == "torch":
            return _take_weights(path, _unpickle(path, mapped=is_plain(path)))
        with open_archived(path) as opened:
            mapped = isinstance(opened, Path) and is_plain(opened)
            return _take_weights(path, _unpickle(opened, mapped=mapped))
    except (UnavailableError, StorageError):
        raise
    except (RuntimeError, OSError, EOFError, ValueError, zipfile.BadZipFile, zlib.error) as error:
        reason = (str(error).strip() or type(error).__name__).splitlines()[0]
        raise UnavailableError(f"{path}: not a readable checkpoint ({reason}); download it again.") from error
    except Exception as error:  # pickle.UnpicklingError, without importing pickle: a class outside the allow-list
        wanted = _REFUSED_CLASS.search(str(error))
        what = wanted[1] if wanted else type(error).__name__
        raise UnavailableError(f"{path}: holds something other than tensors and is not loaded ({what}).") from error


_REFUSED_CLASS = re.compile(r"GLOBAL (\S+)")
_WRAPPINGS = ("state_dict", "model_state_dict", "model")
_PREFIXES = ("module.", "_orig_mod.")
"""Left before every name by data-parallel training and by torch.compile."""


def _unpickle(source: Path | IO[bytes], *, mapped: bool) -> Any:
    import torch

    with torch.serialization.safe_globals(_numpy_scalars()):
        return torch.load(source, map_location="cpu", weights_only=True, mmap=mapped)


def _take_weights(path: Path, content: Any) -> dict[str, Tensor]:
    """Return the state dict of a checkpoint, without what training left around it and before its names."""
    import torch

    state: Any = content
    if isinstance(content, dict):
        state = next((content[key] for key in _WRAPPINGS if isinstance(content.get(key), dict)), content)
    if not isinstance(state, dict) or not state or not all(isinstance(value, torch.Tensor) for value in state.values()):
        raise UnavailableError(f"{path}: not a state dict of tensors; give the .pt that training wrote.")
    names = list(state)
    while prefix := next((p for p in _PREFIXES if all(name.startswith(p) for name in names)), None):
        names = [name.removeprefix(prefix) for name in names]
    return dict(zip(names, state.values(), strict=True))


def _numpy_scalars() -> list[Any]:
    """List what torch may rebuild beside tensors: float64 scalars, under the name of numpy 1 and of numpy 2."""
    import numpy as np

    scalar = np._core.multiarray.scalar  # type: ignore[attr-defined]  # only reachable under its private name
    return [
        (scalar, "numpy.core.multiarray.scalar"),
        (scalar, "numpy._core.multiarray.scalar"),
        np.dtype,
        type(np.dtype("float64")),
    ]


def find_cached(repository: str, file: str) -> Path | None:
    """Find a file of a repository in the Hugging Face cache; nothing is asked of the hub."""
    from huggingface_hub import try_to_load_from_cache

    found = try_to_load_from_cache(repository, file)
    return Path(found) if isinstance(found, str) else None


def stay_offline() -> None:
    """Have the libraries take what the cache holds; they would ask a hub that does not answer for a minute, file after file."""
    from huggingface_hub import constants

    constants.HF_HUB_OFFLINE = True


def hub_answers() -> bool:
    """Say whether the hub answers at all: its own retries would take most of a minute to say no."""
    import httpx
    from huggingface_hub import constants

    if constants.HF_HUB_OFFLINE:
        return False
    try:
        httpx.head(constants.ENDPOINT, timeout=HUB_TIMEOUT_SECONDS)
    except httpx.HTTPError:
        return False
    return True
