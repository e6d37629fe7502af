"""All scores in one table: whose they are, and what is written of them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pyarrow.parquet as pq
import pytest

from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.data.table import PairList
from skygen.evaluation.pair_scores.caption_index import CaptionIndex
from skygen.evaluation.pair_scores.scoring import PairScorer
from skygen.evaluation.pair_scores.table import PairScores, write_scores
from skygen.models.scorer import Scorer


def listed(root: Path, names: str) -> PairList:
    pairs = [
        Pair(f"{name}.png", root / f"{name}.png", (f"a {name}", "more"), class_name=name if name > "b" else None)
        for name in names
    ]
    return PairList.of(pairs, root)


@pytest.fixture
def scores(tmp_path: Path) -> PairScores:
    pairs = listed(tmp_path / "one", "abc") + listed(tmp_path / "two", "ad")
    rows = np.array([0, 2, 3, 4])
    columns = {"title": np.array([0.1, 0.2, 0.3, 0.4]), "further": np.array([0.5, np.nan, 0.7, 0.8])}
    return PairScores(pairs, rows, columns, {n: v - 0.1 for n, v in columns.items()}, {n: v * 0 for n, v in columns.items()})


def test_the_first_column_decides_and_facts_are_those_of_the_scored(scores: PairScores) -> None:
    assert scores.deciding.tolist() == [0.1, 0.2, 0.3, 0.4]
    assert scores.column("key").to_pylist() == ["a.png", "c.png", "a.png", "d.png"]
    assert scores.column("class_name").to_pylist() == [None, "c", None, "d"]


def test_a_row_a_scored_pair_with_its_image_and_every_score(scores: PairScores, tmp_path: Path) -> None:
    write_scores(tmp_path / "scores.parquet", scores, np.array([False, True, False, True]))
    table = pq.read_table(tmp_path / "scores.parquet")
    assert table.column_names == [
        "key", "image", "caption", "class_name", "similarity", "margin", "mismatched",
        "similarity:further", "margin:further", "mismatched:further", "kept",
    ]  # fmt: skip
    rows = table.to_pylist()
    assert [row["image"] for row in rows] == [
        str(tmp_path / place) for place in ("one/a.png", "one/c.png", "two/a.png", "two/d.png")
    ]
    assert [row["caption"] for row in rows] == ["a a", "a c", "a a", "a d"]
    assert [row["kept"] for row in rows] == [False, True, False, True]
    assert [row["similarity"] for row in rows] == pytest.approx([0.1, 0.2, 0.3, 0.4])
    assert np.isnan(rows[1]["similarity:further"]) and rows[3]["margin:further"] == pytest.approx(0.7)


def test_shards_are_gathered_in_the_order_of_the_pairs(world: Path, skyclip_folder: Path, tmp_path: Path) -> None:
    images = sorted(world.glob("images*/*"))[:5]
    pairs = PairList.of([Pair(str(path.relative_to(world)), path, (f"scene {path.stem}",)) for path in images], world)
    broken = PairList.of([*pairs[:2], Pair("none.jpg", world / "none.jpg", ("absent",)), *pairs[2:]], world)
    captions = {"captions": CaptionIndex.of(batch["captions"] for batch in broken.batches())}
    scorer = Scorer.load(str(skyclip_folder))
    parts = PairScorer(scorer, broken, captions, tmp_path, Rejects(None), max_bad_fraction=1.0, rows=2)
    parts.embed_texts(0, 1, lambda done, total: None)
    parts.score(0, 1, lambda done, total: None)
    found = PairScores.of(parts, broken)
    assert found.rows.tolist() == [0, 1, 3, 4, 5]
    assert found.column("key").to_pylist() == [pair.key for pair in pairs]
    expected = scorer.similarity(images, [pair.captions[0] for pair in pairs])
    assert found.deciding == pytest.approx(expected, abs=1e-5)
    assert found.deciding.dtype == np.float64
