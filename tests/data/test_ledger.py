"""Every row of a list ends as trained on, filtered, merged or quarantined, and the numbers add up or the run stops."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from skygen.data.framing import ImageSettings
from skygen.data.images import read_sizes
from skygen.data.index import build_index
from skygen.data.layouts import find_layout
from skygen.data.ledger import Account, account
from skygen.data.loading import CaptionSettings, PairStream
from skygen.data.pair import CLASS_TEMPLATE, Pair
from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import SkygenError
from skygen.seeding import Seeds

SQUARES = ImageSettings(resolution=32)
SOURCES = ("CH", "US", "S2")


def name_of(number: int) -> str:
    return f"images2/a{number}_{SOURCES[number % 3]}_19.jpg"


@pytest.fixture
def root(tmp_path: Path) -> Path:
    """Sixty good pairs of 8 to 64 pixels, and a row or image of each kind of trouble; 68 rows."""
    folder = tmp_path / "data"
    (folder / "images2").mkdir(parents=True)
    rows = []
    for number in range(60):
        side = (8, 16, 32, 64)[number % 4]
        Image.new("RGB", (side * 2, side), (number, 0, 0)).save(folder / name_of(number))
        rows.append(f"{name_of(number)},a field {number % 10}")
    noise = Seeds(0).numpy("pixels").integers(0, 256, (64, 128, 3), dtype=np.uint8)
    Image.fromarray(noise).save(folder / name_of(60))
    (folder / name_of(60)).write_bytes((folder / name_of(60)).read_bytes()[:-2000])
    (folder / name_of(61)).write_bytes(b"no image")
    rows += [f"{name_of(number)},a lake" for number in (60, 61, 62)]  # cut short, none, missing
    rows += ["../a63_CH_19.jpg,outside", f"{name_of(5)}, "]
    rows += [f"{name_of(1)},a further caption", f"{name_of(1)},a further caption", "images3/a64_CH_19.jpg,of another part"]
    (folder / "list.csv").write_text("filepath,title\n" + "".join(f"{row}\n" for row in rows))
    return folder


def look_at_all(pairs: PairList, rejects: Rejects, images: ImageSettings = SQUARES) -> None:
    stream = PairStream(pairs, images, CaptionSettings(), Seeds(0), rejects)
    for position in range(len(pairs)):
        stream[position]


def test_every_row_of_an_indexed_list_is_accounted_for(root: Path, tmp_path: Path) -> None:
    build_index(find_layout(root, None, None, None, CLASS_TEMPLATE), None, lambda done, total: None)
    settings = PairSettings(root, max_bad_fraction=1.0, sources=("CH", "US"), limit=30)
    rejects = Rejects(tmp_path / "run" / "rejects.jsonl")
    pairs = settings.read(rejects)
    sizes = read_sizes(pairs, rejects)
    look_at_all(pairs, rejects)
    found = account(pairs, rejects, settings=settings, images=SQUARES, sizes=sizes)
    assert found.listed == 68
    assert found.merged == {"give an image of another row a further caption": 1, "repeat another row": 1}
    outside = "the path … leads out of the data set; it must be relative to its folder"
    assert found.quarantined == {outside: 1, "the caption is empty": 1}
    assert found.filtered == {"by pairs.sources": 21, "by pairs.limit": 12, "not on this machine": 1}
    assert found.usable == 30
    assert found.captions == 11
    assert json.loads(json.dumps(found.record()))["usable"] == 30


def test_unusable_images_are_told_by_reason(root: Path, tmp_path: Path) -> None:
    settings = PairSettings(root, max_bad_fraction=1.0)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    pairs = settings.read(rejects)
    sizes = read_sizes(pairs, rejects)
    look_at_all(pairs, rejects)
    look_at_all(pairs, rejects)  # what is noted twice counts once
    found = account(pairs, rejects, settings=settings, images=SQUARES, sizes=sizes)
    assert found.quarantined["truncated"] == 1
    assert found.quarantined["not an image in a format read here"] == 1
    assert found.quarantined["missing"] == 1
    assert (found.usable, sum(found.quarantined.values()), sum(found.filtered.values())) == (60, 5, 1)
    assert found.listed == 66  # no index has counted the rows that were merged


def test_shapes_and_enlargement_of_the_usable_images(root: Path, tmp_path: Path) -> None:
    settings = PairSettings(root, max_bad_fraction=1.0)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    pairs = settings.read(rejects)
    sizes = read_sizes(pairs, rejects)
    look_at_all(pairs, rejects)
    squares = account(pairs, rejects, settings=settings, images=SQUARES, sizes=sizes).images
    assert squares is not None
    assert squares.shapes == {"32x32": 60}
    assert squares.enlarged == {"1": 0.5, "2": 0.25, "4": 0.0}  # sides of 8, 16, 32 and 64 become 32
    assert squares.scale == {"0": 0.5, "0.05": 0.5, "0.25": 0.5, "0.5": 1.0, "0.75": 2.0, "0.95": 4.0, "1": 4.0}
    bucketed = replace(SQUARES, aspect_buckets=True, bucket_step=8)
    images = account(pairs, rejects, settings=settings, images=bucketed, sizes=sizes).images
    assert images is not None
    assert images.shapes == {"40x24": 60}
    assert account(pairs, rejects, settings=settings).images is None


def test_the_summary_is_one_line() -> None:
    plain = Account(5000, 4990, {}, {}, {"truncated": 8, "missing": 2}, 700, 0)
    assert plain.summary() == "pairs: 5,000 listed, 4,990 usable, 10 quarantined (8 truncated, 2 missing)"


def test_the_summary_says_how_many_are_enlarged(root: Path, tmp_path: Path) -> None:
    settings = PairSettings(root, max_bad_fraction=1.0, where="source in (CH, US)")
    rejects = Rejects(tmp_path / "rejects.jsonl")
    pairs = settings.read(rejects)
    sizes = read_sizes(pairs, rejects)
    look_at_all(pairs, rejects)
    line = account(pairs, rejects, settings=settings, images=SQUARES, sizes=sizes).summary()
    assert line.startswith(
        "pairs: 66 listed, 40 usable, 22 filtered (21 by pairs.where, 1 not on this machine), 4 quarantined ("
    )
    assert line.endswith("; 50 % of the images are enlarged, 25 % more than twofold")


@pytest.mark.parametrize("indexed", [False, True])
@pytest.mark.parametrize(
    ("choice", "reasons"),
    [
        ({}, set()),
        ({"split": "train"}, {"by pairs.split"}),
        ({"where": "year >= 2018 and source in (US, S2)"}, {"by pairs.where"}),
        ({"sources": ("S2",)}, {"by pairs.sources"}),
        ({"limit": 7}, {"by pairs.limit"}),
        ({"max_images_per_caption": 1}, {"by pairs.max_images_per_caption"}),
    ],
)
def test_it_adds_up_whatever_is_asked_for(
    choice: dict[str, Any], reasons: set[str], indexed: bool, root: Path, world: Path, tmp_path: Path
) -> None:
    if "split" in choice:  # which has a list for each split
        root = Path(shutil.copytree(world, tmp_path / "world"))
    if indexed:
        build_index(find_layout(root, None, None, None, CLASS_TEMPLATE), None, lambda done, total: None)
    settings = PairSettings(root, max_bad_fraction=1.0, **choice)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    pairs = settings.read(rejects)
    look_at_all(pairs, rejects)
    found = account(pairs, rejects, settings=settings)
    assert found.usable + sum(sum(part.values()) for part in (found.merged, found.filtered, found.quarantined)) == found.listed
    if indexed or "split" not in choice:  # else the list of that split alone is read
        assert set(found.filtered) - {"not on this machine"} == reasons
    assert found.usable > 0


def test_pairs_of_other_settings_do_not_add_up(root: Path, tmp_path: Path) -> None:
    settings = PairSettings(root, max_bad_fraction=1.0, sources=("CH",))
    rejects = Rejects(tmp_path / "rejects.jsonl")
    pairs = settings.read(rejects)
    with pytest.raises(
        SkygenError,
        match=r"^\d+ rows are listed and \d+ accounted for: \d+ usable, \d+ filtered, \d+ quarantined; read the pairs again, "
        r"with the settings and rejects of this run$",
    ):
        account(pairs, rejects, settings=replace(settings, sources=("US",)))
    twice = PairList(pairs.tables, np.repeat(pairs.rows, 2))
    with pytest.raises(SkygenError, match="accounted for"):
        account(twice, rejects, settings=settings)


def test_an_image_that_vanished_without_an_entry_is_an_error(root: Path, tmp_path: Path) -> None:
    settings = PairSettings(root, max_bad_fraction=1.0)
    rejects = Rejects(tmp_path / "rejects.jsonl")
    pairs = settings.read(rejects)
    sizes = read_sizes(pairs, Rejects(None))  # whose entries are lost
    with pytest.raises(
        SkygenError,
        match=r"^2 images have no size and are not in .*rejects\.jsonl, the first is images2/a61_US_19\.jpg; "
        r"read the sizes with the rejects of this run$",
    ):
        account(pairs, rejects, settings=settings, images=SQUARES, sizes=sizes)
    with pytest.raises(ValueError, match="rejects that are kept in memory do not say why"):
        account(pairs, Rejects(None))


def test_pairs_made_by_hand_are_accounted_for_too(tmp_path: Path) -> None:
    pairs = [Pair(f"{number}.png", tmp_path / f"{number}.png", (f"field {number % 2}",)) for number in range(5)]
    rejects = Rejects(tmp_path / "rejects.jsonl")
    rejects.add("3.png", "truncated: the file ends before the picture does", where="3.png")
    found = account(pairs, rejects)
    assert found == Account(5, 4, {}, {}, {"truncated": 1}, 2, 0)
