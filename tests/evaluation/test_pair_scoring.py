"""Scores of many pairs: the same however the work is cut, and nothing lost to a bad image."""

from __future__ import annotations

import shutil
import zipfile
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from skygen.data.pairs import PairSettings
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.errors import DataError
from skygen.evaluation.pair_scores.caption_index import CaptionIndex
from skygen.evaluation.pair_scores.embedding import at_precision, embed_texts, find_batch_size, find_precision
from skygen.evaluation.pair_scores.scoring import PairScorer, measure_pairs
from skygen.evaluation.shards import EmbeddingShards
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

TRAIN_CSV = Path("SkyScript_train_unfiltered_5M.csv")
ROWS = 16


@pytest.fixture(scope="module")
def scorer(skyclip_folder: Path) -> Scorer:
    return Scorer.load(str(skyclip_folder))


def read(root: Path) -> PairList:
    return PairSettings(root, csv=TRAIN_CSV).read(Rejects(None))


def index(captions: Sequence[Sequence[str] | None]) -> CaptionIndex:
    return CaptionIndex.of([pa.array(captions[:2], pa.list_(pa.string())), pa.array(captions[2:], pa.list_(pa.string()))])


def make(folder: Path, scorer: Scorer, pairs: PairList, **changed: object) -> PairScorer:
    settings = {"batch_size": 8, "rows": ROWS, "rejects": Rejects(None), "max_bad_fraction": 1.0}
    captions = {"captions": CaptionIndex.of(batch["captions"] for batch in pairs.batches())}
    return PairScorer(**{"scorer": scorer, "pairs": pairs, "captions": captions, "folder": folder} | settings | changed)


def run(parts: PairScorer) -> pa.Table:
    parts.embed_texts(0, 1, lambda done, total: None)
    parts.score(0, 1, lambda done, total: None)
    return parts.read()


def column(table: pa.Table, name: str) -> np.ndarray:
    return table.column(name).to_numpy().astype(np.float64)


def test_each_distinct_caption_is_numbered_once() -> None:
    found = index([["a", "b"], ["b"], [], None, ["c", "a"]])
    assert found.texts.to_pylist() == ["a", "b", "c"]
    assert found.members.tolist() == [0, 1, 1, 2, 0]
    assert found.starts.tolist() == [0, 2, 3, 3, 3, 5]
    assert len(found) == 5
    members, owners = found.of_pairs(1, 5)
    assert (members.tolist(), owners.tolist()) == ([1, 2, 0], [0, 3, 3])
    taken = found.take(np.array([4, -1, 0]))
    assert (taken.members.tolist(), taken.starts.tolist()) == ([2, 0, 0, 1], [0, 2, 2, 4])


def test_the_fingerprint_is_of_who_says_what() -> None:
    said = [["a", "b"], ["b"], ["c"]]
    first = index(said).fingerprint()
    assert first == index(said).fingerprint() and len(first) == 16
    assert first not in {index(other).fingerprint() for other in ([["a"], ["b", "b"], ["c"]], [["a", "b"], ["b"], ["d"]])}


def test_similarity_margin_and_mismatch_by_hand() -> None:
    texts = np.array([[1.0, 0.0], [0.0, 1.0], [0.6, 0.8]])
    images = np.array([[1.0, 0.0], [0.0, 1.0], [0.8, 0.6]])
    members, owners = np.array([0, 2, 1]), np.array([0, 0, 1])
    cosines = (images[owners] * texts[members]).sum(axis=1)
    similarity, margin, other = measure_pairs(images, cosines, members, owners, np.array([0, 1, 2]), texts)
    # the first has two captions, and the sample one that is not its own; the third has none
    assert similarity[:2] == pytest.approx([0.8, 1.0])
    assert margin[:2] == pytest.approx([0.8 - 0.0, 1.0 - (0.0 + 0.8) / 2])
    assert other[0] == pytest.approx(0.0)
    assert other[1] in (pytest.approx(0.0), pytest.approx(0.8))
    assert np.isnan([similarity[2], margin[2], other[2]]).all()


def test_the_mismatched_caption_is_never_an_own_one() -> None:
    draw = Seeds(0).numpy("mismatch")
    numbers = np.arange(0, 40, 2)
    references = np.eye(20)
    images = draw.normal(size=(200, 20))
    owners = np.repeat(np.arange(200), 5)
    members = draw.integers(40, size=1000)
    similarity, _, other = measure_pairs(images, np.zeros(1000), members, owners, numbers, references)
    assert np.isfinite(other).all() and not similarity.any()
    chosen = numbers[np.abs(images - other[:, None]).argmin(axis=1)]  # the cosine with reference n is the value at place n
    own = members.reshape(200, 5)
    assert np.isin(own, numbers).sum() > 300
    assert not (chosen[:, None] == own).any()
    assert len(np.unique(chosen)) == 20


def test_a_sample_of_own_captions_alone_says_nothing() -> None:
    images, one = np.ones((2, 1)), np.zeros(1, np.int64)
    similarity, margin, other = measure_pairs(images, np.ones(2), np.zeros(2, np.int64), np.arange(2), one, np.ones((1, 1)))
    assert similarity.tolist() == [1.0, 1.0]
    assert np.isnan(margin).all() and np.isnan(other).all()


def test_texts_cut_after_their_last_word_are_embedded_as_whole_ones(scorer: Scorer) -> None:
    texts = [" ".join(["road", "near", "a", "building", "of", "grass"][: 1 + number % 6]) for number in range(13)]
    expected = scorer.embed_texts(texts)
    assert np.abs(embed_texts(scorer, texts, 4) - expected).max() < 1e-6
    rounded = embed_texts(at_precision(scorer, "bf16"), texts, 4)
    assert rounded.dtype == np.float32
    assert 0 < np.abs(rounded - expected).max() < 0.02
    assert np.linalg.norm(rounded, axis=1) == pytest.approx(1.0, abs=1e-6)


def test_the_machine_is_tried_for_batch_and_precision(scorer: Scorer) -> None:
    assert find_batch_size(scorer, most=16) in (8, 16)
    assert find_precision(scorer, 4) in ("fp32", "bf16")


def test_scores_are_those_of_the_scorer_and_embeddings_its_own(world: Path, scorer: Scorer, tmp_path: Path) -> None:
    pairs = read(world)
    kept = EmbeddingShards(tmp_path / "kept", len(pairs), rows=ROWS)
    found = run(make(tmp_path, scorer, pairs, embeddings=kept))
    images = [pair.image for pair in pairs]
    expected = scorer.similarity(images, [pair.captions[0] for pair in pairs])
    assert len(found) == len(pairs) == 48
    assert np.abs(column(found, "similarity:captions") - expected).max() < 1e-5
    assert np.abs(kept.take(np.arange(48)).astype(np.float32) - scorer.embed_images(images)).max() < 1e-3
    assert kept.map(0).dtype == np.float16
    shards = [pq.read_table(path) for path in sorted((tmp_path / "scores").iterdir())]
    assert [len(shard) for shard in shards] == [16, 16, 16]
    assert [key for shard in shards for key in shard.column("key").to_pylist()] == [pair.key for pair in pairs]


@pytest.mark.parametrize("changed", [{"batch_size": 1}, {"batch_size": 7}, {"batch_size": 100}, {"workers": 2}])
def test_scores_do_not_depend_on_how_the_work_is_cut(
    world: Path, scorer: Scorer, tmp_path: Path, changed: dict[str, int]
) -> None:
    pairs = read(world)
    expected, found = run(make(tmp_path / "a", scorer, pairs)), run(make(tmp_path / "b", scorer, pairs, **changed))
    assert found.column("row").to_pylist() == list(range(48))
    for name in expected.column_names:
        assert np.abs(column(found, name) - column(expected, name)).max() < 1e-5


def test_each_of_several_processes_scores_its_share_and_waits_for_the_others(
    world: Path, scorer: Scorer, tmp_path: Path
) -> None:
    pairs = read(world)
    expected = run(make(tmp_path / "a", scorer, pairs))
    parts = make(tmp_path / "b", scorer, pairs)
    with ThreadPoolExecutor(2) as pool:

        def work(rank: int) -> list[tuple[int, int]]:
            told: list[tuple[int, int]] = []
            parts.embed_texts(rank, 2, lambda done, total: None)
            parts.score(rank, 2, lambda done, total: told.append((done, total)))
            assert all(parts.is_scored(number) for number in parts.shards())
            return told

        told = list(pool.map(work, range(2)))
    assert [own[-1] for own in told] == [(32, 32), (16, 16)]
    assert parts.read().column("row").to_pylist() == list(range(48))
    for name in expected.column_names:
        assert np.abs(column(parts.read(), name) - column(expected, name)).max() < 1e-5


def test_a_second_start_scores_what_is_missing_and_leaves_the_rest(world: Path, scorer: Scorer, tmp_path: Path) -> None:
    pairs = read(world)
    told: list[tuple[int, int]] = []
    parts = make(tmp_path, scorer, pairs)
    expected = run(parts)
    parts.path(1).unlink()
    times = {number: parts.path(number).stat().st_mtime_ns for number in (0, 2)}
    waited = parts.score(0, 1, lambda done, total: told.append((done, total)))
    assert told == [(32, 48), (40, 48), (48, 48)]
    assert 0 < waited < 1
    assert parts.read().equals(expected)
    assert {number: parts.path(number).stat().st_mtime_ns for number in (0, 2)} == times
    assert parts.score(0, 1, lambda done, total: None) == 0
    kept = EmbeddingShards(tmp_path / "kept", 48, rows=ROWS)  # asked for afterwards: then they are made
    again = make(tmp_path, scorer, pairs, embeddings=kept)
    again.score(0, 1, lambda done, total: None)
    assert all(kept.has(number) for number in kept.numbers())


def test_images_inside_zips_score_as_those_in_folders(world: Path, scorer: Scorer, tmp_path: Path) -> None:
    root = tmp_path / "zipped"
    root.mkdir()
    shutil.copy(world / TRAIN_CSV, root)
    folders = sorted(path for path in world.glob("images*") if path.is_dir())
    assert folders
    for folder in folders:
        with zipfile.ZipFile(root / f"{folder.name}.zip", "w") as archive:
            for image in folder.iterdir():
                archive.write(image, f"{folder.name}/{image.name}")
    plain = run(make(tmp_path / "a", scorer, read(world)))
    zipped = run(make(tmp_path / "b", scorer, read(root), workers=1))
    assert len(zipped) == 48
    assert np.abs(column(zipped, "similarity:captions") - column(plain, "similarity:captions")).max() < 1e-6


@pytest.mark.parametrize("bad", [[3], list(range(8, 16)), list(range(16, 32)), list(range(48))])
def test_bad_images_are_noted_and_the_others_scored(world: Path, scorer: Scorer, tmp_path: Path, bad: list[int]) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    pairs = read(root)
    for row in bad:  # one, a batch, a shard, all
        pairs[row].image.write_bytes(b"no image")
    rejects = Rejects(tmp_path / "rejects.jsonl")
    kept = EmbeddingShards(tmp_path / "kept", 48, rows=ROWS)
    found = run(make(tmp_path, scorer, pairs, rejects=rejects, embeddings=kept))
    assert found.column("row").to_pylist() == [row for row in range(48) if row not in bad]
    assert rejects.count == len(bad)
    assert np.flatnonzero(~kept.take(np.arange(48)).any(axis=1)).tolist() == bad
    assert np.isfinite(column(found, "similarity:captions")).all()


def test_too_many_bad_images_end_the_run_before_their_shard_is_written(world: Path, scorer: Scorer, tmp_path: Path) -> None:
    root = tmp_path / "world"
    shutil.copytree(world, root)
    pairs = read(root)
    hidden = pairs[20].image.read_bytes()
    pairs[20].image.unlink()
    with pytest.raises(DataError, match=r"1 of 48 rows or images cannot be used \(2.1%\), more than the 1.0% allowed"):
        run(make(tmp_path, scorer, pairs, rejects=Rejects(None), max_bad_fraction=0.01))
    assert [path.name for path in (tmp_path / "scores").iterdir()] == ["part-000000.parquet"]
    pairs[20].image.write_bytes(hidden)  # the disk is back: nothing is lost
    assert len(run(make(tmp_path, scorer, pairs, rejects=Rejects(None), max_bad_fraction=0.01))) == 48


def test_a_further_column_may_lack_captions(world: Path, scorer: Scorer, tmp_path: Path) -> None:
    pairs = read(world)
    first = CaptionIndex.of(batch["captions"] for batch in pairs.batches())
    further = first.take(np.where(np.arange(48) % 3 == 0, -1, np.arange(48)))
    none = first.take(np.full(48, -1))
    found = run(make(tmp_path, scorer, pairs, captions={"first": first, "further": further, "none": none}))
    present = np.arange(48) % 3 != 0
    for measure in ("similarity", "margin", "mismatched"):
        values = column(found, f"{measure}:further")
        assert np.array_equal(np.isfinite(values), present)
        assert np.isnan(column(found, f"{measure}:none")).all()
    same = np.abs(column(found, "similarity:further") - column(found, "similarity:first"))
    assert same[present].max() < 1e-6


def test_bf16_differs_from_fp32_by_little_and_rescoring_shows_it(world: Path, scorer: Scorer, tmp_path: Path) -> None:
    pairs = read(world)
    exact = column(run(make(tmp_path / "a", scorer, pairs)), "similarity:captions")
    parts = make(tmp_path / "b", at_precision(scorer, "bf16"), pairs)
    rounded = column(run(parts), "similarity:captions")
    assert 1e-6 < np.abs(rounded - exact).max() < 0.02
    rows = np.array([1, 2, 17, 40])
    assert np.abs(parts.rescore(rows, scorer) - exact[rows]).max() < 1e-5
