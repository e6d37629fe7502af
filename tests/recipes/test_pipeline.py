"""The recipes in the order of the quick start, on tiny random models: what each leaves behind, and its exit code."""

import json
import shutil
import sys
from pathlib import Path
from typing import Any

import pyarrow.parquet as pq
import pytest
from recipes.processes import ROOT, run

from skygen.data.images import open_image
from skygen.miniature.architectures import build_judge
from skygen.miniature.world import CLASSES
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

TEST_CSV = "SkyScript_test_30K_filtered_by_CLIP_openai.csv"
TRAIN_CSV = "SkyScript_train_unfiltered_5M.csv"


def recipe(name: str, *words: str | Path, code: int = 0) -> str:
    """Run a recipe as a user would, and return what it said."""
    return run([sys.executable, str(ROOT / "recipes" / f"{name}.py"), *map(str, words)], code)


def read_json(path: Path) -> Any:
    return json.loads(path.read_text())


def read_lines(path: Path) -> list[Any]:
    return [json.loads(line) for line in path.read_text().splitlines()]


@pytest.fixture(scope="module")
def damaged(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The world with one training image and one test image cut short."""
    root = tmp_path_factory.mktemp("damaged") / "world"
    shutil.copytree(world, root)
    for name in (TRAIN_CSV, TEST_CSV):
        victim = root / (root / name).read_text().splitlines()[1].split(",")[0]
        victim.write_bytes(victim.read_bytes()[:400])
    return root


@pytest.mark.slow
def test_pairs_are_scored_and_a_bad_image_is_noted_not_lost(damaged: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    words = ["--run.name", "scores", "--run.root", tmp_path, "--pairs.root", damaged, "--pairs.csv", TRAIN_CSV,
             "--scorer.name", skyclip_folder, "--keep", "top_50_percent"]  # fmt: skip
    sentence = recipe("score_pairs", *words, code=65)
    assert "rejects.jsonl" in sentence and "max_bad_fraction" in sentence
    assert read_json(tmp_path / "scores" / "run_status.json")["state"] == "failed"
    recipe("score_pairs", *words, "--pairs.max_bad_fraction", "0.1")
    run = tmp_path / "scores"
    rejects, scores = read_lines(run / "rejects.jsonl"), pq.read_table(run / "scores.parquet").to_pylist()
    assert len(rejects) == 1 and len(scores) == 47
    assert rejects[0]["key"] not in {row["key"] for row in scores}
    kept = [row for row in scores if row["kept"]]
    assert len(kept) == len((run / "kept.csv").read_text().splitlines()) - 1 == 24
    assert min(row["similarity"] for row in kept) >= max(row["similarity"] for row in scores if not row["kept"])
    assert read_json(run / "run_status.json")["state"] == "finished"


@pytest.mark.slow
def test_images_are_drawn_captioned_and_scored(
    world: Path, damaged: Path, stable_diffusion_folder: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    scorer = ["--scorer.name", skyclip_folder]
    test_pairs = ["--pairs.root", damaged, "--pairs.csv", TEST_CSV, "--pairs.split", "test"]
    generate = ["--run.name", "drawn", "--run.root", tmp_path, "--prompts.file", world / TEST_CSV, *scorer, "--model.name",
                stable_diffusion_folder, "--generation.num_inference_steps", "2"]  # fmt: skip
    recipe("generate", *generate)
    samples = tmp_path / "drawn" / "samples"
    before = {path.name: path.read_bytes() for path in sorted((samples / "images").iterdir())}
    assert len(before) == 6 == len(read_lines(samples / "metadata.jsonl"))
    (samples / "images" / "000004.png").unlink()
    recipe("generate", *generate)  # the same command again draws what is missing
    after = {path.name: path.read_bytes() for path in sorted((samples / "images").iterdir())}
    assert after.keys() == before.keys()
    assert all(after[name] == before[name] for name in before if name != "000004.png")

    recipe("caption", "--run.name", "captioned", "--run.root", tmp_path, "--images", samples / "images", "--model.name",
           captioner_folder, "--captioning.num_beams", "1", "--captioning.max_new_tokens", "4")  # fmt: skip
    lines = read_lines(tmp_path / "captioned" / "captions.jsonl")
    assert [Path(line["file_name"]).name for line in lines] == list(before)

    words = ["--run.name", "images", "--run.root", tmp_path, "--samples.root", samples, *test_pairs, *scorer]
    assert "1 of 6 rows or images cannot be used" in recipe("evaluate_images", *words, code=65)
    recipe("evaluate_images", *words, "--pairs.max_bad_fraction", "0.2")
    assert len(read_lines(tmp_path / "images" / "rejects.jsonl")) == 1
    scores = read_json(tmp_path / "images" / "metrics.json")["scores"]
    found = {(score["name"], score["model"]) for score in scores}
    nearness = {("skyclip_score", "base"), ("skyclip_score", "shuffled"), ("skyclip_score", "real")}
    assert found >= {("kid", "base"), ("cmmd", "base"), ("vendi_score", "base"), *nearness}
    assert not {"fid", "precision"} & {name for name, _ in found}  # five images are too few for these
    assert ("vendi_score", "real") not in found  # of fewer real images than pictures no variety
    pictures = read_lines(tmp_path / "images" / "pictures.jsonl")
    assert len(pictures) == 6
    assert all(open_image(picture["images"]["base"]).size == (64, 64) for picture in pictures)
    assert [picture["images"]["real"] is None for picture in pictures] == [True] + [False] * 5


@pytest.mark.slow
def test_a_judge_is_trained_and_judges_generated_and_real_images(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    benchmark, table = world / "benchmark", "SkyScript_cls/img_txt_pairs_val.csv"
    build_judge(tmp_path / "start", CLASSES, Seeds(7))
    labelled = ["--run.root", tmp_path, "--pairs.root", benchmark, "--pairs.csv", table]
    train = ["--run.name", "judge", *labelled, "--train.max_train_steps", "3", "--train.ema_decay", "0.9",
             "--benchmark.root", benchmark, "--model.name", tmp_path / "start"]  # fmt: skip
    build_judge(tmp_path / "narrow", CLASSES[:5], Seeds(7))
    sentence = recipe("train_judge", *train, "--model.name", tmp_path / "narrow", code=2)
    assert "lacks; its classes are" in sentence and "--pairs.classes" in sentence
    recipe("train_judge", *train)
    (score,) = read_json(tmp_path / "judge" / "metrics.json")["scores"]
    assert (score["name"], score["model"], score["subset"], score["count"]) == ("judge_accuracy", "real", "SkyScript_cls", 26)
    weights = tmp_path / "judge" / "model" / "model.safetensors"
    before = weights.read_bytes()
    weights.unlink()
    recipe("train_judge", *train)  # nothing is left to train, and the same judge comes out
    assert weights.read_bytes() == before

    samples = tmp_path / "samples"
    (samples / "images").mkdir(parents=True)
    for index, path in enumerate(sorted((benchmark / "SkyScript_cls" / "val").glob("*.jpg"))[:4]):
        shutil.copy(path, samples / "images" / f"{index}.jpg")
        name = "lake" if index else "no such class"
        line = {"file_name": f"images/{index}.jpg", "text": f"a {name}", "seed": 1, "index": index, "key": "", "model": "tuned"}
        with (samples / "metadata.jsonl").open("a") as file:
            file.write(json.dumps(line | ({"class": name} if index < 3 else {})) + "\n")
    words = ["--run.name", "images", *labelled, "--samples.root", samples, "--scorer.name", skyclip_folder]
    said = recipe("evaluate_images", *words, "--judge.name", tmp_path / "judge" / "model")
    assert "2 of 4 tuned pictures are left out" in said
    scores = [score for score in read_json(tmp_path / "images" / "metrics.json")["scores"] if score["name"] == "judge_accuracy"]
    assert [(score["model"], score["count"]) for score in scores] == [("tuned", 2), ("real", 26)]
    pictures = read_lines(tmp_path / "images" / "pictures.jsonl")
    assert len(pictures) == 4
    seen = [picture["judged"]["tuned"] for picture in pictures]
    assert set(seen) <= set(CLASSES)
    assert scores[0]["value"] == sum(name == "lake" for name in seen[1:3]) / 2


@pytest.mark.slow
def test_captions_are_scored_beside_their_baselines(
    world: Path, captioner_folder: Path, skyclip_folder: Path, tmp_path: Path
) -> None:
    recipe("evaluate_captions", "--run.name", "captions", "--run.root", tmp_path, "--pairs.root", world, "--pairs.csv",
           TEST_CSV, "--pairs.split", "test", "--baseline.csv", TRAIN_CSV, "--model.name", captioner_folder,
           "--scorer.name", skyclip_folder, "--captioning.max_new_tokens", "4")  # fmt: skip
    scores = read_json(tmp_path / "captions" / "metrics.json")["scores"]
    writers = {score["model"] for score in scores if score["name"] == "cider_d"}
    assert writers == {"base", "constant", "class_mode", "shuffled"}
    assert {score["name"] for score in scores} >= {"bleu_4", "rouge_l", "cider_d", "clip_score", "ref_clip_score"}
    by_tag = {"count_accuracy", "colour_accuracy"}  # of the images whose caption has such a tag
    assert all(score["count"] == 6 for score in scores if score["name"] not in by_tag)
    of_all_captions = {"unique_share", "vocabulary_size"}  # no mean of items: drawn again, captions would repeat
    assert {score["name"] for score in scores if score["interval"] is None} - by_tag == of_all_captions
    rows = read_lines(tmp_path / "captions" / "captions.jsonl")
    assert len(rows) == 6
    assert all(set(row["captions"]) == writers for row in rows)
    assert not any(reference.startswith("a satellite image") for row in rows for reference in row["references"])


@pytest.mark.slow
def test_a_scorer_is_trained_validated_and_loads_again(world: Path, tmp_path: Path) -> None:
    recipe("pretrain_skyclip", "--run.name", "clip", "--run.root", tmp_path, "--pairs.root", world, "--pairs.split", "train",
           "--model.name", "miniature", "--train.max_train_steps", "4", "--train.train_batch_size", "8",
           "--images.random_resized_crop", "True", "--validation.root", world / "benchmark",
           "--validation.validation_steps", "2")  # fmt: skip
    run = tmp_path / "clip"
    lines = read_lines(run / "validation.jsonl")
    assert [line["step"] for line in lines] == [2, 4]
    reached = {
        score["name"]: score["value"] for score in read_json(run / "metrics.json")["scores"] if score["model"] == "scorer"
    }
    assert lines[-1]["SkyScript_cls zero_shot_top_1"] == reached["zero_shot_top_1"] > 0.5
    before, after = Scorer.load("miniature"), Scorer.load(str(run / "model"))
    assert after.config == before.config
    assert not (after.embed_texts(["a lake"]) == before.embed_texts(["a lake"])).all()
