"""The studio: what it draws while one looks on, what it says of pictures, what it finds, and what it refuses."""

from __future__ import annotations

import json
import math
import re
import threading
import time
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from fabricated_runs import make_evaluation
from PIL import Image

from skygen.errors import ConfigError, DataError, ImageError, UnavailableError
from skygen.miniature.world import BASE_CLASSES
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion
from skygen.models.scorer import ScorerSettings
from skygen.models.weights import ModelSettings
from skygen.seeding import Seeds
from skygen.studio import limits
from skygen.studio.comparing import compare, compare_items, list_runs
from skygen.studio.describing import Description, Unreadable, measure_agreement
from skygen.studio.pictures import Progress, Request
from skygen.studio.studio import IMAGES, TILES, Studio, StudioConfig, StudioSettings
from skygen.studio.watching import in_background

PROMPT = "An aerial image. It shows: A winding green river."
QUICK: dict[str, Any] = {"seed": 3, "steps": 2, "guidance": 2.0}


@pytest.fixture(scope="module")
def config(
    stable_diffusion_folder: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path_factory: pytest.TempPathFactory
) -> StudioConfig:
    images = tmp_path_factory.mktemp("searched")
    for number, colour in enumerate(((200, 30, 30), (30, 200, 30), (30, 30, 200))):
        Image.new("RGB", (64, 64), colour).save(images / f"colour_{number}.png")
    (images / "broken.png").write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    return StudioConfig(
        ModelSettings(str(stable_diffusion_folder)),
        ModelSettings(str(captioner_folder)),
        ScorerSettings(str(skyclip_folder)),
        studio=StudioSettings(images=images),
    )


@pytest.fixture(scope="module")
def studio(config: StudioConfig, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    return Studio(config, tmp_path_factory.mktemp("studio"), device="cpu")


@pytest.fixture(scope="module")
def tuned(config: StudioConfig, tmp_path_factory: pytest.TempPathFactory) -> Studio:
    """A studio whose generator has an adapter that acts."""
    trained = Diffusion.load(config.diffusion.name).attach(LoraSettings(rank=2), Seeds(1), base=config.diffusion.name)
    with torch.no_grad():
        for name, parameter in trained.parameters.items():
            parameter.copy_(0.3 * torch.randn(parameter.shape, generator=Seeds(2).generator(name)))
    folder = tmp_path_factory.mktemp("harbours") / "adapter"
    trained.save(folder)
    settings = ModelSettings(config.diffusion.name, folder)
    return Studio(StudioConfig(settings, config.captioner, config.scorer), tmp_path_factory.mktemp("tuned"), device="cpu")


def finish(studio: Studio, **changed: Any) -> Progress:
    *_, last = studio.watch(Request(**{"prompt": PROMPT, **QUICK, **changed}))
    return last


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image)


def record_of(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        found: dict[str, Any] = json.loads(image.info["skygen"])
    return found


def test_previews_come_while_a_picture_is_drawn_and_four_times_a_second_at_most(studio: Studio) -> None:
    begun = time.monotonic()
    came = list(studio.watch(Request(PROMPT, **{**QUICK, "steps": 40})))
    seconds = time.monotonic() - begun
    previews = [progress for progress in came if progress.previews]
    assert 2 <= len(previews) <= 4 * seconds + 1
    assert all(not progress.drawings and progress.previews[0].mode == "RGB" for progress in previews)
    assert all("trainedAlgorithmicMedia" in progress.previews[0].info["XML:com.adobe.xmp"] for progress in previews)
    done = [progress.done for progress in came]
    assert done == sorted(done)
    assert (done[-1], came[-1].total, len(came[-1].drawings)) == (100, 100, 1)


def test_all_candidates_are_there_and_ranked_and_the_first_is_the_picture(studio: Studio) -> None:
    (drawing,) = finish(studio, candidates=3).drawings
    scores = [one.score for one in drawing.candidates]
    assert scores == sorted(scores, reverse=True)
    assert (drawing.path, drawing.seed) == (drawing.candidates[0].path, drawing.candidates[0].seed)
    assert len({pixels(one.path).tobytes() for one in drawing.candidates}) == 3
    for one in drawing.candidates:
        rescored = float(studio.scorer.similarity([one.path], [PROMPT])[0])
        assert one.score == pytest.approx(rescored, abs=1e-5)
        assert sorted(record_of(one.path)["candidate_scores"], reverse=True) == scores
        assert record_of(one.path)["seed"] == one.seed


def test_a_picture_is_the_one_that_the_model_draws_from_its_seed(studio: Studio) -> None:
    drawings = finish(studio, count=2, candidates=2).drawings
    seeds = [Seeds(3).derive("image", 1, number) for number in range(2)]
    assert sorted(one.seed for one in drawings[1].candidates) == sorted(seeds)
    (alone,) = studio.diffusion.sample([PROMPT], [drawings[1].seed], num_inference_steps=2, guidance_scale=2.0)
    assert np.array_equal(np.asarray(alone), pixels(drawings[1].path))


def test_a_picture_tells_its_settings_and_no_path_of_this_machine(studio: Studio) -> None:
    (drawing,) = finish(studio, scheduler="ddim", rescale=0.7, width=64, height=32).drawings
    record = record_of(drawing.path)
    assert pixels(drawing.path).shape == (32, 64, 3)
    expected = {"scheduler": "ddim", "guidance_rescale": 0.7, "width": 64, "height": 32, "num_inference_steps": 2}
    assert {name: record[name] for name in expected} == expected
    assert (record["synthetic"], record["model"], record["base"]) == (True, "base", "stable_diffusion")
    assert str(Path(studio.config.diffusion.name).parent) not in json.dumps(record)


def test_the_base_stands_beside_the_tuned_picture_and_starts_from_the_same_seed(tuned: Studio, studio: Studio) -> None:
    (drawing,) = finish(tuned, beside_base=True).drawings
    assert drawing.base is not None
    assert drawing.base.seed == drawing.seed
    assert not np.array_equal(pixels(drawing.base.path), pixels(drawing.path))
    (plain,) = finish(studio).drawings  # of the model that has no adapter at all
    assert np.array_equal(pixels(drawing.base.path), pixels(plain.path))
    assert (record_of(drawing.path)["model"], record_of(drawing.path)["adapter"]) == ("tuned", "harbours0/adapter")
    assert (record_of(drawing.base.path)["model"], record_of(drawing.base.path)["adapter"]) == ("base", "")


def test_the_adapter_acts_as_strongly_as_is_asked(tuned: Studio) -> None:
    whole, half = finish(tuned).drawings[0], finish(tuned, lora_scale=0.5).drawings[0]
    assert not np.array_equal(pixels(whole.path), pixels(half.path))
    assert record_of(half.path)["lora_scale"] == 0.5


def test_closing_the_iterator_ends_the_drawing(studio: Studio) -> None:
    watched = studio.watch(Request(PROMPT, **{**QUICK, "steps": 100, "count": 8}))
    next(watched)
    begun = time.monotonic()
    watched.close()
    assert time.monotonic() - begun < 5.0
    assert not [thread for thread in threading.enumerate() if thread.name == "studio"]
    assert len(finish(studio).drawings) == 1  # and the next one is drawn


def test_closing_the_studio_ends_what_is_drawn_though_somebody_still_listens(tuned: Studio) -> None:
    watched = tuned.watch(Request(PROMPT, **{**QUICK, "steps": 100, "count": 8}))
    next(watched)
    tuned.close()
    left = list(watched)
    assert not left or len(left[-1].drawings) < 8
    assert len(finish(tuned).drawings) == 1


def test_what_a_background_work_raises_is_raised_where_it_is_listened_to() -> None:
    def work(tell: Any, stop: threading.Event) -> None:
        tell(1)
        raise DataError("it is broken")

    told = in_background(work)
    assert next(told) == 1
    with pytest.raises(DataError, match="it is broken"):
        next(told)


@pytest.mark.parametrize(
    ("changed", "words"),
    [
        ({"prompt": "\ud800\x00\n "}, "this one has 0."),
        ({"steps": True}, "The number of steps is no number"),
        ({"guidance": math.inf}, "The guidance is inf; choose 1 to 15."),
        ({"rescale": -0.1}, "The rescale is -0.1; choose 0 to 1."),
        ({"lora_scale": 5}, "The strength of the adapter is 5; choose 0 to 2."),
        ({"scheduler": "quickest"}, "There is no such scheduler; choose among model, ddim"),
        ({"width": 100_000}, "The width is 100000; choose 32 to "),
        ({"height": 33}, "The height is 33; choose a multiple of "),
        ({"lora_scale": 0.5}, "This model has no adapter"),
        ({"beside_base": True}, "This model has no adapter"),
    ],
)
def test_what_cannot_be_drawn_is_refused_in_words(studio: Studio, changed: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=re.escape(words)):
        finish(studio, **changed)


def test_a_prompt_says_where_it_is_cut(studio: Studio) -> None:
    limit = studio.diffusion.pipeline.tokenizer.model_max_length
    assert studio.find_cut("a " * (limit - 2)) is None
    text = "a " * (limit - 2) + "beside a green river"
    cut = studio.find_cut(text)
    assert cut is not None
    assert (cut.limit, cut.read, cut.dropped) == (limit, text[: 2 * limit - 5], "beside a green river")


def test_captions_are_ranked_by_the_scorer(studio: Studio) -> None:
    picture = studio.example_pictures()[0]
    described = studio.describe(picture, 4)
    scores = [one.score for one in described.candidates]
    assert scores == sorted(scores, reverse=True)
    assert (described.caption, described.score) == (described.candidates[0].text, scores[0])
    expected = studio.scorer.similarity([picture], [described.caption])[0]
    assert described.score == pytest.approx(float(expected), abs=1e-5)
    assert studio.describe(picture, 1).agreement is None


def test_agreement_is_the_mean_share_of_words_in_common() -> None:
    captions = ["a green river", "A green river.", "a harbour"]
    words = [{"a", "green", "river"}, {"a", "green", "river"}, {"a", "harbour"}]
    expected = [len(one & other) / len(one | other) for one, other in combinations(words, 2)]
    assert measure_agreement(captions) == pytest.approx(sum(expected) / 3)
    assert measure_agreement(captions[:2]) == 1.0
    assert measure_agreement(captions[:1]) is None
    assert measure_agreement(["", ""]) == 1.0


def test_a_picture_that_cannot_be_read_does_not_stop_the_others(studio: Studio, tmp_path: Path) -> None:
    bad = tmp_path / "bad.png"
    bad.write_bytes(b"no picture")
    first, second, third = studio.describe_all([studio.example_pictures()[0], bad, studio.example_pictures()[1]], 1)
    assert isinstance(first, Description)
    assert isinstance(second, Unreadable)
    assert isinstance(third, Description)
    assert str(tmp_path) not in second.reason
    with pytest.raises(ImageError):
        studio.describe(bad)
    with pytest.raises(ConfigError, match="There are 33 pictures; give 1 to 32"):
        next(studio.describe_all([bad] * 33))


def test_classes_are_ranked_and_their_probabilities_sum_to_one(studio: Studio) -> None:
    picture = studio.example_pictures()[0]
    likely = studio.rank_classes(picture)
    assert sorted(one.name for one in likely) == sorted(BASE_CLASSES)
    assert sum(one.probability for one in likely) == pytest.approx(1.0)
    assert [one.score for one in likely] == sorted((one.score for one in likely), reverse=True)
    first, second = likely[:2]
    factor = float(studio.scorer.model.logit_scale.exp())
    assert first.probability / second.probability == pytest.approx(math.exp(factor * (first.score - second.score)), rel=1e-3)
    assert [one.name for one in studio.rank_classes(picture, ["only one"])] == ["only one"]


def test_texts_are_ranked_by_their_cosine_with_the_picture(studio: Studio) -> None:
    picture, texts = studio.example_pictures()[0], ["a harbour", "a river", "an orchard"]
    expected = studio.scorer.similarity([picture] * 3, texts)
    ranked = studio.rank_texts(picture, texts)
    assert [one.text for one in ranked] == [texts[place] for place in np.argsort(-expected)]
    with pytest.raises(ConfigError, match="There are 17 texts"):
        studio.rank_texts(picture, ["a"] * 17)


def test_a_folder_is_searched_by_picture_and_by_words(studio: Studio) -> None:
    collection = studio.collection(IMAGES)
    with Image.open(studio.config.studio.images / "colour_1.png") as picture:  # type: ignore[operator]
        found = collection.by_image(picture.convert("RGB"), 4)
    assert found[0].name == "colour_1.png"
    assert found[0].cosine == pytest.approx(1.0, abs=1e-5)
    assert len(found) == 3  # the broken one is never found
    assert {one.name for one in collection.by_text("a harbour", 2)} <= {f"colour_{number}.png" for number in range(3)}
    with pytest.raises(ConfigError, match="The number of images is 0; choose 1 to 48"):
        collection.by_text("a harbour", 0)
    with pytest.raises(ConfigError, match="There is no such set of images; choose among Images"):
        studio.collection("../elsewhere")


def test_without_images_the_miniatures_tiles_are_searched(tuned: Studio) -> None:
    assert tuned.collections == (TILES,)
    assert tuned.collection(TILES).count == 104
    assert tuned.collection(TILES) is tuned.collection(TILES)


def test_an_adapter_that_is_not_there_is_told_before_anything_is_loaded(config: StudioConfig, tmp_path: Path) -> None:
    settings = StudioSettings(more_adapters=(tmp_path / "none",))
    with pytest.raises(UnavailableError, match="none"):
        Studio(StudioConfig(config.diffusion, config.captioner, config.scorer, studio=settings), tmp_path)


def test_runs_stand_side_by_side_by_prompt(tmp_path: Path) -> None:
    (tmp_path / "data" / "images").mkdir(parents=True)
    for name in ("first", "second"):
        make_evaluation(tmp_path / "runs" / name, tmp_path / "data", count=5)
    (tmp_path / "runs" / "training").mkdir()
    (tmp_path / "runs" / "metrics.json").write_text("{}")  # as a report of all of them leaves it
    found = list_runs(tmp_path / "runs")
    assert sorted(found) == ["first", "second"]
    assert list_runs(tmp_path / "nowhere") == {}
    compared = compare([found["first"], found["second"]])
    assert compared.columns[0] == "real"
    assert [name for name in compared.columns if name.endswith(": tuned")] == ["first: tuned", "second: tuned"]
    assert [prompt for prompt, _ in compared.rows] == [f"prompt number {place}" for place in range(5)]
    place = compared.columns.index("second: tuned")
    assert [cells[place].score for _, cells in compared.rows if cells[place]] == [  # type: ignore[union-attr]
        pytest.approx(0.30 + number / 1000) for number in range(5)
    ]
    assert all(cell is not None and cell.picture.uri.startswith("data:image/") for _, cells in compared.rows for cell in cells)
    assert "0.31" in compared.scores
    with pytest.raises(ConfigError, match="There are 0 runs"):
        compare([])


def test_later_runs_stand_against_the_first_item_by_item(tmp_path: Path) -> None:
    raised = {"first": 0.0, "second": 0.02, "third": -0.02}
    runs = [make_evaluation(tmp_path / name, tmp_path, raised=more) for name, more in raised.items()]
    steps: list[tuple[int, int]] = []
    text, why = compare_items(runs, lambda done, total: steps.append((done, total)))
    assert why == ()
    assert "Of runs with one protocol and split, each stands against the first: first." in text
    headings = re.findall(r"^### (.+)$", text, re.MULTILINE)
    assert headings[:2] == ["second\\: tuned minus first\\: tuned", "third\\: tuned minus first\\: tuned"]
    assert len(headings) == 2 + 3 * 2  # and of each run its two models against its base
    rows = [
        [cell.strip() for cell in line.split("|")[1:-1]] for line in text.splitlines() if line.startswith("| `skyclip_score`")
    ]
    assert [(row[1], row[4]) for row in rows[:2]] == [
        ("+0.0200", "second\\: tuned"),
        ("\N{MINUS SIGN}0.0200", "first\\: tuned"),
    ]
    same = next(line for line in text.splitlines() if line.startswith("| `judge_accuracy`"))
    assert "| not told apart |" in same
    assert steps[-1][0] == steps[-1][1] > 2


def test_runs_without_items_are_not_compared_item_by_item(tmp_path: Path) -> None:
    run = make_evaluation(tmp_path / "only", tmp_path)
    (run / "items.jsonl").unlink()
    assert compare_items([run]) == ("", ())
    with pytest.raises(ConfigError, match="There are 5 runs; give 1 to 4"):
        compare_items([run] * 5)


def test_pictures_of_older_drawings_are_taken_away(studio: Studio, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("skygen.studio.studio.PICTURES_KEPT", 3)
    first, second, third, fourth = (finish(studio, count=2, steps=1).drawings[0].path for _ in range(4))
    assert [path.exists() for path in (first, second, third, fourth)] == [False, False, True, True]


def test_every_bound_is_checked_in_one_place() -> None:
    assert limits.check_text("prompt", " a\tharbour\ud800 ") == "a harbour"
    assert limits.check_lines("classes", "river\n\n river \nharbour", 5, 20) == ["river", "harbour"]
    with pytest.raises(ConfigError, match="These are 3 classes; write 2 at most"):
        limits.check_lines("classes", "a\nb\nc", 2, 20)
    with pytest.raises(ConfigError, match="One of the classes has 9 characters; write 5 at most"):
        limits.check_lines("classes", "ploughing", 2, 5)
    with pytest.raises(ConfigError, match=r"^The prompt is no text; write 1 to 300 characters\.$"):
        limits.check_text("prompt", 7)
    with pytest.raises(ConfigError, match=r"^The seed is 1\.5; choose a whole number, 0 to 9\.$"):
        limits.check_whole("seed", 1.5, 0, 9)
    with pytest.raises(ConfigError, match=r"^The seed is no number; choose 0 to 9\.$"):
        limits.check_whole("seed", "1", 0, 9)
    assert (limits.check_whole("seed", 4.0, 0, 9), limits.check_side("width", 0, 8, 64)) == (4, None)
    assert limits.check_side("width", 96, 8, 64) == 96
