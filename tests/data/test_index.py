from __future__ import annotations

import io
import json
import logging
import os
import pickle
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import pyarrow.compute as pc
import pyarrow.parquet as pq
import pytest

from skygen.data.index import Counts, Index, build_index, index_path, open_index, read_whole
from skygen.data.layouts import Layout, find_layout
from skygen.data.pair import CLASS_TEMPLATE, Pair
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import ConfigError, DataError
from skygen.miniature.fabricate import fabricate

CAPTION_COLUMNS = (None, "title", "title_multi_objects")


@pytest.fixture(scope="module")
def fabricated(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("index") / "world"
    fabricate(root, pairs=50, seed=11, benchmark=1)
    return root


@pytest.fixture
def root(fabricated: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(fabricated, tmp_path / "world"))


def layout_of(root: Path, split: str | None = None, caption_column: str | None = None) -> Layout:
    return find_layout(root, None, caption_column, split, CLASS_TEMPLATE)


def build(root: Path, caption_column: str | None = None) -> Index:
    return build_index(layout_of(root, None, caption_column), caption_column, lambda done, total: None)


def without_metas(pair: Pair) -> Pair:
    return replace(pair, box=None, time=None, center_tags=None, surrounding_tags=None)


def entries(path: Path) -> list[dict[str, str]]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def add_rows(root: Path, name: str, *rows: str) -> None:
    (path,) = root.glob(name)
    with path.open("a") as file:
        file.writelines(f"{row}\n" for row in rows)


def test_an_index_reads_as_the_list_does(root: Path) -> None:
    choices = [
        (column, split, extra)
        for column in CAPTION_COLUMNS
        for split in (None, "train", "val", "validation", "test")
        for extra in ({}, {"sources": ("US", "S2")}, {"where": "year >= 2019"}, {"limit": 3})
    ]

    def read_all() -> list[list[Pair]]:
        return [
            list(PairSettings(root, caption_column=column, split=split, **extra).read(Rejects(None)))  # type: ignore[arg-type]
            for column, split, extra in choices
        ]

    before = read_all()
    index = build(root)
    after = read_all()
    assert len(before) == 60
    assert [list(map(without_metas, pairs)) for pairs in after] == before
    assert all(pair.box and pair.time and pair.center_tags for pairs in after for pair in pairs)
    assert index.counts == Counts(rows=50, pairs=50, joined=0, repeated=0, bad=0)
    assert read_pairs(root, caption_column="title") != read_pairs(root)


def test_the_counts_of_a_list_add_up(root: Path) -> None:
    name = "SkyScript_val*.csv"
    (path,) = root.glob(name)
    first = path.read_text().splitlines()[1]
    key = first.partition(",")[0]
    add_rows(root, name, first, f"{key},another,another,0.2", "broken", f"{key},,,0.2", "images2/a9_CH_19.jpg,,only,0.3", "")
    index = build(root)
    assert index.counts == Counts(rows=55, pairs=51, joined=1, repeated=1, bad=2)
    counts = index.counts
    assert counts.pairs + counts.joined + counts.repeated + counts.bad == counts.rows
    assert len(index.table.table) == counts.pairs
    assert index.ledger is not None
    assert [(entry["key"], entry.get("part")) for entry in entries(index.ledger)] == [
        (f"{path.name}:9", None), (f"{path.name}:10", None), ("images2/a9_CH_19.jpg", "meta"), (key, "occurrence 2"),
    ]  # fmt: skip
    memory = read_whole(layout_of(root), Rejects(None))
    assert memory.counts == counts
    assert memory.table.table.column("key").to_pylist() == index.table.table.column("key").to_pylist()
    assert memory.table.table.column("captions").to_pylist() == index.table.table.column("captions").to_pylist()


def test_the_ledger_of_an_index_reaches_each_run(root: Path, tmp_path: Path) -> None:
    add_rows(root, "SkyScript_val*.csv", "broken")
    build(root)
    ledger = Rejects(tmp_path / "rejects.jsonl")
    with pytest.raises(DataError, match=r"^1 of 51 rows or images cannot be used"):
        PairSettings(root, max_bad_fraction=0.001).read(ledger)
    assert ledger.count == 1
    assert [entry["reason"] for entry in entries(tmp_path / "rejects.jsonl")] == ["1 cells where the first row has 4"]


def test_an_index_is_not_used_when_its_list_or_its_metas_have_changed(root: Path) -> None:
    assert open_index(layout_of(root)) is None
    build(root)
    assert open_index(layout_of(root)) is not None
    add_rows(root, "SkyScript_val*.csv", "images2/a9_CH_19.jpg,new,new,0.3")
    assert open_index(layout_of(root)) is None
    assert len(read_pairs(root)) == 51
    assert build(root).counts.pairs == 51
    (root / "meta2" / "a9_CH_19.pickle").write_bytes(pickle.dumps({"box": (7.0, 46.0, 7.1, 46.1)}))
    assert open_index(layout_of(root)) is None
    assert build(root).table.table.filter(pc.field("key") == "images2/a9_CH_19.jpg")["west"].to_pylist() == [7.0]


def test_a_damaged_index_is_no_index(root: Path) -> None:
    build(root)
    path = index_path(layout_of(root))
    whole = path.read_bytes()
    for content in (b"", whole[:100], whole[: len(whole) // 2], b"x" * 5000):
        path.write_bytes(content)
        os.utime(path, ns=(len(content), len(content)))
        assert open_index(layout_of(root)) is None
        assert len(read_pairs(root)) == 50


def test_what_stops_the_making_leaves_no_half(root: Path) -> None:
    class Stopped(Exception):
        pass

    def stop(done: int, total: int) -> None:
        raise Stopped

    folder = index_path(layout_of(root)).parent
    with pytest.raises(Stopped):
        build_index(layout_of(root), None, stop)
    assert [path.name for path in folder.iterdir()] == [".pairs.lock"]
    assert open_index(layout_of(root)) is None
    build(root)
    before = {path.name: path.read_bytes() for path in folder.iterdir()}
    assert sorted(before) == [".pairs.lock", "pairs.arrow", "pairs.jsonl", "pairs.parquet"]
    with pytest.raises(Stopped):
        build_index(layout_of(root), None, stop)
    assert {path.name: path.read_bytes() for path in folder.iterdir()} == before
    assert open_index(layout_of(root)) is not None


def test_progress_ends_at_all_rows(root: Path) -> None:
    said: list[tuple[int, int]] = []
    build_index(layout_of(root), None, lambda done, total: said.append((done, total)))
    assert said[-1] == (50, 50)
    assert all(done <= total for done, total in said)


def test_lists_of_both_schemas_stand_in_one_index(root: Path) -> None:
    """A polished list for training, which has ``title_raw`` and ``title``, beside rule-made ones."""
    for path in root.glob("SkyScript_train*.csv"):
        if "polished" not in path.name:
            path.unlink()
    assert layout_of(root).caption_columns == ("title_multi_objects", "title", "title_raw")
    before = {column: outcome(root, column) for column in (*CAPTION_COLUMNS, "title_raw")}
    index = build(root)
    assert index.counts.pairs == 50
    assert {pair.split for pair in read_pairs(root)} == {"train", "val", "test"}
    assert all("It shows" in pair.captions[0] for pair in read_pairs(root, split="train"))
    assert all("a satellite image of" in pair.captions[0] for pair in read_pairs(root, split="val"))
    assert isinstance(before[None], list)
    for column in (None, "title"):
        assert outcome(root, column) == before[column]
    # Of a column that some lists lack, the rows of the others remain.
    assert {pair.split for pair in PairSettings(root, caption_column="title_raw", split="train").read(Rejects(None))} == {
        "train"
    }
    with pytest.raises(ConfigError, match="has no column text; its columns are"):
        read_pairs(root, caption_column="text")


def outcome(root: Path, caption_column: str | None) -> list[Pair] | str:
    try:
        return [without_metas(pair) for pair in read_pairs(root, caption_column=caption_column)]
    except ConfigError as error:
        return str(error)


def test_a_caption_that_is_empty_in_the_chosen_column_is_accounted_for(root: Path, tmp_path: Path) -> None:
    add_rows(root, "SkyScript_val*.csv", "images2/a9_CH_19.jpg,,only,0.3", "images2/a8_CH_19.jpg,title alone,,0.3")

    def read(column: str | None, name: str) -> tuple[int, int]:
        ledger = Rejects(tmp_path / name)
        return len(PairSettings(root, caption_column=column, max_bad_fraction=0.1).read(ledger)), ledger.count

    before = [read(column, f"{column}.jsonl") for column in CAPTION_COLUMNS]
    build(root)
    after = [read(column, f"{column}_indexed.jsonl") for column in CAPTION_COLUMNS]
    assert before == after == [(52, 0), (51, 1), (51, 1)]
    bad = [entry for entry in entries(tmp_path / "title_indexed.jsonl") if "part" not in entry]
    assert [(entry["key"], entry["reason"]) for entry in bad] == [("images2/a9_CH_19.jpg", "the caption is empty")]
    with pytest.raises(DataError, match=r"^1 of 52 rows or images cannot be used"):
        PairSettings(root, caption_column="title", max_bad_fraction=0.001).read(Rejects(None))


def test_one_split_is_read_from_the_index_of_all(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    build(root)
    assert [path.name for path in index_path(layout_of(root)).parent.glob("*.arrow")] == ["pairs.arrow"]
    monkeypatch.setattr("skygen.data.formats.pair_csv.read_csv", lambda *_: pytest.fail("the CSV was read"))
    monkeypatch.setattr("skygen.data.layouts.read_csv", lambda *_: pytest.fail("the CSV was read"))
    assert [len(read_pairs(root, split=split)) for split in ("train", "val", "test")] == [40, 5, 5]


def test_metas_are_read_from_folders_and_from_zips_alike(root: Path) -> None:
    before = build(root).table.table
    for folder in sorted(root.glob("meta[0-9]")):
        with zipfile.ZipFile(f"{folder}.zip", "w", zipfile.ZIP_DEFLATED) as file:
            for path in sorted(folder.iterdir()):
                file.write(path, f"{folder.name}/{path.name}")
        shutil.rmtree(folder)
    assert open_index(layout_of(root)) is None
    after = build(root).table.table
    assert after.equals(before)
    for name in ("west", "south", "east", "north", "time", "center_tags", "surrounding_tags"):
        assert after[name].null_count == 0, name


def test_metas_that_cannot_be_used_are_noted_and_the_pair_kept(root: Path) -> None:
    paths = sorted(root.glob("meta*/*.pickle"))
    hostile = b"cos\nsystem\n(S'touch " + os.fsencode(root / "harm") + b"'\ntR."
    paths[0].unlink()
    paths[1].write_bytes(paths[1].read_bytes()[:40])
    paths[2].write_bytes(hostile)
    paths[3].write_bytes(pickle.dumps({"box": (1, 2, 1, 2), "center_tags": {"half": "\ud800", "a": "b"}}))
    paths[4].unlink()
    paths[4].mkdir()
    index = build(root)
    assert not (root / "harm").exists()
    assert index.counts.pairs == 50
    assert index.counts.bad == 0
    assert index.ledger is not None
    noted = entries(index.ledger)
    keys = [f"{path.parent.name.replace('meta', 'images')}/{path.stem}.jpg" for path in paths[:5]]
    assert {entry["key"] for entry in noted} == set(keys)
    assert all(entry["part"].startswith("meta") for entry in noted)
    reasons = {entry["key"]: entry["reason"] for entry in noted}
    assert reasons[keys[0]] == "the meta is missing: no such file"
    assert reasons[keys[4]] == "not a file"
    kept = {row["key"]: row for row in index.table.table.to_pylist()}
    assert [kept[key]["west"] for key in keys] == [None] * 5
    assert sum(row["west"] is not None for row in kept.values()) == 45
    assert len(PairSettings(root, max_bad_fraction=0).read(Rejects(None))) == 50


def test_metas_of_a_part_that_is_not_here_are_no_damage(root: Path) -> None:
    shutil.rmtree(root / "meta2")
    index = build(root)
    assert index.ledger is not None
    assert entries(index.ledger) == []
    table = index.table.table
    parts = table["part"].to_pylist()
    assert [west is None for west in table["west"].to_pylist()] == [part == 2 for part in parts]
    assert 0 < parts.count(2) < 50


def test_countries_and_continents_are_filled_in(root: Path) -> None:
    pytest.importorskip("timezonefinder")
    places = {"CH": (8.0, 46.8, 8.1, 46.9), "US": (-100.0, 40.0, -99.9, 40.1), None: (-40.0, 30.0, -39.9, 30.1)}
    for number, box in enumerate(places.values()):
        add_rows(root, "SkyScript_val*.csv", f"images2/a{number}_S2_19.jpg,one,one,0.3")
        (root / "meta2" / f"a{number}_S2_19.pickle").write_bytes(pickle.dumps({"box": box}))
    build(root)
    (batch,) = PairSettings(root).read(Rejects(None)).batches()
    rows = {row["key"]: row for row in batch.to_pylist()}
    found = [(rows[f"images2/a{n}_S2_19.jpg"]["country"], rows[f"images2/a{n}_S2_19.jpg"]["continent"]) for n in range(3)]
    assert found == [("CH", "Europe"), ("US", "North America"), (None, None)]
    chosen = read_pairs(root, where="country == CH")
    assert "images2/a0_S2_19.jpg" in [pair.key for pair in chosen]
    assert len(chosen) < 53


def test_without_an_index_a_country_is_not_known(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"^no pair has a known country: run `skygen index` on the data set"):
        read_pairs(root, where="country == CH")
    with pytest.raises(ConfigError, match=r"^no pair has a known west: run `skygen index` on the data set"):
        PairSettings(root, split="train", split_by="cell").read(Rejects(None))


def test_an_index_goes_to_another_process_by_its_name(root: Path) -> None:
    build(root)
    pairs = PairSettings(root, split="train", balance="source").read(Rejects(None))
    data = pickle.dumps(pairs)
    assert len(data) < 5000 + len(pairs) * 16
    again = pickle.Unpickler(io.BytesIO(data)).load()
    assert isinstance(again, PairList)
    assert again == pairs
    assert again.fingerprint() == pairs.fingerprint()
    assert again.weights is not None
    assert len(pickle.dumps(pairs[:3])) < 5000


def test_the_parquet_file_reads_as_the_list(root: Path) -> None:
    before = read_pairs(root)
    build(root)
    path = index_path(layout_of(root)).with_suffix(".parquet")
    assert pq.read_table(path).num_rows == 50
    copied = shutil.copy(path, root / "mine.parquet")
    pairs = read_pairs(root, csv=copied)
    assert [without_metas(pair) for pair in pairs] == before
    assert [pair.box is not None for pair in pairs] == [True] * 50


def test_a_read_only_data_set_has_its_index_at_home_or_that_of_another(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    build(root)
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path / "home"))
    monkeypatch.setattr("skygen.storage.os.access", lambda path, mode: False)
    shared = open_index(layout_of(root))
    assert shared is not None
    assert shared.path == root / ".skygen" / "index" / "pairs.arrow"
    own = build(root)
    assert own.path is not None
    assert own.path.is_relative_to(tmp_path / "home")


def test_several_pairs_of_a_place_that_is_gone(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    """Images of one part are not here: their pairs are left out with one word, and the limit counts the others."""
    shutil.rmtree(root / "images2")
    gone = sum(pair.key.startswith("images2/") for pair in PairSettings(root, csv=next(root.glob("*val*"))).read(Rejects(None)))
    assert gone == 0
    for make in (lambda: None, lambda: build(root)):
        make()
        caplog.clear()
        with caplog.at_level(logging.WARNING):
            pairs = read_pairs(root)
            few = read_pairs(root, limit=30)
        assert len(few) == 30
        assert few == pairs[:30]
        assert 30 < len(pairs) < 50
        assert caplog.messages[0] == (
            f"{50 - len(pairs)} of 50 pairs are left out: their images2 are not in {root}; `skygen download` fetches them"
        )
