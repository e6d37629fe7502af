"""Two runs against each other: their items, their split, and what is refused."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skygen.errors import ConfigError, DataError, SkygenError
from skygen.evaluation.captions.coco_caption import score_captions
from skygen.evaluation.captions.trials import lay_out_trials
from skygen.evaluation.captions.writers import corpus_bleu, measure_trial
from skygen.evaluation.comparison import compare_runs, format_differences
from skygen.evaluation.items import ItemScores
from skygen.evaluation.splits import identify_split
from skygen.seeding import Seeds

SEEDS = Seeds(1)
PLACES = ("lake", "dam", "road", "farm", "port", "pond", "wall", "pier", "silo", "yard")
REFERENCES = [[f"a small {place} in a green field", f"one {place} near some trees"] for place in PLACES]
GOOD = {"tuned": [f"a small {place} in a field" for place in PLACES], "base": ["a small lake in a field"] * 10}
POOR = {"tuned": [f"one {place}" for place in PLACES], "base": GOOD["base"]}


def write_run(folder: Path, captions: dict[str, list[str]], references: Sequence[Sequence[str]] = REFERENCES) -> Path:
    """Leave what the recipe leaves, without a scorer."""
    keys = [f"{place}.jpg" for place in PLACES]
    items = ItemScores(keys)
    for trial in lay_out_trials(captions, references):
        for metric, values in measure_trial(trial).items.items():
            items.add(trial.writer, trial.name(metric), trial.rows, values)
    rows = [{"key": key, "references": references[row], "captions": {name: texts[row] for name, texts in captions.items()}}
            for row, key in enumerate(keys)]  # fmt: skip
    split = identify_split("test", keys, references).to_json()
    folder.mkdir()
    (folder / "metrics.json").write_text(json.dumps({"protocol": "skygen-1", "scores": [], "split": split}))
    for name, lines in (("captions.jsonl", rows), ("items.jsonl", items.lines())):
        (folder / name).write_text("".join(json.dumps(line) + "\n" for line in lines))
    return folder


@pytest.fixture
def runs(tmp_path: Path) -> tuple[Path, Path]:
    return write_run(tmp_path / "good", GOOD), write_run(tmp_path / "poor", POOR)


def test_two_runs_are_compared_metric_by_metric(runs: tuple[Path, Path]) -> None:
    told: list[tuple[int, int]] = []
    split, differences = compare_runs(
        runs, ("tuned", "tuned"), seeds=SEEDS, progress=lambda done, total: told.append((done, total))
    )
    assert (split["name"], split["images"], split["official"]) == ("test", 10, None)
    assert [one.metric for one in differences] == ["cider_d", "rouge_l", "bleu_1", "bleu_2", "bleu_3", "bleu_4"]
    assert told == [(done, 6) for done in range(1, 7)]
    ours, theirs = (score_captions(captions["tuned"], REFERENCES) for captions in (GOOD, POOR))
    for one in differences:
        assert one.first == pytest.approx(ours[one.metric].corpus)
        assert one.second == pytest.approx(theirs[one.metric].corpus)
        assert one.difference == pytest.approx(one.first - one.second)
        assert one.interval[0] - 1e-9 <= one.difference <= one.interval[1] + 1e-9
        assert one.count == 10
        assert (one.p_value is None) == one.metric.startswith("bleu")
    assert differences[0].p_value == 2 / 2**10  # better on each of ten images
    lines = format_differences(differences).splitlines()
    assert lines[0].split() == ["metric", "first", "second", "difference", "95", "%", "interval", "p", "images"]
    assert len(lines) == 8
    assert lines[2].split()[-2:] == ["0.0020", "10"]


def test_a_run_against_itself_differs_in_nothing(runs: tuple[Path, Path]) -> None:
    _, differences = compare_runs((runs[0], runs[0]), ("tuned", "tuned"), seeds=SEEDS)
    assert len(differences) == 6
    for one in differences:
        assert (one.difference, one.interval) == (0.0, (0.0, 0.0))
        assert one.p_value in (1.0, None)


def test_two_writers_of_one_run_and_a_model_against_people(runs: tuple[Path, Path]) -> None:
    _, differences = compare_runs((runs[0], runs[0]), ("tuned", "base"), seeds=SEEDS)
    assert len(differences) == 6
    assert all(one.difference > 0 for one in differences)
    _, against_people = compare_runs((runs[0], runs[1]), ("tuned", "human"), seeds=SEEDS)
    assert [one.metric for one in against_people] == ["cider_d", "rouge_l"]  # people's captions are not in captions.jsonl
    again = compare_runs((runs[0], runs[1]), ("tuned", "human"), seeds=SEEDS)[1]
    assert again == against_people


def test_images_that_one_of_them_leaves_out_do_not_count(tmp_path: Path) -> None:
    references = [texts[:1] if row < 4 else texts for row, texts in enumerate(REFERENCES)]
    run = write_run(tmp_path / "run", GOOD, references)
    _, differences = compare_runs((run, run), ("tuned", "human"), seeds=SEEDS)
    assert [one.count for one in differences] == [6, 6]


def test_items_come_back_as_they_were(runs: tuple[Path, Path]) -> None:
    items = ItemScores.read(runs[0] / "items.jsonl")
    assert items.writers() == ["tuned", "base", "human"]
    assert items.metrics("tuned") == ["cider_d", "rouge_l"]
    trial = lay_out_trials(GOOD, REFERENCES)[0]
    assert np.array_equal(items.values("tuned", "cider_d"), measure_trial(trial).items["cider_d"])
    assert np.isnan(items.values("tuned", "spice")).all()
    items.add("base", "clip_score", [0], np.array([0.5]), "skyclip:miniature")
    assert items.lines()[0]["scores"]["base"]["clip_score@skyclip:miniature"] == 0.5


def refusal(runs: tuple[Path, Path], writers: tuple[str, str] = ("tuned", "tuned")) -> SkygenError:
    with pytest.raises(SkygenError) as error:
        compare_runs(runs, writers, seeds=SEEDS)
    return error.value


def test_another_split_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    fewer = write_run(tmp_path / "fewer", GOOD, [texts[:1] for texts in REFERENCES])
    error = refusal((runs[0], fewer))
    prints = [json.loads((run / "metrics.json").read_text())["split"]["fingerprint"] for run in (runs[0], fewer)]
    assert isinstance(error, ConfigError)
    assert str(error) == (
        f"{runs[0]} (test, 10 images, fingerprint {prints[0]}) and {fewer} (test, 10 images, fingerprint {prints[1]}) "
        "were scored on other images or references; evaluate both on the same split."
    )


def test_a_writer_that_is_not_there_is_named(runs: tuple[Path, Path]) -> None:
    error = refusal(runs, ("tuned", "class_mode"))
    assert isinstance(error, ConfigError)
    assert str(error) == f"{runs[1]} has no writer 'class_mode'; give --writer one of tuned, base, human."


def test_what_is_no_evaluation_is_refused(runs: tuple[Path, Path], tmp_path: Path) -> None:
    gone = refusal((runs[0], tmp_path / "gone"))
    assert isinstance(gone, DataError)
    path = tmp_path / "gone" / "metrics.json"
    remedy = "give a run of recipes/evaluate_captions.py or of evaluate_images.py"
    assert str(gone) == f"{path} cannot be read: No such file or directory; {remedy}."
    metrics = runs[1] / "metrics.json"
    metrics.write_text('{"protocol": "skygen-1", "scores": []}')
    old = refusal(runs)
    assert isinstance(old, ConfigError)
    assert str(old) == (
        f"{metrics} does not say which split it is of; it is no evaluation, or an old one: evaluate that run again."
    )
    metrics.write_text("{")
    assert str(refusal(runs)) == f"{metrics} is not valid JSON; evaluate that run again."


@pytest.mark.parametrize(
    "damage", ["{", '{"key": "a.jpg"}', '{"key": "a.jpg", "scores": {"tuned": {"cider_d": "much"}}}', "[]"]
)
def test_a_damaged_file_of_items_is_told_by_its_line(runs: tuple[Path, Path], damage: str) -> None:
    path = runs[1] / "items.jsonl"
    lines = path.read_text().splitlines()
    path.write_text("\n".join([lines[0], damage, *lines[2:]]))
    error = refusal(runs)
    assert isinstance(error, DataError)
    assert str(error) == f"{path}, line 2, is damaged; evaluate that run again."


def test_a_damaged_file_of_captions_is_refused(runs: tuple[Path, Path]) -> None:
    path = runs[1] / "captions.jsonl"
    row: dict[str, Any] = {"key": "a.jpg", "captions": {"tuned": "a lake"}}
    path.write_text(json.dumps(row) + "\n")
    error = refusal(runs)
    assert isinstance(error, DataError)
    assert str(error) == f"{path} is damaged; evaluate that run again."


def test_the_corpus_bleu_of_a_row_is_that_of_the_captions() -> None:
    measured = measure_trial(lay_out_trials(GOOD, REFERENCES)[0])
    expected = score_captions(GOOD["tuned"], REFERENCES)["bleu_2"].corpus
    assert corpus_bleu(measured.bleu, 2) == pytest.approx(expected)


def write_pictures(folder: Path, scores: dict[str, list[float]], metric: str = "skyclip_score", **more: Any) -> Path:
    """Leave what the recipe for pictures leaves: values of each model, NaN where a picture has none."""
    items = ItemScores([f"images/{row:06d}.png" for row in range(10)])
    for model, values in scores.items():
        rows = [row for row, value in enumerate(values) if value == value]
        items.add(model, metric, rows, np.array([values[row] for row in rows]))
    for model, values in more.pop("rare", {}).items():
        items.add(model, "judge_accuracy", range(len(values)), np.array(values))
    folder.mkdir()
    split = identify_split("prompts", items.keys, [["a lake"]] * 10).to_json()
    (folder / "metrics.json").write_text(json.dumps({"protocol": "skygen-1", "scores": [], "split": split} | more))
    (folder / "items.jsonl").write_text("".join(json.dumps(line) + "\n" for line in items.lines()))
    (folder / "pictures.jsonl").touch()
    return folder


def test_pictures_are_compared_without_captions_and_a_metric_of_few_costs_no_other(tmp_path: Path) -> None:
    values = {"tuned": [0.5 + row / 100 for row in range(10)], "base": [0.4 + row / 200 for row in range(10)]}
    run = write_pictures(tmp_path / "a", values, rare={"tuned": [1.0], "base": [0.0]})
    _, differences = compare_runs((run, run), ("tuned", "base"), seeds=SEEDS)
    assert [one.metric for one in differences] == ["skyclip_score"]  # one picture alone has the other
    assert differences[0].difference == pytest.approx(0.1 + 0.045 / 2)
    assert differences[0].count == 10


def test_runs_of_two_protocols_are_not_compared(tmp_path: Path) -> None:
    values = {"tuned": [0.5] * 10}
    runs = write_pictures(tmp_path / "a", values), write_pictures(tmp_path / "b", values, protocol="rsdiff-1093")
    with pytest.raises(ConfigError, match=r"a \(skygen-1\) and .*b \(rsdiff-1093\) were scored by two protocols"):
        compare_runs(runs, ("tuned", "tuned"), seeds=SEEDS)
