"""What has leaked: answers, and the figures that they rest on."""

from __future__ import annotations

import numpy as np

from skygen.evaluation.leakage import ask_choice, ask_images, ask_prompts, ask_training
from skygen.evaluation.screening.nearest_images import Nearest


def nearest(similarity: list[float], distance: list[int]) -> Nearest:
    rows, zeros = np.arange(len(similarity)), np.zeros(len(similarity))
    return Nearest(rows, np.array(similarity), zeros, rows, zeros, np.array(distance, dtype=np.float64))


def test_a_network_that_was_trained_on_the_data_is_told() -> None:
    found = ask_training("skyclip:x", ("SkyScript", "LAION-2B"), ("DATA", "SkyScript"), "the evaluation data")
    assert (found.question, found.answer) == ("Was skyclip:x trained on the evaluation data?", "yes")
    assert "It was trained on SkyScript, LAION-2B; the data are DATA, SkyScript." in found.detail


def test_only_data_with_a_known_name_can_be_called_new() -> None:
    assert ask_training("skyclip:x", ("SkyScript",), ("RSICD",), "the data").answer == "no"
    assert ask_training("skyclip:x", ("SkyScript",), ("my tiles",), "the data").answer == "unknown"
    assert ask_training("skyclip:x", (), ("RSICD",), "the data").answer == "unknown"
    assert ask_training("skyclip:x", ("SkyScript",), (), "the data").answer == "unknown"


def test_a_scorer_that_chose_is_told_for_the_sets_that_it_chose_in() -> None:
    alone, best = [{"candidate_scores": [0.5]}, {}], [{"candidate_scores": [0.1, 0.4, 0.2]}]
    assert ask_choice({"tuned": alone}).answer == "no"
    partly = ask_choice({"tuned": alone, "tuned, best of 3": best})
    assert partly.answer == "partly"
    assert partly.detail.startswith("tuned, best of 3: the best of 3; ")
    assert ask_choice({"best": best}).answer == "yes"


def test_a_prompt_that_was_read_in_training_is_found_whatever_its_case_and_view_prefix() -> None:
    prompts = ["a satellite image of Two Lakes", "a satellite image of two lakes.", "a satellite image of a mill"]
    found = ask_prompts(prompts, ["An aerial image. It shows: two lakes", "a satellite image of a dam"])
    assert found.answer == "partly"
    assert found.detail == "1 of 2 distinct prompts, 67% of the pictures, such as 'two lakes'."
    assert ask_prompts(prompts, ["a dam"]).answer == "no"
    assert ask_prompts(prompts[:2], ["two lakes"]).answer == "yes"
    assert ask_prompts(prompts, None).answer == "unknown"


def test_a_real_image_is_known_by_its_name_or_by_hash_and_cosine_both() -> None:
    names = ["a.jpg", "b.jpg", "c.jpg", "d.jpg"]
    seen = ask_images(names, nearest([0.999, 0.999, 0.5, 0.2], [0, 30, 3, 40]), known={"d.jpg"})
    assert seen.answer == "partly"
    assert seen.detail == "2 of 4: 1 by name, 1 by perceptual hash and cosine both (by either alone: 3), such as a.jpg, d.jpg."
    assert ask_images(names[:2], nearest([0.5, 0.5], [30, 30])).answer == "no"
    assert ask_images(names[:1], nearest([1.0], [0])).answer == "yes"
    assert ask_images(names, None).answer == "unknown"
