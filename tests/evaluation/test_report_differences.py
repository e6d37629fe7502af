"""Paired differences in the report: what is compared with what, that the figures are right, and what damage costs."""

from __future__ import annotations

import itertools
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated_runs import Page, cosine, make_evaluation, write_lines

from skygen.evaluation.reports.differences import PairedDifferences, show_differences
from skygen.evaluation.reports.report import open_runs, write_report

COUNT = 10
ONE_ITEM = json.dumps({"key": "0.png", "scores": {"tuned": {"m": 1}, "base": {"m": 2}}})
MINUS = "\N{MINUS SIGN}"


def pairs_of(*runs: Path) -> tuple[list[PairedDifferences], list[str]]:
    records = open_runs(list(runs))
    found = show_differences(records)
    return found, [note for record in records for note in record.notes]


def names(found: list[PairedDifferences]) -> list[tuple[tuple[str, str], tuple[str, str]]]:
    return [(pair.first, pair.second) for pair in found]


def make(folder: Path, **changes: Any) -> Path:
    return make_evaluation(folder, folder.parent, count=COUNT, **changes)


def test_each_model_stands_against_base_and_the_figures_are_those_of_the_definition(tmp_path: Path) -> None:
    found, notes = pairs_of(make(tmp_path / "one"))
    assert notes == []
    assert names(found) == [(("one", "tuned"), ("one", "base")), (("one", "tuned, best of 4"), ("one", "base"))]
    line = found[0].lines[0]
    changes = np.array([cosine("tuned", place) - cosine("base", place) for place in range(COUNT)])
    assert (line.name, line.extractor, line.difference.count) == ("skyclip_score", "skyclip:miniature", COUNT)
    assert line.difference.difference == pytest.approx(changes.mean())
    signs = np.array(list(itertools.product((-1, 1), repeat=COUNT)))
    assert line.difference.p_value == pytest.approx((np.abs(signs @ changes) >= abs(changes.sum()) - 1e-12).mean())
    low, high = line.difference.interval
    half = 1.96 * changes.std() / COUNT**0.5
    assert (low, high) == pytest.approx((changes.mean() - half, changes.mean() + half), rel=0.05)
    assert (line.verdict, line.value) == ("better", f"+{changes.mean():.4f}")
    left, width, place = line.reach
    assert 50 < left < place < left + width <= 96


def test_what_cannot_be_told_apart_has_no_verdict_and_no_sign(tmp_path: Path) -> None:
    found, _ = pairs_of(make(tmp_path / "one"))
    line = found[0].lines[1]
    assert line.name == "judge_accuracy"  # 0 or 1 alike for all models
    assert (line.value, line.verdict, line.difference.p_value) == ("0.00", "", 1.0)


def test_runs_of_one_split_and_protocol_stand_against_the_first(tmp_path: Path) -> None:
    other = {"name": "test", "images": COUNT, "fingerprint": "ffff", "official": None}
    runs = [
        make(tmp_path / "a"), make(tmp_path / "b", raised=-0.02), make(tmp_path / "c", split=other, raised=0.02),
        make(tmp_path / "d", protocol="mhn-2023", raised=0.02),
    ]  # fmt: skip
    found, notes = pairs_of(*runs)
    across = [pair for pair in found if not pair.is_of_one_run]
    assert notes == []
    assert names(across) == [(("b", "tuned"), ("a", "tuned"))]  # base and the best of 4 scored the same in both
    line = across[0].lines[0]
    assert (line.value, line.interval, line.verdict) == (f"{MINUS}0.0200", f"{MINUS}0.0200 to {MINUS}0.0200", "worse")
    assert len(found) == 4 * 2 + 1


def test_without_a_base_the_first_model_is_what_others_are_held_against(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    rows = [
        {"key": str(place), "scores": {name: {"m": place / (number + 2)} for number, name in enumerate("abcde")}}
        for place in range(9)
    ]
    write_lines(run / "items.jsonl", rows)
    found, notes = pairs_of(run)
    assert names(found) == [(("one", name), ("one", "a")) for name in "bcd"]
    assert notes == ["items.jsonl: e not compared with a; `skygen compare` does it, two models at a time."]
    assert found[0].lines[0].verdict == "differs"  # of a metric m nobody knows which way it is better


def test_a_lower_distance_is_better(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    rows = [
        {"key": str(place), "scores": {"tuned": {"loss": place / 2}, "base": {"loss": place / 2 + 1}}} for place in range(9)
    ]
    write_lines(run / "items.jsonl", rows)
    ((line,),) = [pair.lines for pair in pairs_of(run)[0]]
    assert (line.difference.difference, line.verdict) == (-1.0, "better")


def test_tiny_differences_are_written_with_a_power_of_ten(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    rows = [{"key": str(place), "scores": {"tuned": {"m": place + 2e-6}, "base": {"m": place}}} for place in range(9)]
    write_lines(run / "items.jsonl", rows)
    ((line,),) = [pair.lines for pair in pairs_of(run)[0]]
    assert line.value == f"+2.0e{MINUS}06"


def test_runs_of_captions_have_corpus_bleu_without_a_p_value(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    (run / "pictures.jsonl").unlink()
    said = {"tuned": "a wide river between green fields", "base": "a river with some boats"}
    rows = [
        {"key": str(n), "image": "x", "references": ["a wide river between green fields and farms"],
         "captions": said | {"tuned": said["tuned" if n % 2 else "base"]}}
        for n in range(COUNT)
    ]  # fmt: skip
    write_lines(run / "captions.jsonl", rows)
    write_lines(
        run / "items.jsonl", [{"key": str(n), "scores": {"tuned": {"m": n % 3}, "base": {"m": 0}}} for n in range(COUNT)]
    )
    found, notes = pairs_of(run)
    assert notes == []
    assert [line.name for line in found[0].lines] == ["m", "bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    assert [line.p_value == "" for line in found[0].lines] == [False, True, True, True, True]


@pytest.mark.parametrize(
    ("damage", "note"),
    [
        ({"items.jsonl": "nothing\n"}, "items.jsonl, line 1, is damaged"),
        ({"items.jsonl": "[" * 100_000}, "items.jsonl, line 1, is damaged"),
        ({"items.jsonl": ONE_ITEM}, "tuned and base are not compared: m: 1 images have a score of both"),
        ({"pictures.jsonl": None}, "tuned and base are not compared: one/captions.jsonl cannot be read"),
        ({"metrics.json": json.dumps({"protocol": "x", "scores": []})}, "metrics.json does not say which split it is of."),
        ({"metrics.json": "{"}, "metrics.json does not say which split it is of."),
    ],
)  # fmt: skip
def test_damage_costs_a_note(damage: dict[str, str | None], note: str, tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    for name, text in damage.items():
        (run / name).unlink() if text is None else (run / name).write_text(text)
    found, notes = pairs_of(run)
    assert found == []
    assert any(note in one for one in notes), notes


def test_a_difference_too_large_for_arithmetic_is_left_out(tmp_path: Path) -> None:
    run = make(tmp_path / "one")
    rows = [{"key": str(n), "scores": {"tuned": {"m": 1e308, "n": n % 3}, "base": {"m": 0, "n": 0}}} for n in range(9)]
    write_lines(run / "items.jsonl", rows)
    with np.errstate(all="ignore"):
        found, notes = pairs_of(run)
    assert [line.name for pair in found for line in pair.lines] == ["n"]
    assert notes == ["tuned and base: metrics whose difference is not finite are left out."]


def test_other_items_under_one_fingerprint_are_not_compared(tmp_path: Path) -> None:
    first, second = make(tmp_path / "a"), make(tmp_path / "b", raised=0.1)
    lines = (second / "items.jsonl").read_text().splitlines(keepends=True)
    (second / "items.jsonl").write_text("".join(lines[1:]))
    found, notes = pairs_of(first, second)
    assert all(pair.is_of_one_run for pair in found)
    assert notes == ["items.jsonl lists other items than that of a, although their splits agree."]


def test_the_page_names_runs_and_models_and_says_how_it_was_tested(tmp_path: Path) -> None:
    write_report([make(tmp_path / "a"), make(tmp_path / "b", raised=0.02)], tmp_path / "report.html", "Tiles")
    (section,) = re.findall(r'<section id="differences">.*?</section>', (tmp_path / "report.html").read_text(), re.DOTALL)
    page = Page(section)
    for words in ("tuned minus base a", "tuned minus base b", "b minus a tuned of both", "+0.0200", "two-sided p-value"):
        assert words in page.text, words
    assert len(page.values("article", "class")) == 5
