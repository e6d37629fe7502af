"""The commands on data sets as a user meets them: what they print, leave behind, and say when something is wrong."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest

from skygen import cli
from skygen.data.pairs import read_pairs

Say = Callable[..., tuple[str, str]]


@pytest.fixture
def data(world: Path, tmp_path: Path) -> Path:
    """A fabricated data set of 60 pairs, one image cut short and one gone."""
    root = tmp_path / "data"
    shutil.copytree(world, root, ignore=shutil.ignore_patterns(".skygen"))
    first, second, *_ = sorted(root.glob("images*/*.jpg"))
    first.write_bytes(first.read_bytes()[:200])
    second.unlink()
    return root


@pytest.fixture
def say(capsys: pytest.CaptureFixture[str]) -> Say:
    """Run a command; return what it printed on standard output and on standard error."""

    def run(*words: object, code: int = 0) -> tuple[str, str]:
        if code:
            with pytest.raises(SystemExit) as end:
                cli.main([str(word) for word in words])
            assert end.value.code == code
        else:
            cli.main([str(word) for word in words])
        said = capsys.readouterr()
        return said.out, said.err

    return run


def test_index_counts_chooses_and_hands_on(data: Path, say: Say, tmp_path: Path) -> None:
    out, err = say("index", data)
    assert out == (
        "60 rows: 60 pairs, 0 further captions of these, 0 repeated, 0 cannot be used\n"
        f"index: {data / '.skygen' / 'index' / 'pairs.parquet'}\n"
    )
    assert "60 of 60 rows" in err
    expected = [pair for pair in read_pairs(data) if pair.source in ("US", "CH")]
    assert 0 < len(expected) < 60
    out, err = say("index", data, "--where", "source in (US, CH)", "--output", tmp_path / "chosen.csv")
    assert f"chosen: {len(expected)} pairs, fingerprint " in out
    assert f"{tmp_path / 'chosen.csv'}: pairs {len(expected)}, captions {len(expected)}" in out
    assert "of 60 rows" not in err  # indexed once
    chosen = read_pairs(data, csv=tmp_path / "chosen.csv")
    assert [(pair.key, pair.captions) for pair in chosen] == [(pair.key, pair.captions) for pair in expected]


def test_index_says_where_an_expression_is_wrong(data: Path, say: Say) -> None:
    _, err = say("index", data, "--where", "surce == US", code=2)
    assert "skygen: the expression 'surce == US' at column 1: there is no field `surce` (perhaps `source`)" in err
    _, err = say("index", data, "--where", "width > 64", code=2)
    assert "no pair has a known width: run `skygen check` on the data set first, which opens every image" in err


def test_check_accounts_for_every_row_and_reading_leaves_out_what_it_found(data: Path, say: Say, tmp_path: Path) -> None:
    out, err = say("check", data, "--workers", 1, "--output", tmp_path / "rejects.jsonl")
    first, *rejected, line, total, where = out.splitlines()
    assert (first, line, total) == ("58  pairs can be used", "──", "60  rows in all")
    assert sorted(rejected) == [
        " 1  rejected: missing",
        " 1  rejected: truncated: the file ends before the picture does",
    ]
    assert where == f"{tmp_path / 'rejects.jsonl'} has a line for each that cannot be used"
    assert "60 of 60 images" in err
    lost = {json.loads(line)["key"] for line in (tmp_path / "rejects.jsonl").read_text().splitlines()}
    assert len(lost) == 2
    assert {pair.key for pair in read_pairs(data)}.isdisjoint(lost)
    assert len(read_pairs(data)) == 58


def test_audit_lays_a_choice_beside_the_whole(data: Path, say: Say, tmp_path: Path) -> None:
    out, _ = say("audit", data, "--where", "source == US", "--output", tmp_path / "audit")
    whole, chosen, page = out.splitlines()
    assert whole == "data: 60 pairs"
    assert chosen == f"data: source == US: {len([pair for pair in read_pairs(data) if pair.source == 'US'])} pairs"
    assert page == str(tmp_path / "audit" / "audit.html")
    audits = json.loads((tmp_path / "audit" / "audit.json").read_text())["audits"]
    assert [audit["pairs"] for audit in audits] == [int(line.rpartition(": ")[2].split()[0]) for line in (whole, chosen)]


def test_download_says_what_it_would_fetch(say: Say, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("SKYGEN_DOWNLOAD_BASE", "http://127.0.0.1:9")  # nobody listens there
    out, _ = say("download", "part2", "SkyScript_val_5K_filtered_by_CLIP_openai", "--folder", tmp_path, "--dry-run")
    assert [line.split()[0] for line in out.splitlines()[1:4]] == [
        "images2", "meta2", "SkyScript_val_5K_filtered_by_CLIP_openai",
    ]  # fmt: skip
    assert list(tmp_path.iterdir()) == []
    _, err = say("download", "imagse2", "--dry-run", code=2)
    assert "did you mean images2" in err
