"""What the report reads: the files of a run folder, row by row, where a damaged one costs a note and never the page."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import pyarrow as pa
import pyarrow.compute as pc
import yaml

from skygen.data.archives import is_there
from skygen.errors import StorageError
from skygen.evaluation.parquet_files import open_parquet
from skygen.evaluation.scores import Score, from_metrics

Row = TypeVar("Row")
DAMAGE = (KeyError, TypeError, ValueError, AttributeError, IndexError, OverflowError, RecursionError)
"""What reading a field of a garbled row can raise."""
PREVIEW_SCORES = {
    "cider_d": "CIDEr-D of the previews",
    "judge_similarity": "previews, as the judge sees them",
    "distinct": "distinct captions among the previews",
}
"""What a training notes of the captions of its preview images, and what the page calls it."""
_NO_MODELS = frozenset({"key", "prompt", "seed", "skyclip_score", "judged"})
"""What a line of ``pictures.jsonl`` of an older run has beside the paths of the pictures."""


@dataclass(frozen=True, slots=True)
class ScoredPair:
    """A row of ``scores.parquet``: how well an image and its caption go together, and whether the pair was kept."""

    image: str
    caption: str
    similarity: float
    kept: bool


@dataclass(frozen=True, slots=True)
class CaptionedImage:
    """A line of ``captions.jsonl``: an image, what people say of it, and what each model says."""

    image: str
    references: tuple[str, ...]
    captions: dict[str, str]


@dataclass(frozen=True, slots=True)
class PictureRow:
    """A line of ``pictures.jsonl``: the pictures of one prompt and seed.

    Args:
        prompt: that they were drawn from.
        seed: that they were drawn with.
        images: path of each model's picture, and of the ``real`` image.
        scores: SkyCLIP score of each model's picture.
        judged: class that a classifier sees in each model's picture.
    """

    prompt: str
    seed: int
    images: dict[str, str]
    scores: dict[str, float]
    judged: dict[str, str] = field(default_factory=dict)


@dataclass(frozen=True, slots=True)
class ScreenedPicture:
    """A line of ``screened.jsonl``, as far as the report needs it: what became of a picture, and what called it a copy."""

    verdict: str
    copied_by: tuple[str, ...]


@dataclass(frozen=True, slots=True)
class LoggedStep:
    """A line of ``log.jsonl``, as far as the report needs it."""

    step: int
    loss: float
    gradient_norm: float
    images: int
    seconds: float
    data_seconds: float
    skipped: bool


@dataclass(frozen=True, slots=True)
class PreviewScores:
    """How good the captions of the preview images were after an update.

    Args:
        step: number of the update.
        values: by name, such as ``cider_d``.
    """

    step: int
    values: dict[str, float]


def parse_previews(row: dict[str, Any]) -> PreviewScores:
    """Read a line of ``previews/scores.jsonl``."""
    return PreviewScores(_number_of(row["step"]), {name: float(row[name]) for name in PREVIEW_SCORES if name in row})


def parse_captions(row: dict[str, Any]) -> CaptionedImage:
    """Read a line of ``captions.jsonl``, of an evaluation or of mere captioning, where nobody has said anything yet."""
    if "file_name" in row:
        return CaptionedImage(_text(row["file_name"]), (), {"caption": _text(row["text"])})
    if not isinstance(row["references"], list):
        raise TypeError("the references are not a list")
    captions = {str(model): _text(caption) for model, caption in row["captions"].items() if caption is not None}
    return CaptionedImage(_text(row["image"]), tuple(_text(reference) for reference in row["references"]), captions)


def parse_pictures(row: dict[str, Any]) -> PictureRow:
    """Read a line of ``pictures.jsonl``; in those of older runs each model's path stands beside the prompt."""
    paths = row["images"] if "images" in row else {name: row[name] for name in row if name not in _NO_MODELS}
    images = {str(model): _text(path) for model, path in paths.items() if path is not None}
    if not images:
        raise ValueError("no picture is named")
    scores = {str(model): float(score) for model, score in (row.get("skyclip_score") or {}).items() if score is not None}
    judged = {str(model): _text(name) for model, name in (row.get("judged") or {}).items() if name is not None}
    return PictureRow(_text(row["prompt"]), int(row["seed"]), images, scores, judged)


def parse_screened(row: dict[str, Any]) -> ScreenedPicture:
    """Read a line of ``screened.jsonl``."""
    if not isinstance(row["copied_by"], list):
        raise TypeError("what called it a copy is not a list")
    return ScreenedPicture(_text(row["verdict"]), tuple(_text(name) for name in row["copied_by"]))


def parse_step(row: dict[str, Any]) -> LoggedStep:
    """Read a line of ``log.jsonl``."""
    images, rate = int(row["images"]), float(row["images_per_second"])
    return LoggedStep(
        step=_number_of(row["step"]),
        loss=float(row["loss"]),
        gradient_norm=float(row["gradient_norm"]),
        images=images,
        seconds=images / rate if rate > 0 else 0.0,
        data_seconds=float(row["data_seconds"]),
        skipped=bool(row["skipped"]),
    )


@dataclass
class RunRecord:
    """One run folder, read with forgiveness.

    Args:
        folder: of the run.
        name: what the page calls it.
        notes: what could not be read, in words for the reader of the page; grows while reading.
    """

    folder: Path
    name: str
    notes: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        if not self.folder.is_dir():
            self.notes.append("there is no such folder.")
        self.config = self.read_mapping("config.yaml")
        self.environment = self.read_mapping("environment.json")
        self.status = self.read_mapping("run_status.json")
        self._roots = self._find_roots()

    def read_text(self, name: str) -> str | None:
        """Return the text of a file; None, with a note unless it is simply absent, if it cannot be read."""
        path = self.folder / name
        try:
            return path.read_text(encoding="utf-8") if path.exists() else None
        except (OSError, UnicodeDecodeError) as error:
            self.notes.append(f"{name} cannot be read ({type(error).__name__}) and was left out.")
            return None

    def read_mapping(self, name: str) -> dict[str, Any]:
        """Return the mapping in a JSON or YAML file; empty, with a note unless the file is absent, if there is none."""
        text = self.read_text(name)
        if text is None:
            return {}
        try:
            tree = yaml.safe_load(text) if name.endswith(".yaml") else json.loads(text)
        except (yaml.YAMLError, ValueError, RecursionError):
            tree = None
        if not isinstance(tree, dict):
            self.notes.append(f"{name} does not hold a mapping and was left out.")
            return {}
        return tree

    def read_scores(self) -> tuple[str, list[Score]]:
        """Return the protocol and the scores of ``metrics.json``; empty ones where it has none."""
        metrics = self.read_mapping("metrics.json")
        if not metrics:
            return "", []
        try:
            scores = from_metrics(metrics)
            for score in scores:
                check_numbers(score)
        except DAMAGE:
            self.notes.append("metrics.json is not laid out as skygen writes it and was left out.")
            return "", []
        return str(metrics.get("protocol", "")), scores

    def read_rows(self, name: str, parse: Callable[[dict[str, Any]], Row]) -> Iterator[Row]:
        """Yield the rows of a JSONL file one by one; those that do not parse are counted in one note."""
        path, bad, first = self.folder / name, 0, 0
        try:
            if not path.exists():
                return
            with path.open(encoding="utf-8", errors="replace") as file:
                for number, line in enumerate(file, start=1):
                    if not line.strip():
                        continue
                    try:
                        row = parse(json.loads(line))
                    except DAMAGE:
                        bad, first = bad + 1, first or number
                        continue
                    yield row
        except OSError as error:
            self.notes.append(f"{name} cannot be read ({type(error).__name__}) and was left out.")
        if bad:
            lines = "1 line" if bad == 1 else f"{bad} lines"
            self.notes.append(
                f"{name}: {lines} could not be read and {'was' if bad == 1 else 'were'} left out, the first is line {first}."
            )

    def read_table(self, name: str, columns: tuple[str, ...]) -> pa.Table | None:
        """Read columns of a Parquet file but the rows that lack one or whose number is not finite; None without the file."""
        path = self.folder / name
        if not path.exists():
            return None
        try:
            table = open_parquet(path).read(columns=list(columns))
            if tuple(table.column_names) != columns:
                raise pa.ArrowInvalid("columns are missing")
        except (pa.ArrowException, OSError, KeyError, StorageError) as error:
            self.notes.append(f"{name} cannot be read ({type(error).__name__}) and was left out.")
            return None
        whole = table.drop_null()
        for column in (whole.column(name) for name in columns if pa.types.is_floating(whole.schema.field(name).type)):
            whole = whole.filter(pc.is_finite(column))
        if bad := len(table) - len(whole):
            self.notes.append(f"{name}: {'1 row is' if bad == 1 else f'{bad} rows are'} incomplete and left out.")
        return whole

    def find_image(self, path: str) -> Path | None:
        """Find an image that a row names: absolute, or relative to the data set, the samples, the run, the folder of work."""
        candidates = [Path(path)] if Path(path).is_absolute() else [root / path for root in self._roots]
        return next((candidate for candidate in candidates if is_there(candidate)), None)

    def _find_roots(self) -> list[Path]:
        """List the folders that paths may be relative to, nearest meaning first."""
        here = [Path.cwd()]
        run = self.config.get("run")
        if isinstance(run, dict) and run.get("name"):
            # where `run.root`/`run.name` leads from the folder of work to here, the other relative paths start there too
            own, here_now = Path(str(run.get("root", "runs")), str(run["name"])), self.folder.resolve()
            if here_now.parts[-len(own.parts) :] == own.parts:
                here.insert(0, Path(*here_now.parts[: -len(own.parts)]))
        roots = []
        for section in ("pairs", "samples"):
            value = self.config.get(section)
            if isinstance(value, dict) and value.get("root"):
                roots += [place / str(value["root"]) for place in here]
        return [*roots, self.folder, *here]


def _number_of(step: Any) -> int:
    """Read the number of an update; OverflowError where no axis could show it."""
    number = int(step)
    float(number)
    return number


def _text(value: Any) -> str:
    if not isinstance(value, str):
        raise TypeError(f"{value!r} is not text")
    return value


def check_numbers(score: Score) -> None:
    """Make sure that what should be a number is one, and that what should be text is text.

    Raises:
        TypeError: something is not.
        OverflowError: an integer is too large for a number.
    """
    for number in (score.value, *(score.interval or ())):
        if isinstance(number, bool) or not isinstance(number, int | float):
            raise TypeError(f"{number!r} is not a number")
        float(number)
    if isinstance(score.count, bool) or not isinstance(score.count, int):
        raise TypeError(f"{score.count!r} is not a count")
    for text in (score.name, score.model, score.subset, score.extractor):
        _text(text)
