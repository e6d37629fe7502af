from __future__ import annotations

import io
import json
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image

from skygen.data.archives import read_bytes
from skygen.data.formats import parquet_images
from skygen.data.formats.parquet_images import find_image_parquet, holds_images, read_image_parquet, read_parquet_image
from skygen.data.images import open_image
from skygen.data.pair import Pair
from skygen.data.rejects import Rejects, read_rejects
from skygen.errors import ArchiveError, ConfigError, ImageError

IMAGE = pa.struct([("bytes", pa.binary()), ("path", pa.string())])


def picture(shade: int = 0) -> bytes:
    buffer = io.BytesIO()
    Image.new("RGB", (16, 16), (shade, shade, shade)).save(buffer, "PNG")
    return buffer.getvalue()


def write(path: Path, columns: dict[str, Any], *, images: int | None = None, group: int = 4, names: Any = None) -> Path:
    count = images if images is not None else len(next(iter(columns.values())))
    stored = pa.array([{"bytes": picture(number), "path": f"{number}.png"} for number in range(count)], IMAGE)
    table = pa.table({"image": stored, **columns})
    if names is not None:
        table = table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": names}})})
    path.parent.mkdir(parents=True, exist_ok=True)
    pq.write_table(table, path, row_group_size=group)
    return path


def read(root: Path, caption_column: str | None = None, ledger: Rejects | None = None) -> list[Pair | None]:
    return list(read_image_parquet(find_image_parquet(root), root, caption_column, ledger or Rejects(None)))


def test_rsicd_as_hugging_face_has_it(tmp_path: Path) -> None:
    captions = [["one plane .", "a plane .", "one plane ."], ["A river ."], ["."], None]
    filenames = ["rsicd_images/airport_1.jpg", "rsicd_images/00012.jpg", "x.jpg", "y.jpg"]
    write(tmp_path / "data" / "train-00000-of-00001-abc.parquet", {"filename": filenames, "captions": captions})
    write(tmp_path / "data" / "valid-00000-of-00001-def.parquet", {"filename": filenames[:1], "captions": captions[:1]})
    ledger = Rejects(tmp_path / "rejects.jsonl")
    first, second, *none, last = read(tmp_path, ledger=ledger)
    key = "data/train-00000-of-00001-abc.parquet/0"
    assert first == Pair(key, tmp_path / key, ("one plane .", "a plane ."), split="train", class_name="airport")
    assert second is not None and (second.class_name, second.captions) == (None, ("A river .",))
    assert none == [None, None]
    assert last is not None and (last.key, last.split) == ("data/valid-00000-of-00001-def.parquet/0", "val")
    assert [(entry.key, entry.reason) for entry in read_rejects(tmp_path / "rejects.jsonl")] == [
        ("data/train-00000-of-00001-abc.parquet/2", "the caption '.' has no words"),
        ("data/train-00000-of-00001-abc.parquet/3", "there is no caption"),
    ]


def test_images_are_read_by_their_row(tmp_path: Path) -> None:
    write(tmp_path / "test.parquet", {"text": [f"picture {number}" for number in range(10)]})
    pairs = [pair for pair in read(tmp_path) if pair]
    assert len(pairs) == 10
    assert [open_image(pairs[row].image).getpixel((0, 0)) for row in (9, 0, 4, 3)] == [(row,) * 3 for row in (9, 0, 4, 3)]
    assert pairs[9].split == "test"
    for beyond in ("10", "99999999999999999999"):
        with pytest.raises(ImageError, match=r"^missing: no such file$"):
            open_image(tmp_path / "test.parquet" / beyond)
    for wrong in ("-1", "x", "1/2", "²"):
        with pytest.raises(FileNotFoundError):
            read_bytes(tmp_path / "test.parquet" / wrong)
    with pytest.raises(FileNotFoundError):
        read_bytes(tmp_path / "absent.parquet" / "0")


def test_classes_by_number_have_names_in_the_metadata(tmp_path: Path) -> None:
    features = {"label": {"names": ["AnnualCrop", "River"], "_type": "ClassLabel"}}
    write(tmp_path / "default" / "train" / "0000.parquet", {"label": [1, 0, 7, None]}, names=features)
    assert find_image_parquet(tmp_path) == []  # two levels down
    pairs = list(read_image_parquet([tmp_path / "default/train/0000.parquet"], tmp_path, None, Rejects(None)))
    assert [pair and (pair.class_name, pair.captions, pair.split) for pair in pairs] == [
        ("river", ("a satellite image of river",), "train"),
        ("annual crop", ("a satellite image of annual crop",), "train"),
        None,
        None,
    ]


def test_the_row_says_split_and_place(tmp_path: Path) -> None:
    columns = {"caption": ["a lake"], "split": ["validation"], "lat": [47.0], "lon": [8.0], "date": ["2020-02"], "gsd": [0.5]}
    write(tmp_path / "train.parquet", columns)
    (pair,) = read(tmp_path)
    assert pair is not None and pair.box is not None
    assert (pair.split, pair.year, pair.gsd, pair.box.north, pair.box.west) == ("val", 2020, 0.5, 47.0, 8.0)


def test_a_column_can_be_chosen_and_must_be_there(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"caption": ["raw"], "polished": [["One.", "Two."]]})
    (pair,) = read(tmp_path, "polished")
    assert pair is not None and pair.captions == ("One.", "Two.")
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, "absent")
    assert str(caught.value) == (
        f"{path} has no column absent; its columns are: image, caption, polished; name one of captions with "
        "--pairs.caption_column"
    )
    write(tmp_path / "a.parquet", {"score": [0.5]})
    with pytest.raises(ConfigError, match=r"has no column captions or caption or text; its columns are: image, score; name"):
        read(tmp_path)


def test_the_schema_tells_images_from_lists(tmp_path: Path) -> None:
    def save(name: str, table: pa.Table) -> Path:
        pq.write_table(table, tmp_path / name)
        return tmp_path / name

    plain = pa.array([picture()], pa.binary())
    assert holds_images(save("a.parquet", pa.table({"jpg": plain, "text": ["x y"]})))
    assert holds_images(save("b.parquet", pa.table({"image": plain.cast(pa.large_binary()), "text": ["x y"]})))
    nested = pa.array([{"bytes": picture(), "path": None}], IMAGE)
    assert holds_images(save("c.parquet", pa.table({"aerial": nested, "text": ["x y"]})))
    assert not holds_images(save("d.parquet", pa.table({"filepath": ["1.jpg"], "text": ["x y"], "digest": plain})))
    assert not holds_images(save("e.parquet", pa.table({"image": ["1.jpg"], "text": ["x y"]})))
    assert not holds_images(save("f.parquet", pa.table({"image": pa.array([[1, 2]]), "text": ["x y"]})))
    (tmp_path / "g.parquet").write_bytes(b"no parquet")
    found = find_image_parquet(tmp_path)
    assert [path.name for path in found] == ["a.parquet", "b.parquet", "c.parquet"]
    assert [read_parquet_image(path, 0) for path in found] == [picture()] * 3
    with pytest.raises(ArchiveError, match=r"d\.parquet has no column of images$"):
        read_parquet_image(tmp_path / "d.parquet", 0)
    with pytest.raises(ArchiveError, match=r"^the Parquet file .*g\.parquet cannot be read: "):
        read_parquet_image(tmp_path / "g.parquet", 0)


def test_a_row_without_its_image_says_so(tmp_path: Path) -> None:
    stored = pa.array([{"bytes": None, "path": "1.jpg"}, {"bytes": b"", "path": None}, None], IMAGE)
    pq.write_table(pa.table({"image": stored, "text": ["one", "two", "three"]}), tmp_path / "a.parquet")
    for row in range(3):
        with pytest.raises(ArchiveError, match=r"^the row holds no image$"):
            read_parquet_image(tmp_path / "a.parquet", row)


def test_captions_are_read_without_the_images(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "a.parquet", {"text": ["one tree"] * 8})
    asked: list[Any] = []
    whole = pq.ParquetFile.iter_batches

    def noted(self: Any, *args: Any, columns: Any = None, **options: Any) -> Any:
        asked.append(columns)
        return whole(self, *args, columns=columns, **options)

    monkeypatch.setattr(pq.ParquetFile, "iter_batches", noted)
    assert len(read(tmp_path)) == 8
    assert asked == [["text"]]


def test_kept_row_groups_are_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parquet_images._groups.clear()
    stored = pa.array([{"bytes": bytes([row]) * 1000, "path": None} for row in range(40)], IMAGE)
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"image": stored, "text": ["x y"] * 40}), path, row_group_size=4)
    monkeypatch.setattr(parquet_images, "CACHED_BYTES", 13_000)
    reads: list[int] = []
    whole = pq.ParquetFile.read_row_group
    monkeypatch.setattr(pq.ParquetFile, "read_row_group", lambda self, i, **o: reads.append(i) or whole(self, i, **o))
    for row in (*range(40), 39, 35, 31, 27):
        assert read_parquet_image(path, row) == bytes([row]) * 1000
    assert reads == [*range(10), 6]  # the last three groups were kept
    assert len(parquet_images._groups) == 3
    monkeypatch.setattr(parquet_images, "LARGEST_GROUP", 100)
    with pytest.raises(ArchiveError, match=r"bytes of images, more than the 100 that are read at once; write the file anew"):
        read_parquet_image(path, 0)


def test_a_file_written_anew_is_read_anew(tmp_path: Path) -> None:
    path = write(tmp_path / "a.parquet", {"text": ["x y"] * 2})
    assert read_parquet_image(path, 1) == picture(1)
    pq.write_table(pa.table({"image": pa.array([{"bytes": b"new", "path": None}] * 9, IMAGE)}), path)
    assert read_parquet_image(path, 8) == b"new"


def test_a_damaged_file_keeps_what_came_before(tmp_path: Path) -> None:
    write(tmp_path / "a.parquet", {"text": [f"picture {number}" for number in range(3)]})
    texts = pa.table(
        {"image": pa.array([{"bytes": b"x", "path": None}] * 60_000, IMAGE), "text": [f"no. {n}" for n in range(60_000)]}
    )
    path = tmp_path / "b.parquet"
    pq.write_table(texts, path, row_group_size=20_000, compression="gzip", use_dictionary=False)
    last = pq.read_metadata(path).row_group(2).column(2)
    data = bytearray(path.read_bytes())
    start = last.data_page_offset + 40
    data[start : start + 200] = bytes(200)
    path.write_bytes(data)
    ledger = Rejects(tmp_path / "rejects.jsonl")
    pairs = read(tmp_path, ledger=ledger)
    assert len(pairs) > 30_000 and pairs[-1] is None and None not in pairs[:-1]
    (entry,) = read_rejects(tmp_path / "rejects.jsonl")
    assert entry.key == "b.parquet" and entry.reason.startswith("cannot be read: ")
