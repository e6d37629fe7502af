"""Captions in bulk: the same whoever writes them and however often it is broken off, of every image exactly once."""

from __future__ import annotations

import io
import json
import shutil
import tarfile
import threading
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
import torch

from skygen.data.captions import strip_view_prefix
from skygen.data.images import open_image
from skygen.data.pair import Pair
from skygen.data.pairs import read_pairs
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.generation.caption_lists import CaptionLists, Counts, Keep, KeepRule
from skygen.generation.caption_writing import AHEAD, CaptionWriter, Written, identify_models, read_ahead, score_captions
from skygen.generation.picture_list import find_pictures
from skygen.models.captioner import Captioner, CaptioningSettings
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

DRAWN = CaptioningSettings(num_beams=1, do_sample=True, top_p=1.0, candidates=2, max_new_tokens=4, batch_size=3)


@pytest.fixture(scope="module")
def captioner(captioner_folder: Path) -> Captioner:
    return Captioner.load(str(captioner_folder))


@pytest.fixture(scope="module")
def scorer(skyclip_folder: Path) -> Scorer:
    return Scorer.load(str(skyclip_folder))


@pytest.fixture(scope="module")
def pairs(world: Path) -> list[Pair]:
    return read_pairs(world, split="train")[:18]


@pytest.fixture
def make_writer(captioner: Captioner, scorer: Scorer, pairs: list[Pair], tmp_path: Path) -> Callable[..., CaptionWriter]:
    def make(name: str, **changes: Any) -> CaptionWriter:
        usual = {"captioner": captioner, "settings": DRAWN, "subjects": pairs, "folder": tmp_path / name, "seeds": Seeds(3)}
        return CaptionWriter(**(usual | {"rejects": Rejects(None), "scorer": scorer, "rows": 7} | changes))

    return make


def ignore(done: int, total: int) -> None:
    pass


def contents(writer: CaptionWriter) -> list[bytes]:
    return [writer.path(number).read_bytes() for number in writer.shards()]


def test_one_or_three_processes_broken_off_or_not_write_the_same_bytes(make_writer: Callable[..., CaptionWriter]) -> None:
    unbroken, shared, broken = (make_writer(name) for name in ("unbroken", "shared", "broken"))
    told: list[tuple[int, int]] = []
    unbroken.write(0, 1, lambda done, total: told.append((done, total)))
    assert told == [(done, 18) for done in (0, 3, 6, 7, 10, 13, 14, 17, 18)]
    torch.rand(5)  # what else draws from torch's generator must not matter
    for rank in (2, 0, 1):
        shared.write(rank, 3, ignore)

    def stop(done: int, total: int) -> None:
        if done == 13:
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        broken.write(0, 1, stop)
    assert [path.name for path in broken.folder.iterdir()] == ["shard-000000.jsonl"]
    before = broken.path(0).stat().st_mtime_ns
    told.clear()
    broken.write(0, 1, lambda done, total: told.append((done, total)))
    assert told[0] == (7, 18) and told[-1] == (18, 18)
    assert broken.path(0).stat().st_mtime_ns == before
    assert len(contents(unbroken)) == 3
    assert contents(shared) == contents(unbroken) == contents(broken)
    texts = [each.candidates for each in unbroken.read()]
    assert len(texts) == 18 and len({text for some in texts for text in some}) > 18
    others = make_writer("others", seeds=Seeds(4))
    others.write(0, 1, ignore)
    assert contents(others) != contents(unbroken)


def test_waiting_ends_with_the_last_shard_of_another_process(make_writer: Callable[..., CaptionWriter]) -> None:
    writer = make_writer("a", settings=CaptioningSettings(num_beams=1, max_new_tokens=2), scorer=None)
    writer.write(0, 2, ignore)
    waiting = threading.Thread(target=writer.wait, daemon=True)
    waiting.start()
    waiting.join(0.5)
    assert waiting.is_alive()
    writer.write(1, 2, ignore)
    waiting.join(20)
    assert not waiting.is_alive()


def test_captions_are_those_of_the_captioner_and_the_nearest_is_taken(
    make_writer: Callable[..., CaptionWriter], captioner: Captioner, scorer: Scorer, pairs: list[Pair]
) -> None:
    settings = CaptioningSettings(num_beams=3, candidates=3, max_new_tokens=4, batch_size=7)
    writer = make_writer("a", settings=settings)
    writer.write(0, 1, ignore)
    written = list(writer.read())
    images = [open_image(pair.image) for pair in pairs]
    expected = [each for start in (0, 7, 14) for each in captioner.propose(images[start : min(start + 7, 18)], settings)]
    assert [list(each.candidates) for each in written] == expected
    chosen = set()
    for each, image, pair in zip(written, images, pairs, strict=True):
        scores = scorer.similarity([image] * 3, [strip_view_prefix(text) for text in each.candidates])
        assert each.scores == pytest.approx(scores, abs=2e-6)
        assert each.best == int(np.argmax(each.scores))
        old = scorer.similarity([image] * len(pair.captions), [strip_view_prefix(text) for text in pair.captions])
        assert each.old_scores == pytest.approx(old, abs=2e-6)
        chosen.add(each.best)
    assert chosen != {0}  # else no test that the scorer decides


def test_ties_go_to_the_first_and_a_blank_caption_is_the_last_resort() -> None:
    assert Written(0, ("a", "b", "c"), (0.1, 0.3, 0.3)).text == "b"
    assert Written(0, ("a", "b")).text == "a"
    assert Written(0, ("", "b", "c"), (0.9, 0.1, 0.1)).text == "b"
    assert Written(0, ("", "b")).text == "b"
    assert Written(0, ("", "")).best == 0


def test_sets_of_captions_may_be_empty(scorer: Scorer, pairs: list[Pair]) -> None:
    pixels = torch.stack([scorer.preprocess(open_image(pair.image)) for pair in pairs[:2]])
    new, old = score_captions(scorer, pixels, [("a lake",), ("a dam", "a lake")], [(), ()])
    assert [len(each) for each in new] == [1, 2] and old == [(), ()]
    assert score_captions(scorer, pixels, [(), ()]) == ([(), ()],)


def test_unreadable_images_are_noted_and_too_many_stop_before_the_shard(
    make_writer: Callable[..., CaptionWriter], pairs: list[Pair], tmp_path: Path
) -> None:
    folder = tmp_path / "images"
    for place, pair in enumerate(pairs[:6]):
        (folder / str(place)).mkdir(parents=True)
        shutil.copy(pair.image, folder / str(place) / "same name.jpg")
    for place in (1, 4):
        (folder / str(place) / "same name.jpg").write_bytes(b"no image")
    subjects = find_pictures(folder, Rejects(None))
    strict = make_writer("strict", subjects=subjects, max_bad_fraction=0.2)
    sentence = (
        r"2 of 6 rows or images cannot be used \(33.3%\), more than the 20.0% allowed; the first: not an image in a format"
    )
    with pytest.raises(DataError, match=sentence):
        strict.write(0, 1, ignore)
    assert not strict.path(0).exists()
    writer = make_writer("a", subjects=subjects, max_bad_fraction=0.4)
    writer.write(0, 1, ignore)
    again = make_writer("a", subjects=subjects, max_bad_fraction=0.4, rejects=Rejects(tmp_path / "rejects.jsonl"))
    again.check()  # of a start that found all shards finished
    noted = [json.loads(line)["key"] for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    assert noted == ["1/same name.jpg", "4/same name.jpg"]
    counts = CaptionLists(tmp_path, KeepRule()).write_images(subjects, again.read())
    assert counts == Counts(captioned=4, unreadable=2)
    lines = [json.loads(line) for line in (tmp_path / "captions.jsonl").read_text().splitlines()]
    assert [line["file_name"] for line in lines] == [str(folder / place / "same name.jpg") for place in "0235"]
    with pytest.raises(DataError, match=r"2 of 6 rows or images cannot be used"):
        make_writer("a", subjects=subjects, max_bad_fraction=0.2).check()


@pytest.mark.parametrize("damage", ["cut", "garbled", "another"])
def test_a_damaged_shard_is_named(damage: str, make_writer: Callable[..., CaptionWriter]) -> None:
    writer = make_writer("a", settings=CaptioningSettings(num_beams=1, max_new_tokens=2), scorer=None)
    writer.write(0, 1, ignore)
    text = writer.path(1).read_text()
    other = {"cut": "".join(text.splitlines(keepends=True)[:-1]), "garbled": text[:-9], "another": writer.path(0).read_text()}
    writer.path(1).write_text(other[damage])
    with pytest.raises(DataError) as raised:
        list(writer.read())
    sentence = "damaged, its images are not all there; remove it, and the same command writes it anew"
    assert str(raised.value) == f"{writer.path(1)}: {sentence}"
    writer.path(1).unlink()
    writer.write(0, 1, ignore)
    assert len(list(writer.read())) == 18


def test_reading_ahead_keeps_the_order_is_bounded_and_hands_errors_on() -> None:
    begun: list[int] = []
    ahead = read_ahead(lambda job: begun.append(job) or job * 10, range(20))
    assert [next(ahead) for _ in range(5)] == [0, 10, 20, 30, 40]
    ahead.close()
    assert begun == list(range(len(begun))) and 5 <= len(begun) <= 5 + AHEAD
    assert list(read_ahead(str, [])) == []
    with pytest.raises(ZeroDivisionError):
        list(read_ahead(lambda job: 1 // job, [2, 1, 0, 1, 1, 1]))


def test_other_weights_have_another_name(captioner: Captioner, scorer: Scorer, tmp_path: Path) -> None:
    names = []
    for content in (b"one", b"two"):
        (tmp_path / "adapter_model.safetensors").write_bytes(content)
        names.append(identify_models(captioner, tmp_path, scorer))
    assert names[0]["adapter"] != names[1]["adapter"]
    assert names[0]["captioner"] == names[1]["captioner"] != names[0]["scorer"]
    assert identify_models(captioner, None, None) == {"captioner": names[0]["captioner"], "adapter": None, "scorer": None}


OLD, NEW = ("near", "far"), ("new",)
CASES: list[tuple[Keep, float | None, float, list[tuple[str, bool]]]] = [
    ("new", None, 0.1, [("new", True)]),
    ("better", None, 0.4, [("new", True)]),
    ("better", None, 0.2, [("near", False)]),
    ("better", None, 0.3, [("near", False)]),
    ("better", 0.3, 0.2, [("near", False)]),
    ("better", 0.35, 0.2, []),
    ("both", None, 0.2, [("near", False), ("far", False), ("new", True)]),
    ("both", 0.2, 0.2, [("near", False), ("new", True)]),
    ("both", 0.5, 0.2, []),
]


@pytest.mark.parametrize(("keep", "least", "score", "expected"), CASES)
def test_which_captions_are_kept(keep: Keep, least: float | None, score: float, expected: list[tuple[str, bool]]) -> None:
    kept = KeepRule(keep, least, has_scorer=True).choose(OLD, Written(0, NEW, (score,), (0.3, -0.1)))
    assert [(each.text, each.is_new) for each in kept] == expected
    assert all(each.similarity == (score if each.is_new else {"near": 0.3, "far": -0.1}[each.text]) for each in kept)


def test_a_blank_or_repeated_caption_makes_no_row() -> None:
    assert KeepRule("new").choose(("old",), Written(0, ("",))) == []
    both = KeepRule("both", has_scorer=True)
    assert [each.text for each in both.choose(("old",), Written(0, ("",), (0.9,), (0.1,)))] == ["old"]
    assert [each.is_new for each in both.choose(("same",), Written(0, ("same",), (0.1,), (0.1,)))] == [False]
    better = KeepRule("better", has_scorer=True)
    assert [each.text for each in better.choose(("old",), Written(0, ("",), (0.9,), (0.1,)))] == ["old"]


def test_a_rule_without_its_scorer_is_refused() -> None:
    name_one = "similarities to the image, which a CLIP computes: name one with --scorer.name"
    with pytest.raises(ConfigError, match=f"^--keep better compares {name_one}$"):
        KeepRule("better")
    with pytest.raises(ConfigError, match=f"^--min_similarity asks for {name_one}$"):
        KeepRule("both", 0.2)
    with pytest.raises(ConfigError, match=r"^--min_similarity leaves out captions of --keep better or both; --keep new takes"):
        KeepRule("new", 0.2, has_scorer=True)


def test_images_are_found_in_folders_archives_and_parquet(pairs: list[Pair], tmp_path: Path) -> None:
    root = tmp_path / "images"
    data = pairs[0].image.read_bytes()
    for name in ("b/2.JPG", "b/10.jpg", "a.png", "b/caption.txt", ".hidden.jpg", ".skygen/x.jpg", "z/1.jpg"):
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).write_bytes(data)
    with zipfile.ZipFile(root / "z.zip", "w") as archive:  # beside what was partly unpacked from it
        for name in ("1.jpg", "2.jpg", "sub/3.jpg", "notes.txt", "__MACOSX/1.jpg"):
            archive.writestr(name, data)
    with tarfile.open(root / "shard.tar", "w") as shard:
        for name in ("0001.jpg", "0001.txt", "0002.img_content"):
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            shard.addfile(entry, io.BytesIO(data))
    pq.write_table(pa.table({"image": [{"bytes": data, "path": "x"}] * 2}), root / "rows.parquet")
    pq.write_table(pa.table({"filepath": ["a.png"]}), root / "list.parquet")
    rejects = Rejects(None)
    found = find_pictures(root, rejects)
    expected = [
        "a.png", "rows.parquet/0", "rows.parquet/1", "shard.tar/0001.jpg", "shard.tar/0002.img_content", "z.zip/2.jpg",
        "z.zip/sub/3.jpg", "b/10.jpg", "b/2.JPG", "z/1.jpg",
    ]  # fmt: skip
    assert [picture.key for picture in found] == expected and rejects.count == 0
    assert [open_image(picture.image) for picture in found] == [open_image(data)] * 10
    assert [picture.key for picture in find_pictures(root / "shard.tar", rejects)] == ["0001.jpg", "0002.img_content"]
    assert [picture.key for picture in find_pictures(root / "z.zip", rejects)] == ["1.jpg", "2.jpg", "sub/3.jpg"]
    (within,) = find_pictures(root / "z.zip" / "sub", rejects)
    assert within.image == root / "z.zip" / "sub" / "3.jpg" and open_image(within.image)
    assert [picture.key for picture in find_pictures(root / "rows.parquet", rejects)] == ["0", "1"]
    (alone,) = find_pictures(root / "a.png", rejects)
    assert (alone.key, alone.image, alone.captions) == ("a.png", root / "a.png", ())
    assert [picture.key for picture in found[1:3]] == expected[1:3]
    before = found.fingerprint()
    assert find_pictures(root, rejects).fingerprint() == before
    assert find_pictures(shutil.move(root, tmp_path / "moved"), rejects).fingerprint() == before
    (tmp_path / "moved" / "a.png").write_bytes(data + b"more")
    assert find_pictures(tmp_path / "moved", rejects).fingerprint() != before


def test_a_place_without_images_is_named_and_a_damaged_archive_keeps_the_others(pairs: list[Pair], tmp_path: Path) -> None:
    how = "give an image file, or a folder or archive with JPEG, PNG or TIFF files."
    with pytest.raises(UnavailableError) as raised:
        find_pictures(tmp_path, Rejects(None))
    assert str(raised.value) == f"{tmp_path}: there is no image; {how}"
    with pytest.raises(UnavailableError, match="there is no image; give an image file"):
        find_pictures(tmp_path / "nowhere", Rejects(None))
    (tmp_path / "bad.zip").write_bytes(b"PK no archive")
    with pytest.raises(
        UnavailableError, match=r"there is no image \(damaged: the rest of the archive cannot be read: .+\); give"
    ):
        find_pictures(tmp_path / "bad.zip", Rejects(None))
    shutil.copy(pairs[0].image, tmp_path / "good.jpg")
    rejects = Rejects(None)
    assert [picture.key for picture in find_pictures(tmp_path, rejects)] == ["good.jpg"]
    assert rejects.count == 1 and str(rejects.first_reason).startswith("damaged: the rest of the archive cannot be read: ")
