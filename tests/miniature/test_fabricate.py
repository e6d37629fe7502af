"""A fabricated data set has SkyScript's layout to the byte, and the same seed makes the same bytes."""

import csv
import pickletools
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

from skygen.errors import ConfigError, StorageError
from skygen.miniature.fabricate import FabricatedSummary, fabricate
from skygen.miniature.world import CLASSES

FILE_NAME = re.compile(r"^images[2-7]/(?P<type>[awn])(?P<osm_id>\d+)_(?P<source>[A-Z0-9]{2})_(?P<yy>\d{2})\.jpg$")
TOP = "SkyScript_train_top30pct_filtered_by_CLIP_openai.csv"
VAL = "SkyScript_val_5K_filtered_by_CLIP_openai.csv"
TEST = "SkyScript_test_30K_filtered_by_CLIP_openai.csv"
UNFILTERED = "SkyScript_train_unfiltered_5M.csv"
POLISHED = "SkyScript_train_unfiltered_5M_language_polished.csv"


def rows(path: Path) -> list[dict[str, str]]:
    with path.open(encoding="utf-8", newline="") as file:
        return list(csv.DictReader(file))


def contents(root: Path) -> dict[str, bytes]:
    return {path.relative_to(root).as_posix(): path.read_bytes() for path in sorted(root.rglob("*")) if path.is_file()}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, FabricatedSummary]:
    root = tmp_path_factory.mktemp("world")
    return root, fabricate(root, pairs=200, seed=7)


def test_tables_have_skyscripts_columns_and_sizes(world: tuple[Path, FabricatedSummary]) -> None:
    root, summary = world
    plain = ["filepath", "title", "title_multi_objects"]
    expected = {
        UNFILTERED: (160, plain),
        TOP: (48, [*plain, "similarity_CLIP_openai"]),
        VAL: (20, [*plain, "similarity_CLIP_openai"]),
        TEST: (20, [*plain, "similarity_CLIP_openai"]),
        POLISHED: (160, ["filepath", "title_raw", "title"]),
    }
    for name, (count, columns) in expected.items():
        table = rows(root / name)
        assert (len(table), list(table[0])) == (count, columns), name
    assert (summary.train, summary.train_top30pct, summary.val, summary.test) == (160, 48, 20, 20)


def test_splits_share_no_object(world: tuple[Path, FabricatedSummary]) -> None:
    root, _ = world
    files = [row["filepath"] for name in (UNFILTERED, VAL, TEST) for row in rows(root / name)]
    matches = [FILE_NAME.match(name) for name in files]
    assert all(matches)
    assert len({match["osm_id"] for match in matches if match}) == len(files) == 200


def test_every_image_opens_and_has_a_meta_of_plain_values(world: tuple[Path, FabricatedSummary]) -> None:
    root, _ = world
    images = sorted(root.glob("images[2-7]/*.jpg"))
    assert len(images) == 200
    for path in images:
        with Image.open(path) as image:
            image.load()
            assert image.mode == "RGB"
        meta = (root / path.parent.name.replace("images", "meta") / f"{path.stem}.pickle").read_bytes()
        operations = [(code.name, argument) for code, argument, _ in pickletools.genops(meta)]
        assert not {name for name, _ in operations} & {"GLOBAL", "STACK_GLOBAL", "INST", "OBJ", "NEWOBJ", "REDUCE", "BUILD"}
        strings = [argument for _, argument in operations if isinstance(argument, str)]
        assert {"box", "time", "center_tags", "surrounding_tags"} <= set(strings)
        assert 2000 + int(path.stem[-2:]) in [argument for _, argument in operations]


def test_captions_follow_the_grammar_and_the_source(world: tuple[Path, FabricatedSummary]) -> None:
    root, _ = world
    for row in rows(root / VAL):
        first = row["title"].split(", ")[0]
        assert first.startswith("a satellite image of ")
        assert row["title_multi_objects"].startswith(first)
    polished = rows(root / POLISHED)
    for row in polished:
        satellite = row["filepath"].split("_")[-2] in ("P3", "S2")
        assert row["title"] == ("A satellite" if satellite else "An aerial") + f" image. It shows: {row['title_raw']}"
    assert len({row["title_raw"] for row in polished}) > 80


def test_top_30_percent_is_the_most_similar_and_hardly_mislabelled(tmp_path: Path) -> None:
    summary = fabricate(tmp_path, pairs=400, seed=2, classes=["lake", "river"])
    assert 4 <= summary.mislabelled <= 26
    wrong = 0
    unfiltered = rows(tmp_path / UNFILTERED)
    for row in unfiltered:
        meta = next(tmp_path.glob(f"meta*/{Path(row['filepath']).stem}.pickle")).read_bytes()
        wrong += (b"lake" in meta) != ("lake" in row["title"])
    assert wrong == summary.mislabelled
    best = rows(tmp_path / TOP)
    assert len(best) == round(0.3 * len(unfiltered))
    assert min(float(row["similarity_CLIP_openai"]) for row in best) > 0.24


def test_benchmarks_have_their_layout(world: tuple[Path, FabricatedSummary]) -> None:
    root, summary = world
    folder = root / "benchmark"
    assert (folder / "SkyScript_cls" / "classnames.txt").read_text(encoding="utf-8").splitlines() == list(CLASSES)
    classified = rows(folder / "SkyScript_cls" / "img_txt_pairs_val.csv")
    retrieved = rows(folder / "ucmcaptions" / "ucmcaptions_img_txt_pairs_test.csv")
    assert len(classified) == summary.benchmark == 26
    assert {row["label"] for row in classified} == set(CLASSES)
    assert len(retrieved) == 5 * summary.retrieval == 65
    for row in (*classified, *retrieved):
        assert (folder / row["filepath"]).is_file()


def test_the_same_seed_writes_the_same_bytes_again(tmp_path: Path) -> None:
    fabricate(tmp_path / "one", pairs=20, seed=1)
    fabricate(tmp_path / "other", pairs=20, seed=1)
    before = contents(tmp_path / "one")
    fabricate(tmp_path / "one", pairs=20, seed=1)
    assert len(before) == 20 * 2 + 26 + 13 + 5 + 3 + 1
    assert before == contents(tmp_path / "other") == contents(tmp_path / "one")


def test_more_pairs_keep_the_first_ones(tmp_path: Path) -> None:
    fabricate(tmp_path / "few", pairs=30, seed=1)
    fabricate(tmp_path / "many", pairs=60, seed=1)
    few, many = contents(tmp_path / "few"), contents(tmp_path / "many")
    tiles = [name for name in few if name.startswith(("images", "meta"))]
    assert len(tiles) == 60
    assert all(few[name] == many[name] for name in tiles)
    for name in (UNFILTERED, POLISHED, VAL, TEST):
        assert many[name].startswith(few[name]), name


def test_a_benchmark_can_be_larger_and_changes_nothing_else(tmp_path: Path) -> None:
    usual, larger = tmp_path / "usual", tmp_path / "larger"
    assert fabricate(usual, pairs=2, seed=1).benchmark == 26
    assert fabricate(larger, pairs=2, seed=1, benchmark=40).benchmark == 40
    few, many = contents(usual), contents(larger)
    table = "benchmark/SkyScript_cls/img_txt_pairs_val.csv"
    assert len(many) == len(few) + 14
    assert all(many[name] == few[name] for name in few.keys() - {table})
    assert many[table].startswith(few[table])
    assert len(rows(larger / table)) == 40


def test_another_seed_draws_other_tiles(tmp_path: Path) -> None:
    for seed in (1, 2):
        fabricate(tmp_path / str(seed), pairs=2, seed=seed)
    assert not set(contents(tmp_path / "1").values()) & {b for n, b in contents(tmp_path / "2").items() if n.endswith("jpg")}


def test_classes_restrict_the_world_and_progress_reaches_the_end(tmp_path: Path) -> None:
    seen: list[tuple[int, int]] = []
    fabricate(tmp_path, pairs=10, seed=0, classes=["tennis court"], progress=lambda done, total: seen.append((done, total)))
    assert all("sport of tennis" in row["title"] for row in rows(tmp_path / UNFILTERED))
    assert seen == [(k, 49) for k in range(1, 50)]


def test_wrong_requests_say_how_to_mend_them(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"has no class 'tenis court'; did you mean 'tennis court'\?"):
        fabricate(tmp_path, pairs=1, seed=0, classes=["tenis court"])
    with pytest.raises(ConfigError, match="Cannot fabricate 0 pairs: ask for at least 1"):
        fabricate(tmp_path, pairs=0, seed=0)
    with pytest.raises(ConfigError, match="Cannot fabricate a benchmark of 0 tiles: ask for at least 1"):
        fabricate(tmp_path, pairs=1, seed=0, benchmark=0)
    with pytest.raises(ConfigError, match="of no class: name at least one"):
        fabricate(tmp_path, pairs=1, seed=0, classes=[])
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match="choose another folder"):
        fabricate(tmp_path / "file", pairs=1, seed=0)


def test_torch_is_not_imported() -> None:
    code = "import sys, skygen.miniature.fabricate; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], cwd=Path(__file__).parents[2], check=False).returncode == 0
