from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from pathlib import Path

import pytest

from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.data.skyscript import SOURCES, FileName, leading_tag, parse_file_name
from skygen.errors import ConfigError, DataError, SkygenError
from skygen.seeding import Seeds

FULL = "SkyScript_train_unfiltered_5M.csv"


def write_csv(path: Path, *rows: Sequence[str]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("w", encoding="utf-8", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


def rejected(path: Path) -> list[tuple[str, str]]:
    entries = [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []
    return [(entry["key"], entry["reason"]) for entry in entries]


def test_file_names_give_object_source_and_year() -> None:
    assert parse_file_name("images2/a198234555_CH_19.jpg") == FileName("a", 198234555, "CH", 2019)
    assert parse_file_name("n1_P3_21.jpg") == FileName("n", 1, "P3", 2021)
    sources = [parse_file_name(f"images7/w5_{alias}_08.jpg") for alias in SOURCES]
    assert [name.source for name in sources if name] == list(SOURCES)
    for other in ("a1_CHE_19.jpg", "x1_CH_19.jpg", "a1_CH_2019.jpg", "a1_CH_19.png", "airport_106.jpg", "a1_CH_19.jpg/x"):
        assert parse_file_name(other) is None


def test_the_table_of_sources_is_complete() -> None:
    assert len(SOURCES) == 10
    assert {alias for alias, source in SOURCES.items() if source.platform == "aerial"} == {"CH", "ES", "DE", "FI", "US"}
    assert {alias: source.gsd[1] for alias, source in SOURCES.items() if source.gsd[1] >= 10} == {
        "S2": 10.0, "L8": 30.0, "L9": 30.0,
    }  # fmt: skip
    assert SOURCES["US"].gsd == (0.6, 1.0)
    assert SOURCES["L9"].collection == "LANDSAT/LC09/C02/T1_TOA"


@pytest.mark.parametrize(
    ("title", "tag"),
    [
        ("a satellite image of road of residential", "road of residential"),
        ("a satellite image of man made pier, building", "man made pier"),
        ("a satellite image of power pole with material of wood and height of 3", "power pole"),
        ("An aerial image. It shows: Railway switch.", "railway switch"),
        ("a satellite image of ", None),
    ],
)
def test_the_leading_tag_names_the_focus_object(title: str, tag: str | None) -> None:
    assert leading_tag(title) == tag


def test_schema_a_takes_the_multi_object_caption(tmp_path: Path) -> None:
    title = "a satellite image of sport of tennis, surface of clay"
    many = "a satellite image of sport of tennis with surface of clay, surrounded by building"
    write_csv(
        tmp_path / FULL,
        ("filepath", "title", "title_multi_objects", "similarity_CLIP_openai"),
        ("images2/a198_L8_19.jpg", title, many, "0.27"),
    )
    assert read_pairs(tmp_path) == [
        Pair(
            key="images2/a198_L8_19.jpg",
            image=tmp_path / "images2" / "a198_L8_19.jpg",
            captions=(many,),
            split="train",
            class_name="sport of tennis",
            source="L8",
            year=2019,
            similarity=0.27,
            gsd=30.0,
        )
    ]
    assert read_pairs(tmp_path, caption_column="title")[0].captions == (title,)


def test_schema_b_takes_the_polished_title_in_any_order_of_columns(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "SkyScript_val_5K.csv",
        ("title", "title_raw", "filepath"),
        ("An aerial image. It shows: man-made bridge.", "man-made bridge.", "images3/w1_US_18.jpg"),
    )
    (pair,) = read_pairs(tmp_path)
    assert pair.captions == ("An aerial image. It shows: man-made bridge.",)
    assert (pair.class_name, pair.split, pair.similarity) == ("man-made bridge", "val", None)


def test_a_plain_list_with_labels_and_splits_of_its_own(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "mine.csv",
        ("filepath", "title", "label", "split"),
        ("x/1.png", "many planes near a large building .", "airport", "validation"),
        ("x/2.png", "a river , and trees .", "", "train"),
    )
    pairs = read_pairs(tmp_path)
    assert [(pair.class_name, pair.split, pair.source, pair.year) for pair in pairs] == [
        ("airport", "val", None, None),
        (None, "train", None, None),
    ]
    assert [pair.key for pair in read_pairs(tmp_path, split="val")] == ["x/1.png"]


def test_rows_on_one_image_become_one_pair(tmp_path: Path) -> None:
    write_csv(
        tmp_path / "mine.csv",
        ("filepath", "title"),
        ("1.jpg", "one"), ("2.jpg", "two"), ("1.jpg", "uno"), ("1.jpg", "one"), ("./1.jpg", "eins"),
    )  # fmt: skip
    pairs = read_pairs(tmp_path)
    assert [(pair.key, pair.captions) for pair in pairs] == [("1.jpg", ("one", "uno", "eins")), ("2.jpg", ("two",))]


def test_words_that_pandas_takes_for_missing_stay_captions(tmp_path: Path) -> None:
    captions = ["None", "NA", "nan", "null", "0"]
    write_csv(tmp_path / "m.csv", ("filepath", "title"), *[(f"{n}.jpg", text) for n, text in enumerate(captions)])
    assert [pair.captions for pair in read_pairs(tmp_path)] == [(text,) for text in captions]


def test_bad_rows_go_to_the_ledger_with_file_and_row(tmp_path: Path) -> None:
    rows = [
        b"\xef\xbb\xbffilepath,title",
        b"good/1.jpg,a caption",
        b"2.jpg,   ",
        b"/etc/3.jpg,absolute",
        b"../4.jpg,upwards",
        b"a/../../5.jpg,upwards",
        b"C:\\data\\6.jpg,a drive",
        b"7.jpg,caf\xe9",
        b"8.jpg,one,cell too many",
        b'9.jpg,"a stray quote',
        b"10.txt,no image",
        b",no path",
        b"",
        b"good\\13.jpg,of Windows",
        b"14.jpg," + b"x" * 140_000,
        b"15\x00.jpg,nul",
        "16.jpg,gr\u00fcn".encode(),
    ]
    (tmp_path / "m.csv").write_bytes(b"\r\n".join(rows))
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pairs = read_pairs(tmp_path, rejects=ledger)
    assert [(pair.key, pair.captions[0]) for pair in pairs] == [
        ("good/1.jpg", "a caption"), ("good/13.jpg", "of Windows"), ("16.jpg", "grün"),
    ]  # fmt: skip
    reasons = dict(rejected(tmp_path / "rejects.jsonl"))
    assert list(reasons) == [f"m.csv:{row}" for row in (3, 4, 5, 6, 7, 8, 9, 10, 11, 12, 15, 16)]
    assert ledger.count == 12
    assert reasons["m.csv:3"] == "the caption is empty"
    assert reasons["m.csv:5"] == "the path '../4.jpg' leads out of the data set; it must be relative to its folder"
    assert reasons["m.csv:8"] == "not valid UTF-8"
    assert reasons["m.csv:9"] == "3 cells where the first row has 2"
    assert reasons["m.csv:12"] == "the path is empty"
    where = json.loads((tmp_path / "rejects.jsonl").read_text().splitlines()[0])["where"]
    assert where == f"{tmp_path / 'm.csv'}, row 3"


def test_a_missing_column_is_named_with_those_found(tmp_path: Path) -> None:
    path = write_csv(tmp_path / "m.csv", ("path", "text"), ("1.jpg", "one"))
    with pytest.raises(ConfigError) as caught:
        read_pairs(tmp_path, csv="m.csv")
    assert str(caught.value) == (
        f"{path} has no column filepath in its first row; its columns are: path, text; "
        "a pair list needs filepath and one column of captions"
    )
    write_csv(path, ("filepath", "text"), ("1.jpg", "one"))
    with pytest.raises(ConfigError) as caught:
        read_pairs(tmp_path)
    assert str(caught.value) == (
        f"{path} has no column title_multi_objects or title; its columns are: filepath, text; "
        "name the one that holds the captions with --pairs.caption_column"
    )
    assert read_pairs(tmp_path, caption_column="text")[0].captions == ("one",)
    path.write_text("")
    with pytest.raises(ConfigError, match="its columns are: none"):
        read_pairs(tmp_path, csv="m.csv")


def test_a_list_without_rows_is_said_to_be_empty(tmp_path: Path) -> None:
    write_csv(tmp_path / "m.csv", ("filepath", "title"))
    with pytest.raises(DataError, match="its list has no row below the column names"):
        read_pairs(tmp_path)


def test_the_list_is_chosen_by_split_and_the_unfiltered_one_preferred(tmp_path: Path) -> None:
    header = ("filepath", "title")
    write_csv(tmp_path / FULL, header, ("1.jpg", "full"))
    write_csv(tmp_path / "SkyScript_train_unfiltered_5M_language_polished.csv", header, ("2.jpg", "polished"))
    write_csv(tmp_path / "SkyScript_train_top30pct_filtered_by_CLIP_openai.csv", header, ("3.jpg", "top"))
    write_csv(tmp_path / "SkyScript_val_5K_filtered_by_CLIP_openai.csv", header, ("4.jpg", "val"))
    write_csv(tmp_path / "SkyScript_test_30K_filtered_by_CLIP_openai.csv", header, ("5.jpg", "test"))
    assert [(pair.captions[0], pair.split) for pair in read_pairs(tmp_path)] == [
        ("full", "train"), ("val", "val"), ("test", "test"),
    ]  # fmt: skip
    for split, caption in (("train", "full"), ("val", "val"), ("validation", "val"), ("test", "test")):
        assert [pair.captions for pair in read_pairs(tmp_path, split=split)] == [(caption,)]
    assert read_pairs(tmp_path, csv="SkyScript_train_top30pct_filtered_by_CLIP_openai.csv")[0].captions == ("top",)
    write_csv(tmp_path / "SkyScript_val_5K_filtered_by_CLIP_laion_RS.csv", header, ("6.jpg", "val"))
    with pytest.raises(ConfigError) as caught:
        read_pairs(tmp_path, split="val")
    assert str(caught.value) == (
        f"{tmp_path} holds several pair lists: SkyScript_val_5K_filtered_by_CLIP_laion_RS.csv, "
        "SkyScript_val_5K_filtered_by_CLIP_openai.csv; choose one with --pairs.csv"
    )


def test_a_list_is_found_relative_to_root_or_working_folder_or_absolute(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    root = tmp_path / "data"
    write_csv(root / "inside.csv", ("filepath", "title"), ("1.jpg", "inside"))
    outside = write_csv(tmp_path / "outside.csv", ("filepath", "title"), ("1.jpg", "outside"))
    monkeypatch.chdir(tmp_path)
    assert read_pairs(root, csv="inside.csv")[0].captions == ("inside",)
    assert read_pairs(root, csv="outside.csv")[0].captions == ("outside",)
    assert read_pairs(root, csv=outside)[0].image == root / "1.jpg"
    with pytest.raises(ConfigError, match=r"there is no pair list absent\.csv: tried .*; set --pairs\.csv"):
        read_pairs(root, csv="absent.csv")


def test_images_are_found_where_unzip_put_them_a_folder_too_deep(tmp_path: Path) -> None:
    (tmp_path / "images2" / "images2").mkdir(parents=True)
    (tmp_path / "images3").mkdir()
    write_csv(tmp_path / "m.csv", ("filepath", "title"), ("images2/1.jpg", "one"), ("images3/2.jpg", "two"))
    first, second = read_pairs(tmp_path)
    assert (first.key, first.image) == ("images2/1.jpg", tmp_path / "images2" / "images2" / "1.jpg")
    assert second.image == tmp_path / "images3" / "2.jpg"


def test_mutated_lists_never_end_in_a_traceback(tmp_path: Path) -> None:
    text = "filepath,title,title_multi_objects,similarity\n" + "".join(
        f'images2/a{n}_CH_19.jpg,a satellite image of pier,"a satellite image of pier, and more",0.{n}\n' for n in range(8)
    )
    pieces = [b'"', b",", b"\n", b"\r", b"\x00", b"\xff\xfe", b"..", b"/", b"\\", b"nan", b"\xed\xa0\x80", b"\xef\xbb\xbf"]
    read = failed = 0
    for number in range(200):
        draw = Seeds(number).numpy("mutation")
        data = bytearray(text.encode())
        for _ in range(int(draw.integers(1, 12))):
            # Half of the changes hit the first row, where a single one spoils the file.
            place = int(draw.integers(len(data) if draw.random() < 0.5 else min(50, len(data))))
            piece = pieces[int(draw.integers(len(pieces)))] if draw.random() < 0.8 else b""
            data[place : place + int(draw.integers(0, 4))] = piece
        (tmp_path / "m.csv").write_bytes(bytes(data))
        ledger = Rejects(None)
        try:
            pairs = read_pairs(tmp_path, csv="m.csv", rejects=ledger)
        except SkygenError as error:
            failed += 1
            assert str(tmp_path) in str(error)
        else:
            read += 1
            assert all(pair.captions and all(pair.captions) and ".." not in Path(pair.key).parts for pair in pairs)
    assert read + failed == 200
    assert min(read, failed) > 20
