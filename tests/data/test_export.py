"""Pairs that are written out and read back are the same pairs, whatever stopped the writing in between."""

from __future__ import annotations

import csv
import json
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from datetime import datetime
from hashlib import sha256
from pathlib import Path
from typing import NamedTuple, get_args

import numpy as np
import pyarrow.parquet as pq
import pytest
import yaml
from PIL import Image

from skygen.data.archives import read_bytes
from skygen.data.exports.export import Exported, Form, export, write_pair_list
from skygen.data.exports.folder import place_image
from skygen.data.exports.rows import claimed
from skygen.data.exports.synthetic import find_synthetic
from skygen.data.exports.tar import choose_names
from skygen.data.formats.webdataset import find_shards, read_shards
from skygen.data.pair import Box, Pair
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects, read_rejects
from skygen.data.skyscript import parse_file_name
from skygen.data.table import PairList
from skygen.errors import ConfigError, StorageError

COPYING: tuple[Form, ...] = ("imagefolder", "webdataset")


def in_silence(done: int, total: int) -> None:
    """Hear of progress and say nothing."""


def choose(root: Path, where: str = "") -> PairList:
    return PairSettings(root, where=where).read(Rejects(None))


def write(pairs: PairList, destination: Path, form: Form, rejects: Rejects | None = None) -> Exported:
    return export(pairs, destination, form, rejects or Rejects(None), in_silence, pairs_a_shard=16)


def files_of(folder: Path) -> dict[str, str]:
    """Return the SHA-256 of every file, hidden ones too."""
    paths = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): sha256(path.read_bytes()).hexdigest() for path in paths}


def read_back(folder: Path, caption_column: str | None = None) -> list[Pair]:
    """Read shards with the reader of WebDatasets."""
    ledger = Rejects(None)
    pairs = [pair for pair in read_shards(find_shards(folder), folder, caption_column, ledger) if pair is not None]
    assert ledger.first_reason is None
    return pairs


def draw(root: Path, *keys: str) -> None:
    """Put a small JPEG under each key."""
    for number, key in enumerate(keys):
        (root / key).parent.mkdir(parents=True, exist_ok=True)
        Image.new("RGB", (16, 16), (40 * number % 256, 90, 10)).save(root / key, "JPEG")


@pytest.fixture
def small(tmp_path: Path) -> PairList:
    """Four pairs with everything that can be known, two captions, and splits that know different things."""
    keys = ["images2/a1_CH_19.jpg", "images2/a2_CH_19.jpg", "images3/w3_US_20.jpg", "images3/n4_S2_21.jpg"]
    draw(tmp_path / "data", *keys)
    root, time = tmp_path / "data", datetime(2019, 5, 17, 10, 30)
    tags: dict[str, str] = {"landuse": "forest", "name": "a=b"}
    around: tuple[dict[str, str], ...] = ({"natural": "tree"}, {})
    texts = ("a wood", 'trees, "many"')
    box = Box(7.5, 46.0, 7.6, 46.1)
    known = Pair(keys[0], root / keys[0], texts, "train", "forest", "CH", 2019, 0.25, 0.1, box, time, tags, around)
    plain = Pair(keys[1], root / keys[1], ("a field, ploughed",), "train", "field", "CH", 2019, gsd=0.1)
    test = Pair(keys[2], root / keys[2], ("a dam",), "test", "dam", "US", 2020, gsd=1.0)
    bare = Pair(keys[3], root / keys[3], ("a lake",), None, "lake", "S2", 2021, gsd=10.0)
    return PairList.of([known, plain, test, bare], root)


@pytest.mark.parametrize("form", ["csv", "parquet"])
def test_a_list_reads_back_as_the_very_same_pairs(world: Path, tmp_path: Path, form: Form) -> None:
    pairs = choose(world)
    assert len(pairs) == 60
    assert any(pair.similarity is not None for pair in pairs)
    assert write(pairs, tmp_path / "out", form) == Exported(pairs=60, captions=60, rejects=0, files=1)
    assert read_pairs(world, csv=tmp_path / "out" / f"pairs.{form}") == list(pairs)


def test_parquet_keeps_place_time_and_tags(small: PairList, tmp_path: Path) -> None:
    write(small, tmp_path / "lists" / "chosen.parquet", "parquet")
    assert read_pairs(tmp_path / "data", csv=tmp_path / "lists" / "chosen.parquet") == list(small)
    assert small[0].center_tags == {"landuse": "forest", "name": "a=b"}


def test_a_csv_has_skyscripts_columns_and_a_row_a_caption(small: PairList, tmp_path: Path) -> None:
    assert write(small, tmp_path / "chosen.csv", "csv") == Exported(pairs=4, captions=5, rejects=0, files=1)
    with (tmp_path / "chosen.csv").open(newline="", encoding="utf-8") as file:
        rows = list(csv.reader(file))
    assert rows[:3] == [
        ["filepath", "title", "label", "split", "similarity"],
        ["images2/a1_CH_19.jpg", "a wood", "forest", "train", "0.25"],
        ["images2/a1_CH_19.jpg", 'trees, "many"', "forest", "train", "0.25"],
    ]
    read = read_pairs(tmp_path / "data", csv=tmp_path / "chosen.csv")
    assert [(p.key, p.captions, p.split) for p in read] == [(p.key, p.captions, p.split) for p in small]


def test_a_line_break_in_a_caption_does_not_break_the_row(tmp_path: Path) -> None:
    pairs = PairList.of([Pair("1.jpg", tmp_path / "data/1.jpg", ("a road \r\n and\na field",))], tmp_path / "data")
    (tmp_path / "data").mkdir()
    write(pairs, tmp_path / "out", "csv")
    assert read_pairs(tmp_path / "data", csv=tmp_path / "out" / "pairs.csv")[0].captions == ("a road and a field",)


def test_scored_pairs_read_back_with_every_caption_and_the_score(tmp_path: Path) -> None:
    pairs = [
        Pair("images2/a1_CH_19.jpg", tmp_path / "x", ('a "quoted", tree', "an oak"), class_name="tree"),
        Pair("images2/a2_US_20.jpg", tmp_path / "y", ("a dam",), split="val", class_name="dam"),
    ]
    write_pair_list(tmp_path / "kept.csv", [(pairs[1], 0.5), (pairs[0], 0.75)], scorer="runs/my clip")
    assert (tmp_path / "kept.csv").read_text().startswith("filepath,title,label,split,similarity_runs_my_clip\n")
    read = read_pairs(tmp_path, csv="kept.csv")
    assert [pair.key for pair in read] == [pair.key for pair in pairs]
    assert [pair.captions for pair in read] == [pair.captions for pair in pairs]
    assert [(pair.similarity, pair.split, pair.class_name) for pair in read] == [(0.75, None, "tree"), (0.5, "val", "dam")]


def test_an_imagefolder_reads_back_with_the_same_images(world: Path, tmp_path: Path) -> None:
    pairs = choose(world)
    assert write(pairs, tmp_path / "out", "imagefolder") == Exported(pairs=60, captions=60, rejects=0, files=60)
    read = {pair.key: pair for pair in read_pairs(tmp_path / "out")}
    assert {pair.split for pair in pairs} == {"train", "val", "test"}
    assert read.keys() == {f"{pair.split}/{pair.key}" for pair in pairs}
    for pair in pairs:
        copy = read[f"{pair.split}/{pair.key}"]
        assert (copy.captions, copy.class_name, copy.split) == (pair.captions, pair.class_name, pair.split)
        assert (copy.source, copy.year) == (pair.source, pair.year)
        assert copy.image.read_bytes() == pair.image.read_bytes()
    assert {path.name for path in (tmp_path / "out").iterdir()} == {"train", "val", "test", "export.json", "README.md"}


def test_metadata_tells_what_every_split_knows(small: PairList, tmp_path: Path) -> None:
    """Hugging Face refuses a folder whose splits have different columns."""
    write(small[:2], tmp_path / "one", "imagefolder")
    first, second = map(json.loads, (tmp_path / "one" / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines())
    assert first == {
        "file_name": "images2/a1_CH_19.jpg",
        "text": "a wood",
        "captions": ["a wood", 'trees, "many"'],
        "key": "images2/a1_CH_19.jpg",
        "split": "train",
        "class": "forest",
        "source": "CH",
        "year": 2019,
        "object_type": "area",
        "osm_id": 1,
        "gsd": 0.1,
        "similarity": 0.25,
        "time": "2019-05-17T10:30:00Z",
        "center_tags": ["landuse=forest", "name=a=b"],
        "surrounding_tags": [["natural=tree"], []],
        "box": [7.5, 46.0, 7.6, 46.1],
    }
    assert second.keys() == first.keys()
    assert (second["box"], second["similarity"]) == (None, None)
    write(small[:3], tmp_path / "two", "imagefolder")
    rows = [path.read_text(encoding="utf-8").splitlines() for path in (tmp_path / "two").glob("*/metadata.jsonl")]
    assert len(rows) == 2
    keys = {frozenset(json.loads(line)) for lines in rows for line in lines}
    assert keys == {frozenset(first) - {"similarity", "time", "center_tags", "surrounding_tags", "box"}}


def test_pairs_without_a_split_are_not_put_into_one(small: PairList, tmp_path: Path) -> None:
    write(small, tmp_path / "folder", "imagefolder")
    write(small, tmp_path / "shards", "webdataset")
    assert {pair.key: pair.split for pair in read_pairs(tmp_path / "folder")}["pairs/images3/n4_S2_21.jpg"] is None
    names = {path.name for path in (tmp_path / "shards").glob("*.tar")}
    assert names == {"train-000000.tar", "test-000000.tar", "pairs-000000.tar"}
    assert [pair.split for pair in read_back(tmp_path / "shards")] == [None, "test", "train", "train"]


@pytest.mark.parametrize(
    ("key", "split", "place"),
    [("images2/a1_CH_19.jpg", "train", "images2/a1_CH_19.jpg"), ("train/1.jpg", "train", "train/1.jpg"),
     ("test/1.jpg", "train", "fromtest/1.jpg"), ("a/my_val/1.jpg", None, "a/frommyval/1.jpg"), ("test.jpg", None, "test.jpg")],
)  # fmt: skip
def test_no_folder_is_named_after_another_split(key: str, split: str | None, place: str) -> None:
    assert place_image(key, split) == place


def test_a_webdataset_reads_back_with_the_same_images(world: Path, tmp_path: Path) -> None:
    pairs = choose(world)
    assert write(pairs, tmp_path / "out", "webdataset") == Exported(pairs=60, captions=60, rejects=0, files=5)
    read = {pair.key.rpartition("/")[2]: pair for pair in read_back(tmp_path / "out")}
    assert len(read) == 60
    for pair in pairs:
        copy = read[pair.key.rpartition("/")[2]]
        assert (copy.captions, copy.class_name, copy.split) == (pair.captions, pair.class_name, pair.split)
        assert (copy.year, copy.gsd) == (pair.year, pair.gsd)
        assert read_bytes(copy.image) == pair.image.read_bytes()


def test_a_sample_is_an_image_a_text_and_a_json_of_no_time_and_no_owner(small: PairList, tmp_path: Path) -> None:
    write(small[:1], tmp_path / "out", "webdataset")
    with tarfile.open(tmp_path / "out" / "train-000000.tar", "r:") as archive:
        members = archive.getmembers()
        text, told = (archive.extractfile(member) for member in members[1:])
        assert text is not None
        assert told is not None
        assert text.read() == b"a wood"
        said = json.loads(told.read())
    assert [member.name for member in members] == ["a1_CH_19.jpg", "a1_CH_19.txt", "a1_CH_19.json"]
    assert {(m.mtime, m.uid, m.gid, m.uname, m.gname, m.mode) for m in members} == {(0, 0, 0, "", "", 0o644)}
    assert said["key"] == "images2/a1_CH_19.jpg"
    assert said["box"] == [7.5, 46.0, 7.6, 46.1]
    assert read_back(tmp_path / "out", "captions")[0].captions == ("a wood", 'trees, "many"')


class Named(NamedTuple):
    """Keys, and the names of their samples."""

    keys: tuple[str, ...]
    names: tuple[str, ...]


@pytest.mark.parametrize(
    "named",
    [
        Named(("images2/a1_CH_19.jpg", "images3/a2_CH_19.JPEG"), ("a1_CH_19", "a2_CH_19")),
        Named(("a/v1.2.jpg",), ("v1%2E2",)),
        Named(("train/1.jpg", "test/1.jpg"), ("train%2F1", "test%2F1")),
        Named(("1.jpg", "1.png", "1.JPG", "1+png.jpg"), ("1", "1+png", "1+JPG", "1%2Bpng")),
    ],
)
def test_samples_have_names_of_their_own(named: Named, tmp_path: Path) -> None:
    choice = choose_names(PairList.of([Pair(key, tmp_path / key, ("x",)) for key in named.keys], tmp_path))
    assert tuple(map(choice, named.keys)) == named.names


def pack(root: Path) -> int:
    """Put each folder of images into a zip, and remove it."""
    folders = sorted(root.glob("images*"))
    for folder in folders:
        with zipfile.ZipFile(root / f"{folder.name}.zip", "w") as archive:
            for path in sorted(folder.iterdir()):
                archive.write(path, f"{folder.name}/{path.name}")
        shutil.rmtree(folder)
    return len(folders)


@pytest.mark.parametrize("form", COPYING)
def test_from_zips_comes_what_comes_from_folders(world: Path, tmp_path: Path, form: Form) -> None:
    shutil.copytree(world, tmp_path / "packed")
    assert pack(tmp_path / "packed") == 6
    write(choose(world), tmp_path / "a", form)
    write(choose(tmp_path / "packed"), tmp_path / "b", form)
    assert files_of(tmp_path / "a") == files_of(tmp_path / "b")
    assert len(files_of(tmp_path / "b")) == {"imagefolder": 65, "webdataset": 7}[form]


def stop_at(count: int) -> Callable[[int, int], None]:
    """Make a progress that is interrupted, as by Ctrl-C."""

    def progress(done: int, total: int) -> None:
        if done == count:
            raise KeyboardInterrupt

    return progress


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize("count", [1, 37, 60])
def test_an_interrupted_export_goes_on_to_the_same_bytes(world: Path, tmp_path: Path, form: Form, count: int) -> None:
    pairs = choose(world)
    write(pairs, tmp_path / "unbroken", form)
    whole = files_of(tmp_path / "unbroken")
    broken = tmp_path / "broken"
    with pytest.raises(KeyboardInterrupt):
        export(pairs, broken, form, Rejects(None), stop_at(60 if form == "parquet" else count), pairs_a_shard=16)
    half = files_of(broken)
    finished = half.keys() - {"shards.json"}
    assert {name: half[name] for name in finished} == {name: whole[name] for name in finished}  # nothing half, nothing hidden
    if form == "imagefolder":
        assert "test/metadata.jsonl" not in half  # the last
        assert sum(name.endswith(".jpg") for name in half) == count
    inodes = {name: (broken / name).stat().st_ino for name in finished}
    assert write(pairs, broken, form).pairs == 60
    assert files_of(broken) == whole
    kept = [name for name in finished if name.endswith((".jpg", ".tar"))]
    assert [name for name in kept if (broken / name).stat().st_ino != inodes[name]] == []
    assert len(kept) == {"imagefolder": count, "webdataset": {1: 0, 37: 2, 60: 5}[count]}.get(form, 0)


@pytest.mark.parametrize("form", COPYING)
def test_damaged_and_missing_images_are_accounted_for(world: Path, tmp_path: Path, form: Form) -> None:
    shutil.copytree(world, tmp_path / "data")
    pairs = choose(tmp_path / "data")
    pairs[3].image.write_bytes(pairs[3].image.read_bytes()[:700])
    pairs[40].image.unlink()
    ledger = tmp_path / "out" / "rejects.jsonl"
    expected = Exported(58, 58, 2, {"imagefolder": 58, "webdataset": 5}[form])
    assert write(pairs, tmp_path / "out", form, Rejects(ledger)) == expected
    noted = {entry.key: entry for entry in read_rejects(ledger)}
    assert noted.keys() == {pairs[3].key, pairs[40].key}
    assert noted[pairs[3].key].reason == "truncated: the file ends before the picture does"
    assert noted[pairs[40].key].reason == "missing: no such file"
    assert noted[pairs[40].key].where == str(pairs[40].image)
    fresh = Rejects(None)
    assert write(pairs, tmp_path / "out", form, fresh) == expected
    assert fresh.count == 2
    read = read_pairs(tmp_path / "out") if form == "imagefolder" else read_back(tmp_path / "out")
    assert len(read) == 58


def test_a_damaged_shard_is_written_anew(world: Path, tmp_path: Path) -> None:
    write(choose(world), tmp_path, "webdataset")
    whole = files_of(tmp_path)
    for name, damage in (("train-000001.tar", b"\0"), ("val-000000.tar", b"")):
        data = (tmp_path / name).read_bytes()
        (tmp_path / name).write_bytes(data[:600] + damage + data[601:])
    assert files_of(tmp_path) != whole
    write(choose(world), tmp_path, "webdataset")
    assert files_of(tmp_path) == whole
    assert len(whole) == 7


@pytest.mark.parametrize("form", COPYING)
def test_another_selection_does_not_go_into_the_same_folder(world: Path, tmp_path: Path, form: Form) -> None:
    write(choose(world), tmp_path, form)
    before = files_of(tmp_path)
    with pytest.raises(
        ConfigError, match=r"holds another export, or one of the same pairs .*; choose a new folder, or remove that one$"
    ):
        write(choose(world, "source == US"), tmp_path, form)
    assert files_of(tmp_path) == before


@pytest.mark.parametrize("form", COPYING)
def test_a_folder_with_other_things_is_refused(world: Path, tmp_path: Path, form: Form) -> None:
    (tmp_path / "thesis.tex").write_text("mine")
    with pytest.raises(ConfigError, match=r"holds other files already \(thesis.tex\); choose a new folder for the export$"):
        write(choose(world), tmp_path, form)
    assert files_of(tmp_path).keys() == {"thesis.tex"}


def test_a_readme_of_ones_own_is_not_lost(world: Path, tmp_path: Path) -> None:
    (tmp_path / "README.md").write_text("mine")
    with pytest.raises(ConfigError, match=r"README.md is not from an export and would be lost; choose another folder$"):
        write(choose(world), tmp_path, "parquet")
    assert (tmp_path / "README.md").read_text() == "mine"


@pytest.mark.parametrize("form", get_args(Form))
@pytest.mark.parametrize("inner", ["", "chosen", "..", "images2/../deep/er"])
def test_a_data_set_is_not_mixed_with_its_own_export(world: Path, form: Form, inner: str) -> None:
    before = files_of(world.parent)
    with pytest.raises(ConfigError, match=r" lie one in the other and would mix; choose a folder outside it$"):
        write(choose(world), world / inner, form)
    assert files_of(world.parent) == before


def test_pairs_of_two_data_sets_are_refused(small: PairList, world: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"^the pairs are of 2 data sets \(.* and .*\); export each by itself$"):
        write(small + choose(world), tmp_path / "out", "csv")
    with pytest.raises(ConfigError, match=r"^the image images2/a1_CH_19.jpg is chosen twice, which a WebDataset cannot hold"):
        write(small + small[:1], tmp_path / "out", "webdataset")


def test_a_key_that_leads_out_of_the_folder_is_rejected(tmp_path: Path) -> None:
    draw(tmp_path / "data", "1.jpg")
    draw(tmp_path, "secret.jpg")
    keys = ["1.jpg", "../secret.jpg", str(tmp_path / "secret.jpg")]
    pairs = PairList.of([Pair(key, tmp_path / "data" / key, ("x y",)) for key in keys], tmp_path / "data")
    for form in COPYING:
        ledger = Rejects(None)
        exported = write(pairs, tmp_path / "deep" / form, form, ledger)
        assert (exported.pairs, exported.rejects, ledger.count) == (1, 2, 2)
        assert "leads out of the data set" in str(ledger.first_reason)
    assert {name.partition("/")[0] for name in files_of(tmp_path)} == {"data", "deep", "secret.jpg"}
    assert sum(name.endswith(".jpg") for name in files_of(tmp_path / "deep")) == 1


@pytest.mark.parametrize("form", COPYING)
def test_too_little_room_is_told_before_anything_is_copied(
    world: Path, tmp_path: Path, form: Form, monkeypatch: pytest.MonkeyPatch
) -> None:
    usage = shutil.disk_usage(tmp_path)._replace(free=5000)
    monkeypatch.setattr("skygen.data.exports.rows.shutil.disk_usage", lambda path: usage)
    expected = (
        r"out: about \d+ kB are needed for 60 pairs, judging by 60 of them, and 5 kB are free; free disk space, choose another"
    )
    with pytest.raises(StorageError, match=expected):
        write(choose(world), tmp_path / "out", form)
    assert len(files_of(tmp_path / "out")) == 1  # the manifest


def test_two_exports_do_not_write_to_one_folder_at_once(world: Path, tmp_path: Path) -> None:
    with (
        claimed(tmp_path / "out", "shards.json", "f"),
        pytest.raises(ConfigError, match=r"out: another process exports to it; wait until it has ended, or stop it$"),
    ):
        write(choose(world), tmp_path / "out", "webdataset")


def test_what_a_killed_export_left_is_removed(world: Path, tmp_path: Path) -> None:
    write(choose(world), tmp_path, "webdataset")
    (tmp_path / ".train-000000.tar.0123.part").write_bytes(b"half")
    write(choose(world), tmp_path, "webdataset")
    assert not list(tmp_path.glob(".*"))


@pytest.mark.parametrize("form", ["imagefolder", "parquet", "webdataset"])
def test_the_card_says_what_it_is_and_whom_to_credit(world: Path, tmp_path: Path, form: Form) -> None:
    pairs = choose(world, "source in (US, CH)")
    export(pairs, tmp_path, form, Rejects(None), in_silence, selection="source in (US, CH)")
    _, header, text = (tmp_path / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(header)
    assert (fields["license"], fields["task_categories"]) == ("other", ["image-to-text", "text-to-image"])
    if form != "parquet":
        files = fields["configs"][0]["data_files"]
        assert {entry["split"] for entry in files} == {"train", "validation"}
        assert all(list(tmp_path.glob(entry["path"])) for entry in files)
    assert f"- pairs: {len(pairs)}\n" in text
    assert "- selection: `source in (US, CH)`\n" in text
    assert f"`{pairs.split_fingerprint()}`" in text
    counts = [sum(pair.source == alias for pair in pairs) for alias in ("US", "CH")]
    assert f"- US: National Agriculture Imagery Program (Google Earth Engine: USDA/NAIP/DOQQ), {counts[0]} pairs\n" in text
    assert f"SWISSIMAGE/10cm), {counts[1]} pairs\n" in text
    assert "© OpenStreetMap contributors" in text


@pytest.mark.parametrize("form", get_args(Form))
def test_progress_counts_the_pairs(world: Path, tmp_path: Path, form: Form) -> None:
    told: list[tuple[int, int]] = []
    export(choose(world), tmp_path, form, Rejects(None), lambda done, total: told.append((done, total)), pairs_a_shard=7)
    assert told[-1] == (60, 60)
    assert np.all(np.diff([done for done, _ in told]) >= 0)


@pytest.fixture
def samples(tmp_path: Path) -> Path:
    """A finished folder of five synthetic pictures, as ``recipes/generate.py`` leaves it, and nothing else."""
    from skygen.generation.provenance import save_synthetic

    folder = tmp_path / "samples"
    for index in range(5):
        record = {
            "file_name": f"images/{index:06d}.png",
            "text": f"a satellite image of pier {index}",
            "index": index,
            "seed": 1000 + index,
            "class": "pier",
            "terms": "base miniature: mit",
            "synthetic": True,
        } | ({"metadata": {"gsd": 0.5}} if index else {})
        save_synthetic(Image.new("RGB", (16, 16), (50 * index, 0, 0)), folder / record["file_name"], record)
        with (folder / "metadata.jsonl").open("a", encoding="utf-8") as file:
            file.write(json.dumps(record) + "\n")
    return folder


def label_of(data: bytes, tmp_path: Path) -> int:
    """Return the seed in the label of a picture that is given as bytes."""
    from skygen.generation.provenance import read_label

    (tmp_path / "one.png").write_bytes(data)
    label = read_label(tmp_path / "one.png")
    assert label is not None
    assert label.description == "Synthetic image, not an observation of any place"
    assert label.record["synthetic"] is True
    return int(label.record["seed"])


def seed_of(row: dict[str, object]) -> int:
    """Return the seed in the provenance of a row of an export."""
    assert str(row["synthetic"]).lower() == "true"
    return int(json.loads(str(row["provenance"]))["seed"])


SEEDS = [1000, 1001, 1002, 1003, 1004]


def test_synthetic_pictures_keep_their_labels_in_an_imagefolder(samples: Path, tmp_path: Path) -> None:
    assert write(choose(samples), tmp_path / "out", "imagefolder").pairs == 5
    lines = (tmp_path / "out" / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [seed_of(row) for row in rows] == SEEDS
    assert [label_of((tmp_path / "out" / "train" / row["file_name"]).read_bytes(), tmp_path) for row in rows] == SEEDS
    assert [(pair.split, pair.class_name) for pair in read_pairs(tmp_path / "out")] == [("train", "pier")] * 5
    # Written out once more, it still says so.
    write(choose(tmp_path / "out"), tmp_path / "again", "imagefolder")
    again = (tmp_path / "again" / "train" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    assert [json.loads(line)["provenance"] for line in again] == [row["provenance"] for row in rows]


def test_synthetic_pictures_keep_their_labels_in_a_webdataset(samples: Path, tmp_path: Path) -> None:
    write(choose(samples), tmp_path / "out", "webdataset")
    with tarfile.open(tmp_path / "out" / "train-000000.tar", "r:") as archive:
        files = {member.name: archive.extractfile(member) for member in archive.getmembers()}
        contents = {name: file.read() for name, file in files.items() if file is not None}
    assert [label_of(contents[f"{index:06d}.png"], tmp_path) for index in range(5)] == SEEDS
    assert [seed_of(json.loads(contents[f"{index:06d}.json"])) for index in range(5)] == SEEDS


def test_synthetic_pictures_are_told_in_lists(samples: Path, tmp_path: Path) -> None:
    pairs = choose(samples)
    write(pairs, tmp_path / "list.csv", "csv")
    with (tmp_path / "list.csv").open(encoding="utf-8", newline="") as file:
        rows = list(csv.DictReader(file))
    assert list(rows[0]) == ["filepath", "title", "label", "split", "similarity", "synthetic", "provenance"]
    assert [seed_of(row) for row in rows] == SEEDS
    assert parse_file_name(rows[0]["filepath"]) is None  # no name that a real image could have
    write(pairs, tmp_path / "list.parquet", "parquet")
    table = pq.read_table(tmp_path / "list.parquet")
    assert [seed_of(row) for row in table.select(["synthetic", "provenance"]).to_pylist()] == SEEDS
    for name in ("list.csv", "list.parquet"):
        read = PairSettings(samples, csv=tmp_path / name).read(Rejects(None))
        assert [(pair.key, pair.captions) for pair in read] == [(pair.key, pair.captions) for pair in pairs]


def test_among_real_images_the_synthetic_ones_are_told_apart(samples: Path, tmp_path: Path) -> None:
    Image.new("RGB", (16, 16)).save(samples / "images" / "real.png")
    with (samples / "metadata.jsonl").open("a", encoding="utf-8") as file:
        file.write(json.dumps({"file_name": "images/real.png", "text": "a synthetic pitch", "synthetic": False}) + "\n")
    write(choose(samples), tmp_path / "out", "imagefolder")
    lines = (tmp_path / "out" / "pairs" / "metadata.jsonl").read_text(encoding="utf-8").splitlines()
    rows = [json.loads(line) for line in lines]
    assert [row["synthetic"] for row in rows] == [True] * 5 + [False]
    assert rows[5]["provenance"] is None
    card = (tmp_path / "out" / "README.md").read_text(encoding="utf-8")
    assert "\n- synthetic: 5, **which are no observations of any place**\n" in card
    assert "\n- of a source that is not known, 6 pairs\n" in card


def test_other_pictures_of_the_same_prompts_are_another_export(samples: Path, tmp_path: Path) -> None:
    write(choose(samples), tmp_path / "out", "imagefolder")
    text = (samples / "metadata.jsonl").read_text(encoding="utf-8")
    (samples / "metadata.jsonl").write_text(text.replace('"seed": 1000', '"seed": 2000'), encoding="utf-8")
    with pytest.raises(ConfigError, match=r"holds another export, or one of the same pairs"):
        write(choose(samples), tmp_path / "out", "imagefolder")


@pytest.mark.parametrize("form", ["imagefolder", "parquet", "webdataset"])
def test_the_card_of_synthetic_pictures_says_so(samples: Path, tmp_path: Path, form: Form) -> None:
    write(choose(samples), tmp_path / "out", form)
    _, header, text = (tmp_path / "out" / "README.md").read_text(encoding="utf-8").split("---\n", 2)
    fields = yaml.safe_load(header)
    assert fields["tags"] == ["remote-sensing", "synthetic"]
    assert (fields["license"], fields["license_name"]) == ("other", "by-model-and-odbl")
    assert "\n# Synthetic overhead images with captions\n" in text
    assert "\n- `base miniature: mit`\n" in text
    assert "© OpenStreetMap contributors" in text
    assert "Google Earth Engine" not in text


def test_real_images_are_not_called_synthetic(world: Path, tmp_path: Path) -> None:
    for form in get_args(Form):
        write(choose(world), tmp_path / form, form)
    assert not find_synthetic(world)
    written = [path for path in tmp_path.rglob("*") if path.suffix in (".csv", ".jsonl", ".md", ".tar", ".parquet")]
    assert len(written) == 1 + 4 + 2 + 6
    assert [path for path in written if b"synthetic" in path.read_bytes()] == []


def test_hugging_face_reads_synthetic_pictures(samples: Path, tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets", reason="the library datasets is not installed, which is no part of skygen")
    write(choose(samples), tmp_path / "out", "imagefolder")
    for folder in (samples, tmp_path / "out"):
        read = datasets.load_dataset("imagefolder", data_dir=str(folder), split="train", cache_dir=str(tmp_path / "cache"))
        assert read["text"][:] == [f"a satellite image of pier {index}" for index in range(5)]
        assert read["synthetic"][:] == [True] * 5
        assert [picture.getpixel((0, 0))[0] for picture in read["image"]] == [0, 50, 100, 150, 200]
