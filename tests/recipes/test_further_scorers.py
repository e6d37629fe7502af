"""``--scorer.also``: each recipe that reports a CLIP's score reports that of every CLIP that is named."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from recipe_modules import load_recipe, run_recipe

from skygen.config import parse
from skygen.data.images import open_readable
from skygen.evaluation.items import ItemScores
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

ROOT = Path(__file__).resolve().parents[2]
TEST_CSV = "SkyScript_test_30K_filtered_by_CLIP_openai.csv"


def read_scores(run: Path, metric: str) -> dict[tuple[str, str], float]:
    scores = json.loads((run / "metrics.json").read_text())["scores"]
    return {(score["model"], score["extractor"]): score["value"] for score in scores if score["name"] == metric}


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_pictures_are_scored_by_every_scorer_and_chosen_by_the_first(
    world: Path, stable_diffusion_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    judges: list[str | Path] = ["--scorer.name", "miniature", "--scorer.also", skyclip_folder]
    first, further = "skyclip:miniature", f"skyclip:{skyclip_folder}"
    drawing: list[str | Path] = ["--run.root", tmp_path, "--prompts.file", world / TEST_CSV, "--model.name",
                                 stable_diffusion_folder, "--generation.num_inference_steps", "1", "--generation.count", "4",
                                 "--selection.candidates", "2"]  # fmt: skip
    run_recipe("generate", "--run.name", "drawn", *drawing, *judges)
    run_recipe("generate", "--run.name", "alone", *drawing, "--scorer.name", "miniature")
    samples = tmp_path / "drawn" / "samples"
    records = read_lines(samples / "metadata.jsonl")
    assert len(records) == 4
    assert [record["seed"] for record in records] == [
        record["seed"] for record in read_lines(tmp_path / "alone" / "samples" / "metadata.jsonl")
    ]
    assert not read_scores(tmp_path / "alone", "skyclip_score")  # the gain of the choice alone
    assert read_scores(tmp_path / "alone", "skyclip_selection_gain").keys() == {("base", first)}
    scores = read_scores(tmp_path / "drawn", "skyclip_score")
    assert scores.keys() == {(model, judge) for model in ("base", "shuffled") for judge in (first, further)}
    mean = sum(record["skyclip_score"] for record in records) / 4
    assert scores["base", first] == pytest.approx(mean, abs=1e-4)  # of a PNG, which rounds nothing
    pictures, prompts = [samples / record["file_name"] for record in records], [record["text"] for record in records]
    expected = Scorer.load(str(skyclip_folder)).similarity(pictures, prompts).mean()
    assert scores["base", further] == pytest.approx(float(expected), abs=1e-5)

    test_pairs: list[str | Path] = ["--pairs.root", world, "--pairs.csv", TEST_CSV, "--pairs.split", "test"]
    run_recipe(
        "evaluate_images", "--run.name", "images", "--run.root", tmp_path, "--samples.root", samples, *test_pairs, *judges
    )
    scores = read_scores(tmp_path / "images", "skyclip_score")
    chosen = "base, best of 2"
    assert scores.keys() == {(model, judge) for model in (chosen, "shuffled", "real") for judge in (first, further)}
    assert scores[chosen, further] == pytest.approx(float(expected), abs=1e-5)
    assert scores[chosen, first] == pytest.approx(mean, abs=1e-4)
    assert {judge for _, judge in read_scores(tmp_path / "images", "kid")} == {first}
    for row, record in zip(read_lines(tmp_path / "images" / "pictures.jsonl"), records, strict=True):
        assert row["skyclip_score"][chosen] == pytest.approx(record["skyclip_score"], abs=1e-4)


def test_captions_are_scored_by_every_scorer(
    world: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level("INFO"):
        run_recipe("evaluate_captions", "--run.name", "captions", "--run.root", tmp_path, "--pairs.root", world, "--pairs.csv",
                   TEST_CSV, "--pairs.split", "test", "--baseline.csv", "SkyScript_train_unfiltered_5M.csv", "--model.name",
                   captioner_folder, "--captioning.max_new_tokens", "4", "--scorer.also", skyclip_folder,
                   "--coco_tools", "False")  # fmt: skip
    run, first, further = tmp_path / "captions", "skyclip:miniature", f"skyclip:{skyclip_folder}"
    writers = ("base", "constant", "class_mode", "shuffled")
    items = ItemScores.read(run / "items.jsonl")
    assert items.writers() == ["base", "shuffled", "constant", "class_mode"]
    for metric in ("clip_score", "ref_clip_score"):
        scores = read_scores(run, metric)
        assert scores.keys() == {(writer, judge) for writer in writers for judge in (first, further)}
        assert scores["constant", first] != scores["constant", further]
        for (writer, judge), value in scores.items():
            assert items.values(writer, f"{metric}@{judge}").mean() == pytest.approx(value)
    scores = read_scores(run, "cider_d")
    assert scores.keys() == {(writer, "") for writer in writers}
    for writer in writers:
        assert items.values(writer, "cider_d").mean() == pytest.approx(scores[writer, ""])
    assert len(items.keys) == 6
    split = json.loads((run / "metrics.json").read_text())["split"]
    assert (split["name"], split["images"], split["official"]) == ("test", 6, None)
    said = [record.message for record in caplog.records if record.name == "skygen.evaluation.panel"]
    assert len(said) == 2
    assert said[0].startswith(f"{first}: ")
    assert said[1] == f"{further}: of unknown training data"
    assert (
        f"split test: 6 images, not an official split that is known here; fingerprint {split['fingerprint']}" in caplog.messages
    )


def test_a_batch_of_images_is_in_memory_at_a_time_and_an_unreadable_one_is_noted_once(
    captioner_folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Seven images in batches of two, with five captions each, some of them repeated; one image is cut short."""
    root, generator = tmp_path / "own", Seeds(4).numpy("own pictures")
    root.mkdir()
    images = []
    for row in range(7):
        pixels = generator.integers(256, size=(32, 32, 3), dtype=np.uint8)
        Image.fromarray(pixels).save(root / f"pond_{row}.png")
        texts = ["a pond", "a pond", f"pond {row}", "green water", "a pond"]
        split = "test" if row < 6 else "train"
        images.append({"filename": f"pond_{row}.png", "split": split, "sentences": [{"raw": text} for text in texts]})
    (root / "dataset_own.json").write_text(json.dumps({"images": images, "dataset": "own"}))
    victim = root / "pond_3.png"
    victim.write_bytes(victim.read_bytes()[:300])
    module = load_recipe("evaluate_captions")
    opened: list[int] = []

    def watch(places: Any, rejects: Any) -> Any:
        read = open_readable(places, rejects)
        opened.append(len(places))
        return read

    monkeypatch.setattr(module, "open_readable", watch)
    words = ["--run.root", tmp_path, "--pairs.root", root, "--pairs.split", "test", "--pairs.max_bad_fraction", "0.2",
             "--model.name", captioner_folder, "--captioning.max_new_tokens", "4", "--captioning.batch_size", "2",
             "--coco_tools", "False"]  # fmt: skip
    for name in ("first", "again"):
        module.main(parse(module.Config, ["--run.name", name, *map(str, words)]))
    assert opened == [2, 2, 2] * 2
    run = tmp_path / "first"
    assert [line["key"] for line in read_lines(run / "rejects.jsonl")] == ["pond_3.png"]
    rows = read_lines(run / "captions.jsonl")
    assert [row["key"] for row in rows] == [f"pond_{row}.png" for row in (0, 1, 2, 4, 5)]
    assert rows[0]["references"] == ["a pond", "a pond", "pond 0", "green water", "a pond"]
    scores = json.loads((run / "metrics.json").read_text())["scores"]
    for metric in ("cider_d", "cider_d_distinct", "bleu_4_distinct", "ref_clip_score_distinct"):
        assert {score["model"] for score in scores if score["name"] == metric} == {
            "base", "constant", "class_mode", "shuffled", "human"
        }, metric  # fmt: skip
    assert {score["model"] for score in scores if score["name"] == "vocabulary_size"} >= {"base", "human"}
    assert {score["count"] for score in scores} == {5}
    for name in ("metrics.json", "items.jsonl", "captions.jsonl"):
        assert (run / name).read_bytes() == (tmp_path / "again" / name).read_bytes(), name
