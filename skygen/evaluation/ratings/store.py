"""``ratings.jsonl``: every answer that a rater gave, a line each, safe while many answer at once.

A line is one write to a file opened for appending, under a lock, and on the disk before the rater sees the next question.
"""

from __future__ import annotations

import json
import os
import unicodedata
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final, final, get_args

from skygen.errors import ConfigError, DataError, StorageError
from skygen.evaluation.ratings.ballots import Asked, Kind, Subject
from skygen.storage import append_lines, appending, flush_to_disk, locked

FILE: Final = "ratings.jsonl"
ANSWERS: Final[dict[Kind, tuple[str | int, ...]]] = {"pair": ("left", "right", "same"), "five": (1, 2, 3, 4, 5)}
LONGEST_NAME: Final = 40


@final
@dataclass(frozen=True, slots=True)
class Rating:
    """One answer of one rater.

    Args:
        question: ``Question.id``.
        kind: ``pair`` or ``five``.
        subject: ``pictures`` or ``captions``.
        item: ``Item.key``.
        rater: as ``check_rater`` returns the name.
        models: what was shown, from left to right; one for ``five``.
        answer: ``left``, ``right`` or ``same``; 1 to 5 for ``five``.
        runs: the runs that the models are of, each with the fingerprint of its list.
        time: when it was given, UTC in ISO 8601, to the second.
    """

    question: str
    kind: Kind
    subject: Subject
    item: str
    rater: str
    models: tuple[str, ...]
    answer: str | int
    runs: Mapping[str, str]
    time: str


@final
@dataclass(frozen=True, slots=True)
class Ratings:
    """What a folder holds.

    Args:
        kept: of every rater and question the latest answer, in the order in which they were given.
        replaced: earlier answers of the same rater to the same question.
        damaged: which lines cannot be read, and why.
    """

    kept: tuple[Rating, ...]
    replaced: int
    damaged: tuple[str, ...]


def check_rater(name: str) -> str:
    """Bring a rater's name to the one form in which it is written down.

    Capitals and spaces make no other person: ``Anna  Lee`` and ``anna lee`` are one rater. A name is never part of a path.

    Raises:
        ConfigError: it is empty, too long, or holds what cannot be printed.
    """
    plain = " ".join(unicodedata.normalize("NFC", name).casefold().split())
    if not any(character.isalnum() for character in plain):
        raise ConfigError("Give a name with at least one letter or digit, the same one each time.")
    if len(plain) > LONGEST_NAME:
        raise ConfigError(f"The name has {len(plain)} characters; give one of at most {LONGEST_NAME}.")
    if not plain.isprintable():
        raise ConfigError("The name holds characters that cannot be printed; give one of letters and digits.")
    return plain


def rate(asked: Asked, rater: str, answer: str | int) -> Rating:
    """Make a rating of an answer that was given now.

    Raises:
        ConfigError: this is no answer to such a question, or the name is not one of a rater.
    """
    question = asked.question
    if answer not in ANSWERS[question.kind]:
        raise ConfigError(f"{answer!r} is no answer here; give one of {', '.join(map(str, ANSWERS[question.kind]))}.")
    return Rating(
        question=question.id,
        kind=question.kind,
        subject=question.item.subject,
        item=question.item.key,
        rater=check_rater(rater),
        models=asked.models,
        answer=answer,
        runs=dict(question.runs),
        time=datetime.now(UTC).isoformat(timespec="seconds"),
    )


@final
class RatingStore:
    """The ratings of a folder; any number of processes and threads may add to it at once.

    Args:
        folder: of ``ratings.jsonl``; it is made with the first rating.
    """

    def __init__(self, folder: Path) -> None:
        self.path = folder / FILE

    def add(self, rating: Rating) -> None:
        """Append a rating; it is on the disk when this returns.

        Raises:
            StorageError: the disk is full or refuses.
        """
        line = json.dumps(asdict(rating)).encode() + b"\n"
        is_new = not self.path.exists()
        with appending(self.path) as descriptor:
            append_lines(descriptor, line)
            os.fsync(descriptor)
        if is_new:
            flush_to_disk(self.path.parent)

    def read(self) -> Ratings:
        """Read all ratings; of each rater and question the latest counts, by its place in the file, whatever clocks said.

        Raises:
            DataError: there is no such file.
            StorageError: it cannot be read.
        """
        kept: dict[tuple[str, str], Rating] = {}
        replaced, damaged = 0, []
        for number, line in enumerate(self._read_whole().split(b"\n"), start=1):
            if not line.strip():
                continue
            try:
                rating = _parse(json.loads(line))
            except (ValueError, KeyError, TypeError, AttributeError, RecursionError, ConfigError) as error:
                damaged.append(f"line {number}: {_explain(error)}")
                continue
            # taken out first, so that the place is that of the latest
            replaced += kept.pop((rating.rater, rating.question), None) is not None
            kept[rating.rater, rating.question] = rating
        return Ratings(tuple(kept.values()), replaced, tuple(damaged))

    def answered(self, rater: str) -> frozenset[str]:
        """Return the ids of the questions that a rater has answered; none where nobody has answered any.

        Raises:
            StorageError: the file cannot be read.
        """
        if not self.path.exists():
            return frozenset()
        return frozenset(rating.question for rating in self.read().kept if rating.rater == rater)

    def _read_whole(self) -> bytes:
        try:
            with self.path.open("rb") as file, locked(file.fileno(), shared=True):  # no writer is halfway through a line
                return file.read()
        except FileNotFoundError:
            raise DataError(f"{self.path}: no ratings there; collect some with demo/rating.py first.") from None
        except OSError as error:
            raise StorageError(f"{self.path}: cannot be read ({error.strerror}); look at the file.") from error


def _parse(row: dict[str, Any]) -> Rating:
    """Read a line's content back; ValueError, KeyError, TypeError, AttributeError or ConfigError say what is wrong with it."""
    kind, subject, models, answer = row["kind"], row["subject"], row["models"], row["answer"]
    if kind not in get_args(Kind) or subject not in get_args(Subject):
        raise ValueError(f"{kind!r} or {subject!r} is not known")
    wanted = 2 if kind == "pair" else 1
    if not isinstance(models, list) or len({_text(model) for model in models}) != wanted or len(models) != wanted:
        raise ValueError(f"a {kind} has {wanted} models")
    if isinstance(answer, bool) or not isinstance(answer, str | int) or answer not in ANSWERS[kind]:
        raise ValueError(f"the answer {answer!r} is none of {', '.join(map(str, ANSWERS[kind]))}")
    datetime.fromisoformat(_text(row["time"]))
    return Rating(
        question=_text(row["question"]),
        kind=kind,
        subject=subject,
        item=_text(row["item"]),
        rater=check_rater(_text(row["rater"])),
        models=tuple(models),
        answer=answer,
        runs={_text(run): _text(fingerprint) for run, fingerprint in row["runs"].items()},
        time=row["time"],
    )


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def _explain(error: Exception) -> str:
    match error:
        case json.JSONDecodeError() | UnicodeDecodeError() | RecursionError():
            return "cut short, or no JSON"
        case KeyError():
            return f"it has no {error.args[0]!r}"
        case AttributeError() | TypeError():
            return "it is not laid out as skygen writes it"
        case _:
            return str(error).rstrip(".")
