"""Who is scored against what: people one against the others, and references with and without their repeats."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest

from skygen.evaluation.captions.trials import HUMAN, Round, Trial, lay_out_trials, leave_one_out, remove_repeats
from skygen.evaluation.captions.writers import corpus_bleu, measure_trial

REFERENCES = [["a lake", "A lake.", "a pond"], ["a road"], ["a dam", "a river"]]


def test_each_writer_stands_in_both_columns_and_people_where_there_are_two_references() -> None:
    trials = lay_out_trials({"tuned": ["a", "b", "c"]}, REFERENCES)
    assert [(trial.writer, trial.distinct, trial.rows, len(trial.rounds)) for trial in trials] == [
        ("tuned", False, (0, 1, 2), 1),
        (HUMAN, False, (0, 2), 3),
        ("tuned", True, (0, 1, 2), 1),
        (HUMAN, True, (0, 2), 2),
    ]
    assert trials[0].rounds[0].references == (("a lake", "A lake.", "a pond"), ("a road",), ("a dam", "a river"))
    assert trials[2].rounds[0].references == (("a lake", "a pond"), ("a road",), ("a dam", "a river"))
    assert [trial.name("cider_d") for trial in trials[::2]] == ["cider_d", "cider_d_distinct"]


def test_each_reference_is_left_out_in_turn_and_an_image_with_fewer_begins_again() -> None:
    human = lay_out_trials({}, REFERENCES)[0]
    assert human.rounds == (
        Round(("a lake", "a dam"), (("A lake.", "a pond"), ("a river",))),
        Round(("A lake.", "a river"), (("a lake", "a pond"), ("a dam",))),
        Round(("a pond", "a dam"), (("a lake", "A lake."), ("a river",))),
    )


def test_repeats_are_told_by_their_tokens_and_the_first_stays_in_its_place() -> None:
    assert remove_repeats([["b", "a", "B .", "c", "a"], ["x"]]) == [("b", "a", "c"), ("x",)]


def test_without_repeats_there_is_one_column_and_without_second_references_no_human() -> None:
    assert [(trial.writer, trial.distinct) for trial in lay_out_trials({"base": ["a", "b"]}, [["x"], ["y"]])] == [
        ("base", False)
    ]
    one_image_with_two = lay_out_trials({"base": ["a", "b"]}, [["x", "z"], ["y"]])
    assert [trial.writer for trial in one_image_with_two] == ["base"]


def rsicd_test_references(folder: Path) -> list[list[str]]:
    images = json.loads((folder / "dataset_rsicd.json").read_text())["images"]
    references = [[one["raw"] for one in image["sentences"]] for image in images if image["split"] == "test"]
    assert len(references) == 1093
    assert {len(texts) for texts in references} == {5}
    return references


@pytest.mark.parametrize(("distinct", "count", "bleu_4", "cider"), [(False, 1093, 0.838, 3.47), (True, 1091, 0.116, 0.528)])
def test_a_persons_first_caption_against_the_others_of_rsicd(
    shared_data: Callable[[str], Path], distinct: bool, count: int, bleu_4: float, cider: float
) -> None:
    references: list[tuple[str, ...]] = [tuple(texts) for texts in rsicd_test_references(shared_data("rsicd_captions"))]
    if distinct:
        references = [texts for texts in remove_repeats(references) if len(texts) > 1]
    assert len(references) == count
    first = measure_trial(Trial(HUMAN, tuple(range(count)), (leave_one_out(references, 0),), distinct))
    # Measured once with coco-caption's own programs on this split.
    assert corpus_bleu(first.bleu, 4) == pytest.approx(bleu_4, abs=0.001)
    assert first.items["cider_d"].mean() == pytest.approx(cider, abs=0.005)


def test_the_first_round_of_people_is_the_leave_one_out_of_coco_caption(shared_data: Callable[[str], Path]) -> None:
    oracle = json.loads((shared_data("oracle_caption_metrics") / "sydney_test_leave_one_out.json").read_text())
    everything = [[item["hypothesis"], *item["references"]] for item in oracle["items"]]
    human = lay_out_trials({}, everything)[0]
    assert (len(human.rows), len(human.rounds)) == (58, 5)
    rounds = [measure_trial(Trial(HUMAN, human.rows, (one,))) for one in human.rounds]
    assert corpus_bleu(rounds[0].bleu, 4) == pytest.approx(oracle["corpus"]["Bleu_4"], abs=1e-9)
    assert rounds[0].items["cider_d"].mean() == pytest.approx(oracle["corpus"]["CIDEr"], abs=1e-9)
    assert rounds[0].items["rouge_l"].mean() == pytest.approx(oracle["corpus"]["ROUGE_L"], abs=1e-9)
    together = measure_trial(human)
    assert corpus_bleu(together.bleu, 4) == pytest.approx(sum(corpus_bleu(one.bleu, 4) for one in rounds) / 5)
    assert together.items["cider_d"].mean() == pytest.approx(sum(one.items["cider_d"].mean() for one in rounds) / 5)
