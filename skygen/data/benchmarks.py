"""What a scorer or a judge is tried on: labelled images, and images with the texts that belong to them.

The layout, the sets and the prompt templates are those of SkyScript's own evaluation (its repository's ``test_zero_shot``).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import NamedTuple

from skygen.data.pair import Pair, relative_key, to_words
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.data.skyscript import read_header
from skygen.errors import ConfigError, DataError, UnavailableError

SCENE_TEMPLATES = ("a satellite photo of {}.", "a satellite image of {}")
"""With and without a full stop, as published."""
_ROOF = ("a satellite photo of building, {}.", "a satellite image of building, {}")
_ROAD = ("a satellite photo of road, {}.", "a satellite image of road, {}")
_NO_LABEL = frozenset({"", "nan", "-nan", "na", "n/a", "#n/a", "<na>", "null", "none"})
"""What pandas, with which the published evaluation reads its tables, takes for a missing value."""


@dataclass(frozen=True, slots=True)
class BenchmarkSet:
    """Where one of SkyScript's benchmarks lies, and how its classes are put into words.

    Args:
        folder: within the benchmark folder.
        csv: pair list in it, whose ``filepath`` starts with the folder.
        templates: prompts, ``{}`` being the class.
        version: ending of the label column and of the file of class names, for sets that have several wordings.
    """

    folder: str
    csv: str
    templates: tuple[str, ...] = SCENE_TEMPLATES
    version: str = ""


BENCHMARK_SETS = {
    "SkyScript_cls": BenchmarkSet("SkyScript_cls", "img_txt_pairs_val.csv"),
    "aid": BenchmarkSet("aid", "aid_img_txt_pairs_test.csv"),
    "eurosat": BenchmarkSet("eurosat", "eurosat_img_txt_pairs_test.csv"),
    "fmow": BenchmarkSet("fmow", "fmow_img_txt_pairs_val.csv"),
    "nwpu": BenchmarkSet("nwpu", "img_txt_pairs_train.csv"),
    "patternnet": BenchmarkSet("patternnet", "img_txt_pairs_train.csv"),
    "millionaid": BenchmarkSet("millionaid", "img_txt_pairs_train.csv"),
    "rsicb": BenchmarkSet("rsicb256", "img_txt_pairs_train.csv"),
    "roof_shape": BenchmarkSet("roof_shape", "img_txt_pairs_test.csv", _ROOF, "_v1"),
    "smoothness": BenchmarkSet("smoothness", "img_txt_pairs_test.csv", _ROAD, "_v1"),
    "surface": BenchmarkSet("surface", "img_txt_pairs_test.csv", _ROAD, "_v1"),
}
_ALIASES = {"rsicb256": "rsicb"}


@dataclass(frozen=True, slots=True)
class RetrievalSet:
    """One of the data sets on which SkyScript's paper measures retrieval.

    Args:
        csv: pair list, relative to the folder that its ``filepath`` is relative to.
        caption_column: that was used.
        prefix: put before each caption.
    """

    csv: str
    caption_column: str = "title"
    prefix: str = "a satellite image. "


RETRIEVAL_SETS = {
    "SkyScript": RetrievalSet("SkyScript_test_30K_filtered_by_CLIP_openai.csv", "title_multi_objects", ""),
    "RSICD": RetrievalSet("RSICD/RSICD_img_txt_pairs_test.csv"),
    "RSITMD": RetrievalSet("RSITMD/RSITMD_img_txt_pairs_test.csv"),
    "ucmcaptions": RetrievalSet("ucmcaptions/ucmcaptions_img_txt_pairs_test.csv"),
}


@dataclass(frozen=True, slots=True)
class Benchmark:
    """Images with one label each.

    Args:
        name: as a score calls it.
        images: where they lie.
        labels: index into ``class_names`` of each image.
        class_names: in words.
        templates: prompts, ``{}`` being the class.
    """

    name: str
    images: tuple[Path, ...]
    labels: tuple[int, ...]
    class_names: tuple[str, ...]
    templates: tuple[str, ...] = SCENE_TEMPLATES

    def spread(self, limit: int) -> Benchmark:
        """Return at most ``limit`` of the images, 0 for all, each class with its share, in the order they were in.

        Raises:
            ConfigError: the limit is negative.
        """
        if limit < 0:
            raise ConfigError(f"the limit of the benchmark {self.name} is {limit}; give a count of images, or 0 for all.")
        count = len(self.images)
        if not limit or limit >= count:
            return self
        # By label first: of a table that deals out its classes in turn, every n-th image may be of one class.
        by_label = sorted(range(count), key=self.labels.__getitem__)
        kept = sorted(by_label[index * count // limit] for index in range(limit))
        images, labels = tuple(self.images[index] for index in kept), tuple(self.labels[index] for index in kept)
        return replace(self, images=images, labels=labels)


@dataclass(frozen=True)
class BenchmarkSettings:
    """Labelled images."""

    root: Path | None = None
    """Folder of SkyScript's benchmarks; without it none of them is used."""
    sets: tuple[str, ...] = ("SkyScript_cls",)
    """Names of the benchmarks in it."""
    class_folders: tuple[Path, ...] = ()
    """Other data sets with one folder for each class, such as EuroSAT; their test split is used."""
    limit: int = 0
    """At most so many images of each, evenly spaced; 0 takes all."""

    def read(self, rejects: Rejects) -> list[Benchmark]:
        """Read every benchmark that is named.

        Raises:
            UnavailableError: one is not there.
        """
        found = [read_benchmark(self.root, name, rejects) for name in self.sets] if self.root else []
        found += [read_class_folder(folder, rejects) for folder in self.class_folders]
        return [benchmark.spread(self.limit) for benchmark in found]


def read_benchmark(root: Path, name: str, rejects: Rejects) -> Benchmark:
    """Read one of SkyScript's benchmarks; no image is opened, and a row without a label is left out.

    Args:
        root: folder that holds ``<folder>/<csv>`` and what their ``filepath`` names.
        name: a key of ``BENCHMARK_SETS``, or ``rsicb256``.
        rejects: where a row that cannot be used is noted.

    Returns:
        The benchmark, named by its key, its images in the order of the table.

    Raises:
        ConfigError: no such benchmark is known.
        UnavailableError: its files are not there.
        DataError: a column or the class names are missing, or no row can be used.
    """
    name = _ALIASES.get(name, name)
    known = BENCHMARK_SETS.get(name)
    if known is None:
        raise ConfigError(f"--benchmark.sets {name}: not a benchmark of SkyScript's; these are: {', '.join(BENCHMARK_SETS)}.")
    table = root / known.folder / known.csv
    names = root / known.folder / f"classnames{known.version}.txt"
    for path in (table, names):
        if not path.is_file():
            raise UnavailableError(
                f"{path}: not there; unpack SkyScript's {known.folder}.zip into {root}, or leave {name} out of the sets."
            )
    class_names = _read_class_names(names)
    columns = _find_columns(table, f"label{known.version}")
    found: list[tuple[Path, int]] = []
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        next(file)
        for number, line in enumerate(file, start=2):  # a row is a line: a stray quote spoils its own alone
            try:
                found += _read_row(line, columns, root, class_names) if line.strip() else []
            except (ValueError, csv.Error, OSError) as error:
                rejects.add(f"{known.folder}/{known.csv}:{number}", str(error), f"{table}, row {number}")
    if not found:
        reason = f" (the first reason: {rejects.first_reason})" if rejects.first_reason else ""
        raise DataError(f"{table}: none of its rows has an image and a label{reason}; compare it with the published one.")
    images, labels = zip(*found, strict=True)
    return Benchmark(name, images, labels, class_names, known.templates)


def read_class_folder(root: Path, rejects: Rejects) -> Benchmark:
    """Read the test split of a data set with one folder for each class."""
    return benchmark_from_pairs(PairSettings(root, split="test").read(rejects), root.resolve().name)


def benchmark_from_pairs(pairs: Sequence[Pair], name: str) -> Benchmark:
    """Make a benchmark of pairs whose class is known, such as those of a data set with one folder for each class.

    Args:
        pairs: those without a class are left out.
        name: as a score calls it.

    Returns:
        A benchmark with the scene templates; its class names are in words, sorted.

    Raises:
        DataError: no pair has a class.
    """
    labelled = [(pair.image, to_words(pair.class_name)) for pair in pairs if pair.class_name]
    if not labelled:
        raise DataError(f"{name}: its images have no class; give a folder that holds one folder for each class.")
    class_names = tuple(sorted({class_name for _, class_name in labelled}))
    place = {class_name: index for index, class_name in enumerate(class_names)}
    images, labels = zip(*((image, place[class_name]) for image, class_name in labelled), strict=True)
    return Benchmark(name, images, labels, class_names)


def read_retrieval_set(root: Path, name: str, rejects: Rejects, *, limit: int = 0) -> list[Pair]:
    """Read one of the data sets that retrieval is measured on, each caption with the set's prefix; no image is opened.

    Args:
        root: folder of the data set, or one whose ``benchmark`` folder is it.
        name: a key of ``RETRIEVAL_SETS``.
        rejects: where a row that cannot be used is noted.
        limit: at most so many images, 0 for all; a smaller gallery is easier, and its scores compare with no other's.

    Raises:
        ConfigError: no such set is known.
        UnavailableError: its pair list is not there.
        DataError: no row can be used.
    """
    known = RETRIEVAL_SETS.get(name)
    if known is None:
        raise ConfigError(f"--retrieval.sets {name}: not one of the known sets, which are: {', '.join(RETRIEVAL_SETS)}.")
    places = (root, root / "benchmark")
    folder = next((place for place in places if (place / known.csv).is_file()), None)
    if folder is None:
        raise UnavailableError(
            f"{known.csv}: neither in {places[0]} nor in {places[1]}; put it there with its images, or leave {name} out of "
            "the sets."
        )
    pairs = read_pairs(
        folder, csv=(folder / known.csv).resolve(), caption_column=known.caption_column, limit=limit, rejects=rejects
    )
    return prefix_captions(pairs, known.prefix)


def prefix_captions(pairs: Sequence[Pair], prefix: str) -> list[Pair]:
    """Put the same words before every caption."""
    return [replace(pair, captions=tuple(prefix + caption for caption in pair.captions)) for pair in pairs]


class _Columns(NamedTuple):
    cells: int
    filepath: int
    label: int


def _find_columns(table: Path, label_column: str) -> _Columns:
    header = read_header(table)
    missing = [column for column in ("filepath", label_column) if column not in header]
    if missing:
        listed = ", ".join(filter(None, header)) or "none"
        raise DataError(f"{table}: has no column {' or '.join(missing)}, but {listed}; compare it with the published one.")
    return _Columns(len(header), header.index("filepath"), header.index(label_column))


def _read_class_names(path: Path) -> tuple[str, ...]:
    try:
        lines = path.read_text(encoding="utf-8-sig").splitlines()
    except (OSError, UnicodeDecodeError) as error:
        raise DataError(f"{path}: cannot be read ({error}); it must be text in UTF-8 with one class a line.") from error
    names = tuple(filter(None, map(str.strip, lines)))
    if not names:
        raise DataError(f"{path}: holds no class; write one a line, in the order of the labels.")
    return names


def _read_row(line: str, columns: _Columns, root: Path, class_names: Sequence[str]) -> list[tuple[Path, int]]:
    """Return a row's image with its label, nothing where it has none; a ValueError or csv.Error carries the reason."""
    cells = next(csv.reader([line], strict=True))
    if len(cells) != columns.cells:
        raise ValueError(f"{len(cells)} cells where the first row has {columns.cells}")
    label = _find_label(cells[columns.label].strip(), class_names)
    if label is None:
        return []
    image = root / relative_key(cells[columns.filepath])
    if not image.is_file():
        raise ValueError("no such file")
    return [(image, label)]


def _find_label(text: str, class_names: Sequence[str]) -> int | None:
    """Return the index of a class, None for a label that is missing; a ValueError carries the reason why it is not known."""
    if text in class_names:
        return class_names.index(text)
    if text.lower() in _NO_LABEL:
        return None
    try:
        number = float(text)  # pandas writes whole numbers as 3.0 where one of them is missing
    except ValueError:
        raise ValueError(f"the label {text!a} is not among the class names") from None
    if not number.is_integer() or not 0 <= number < len(class_names):
        raise ValueError(f"the label {text} is not the index of one of {len(class_names)} class names")
    return int(number)
