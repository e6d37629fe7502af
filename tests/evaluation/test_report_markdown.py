"""The report as Markdown and as a card for the hub: the figures are those of the runs, and no text of a run becomes markup."""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import yaml
from fabricated_runs import ATTACK, LEAKAGE, make_evaluation, make_run, stratum, write_lines
from huggingface_hub import ModelCard

from skygen import cli
from skygen.errors import ConfigError
from skygen.evaluation.reports.report import write_report
from skygen.evaluation.scores import Score, from_metrics, to_metrics

HOSTILE = "a | b `c` <b>d</b> [e](f)\n---\n# g"


def write(runs: list[Path], folder: Path, title: str = "Tiles & more") -> tuple[str, str]:
    """Write the report; return its Markdown and its card."""
    written = write_report(runs, folder / "report.html", title, markdown=True, model_card=True)
    assert [path.name for path in written] == ["report-card.md", "report.md", "report.html"]
    return (folder / "report.md").read_text(encoding="utf-8"), (folder / "report-card.md").read_text(encoding="utf-8")


def rows_of(text: str, *header: str) -> list[list[str]]:
    """Return the cells of the tables with these columns, code spans and escapes undone."""
    found = []
    for block in re.findall(r"(?:^\|.*\|\n?)+", text, re.MULTILINE):
        lines = [re.split(r"(?<!\\) ?\| ?", line)[1:-1] for line in block.strip().splitlines()]
        if lines[0] == list(header):
            found += [[re.sub(r"\\(.)", r"\1", cell).strip("`") for cell in line] for line in lines[2:]]
            assert all(len(line) == len(header) for line in lines)
    return found


SCORE_COLUMNS = ("protocol", "run", "metric", "model", "subset", "value", "95 % interval", "count", "extractor")


@pytest.fixture
def runs(tmp_path: Path) -> list[Path]:
    strata = [stratum("continent", "Africa", 0.25, 20), stratum("continent", "Asia", 0.31, 40)]
    first = make_evaluation(tmp_path / "runs" / "first", tmp_path / "eurosat_rgb", leakage=LEAKAGE, strata=strata)
    second = make_evaluation(
        tmp_path / "runs" / "second", tmp_path / "eurosat_rgb", protocol="mhn-2023", faults=["It sees 256 pixels."], raised=0.1
    )
    return [first, second]


def test_the_tables_of_the_page_are_there(runs: list[Path], tmp_path: Path) -> None:
    text, _ = write(runs, tmp_path)
    assert text.startswith("# Tiles \\& more\n")
    scores = rows_of(text, *SCORE_COLUMNS)
    assert scores[:2] == [
        ["skygen-1", "first", "fid", "tuned", "test", "12.5", "11.0 \N{EN DASH} 14.0", "16", "skyclip:miniature"],
        ["skygen-1", "first", "fid", "base", "test", "40.2", "39.0 \N{EN DASH} 42.0", "16", "skyclip:miniature"],
    ]
    assert [row[0] for row in scores] == ["skygen-1"] * 3 + ["mhn-2023"] * 3
    assert len(re.findall(re.escape("| protocol | run |"), text)) == 2  # a table a protocol
    assert rows_of(text, "question", "answer", "detail") == [
        [leak["question"], leak["answer"], leak["detail"]] for leak in LEAKAGE
    ]
    assert "- It sees 256 pixels\\." in text
    differences = rows_of(text, "first", "second", "metric", "first minus second", "95 % interval", "p", "count", "extractor")
    assert len(differences) == 8
    assert differences[0][:3] == ["first: tuned", "first: base", "skyclip_score"]
    assert rows_of(text, "extractor", "weights", "dimension", "input")[0] == [
        "skyclip:miniature",
        "00112233aabbccdd",
        "128",
        "64 x 64",
    ]
    assert "continent\\: Africa\\, 0\\.250 (20 items)" in text
    commands = [shlex.split(block) for block in re.findall(r"```sh\n(.*?)\n```", text, re.DOTALL)]
    expected = ["accelerate", "launch", "recipes/evaluate_images.py", "--run.name"]
    assert commands == [[*expected, name, "--pairs.where", "year >= 2018"] for name in ("first", "second")]
    assert "![" not in text and "data:image" not in text


def test_a_run_without_anything_has_no_empty_headings(tmp_path: Path) -> None:
    write_report([make_run(tmp_path / "runs" / "bare", tmp_path)], tmp_path / "report.html", "t", markdown=True)
    text = (tmp_path / "report.md").read_text()
    assert re.findall("^#+ .*", text, re.MULTILINE) == ["# t", "## Commands"]
    assert not (tmp_path / "report-card.md").exists()


def test_no_text_of_a_run_becomes_markup(tmp_path: Path) -> None:
    score = Score("skyclip_score", 0.5, 3, (0.4, 0.6), HOSTILE, HOSTILE, HOSTILE)
    run = make_evaluation(
        tmp_path / "runs" / "one", tmp_path / HOSTILE.replace("/", ""), faults=[HOSTILE],
        leakage=[{"question": HOSTILE, "answer": "yes", "detail": HOSTILE}],
        strata=[stratum(HOSTILE, HOSTILE, 0.3, 30, model=HOSTILE)],
        extractors=[{"name": HOSTILE, "weights": HOSTILE, "dimension": HOSTILE, "input": HOSTILE}],
        **to_metrics(HOSTILE, [score]),
    )  # fmt: skip
    environment = {"command": ["recipes/evaluate_images.py", HOSTILE, "```\n# h"], "commit": "0"}
    (run / "environment.json").write_text(json.dumps(environment))
    text, card = write([run], tmp_path, HOSTILE)
    for written in (text, card.split("\n---\n", 1)[1]):
        outside = re.sub(r"^````sh\n.*?^````$", "", written, flags=re.DOTALL | re.MULTILINE)
        prose = re.sub(r"(`+)(?!`).+?(?<!`)\1(?!`)", "", outside)  # without code spans, whose text is shown as it is
        assert not re.search(r"(?<!\\)<(?!!--)|(?<!\\)\[|^# g|^---$", prose, re.MULTILINE)
        assert written.count("````sh") == 1
    (row,) = rows_of(text.replace("``", "`"), *SCORE_COLUMNS)
    assert row[3] == " ".join(HOSTILE.split())
    loaded = ModelCard(card)
    (result,) = loaded.data.eval_results
    assert loaded.data.model_name == " ".join(HOSTILE.split())
    assert (result.metric_value, result.metric_args["model"]) == (0.5, " ".join(HOSTILE.split()))


def test_the_hub_reads_back_the_exact_values_of_the_tuned_model(runs: list[Path], tmp_path: Path) -> None:
    _, card = write(runs, tmp_path)
    loaded = ModelCard.load(tmp_path / "report-card.md")
    assert loaded.data.model_name == "Tiles & more"
    assert loaded.data.pipeline_tag == "text-to-image"
    wanted = []
    for run in runs:
        content = json.loads((run / "metrics.json").read_text())
        wanted += [(content["protocol"], run.name, score) for score in from_metrics(content) if score.model == "tuned"]
    results = loaded.data.eval_results
    assert len(results) == len(wanted) == 4
    for result, (protocol, run_name, score) in zip(results, wanted, strict=True):
        assert (result.metric_type, result.metric_value) == (score.name, score.value)
        assert result.metric_name == f"{score.name} skyclip:miniature ({run_name})"
        assert result.metric_args == {
            "count": 16, "model": "tuned", "run": run_name, "interval_95": list(score.interval or ()),
            "extractor": "skyclip:miniature", "protocol": protocol,
        }  # fmt: skip
        assert (result.task_type, result.dataset_name, result.dataset_type, result.dataset_split) == (
            "text-to-image", "eurosat_rgb", "eurosat_rgb", "test",
        )  # fmt: skip
        assert (result.dataset_revision, result.dataset_config, result.verified) == ("6042cffbb2c006e9", protocol, False)
    (model,) = yaml.safe_load(card.split("---\n")[1])["model-index"]
    assert [len(result["metrics"]) for result in model["results"]] == [2, 2]  # a result a protocol
    assert {"base", "tuned"} == {row[3] for row in rows_of(card, *SCORE_COLUMNS)}
    assert ATTACK not in card
    assert str(tmp_path) not in card


def test_captions_are_another_task_and_what_is_not_finite_is_left_out(tmp_path: Path) -> None:
    folder = make_run(tmp_path / "runs" / "captions", tmp_path / "rsicd", ("recipes/evaluate_captions.py",))
    scores = [Score("cider_d", 1.25, 9, None, "base", "val"), Score("spice", float("nan"), 9, None, "base", "val")]
    split = {"name": "val", "images": 9, "fingerprint": "abcd", "official": "RSICD val (1,094 images)"}
    (folder / "metrics.json").write_text(json.dumps(to_metrics("skygen-v1", scores) | {"split": split}))
    judge = make_run(tmp_path / "runs" / "judge", tmp_path, ("recipes/train_judge.py",))
    (judge / "metrics.json").write_text(json.dumps(to_metrics("skygen-v1", [Score("accuracy", 0.9, 9, None, "tuned")])))
    _, card = write([folder, judge], tmp_path)
    (result,) = ModelCard(card).data.eval_results
    assert (result.task_type, result.metric_value, result.metric_name) == ("image-to-text", 1.25, "cider_d")
    assert (result.dataset_name, result.dataset_type) == ("RSICD val (1,094 images)", "rsicd")
    assert "interval_95" not in result.metric_args


def test_a_run_that_does_not_say_its_command_is_told_by_its_files(tmp_path: Path) -> None:
    run = make_evaluation(tmp_path / "runs" / "one", tmp_path)
    (run / "environment.json").unlink()
    _, card = write([run], tmp_path)
    assert {result.task_type for result in ModelCard(card).data.eval_results} == {"text-to-image"}
    (run / "pictures.jsonl").unlink()
    write_lines(run / "captions.jsonl", [])
    _, card = write([run], tmp_path)
    assert {result.task_type for result in ModelCard(card).data.eval_results} == {"image-to-text"}


def test_a_card_of_no_model_and_one_over_another_file_are_refused(runs: list[Path], tmp_path: Path) -> None:
    bare = make_run(tmp_path / "runs" / "bare", tmp_path)
    with pytest.raises(ConfigError, match=r"^--model-card: no run has scores of a text-to-image or image-to-text model; give"):
        write_report([bare], tmp_path / "report.html", "t", model_card=True)
    (tmp_path / "report-card.md").write_text("mine")
    with pytest.raises(ConfigError, match="is not from a report and would be lost; choose another --output"):
        write_report(runs, tmp_path / "report.html", "t", markdown=True, model_card=True)
    assert (tmp_path / "report-card.md").read_text() == "mine"
    assert not (tmp_path / "report.html").exists()
    with pytest.raises(ConfigError, match="--output is the HTML page"):
        write_report(runs, tmp_path / "report.md", "t", markdown=True)


def test_damage_is_told_in_the_markdown_too(tmp_path: Path) -> None:
    run = make_evaluation(tmp_path / "runs" / "one", tmp_path)
    (run / "metrics.json").write_text("nothing")
    write_report([run], tmp_path / "report.html", "t", markdown=True)
    assert "- one: metrics\\.json does not hold a mapping and was left out\\." in (tmp_path / "report.md").read_text()


def test_the_command_writes_all_three_and_prints_a_table_a_protocol(
    runs: list[Path], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cli.main(["report", *map(str, runs), "--output", str(tmp_path / "page.html"), "--markdown", "--model-card"])
    out = capsys.readouterr().out
    assert out.splitlines()[-3:] == [str(tmp_path / name) for name in ("page-card.md", "page.md", "page.html")]
    assert [line for line in out.splitlines() if line.startswith("protocol ")] == ["protocol skygen-1", "protocol mhn-2023"]
    assert [line.split()[2] for line in out.splitlines() if line.startswith("fid ")] == ["12.5000", "40.2500"] * 2
    assert all((tmp_path / name).exists() for name in ("page-card.md", "page.md", "page.html", "metrics.json"))
