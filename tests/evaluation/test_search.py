"""Search finds what brute force finds, in that order, whatever the files, the precision and the ties."""

from __future__ import annotations

import json
import zipfile
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from jaxtyping import Float64
from PIL import Image

from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.evaluation.search.embedded_set import EmbeddedSet, embed_folder, open_run
from skygen.evaluation.search.nearest import find_embedded, search
from skygen.evaluation.shards import ROWS, EmbeddingShards
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

DIMENSION = 24
DRAW = Seeds(11)


def unit(count: int, *, purpose: str = "rows") -> np.ndarray:
    rows = DRAW.numpy(purpose).standard_normal((count, DIMENSION))
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def write(folder: Path, embeddings: np.ndarray, rows: int = 64) -> EmbeddingShards:
    shards = EmbeddingShards(folder, len(embeddings), rows)
    for number in shards.numbers():
        span = shards.span(number)
        shards.write(number, embeddings[span.start : span.stop])
    return shards


def brute_force(embeddings: np.ndarray, query: np.ndarray, count: int) -> tuple[list[int], Float64[np.ndarray, " found"]]:
    wide = embeddings.astype(np.float64)
    usable = np.flatnonzero(np.isfinite(wide).all(axis=1) & wide.any(axis=1))
    cosines = {row: float((wide[row] * query).sum() / np.linalg.norm(wide[row]) / np.linalg.norm(query)) for row in usable}
    order = sorted(cosines, key=lambda row: (-cosines[row], row))[:count]
    return [int(row) for row in order], np.asarray([cosines[row] for row in order])


@pytest.mark.parametrize("kind", [np.float16, np.float32])
@pytest.mark.parametrize("rows", [64, 1000, 7])
def test_the_nearest_are_those_of_brute_force(kind: type, rows: int, tmp_path: Path) -> None:
    embeddings: np.ndarray = unit(1000).astype(kind)
    shards = write(tmp_path, embeddings, rows)
    queries = 3.0 * unit(4, purpose="queries")
    for count in (1, 20, 999):
        found, cosines = search(shards, queries, count)
        assert found.shape == cosines.shape == (4, count)
        for query, own, values in zip(queries, found, cosines, strict=True):
            expected, reference = brute_force(embeddings, query, count)
            assert own.tolist() == expected
            assert values == pytest.approx(reference, abs=1e-12)
    one, _ = search(shards, queries[2], 20)
    assert one.tolist() == search(shards, queries, 20)[0][2].tolist()


def test_of_equals_the_lower_row_comes_first_wherever_the_files_end(tmp_path: Path) -> None:
    few = unit(3).astype(np.float16)
    embeddings = few[DRAW.numpy("ties").integers(3, size=500)]
    for rows in (64, 500, 9):
        shards = write(tmp_path / str(rows), embeddings, rows)
        for count in (1, 10, 250):
            found, cosines = search(shards, few[0].astype(np.float64), count)
            assert found.tolist() == brute_force(embeddings, few[0].astype(np.float64), count)[0]
            assert (np.diff(cosines) <= 0).all()


def test_differences_below_the_precision_of_float32_decide(tmp_path: Path) -> None:
    base = unit(1)[0].astype(np.float32)
    embeddings = np.tile(base, (200, 1))
    embeddings[np.arange(200), np.arange(200) % DIMENSION] *= np.float32(1 + 2**-22)
    shards = write(tmp_path, embeddings)
    query = unit(1, purpose="queries")[0]
    assert search(shards, query, 30)[0].tolist() == brute_force(embeddings, query, 30)[0]


def test_rows_that_are_zero_or_not_finite_are_never_found(tmp_path: Path) -> None:
    embeddings = unit(100).astype(np.float16)
    embeddings[10:70] = 0
    embeddings[71] = np.nan
    shards = write(tmp_path, embeddings)
    found, _ = search(shards, -unit(1)[0], 100)
    assert sorted(found.tolist()) == [*range(10), 70, *range(72, 100)]
    assert np.flatnonzero(find_embedded(shards)).tolist() == [*range(10), *range(70, 100)]
    assert search(write(tmp_path / "none", np.zeros((5, DIMENSION), np.float16)), unit(2), 3)[0].shape == (2, 0)


def test_only_the_rows_that_are_asked_for_are_searched(tmp_path: Path) -> None:
    embeddings = unit(300).astype(np.float16)
    shards = write(tmp_path, embeddings)
    among = np.zeros(300, bool)
    among[130:200:3] = True
    told: list[tuple[int, int]] = []
    found, _ = search(shards, unit(1, purpose="queries")[0], 5, among=among, progress=lambda *now: told.append(now))
    hidden = np.where(among[:, None], embeddings, np.float16(0))
    assert found.tolist() == brute_force(hidden, unit(1, purpose="queries")[0], 5)[0]
    assert told == [(done, 300) for done in (0, 64, 128, 192, 256, 300)]
    assert search(shards, unit(1)[0], 500, among=among)[0].shape == (among.sum(),)


def test_a_set_that_is_broken_or_of_another_scorer_is_one_sentence(tmp_path: Path) -> None:
    shards = write(tmp_path, unit(100).astype(np.float16))
    name = f"{tmp_path}: file 1 of the embeddings"
    with pytest.raises(
        DataError, match="file 0 of the embeddings has 24 dimensions and the query 7: another CLIP made them; sea"
    ):
        search(shards, np.ones(7), 3)
    with pytest.raises(
        DataError, match=r"^A query's embedding is zero or not finite; look for damaged weights of the scorer\.$"
    ):
        search(shards, np.zeros(DIMENSION), 3)
    with pytest.raises(ValueError, match="count is 0"):
        search(shards, np.ones(DIMENSION), 0)
    (tmp_path / "000001.npy").unlink()
    with pytest.raises(DataError) as missing:
        search(shards, np.ones(DIMENSION), 3)
    assert str(missing.value) == f"{name} is missing; run again what made them, which goes on where it stopped."
    fresh = EmbeddingShards(tmp_path / "damaged", 100, 64)
    fresh.folder.mkdir()
    (fresh.folder / "000000.npy").write_bytes(b"no array")
    with pytest.raises(
        DataError, match=r"file 0 of the embeddings cannot be read \(.+\); delete it, and run again what made it\.$"
    ):
        search(fresh, np.ones(DIMENSION), 3)


def run_of(folder: Path, embeddings: np.ndarray, images: list[str], kept: list[bool]) -> Path:
    """Lay out what a run of score_pairs leaves: a table without the rows whose image could not be read."""
    shards = EmbeddingShards(folder / "embeddings", len(embeddings))
    for number in shards.numbers():
        span = shards.span(number)
        shards.write(number, embeddings[span.start : span.stop])
    table = pa.table({"key": images, "image": images, "caption": [f"of {name}" for name in images], "kept": kept})
    pq.write_table(table, folder / "scores.parquet", row_group_size=1000)
    (folder / "config.yaml").write_text("scorer:\n  name: miniature\n")
    (folder / "run_status.json").write_text(json.dumps({"state": "finished"}))
    return folder


def test_rows_are_shown_though_unreadable_images_are_in_no_table(tmp_path: Path) -> None:
    embeddings = np.ones((ROWS + 50, 2), np.float16)
    embeddings[[0, 7, ROWS]] = 0
    readable = [row for row in range(len(embeddings)) if row not in (0, 7, ROWS)]
    run = run_of(tmp_path / "run", embeddings, [f"{row}.png" for row in readable], [row % 2 == 0 for row in readable])
    opened = open_run(run)
    assert opened is not None
    assert (opened.embeddings.count, opened.scorer, opened.architecture) == (ROWS + 50, "miniature", None)
    rows = np.asarray([ROWS + 49, 1, 8, ROWS + 1, 8, 6])
    assert [str(one.image) for one in opened.show(rows)] == [f"{row}.png" for row in rows]
    assert [one.caption for one in opened.show(rows[:1])] == [f"of {ROWS + 49}.png"]
    assert np.flatnonzero(opened.kept()).tolist() == [row for row in readable if row % 2 == 0]


def test_a_run_that_cannot_be_searched_says_how_to_make_one(tmp_path: Path) -> None:
    assert open_run(tmp_path) is None
    run = tmp_path / "run"
    run.mkdir()
    (run / "run_status.json").write_text("{}")
    with pytest.raises(DataError) as none:
        open_run(run)
    assert str(none.value) == (
        f"{run}: this run has kept no embeddings; score the pairs under another --run.name with recipes/score_pairs.py "
        "--scoring.save_embeddings True."
    )
    write(run / "embeddings", unit(5).astype(np.float16))
    with pytest.raises(
        DataError, match=r"run: this run is not finished; start it again with the same command, which goes on whe"
    ):
        open_run(run)
    run_of(run, unit(5).astype(np.float16), ["1.png"] * 4, [True] * 4)
    opened = open_run(run)
    assert opened is not None
    with pytest.raises(
        DataError, match=r"scores\.parquet has 4 pairs and .+ 5 embedded images; run recipes/score_pairs\.py agai"
    ):
        opened.show(np.asarray([1]))
    (run / "config.yaml").write_text("keep: '0.2'\n")
    with pytest.raises(DataError, match=r"config\.yaml: does not say which scorer made the embeddings"):
        open_run(run)


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    folder = tmp_path / "pictures"
    (folder / "below").mkdir(parents=True)
    for place, colour in enumerate(("red", "green", "blue")):
        Image.new("RGB", (40, 30), colour).save(folder / ("below" if place else "") / f"{colour}.png")
    (folder / "torn.png").write_bytes((folder / "red.png").read_bytes()[:60])
    return folder


def embed(folder: Path, scorer: Scorer) -> tuple[EmbeddedSet, list[tuple[int, int]]]:
    told: list[tuple[int, int]] = []
    return embed_folder(folder, scorer, lambda *now: told.append(now)), told


def test_a_folder_is_embedded_once_and_again_when_it_changes(pictures: Path) -> None:
    scorer = Scorer.load("miniature")
    first, told = embed(pictures, scorer)
    assert told == [(0, 4), (4, 4)]
    assert (first.embeddings.count, first.name, first.scorer) == (4, "pictures", "miniature")
    rows, cosines = search(first.embeddings, scorer.embed_images([pictures / "below" / "blue.png"])[0], 4)
    assert len(rows) == 3  # the torn one is never found
    assert first.show(rows[:1])[0].image == pictures / "below" / "blue.png"
    assert cosines[0] == pytest.approx(1.0, abs=1e-3)
    again, told = embed(pictures, scorer)
    assert told == []
    assert again.embeddings.folder == first.embeddings.folder
    Image.new("RGB", (40, 30), "white").save(pictures / "torn.png")
    changed, told = embed(pictures, scorer)
    assert told == [(0, 4), (4, 4)]
    assert len(search(changed.embeddings, scorer.embed_texts(["white"])[0], 4)[0]) == 4
    with pytest.raises(ConfigError, match=r"^pictures: a folder has no pairs that were kept; leave out --kept\.$"):
        changed.kept()


def test_a_folder_that_cannot_be_embedded_is_one_sentence(
    tmp_path: Path, pictures: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    scorer = Scorer.load("miniature")
    with pytest.raises(UnavailableError, match=r"gone: no such folder; give runs/NAME of recipes/score_pairs\.py, or a folder"):
        embed(tmp_path / "gone", scorer)
    (tmp_path / "torn").mkdir()
    (pictures / "torn.png").rename(tmp_path / "torn" / "torn.png")
    with pytest.raises(DataError, match=r"torn: none of its 1 images can be read; `skygen check` says why\.$"):
        embed(tmp_path / "torn", scorer)
    monkeypatch.setattr("skygen.evaluation.search.embedded_set.LARGEST_FOLDER", 2)
    with pytest.raises(ConfigError, match=r"pictures: holds 3 images, more than the 2 that are embedded here; embed them with"):
        embed(pictures, scorer)


def test_images_in_a_zip_are_shown(tmp_path: Path, pictures: Path) -> None:
    with zipfile.ZipFile(tmp_path / "images2.zip", "w") as archive:
        archive.write(pictures / "red.png", "images2/red.png")
    place = tmp_path / "images2.zip" / "images2" / "red.png"
    scorer = Scorer.load("miniature")
    opened = open_run(run_of(tmp_path / "run", scorer.embed_images([place]).astype(np.float16), [str(place)], [True]))
    assert opened is not None
    assert [one.image for one in opened.show(search(opened.embeddings, scorer.embed_texts(["red"])[0], 3)[0])] == [place]
