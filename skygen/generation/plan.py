"""The plan of a set of pictures: which prompt, seeds and metadata each is drawn from, fixed before the first is drawn."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from hashlib import sha256
from pathlib import Path
from typing import Any, Final, final

from skygen import plain_json
from skygen.data.image_metadata import UNKNOWN, ImageMetadata
from skygen.errors import ConfigError
from skygen.generation.prompt_sources import count_by
from skygen.generation.prompts import Prompt
from skygen.seeding import Seeds
from skygen.storage import to_words, writing

PLAN: Final = "plan.jsonl"
SUMMARY: Final = "plan.json"
SCHEMA: Final = "skygen-plan-v1"
_MEND_FILE: Final = "remove it, and the same command writes it anew"
_MEND: Final = "go on with the first, or take another --run.name."
_SAID: Final = {"text": "prompt", "class": "class", "source": "source", "seeds": "seeds", "metadata": "metadata", "key": "key"}


@final
@dataclass(frozen=True, slots=True)
class Plan:
    """What is to be drawn.

    Args:
        prompts: one a picture.
        candidates: drawn for each picture.
        seeds: candidate ``c`` of picture ``i`` starts from the seed derived from (``image``, i, c).
        weights: that draw, by part: a fingerprint of each, so that other weights under the same name are noticed.
    """

    prompts: Sequence[Prompt]
    candidates: int
    seeds: Seeds
    weights: Mapping[str, str] = field(default_factory=dict)

    def lines(self) -> Iterator[dict[str, Any]]:
        """Yield what is planned of each picture, in their order."""
        for index, prompt in enumerate(self.prompts):
            yield {
                "index": index,
                "text": prompt.text,
                "key": prompt.key,
                "class": prompt.class_name,
                "source": prompt.source,
                "seeds": [self.seeds.derive("image", index, candidate) for candidate in range(self.candidates)],
                **({"metadata": _known(prompt.metadata)} if prompt.metadata != UNKNOWN else {}),
            }

    def keep(self, folder: Path) -> None:
        """Write ``plan.jsonl`` and ``plan.json`` into the run's folder, where pictures that are there already agree with it.

        A plan that begins as the earlier one and goes on is taken: the run then has more pictures.

        Args:
            folder: of the run.

        Raises:
            ConfigError: an earlier start planned something else, or more pictures, or drew with other weights.
            StorageError: the disk is full or refuses.
        """
        path = folder / PLAN
        digest, content = sha256(), []
        for line in self.lines():
            content.append((json.dumps(line) + "\n").encode())
            digest.update(content[-1])
        if path.is_file():
            self._compare(path, path.read_bytes().splitlines(keepends=True), content)
            self._compare_weights(folder / SUMMARY)
        with writing(path) as temporary:
            temporary.write_bytes(b"".join(content))
        summary = {
            "schema": SCHEMA,
            "pictures": len(self.prompts),
            "candidates": self.candidates,
            "sha256": digest.hexdigest(),
            "prompts": len({prompt.text for prompt in self.prompts}),
            **count_by(self.prompts),
            "weights": dict(self.weights),
        }
        _write_summary(folder, summary)

    def _compare(self, path: Path, before: Sequence[bytes], now: Sequence[bytes]) -> None:
        for number, (old, new) in enumerate(zip(before, now, strict=False)):
            if old != new:
                raise ConfigError(
                    f"{path}: this run was begun with another plan: picture {number} had {_differs(old, new)}; {_MEND}"
                )
        if len(before) > len(now):
            raise ConfigError(f"{path}: this run was begun with {len(before):,} pictures, now it is {len(now):,}; {_MEND}")

    def _compare_weights(self, path: Path) -> None:
        before = plain_json.read(path, _MEND_FILE).get("weights", {}) if path.is_file() else {}
        for part, old in before.items():
            if (new := self.weights.get(part, "")) != old:
                what = f"another {part}: its weights were {_show(old)}, now they are {_show(new)}"
                raise ConfigError(f"{path}: this run was begun with {what}; {_MEND}")


@final
@dataclass(frozen=True, slots=True)
class Estimate:
    """What is still to come, after a first batch.

    Args:
        pictures: still to draw, by all processes.
        side: in pixels.
        candidates: drawn for each picture.
        processes: that share the work.
        seconds: until they are drawn.
        size_bytes: on the disk.
    """

    pictures: int
    side: int
    candidates: int
    processes: int
    seconds: float
    size_bytes: int

    @classmethod
    def of_trial(
        cls, drawn: int, seconds: float, size_bytes: int, pictures: int, *, side: int, candidates: int, processes: int
    ) -> Estimate:
        """Reckon from a first batch of one process, while the others draw theirs.

        Args:
            drawn: pictures of that batch.
            seconds: that it took.
            size_bytes: of its pictures.
            pictures: still to draw, by all processes.
            side: in pixels.
            candidates: drawn for each picture.
            processes: that share the work.
        """
        slowest = -(-pictures // processes)
        return cls(pictures, side, candidates, processes, seconds / drawn * slowest, size_bytes * pictures // drawn)

    def __str__(self) -> str:
        each = "" if self.candidates == 1 else f", {self.candidates} candidates each"
        processes = "1 process" if self.processes == 1 else f"{self.processes} processes"
        return (
            f"{self.pictures:,} pictures of {self.side} pixels{each}: about {_duration(self.seconds)} on {processes}, "
            f"{to_words(self.size_bytes)}"
        )

    def keep(self, folder: Path) -> None:
        """Add the estimate to ``plan.json`` in the run's folder."""
        summary = plain_json.read(folder / SUMMARY, _MEND_FILE)
        names = ("pictures", "side", "candidates", "processes", "seconds", "size_bytes")
        estimate = {name: getattr(self, name) for name in names} | {"seconds": round(self.seconds, 1)}
        _write_summary(folder, summary | {"estimate": estimate})


def _write_summary(folder: Path, summary: dict[str, Any]) -> None:
    with writing(folder / SUMMARY) as temporary:
        temporary.write_text(json.dumps(summary, indent=1, ensure_ascii=False) + "\n", encoding="utf-8")


def _known(metadata: ImageMetadata) -> dict[str, Any]:
    return {name: value for name, value in metadata._asdict().items() if value is not None}


def _differs(old: bytes, new: bytes) -> str:
    """Say in what the plan of one picture differs."""
    try:
        before, now = json.loads(old), json.loads(new)
    except ValueError:
        return "a line that cannot be read"
    key = next((name for name in _SAID if before.get(name) != now.get(name)), None)
    return "other words" if key is None else f"the {_SAID[key]} {_show(before.get(key))}, now it is {_show(now.get(key))}"


def _show(value: Any) -> str:
    return "left out" if value in (None, "") else json.dumps(value, ensure_ascii=False)


def _duration(seconds: float) -> str:
    """Write a time in the unit in which it has one to three digits."""
    if seconds < 90:
        return f"{max(seconds, 1):.0f} s"
    return f"{seconds / 60:.0f} min" if seconds < 90 * 60 else f"{seconds / 3600:.1f} h"
