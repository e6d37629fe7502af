"""The utility test: its plan, its draws, what it refuses, and its figures against brute force."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skygen.errors import ConfigError, DataError
from skygen.evaluation.paired import sign_flip_p_value
from skygen.evaluation.utility import table as utility_table
from skygen.evaluation.utility.table import describe_rules, format_markdown, score_arms
from skygen.evaluation.utility.trials import (
    REAL,
    Arm,
    Outcome,
    Trial,
    UtilitySettings,
    check_classes,
    check_no_overlap,
    check_prompts,
    compose,
    list_arms,
    order_by_class,
    plan_trials,
    read_outcomes,
)
from skygen.seeding import Seeds

SEEDS = Seeds(11)
CLASSES = ("forest", "sea lake", "river")


def test_the_plan_has_every_arm_for_every_seed_and_number_of_shots() -> None:
    trials = plan_trials(UtilitySettings(shots=(20, 5), seeds=2, multiples=(5, 1)))
    assert [trial.name for trial in trials[:4]] == [
        "real, 5 shots, seed 0",
        "synthetic 5x, 5 shots, seed 0",
        "real + synthetic 1x, 5 shots, seed 0",
        "real + synthetic 5x, 5 shots, seed 0",
    ]
    assert len(trials) == len({trial.folder for trial in trials}) == 16
    assert [trial.seed for trial in trials] == [0] * 8 + [1] * 8


@pytest.mark.parametrize(
    "wrong", [{"shots": ()}, {"shots": (0,)}, {"shots": (5, 5)}, {"multiples": ()}, {"multiples": (-1,)}, {"seeds": 0}]
)
def test_a_plan_of_nothing_is_refused(wrong: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=f"--utility.{next(iter(wrong))}"):
        UtilitySettings(**wrong)


def test_the_images_of_few_shots_are_among_those_of_many_and_a_class_does_not_hang_on_the_others() -> None:
    names: list[str | None] = ["forest", "river", None, "forest", "river"] * 40
    orders = order_by_class(names, SEEDS, "real")
    assert list(orders) == ["forest", "river"]
    assert sorted(orders["forest"]) == [place for place, name in enumerate(names) if name == "forest"]
    assert all(set(orders["river"][:few]) < set(orders["river"][:many]) for few, many in ((5, 10), (10, 50)))
    assert order_by_class([name if name == "river" else None for name in names], SEEDS, "real")["river"] == orders["river"]
    assert order_by_class(names, Seeds(12), "real")["forest"] != orders["forest"]
    assert order_by_class(names, SEEDS, "synthetic")["forest"] != orders["forest"]


def test_arms_differ_in_nothing_but_what_their_names_say() -> None:
    real = {name: [f"{name} {number}" for number in range(4)] for name in CLASSES}
    synthetic = {name: [f"drawn {name} {number}" for number in range(12)] for name in CLASSES}
    taken = {arm: compose(Trial(2, 0, arm), real, synthetic, "union") for arm in list_arms((1, 3))}
    assert [tuple(map(len, parts)) for parts in taken.values()] == [(6, 0, 6), (0, 18, 18), (6, 6, 12), (6, 18, 24)]
    assert (
        taken[REAL][2] == taken[Arm(True, 3)][0] == ["forest 0", "forest 1", "sea lake 0", "sea lake 1", "river 0", "river 1"]
    )
    assert set(taken[Arm(True, 1)][1]) < set(taken[Arm(True, 3)][1]) == set(taken[Arm(False, 3)][2])
    for arm, share in ((Arm(True, 1), 1), (Arm(True, 3), 3)):
        shown = Counter(compose(Trial(2, 0, arm), real, synthetic, "balanced")[2])
        assert {count for name, count in shown.items() if not name.startswith("drawn")} == {share}
        assert 2 * sum(count for name, count in shown.items() if name.startswith("drawn")) == shown.total()
    assert compose(Trial(2, 0, Arm(False, 3)), real, synthetic, "balanced") == taken[Arm(False, 3)]


def test_sets_that_cannot_be_compared_are_refused_with_what_to_do() -> None:
    settings = UtilitySettings(shots=(5, 2), multiples=(1, 4))
    real, test, drawn = (Counter({"forest": count, "river": count}) for count in (5, 1, 20))
    assert check_classes(real, test, drawn + Counter(dam=1), settings) == ["forest", "river"]
    for wrong, sentence in (
        ((real, Counter(forest=1), drawn), r"the same classes, two or more \(river\)"),
        ((Counter(forest=5), Counter(forest=5), drawn), "there is only one"),
        ((real, test, Counter[str]()), "no record has a class; draw with --prompts.made_of classes"),
        ((real - Counter(river=1), test, drawn), r"--real.root: 5 images of each .* of river \(4\); lower --utility.shots"),
        (
            (real, test, Counter({"forest": 20, "River": 20})),
            r"--synthetic.root: 20 .* river \(0\).* Its classes are River, forest",
        ),
    ):
        with pytest.raises(DataError, match=sentence):
            check_classes(*wrong, settings)


def test_a_test_image_among_the_training_images_is_refused() -> None:
    check_no_overlap({"a": "train/1.png"}, {"b": "test/1.png"})
    with pytest.raises(ConfigError, match=r"1 test images are among .*\(test/1.png is train/1.png\)"):
        check_no_overlap({"a": "train/1.png", "c": "train/2.png"}, {"a": "test/1.png", "b": "test/2.png"})


def test_prompts_from_test_images_are_refused_by_key_and_by_words() -> None:
    records = [{"file_name": "1.png", "text": "a river", "key": "train/1.png"}, {"file_name": "2.png", "text": "a lake"}]
    check_prompts(records, ["test/1.png"], ["a river", "a dam"], ["a river"])
    with pytest.raises(ConfigError, match=r"1 prompts came from test images \(1.png: the key train/1.png\)"):
        check_prompts(records, ["train/1.png"], [], [])
    with pytest.raises(ConfigError, match=r"\(2.png: the words 'a lake'\)"):
        check_prompts(records, [], ["a lake", "a river"], ["a river"])


def an_outcome(arm: str, seed: int, predicted: tuple[int, ...], shots: int = 5) -> Outcome:
    return Outcome(arm, shots, seed, 15, 0 if arm == "real" else 75, 10, "t", "e", predicted)


def test_outcomes_come_back_and_a_torn_line_is_left_out(tmp_path: Path) -> None:
    path = tmp_path / "results.jsonl"
    assert read_outcomes(path) == []
    outcomes = [an_outcome("real", seed, (0, 2, -1)) for seed in range(2)]
    lines = [json.dumps(outcome.to_json()) + "\n" for outcome in outcomes]
    path.write_text("".join(lines) + lines[0][:30])
    assert read_outcomes(path) == outcomes
    path.write_text(lines[0] + '{"arm": "real"}\n')
    with pytest.raises(DataError, match=r"results\.jsonl, line 2, is damaged"):
        read_outcomes(path)


def some_outcomes(seeds: int = 3, images: int = 60) -> tuple[list[Outcome], np.ndarray]:
    """Return outcomes of classifiers that are right by chance, and the labels; the classes have 30, 20 and 10 images."""
    labels = np.repeat([0, 1, 2], [images // 2, images // 3, images // 6])
    outcomes = []
    for place, arm in enumerate(list_arms((1, 5))):
        for seed in range(seeds):
            draw = SEEDS.numpy("outcome", place, seed)
            right = draw.random(images) < 0.5 + 0.1 * place + 0.05 * seed
            predicted = np.where(right, labels, (labels + 1) % 3)
            outcomes.append(an_outcome(arm.name, seed, tuple(predicted.tolist())))
    return outcomes, labels


def test_accuracies_and_differences_are_those_that_are_counted_one_by_one() -> None:
    outcomes, labels = some_outcomes()
    results = score_arms(outcomes, labels, UtilitySettings(shots=(5,)), "classifier:x", SEEDS)
    assert [result.arm for result in results] == ["real", "synthetic 5x", "real + synthetic 1x", "real + synthetic 5x"]

    def right(arm: str, seed: int, image: int) -> float:
        (one,) = (outcome for outcome in outcomes if (outcome.arm, outcome.seed) == (arm, seed))
        return float(one.predicted[image] == labels[image])

    for result in results:
        table = [[right(result.arm, seed, image) for seed in range(3)] for image in range(60)]
        base = [[right("real", seed, image) for seed in range(3)] for image in range(60)]
        by_image = [sum(row) / 3 for row in table]
        by_class = [
            sum(value for value, label in zip(by_image, labels, strict=True) if label == name) / (30, 20, 10)[name]
            for name in range(3)
        ]
        top_1, macro = result.scores
        assert (top_1.name, macro.name) == ("accuracy", "accuracy_macro")
        assert top_1.value == pytest.approx(sum(by_image) / 60)
        assert macro.value == pytest.approx(sum(by_class) / 3)
        assert top_1.count == 60 and top_1.subset == "test, 5 real images a class" and top_1.model == result.arm
        if result.arm == "real":
            assert result.differences == result.by_seed == ()
            continue
        gains = [(sum(row) - sum(other)) / 3 for row, other in zip(table, base, strict=True)]
        expected = [sum(table[i][seed] - base[i][seed] for i in range(60)) / 60 for seed in range(3)]
        assert result.by_seed == pytest.approx(expected)
        difference, of_macro = result.differences
        assert difference.difference == pytest.approx(sum(gains) / 60) == pytest.approx(difference.first - difference.second)
        assert difference.p_value == sign_flip_p_value(np.array(gains), seeds=SEEDS)
        assert of_macro.difference == pytest.approx(of_macro.first - of_macro.second)
        assert difference.interval[0] < difference.difference < difference.interval[1]
        assert [score.name for score in result.all_scores()][2:] == ["accuracy_minus_real", "accuracy_macro_minus_real"]


def test_intervals_know_of_images_and_of_repetitions() -> None:
    """The variance is nearly that of images and that of repetitions, one on top of the other (Owen 2007, theorem 1)."""
    draw = SEEDS.numpy("effects")
    values = draw.normal(size=(200, 1)) + 0.8 * draw.normal(size=(1, 8)) + np.zeros((200, 8))
    rows = np.column_stack([values, np.zeros(200)])
    low, high = utility_table._interval(rows, utility_table.top_1, SEEDS)
    variance = values.mean(axis=1).var() / 200 + values.mean(axis=0).var() / 8
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(variance), rel=0.1)
    once = np.column_stack([values[:, :1], np.zeros(200)])
    low, high = utility_table._interval(once, utility_table.top_1, SEEDS)
    assert (high - low) / (2 * 1.96) == pytest.approx(np.sqrt(values[:, 0].var() / 200), rel=0.1)


def test_arms_that_see_alike_differ_by_nothing_and_a_missing_trial_is_named() -> None:
    labels = np.repeat([0, 1, 2], 20)
    settings = UtilitySettings(shots=(5,), seeds=2, multiples=(1,))
    outcomes = [
        an_outcome(arm.name, seed, tuple(((labels + (seed == 0) * (labels == 2)) % 3).tolist()))
        for arm in list_arms((1,))
        for seed in range(2)
    ]
    for result in score_arms(outcomes, labels, settings, "x", SEEDS)[1:]:
        assert [(one.difference, one.interval, one.p_value) for one in result.differences] == [(0, (0, 0), 1)] * 2
    with pytest.raises(DataError, match=r"\(5, 'real \+ synthetic 1x', 1\) has no result"):
        score_arms(outcomes[:-1], labels, settings, "x", SEEDS)


def test_the_table_stands_with_its_rules() -> None:
    outcomes, labels = some_outcomes(seeds=2)
    settings = UtilitySettings(shots=(5,), seeds=2)
    notes = describe_rules(settings, 400, 32, 60, ["some base with the adapter coast"])
    assert notes[0].startswith("Warning: fewer than 3 seeds")
    assert "drawn by some base with the adapter coast" in notes[-1] and "none gave a prompt" in notes[2]
    lines = format_markdown(score_arms(outcomes, labels, settings, "x", SEEDS), notes).splitlines()
    assert len({line.count("|") for line in lines[:6]}) == 1
    assert lines[2].startswith("| 5 | real | 15 | 0 | 0.") and lines[5].startswith("| 5 | real + synthetic 5x | 15 | 75 | 0.")
    assert lines[-5:] == [f"- {note}" for note in notes]
    assert "Warning" not in " ".join(describe_rules(UtilitySettings(seeds=3), 400, 32, 60, []))
    assert "not recorded" in " ".join(describe_rules(UtilitySettings(seeds=3), 400, 32, 60, []))
