"""Sampling in bulk: what is drawn does not depend on batches, processes or interruptions, and the best candidate is kept."""

from __future__ import annotations

import errno
import logging
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from skygen.data.image_metadata import ImageMetadata
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, StorageError
from skygen.generation import sampling
from skygen.generation.choice import Candidates, Models, Wanted, best_candidate
from skygen.generation.picture_list import Picture, find_pictures
from skygen.generation.prompts import Prompt
from skygen.generation.provenance import read_label, save_synthetic
from skygen.generation.records import merge_records
from skygen.generation.sampling import draw_samples, read_metadata, samples_to_draw, share_of
from skygen.generation.settings import GenerationSettings, SelectionSettings
from skygen.memory import Parts, is_out_of_memory
from skygen.models.diffusion import Diffusion
from skygen.models.judge import Judge
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

PROMPTS = [Prompt("a dam"), Prompt("two tanks", "images2/a1_CH_19.jpg", "storage tank"), Prompt("a lake")]
Loaded = tuple[Diffusion, Scorer]


@pytest.fixture(scope="module")
def models(stable_diffusion_folder: Path, skyclip_folder: Path) -> Loaded:
    return Diffusion.load(str(stable_diffusion_folder)), Scorer.load(str(skyclip_folder))


def draw(
    models: tuple[Diffusion, Scorer | None],
    folder: Path,
    indices: list[int],
    *,
    batch_size: int = 4,
    candidates: int = 1,
    together: int | None = None,
    **more: Any,
) -> list[int]:
    generation = GenerationSettings(num_inference_steps=1, together=together)
    wanted = Wanted(PROMPTS, Seeds(3), {"model": "base"})
    drawing = Candidates(Models(*models), wanted, generation, SelectionSettings(candidates))
    return [sample.index for sample in draw_samples(drawing, indices, folder, batch_size, **more)]


def contents(folder: Path) -> dict[str, bytes]:
    files = [path for path in folder.rglob("*") if path.is_file()]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in files}


def test_other_batches_processes_threads_and_interruptions_give_the_same_bytes(
    models: Loaded, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    whole, broken = tmp_path / "whole", tmp_path / "broken"
    assert draw(models, whole, samples_to_draw(whole, 5)) == [0, 1, 2, 3, 4]
    records = merge_records(whole, range(5))
    assert [record["index"] for record in records] == [0, 1, 2, 3, 4] and records == read_metadata(whole)
    draw(models, broken, [0, 2, 3], batch_size=1)
    shard = broken / ".records" / "process-00000.jsonl"
    with shard.open("a") as file:
        file.write('{"file_name": "images/0000')  # a line that a kill cut short
    cut, altered = broken / "images" / "000003.png", broken / "images" / "000002.png"
    cut.write_bytes(cut.read_bytes()[:100])
    altered.write_bytes(altered.read_bytes()[:-1] + b"?")
    with caplog.at_level(logging.WARNING):
        missing = samples_to_draw(broken, 5)
    whole_size = records[3]["size"]
    assert caplog.messages == [
        f"{broken}: 2 pictures are drawn again (images/000002.png has other bytes than were written; images/000003.png has 100 "
        f"bytes of {whole_size:,})"
    ]
    assert missing == [1, 2, 3, 4]
    threads = torch.get_num_threads()
    torch.set_num_threads(2)
    try:
        assert draw(models, broken, [1, 4], batch_size=3, rank=1, ahead=2) == [1, 4]
        assert draw(models, broken, [2, 3], ahead=2) == [2, 3]
        assert torch.get_num_threads() == 2
    finally:
        torch.set_num_threads(threads)
    (broken / "images" / ".000009.png.0123.part").write_bytes(b"half")
    assert merge_records(broken, range(5)) == records
    assert contents(broken) == contents(whole)
    assert len(contents(whole)) == 6
    assert samples_to_draw(broken, 6) == [5]


def test_processes_share_the_numbers_without_overlap(tmp_path: Path) -> None:
    shares = [samples_to_draw(tmp_path, 7, rank, 3) for rank in range(3)]
    assert sorted(index for share in shares for index in share) == list(range(7))
    assert shares[1] == [1, 4]
    assert [share_of(7, rank, 2, unit=2) for rank in range(2)] == [[0, 1, 4, 5], [2, 3, 6]]


def test_prompts_are_taken_in_turn_and_keep_what_is_known_of_them(models: Loaded, tmp_path: Path) -> None:
    draw(models, tmp_path, [0, 1, 4])
    records = merge_records(tmp_path, [0, 1, 4])
    assert [record["text"] for record in records] == ["a dam", "two tanks", "two tanks"]
    assert [record["key"] for record in records] == ["", "images2/a1_CH_19.jpg", "images2/a1_CH_19.jpg"]
    assert [record.get("class") or None for record in records] == [None, "storage tank", "storage tank"]
    assert [pair.class_name for pair in read_pairs(tmp_path)] == [None, "storage tank", "storage tank"]
    assert len({record["seed"] for record in records}) == 3
    assert all(record["synthetic"] and record["model"] == "base" for record in records)
    assert not any("metadata" in record for record in records)  # which this model is not told


def test_the_best_of_the_candidates_is_kept(models: Loaded, tmp_path: Path) -> None:
    draw(models, tmp_path, [0, 1], candidates=3)
    records = read_metadata(tmp_path)
    assert len(records) == 2
    for record in records:
        assert len(record["candidate_scores"]) == 3
        assert record["skyclip_score"] == max(record["candidate_scores"])
        score = models[1].similarity([tmp_path / record["file_name"]], [record["text"]])
        assert abs(float(score[0]) - record["skyclip_score"]) < 1e-5
    assert records[0]["seed"] in {Seeds(3).derive("image", 0, candidate) for candidate in range(3)}


def choose(models: Loaded, folder: Path, judge: Any = None, **asked: Any) -> list[dict[str, Any]]:
    """Draw two pictures of four candidates each, and return their records."""
    selection = SelectionSettings(4, **asked)
    wanted, generation = Wanted(PROMPTS[:2], Seeds(3), {}), GenerationSettings(num_inference_steps=4)
    candidates = Candidates(Models(*models, judge), wanted, generation, selection)
    return [sample.record for sample in draw_samples(candidates, range(2), folder, 4)]


def test_weak_candidates_are_given_up_and_the_others_are_as_they_would_have_been(models: Loaded, tmp_path: Path) -> None:
    rows: list[int] = []
    handle = models[0].network.register_forward_hook(lambda _network, _given, said: rows.append(len(said[0])))
    whole = choose(models, tmp_path / "whole")
    wholly, rows[:] = sum(rows), []
    raced = choose(models, tmp_path / "raced", finished=1)
    handle.remove()
    assert sum(rows) == wholly * 3 // 4  # half the steps of four, and all of one
    for all_of_them, one in zip(whole, raced, strict=True):
        assert [score is None for score in one["candidate_scores"]].count(False) == 1
        place = one["candidate"]
        assert one["skyclip_score"] == one["candidate_scores"][place]
        assert one["candidate_scores"][place] == pytest.approx(all_of_them["candidate_scores"][place], abs=1e-3)
        assert one["seed"] == Seeds(3).derive("image", one["index"], place)
    with pytest.raises(ConfigError, match=r"^selection\.finished is 5; it must be 0 to 4, the candidates\.$"):
        SelectionSettings(4, finished=5)


def test_a_judge_is_heard_and_has_no_say(models: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    judge = Judge.load("miniature")
    place, asked = judge.class_names.index("storage tank"), list[int]()

    def answer(images: list[Image.Image]) -> np.ndarray[Any, Any]:
        likely = np.zeros((len(images), len(judge.class_names)), np.float32)
        likely[:, place] = [number / 8 for number in range(len(images))]
        asked.append(len(images))
        return likely

    monkeypatch.setattr(judge, "probabilities", answer)
    plain, judged = choose(models, tmp_path / "plain"), choose(models, tmp_path / "judged", judge)
    assert [record["candidate"] for record in plain] == [record["candidate"] for record in judged]
    assert asked == [4, 4] and judged[0]["candidate_judgements"] == [None] * 4  # a prompt without a class
    assert judged[1]["candidate_judgements"] == [0, 1 / 8, 2 / 8, 3 / 8]
    assert "candidate_judgements" not in plain[1]


def test_pictures_begin_as_images_in_turn_and_say_so(models: Loaded, tmp_path: Path) -> None:
    folder = tmp_path / "begin"
    folder.mkdir()
    for name, colour in (("a.png", "green"), ("b.png", "blue")):
        Image.new("RGB", (40, 24), colour).save(folder / name)
    found = find_pictures(folder, Rejects(None))

    def begin(strength: float, beginnings: Sequence[Picture], target: Path) -> list[dict[str, Any]]:
        wanted = Wanted(PROMPTS, Seeds(3), {}, beginnings=beginnings)
        asked = GenerationSettings(num_inference_steps=4, strength=strength)
        drawing = Candidates(Models(models[0]), wanted, asked, SelectionSettings())
        return [sample.record for sample in draw_samples(drawing, range(3), target, 4)]

    records = begin(0.25, found, tmp_path / "set")
    assert [record["begins_as"] for record in records] == ["a.png", "b.png", "a.png"]
    assert len({record["begins_as_sha256"] for record in records}) == 2 and records[0]["strength"] == 0.25
    label = read_label(tmp_path / "set" / records[0]["file_name"])
    assert label is not None and label.source_type.endswith("/compositeWithTrainedAlgorithmicMedia")
    assert "begins_as" not in begin(0.25, (), tmp_path / "noise")[0]
    (folder / "b.png").write_bytes(b"no image")
    with pytest.raises(DataError, match=r"b\.png: .*; take it out of --generation\.images, or mend it\.$"):
        begin(0.25, found, tmp_path / "broken")


def test_what_a_wish_leaves_open_a_prompt_may_say(models: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    told: list[ImageMetadata] = []

    def sample(prompts: list[str], seeds: list[int], *, metadata: list[ImageMetadata], **settings: Any) -> list[Image.Image]:
        told.extend(metadata)
        return [Image.new("RGB", (8, 8))] * len(prompts)

    diffusion = models[0]
    monkeypatch.setattr(diffusion, "sample", sample)
    monkeypatch.setattr(diffusion, "metadata", object())
    prompts = [Prompt("a dam", metadata=ImageMetadata(gsd=0.5, source="CH")), Prompt("a lake")]
    wish = ImageMetadata(gsd=2.0, month=6)
    wanted = Wanted(prompts, Seeds(3), {}, wish)
    drawing = Candidates(Models(diffusion), wanted, GenerationSettings(together=2), SelectionSettings())
    list(draw_samples(drawing, range(2), tmp_path, 2))
    assert told == [ImageMetadata(gsd=2.0, source="CH", month=6), wish]
    assert [record["metadata"] for record in read_metadata(tmp_path)] == [metadata._asdict() for metadata in told]


def test_what_was_drawn_before_an_interruption_is_kept(models: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    diffusion, drawn = models[0], 0
    sample = diffusion.sample

    def interrupted(*arguments: Any, **settings: Any) -> list[Image.Image]:
        nonlocal drawn
        if drawn == 3:
            raise KeyboardInterrupt
        drawn += 1
        return sample(*arguments, **settings)

    monkeypatch.setattr(diffusion, "sample", interrupted)
    with pytest.raises(KeyboardInterrupt):
        draw((diffusion, None), tmp_path, list(range(6)), batch_size=1, together=1, ahead=5)
    assert samples_to_draw(tmp_path, 6) == [3, 4, 5]


def test_a_full_disk_loses_no_picture_that_was_written(models: Loaded, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    save = save_synthetic

    def full(image: Image.Image, path: Path, record: dict[str, Any]) -> None:
        if record["index"] == 1:
            raise StorageError(f"{path}: cannot be written") from OSError(errno.ENOSPC, "full")
        save(image, path, record)

    monkeypatch.setattr(sampling, "save_synthetic", full)
    with pytest.raises(StorageError, match=r"000001\.png: cannot be written"):
        draw((models[0], None), tmp_path, [0, 1, 2, 3], batch_size=3, together=1)
    assert [record["index"] for record in read_metadata(tmp_path)] == [0, 2]


def test_of_equal_candidates_the_first_wins() -> None:
    assert best_candidate([0.1, 0.3, 0.3]) == 1


def test_no_metadata_is_no_records(tmp_path: Path) -> None:
    assert read_metadata(tmp_path) == []


def test_where_memory_does_not_suffice_parts_are_halved_and_nothing_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    tried: list[int] = []

    def work(jobs: Sequence[int]) -> list[int]:
        tried.append(len(jobs))
        if len(jobs) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2 GiB")
        return [job * 10 for job in jobs]

    parts = Parts(8)
    assert parts.work(work, list(range(9))) == [job * 10 for job in range(9)]
    assert tried == [8, 4, 2, 2, 2, 2, 1]
    assert parts.work(work, [1, 2, 3]) == [10, 20, 30] and tried[7:] == [2, 1]
    assert caplog.messages == [
        "out of memory with 8 pictures at a time; going on with 4",
        "out of memory with 4 pictures at a time; going on with 2",
    ]


def test_no_memory_for_one_picture_is_explained_and_other_errors_pass() -> None:
    def fail(jobs: Sequence[int]) -> list[int]:
        raise RuntimeError("[enforce fail at alloc_cpu.cpp] DefaultCPUAllocator: can't allocate memory")

    with pytest.raises(ConfigError) as raised:
        Parts(2).work(fail, [1, 2])
    assert str(raised.value) == (
        "out of memory with one picture at a time: take a smaller --generation.resolution or model, or a device with more "
        "memory."
    )

    def wrong(jobs: Sequence[int]) -> list[int]:
        raise RuntimeError("mat1 and mat2 shapes cannot be multiplied")

    with pytest.raises(RuntimeError, match="shapes"):
        Parts(2).work(wrong, [1])
    assert is_out_of_memory(MemoryError()) and not is_out_of_memory(ValueError("memory"))
