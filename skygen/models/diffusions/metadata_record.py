"""The record beside a saved metadata conditioner: what it was trained on, and which denoisers it fits."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from skygen import plain_json
from skygen.errors import ConfigError, UnavailableError
from skygen.models.diffusions.metadata_fields import ENCODING, MetadataSettings

WEIGHTS_FILE = "metadata_conditioning.safetensors"
RECORD_FILE = "metadata_conditioning.json"
SCHEMA = 1


def is_saved(folder: Path) -> bool:
    """Say whether a conditioner was saved to a folder, or a part of one."""
    return (folder / RECORD_FILE).exists() or (folder / WEIGHTS_FILE).exists()


def require_untold(folder: Path) -> None:
    """Raise ConfigError for an adapter that was trained with metadata, where it is to be trained further without."""
    if is_saved(folder):
        raise ConfigError(
            f"--model.adapter {folder}: was trained with metadata, and would go on without; set --metadata.fields as "
            f"{RECORD_FILE} there has them."
        )


def read_record(folder: Path, about: Mapping[str, Any]) -> dict[str, Any]:
    """Read what is said of a saved conditioner, and refuse one of another network."""
    path = folder / RECORD_FILE
    try:
        record = plain_json.parse(path.read_text(encoding="utf-8"))
        version, words = (record["schema"], record["encoding"]), _in_words(record["network"])
        settings_of(record), record["sources"][0], record["sha256"]
    except FileNotFoundError as error:
        raise UnavailableError(f"{folder}: {WEIGHTS_FILE} is there without {RECORD_FILE}; copy all of the adapter.") from error
    except (ValueError, LookupError, TypeError, ConfigError) as error:
        raise UnavailableError(f"{path}: not a record of skygen's ({error!r}); copy the adapter again.") from error
    if version != (SCHEMA, ENCODING):
        raise ConfigError(f"{path}: written in another version of the format; use the skygen that wrote it, or train again.")
    if record["network"] != about:
        raise ConfigError(
            f"--model.adapter {folder}: its metadata conditioning was trained on a {words}, and --model.name "
            f"is a {_in_words(about)}; give the base that it was trained on."
        )
    return dict(record)


def settings_of(record: Mapping[str, Any]) -> MetadataSettings:
    """Return the settings that a conditioner was trained with."""
    return MetadataSettings(tuple(record["fields"]), record["dropout"], record["joint_dropout"])


def _in_words(about: Mapping[str, Any]) -> str:
    return f"{about['class']} of widths {about['width']} and {about['text_width']}"
