"""Rounds of a closed loop: every picture has its line, the choice keeps its bound, and the page says what changed."""

from __future__ import annotations

import json
from collections import Counter
from hashlib import sha256
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skygen.commands.rounds import gather as gather_command
from skygen.commands.rounds import rounds as rounds_command
from skygen.data.pairs import read_pairs
from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.evaluation.rounds.lineage import gather, open_rounds, trace
from skygen.evaluation.rounds.page import tally
from skygen.evaluation.rounds.trends import Change, Point, compare, find_trends, judge_change
from skygen.evaluation.scores import Score, to_metrics
from skygen.seeding import Seeds

SEEDS = Seeds(7)
VERDICTS = ("kept", "kept", "kept", "copy", "duplicate", "weak", "off_prompt", "kept")
PROMPT = 'a satellite image of <b>"lake"</b> & road'


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def record(index: int, number: int, adapter: bytes) -> dict[str, Any]:
    return {
        "file_name": f"images/{index:06d}.png", "text": PROMPT, "index": index, "seed": 100 * number + index, "class": "lake",
        "key": f"images2/{index}.jpg", "skyclip_score": 0.5, "model": "tuned", "base": "miniature",
        "base_fingerprint": "b" * 16,
        "adapter": "training/adapter", "adapter_sha256": sha256(adapter).hexdigest(), "sha256": f"{number}-{index}",
    }  # fmt: skip


def draw(folder: Path, rows: list[dict[str, Any]]) -> None:
    (folder / "images").mkdir(parents=True)
    for row in rows:
        Image.new("RGB", (8, 8), (row["index"] * 20, 90, 90)).save(folder / row["file_name"])
    write_lines(folder / "metadata.jsonl", rows)


def write_round(top: Path, number: int, *, also: Path | None = None, good: int = 6) -> Path:
    """Lay out a finished round: eight pictures, and ten of the test, of which the judge recognises so many."""
    folder, adapter = top / f"round-{number}", f"weights {number}".encode()
    (folder / "training" / "adapter").mkdir(parents=True)
    (folder / "training" / "adapter" / "pytorch_lora_weights.safetensors").write_bytes(adapter)
    listed = f"\n  also: [{also}]" if also else ""
    (folder / "training" / "config.yaml").write_text(
        f"pairs:\n  root: {top / 'data'}\n  csv: {top / 'data' / 'real.csv'}{listed}\n"
    )
    records = [record(index, number, adapter) for index in range(8)]
    draw(folder / "set" / "samples", records)
    screened = [
        {
            "file_name": row["file_name"],
            "skyclip_score": 0.25,
            "cycle_score": 0.1 * index,
            "verdict": verdict,
            "reasons": [verdict],
        }
        for index, (row, verdict) in enumerate(zip(records, VERDICTS, strict=True))
    ]
    write_lines(folder / "screen" / "screened.jsonl", screened[::-1])
    shares = [
        Score("kept_share", 0.5, 8, (0.2, 0.8), "tuned", "prompts", "skyclip:miniature"),
        Score("copy_share", 0.125, 8, (0.0, 0.375), "tuned", "prompts", "skyclip:miniature"),
        Score("weak_share", 0.125, 8, (0.0, 0.375), "tuned", "prompts", "skyclip:miniature"),
    ]
    (folder / "screen" / "metrics.json").write_text(json.dumps(to_metrics("skygen-1", shares)))
    tests = [record(index, 9, adapter) for index in range(10)]
    draw(folder / "test" / "samples", tests)
    seen = ["lake" if index < good else "road" for index in range(10)]
    pictures = [
        {"prompt": row["text"], "seed": row["seed"], "skyclip_score": {"tuned": 0.4 + 0.1 * number + 0.01 * row["index"]},
         "judged": {"tuned": seen[row["index"]]}, "tuned": str(folder / "test" / "samples" / row["file_name"]), "real": None}
        for row in tests
    ]  # fmt: skip
    write_lines(folder / "scores" / "pictures.jsonl", pictures)
    mean = float(np.mean([row["skyclip_score"]["tuned"] for row in pictures]))
    scores = [
        Score("kid", 0.2 - 0.05 * number, 10, (0.1 - 0.05 * number, 0.3 - 0.05 * number), "tuned", "val", "skyclip:miniature"),
        Score("skyclip_score", mean, 10, (mean - 0.02, mean + 0.02), "tuned", "val", "skyclip:miniature"),
        Score("skyclip_score", 0.7, 20, (0.68, 0.72), "real", "val", "skyclip:miniature"),
        Score("judge_accuracy", good / 10, 10, (good / 10 - 0.3, good / 10 + 0.3), "tuned", "val", "judge:miniature"),
        Score("skyclip_score", 0.1, 10, (0.0, 0.2), "shuffled", "val", "skyclip:miniature"),
    ]
    (folder / "scores" / "metrics.json").write_text(json.dumps(to_metrics("skygen-1", scores)))
    return folder


@pytest.fixture
def loop(tmp_path: Path) -> Path:
    """A loop of two rounds; the second has learned from three of the four kept pictures of the first."""
    top = tmp_path / "loop"
    (top / "data").mkdir(parents=True)
    rows = "".join(f"images2/{index}.jpg,a lake {index},lake\n" for index in range(9))
    (top / "data" / "real.csv").write_text(f"filepath,title,label\n{rows}")
    write_round(top, 0)
    answer = gather_command(
        (top / "round-0",), root=top / "data", csv=top / "data" / "real.csv", share=0.25, output=top / "synthetic-1.csv"
    )
    assert "3 of 4 kept pictures beside 9 real pairs, 25.0% of all" in answer.text
    write_round(top, 1, also=top / "synthetic-1.csv", good=9)
    return top


def opened(loop: Path) -> Any:
    return open_rounds([loop / "round-1", loop / "round-0"])


def test_every_picture_of_every_round_has_one_line_that_says_where_it_came_from(loop: Path) -> None:
    rows = trace(opened(loop))
    assert [(row["round"], row["index"]) for row in rows] == [(number, index) for number in (0, 1) for index in range(8)]
    assert len({row["file"] for row in rows}) == 16
    assert all((loop / row["file"]).is_file() for row in rows)
    first, last = rows[0], rows[-1]
    assert first["file"] == "round-0/set/samples/images/000000.png"
    assert (first["prompt"], first["seed"], first["skyclip_score"], first["cycle_score"]) == (PROMPT, 0, 0.25, 0.0)
    assert first["adapter_sha256"] == sha256(b"weights 0").hexdigest() != last["adapter_sha256"]
    real = {"list": "data/real.csv", "sha256": sha256((loop / "data" / "real.csv").read_bytes()).hexdigest()}
    made = {"list": "synthetic-1.csv", "sha256": sha256((loop / "synthetic-1.csv").read_bytes()).hexdigest()}
    assert (first["trained_on"], last["trained_on"]) == ([real], [real, made])
    assert [row["verdict"] for row in rows] == [*VERDICTS, *VERDICTS]
    used = [row for row in rows if row["used_in"]]
    assert len(used) == 3
    assert all((row["round"], row["verdict"], row["used_in"]) == (0, "kept", [1]) for row in used)


def test_the_counts_add_up(loop: Path) -> None:
    rows = trace(opened(loop))
    table = dict(tally(opened(loop), rows))
    assert table["drawn"] == [8, 8]
    verdicts = [name.replace("_", " ") for name in set(VERDICTS)]
    assert [sum(table[name][place] for name in verdicts) for place in (0, 1)] == [8, 8]
    assert table["kept"] == [4, 4]
    assert table["used in training of round 1"] == [3, 0]
    assert Counter(row["verdict"] for row in rows) == Counter(VERDICTS * 2)
    listed = read_pairs(loop, csv=loop / "synthetic-1.csv")
    assert {pair.key for pair in listed} == {row["file"] for row in rows if 1 in row["used_in"]}


def test_a_round_that_is_not_screened_yet_has_its_lines(loop: Path) -> None:
    (loop / "round-1" / "screen" / "screened.jsonl").unlink()
    rows = trace(opened(loop))
    assert [row["verdict"] for row in rows if row["round"] == 1] == [None] * 8
    table = dict(tally(opened(loop), rows))
    assert (table["not screened"], table["kept"]) == ([0, 8], [4, 0])


def test_a_picture_that_the_screening_could_not_read_is_not_learned_from(loop: Path) -> None:
    path = loop / "round-1" / "screen" / "screened.jsonl"
    path.write_text("".join(path.read_text().splitlines(keepends=True)[1:]))
    rows = trace(opened(loop))
    assert (rows[15]["verdict"], rows[14]["verdict"], len(rows)) == ("unreadable", "off_prompt", 16)
    assert dict(tally(opened(loop), rows))["unreadable"] == [0, 1]
    chosen, kept = gather(opened(loop), loop, 9, 0.9, SEEDS)
    assert len(chosen) == kept == 7


def test_pictures_that_are_gathered_are_pairs_within_the_bound(loop: Path) -> None:
    rounds = opened(loop)
    chosen, kept = gather(rounds, loop, 9, 0.9, SEEDS)
    assert len(chosen) == kept == 8
    assert [pair.key for pair in chosen] == sorted(pair.key for pair in chosen)
    assert {(pair.captions, pair.class_name, pair.split) for pair in chosen} == {((PROMPT,), "lake", "train")}
    assert all(pair.image.is_file() for pair in chosen)
    sizes = {}
    for share, most in ((0.5, 8), (0.25, 3), (0.1, 1), (1 / 3, 4)):
        fewer, _ = gather(rounds, loop, 9, share, SEEDS)
        sizes[share] = {pair.key for pair in fewer}
        assert len(fewer) == most
        assert len(fewer) / (len(fewer) + 9) <= share + 1e-9
    assert sizes[0.1] < sizes[0.25] < sizes[1 / 3] < sizes[0.5]


def test_a_list_reads_as_training_pairs_with_their_images(loop: Path) -> None:
    pairs = read_pairs(loop, csv=loop / "synthetic-1.csv")
    assert len(pairs) == 3
    assert all(pair.image.is_file() and pair.captions == (PROMPT,) and pair.class_name == "lake" for pair in pairs)


def test_what_cannot_be_gathered_is_said(loop: Path) -> None:
    rounds = opened(loop)
    for share in (0.0, 1.0):
        with pytest.raises(ConfigError, match="would leave no real pair"):
            gather(rounds, loop, 9, share, SEEDS)
    with pytest.raises(ConfigError, match="does not lie in"):
        gather(rounds, loop / "data", 9, 0.5, SEEDS)
    with pytest.raises(DataError, match="leaves room for none"):
        gather(rounds, loop, 1, 0.1, SEEDS)
    for each in rounds:
        path = each.folder / "screen" / "screened.jsonl"
        path.write_text(path.read_text().replace('"verdict": "kept"', '"verdict": "weak"'))
    with pytest.raises(DataError, match="no picture of them was kept"):
        gather(rounds, loop, 9, 0.5, SEEDS)
    path.unlink()
    with pytest.raises(DataError, match="has no verdicts"):
        gather(rounds, loop, 9, 0.5, SEEDS)


def test_damage_is_said_and_not_traced_over(loop: Path) -> None:
    rounds = opened(loop)
    path = loop / "round-1" / "screen" / "screened.jsonl"
    whole = path.read_text()
    lines = whole.splitlines(keepends=True)
    for content, words in (
        (whole + '{"file_name": "x", "verdict": "kept"}\n', "1 screened pictures are not in the set, x first"),
        (whole + lines[0], r"images/000007\.png stands there twice"),
        (whole + "{half", "line 9: is not JSON"),
        (whole + '{"file_name": "x"}\n', "line 9: has no verdict"),
    ):
        path.write_text(content)
        with pytest.raises(DataError, match=words):
            trace(rounds)
    path.write_text(whole)
    weights = loop / "round-0" / "training" / "adapter" / "pytorch_lora_weights.safetensors"
    weights.write_bytes(b"trained again")
    with pytest.raises(DataError, match="drawn by another adapter"):
        trace(rounds)
    (loop / "round-0" / "set" / "samples" / "metadata.jsonl").unlink()
    with pytest.raises(UnavailableError, match=r"run recipes/generate\.py first"):
        trace(rounds)


def test_rounds_are_put_in_the_order_of_their_numbers(tmp_path: Path) -> None:
    names = ["round-10", "round-2", "round-0"]
    for name in (*names, "other", "again-2"):
        (tmp_path / name).mkdir()
    assert [each.number for each in open_rounds([tmp_path / name for name in names])] == [0, 2, 10]
    for folders, words in (
        ([], "no round is given"),
        ([tmp_path / "other"], "ends with its number"),
        ([tmp_path / "round-2", tmp_path / "again-2"], "are both round 2"),
    ):
        with pytest.raises(ConfigError, match=words):
            open_rounds(folders)
    with pytest.raises(UnavailableError, match="no such folder"):
        open_rounds([tmp_path / "round-3"])


def point(number: int, value: float, interval: tuple[float, float] | None) -> Point:
    return Point(number, Score("kid", value, 10, interval, "tuned"))


def test_the_interval_of_a_difference_of_two_sets_is_zou_and_donners() -> None:
    change = compare(point(0, 0.5, (0.2, 0.6)), point(1, 0.8, (0.4, 1.1)), SEEDS)
    assert change.difference == pytest.approx(0.3)
    assert change.interval == pytest.approx((0.3 - np.hypot(0.4, 0.1), 0.3 + np.hypot(0.3, 0.3)))
    assert not change.is_paired
    assert compare(point(0, 0.5, None), point(1, 0.8, (0.4, 1.1)), SEEDS).interval is None


@pytest.mark.parametrize(
    ("interval", "direction", "verdict"),
    [
        ((0.1, 0.3), "higher is better", "better"),
        ((0.1, 0.3), "lower is better", "worse"),
        ((-0.3, -0.1), "lower is better", "better"),
        ((-0.3, -0.1), "higher is better", "worse"),
        ((-0.3, 0.1), "higher is better", "no difference"),
        ((0.1, 0.3), "", "different"),
        (None, "higher is better", "unknown"),
    ],
)
def test_a_change_is_judged_by_its_interval(interval: Any, direction: str, verdict: str) -> None:
    middle = sum(interval) / 2 if interval else 0.2
    assert judge_change(Change(0, 1, middle, interval, False), direction) == verdict


def test_the_same_prompts_and_seeds_are_compared_picture_by_picture(loop: Path) -> None:
    trends = {trend.name: trend for trend in find_trends(opened(loop), SEEDS)}
    assert set(trends) == {"kid", "skyclip_score", "judge_accuracy", "kept_share", "copy_share", "cycle_score"}
    assert [trends[name].changes[0].is_paired for name in ("skyclip_score", "judge_accuracy", "kid", "cycle_score")] == [
        True, True, False, False,
    ]  # fmt: skip
    (score,) = trends["skyclip_score"].changes  # every picture gained 0.1, which no resampling changes
    assert score.interval == pytest.approx((0.1, 0.1))
    assert trends["skyclip_score"].words[0].startswith("skyclip_score is better: round 1 against round 0 +0.1")
    assert trends["skyclip_score"].points[0].real == Score(
        "skyclip_score", 0.7, 20, (0.68, 0.72), "real", "val", "skyclip:miniature"
    )
    (judged,) = trends["judge_accuracy"].changes
    assert judged.difference == pytest.approx(0.3)
    assert "no difference beyond the interval: round 1 against round 0 \N{MINUS SIGN}0.050 [" in trends["kid"].words[0]
    assert trends["kid"].direction == "lower is better"
    assert [each.score.value for each in trends["kept_share"].points] == [0.5, 0.5]
    assert [each.score.value for each in trends["cycle_score"].points] == pytest.approx([0.35, 0.35])


def test_other_seeds_are_not_compared_picture_by_picture(loop: Path) -> None:
    path = loop / "round-1" / "scores" / "pictures.jsonl"
    path.write_text(path.read_text().replace('"seed": 900', '"seed": 901', 1))
    trends = {trend.name: trend for trend in find_trends(opened(loop), SEEDS)}
    assert not any(trend.changes[0].is_paired for trend in trends.values())


def test_the_page_says_it_all_by_itself(loop: Path) -> None:
    answer = rounds_command((loop / "round-0", loop / "round-1"), output=loop / "rounds.html", title="Loop <1>")
    page = (loop / "rounds.html").read_text(encoding="utf-8")
    assert page.count("<svg") == 6
    for words in ("skyclip_score is better", "kid shows no difference", "↓ lower is better", "Loop &lt;1&gt;", "off prompt"):
        assert words in page
    assert '<b>"lake"' not in page
    assert "http" not in page.replace("http-equiv", "")
    assert (page.count("<img"), page.count("no image")) == (10, 5)  # every second of ten prompts, and no real image is known
    lines = (loop / "lineage.jsonl").read_text().splitlines()
    assert len(lines) == 16
    assert "drawn: 8, 8" in answer.text
    before = page
    rounds_command((loop / "round-1", loop / "round-0"), output=loop / "rounds.html", title="Loop <1>")
    assert (loop / "rounds.html").read_text(encoding="utf-8") == before
