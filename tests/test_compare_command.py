"""``skygen compare``: what it prints, as a table and as JSON, and the codes it ends with."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from skygen import cli
from skygen.evaluation.items import ItemScores
from skygen.evaluation.splits import identify_split


def write_run(folder: Path, lead: float, texts: list[str]) -> Path:
    keys, references = [f"{row}.jpg" for row in range(20)], [["a lake by a road"]] * 20
    items = ItemScores(keys)
    for writer, extra in (("tuned", lead), ("base", 0.0)):
        items.add(writer, "cider_d", range(20), np.linspace(1.0, 2.0, 20) + extra)
    rows = [{"key": key, "references": references[row], "captions": dict.fromkeys(("tuned", "base"), texts[row])}
            for row, key in enumerate(keys)]  # fmt: skip
    folder.mkdir()
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in items.lines()))
    (folder / "captions.jsonl").write_text("".join(json.dumps(line) + "\n" for line in rows))
    split = identify_split("val", keys, references).to_json()
    (folder / "metrics.json").write_text(json.dumps({"protocol": "skygen-1", "scores": [], "split": split}))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[str, str]:
    first = write_run(tmp_path / "a", 0.5, ["a lake by a road"] * 20)
    return str(first), str(write_run(tmp_path / "b", 0.0, ["a lake by a dam"] * 20))


def ends_with(argv: list[str]) -> int:
    with pytest.raises(SystemExit) as end:
        cli.main(argv)
    assert isinstance(end.value.code, int)
    return end.value.code


def test_a_table_is_printed(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["compare", *runs])
    heading, columns, _, *lines = capsys.readouterr().out.splitlines()
    assert heading.startswith(f"{runs[0]} tuned minus {runs[1]} tuned, val, 20 images, fingerprint ")
    assert columns.split()[0] == "metric"
    assert [line.split()[0] for line in lines] == ["cider_d", "bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    cider = lines[0].split()
    assert cider[:4] == ["cider_d", "2.0000", "1.5000", "+0.5000"]
    assert cider[-2:] == ["0.0001", "20"]  # none of 10,000 drawn ways is as far from 0


def test_json_holds_the_same(runs: tuple[str, str], capsys: pytest.CaptureFixture[str]) -> None:
    cli.main(["compare", *runs, "--writer", "tuned,base", "--json", "--seed", "3"])
    answer = json.loads(capsys.readouterr().out)
    assert (answer["runs"], answer["writers"], answer["seed"]) == (list(runs), ["tuned", "base"], 3)
    assert answer["split"]["images"] == 20
    assert len(answer["differences"]) == 5
    assert answer["differences"][0]["metric"] == "cider_d"
    assert answer["differences"][0]["difference"] == pytest.approx(0.5)
    assert answer["differences"][1]["p_value"] is None


def test_refusals_end_with_their_codes(runs: tuple[str, str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    metrics = Path(runs[1], "metrics.json")
    content = json.loads(metrics.read_text())
    content["split"]["fingerprint"] = "0" * 16
    metrics.write_text(json.dumps(content))
    assert ends_with(["compare", *runs]) == 2
    said = capsys.readouterr().err
    assert said.startswith("skygen: ")
    assert said.endswith("were scored on other images or references; evaluate both on the same split.\n")
    assert said.count("\n") == 1
    assert ends_with(["compare", runs[0], runs[0], "--writer", "tuned,base,human"]) == 2
    said = capsys.readouterr().err
    assert said == "skygen: --writer is 'tuned,base,human'; give one writer, such as tuned, or two, such as tuned,base.\n"
    assert ends_with(["compare", runs[0], str(tmp_path / "gone")]) == 65
    assert ends_with(["compare", runs[0]]) == 2
