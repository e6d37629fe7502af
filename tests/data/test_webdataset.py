from __future__ import annotations

import io
import json
import tarfile
from datetime import datetime
from pathlib import Path

import pytest
from PIL import Image

from skygen.data.formats.webdataset import find_shards, read_shards
from skygen.data.images import open_image
from skygen.data.pair import Box, Pair
from skygen.data.rejects import Rejects, read_rejects


def picture(color: str = "red") -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), color).save(buffer, "PNG")
    return buffer.getvalue()


def write_tar(path: Path, *members: tuple[str, object]) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    with tarfile.open(path, "w") as archive:
        for name, content in members:
            data = content if isinstance(content, bytes) else json.dumps(content).encode()
            entry = tarfile.TarInfo(name)
            entry.size = len(data)
            archive.addfile(entry, io.BytesIO(data))
    return path


def read(root: Path, caption_column: str | None = None, ledger: Rejects | None = None) -> list[Pair | None]:
    return list(read_shards(find_shards(root), root, caption_column, ledger or Rejects(None)))


def test_image_text_and_json_of_a_sample(tmp_path: Path) -> None:
    about = {"caption": "unused", "class": "tennis_court", "latitude": 47.4, "longitude": 8.5, "key": "0001", "gsd": 0.5,
             "timestamp": "2020-02-03T04:05:06Z", "split": "validation"}  # fmt: skip
    write_tar(tmp_path / "00000.tar", ("0001.png", picture()), ("0001.txt", b"two\ncourts \n"), ("0001.json", about),
              ("0002.png", picture("blue")), ("0002.caption", b"a lake"))  # fmt: skip
    first, second = read(tmp_path)
    assert first == Pair(
        key="00000.tar/0001.png",
        image=tmp_path / "00000.tar" / "0001.png",
        captions=("two courts",),
        split="val",
        class_name="tennis court",
        year=2020,
        gsd=0.5,
        box=Box(8.5, 47.4, 8.5, 47.4),
        time=datetime(2020, 2, 3, 4, 5, 6),
    )
    assert second is not None and (second.key, second.captions, second.split) == ("00000.tar/0002.png", ("a lake",), None)
    assert open_image(second.image).getpixel((0, 0)) == (0, 0, 255)


def test_rs5m(tmp_path: Path) -> None:
    for split in ("train", "val"):
        write_tar(tmp_path / f"pub11-{split}-0000.tar", ("pub11_7.img_content", picture()), ("pub11_7.img_name", b"x.jpg"),
                  ("pub11_7.caption", b"an aerial view"))  # fmt: skip
    train, val = read(tmp_path)
    assert train is not None and val is not None
    assert (train.key, train.split, val.split) == ("pub11-train-0000.tar/pub11_7.img_content", "train", "val")
    assert train.captions == ("an aerial view",)
    assert open_image(train.image).size == (16, 16)


def test_rsteller_in_a_subfolder(tmp_path: Path) -> None:
    about = {"metadata": {"patch_id": 1, "image_name": "m_1"},
             "annotations": [{"task": 1, "text": "A farm."}, {"task": 2, "text": "A farm, a road."}, {"task": 3}]}  # fmt: skip
    write_tar(tmp_path / "train" / "Patches0000.tar", ("./1.jpg", picture()), ("./1.json", about))
    (pair,) = read(tmp_path)
    assert pair is not None
    assert (pair.key, pair.split) == ("train/Patches0000.tar/1.jpg", "train")
    assert pair.captions == ("A farm.", "A farm, a road.")
    assert open_image(pair.image).size == (16, 16)


def test_a_class_makes_a_caption_where_there_is_no_other(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("1.jpg", b""), ("1.cls", b"BaseballField\n"), ("2.jpg", b""), ("2.cls", b"7"))
    named, number = read(tmp_path)
    assert named is not None and named.class_name == "baseball field"
    assert named.captions == ("a satellite image of baseball field",)
    assert number is None


def test_a_column_is_a_member_or_a_name_in_the_json(tmp_path: Path) -> None:
    about = {"polished": ["One.", "Two."], "caption": "raw"}
    write_tar(tmp_path / "a.tar", ("1.jpg", b""), ("1.txt", b"text"), ("1.en", b"English"), ("1.json", about))
    for column, captions in (("polished", ("One.", "Two.")), ("en", ("English",)), (None, ("text",))):
        (pair,) = read(tmp_path, column)
        assert pair is not None and pair.captions == captions
    assert read(tmp_path, "absent") == [None]


def test_names_end_at_their_first_dot_and_one_image_is_chosen(tmp_path: Path) -> None:
    write_tar(tmp_path / "a.tar", ("v1.2/x.seg.png", b"s"), ("v1.2/x.png", b"x"), ("v1.2/x.txt", b"a road"),
              ("v1.2/y.rgb.png", b"y"), ("v1.2/y.metadata.json", {"caption": "a pier"}),
              ("README", b""), (".hidden", b""))  # fmt: skip
    pairs = read(tmp_path)
    assert [(pair.key, pair.captions) for pair in pairs if pair] == [
        ("a.tar/v1.2/x.png", ("a road",)), ("a.tar/v1.2/y.rgb.png", ("a pier",)),
    ]  # fmt: skip
    assert len(pairs) == 2


def test_samples_that_cannot_be_used_say_why(tmp_path: Path) -> None:
    path = write_tar(
        tmp_path / "a.tar",
        ("ok.jpg", b""), ("ok.txt", b"fine"),
        ("noimage.txt", b"words"), ("noimage.npy", b""),
        ("nocaption.jpg", b""),
        ("../out.jpg", b""), ("../out.txt", b"outside"),
        ("/abs.jpg", b""), ("/abs.txt", b"outside"),
        ("latin.jpg", b""), ("latin.txt", b"\xe9"),
        ("list.jpg", b""), ("list.json", [1]),
        ("torn.jpg", b""), ("torn.json", b'{"caption": '),
        ("wrong.jpg", b""), ("wrong.json", {"caption": {"en": "x"}}),
        ("deep.jpg", b""), ("deep.json", b"[" * 100_000),
        ("long.jpg", b""), ("long.txt", b"x" * ((4 << 20) + 1)),
        ("last.jpg", b""), ("last.txt", b"fine too"),
    )  # fmt: skip
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pairs = read(tmp_path, ledger=ledger)
    assert [pair.key for pair in pairs if pair] == ["a.tar/ok.jpg", "a.tar/last.jpg"]
    assert len(pairs) == 12
    entries = list(read_rejects(tmp_path / "rejects.jsonl"))
    assert entries[0].where == f"{path}, sample noimage"
    assert [(entry.key, entry.reason) for entry in entries] == [
        ("a.tar/noimage", "no image among its members (txt, npy)"),
        ("a.tar/nocaption", "there is no caption"),
        ("a.tar/../out", "the path '../out.jpg' leads out of the tar or is no file's name"),
        ("a.tar//abs", "the path '/abs.jpg' leads out of the tar or is no file's name"),
        ("a.tar/latin", "latin.txt is not valid UTF-8"),
        ("a.tar/list", "list.json holds no object with a caption or a class"),
        ("a.tar/torn", "torn.json is not valid JSON: Expecting value: line 1 column 13 (char 12)"),
        ("a.tar/wrong", 'no text or list of texts under "captions" or "caption" or "text"'),
        ("a.tar/deep", "deep.json is nested too deeply"),
        ("a.tar/long", "long.txt has 4,194,305 bytes, more than the 4,194,304 of a text"),
    ]


def test_a_shard_cut_short_keeps_what_came_before_and_the_next_is_read(tmp_path: Path) -> None:
    members = [
        (f"{number}.{ending}", content) for number in range(9) for ending, content in (("png", picture()), ("txt", b"words"))
    ]
    data = write_tar(tmp_path / "a.tar", *members).read_bytes()
    (tmp_path / "a.tar").write_bytes(data[: 512 * 4 * 5 + 700])  # within the sixth image; each sample has four blocks
    write_tar(tmp_path / "b.tar", ("x.png", picture()), ("x.txt", b"words"))
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pairs = read(tmp_path, ledger=ledger)
    assert [pair.key for pair in pairs if pair] == [*(f"a.tar/{number}.png" for number in range(5)), "b.tar/x.png"]
    (entry,) = read_rejects(tmp_path / "rejects.jsonl")
    assert entry.key == "a.tar"
    assert entry.reason.startswith("damaged: the rest of the shard cannot be read: ")


@pytest.mark.parametrize("data", [b"", b"not a tar at all" * 100])
def test_what_is_no_tar_is_no_shard(tmp_path: Path, data: bytes) -> None:
    (tmp_path / "a.tar").write_bytes(data)
    assert find_shards(tmp_path) == []
    ledger = Rejects(tmp_path / "rejects.jsonl")
    assert [*read_shards([tmp_path / "a.tar"], tmp_path, None, ledger)] == [None]
    assert ledger.count == 1


def test_a_tar_of_nothing_but_images_is_no_shard(tmp_path: Path) -> None:
    write_tar(tmp_path / "images2.tar", *((f"images2/{number}.jpg", b"") for number in range(100)))
    write_tar(tmp_path / "texts.tar", ("1.txt", b"words"))
    assert find_shards(tmp_path) == []
    write_tar(tmp_path / "shard.tar", ("1.jpg", b""), ("1.txt", b"words"))
    assert [path.name for path in find_shards(tmp_path)] == ["images2.tar", "shard.tar", "texts.tar"]
