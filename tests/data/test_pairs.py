from __future__ import annotations

import json
import logging
import subprocess
import sys
from pathlib import Path

import pytest
import tyro

from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, UnavailableError


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [
        f"images2/a{number}_{source}_19.jpg,a satellite image of {label}"
        for number, (source, label) in enumerate([("CH", "pier"), ("S2", "pier"), ("S2", "tennis court"), ("US", "dam")])
    ]
    (tmp_path / "SkyScript_train.csv").write_text("\n".join(["filepath,title", *rows]) + "\n")
    return tmp_path


def numbers(root: Path, **selection: object) -> list[str]:
    return [pair.key.split("/a")[1].split("_")[0] for pair in read_pairs(root, **selection)]  # type: ignore[arg-type]


def test_filters_by_class_source_and_split(root: Path) -> None:
    assert numbers(root) == ["0", "1", "2", "3"]
    assert numbers(root, classes=["pier"]) == ["0", "1"]
    assert numbers(root, classes=["TennisCourt", "Dam"]) == ["2", "3"]
    assert numbers(root, sources=["s2", "US"]) == ["1", "2", "3"]
    assert numbers(root, sources=["S2"], classes=["pier"], split="train") == ["1"]
    assert numbers(root, sources=["S2"], limit=1) == ["1"]
    assert numbers(root, limit=9) == ["0", "1", "2", "3"]


def test_an_empty_selection_says_what_was_asked_and_what_there_is(root: Path) -> None:
    with pytest.raises(DataError) as caught:
        read_pairs(root, classes=["harbour"], sources=["S2"])
    assert str(caught.value) == (
        f"no pair of {root} is selected: --pairs.classes asks for harbour, and the data has pier (2), tennis court (1), "
        "dam (1); --pairs.sources asks for S2, and the data has S2 (2), CH (1), US (1); change or leave out the filter"
    )
    with pytest.raises(DataError, match=r"--pairs\.split asks for val, and the data has train \(4\)"):
        read_pairs(root, split="val")


def test_a_limit_spreads_over_a_folder(tmp_path: Path) -> None:
    rows = [json.dumps({"file_name": f"{number}.jpg", "text": "x"}) for number in range(10)]
    (tmp_path / "metadata.jsonl").write_text("\n".join(rows))
    assert [pair.key for pair in read_pairs(tmp_path, limit=5)] == ["0.jpg", "2.jpg", "4.jpg", "6.jpg", "8.jpg"]


def test_a_limited_list_is_read_no_further_than_needed(root: Path) -> None:
    """It is read a megabyte at a time; the broken row stands in the second."""
    with (root / "SkyScript_train.csv").open("a") as file:
        file.writelines(f"images2/a{number}_CH_19.jpg,a satellite image of {'x' * 200}\n" for number in range(10, 6000))
        file.write("broken\n")
    ledger = Rejects(root / "rejects.jsonl")
    assert len(read_pairs(root, limit=2, rejects=ledger)) == 2
    assert ledger.count == 0
    read_pairs(root, rejects=ledger)
    assert ledger.count == 1


def test_what_is_no_data_set_is_told_how_one_looks(tmp_path: Path) -> None:
    (tmp_path / "notes.csv").write_text("a,b\n")
    (tmp_path / "x.jpg").write_bytes(b"")
    with pytest.raises(DataError) as caught:
        read_pairs(tmp_path)
    assert str(caught.value) == (
        f"{tmp_path} is not a data set that can be read: it has no CSV with a column filepath (notes.csv lack it), no "
        "metadata.jsonl, dataset*.json, *.tar or *.parquet of pairs in it or in a subfolder, no images with sidecars, and "
        "no folders of images named after classes; lay it out as SkyScript_*.csv + images2/*.jpg, as metadata.jsonl with "
        "file_name and text, or as AnnualCrop/*.jpg; docs/data.md shows each"
    )
    with pytest.raises(UnavailableError, match=r"there is no folder .*absent; set --pairs\.root"):
        read_pairs(tmp_path / "absent")


def test_wrong_arguments_are_named(root: Path) -> None:
    with pytest.raises(ConfigError, match=r"the limit is -1; .*set --pairs\.limit"):
        read_pairs(root, limit=-1)
    with pytest.raises(ConfigError, match=r"the caption template 'an image' has no \{\}"):
        read_pairs(root, caption_template="an image")


def test_settings_read_as_read_pairs_does_and_count_bad_rows(root: Path, tmp_path: Path) -> None:
    settings = PairSettings(root, classes=("pier",), limit=1)
    assert settings.read(Rejects(None)) == read_pairs(root, classes=["pier"], limit=1)
    with (root / "SkyScript_train.csv").open("a") as file:
        file.write("images2/a9_CH_19.jpg,\n")
    ledger = Rejects(tmp_path / "rejects.jsonl")
    assert len(PairSettings(root, max_bad_fraction=0.2).read(ledger)) == 4
    with pytest.raises(DataError) as caught:
        PairSettings(root).read(ledger)
    assert str(caught.value) == (
        "1 of 5 rows or images cannot be used (20.0%), more than the 1.0% allowed; "
        f"{tmp_path / 'rejects.jsonl'} lists each; mend the data, or allow more with --pairs.max_bad_fraction"
    )


def test_settings_parse_from_a_command_line(root: Path) -> None:
    arguments = ["--root", str(root), "--classes", "pier", "tennis court", "--csv", "SkyScript_train.csv"]
    settings = tyro.cli(PairSettings, args=arguments)
    assert settings == PairSettings(root, csv=Path("SkyScript_train.csv"), classes=("pier", "tennis court"))
    assert len(settings.read(Rejects(None))) == 3


def test_without_a_ledger_a_message_tells_of_bad_rows(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    with (root / "SkyScript_train.csv").open("a") as file:
        file.write("images2/a9_CH_19.jpg,\n")
    with caplog.at_level(logging.WARNING):
        read_pairs(root)
    assert caplog.messages == [f"1 of 5 rows of {root} are left out; the caption is empty"]


def test_reading_needs_no_torch(root: Path) -> None:
    program = (
        "import sys; from skygen.data.pairs import read_pairs; import skygen.data.images\n"
        f"assert len(read_pairs({str(root)!r})) == 4; assert 'torch' not in sys.modules"
    )
    subprocess.run([sys.executable, "-c", program], check=True)
