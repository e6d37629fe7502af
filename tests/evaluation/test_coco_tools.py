"""METEOR and SPICE come from the published tools or not at all."""

from __future__ import annotations

import importlib
import json
import logging
import math
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest

from skygen.errors import UnavailableError
from skygen.evaluation.captions.coco_tools import (
    SPICE_MODELS,
    JavaTool,
    Meteor,
    coco_scores,
    find_meteor,
    find_spice,
    spice_scores,
)
from skygen.evaluation.captions.trials import Round, lay_out_trials
from skygen.evaluation.items import ItemScores
from skygen.seeding import Seeds

ROUND = Round(("A lake.", "a road"), (("a lake", "a pond"), ("The road",)))

# Answers each SCORE line with its count of words, and an EVAL line with those of each and then their sum over ten.
FAKE_METEOR = r"""
while read -r line; do
  case "$line" in
    SCORE*) echo "$line" >> said.txt; set -- $line; echo "$#" ;;
    EVAL*) rest=${line#EVAL}; sum=0
           for n in $(echo "$rest" | tr -d '|'); do echo "0.$n"; sum=$((sum + n)); done; echo "0.0$sum" ;;
  esac
done
"""
FAKE_SPICE = r"""
while [ $# -gt 0 ]; do case "$1" in *captions.json) cp "$1" said.json ;; -out) out=$2 ;; esac; shift; done
printf '%s' '[{"image_id": 1, "scores": {"All": {"f": 0.5}}}, {"image_id": 0, "scores": {"All": {"f": null}}}]' > "$out"
"""


@pytest.fixture
def package(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A package of the published one's shape, before the one that may be installed."""
    folder = tmp_path / "site" / "pycocoevalcap"
    (folder / "meteor").mkdir(parents=True)
    (folder / "spice" / "lib").mkdir(parents=True)
    (folder / "__init__.py").touch()
    (folder / "meteor" / "meteor-1.5.jar").touch()
    (folder / "spice" / "spice-1.0.jar").touch()
    monkeypatch.syspath_prepend(str(folder.parent))
    importlib.invalidate_caches()
    return folder


def put_java(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> Path:
    java = tmp_path / "bin" / "java"
    java.parent.mkdir()
    java.write_text(f"#!/bin/sh\n{script}")
    java.chmod(0o755)
    monkeypatch.setenv("PATH", f"{java.parent}:/usr/bin:/bin")
    return java


def test_what_is_missing_is_named_with_the_way_to_get_it(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(UnavailableError) as error:
        find_meteor()
    assert str(error.value) == "meteor is not computed: there is no `java` on the PATH; install a Java runtime, 8 or newer."
    put_java(tmp_path, monkeypatch, "")
    assert find_meteor().jar == package / "meteor" / "meteor-1.5.jar"
    with pytest.raises(UnavailableError) as error:
        find_spice()
    assert str(error.value) == (
        f"spice is not computed: {package / 'spice' / 'lib'} lacks stanford-corenlp-3.6.0.jar and "
        "stanford-corenlp-3.6.0-models.jar of Stanford CoreNLP 3.6.0; "
        "run `python -m pycocoevalcap.spice.get_stanford_models` where there is a network."
    )
    for name in SPICE_MODELS:
        (package / "spice" / "lib" / name).touch()
    assert find_spice().jar == package / "spice" / "spice-1.0.jar"
    (package / "meteor" / "meteor-1.5.jar").unlink()
    with pytest.raises(UnavailableError, match=r"meteor is not computed: .*meteor-1\.5\.jar is missing; install pycocoevalcap"):
        find_meteor()


def test_without_the_package_both_scores_are_left_out_and_it_is_said(
    monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    items = ItemScores(["a", "b"])
    trials = lay_out_trials({"base": ["a lake", "a road"]}, [["a lake"], ["a road"]])
    with caplog.at_level(logging.WARNING):
        assert coco_scores(trials, items, subset="test", seeds=Seeds(0), progress=lambda done, total: None) == []
    assert caplog.messages == [
        f"{name} is not computed: pycocoevalcap is not installed; pip install 'skygen[coco]'." for name in ("meteor", "spice")
    ]
    assert items.writers() == []


def test_meteor_is_spoken_to_in_its_own_protocol(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(tmp_path, monkeypatch, FAKE_METEOR)
    with Meteor(find_meteor()) as meteor:
        score = meteor.score(ROUND)
        assert score.items.tolist() == [0.1, 0.7]  # 10 and 7 words and bars, as 0.10 and 0.7
        assert score.corpus == 0.017
        meteor.score(Round(ROUND.hypotheses, (("a lake", "a pond", "A LAKE"), ("the road",))))
    # Tokens, lower-cased; repeats are not sent, and no line is asked twice.
    said = (package / "meteor" / "said.txt").read_text().splitlines()
    assert said == ["SCORE ||| a lake ||| a pond ||| a lake", "SCORE ||| the road ||| a road"]


def test_rounds_become_scores_and_items(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put_java(tmp_path, monkeypatch, FAKE_METEOR)
    trials = lay_out_trials({"base": ["a lake", "a road"]}, [["a lake", "a lake"], ["a road", "the wide road"]])
    items, told = ItemScores(["a", "b"]), list[tuple[int, int]]()
    scores = coco_scores(trials, items, subset="test", seeds=Seeds(0), progress=lambda done, total: told.append((done, total)))
    assert [(score.name, score.model, score.count, score.interval) for score in scores] == [
        ("meteor", "base", 2, None),
        ("meteor", "human", 2, None),
        ("meteor_distinct", "base", 2, None),
    ]
    assert told == [(done, 4) for done in range(1, 5)]
    assert np.isfinite(items.values("human", "meteor")).all()


def test_a_meteor_that_dies_costs_its_score_alone(package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    java = put_java(tmp_path, monkeypatch, "exit 3")
    tool = find_meteor()
    with pytest.raises(UnavailableError) as error, Meteor(tool) as meteor:
        meteor.score(ROUND)
    assert str(error.value) == (
        f"meteor is not computed: `{java} -Xmx2G -jar {tool.jar}` ended without an answer; see whether it starts by hand."
    )


def test_spice_is_asked_by_file_and_an_item_without_a_number_is_left_out(
    package: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    java = put_java(tmp_path, monkeypatch, FAKE_SPICE)
    score = spice_scores(JavaTool(str(java), package / "spice" / "spice-1.0.jar"), ROUND, tmp_path)
    assert math.isnan(score.items[0])
    assert score.items[1] == score.corpus == 0.5
    assert json.loads((package / "spice" / "said.json").read_text()) == [
        {"image_id": 0, "test": "a lake", "refs": ["a lake", "a pond"]},
        {"image_id": 1, "test": "a road", "refs": ["the road"]},
    ]
    java.write_text("#!/bin/sh\nexit 1\n")
    with pytest.raises(UnavailableError, match=r"spice is not computed: .*spice-1\.0\.jar failed \(CalledProcessError\)"):
        spice_scores(JavaTool(str(java), package / "spice" / "spice-1.0.jar"), ROUND, tmp_path)


@pytest.mark.slow
@pytest.mark.parametrize(("name", "count"), [("sydney_test_leave_one_out", 58), ("rsicd_test_class_mode", 1093)])
def test_meteor_is_that_of_coco_caption(shared_data: Callable[[str], Path], name: str, count: int) -> None:
    oracle = json.loads((shared_data("oracle_caption_metrics") / f"{name}.json").read_text())
    try:
        tool = find_meteor()
    except UnavailableError as error:
        pytest.skip(str(error))
    hypotheses = tuple(item["hypothesis"] for item in oracle["items"])
    with Meteor(tool) as meteor:
        score = meteor.score(Round(hypotheses, tuple(tuple(item["references"]) for item in oracle["items"])))
    assert len(score.items) == count
    assert score.corpus == pytest.approx(oracle["corpus"]["METEOR"], rel=0, abs=1e-12)
    np.testing.assert_allclose(score.items, [item["METEOR"] for item in oracle["items"]], rtol=0, atol=1e-12)


@pytest.mark.slow
def test_meteor_takes_captions_without_words_and_letters_beyond_ascii() -> None:
    try:
        tool = find_meteor()
    except UnavailableError as error:
        pytest.skip(str(error))
    with Meteor(tool) as meteor:
        score = meteor.score(Round(("", "a café", "a ||| b http://x|||y"), (("a lake",), ("a café",), ("a lake",))))
    assert score.items[:2].tolist() == [0.0, 1.0]
    assert 0.0 < score.items[2] < 0.5  # the bars are three tokens and make no third reference, and the answers stay in step
