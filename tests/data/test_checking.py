from __future__ import annotations

import io
import json
import shutil
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.data import checking
from skygen.data.checking import check_images, format_report, name_reason, report
from skygen.data.index import Index, build_index, open_index
from skygen.data.layouts import Layout, find_layout
from skygen.data.pair import CLASS_TEMPLATE
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.errors import ConfigError, DataError

NAME = "SkyScript_train_unfiltered_5M.csv"
GOOD = 200


def jpeg(number: int) -> bytes:
    buffer = io.BytesIO()
    pixels = np.full((12, 8 + number % 8, 3), number % 256, np.uint8)
    Image.fromarray(pixels).save(buffer, "JPEG")
    return buffer.getvalue()


def png(width: int, height: int) -> bytes:
    buffer = io.BytesIO()
    Image.new("1", (width, height)).save(buffer, "PNG")
    return buffer.getvalue()


def key_of(part: int, number: int) -> str:
    return f"images{part}/a{number}_CH_19.jpg"


DAMAGED: dict[str, Callable[[], bytes | None]] = {
    key_of(4, 901): lambda: None,
    key_of(4, 902): lambda: jpeg(1)[:-300],
    key_of(4, 903): lambda: b"this is no image" * 9,
    key_of(4, 904): lambda: png(7000, 6000),
    key_of(4, 905): lambda: png(17_000, 10),
    key_of(4, 906): lambda: png(7, 100),
}
ODD_ROWS = (
    b"images4/a907_CH_19.jpg,half \xff",
    b"images4/a908_CH_19.jpg, ",
    b"../a909_CH_19.jpg,one",
    b"/images4/a910_CH_19.jpg,one",
    b"images4/a911_CH_19.jpg",
    b"images4/a0_CH_19.jpg,caption 0",
    b"images4/a0_CH_19.jpg,a second caption",
)


@pytest.fixture(scope="module")
def prepared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Part 2 in a zip of which a member is damaged, part 4 in a folder, part 5 nowhere; and each thing that can be wrong."""
    root = tmp_path_factory.mktemp("checking") / "world"
    (root / "images4").mkdir(parents=True)
    half = GOOD // 2
    with zipfile.ZipFile(root / "images2.zip", "w") as file:
        for number in range(half + 1):
            file.writestr(key_of(2, number), jpeg(number))
    data = bytearray((root / "images2.zip").read_bytes())
    data[data.rindex(jpeg(half)) + 200] ^= 255
    (root / "images2.zip").write_bytes(data)
    for number in range(half):
        (root / key_of(4, number)).write_bytes(jpeg(number))
    for key, make in DAMAGED.items():
        if (content := make()) is not None:
            (root / key).write_bytes(content)
    keys = [key_of(2, n) for n in range(half + 1)] + [key_of(4, n) for n in range(half)] + list(DAMAGED)
    keys += [key_of(5, n) for n in range(7)]
    rows = [f"{key},caption {n}".encode() for n, key in enumerate(keys)]
    rows[101] = f"{key_of(4, 0)},caption 0".encode()
    (root / NAME).write_bytes(b"\n".join([b"filepath,title", *rows, *ODD_ROWS]))
    return root


@pytest.fixture
def root(prepared: Path, tmp_path: Path) -> Path:
    return Path(shutil.copytree(prepared, tmp_path / "world"))


def layout_of(root: Path) -> Layout:
    return find_layout(root, None, None, None, CLASS_TEMPLATE)


def silent(done: int, total: int) -> None:
    pass


def open_or_build(root: Path) -> Index:
    return open_index(layout_of(root)) or build_index(layout_of(root), None, silent)


def check(root: Path, workers: int = 1, *, again: bool = False) -> Index:
    check_images(open_or_build(root), silent, workers=workers, again=again)
    index = open_index(layout_of(root))
    assert index is not None
    return index


def small_tasks(monkeypatch: pytest.MonkeyPatch, size: int = 4) -> None:
    monkeypatch.setattr(checking, "SMALLEST_TASK", size)
    monkeypatch.setattr(checking, "LARGEST_TASK", size)


def count_opened(monkeypatch: pytest.MonkeyPatch) -> Counter[str]:
    opened: Counter[str] = Counter()
    really = checking.open_image

    def note(path: Path) -> Image.Image:
        opened["/".join(path.parts[-2:])] += 1
        return really(path)

    monkeypatch.setattr(checking, "open_image", note)
    return opened


def usable_keys() -> list[str]:
    return [key_of(2, n) for n in range(GOOD // 2)] + [key_of(4, n) for n in range(GOOD // 2)]


def test_every_row_is_accounted_for_and_each_reject_has_its_reason(root: Path, tmp_path: Path) -> None:
    index = check(root)
    found = report(index, tmp_path / "rejects.jsonl")
    assert (found.rows, found.usable, found.joined, found.repeated) == (221, GOOD, 1, 1)
    assert found.absent == {5: 7}
    assert (
        found.usable + found.joined + found.repeated + sum(found.absent.values()) + sum(found.rejected.values()) == found.rows
    )
    assert found.rejected == {
        "too large": 2,
        "the path … leads out of the data set; it must be relative to its folder": 2,
        "missing": 1,
        "truncated: the file ends before the picture does": 1,
        "not an image in a format read here": 1,
        "too small": 1,
        "damaged": 1,
        "not valid UTF-8": 1,
        "the caption is empty": 1,
        "… cells where the first row has …": 1,
    }
    lines = [json.loads(line) for line in (tmp_path / "rejects.jsonl").read_text().splitlines()]
    reasons = {line["key"]: line["reason"] for line in lines if "part" not in line}
    assert len(lines) == len(reasons) + 1
    assert reasons == {
        f"{NAME}:216": "not valid UTF-8",
        f"{NAME}:217": "the caption is empty",
        f"{NAME}:218": "the path '../a909_CH_19.jpg' leads out of the data set; it must be relative to its folder",
        f"{NAME}:219": "the path '/images4/a910_CH_19.jpg' leads out of the data set; it must be relative to its folder",
        f"{NAME}:220": "1 cells where the first row has 2",
        key_of(2, 100): "damaged: its CRC-32 is not that of the archive's directory",
        key_of(4, 901): "missing: no such file",
        key_of(4, 902): "truncated: the file ends before the picture does",
        key_of(4, 903): "not an image in a format read here (JPEG, PNG, TIFF, WEBP, BMP, GIF)",
        key_of(4, 904): "too large: 7000 x 6000 pixels (at most 40 megapixels and 16384 a side)",
        key_of(4, 905): "too large: 17000 x 10 pixels (at most 40 megapixels and 16384 a side)",
        key_of(4, 906): "too small: 7 x 100 pixels (at least 8 a side)",
        "images5/*": "missing: 7 images, images5 is not here",
    }
    wheres = {line["key"]: line["where"] for line in lines}
    assert wheres[key_of(2, 100)] == str(root / "images2.zip" / key_of(2, 100))
    assert wheres[key_of(4, 902)] == str(root / key_of(4, 902))
    assert wheres[f"{NAME}:216"] == f"{root / NAME}, row 216"


def test_a_report_reads_as_a_sum(root: Path, tmp_path: Path) -> None:
    text = format_report(report(check(root), tmp_path / "rejects.jsonl"))
    lines = text.splitlines()
    assert lines[0] == "200  pairs can be used"
    assert "  7  pairs of part 5: images5 is not here" in lines
    assert "  2  rejected: too large" in lines
    assert lines[-1] == "221  rows in all"
    assert sum(int(line.split()[0]) for line in lines[:-2]) == 221


def test_after_a_check_exactly_the_usable_pairs_are_read(root: Path, caplog: pytest.LogCaptureFixture) -> None:
    index = check(root)
    ledger = Rejects(None)
    pairs = PairSettings(root, max_bad_fraction=0.1).read(ledger)
    assert [pair.key for pair in pairs] == usable_keys()
    assert ledger.count == 12
    assert pairs.column("width").to_pylist() == [8 + n % 8 for n in range(100)] * 2
    assert set(pairs.column("height").to_pylist()) == {12}
    assert "7 of 214 pairs are left out: their images5 are not in" in caplog.text
    with pytest.raises(DataError, match=r"^12 of 221 rows or images cannot be used \(5\.4%\), more than the 1\.0% allowed"):
        PairSettings(root).read(Rejects(None))
    assert len(PairSettings(root, where="width >= 12", max_bad_fraction=0.1).read(Rejects(None))) == 96
    assert index.table.table["problem"].null_count == 214 - 7


def test_before_a_check_a_size_is_not_known(root: Path) -> None:
    open_or_build(root)
    with pytest.raises(ConfigError, match=r"^no pair has a known width: run `skygen check` on the data set first"):
        PairSettings(root, where="width >= 12", max_bad_fraction=0.1).read(Rejects(None))


def test_a_check_that_was_broken_off_goes_on_where_it_was(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    class Stopped(Exception):
        pass

    small_tasks(monkeypatch)
    opened = count_opened(monkeypatch)
    said: list[tuple[int, int]] = []

    def stop(done: int, total: int) -> None:
        said.append((done, total))
        if done >= 60:
            raise Stopped

    index = open_or_build(root)
    with pytest.raises(Stopped):
        check_images(index, stop)
    assert said[0] == (0, 207)
    assert said[-1] == (60, 207)
    assert sum(opened.values()) == 60
    (working,) = (root / ".skygen" / "index").glob("*.checking-*")
    assert len(list(working.iterdir())) == 15
    assert open_index(layout_of(root)).table.table["width"].null_count == 214  # type: ignore[union-attr]
    said.clear()
    check_images(index, lambda done, total: said.append((done, total)))
    assert (said[0], said[-1]) == ((60, 207), (207, 207))
    assert (sum(opened.values()), max(opened.values())) == (207, 1)
    assert not working.exists()


@pytest.mark.parametrize("workers", [2, pytest.param(3, marks=pytest.mark.slow)])
def test_any_number_of_workers_finds_the_same(
    workers: int, root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """In more tasks than are handed out at first."""
    small_tasks(monkeypatch)
    said: list[tuple[int, int]] = []
    columns = ["width", "height", "problem"]
    alone = check(root).table.table.select(columns)
    check_images(open_or_build(root), lambda done, total: said.append((done, total)), workers=workers, again=True)
    index = open_index(layout_of(root))
    assert index is not None
    assert index.table.table.select(columns).equals(alone)
    assert (said[0], said[-1]) == ((0, 207), (207, 207))
    assert len(said) == 53
    assert report(index, tmp_path / "rejects.jsonl").usable == GOOD


def test_a_repeated_check_opens_what_had_a_problem_and_a_mended_image_is_usable(
    root: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check(root)
    opened = count_opened(monkeypatch)
    (root / key_of(4, 902)).write_bytes(jpeg(3))
    shutil.copytree(root / "images4", root / "images5")
    index = check(root)
    assert set(opened) == {*DAMAGED, key_of(2, 100), *(key_of(5, n) for n in range(7))}
    assert max(opened.values()) == 1
    found = report(index, tmp_path / "rejects.jsonl")
    assert (found.usable, found.absent) == (GOOD + 8, {})
    pairs = PairSettings(root, max_bad_fraction=0.1).read(Rejects(None))
    assert [pair.key for pair in pairs] == [*usable_keys(), key_of(4, 902), *(key_of(5, n) for n in range(7))]
    opened.clear()
    (root / key_of(4, 0)).write_bytes(b"")
    assert report(check(root), tmp_path / "rejects.jsonl").usable == GOOD + 8
    assert key_of(4, 0) not in opened
    assert report(check(root, again=True), tmp_path / "rejects.jsonl").usable == GOOD + 7


def test_without_any_images_each_is_missing(root: Path, tmp_path: Path) -> None:
    shutil.rmtree(root / "images4")
    (root / "images2.zip").unlink()
    found = report(check(root), tmp_path / "rejects.jsonl")
    assert (found.usable, found.absent, found.rejected["missing"]) == (0, {}, 214)
    with pytest.raises(DataError, match="has no pairs: none of its 221 rows can be used; the first: "):
        PairSettings(root).read(Rejects(None))


def test_findings_of_another_state_of_the_list_are_not_used(root: Path) -> None:
    check(root)
    with (root / NAME).open("a") as file:
        file.write("\nimages4/a912_CH_19.jpg,one\n")
    index = open_or_build(root)
    assert index.table.table["width"].null_count == len(index.table.table) == 215


def test_a_caption_that_is_empty_in_all_default_columns_is_accounted_for(tmp_path: Path) -> None:
    root = tmp_path / "world"
    (root / "images2").mkdir(parents=True)
    for number in range(3):
        (root / key_of(2, number)).write_bytes(jpeg(number))
    rows = ["filepath,title_raw,title", f"{key_of(2, 0)},raw,one", f"{key_of(2, 1)},raw,", f"{key_of(2, 2)},raw,two"]
    (root / "m.csv").write_text("\n".join(rows))
    found = report(check(root), tmp_path / "rejects.jsonl")
    assert (found.rows, found.usable, found.rejected) == (3, 2, {"the caption is empty": 1})
    assert len(PairSettings(root, max_bad_fraction=0.5).read(Rejects(None))) == 2


def test_a_killed_worker_is_said_in_a_sentence(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    small_tasks(monkeypatch)
    index = open_or_build(root)

    def kill(done: int, total: int) -> None:
        if done > 0:
            for child in checking.multiprocessing.active_children():
                child.kill()  # not os.kill: the pool ends the second itself once it sees that the first is gone

    with pytest.raises(DataError) as caught:
        check_images(index, kill, workers=2)
    assert str(caught.value) == (
        "a process of the check was killed, perhaps for lack of memory; check again with fewer --workers: what was looked at "
        "is kept"
    )
    assert len(list((root / ".skygen" / "index").glob("*.checking-*/*.arrow"))) > 0
    check_images(index, silent)


@pytest.mark.parametrize(
    ("reason", "group"),
    [
        ("missing: no such file", "missing"),
        ("too large: 7000 x 6000 pixels (at most 40 megapixels and 16384 a side)", "too large"),
        ("cut short: 3 of 5 bytes", "cut short"),
        ("3 cells where the first row has 4", "… cells where the first row has …"),
        ("the path '../x.jpg' leads out of the data set; it must be relative to its folder",) * 2,
        ("the caption is empty", "the caption is empty"),
    ],
)
def test_reasons_are_grouped_without_sizes_and_names(reason: str, group: str) -> None:
    assert name_reason(reason) == group.replace("'../x.jpg'", "…")
