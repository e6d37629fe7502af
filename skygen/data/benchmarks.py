"""What a scorer or a judge is tried on: labelled images, and images with the texts that belong to them.

The layout, the sets and the prompt templates are those of SkyScript's own evaluation (its repository's ``test_zero_shot``).
"""

from __future__ import annotations

import csv
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

from skygen.config import CountFromZero
from skygen.data.every_caption import restore_repeats
from skygen.data.label_table import find_label_columns, read_class_names, read_label_row
from skygen.data.pair import Pair, to_words
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, UnavailableError

SCENE_TEMPLATES = ("a satellite photo of {}.", "a satellite image of {}")
"""With and without a full stop, as published."""
_ROOF = ("a satellite photo of building, {}.", "a satellite image of building, {}")
_ROAD = ("a satellite photo of road, {}.", "a satellite image of road, {}")


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
VERSIONS = ("_v1", "_v2")
"""The two wordings of a fine-grained set's classes; without an ending its name stands for the first, the published one."""

RetrievalProtocol = Literal["skyscript", "remoteclip"]
"""How texts are counted in retrieval: each distinct one once, or every caption by itself; see ``evaluation.retrieval``."""


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
    """Other data sets whose images have a class, such as EuroSAT with one folder for each."""
    class_split: Literal["train", "val", "test"] = "test"
    """Split of these that is used."""
    limit: CountFromZero = 0
    """At most so many images of each, evenly spaced; 0 takes all."""

    def read(self, rejects: Rejects) -> list[Benchmark]:
        """Read every benchmark that is named.

        Raises:
            UnavailableError: one is not there.
        """
        found = [read_benchmark(self.root, name, rejects) for name in self.sets] if self.root else []
        found += [read_class_folder(folder, rejects, self.class_split) for folder in self.class_folders]
        return [benchmark.spread(self.limit) for benchmark in found]


def find_benchmark_set(name: str) -> tuple[str, BenchmarkSet]:
    """Find one of SkyScript's benchmarks by any of its names.

    Args:
        name: a key of ``BENCHMARK_SETS``, ``rsicb256``, or a fine-grained set with its wording, such as ``roof_shape_v2``.

    Returns:
        The name that its scores have, and where it lies: ``roof_shape_v1`` is ``roof_shape``, ``rsicb256`` is ``rsicb``.

    Raises:
        ConfigError: no such benchmark is known.
    """
    name = _ALIASES.get(name, name)
    version = next((ending for ending in VERSIONS if name.endswith(ending)), "")
    known = BENCHMARK_SETS.get(name.removesuffix(version))
    if known is None or (version and not known.version):
        fine_grained = ", ".join(f"{key}_v2" for key, own in BENCHMARK_SETS.items() if own.version)
        raise ConfigError(
            f"--benchmark.sets {name}: not a benchmark of SkyScript's; these are: {', '.join(BENCHMARK_SETS)}, and in their "
            f"other wording {fine_grained}."
        )
    plain = name.removesuffix(version)
    return (plain if version in ("", known.version) else name), replace(known, version=version or known.version)


def read_benchmark(root: Path, name: str, rejects: Rejects) -> Benchmark:
    """Read one of SkyScript's benchmarks; no image is opened, and a row without a label is left out.

    Args:
        root: folder that holds ``<folder>/<csv>`` and what their ``filepath`` names.
        name: a key of ``BENCHMARK_SETS``, ``rsicb256``, or a fine-grained set with its wording, such as ``roof_shape_v2``.
        rejects: where a row that cannot be used is noted.

    Returns:
        The benchmark, named as ``find_benchmark_set`` does, its images in the order of the table.

    Raises:
        ConfigError: no such benchmark is known.
        UnavailableError: its files are not there.
        DataError: a column or the class names are missing, or no row can be used.
    """
    name, known = find_benchmark_set(name)
    table = root / known.folder / known.csv
    names = root / known.folder / f"classnames{known.version}.txt"
    for path in (table, names):
        if not path.is_file():
            raise UnavailableError(
                f"{path}: not there; unpack SkyScript's {known.folder}.zip into {root}, or leave {name} out of the sets."
            )
    class_names = read_class_names(names)
    columns = find_label_columns(table, f"label{known.version}")
    found: list[tuple[Path, int]] = []
    with table.open(encoding="utf-8-sig", errors="surrogateescape", newline="") as file:
        next(file)
        for number, line in enumerate(file, start=2):  # a row is a line: a stray quote spoils its own alone
            try:
                found += read_label_row(line, columns, root, class_names) if line.strip() else []
            except (ValueError, csv.Error, OSError) as error:
                rejects.add(f"{known.folder}/{known.csv}:{number}", str(error), f"{table}, row {number}")
    if not found:
        reason = f" (the first reason: {rejects.first_reason})" if rejects.first_reason else ""
        raise DataError(f"{table}: none of its rows has an image and a label{reason}; compare it with the published one.")
    images, labels = zip(*found, strict=True)
    return Benchmark(name, images, labels, class_names, known.templates)


def read_class_folder(root: Path, rejects: Rejects, split: str = "test") -> Benchmark:
    """Read a split of a data set whose images have a class, such as one with one folder for each."""
    return benchmark_from_pairs(PairSettings(root, split=split).read(rejects), root.resolve().name)


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


def read_retrieval_set(
    root: Path, name: str, rejects: Rejects, *, limit: int = 0, protocol: RetrievalProtocol = "skyscript"
) -> list[Pair]:
    """Read one of the data sets that retrieval is measured on; no image is opened.

    Args:
        root: folder of the data set, or one whose ``benchmark`` folder is it.
        name: a key of ``RETRIEVAL_SETS``.
        rejects: where a row that cannot be used is noted.
        limit: at most so many images, 0 for all; a smaller gallery is easier, and its scores compare with no other's.
        protocol: SkyScript's puts the set's prefix before each caption; RemoteCLIP's has no prefix, and keeps a caption as
            often as the list has it.

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
    csv_path = (folder / known.csv).resolve()
    pairs = read_pairs(folder, csv=csv_path, caption_column=known.caption_column, limit=limit, rejects=rejects)
    if protocol == "remoteclip":
        return restore_repeats(pairs, folder, csv=csv_path, caption_column=known.caption_column)
    return prefix_captions(pairs, known.prefix)


def prefix_captions(pairs: Sequence[Pair], prefix: str) -> list[Pair]:
    """Put the same words before every caption."""
    return [replace(pair, captions=tuple(prefix + caption for caption in pair.captions)) for pair in pairs]
