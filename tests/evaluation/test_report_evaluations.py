"""What the report shows of an evaluation of pictures: leakage and faults first, protocols apart, strata, best and worst."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from fabricated_runs import ATTACK, LEAKAGE, MODELS, Page, cosine, make_evaluation, make_run, stratum, write_lines
from PIL import Image

from skygen.evaluation.reports.audit_maps import show_audit
from skygen.evaluation.reports.distributions import show_distributions
from skygen.evaluation.reports.figures import draw_densities
from skygen.evaluation.reports.pictures import choose_extremes
from skygen.evaluation.reports.records import PictureRow
from skygen.evaluation.reports.report import open_runs, write_report
from skygen.evaluation.reports.strata import show_strata
from skygen.evaluation.scores import Score, to_metrics


@pytest.fixture
def data(tmp_path: Path) -> Path:
    (tmp_path / "data").mkdir()
    Image.new("RGB", (16, 16), (10, 90, 60)).save(tmp_path / "data" / "0.png")
    return tmp_path / "data"


def read_page(runs: list[Path], folder: Path) -> tuple[str, Page]:
    write_report(runs, folder / "report.html", "Tiles")
    text = (folder / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def part_of(text: str, name: str) -> Page:
    """Return one section of the page."""
    (found,) = re.findall(rf'<section id="{name}">.*?</section>', text, re.DOTALL)
    return Page(found)


def test_leakage_and_faults_stand_before_any_score_and_what_is_not_no_is_marked(data: Path, tmp_path: Path) -> None:
    faults = ["It sees 256 pixels.", ATTACK]
    first = make_evaluation(tmp_path / "runs" / "first", data, leakage=LEAKAGE)
    second = make_evaluation(tmp_path / "runs" / "second", data, protocol="mhn-2023", faults=faults, leakage=LEAKAGE[:1])
    third = make_evaluation(tmp_path / "runs" / "third", data, leakage=LEAKAGE)
    text, page = read_page([first, second, third], tmp_path)
    assert page.values("section", "id")[:2] == ["caveats", "scores"]
    assert [link for link in page.values("a", "href") if "caveats" in link] == ["#caveats"]
    caveats = part_of(text, "caveats")
    marks = [mark for mark in caveats.values("span", "class") if mark.startswith("answer")]
    assert marks == ["answer", "answer yes", "answer partly", "answer unknown", "answer"]  # alike answers stand once
    for words in ("first, third", "It kept the best of 4.", "Known faults of mhn-2023 (second)", "It sees 256 pixels.", ATTACK):
        assert words in caveats.text, words
    assert "<script>" not in text


def test_without_leakage_and_faults_there_is_no_such_section(data: Path, tmp_path: Path) -> None:
    run = make_evaluation(tmp_path / "runs" / "one", data, leakage=[], faults=[])
    _, page = read_page([run], tmp_path)
    assert page.values("section", "id") == ["scores", "differences", "distributions", "pictures", "made"]
    assert "Leakage" not in page.text
    assert "Known faults" not in page.text


def test_scores_of_two_protocols_never_stand_in_one_table(data: Path, tmp_path: Path) -> None:
    names = {"a": "skygen-1", "b": "mhn-2023", "c": "skygen-1"}
    runs = [make_evaluation(tmp_path / "runs" / name, data, protocol=protocol) for name, protocol in names.items()]
    text, _ = read_page(runs, tmp_path)
    scores = part_of(text, "scores")
    assert "skygen-1 (a, c)" in scores.text
    assert "mhn-2023 (b)" in scores.text
    tables = re.findall(r'<article class="card">.*?</article>', text, re.DOTALL)
    fids = [Page(table).text for table in tables if "<h3>fid</h3>" in table]
    assert len(fids) == 2
    assert [re.findall(r"(?:tuned|base) ([abc])", table) for table in fids] == [["a", "c", "a", "c"], []]
    text, page = read_page(runs[:1], tmp_path)
    assert "Measured by skygen-1 (a)." in page.text


def test_networks_are_told_and_other_weights_of_one_name_are_called_out(data: Path, tmp_path: Path) -> None:
    other = [{"name": "skyclip:miniature", "weights": "ffff", "dimension": 128, "input": ATTACK}]
    runs = [make_evaluation(tmp_path / "runs" / "a", data), make_evaluation(tmp_path / "runs" / "b", data, extractors=other)]
    text, _ = read_page(runs, tmp_path)
    assert (
        "skyclip:miniature (a) 00112233aabbccdd 128 64 x 64 skyclip:miniature (b) ffff 128 " + ATTACK
        in part_of(text, "scores").text
    )
    assert "skyclip:miniature is other weights in one run than in another" in part_of(text, "scores").text
    text, page = read_page(runs[:1], tmp_path)
    assert "is other weights" not in page.text
    for words in (
        "test, 16 images, fingerprint 6042cffbb2c006e9",
        "real 500, tuned 16",
        "12.3 in all; most of them: fid, skyclip",
    ):
        assert words in page.text, words


def test_the_worst_group_is_the_lowest_of_the_large_ones(data: Path, tmp_path: Path) -> None:
    strata = [
        stratum("continent", "Africa", 0.25, 20), stratum("continent", "Asia", 0.31, 40), stratum("continent", None, 0.11, 19),
        stratum("continent", "Africa", 0.05, 90, model="base"), stratum("class", "bay", 12.0, 30, metric="fid"),
        stratum("class", "farm", 19.0, 30, metric="fid"), stratum("source", ATTACK, 0.3, 30), stratum("source", "US", 0.2, 3),
    ]  # fmt: skip
    run = make_evaluation(tmp_path / "runs" / "one", data, strata=strata)
    (record,) = open_runs([run])
    section = show_strata(record)
    assert section is not None
    continent, by_class, source = section.tables
    assert [(line.run, line.score.count) for line in continent.lines] == [("Africa", 20), ("Asia", 40), ("not known", 19)]
    assert continent.worst is not None and by_class.worst is not None
    assert (continent.worst.run, continent.ranked) == ("Africa", 2)
    assert (by_class.worst.run, by_class.is_lower_better) == ("farm", True)
    assert (source.worst, source.ranked) == (None, 1)
    assert continent.overall is not None and continent.lines[1].position is not None
    assert continent.overall > continent.lines[1].position  # 0.312 of all against 0.31
    text, _ = read_page([run], tmp_path)
    shown = part_of(text, "strata")
    for words in (
        "at least 20 items",
        "worst group Africa lowest of 2",
        "worst group farm highest of 2",
        "only one group has 20",
    ):
        assert words in shown.text, words
    assert shown.text.count(ATTACK) == 1


def rows_of(*scores: float) -> list[PictureRow]:
    return [PictureRow(f"{place}", place, {"tuned": "x"}, {"base": 9.0, "tuned": score}) for place, score in enumerate(scores)]


def test_best_and_worst_are_chosen_by_the_score_of_the_tuned_model_alone() -> None:
    values = [0.1 * ((7 * place) % 20) for place in range(20)]
    model, scored, best, worst = choose_extremes(rows_of(*values))
    assert (model, scored) == ("tuned", 20)
    assert [row.scores["tuned"] for row in best] == sorted(values)[:-7:-1]
    assert [row.scores["tuned"] for row in worst] == sorted(values)[:6]


def test_no_prompt_is_best_and_worst_and_what_has_no_score_is_neither() -> None:
    for scores, count in (((0.2, 0.2, 0.2, 0.2, 0.2), 2), ((0.3,), 0), ((float("nan"), 0.3, float("inf"), 0.1), 1), ((), 0)):
        _, _, best, worst = choose_extremes(rows_of(*scores))
        assert (len(best), len(worst)) == (count, count)
        assert {row.seed for row in best}.isdisjoint(row.seed for row in worst)
        assert all(np.isfinite(row.scores["tuned"]) for row in (*best, *worst))


def test_best_and_worst_stand_beside_the_evenly_spaced_and_the_rule_is_said(data: Path, tmp_path: Path) -> None:
    run = make_evaluation(tmp_path / "runs" / "one", data, count=30)
    text, _ = read_page([run], tmp_path)
    pictures = part_of(text, "pictures")
    assert len(pictures.values("img", "src")) == (12 + 6 + 6) * 4
    for words in (
        "12 of 30 prompts, evenly spaced, not picked by hand",
        "picture by tuned has the highest SkyCLIP score of 30: chosen by that number alone",
    ):
        assert words in pictures.text, words
    spaced, best, worst = re.split(r"Best 6 by SkyCLIP score|Worst 6 by SkyCLIP score", pictures.text)
    assert re.findall(r"prompt number (\d+)", best) == ["29", "28", "27", "26", "25", "24"]
    assert re.findall(r"prompt number (\d+)", worst) == ["0", "1", "2", "3", "4", "5"]
    assert len(re.findall("judged: sea lake", spaced)) == 36


def test_distributions_are_drawn_by_model_with_the_skyclip_score_first(data: Path, tmp_path: Path) -> None:
    run = make_evaluation(tmp_path / "runs" / "one", data)
    lines = [json.loads(line) for line in (run / "items.jsonl").read_text().splitlines()]
    for place, line in enumerate(lines):
        line["scores"]["tuned"] = (
            {f"other_{n}": place * n for n in range(1, 8)} | line["scores"]["tuned"] | {"cut": float("nan")}
        )
    write_lines(run / "items.jsonl", lines)
    (record,) = open_runs([run])
    section = show_distributions(record)
    assert section is not None
    assert [name for name, _ in section.drawings] == [
        "skyclip_score · skyclip:miniature", *(f"other_{number}" for number in range(1, 6))
    ]  # fmt: skip
    assert section.more == 2  # judge_accuracy is 0 or 1, and no value of cut is finite
    assert [model for model, _ in section.series] == ["tuned", "base", "tuned, best of 4"]
    drawing = section.drawings[0][1]
    assert drawing.count("<svg") == 1
    for number in (1, 2, 3):
        assert f"var(--series-{number})" in drawing
    assert "#0102" not in drawing
    for model in MODELS:
        assert f"{model} {np.mean([cosine(model, place) for place in range(16)]):.4g}" in drawing


def test_scores_in_the_pictures_of_an_older_run_are_drawn_too(data: Path, tmp_path: Path) -> None:
    run = make_evaluation(tmp_path / "runs" / "one", data)
    (run / "items.jsonl").unlink()
    (record,) = open_runs([run])
    section = show_distributions(record)
    assert section is not None
    assert [name for name, _ in section.drawings] == ["skyclip_score"]
    (run / "pictures.jsonl").unlink()
    assert show_distributions(record) is None


def test_an_outline_holds_the_share_of_the_items_in_each_bin() -> None:
    values = np.repeat([0.05, 0.95], [30, 10])
    drawing = draw_densities([values, np.zeros(0)], ["a", "b"], "words")
    heights = sorted(
        {float(y) for _, y in re.findall(r"[ML] ([\d.]+) ([\d.]+)", re.findall(r'd="(M[^"]*)"[^>]*series-1', drawing)[0])}
    )
    top, middle, bottom = heights  # 75 %, 25 % and 0 %; SVG counts downwards
    assert (bottom - middle) / (bottom - top) == pytest.approx(1 / 3, abs=1e-3)


def test_human_ratings_are_shown_as_any_other_scores(tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "ratings"
    folder.mkdir(parents=True)
    scores = [
        Score("human_preference", 0.71, 120, (0.64, 0.78), "run/tuned", "pair"),
        Score("krippendorff_alpha", 0.6, 80, None, "raters"),
    ]
    (folder / "metrics.json").write_text(json.dumps(to_metrics("skygen-human-1", scores)))
    write_lines(folder / "ratings.jsonl", [{"question": "q", "rater": "a"}])
    _, page = read_page([folder], tmp_path)
    assert page.values("section", "id") == ["scores", "made"]
    for words in ("human_preference", "run/tuned", "0.710 0.640 \N{EN DASH} 0.780", "Measured by skygen-human-1 (ratings)."):
        assert words in page.text, words
    assert "Left out of this page" not in page.text


def audit_tree(cells: Any) -> dict[str, Any]:
    captions = {
        "count": 30, "distinct": 12, "effective": 3.0, "inverse_simpson": 2.0, "repeated_share": 0.5, "covering_half": 1,
        "covering_three_quarters": 2, "words": None, "truncated_share": 0.0, "truncated_distinct_share": 0.0,
        "texts_tokenized": 12, "top": [],
    }  # fmt: skip
    geography = {
        "without_box": 3, "in_no_country": 0, "top_country": "CH", "top_country_share": 0.5, "land_cells": 200,
        "land_cells_covered": 50, "cells": cells,
    }  # fmt: skip
    country = {"name": "country", "rows": [], "distinct": 4, "missing": 0, "effective": 2.0, "inverse_simpson": 2.0}
    return {
        "name": ATTACK, "pairs": 30, "images": 29, "geography": geography, "captions": captions, "breakdowns": [country],
        "pixels": {"known": 0, "width": None, "height": None, "upsampled_share": 0.0}, "notes": [],
    }  # fmt: skip


def test_the_map_of_an_audit_is_drawn_with_a_line_of_facts(data: Path, tmp_path: Path) -> None:
    folder = tmp_path / "runs" / "audit"
    folder.mkdir(parents=True)
    trees = [audit_tree([[6, 46, 12], [-8, 4, 3]])] * 5
    (folder / "audit.json").write_text(json.dumps({"skygen": "0", "audits": trees}))
    text, page = read_page([folder], tmp_path)
    assert page.values("section", "id") == ["audits", "made"]
    assert page.values("svg", "viewbox") == ["-180 -90 360 180"] * 4
    for words in (
        ATTACK,
        "10 to 99",
        "countries 4",
        "Switzerland, 50 %",
        "without a place 10.0 %",
        "12 of 30",
        "1 further set is",
    ):
        assert words in page.text, words
    assert "<script>" not in text
    text, page = read_page([make_run(tmp_path / "runs" / "none", data)], tmp_path)
    assert "audits" not in page.values("section", "id")


@pytest.mark.parametrize(
    "cells",
    [[["0\"/><script>", 0, 1]], [[0, 0, "1"]], [[0, 0]], [[0, 900, 1]], [[0, 0, 10**30]], [[True, 0, 1]], 3, None],
)  # fmt: skip
def test_a_damaged_audit_costs_a_note(cells: Any, tmp_path: Path) -> None:
    folder = tmp_path / "audit"
    folder.mkdir()
    (folder / "audit.json").write_text(json.dumps({"audits": [audit_tree(cells)]}))
    (record,) = open_runs([folder])
    assert show_audit(record) is None
    assert record.notes == ["audit.json is not laid out as `skygen audit` writes it and was left out."]


def test_damaged_facts_cost_a_note_each_and_not_the_scores(data: Path, tmp_path: Path) -> None:
    broken_score = stratum("continent", "Asia", 0.3, 40) | {"score": {"name": "x"}}
    run = make_evaluation(
        tmp_path / "runs" / "one", data,
        leakage=[*LEAKAGE[:1], {"question": "Why?", "answer": "perhaps", "detail": ""}, 3], faults="none", split=[1],
        extractors=[{"weights": "0"}], strata=[broken_score, stratum("continent", "Africa", 0.3, 40)], counts=[3],
        seconds={"fid": "long"},
    )  # fmt: skip
    (run / "items.jsonl").write_text('{"key": "0", "scores": 3}\n')
    _, page = read_page([run], tmp_path)
    for note in (
        "metrics.json: 2 entries of `leakage` could not be read and were left out.",
        "metrics.json: `faults` is not laid out as skygen writes it and was left out.",
        "metrics.json: `split` is not laid out as skygen writes it and was left out.",
        "metrics.json: 1 entry of `extractors` could not be read and was left out.",
        "metrics.json: 1 entry of `strata` could not be read and was left out.",
        "items.jsonl, line 1, is damaged",
    ):
        assert note in page.text, note
    assert page.values("section", "id") == ["caveats", "scores", "distributions", "strata", "pictures", "made"]
    assert "only one group has 20" in page.text


def test_a_page_of_everything_asks_for_nothing_over_the_network(data: Path, tmp_path: Path) -> None:
    strata = [stratum("continent", "Africa", 0.25, 20), stratum("continent", "Asia", 0.31, 40)]
    run = make_evaluation(tmp_path / "runs" / "one", data, leakage=LEAKAGE, faults=["It sees 256 pixels."], strata=strata)
    (run / "audit.json").write_text(json.dumps({"audits": [audit_tree([[6, 46, 12]])]}))
    text, page = read_page([run], tmp_path)
    assert page.values("section", "id") == [
        "caveats", "scores", "differences", "distributions", "strata", "pictures", "audits", "made",
    ]  # fmt: skip
    links = [value for tag in ("a", "link", "use", "image") for value in page.values(tag, "href")]
    assert len(links) >= 9
    assert all(link.startswith(("#", "data:")) for link in links)
    sources = page.values("img", "src")
    assert len(sources) == (12 + 6 + 6) * 4
    assert all(source.startswith("data:image/") for source in sources)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed"}
    assert "://" not in text
    assert not re.search(r"url\((?!#)|@import", text)
    assert text == read_page([run], tmp_path)[0]  # the same runs give the same bytes
