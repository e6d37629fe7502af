from __future__ import annotations

import zipfile
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skygen.data.layouts import Layout, find_layout
from skygen.data.pair import CLASS_TEMPLATE
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, UnavailableError


def write(path: Path, *lines: str) -> Path:
    path.write_text("".join(f"{line}\n" for line in lines))
    return path


def find(root: Path, csv: str | None = None, split: str | None = None, caption_column: str | None = None) -> Layout:
    return find_layout(root, csv, caption_column, split, CLASS_TEMPLATE)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    for split in ("train", "val", "test"):
        write(tmp_path / f"m_{split}.csv", "filepath,title", f"images2/{split}.jpg,{split}")
    return tmp_path


def test_a_split_knows_the_whole_that_it_is_of(root: Path) -> None:
    whole = find(root)
    assert (whole.name, [path.name for path in whole.files]) == ("pairs", ["m_train.csv", "m_val.csv", "m_test.csv"])
    part = find(root, split="val")
    assert (part.name, [path.name for path in part.files]) == ("m_val", ["m_val.csv"])
    assert part.whole is not None
    assert (part.whole.name, part.whole.files) == ("pairs", whole.files)
    assert find(root, csv="m_val.csv").whole is None


def test_a_split_of_lists_that_are_not_clear_has_no_whole(root: Path) -> None:
    write(root / "m_train_other.csv", "filepath,title", "1.jpg,one")
    assert find(root, split="val").whole is None
    with pytest.raises(ConfigError, match=r"holds several pair lists: m_train\.csv, m_train_other\.csv; choose one"):
        find(root)


def test_a_named_list_goes_before_all_that_is_found(root: Path) -> None:
    layout = find(root, csv="m_test.csv")
    assert (layout.name, layout.files, layout.is_list) == ("m_test", (root / "m_test.csv",), True)
    pq.write_table(pa.table({"filepath": ["a/1.jpg"], "text": ["one"]}), root / "list.parquet")
    assert find(root, csv="list.parquet").name == "list"
    assert [pair.captions for pair in read_pairs(root, csv="list.parquet")] == [("one",)]


def test_what_cannot_be_meant_is_told(root: Path) -> None:
    with pytest.raises(UnavailableError) as caught:
        find(root / "absent")
    assert str(caught.value) == f"there is no folder {root / 'absent'}; set --pairs.root to the folder of the data set"
    with pytest.raises(ConfigError, match=r"has no column text; its columns are: filepath, title; name the one"):
        find(root, caption_column="text")


def test_a_parquet_of_other_columns_is_named(tmp_path: Path) -> None:
    path = tmp_path / "m.parquet"
    tables = {
        "has no column key or filepath or file_name; its columns are: image, text": {"image": ["1.jpg"], "text": ["x"]},
        "has no column captions or title_multi_objects or title or caption or text": {"key": ["1.jpg"], "said": ["x"]},
        "the column key holds int64 instead of text": {"key": [1], "text": ["x"]},
        "the column text holds int64 instead of text": {"key": ["1.jpg"], "text": [[1]]},
    }
    for said, columns in tables.items():
        pq.write_table(pa.table(columns), path)
        with pytest.raises(ConfigError) as caught:
            read_pairs(tmp_path, csv=path)
        assert said in str(caught.value)
        assert str(path) in str(caught.value)
    pq.write_table(pa.table({"key": ["1.jpg"], "text": ["x"], "year": ["soon"]}), path)
    with pytest.raises(DataError, match="a column has type string where int16 is wanted"):
        read_pairs(tmp_path, csv=path)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"m\.parquet cannot be read \(.*\); write or download it again$"):
        read_pairs(tmp_path, csv=path)


def test_rows_of_a_parquet_that_cannot_be_used_are_accounted_for(tmp_path: Path) -> None:
    table = {
        "key": ["1.jpg", None, "../2.jpg", "3.jpg", "1.jpg"],
        "captions": [["one", " one ", ""], ["x"], ["x"], [], ["uno"]],
    }
    pq.write_table(pa.table(table), tmp_path / "m.parquet")
    ledger = Rejects(tmp_path / "rejects.jsonl")
    (pair,) = read_pairs(tmp_path, csv="m.parquet", rejects=ledger)
    assert pair.captions == ("one", "uno")
    assert ledger.count == 3


def test_images_are_found_in_a_zip_that_has_come_since_the_last_look(root: Path) -> None:
    assert read_pairs(root)[0].image == root / "images2" / "train.jpg"
    with zipfile.ZipFile(root / "images2.zip", "w") as file:
        file.writestr("images2/train.jpg", b"")
    assert read_pairs(root)[0].image == root / "images2.zip" / "images2" / "train.jpg"
    (root / "images2" / "images2").mkdir(parents=True)
    assert read_pairs(root)[0].image == root / "images2" / "images2" / "train.jpg"
