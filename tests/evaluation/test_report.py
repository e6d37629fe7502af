"""The report: what it shows of run folders, what it keeps out, and that damage costs a note and not the page."""

from __future__ import annotations

import html
import json
import re
import shlex
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from fabricated_runs import ATTACK, Page, make_run, write_lines
from PIL import Image

from skygen.errors import ConfigError, DataError
from skygen.evaluation.pages.page import write_page
from skygen.evaluation.reports.figures import draw_curve, encode_thumbnail, smooth_curve, thin_out
from skygen.evaluation.reports.report import build_page, merge_metrics, open_runs, write_report
from skygen.evaluation.reports.sections import find_threshold, show_screening
from skygen.evaluation.reports.tables import tabulate, write_number
from skygen.evaluation.scores import Score, to_metrics

SCORES = [
    Score("cider_d", 1.2345678901, 20, (1.01, 1.43), "tuned", "test"),
    Score("cider_d", 0.5, 20, (0.4, 0.6), "base", "test"),
    Score("cider_d", 0.125, 20, None, "constant", "test"),
    Score("kid", 0.0123, 40, (0.01, 0.015), "tuned", "test", "skyclip:miniature"),
]


def log_line(step: int, loss: float = 1.0) -> dict[str, Any]:
    return {
        "step": step, "total": 30, "loss": loss, "gradient_norm": 0.5, "learning_rate": 1e-4, "images_per_second": 4.0,
        "data_seconds": 0.5, "images": 8, "skipped": False,
    }  # fmt: skip


@pytest.fixture
def data(tmp_path: Path) -> Path:
    folder = tmp_path / "data"
    (folder / "images").mkdir(parents=True)
    for index in range(16):
        Image.new("RGB", (16, 16), (10 * index, 90, 60)).save(folder / "images" / f"{index}.png")
    return folder


@pytest.fixture
def runs(tmp_path: Path, data: Path) -> list[Path]:
    """A scoring, a training, an evaluation of captions and one of images."""
    folders = [make_run(tmp_path / "runs" / name, data) for name in ("score", "train", "captions", "images")]
    score, train, captions, images = folders
    pairs = [
        {"key": str(i), "image": f"images/{i}.png", "caption": f"tile number {i}", "similarity": i / 50, "kept": i >= 8}
        for i in range(16)
    ]
    pairs[15]["caption"] = ATTACK
    pq.write_table(pa.Table.from_pylist(pairs), score / "scores.parquet")
    write_lines(train / "log.jsonl", [log_line(step, 3.0 - step / 20) for step in range(1, 31)])
    said = {"tuned": "a tuned caption", "base": ATTACK, "constant": "always this", "class_mode": "a court"}
    rows = [{"key": "k", "image": str(data / "images/3.png"), "references": ["a reference", "a second"], "captions": said}]
    write_lines(captions / "captions.jsonl", rows)
    (captions / "metrics.json").write_text(json.dumps(to_metrics("captions 1", SCORES[:3])))
    Image.new("RGB", (300, 300), (1, 2, 3)).save(images / "drawn.png")
    score_of = {"tuned": 0.3, "base": 0.2}
    row = {"prompt": ATTACK, "seed": 7, "tuned": "drawn.png", "base": "drawn.png", "real": None, "skyclip_score": score_of}
    write_lines(images / "pictures.jsonl", [row])
    (images / "metrics.json").write_text(json.dumps(to_metrics("images 1", SCORES[3:])))
    return folders


def read_page(runs: list[Path], output: Path) -> tuple[str, Page]:
    write_report(runs, output, "a <title>")
    text = output.read_text(encoding="utf-8")
    return text, Page(text)


def test_the_page_asks_for_nothing_over_the_network_and_needs_no_script(runs: list[Path], tmp_path: Path) -> None:
    text, page = read_page(runs, tmp_path / "report.html")
    links = [value for tag in ("a", "link", "use", "image") for value in page.values(tag, "href")]
    assert links
    assert all(link.startswith(("#", "data:")) for link in links)
    sources = page.values("img", "src")
    assert len(sources) == 12 + 1 + 2  # the best and the worst pairs, one captioned image, base and tuned
    assert all(source.startswith("data:image/") for source in sources)
    assert not {tag for tag, _ in page.tags} & {"script", "iframe", "object", "embed"}
    assert "://" not in text
    assert "@import" not in text
    assert not re.search(r"url\((?!#)", text)


def test_whatever_a_run_says_stays_text(runs: list[Path], tmp_path: Path) -> None:
    text, page = read_page(runs, tmp_path / "report.html")
    assert "<script>" not in text
    flat = page.text
    assert flat.count(ATTACK) == 1 + 1 + 1 + 4  # a pair, a caption, a prompt, and the config of four runs
    assert "a <title>" in flat


def test_every_section_is_there(runs: list[Path], tmp_path: Path) -> None:
    _, page = read_page(runs, tmp_path / "report.html")
    assert page.values("section", "id") == ["scores", "pictures", "captions", "pairs", "training", "made"]
    assert len(page.values("svg", "viewbox")) == 3  # a histogram, the loss, the gradient norm
    for words in (
        "These images are synthetic.", "OpenStreetMap contributors", "SkyScript", "seed 7", "SkyCLIP 0.300", "a tuned caption",
        "a reference", "a second", "always this", "8 (50 %)", "kept from 0.160", "recipes/score_pairs.py --keep 0.5", "c0ffee",
        "9.9.9", "60.0 in updates", "higher is better", "lower is better · skyclip:miniature", "captions 1 (captions)",
    ):  # fmt: skip
        assert words in page.text, words
    assert "Left out of this page" not in page.text


def test_the_command_of_a_run_can_be_copied_as_it_stands(data: Path, tmp_path: Path) -> None:
    words = ["recipes/evaluate_captions.py", "--pairs.where", f"{ATTACK}  two\nlines", "--model.adapter", "runs/my own/adapter"]
    first, second = (
        make_run(tmp_path / "runs" / "one", data, words),
        make_run(tmp_path / "runs" / "two", data, ["skygen", "audit"]),
    )
    environment = json.loads((first / "environment.json").read_text()) | {"processes": 2}
    (first / "environment.json").write_text(json.dumps(environment))
    text, _ = read_page([first, second], tmp_path / "report.html")
    blocks = re.findall(r'<div class="command">.*?<pre>(.*?)</pre>', text, re.DOTALL)
    commands = [shlex.split(html.unescape(re.sub("</?span>", "", block))) for block in blocks]
    assert commands == [["accelerate", "launch", "--num_processes", "2", *words], ["skygen", "audit"]]


def test_a_section_without_files_is_absent(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "bare", data)
    _, page = read_page([run], tmp_path / "report.html")
    assert page.values("section", "id") == ["made"]
    assert "Left out of this page" not in page.text


def test_the_numbers_are_those_of_metrics_json(runs: list[Path], tmp_path: Path) -> None:
    _, page = read_page(runs, tmp_path / "report.html")
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert written == json.loads(json.dumps(merge_metrics(runs)))
    assert written == json.loads(json.dumps(to_metrics("captions 1; images 1", SCORES)))
    assert [float(value) for value in page.values("data", "value")] == [score["value"] for score in written["scores"]]
    assert "1.23 1.01 \N{EN DASH} 1.43" in page.text


def test_the_same_runs_give_the_same_bytes(runs: list[Path], tmp_path: Path) -> None:
    first, _ = read_page(runs, tmp_path / "first" / "report.html")
    second, _ = read_page(runs, tmp_path / "second" / "report.html")
    assert first == second


def test_best_and_worst_pairs_come_in_order(runs: list[Path], tmp_path: Path) -> None:
    _, page = read_page(runs, tmp_path / "report.html")
    flat = page.text
    positions = [
        flat.index(f"{similarity:.3f} {mark}") for similarity, mark in ((0.3, "kept"), (0.2, "kept"), (0.0, "dropped"))
    ]
    assert positions == sorted(positions)
    assert flat.index("Best 6") < positions[0] < flat.index("Worst 6") < positions[2]


def test_captions_without_references_are_shown_too(data: Path, tmp_path: Path) -> None:
    run = make_run(tmp_path / "runs" / "captioned", data)
    write_lines(run / "captions.jsonl", [{"file_name": str(data / "images/3.png"), "text": "a new caption"}])
    _, page = read_page([run], tmp_path / "report.html")
    assert "image caption a new caption" in page.text
    assert len(page.values("img", "src")) == 1


def test_a_relative_data_set_is_found_from_the_folder_the_run_was_made_in(runs: list[Path], tmp_path: Path) -> None:
    config = runs[0] / "config.yaml"
    config.write_text("run:\n  name: score\n  root: runs\npairs:\n  root: data\n")
    _, page = read_page(runs[:1], tmp_path / "report.html")
    assert len(page.values("img", "src")) == 12


def test_damage_costs_a_note_and_not_the_page(runs: list[Path], tmp_path: Path) -> None:
    score, train, captions, images = runs
    rows = pq.read_table(score / "scores.parquet").to_pylist()
    rows[3]["similarity"], rows[5]["caption"], rows[6]["similarity"] = float("nan"), None, float("inf")
    pq.write_table(pa.Table.from_pylist(rows), score / "scores.parquet")
    (tmp_path / "data" / "images" / "15.png").write_bytes(b"no image")
    huge = json.dumps(log_line(10**400, 0.5))  # no axis can show it
    (train / "log.jsonl").write_bytes(b"\x00\xff\xfe\n" + json.dumps(log_line(1, float("nan"))).encode() + f"\n{huge}".encode())
    (train / "config.yaml").write_text("run: [")
    (captions / "metrics.json").write_text('{"scores": [{"name": "x"}]}')
    (captions / "captions.jsonl").write_text(json.dumps({"image": "\ud800.png", "references": ["\ud800"], "captions": {}}))
    (images / "metrics.json").write_text("nothing")
    (images / "environment.json").write_bytes(b"\xff\xfe")
    (images / "pictures.jsonl").write_text("{}\n")
    _, page = read_page([*runs, tmp_path / "runs" / "gone"], tmp_path / "report.html")
    assert [note for note in page.text.split("Left out of this page")[1:]]
    for note in (
        "score: scores.parquet: 3 rows are incomplete and left out.",
        "score: scores.parquet: 1 image is missing or damaged, such as 'images/15.png'.",
        "train: log.jsonl: 2 lines could not be read and were left out, the first is line 1.",
        "train: config.yaml does not hold a mapping and was left out.",
        "captions: metrics.json is not laid out as skygen writes it and was left out.",
        "captions: captions.jsonl: 1 image is missing or damaged",
        "images: metrics.json does not hold a mapping and was left out.",
        "images: environment.json cannot be read (UnicodeDecodeError) and was left out.",
        "images: pictures.jsonl: 1 line could not be read and was left out, the first is line 1.",
        "gone: there is no such folder.",
    ):
        assert note in page.text, note
    assert page.values("section", "id") == ["captions", "pairs", "training", "made"]


def test_how_previews_were_judged_along_a_training_is_drawn(runs: list[Path], tmp_path: Path) -> None:
    def drawings() -> str:
        write_report(runs, tmp_path / "report.html", "Tiles")
        return (tmp_path / "report.html").read_text()

    (runs[1] / "previews").mkdir()
    scores = runs[1] / "previews" / "scores.jsonl"
    write_lines(scores, [{"step": 1, "images": 4, "cider_d": 0.1, "distinct": 1.0}])
    assert "CIDEr-D of the previews" not in drawings()  # one value is no curve
    lines = [{"step": step, "images": 4, "cider_d": step / 10, "judge_similarity": 0.2} for step in (1, 2, 3)]
    write_lines(scores, lines)
    page = drawings()
    assert "CIDEr-D of the previews over the updates, from 0.1" in page
    assert "previews, as the judge sees them over the updates" in page
    assert "distinct captions among" not in page


def test_without_any_run_there_is_an_error_that_says_so(tmp_path: Path) -> None:
    gone = tmp_path / "gone"
    with pytest.raises(DataError, match=re.escape(f"{gone}: no such folder; give the folders of runs, such as runs/NAME.")):
        write_report([gone], tmp_path / "report.html", "t")
    with pytest.raises(ConfigError, match=r"^no run to report on; give the folders of runs, such as runs/NAME\.$"):
        merge_metrics([])


def test_a_runs_own_metrics_are_never_replaced(runs: list[Path]) -> None:
    captions = runs[2]
    before = (captions / "metrics.json").read_bytes()
    write_report([captions], captions / "report.html", "own")
    assert (captions / "report.html").exists()
    with pytest.raises(ConfigError, match="its own record; choose another --output"):
        write_report(runs, captions / "all.html", "several")
    assert (captions / "metrics.json").read_bytes() == before


def test_pictures_of_any_model_are_read_in_both_forms(runs: list[Path], tmp_path: Path) -> None:
    path = runs[3] / "pictures.jsonl"
    new = {"key": "0.png", "prompt": "a bay", "seed": 3, "images": {"real": None, "tuned, best of 4": "drawn.png"},
           "skyclip_score": {"tuned, best of 4": 0.5}, "judged": {"tuned, best of 4": "sea lake"}}  # fmt: skip
    old = {"prompt": "a farm", "seed": 4, "tuned": "drawn.png", "my model": "drawn.png", "skyclip_score": {"my model": 0.25}}
    write_lines(path, [new, old, {**new, "images": {"real": None}}, {**new, "images": ["drawn.png"]}, {**old, "tuned": 3}])
    _, page = read_page(runs[3:], tmp_path / "report.html")
    for words in ("2 of 2 prompts", "a bay", "tuned, best of 4 SkyCLIP 0.500", "judged: sea lake", "my model SkyCLIP 0.250"):
        assert words in page.text, words
    assert "pictures.jsonl: 3 lines could not be read and were left out, the first is line 3." in page.text
    alternatives = [text for text in page.values("img", "alt") if "a bay" in text or "a farm" in text]
    assert alternatives == ["tuned, best of 4 image for: a bay", "tuned image for: a farm", "my model image for: a farm"]


def test_scores_stand_on_one_scale_with_the_tuned_model_first() -> None:
    (table,) = tabulate([("run", score) for score in (SCORES[2], SCORES[1], SCORES[0])])
    assert [line.score.model for line in table.lines] == ["tuned", "base", "constant"]
    tuned, base, constant = table.lines
    assert constant.position is not None and base.position is not None and tuned.position is not None
    assert 0 < constant.position < base.position < tuned.position < 100
    assert base.extent is not None
    assert base.extent[0] < base.position < sum(base.extent)
    assert constant.extent is None


def test_one_score_alone_and_scores_that_are_no_number_can_be_shown() -> None:
    (alone,) = tabulate([("run", Score("fid", 0.0, 3, None, "tuned"))])
    assert alone.lines[0].position == 50.0
    (table,) = tabulate([("run", Score("fid", float("nan"), 3, None, "tuned"))])
    assert (table.lines[0].position, table.lines[0].value) == (None, "nan")


def test_numbers_are_set_with_a_minus_and_zero_has_no_sign() -> None:
    (table,) = tabulate(
        [("run", Score("bradley_terry", -0.45, 9, (-0.6, 0.0), "a")), ("run", Score("bradley_terry", 0.5, 9, None, "b"))]
    )
    assert [(line.value, line.interval) for line in table.lines] == [
        ("\N{MINUS SIGN}0.450", "\N{MINUS SIGN}0.600 to 0.000"),
        ("0.500", ""),
    ]
    assert [write_number(value, 2, "+") for value in (-0.001, 0.001, 1.5, -1.5)] == [
        "0.00",
        "0.00",
        "+1.50",
        "\N{MINUS SIGN}1.50",
    ]


@pytest.mark.parametrize(
    ("name", "direction"),
    [("fid", "lower is better"), ("skyclip_score", "higher is better"), ("skyclip_score_turned_change", "lower is better"),
     ("ref_clip_score", "higher is better"), ("human_preference", "higher is better"), ("krippendorff_alpha", ""),
     ("vendi_score", "")],
)  # fmt: skip
def test_which_way_a_metric_is_better(name: str, direction: str) -> None:
    (table,) = tabulate([("run", Score(name, 0.5, 3, None, "tuned"))])
    assert table.direction == direction


def test_a_threshold_is_only_named_where_it_parts_the_pairs() -> None:
    assert find_threshold(np.array([0.3, 0.25]), np.array([0.1, 0.2])) == 0.25
    assert find_threshold(np.array([0.3, 0.15]), np.array([0.1, 0.2])) is None
    assert find_threshold(np.array([]), np.array([0.1])) is None


def test_a_long_curve_is_thinned_by_means_and_gaps_are_left_out() -> None:
    x, y = thin_out(np.arange(4000.0), np.where(np.arange(4000) % 2, 1.0, 3.0))
    assert (len(x), set(y)) == (400, {2.0})
    assert x[0] == 4.5
    x, y = thin_out(np.arange(4.0), np.array([1.0, np.nan, np.inf, 1e300]))
    assert (list(x), list(y)) == ([0.0], [1.0])
    assert draw_curve([1, 2], [float("nan")] * 2, "loss") == ""


def test_smoothing_keeps_a_constant_and_calms_noise() -> None:
    assert smooth_curve(np.full(100, 2.5)) == pytest.approx(np.full(100, 2.5))
    jagged = np.where(np.arange(400) % 2, 1.0, -1.0)
    assert np.abs(smooth_curve(jagged)[200:]).max() < 0.1


@pytest.mark.parametrize(("side", "kind", "small"), [(64, "png", True), (600, "jpeg", False)])
def test_small_images_are_embedded_as_they_are_and_large_ones_shrink(tmp_path: Path, side: int, kind: str, small: bool) -> None:
    path = tmp_path / "image.png"
    Image.new("RGB", (side, side), (200, 30, 60)).save(path)
    uri, pixelated = encode_thumbnail(path)
    assert uri.startswith(f"data:image/{kind};base64,")
    assert pixelated is small
    assert len(uri) < 3000


def test_a_screening_shows_both_curves_and_the_counts_and_survives_damage(tmp_path: Path, data: Path) -> None:
    folder = make_run(tmp_path / "runs" / "screen", data)
    verdicts = ["kept", "kept", "copy", "off_prompt"]
    write_lines(folder / "screened.jsonl", [
        {"verdict": each, "copied_by": ["similarity", "hash"] if each == "copy" else []} for each in verdicts
    ])  # fmt: skip
    curves = {name: {"synthetic": [0.1, 0.5, 0.9], "real": [0.1, 0.2, 0.3]} for name in ("similarity", "hash_distance")}
    control = {
        "control": ATTACK, "counts": {"synthetic": 4, "real": 1234, "real_in_training": 5}, "levels": [0, 0.5, 1],
        "bounds": {"similarity": None, "hash_distance": 6}, **curves,
    }  # fmt: skip
    (folder / "copies_control.json").write_text(json.dumps(control))
    (record,) = open_runs([folder])
    section = show_screening(record)
    assert section is not None
    assert (section.verdicts, section.copied_by) == (
        (("kept", 2), ("copy", 1), ("off_prompt", 1)),
        (("similarity and hash", 1),),
    )
    output = tmp_path / "screen.html"
    write_page(output, "report.html.jinja", {"title": "t", **build_page([record]), "screenings": [section]})
    text = output.read_text(encoding="utf-8")
    page = Page(text)
    assert len(page.values("svg", "viewbox")) == 2
    assert "<script>" not in text
    for words in ("off prompt", "2 (50.0 %)", "1,234 real images", "5 of the real images", "copies by similarity and hash"):
        assert words in page.text, words
    for damage in ({**control, "levels": None}, {**control, "counts": {}}, {**control, "similarity": {"real": 3}}):
        (folder / "copies_control.json").write_text(json.dumps(damage))
        (record,) = open_runs([folder])
        section = show_screening(record)
        assert section is not None
        assert (section.curves, len(record.notes)) == ((), 1)
