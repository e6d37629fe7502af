"""Benchmarks are read as SkyScript publishes them: labels in words or numbers, bad rows noted, good ones kept."""

from __future__ import annotations

import csv
import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import pytest

from skygen.data.benchmarks import (
    BENCHMARK_SETS,
    RETRIEVAL_SETS,
    SCENE_TEMPLATES,
    Benchmark,
    BenchmarkSettings,
    benchmark_from_pairs,
    find_benchmark_set,
    read_benchmark,
    read_retrieval_set,
)
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, UnavailableError

CLASSES = ("airport apron", "barn", "dam")


def lay_out(
    root: Path, *rows: str, name: str = "SkyScript_cls", classes: str = "\n".join(CLASSES), label: str = "label"
) -> Path:
    """Write a benchmark with the images a.jpg to d.jpg, which are never decoded."""
    known = BENCHMARK_SETS[name]
    folder = root / known.folder
    (folder / "val").mkdir(parents=True)
    for letter in "abcd":
        (folder / "val" / f"{letter}.jpg").write_bytes(b"")
    (folder / f"classnames{label.removeprefix('label')}.txt").write_text(classes, encoding="utf-8")
    text = "\n".join((f"filepath,title,{label}", *rows)).replace("@", f"{known.folder}/val/")
    (folder / known.csv).write_text(text, encoding="utf-8")
    return root


def rejected(path: Path) -> list[tuple[str, str]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(entry["key"], entry["reason"]) for entry in entries]


@pytest.mark.parametrize("labels", [("dam", "barn", "airport apron"), ("2", "1", "0"), ("2.0", "1.0", "0.0")])
def test_labels_are_names_or_places_and_null_ones_are_dropped(labels: tuple[str, ...], tmp_path: Path) -> None:
    rows = [f"@{letter}.jpg,title,{label}" for letter, label in zip("abc", labels, strict=True)]
    root = lay_out(tmp_path, *rows[:1], "@d.jpg,title,", "@d.jpg,title,NaN", "", *rows[1:])
    rejects = Rejects(None)
    benchmark = read_benchmark(root, "SkyScript_cls", rejects)
    folder = root / "SkyScript_cls" / "val"
    assert benchmark == Benchmark(
        "SkyScript_cls", (folder / "a.jpg", folder / "b.jpg", folder / "c.jpg"), (2, 1, 0), CLASSES, SCENE_TEMPLATES
    )
    assert rejects.count == 0


def test_a_bad_row_is_noted_and_costs_no_other(tmp_path: Path) -> None:
    root = lay_out(
        tmp_path, "@a.jpg,title,barn", "@b.jpg,title,castle", "@b.jpg,title,3", "@b.jpg,title,1.5", "@b.jpg,title,1e999",
        "@missing.jpg,title,barn", "../b.jpg,title,barn", ',"a stray quote,barn', "@b.jpg,title", "@d.jpg,title,dam",
    )  # fmt: skip
    benchmark = read_benchmark(root, "SkyScript_cls", Rejects(tmp_path / "rejects.jsonl"))
    assert [path.name for path in benchmark.images] == ["a.jpg", "d.jpg"]
    assert benchmark.labels == (1, 2)
    found = rejected(tmp_path / "rejects.jsonl")
    assert [key for key, _ in found] == [f"SkyScript_cls/img_txt_pairs_val.csv:{row}" for row in range(3, 11)]
    reasons = [reason for _, reason in found]
    assert reasons[0] == "the label 'castle' is not among the class names"
    assert reasons[1] == "the label 3 is not the index of one of 3 class names"
    assert reasons[4] == "no such file"


def test_sets_whose_tables_share_a_name_keep_their_rejects_apart(tmp_path: Path) -> None:
    rejects = Rejects(tmp_path / "rejects.jsonl")
    for name in ("nwpu", "patternnet", "rsicb"):
        read_benchmark(lay_out(tmp_path, "@a.jpg,title,castle", "@b.jpg,title,dam", name=name), name, rejects)
    assert [key for key, _ in rejected(tmp_path / "rejects.jsonl")] == [
        "nwpu/img_txt_pairs_train.csv:2", "patternnet/img_txt_pairs_train.csv:2", "rsicb256/img_txt_pairs_train.csv:2",
    ]  # fmt: skip


def test_the_tables_are_those_that_were_published() -> None:
    assert set(BENCHMARK_SETS) == {
        "SkyScript_cls", "aid", "eurosat", "fmow", "nwpu", "patternnet", "millionaid", "rsicb", "roof_shape", "smoothness",
        "surface",
    }  # fmt: skip
    templates = [template for known in BENCHMARK_SETS.values() for template in known.templates]
    assert len(templates) == 22 and all(template.count("{}") == 1 for template in templates)
    assert Counter(known.templates[0] for known in BENCHMARK_SETS.values()) == {
        "a satellite photo of {}.": 8, "a satellite photo of building, {}.": 1, "a satellite photo of road, {}.": 2,
    }  # fmt: skip
    prefixes = {name: known.prefix for name, known in RETRIEVAL_SETS.items()}
    assert prefixes == {"SkyScript": ""} | dict.fromkeys(("RSICD", "RSITMD", "ucmcaptions"), "a satellite image. ")


def test_a_fine_grained_set_has_its_own_column_names_and_prompts(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "@a.jpg,title,very bad", name="smoothness", classes="good\nvery bad\n", label="label_v1")
    benchmark = read_benchmark(root, "smoothness", Rejects(None))
    assert (benchmark.labels, benchmark.class_names) == ((1,), ("good", "very bad"))
    assert benchmark.templates[0].format("very bad") == "a satellite photo of road, very bad."


@pytest.mark.parametrize("name", ["roof_shape", "smoothness", "surface"])
def test_both_wordings_of_a_fine_grained_set_can_be_chosen(name: str, tmp_path: Path) -> None:
    for version, classes, label in (("_v1", "good\nbad\n", "1"), ("_v2", "smooth\nrough\n", "0")):
        lay_out(tmp_path / version, f"@a.jpg,title,{label}", name=name, classes=classes, label=f"label{version}")
    first = read_benchmark(tmp_path / "_v1", name, Rejects(None))
    assert first == read_benchmark(tmp_path / "_v1", f"{name}_v1", Rejects(None))
    assert (first.name, first.labels, first.class_names) == (name, (1,), ("good", "bad"))
    second = read_benchmark(tmp_path / "_v2", f"{name}_v2", Rejects(None))
    assert (second.name, second.labels, second.class_names) == (f"{name}_v2", (0,), ("smooth", "rough"))
    assert second.templates == first.templates
    with pytest.raises(UnavailableError, match=r"classnames_v1.txt: not there"):
        read_benchmark(tmp_path / "_v2", name, Rejects(None))


def test_only_fine_grained_sets_have_wordings() -> None:
    assert find_benchmark_set("rsicb256") == ("rsicb", BENCHMARK_SETS["rsicb"])
    for name in ("aid_v2", "rsicb256_v1", "roof_shape_v3"):
        with pytest.raises(
            ConfigError, match=rf"{name}: not a benchmark .* other wording roof_shape_v2, smoothness_v2, surface_v2"
        ):
            find_benchmark_set(name)


def test_rsicb_goes_by_both_of_its_names(tmp_path: Path) -> None:
    root = lay_out(tmp_path, "@a.jpg,title,dam", name="rsicb")
    assert read_benchmark(root, "rsicb256", Rejects(None)) == read_benchmark(root, "rsicb", Rejects(None))


def test_what_is_missing_is_named_with_its_remedy(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"moon: not a benchmark .* SkyScript_cls, aid, eurosat, .* surface"):
        read_benchmark(tmp_path, "moon", Rejects(None))
    with pytest.raises(UnavailableError, match=r"aid_img_txt_pairs_test.csv: not there; unpack SkyScript's aid.zip"):
        read_benchmark(tmp_path, "aid", Rejects(None))
    root = lay_out(tmp_path / "columns", "@a.jpg,title,dam", name="aid", label="klass")
    (root / "aid" / "klass").unlink(missing_ok=True)
    (root / "aid" / "classnames.txt").write_text("dam\n")
    with pytest.raises(DataError, match=r"has no column label, but filepath, title, klass"):
        read_benchmark(root, "aid", Rejects(None))
    with pytest.raises(DataError, match=r"classnames.txt: holds no class"):
        read_benchmark(lay_out(tmp_path / "empty", "@a.jpg,title,dam", classes=" \n"), "SkyScript_cls", Rejects(None))
    with pytest.raises(DataError, match=r"none of its rows has an image and a label \(the first reason: no such file\)"):
        read_benchmark(lay_out(tmp_path / "bad", "@e.jpg,title,dam"), "SkyScript_cls", Rejects(None))


def test_pairs_with_classes_make_a_benchmark_with_sorted_names_in_words() -> None:
    names = ["SeaLake", None, "AnnualCrop", "sea_lake"]
    pairs = [Pair(f"{i}.jpg", Path(f"{i}.jpg"), ("x",), class_name=name) for i, name in enumerate(names)]
    benchmark = benchmark_from_pairs(pairs, "own")
    assert benchmark.class_names == ("annual crop", "sea lake")
    assert [(path.name, label) for path, label in zip(benchmark.images, benchmark.labels, strict=True)] == [
        ("0.jpg", 1), ("2.jpg", 0), ("3.jpg", 1),
    ]  # fmt: skip
    with pytest.raises(DataError, match="own: its images have no class"):
        benchmark_from_pairs(pairs[1:2], "own")


def test_a_smaller_benchmark_keeps_the_share_of_each_class_even_where_the_table_deals_them_out() -> None:
    images, labels = tuple(Path(f"{i:02d}.jpg") for i in range(40)), tuple(i % 4 for i in range(40))
    benchmark = Benchmark("dealt", images, labels, ("a", "b", "c", "d"))
    smaller = benchmark.spread(8)
    assert Counter(smaller.labels) == dict.fromkeys(range(4), 2)
    assert list(smaller.images) == sorted(smaller.images)
    assert all(labels[images.index(path)] == label for path, label in zip(smaller.images, smaller.labels, strict=True))
    assert benchmark.spread(0) == benchmark.spread(40) == benchmark
    with pytest.raises(ConfigError, match="the limit of the benchmark dealt is -1"):
        benchmark.spread(-1)


def test_fabricated_benchmarks_are_read_whole(world: Path) -> None:
    rejects = Rejects(None)
    benchmark = read_benchmark(world / "benchmark", "SkyScript_cls", rejects)
    assert len(benchmark.images) == len(list((world / "benchmark" / "SkyScript_cls").rglob("*.jpg"))) > 10
    assert rejects.count == 0


@pytest.mark.parametrize("below", ["", "benchmark"])
def test_retrieval_sets_take_their_prefix_and_all_captions_of_an_image(world: Path, below: str) -> None:
    pairs = read_retrieval_set(world / below, "ucmcaptions", Rejects(None))
    plain = read_pairs(world / "benchmark", csv="ucmcaptions/ucmcaptions_img_txt_pairs_test.csv")
    assert [pair.key for pair in pairs] == [pair.key for pair in plain]
    assert pairs[0].captions == tuple(f"a satellite image. {caption}" for caption in plain[0].captions)
    assert len(pairs) == 13 and all(pair.image.is_file() for pair in pairs)


def test_skyscripts_own_retrieval_set_has_all_objects_and_no_prefix(world: Path) -> None:
    pairs = read_retrieval_set(world, "SkyScript", Rejects(None))
    known = RETRIEVAL_SETS["SkyScript"]
    plain = read_pairs(world, csv=known.csv, caption_column="title_multi_objects")
    assert [pair.captions for pair in pairs] == [pair.captions for pair in plain]
    assert len(read_retrieval_set(world, "SkyScript", Rejects(None), limit=2)) == 2
    with pytest.raises(UnavailableError, match=r"RSICD_img_txt_pairs_test.csv: neither in .* leave RSICD out"):
        read_retrieval_set(world, "RSICD", Rejects(None))
    with pytest.raises(ConfigError, match=r"--retrieval.sets moon: .* SkyScript, RSICD, RSITMD, ucmcaptions"):
        read_retrieval_set(world, "moon", Rejects(None))


def test_remoteclips_retrieval_has_no_prefix_and_keeps_repeated_captions(world: Path) -> None:
    table = world / "benchmark" / RETRIEVAL_SETS["ucmcaptions"].csv
    with table.open(encoding="utf-8", newline="") as file:
        rows = [(row["filepath"], row["title"]) for row in csv.DictReader(file)]
    pairs = read_retrieval_set(world, "ucmcaptions", Rejects(None), protocol="remoteclip")
    plain = read_pairs(world / "benchmark", csv=RETRIEVAL_SETS["ucmcaptions"].csv)
    assert [pair.key for pair in pairs] == [pair.key for pair in plain]
    assert [list(pair.captions) for pair in pairs] == [[text for path, text in rows if path == pair.key] for pair in pairs]
    assert sum(len(pair.captions) for pair in pairs) == len(rows) == 65
    assert sum(len(pair.captions) for pair in plain) < 65


def test_settings_read_benchmarks_and_class_folders(world: Path, shared_data: Callable[[str], Path]) -> None:
    eurosat = shared_data("eurosat_rgb")
    settings = BenchmarkSettings(world / "benchmark", class_folders=(eurosat,), limit=20)
    fabricated, real = settings.read(Rejects(None))
    assert (fabricated.name, real.name) == ("SkyScript_cls", "eurosat_rgb")
    assert len(real.images) == 20 and set(real.labels) == set(range(10))
    assert real.class_names[:3] == ("annual crop", "forest", "herbaceous vegetation")
    assert BenchmarkSettings().read(Rejects(None)) == []
    (other,) = BenchmarkSettings(class_folders=(eurosat,), class_split="val").read(Rejects(None))
    (tested,) = BenchmarkSettings(class_folders=(eurosat,)).read(Rejects(None))
    assert len(other.images) > 1000 and not set(other.images) & set(tested.images)
