"""How often a judge sees the class that was meant."""

from __future__ import annotations

import logging
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.evaluation.images.judgement import accuracy_by_class, accuracy_scores, judge_scores, name_classes
from skygen.miniature.architectures import build_judge
from skygen.models.judge import Judge
from skygen.seeding import Seeds

CLASSES = ("annual crop", "sea lake", "tennis court")


@pytest.fixture(scope="module")
def judge(tmp_path_factory: pytest.TempPathFactory) -> Judge:
    folder = tmp_path_factory.mktemp("judge")
    build_judge(folder, CLASSES, Seeds(7))
    judge = Judge.load(str(folder))
    judge.name = "small"
    return judge


def test_accuracy_is_the_share_of_pictures_seen_as_meant(judge: Judge) -> None:
    judged = ["annual crop", "sea lake", "sea lake", "tennis court"]
    meant = ["AnnualCrop", "Sea_Lake", "tennis court", "Tennis Court"]
    (score,) = accuracy_scores(judge, judged, meant, model="tuned", subset="test", seeds=Seeds(0))
    assert (score.name, score.value, score.count) == ("judge_accuracy", 0.75, 4)
    assert (score.model, score.subset, score.extractor) == ("tuned", "test", "judge:small")
    assert score.interval is not None
    assert score.interval[0] < 0.75 <= score.interval[1]


def test_classes_that_the_judge_does_not_know_are_left_out_and_told(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    judged = ["annual crop", "sea lake", "sea lake", "sea lake"]
    with caplog.at_level(logging.WARNING):
        (score,) = accuracy_scores(
            judge, judged, ["annual crop", "volcano", "", "volcano"], model="base", subset="", seeds=Seeds(0)
        )
    assert (score.value, score.count, score.interval) == (1.0, 1, None)
    assert "3 of 4 base pictures are left out, being of no class that it knows: volcano, (no class)" in caplog.text
    assert accuracy_scores(judge, judged[:1], ["volcano"], model="base", subset="", seeds=Seeds(0)) == []


def test_no_warning_where_all_classes_are_known(judge: Judge, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.WARNING):
        accuracy_scores(judge, list(CLASSES), list(CLASSES), model="base", subset="", seeds=Seeds(0))
    assert caplog.text == ""


def test_images_are_judged_by_their_likeliest_class(judge: Judge, tmp_path: Path) -> None:
    paths = [tmp_path / f"{index}.png" for index in range(6)]
    for index, path in enumerate(paths):
        values = Seeds(1).numpy("picture", index).integers(0, 60 + 39 * index, (64, 64, 3), dtype=np.uint8)
        Image.fromarray(values).save(path)
    seen = name_classes(judge, paths)
    assert seen == [CLASSES[row.argmax()] for row in judge.probabilities(paths)]
    wrong = CLASSES[(CLASSES.index(seen[0]) + 1) % 3]
    (score,) = judge_scores(judge, paths, [wrong, *seen[1:]], model="real", subset="test", seeds=Seeds(0))
    assert score.value == pytest.approx(5 / 6)
    assert name_classes(judge, []) == []


def test_the_hardest_class_comes_first() -> None:
    judged = ["sea lake", "sea lake", "tennis court", "sea lake"]
    shares = accuracy_by_class(judged, ["SeaLake", "sea lake", "tennis court", "AnnualCrop"])
    assert list(shares.items()) == [("annual crop", 0.0), ("sea lake", 1.0), ("tennis court", 1.0)]
