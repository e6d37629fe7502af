from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest

from skygen.data.formats import pair_csv
from skygen.data.formats.pair_csv import find_columns, read_csv
from skygen.data.layouts import find_layout
from skygen.data.pair import CLASS_TEMPLATE
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.data.table import SCHEMA, Block
from skygen.errors import ConfigError, SkygenError
from skygen.miniature.fabricate import fabricate
from skygen.seeding import Seeds

A = "filepath,title,title_multi_objects,similarity_CLIP_openai"
B = "filepath,title_raw,title"


def row_of_a(number: int, source: str = "CH") -> str:
    tags = ["pier", "road of residential, surface of asphalt", "building", "Sport of Tennis", "power pole; more"][number % 5]
    title = f"a satellite image of {tags}"
    multi = f'"{title}, and {number}"' if number % 3 or "," in title else f"{title} {number}"
    quoted = f'"{title}"' if "," in title else title
    return f"images{number % 6 + 2}/{'awnr'[number % 4]}{number}_{source}_{number % 24:02d}.jpg,{quoted},{multi},0.{number:04d}"


def row_of_b(number: int) -> str:
    return f'images3/a{number}_S2_20.jpg,"a dam, {number}","An aerial image. It shows: a dam, {number}"'


def write(path: Path, header: str, rows: Sequence[str], end: str = "\n") -> Path:
    path.write_text("".join(f"{line}{end}" for line in (header, *rows)), encoding="utf-8", newline="")
    return path


def read(path: Path, ledger: Rejects | None = None, caption_column: str | None = None) -> list[Block]:
    return list(read_csv(path, caption_column, ledger or Rejects(None)))


def by_line(path: Path, monkeypatch: pytest.MonkeyPatch, ledger: Rejects | None = None) -> list[Block]:
    with monkeypatch.context() as patch:
        patch.setattr(pair_csv, "_read_clean", lambda data, columns, split: None)
        return read(path, ledger)


def rows_of(blocks: Sequence[Block]) -> list[dict[str, object]]:
    return [row for block in blocks for row in block.batch.to_pylist()]


def count_clean(path: Path, monkeypatch: pytest.MonkeyPatch) -> list[bool]:
    """Say of each block whether Arrow has parsed it."""
    seen: list[bool] = []
    quick = pair_csv._read_clean

    def note(*arguments: object) -> object:
        batch = quick(*arguments)  # type: ignore[arg-type]
        seen.append(batch is not None)
        return batch

    with monkeypatch.context() as patch:
        patch.setattr(pair_csv, "_read_clean", note)
        read(path)
    return seen


def test_both_ways_of_reading_give_the_same_rows(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    fabricate(tmp_path / "world", pairs=60, seed=5, benchmark=1)
    sources = ["CH", "ES", "DE", "FI", "US", "P3", "P5", "S2", "L8", "L9", "XX"]
    paths = [
        write(tmp_path / "SkyScript_val_5K.csv", A, [row_of_a(number, sources[number % 11]) for number in range(300)]),
        write(tmp_path / "b.csv", B, [row_of_b(number) for number in range(300)]),
        *sorted((tmp_path / "world").glob("*.csv")),
    ]
    assert len(paths) == 7
    for path in paths:
        assert all(count_clean(path, monkeypatch)), path
        quick, slow = read(path), by_line(path, monkeypatch)
        assert [block.batch.schema for block in quick] == [block.batch.schema for block in slow]
        assert rows_of(quick) == rows_of(slow)
        assert len(rows_of(quick)) > 0
    first = rows_of(read(paths[0]))
    assert {name for name in SCHEMA.names if all(row[name] is not None for row in first)} == {
        "key", "captions", "split", "class_name", "source", "year", "part", "object_type", "osm_id", "similarity",
    }  # fmt: skip
    assert {name: value for name, value in first[8].items() if name in ("class_name", "year", "part", "object_type")} == {
        "class_name": "sport of tennis", "year": 2008, "part": 4, "object_type": "area",
    }  # fmt: skip
    assert (first[8]["osm_id"], first[8]["gsd"], first[8]["similarity"], first[8]["split"]) == (8, 30.0, 0.0008, "val")
    assert first[10]["gsd"] is None  # the source XX is unknown
    assert {row["split"] for row in rows_of(read(paths[1]))} == {None}


def test_letters_of_every_kind_are_read_in_one_way(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of Unicode's letters, some are made small, and some spaces cut off, differently by Arrow and Python."""
    letters = [chr(code) for code in range(0x20, 0x2FFFF) if chr(code).isprintable() and chr(code) not in '",'][::17]
    letters += ["\u0130", "\u03a3", "\u0391\u03a3", "\u017f", "\u00a0x\u00a0", "\u2003x", "\u200bx", "\x1cx\x1c"]
    rows = [f"images2/a{n}_CH_19.jpg,A satellite image of {x}x{x} . ,  {x}x{x}  ,0.5" for n, x in enumerate(letters)]
    path = write(tmp_path / "m.csv", A, rows)
    assert len(letters) > 5000
    assert True in count_clean(path, monkeypatch)
    assert rows_of(read(path)) == rows_of(by_line(path, monkeypatch))


def test_a_stray_quote_costs_its_own_line_alone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(pair_csv, "BLOCK", 20_000)
    rows = [row_of_a(number) for number in range(500)]
    rows[250] = 'images2/a250_CH_19.jpg,a satellite image of pier,"a satellite image of pier,0.1'
    path = write(tmp_path / "m.csv", A, rows)
    assert count_clean(path, monkeypatch) == [True, False, True]
    ledger = Rejects(tmp_path / "rejects.jsonl")
    blocks = read(path, ledger)
    assert [block.bad for block in blocks] == [0, 1, 0]
    assert sum(block.rows for block in blocks) == 500
    assert [row["osm_id"] for row in rows_of(blocks)] == [*range(250), *range(251, 500)]
    (entry,) = map(json.loads, (tmp_path / "rejects.jsonl").read_text().splitlines())
    assert entry == {"key": "m.csv:252", "reason": "not a row of CSV: unexpected end of data", "where": f"{path}, row 252"}


@pytest.mark.parametrize("last", ['images2/a9_CH_19.jpg,pier,"pier', 'images2/a9_CH_19.jpg,pier,"pier\n'])
def test_two_stray_quotes_do_not_make_up_for_each_other(last: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that closes in the middle of a cell, and one at the end of the file that opens: Arrow would take both lines."""
    path = tmp_path / "m.csv"
    path.write_text('filepath,title,title_multi_objects\nimages2/a8_CH_19.jpg,pi"er",pier\n'.replace('pi"er"', 'pier"') + last)
    assert [row["osm_id"] for row in rows_of(read(path))] == [8]
    assert rows_of(read(path)) == rows_of(by_line(path, monkeypatch))


def test_line_ends_byte_order_mark_blank_lines_and_no_last_newline(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [row_of_a(number) for number in range(50)]
    expected = rows_of(read(write(tmp_path / "plain.csv", A, rows)))
    assert len(expected) == 50
    text = (tmp_path / "plain.csv").read_text()
    variants = {
        "crlf": text.replace("\n", "\r\n"),
        "mark": "\ufeff" + text,
        "no_end": text.rstrip("\n"),
        "blank": text.replace("\n", "\n\n") + "  \n\n",
        "both": "\ufeff" + text.replace("\n", "\r\n").rstrip("\r\n"),
    }
    for name, content in variants.items():
        path = tmp_path / f"{name}.csv"
        path.write_text(content, encoding="utf-8", newline="")
        blocks = read(path)
        assert rows_of(blocks) == expected, name
        assert sum(block.rows for block in blocks) == 50
    assert count_clean(tmp_path / "no_end.csv", monkeypatch) == [True]


def test_rows_are_numbered_as_an_editor_numbers_them(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """In the second and third block too, after blank lines and lines that are bad."""
    monkeypatch.setattr(pair_csv, "BLOCK", 5000)
    rows = [row_of_a(number) for number in range(200)]
    rows[3], rows[90], rows[91], rows[199] = "", "images2/a90_CH_19.jpg,,,0.1", "../x.jpg,a,b,0.1", "no cells"
    path = write(tmp_path / "m.csv", A, rows)
    lines = path.read_text().split("\n")
    ledger = Rejects(tmp_path / "rejects.jsonl")
    blocks = read(path, ledger)
    assert len(blocks) >= 4
    entries = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert [(entry["key"], entry["reason"]) for entry in entries] == [
        ("m.csv:92", "the caption is empty"),
        ("m.csv:93", "the path '../x.jpg' leads out of the data set; it must be relative to its folder"),
        ("m.csv:201", "1 cells where the first row has 4"),
    ]
    assert [lines[int(entry["key"].partition(":")[2]) - 1] for entry in entries] == [rows[90], rows[91], rows[199]]
    assert (sum(block.rows for block in blocks), sum(block.bad for block in blocks)) == (199, 3)


def test_captions_come_from_the_column_that_says_something(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = ["images2/a1_CH_19.jpg,one,more,0.1", "images2/a2_CH_19.jpg,two,,0.1", "images2/a3_CH_19.jpg,,three,0.1"]
    path = write(tmp_path / "m.csv", A, rows)
    (block,) = read(path)
    assert [row["captions"] for row in block.batch.to_pylist()] == [["more"], ["two"], ["three"]]
    assert [row["captions:title"] for row in block.batch.to_pylist()] == [["one"], ["two"], None]
    (block,) = read(path, caption_column="title")
    assert [row["captions"] for row in block.batch.to_pylist()] == [["one"], ["two"], None]
    assert find_columns(path).captions == (("title_multi_objects", 2), ("title", 1))
    assert find_columns(path, "title").captions == (("title", 1), ("title_multi_objects", 2))
    with pytest.raises(ConfigError, match="has no column text; its columns are: filepath, title, title_multi_objects"):
        find_columns(path, "text")


@pytest.mark.parametrize("cell", ["", "nan", "inf", "-1e999", "high", "0x1p3"])
def test_a_similarity_that_is_no_number_is_none(cell: str, tmp_path: Path) -> None:
    path = write(tmp_path / "m.csv", A, [row_of_a(1), f"images2/a2_CH_19.jpg,a,b,{cell}"])
    assert [row["similarity"] for row in rows_of(read(path))] == [0.0001, None]


def test_numbers_and_cells_beyond_all_bounds(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """An OpenStreetMap number of 30 digits, which no column holds, and a caption longer than the csv module reads."""
    rows = ["images2/a" + "9" * 30 + "_CH_19.jpg,pier,pier,0.1", "images2/a1_CH_19.jpg,pier,pier,0.1"]
    pairs = rows_of(read(write(tmp_path / "m.csv", A, rows)))
    assert [row["osm_id"] for row in pairs] == [None, 1]
    long = ["images2/a1_CH_19.jpg,pier,pier,0.1", f"images2/a2_CH_19.jpg,pier,{'x' * 140_000},0.1"]
    for some in (long, [*long, "broken"]):
        ledger = Rejects(None)
        assert [row["osm_id"] for row in rows_of(read(write(tmp_path / "m.csv", A, some), ledger))] == [1]
        assert ledger.first_reason == "not a row of CSV: field larger than field limit (131072)"


def mutate(data: bytes, draw: np.random.Generator) -> bytes:
    changed = bytearray(data)
    pieces = [
        b'"',
        b",",
        b"\n",
        b"\r",
        b"\0",
        b"\xff",
        b"\xed\xa0\x80",
        b"..",
        b"/",
        b'""',
        b'",',
        b',"',
        b"\x1f",
        b"\xe2\x80\xa8",
    ]
    for _ in range(int(draw.integers(1, 5))):
        first = data.index(b"\n") + 1 if draw.random() < 0.9 else 0  # what hits the first row often spoils the file
        place = min(int(draw.integers(first, len(data))), len(changed))
        match int(draw.integers(6)):
            case 0 if changed[place:]:
                changed[place] ^= 1 << int(draw.integers(8))
            case 1:
                del changed[place : place + int(draw.integers(1, 30))]
            case 2:
                lines = changed.split(b"\n")
                one, other = (int(draw.integers(1, len(lines))) for _ in range(2)) if len(lines) > 2 else (0, 0)
                lines[one], lines[other] = lines[other], lines[one]
                changed = bytearray(b"\n".join(lines))
            case 3:
                lines = changed.split(b"\n")
                lines.insert(int(draw.integers(1, len(lines) + 1)), lines[int(draw.integers(len(lines)))])
                changed = bytearray(b"\n".join(lines))
            case _:
                changed[place:place] = pieces[int(draw.integers(len(pieces)))]
    return bytes(changed)


@pytest.mark.parametrize("seeds", [range(100), pytest.param(range(100, 1000), marks=pytest.mark.slow)], ids=["some", "many"])
def test_mutated_lists_are_accounted_for_to_the_row(seeds: range, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever is done to a list, both ways of reading agree, and every row is a caption, a repetition or a reject."""
    monkeypatch.setattr(pair_csv, "BLOCK", 400)
    whole = {header: "\n".join([header, *map(row, range(12))]) + "\n" for header, row in ((A, row_of_a), (B, row_of_b))}
    outcomes: Counter[str] = Counter()
    path = tmp_path / "m.csv"
    for number in seeds:
        path.write_bytes(mutate(whole[A if number % 2 else B].encode(), Seeds(number).numpy("csv")))
        ledger, other = Rejects(None), Rejects(None)
        try:
            blocks, slow = read(path, ledger), by_line(path, monkeypatch, other)
            pairs = read_pairs(tmp_path, csv="m.csv", rejects=Rejects(None))
        except SkygenError as error:
            outcomes["refused"] += 1
            assert str(tmp_path) in str(error)
            continue
        outcomes["read"] += 1
        assert all(one.batch.equals(other.batch) for one, other in zip(blocks, slow, strict=True))
        assert [(block.rows, block.bad) for block in blocks] == [(block.rows, block.bad) for block in slow]
        rows, bad = sum(block.rows for block in blocks), sum(block.bad for block in blocks)
        outcomes["bad"] += bad
        assert ledger.count == other.count == bad
        assert rows == len([line for line in path.read_bytes().split(b"\n")[1:] if line.decode("utf-8", "replace").strip()])
        assert rows == sum(block.batch.num_rows for block in blocks) + bad
        texts = {
            (key, text)
            for block in blocks
            for key, some in zip(*(block.batch[name].to_pylist() for name in ("key", "captions")), strict=True)
            for text in some or ()
        }
        assert {(pair.key, text) for pair in pairs for text in pair.captions} == texts
        assert len({pair.key for pair in pairs}) == len(pairs)
    assert outcomes["read"] + outcomes["refused"] == len(seeds)
    assert outcomes["read"] > 0.8 * len(seeds)
    assert outcomes["bad"] > 0.3 * len(seeds)


def test_the_splits_of_a_list_with_a_column_of_its_own(tmp_path: Path) -> None:
    path = write(tmp_path / "m_train.csv", "filepath,title,split", ["1.jpg,one,validation", "2.jpg,two,"])
    assert [row["split"] for row in rows_of(read(path))] == ["val", "train"]
    layout = find_layout(tmp_path, "m_train.csv", None, None, CLASS_TEMPLATE)
    assert (layout.is_list, layout.caption_columns, layout.files) == (True, ("title",), (path,))
