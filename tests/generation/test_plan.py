"""The plan: fixed before the first picture, the same at every start, and what it will take."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from skygen.data.image_metadata import ImageMetadata
from skygen.errors import ConfigError
from skygen.generation.plan import Estimate, Plan
from skygen.generation.prompts import Prompt
from skygen.seeding import Seeds

PROMPTS = [Prompt("a dam"), Prompt("two tanks", "a.jpg", "storage tank", "CH", ImageMetadata(gsd=0.5)), Prompt("a dam")]
PLAN = Plan(PROMPTS, 2, Seeds(3))


def test_a_plan_says_of_every_picture_what_it_is_drawn_from(tmp_path: Path) -> None:
    PLAN.keep(tmp_path)
    lines = [json.loads(line) for line in (tmp_path / "plan.jsonl").read_text().splitlines()]
    assert [line["index"] for line in lines] == [0, 1, 2]
    assert lines[1] == {
        "index": 1,
        "text": "two tanks",
        "key": "a.jpg",
        "class": "storage tank",
        "source": "CH",
        "seeds": [Seeds(3).derive("image", 1, 0), Seeds(3).derive("image", 1, 1)],
        "metadata": {"gsd": 0.5},
    }
    assert len({seed for line in lines for seed in line["seeds"]}) == 6
    summary = json.loads((tmp_path / "plan.json").read_text())
    assert (summary["pictures"], summary["prompts"], summary["candidates"]) == (3, 2, 2)
    assert summary["class"] == {"storage tank": 1} and summary["source"] == {"CH": 1}


def test_the_same_plan_and_a_longer_one_are_gone_on_with(tmp_path: Path) -> None:
    PLAN.keep(tmp_path)
    before = (tmp_path / "plan.jsonl").read_bytes()
    PLAN.keep(tmp_path)
    assert (tmp_path / "plan.jsonl").read_bytes() == before
    replace(PLAN, prompts=[*PROMPTS, Prompt("a lake")]).keep(tmp_path)
    after = (tmp_path / "plan.jsonl").read_bytes()
    assert after.startswith(before) and after.count(b"\n") == 4


MEND = "; go on with the first, or take another --run.name."
LAKE, DAM, COARSE = Prompt("a lake"), Prompt("a dam", class_name="dam"), replace(PROMPTS[1], metadata=ImageMetadata(gsd=1.0))
OTHER = [
    ([*PROMPTS[:2], LAKE], 'another plan: picture 2 had the prompt "a dam", now it is "a lake"'),
    ([DAM, *PROMPTS[1:]], 'another plan: picture 0 had the class left out, now it is "dam"'),
    ([PROMPTS[0], COARSE, PROMPTS[2]], 'another plan: picture 1 had the metadata {"gsd": 0.5}, now it is {"gsd": 1.0}'),
    (PROMPTS[:2], "3 pictures, now it is 2"),
]


@pytest.mark.parametrize(("other", "what"), OTHER)
def test_another_plan_is_refused_in_one_sentence(other: list[Prompt], what: str, tmp_path: Path) -> None:
    PLAN.keep(tmp_path)
    before = (tmp_path / "plan.jsonl").read_bytes()
    with pytest.raises(ConfigError) as raised:
        replace(PLAN, prompts=other).keep(tmp_path)
    assert str(raised.value) == f"{tmp_path / 'plan.jsonl'}: this run was begun with {what}{MEND}"
    assert (tmp_path / "plan.jsonl").read_bytes() == before


def test_other_weights_under_the_same_name_are_refused(tmp_path: Path) -> None:
    begun = replace(PLAN, weights={"base": "0123", "adapter": ""})
    begun.keep(tmp_path)
    begun.keep(tmp_path)
    for part, fingerprint, what in (
        ("base", "4567", 'another base: its weights were "0123", now they are "4567"'),
        ("adapter", "89ab", 'another adapter: its weights were left out, now they are "89ab"'),
    ):
        with pytest.raises(ConfigError) as raised:
            replace(PLAN, weights={**begun.weights, part: fingerprint}).keep(tmp_path)
        assert str(raised.value) == f"{tmp_path / 'plan.json'}: this run was begun with {what}{MEND}"


def test_a_first_batch_tells_time_and_room(tmp_path: Path) -> None:
    PLAN.keep(tmp_path)
    estimate = Estimate.of_trial(4, 6.0, 62_000, 2000, side=64, candidates=4, processes=2)
    assert str(estimate) == "2,000 pictures of 64 pixels, 4 candidates each: about 25 min on 2 processes, 31 MB"
    alone = Estimate.of_trial(1, 0.5, 15_000, 20, side=512, candidates=1, processes=1)
    assert str(alone) == "20 pictures of 512 pixels: about 10 s on 1 process, 300 kB"
    long = Estimate.of_trial(1, 2.0, 15_000, 100_000, side=512, candidates=1, processes=8)
    assert "about 6.9 h on 8 processes" in str(long)
    estimate.keep(tmp_path)
    summary = json.loads((tmp_path / "plan.json").read_text())
    assert summary["pictures"] == 3 and summary["estimate"]["seconds"] == 1500
