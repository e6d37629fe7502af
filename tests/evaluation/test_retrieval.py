"""Retrieval as SkyScript measures it: worked by hand, and its random baseline against every ranking there is."""

from __future__ import annotations

from itertools import combinations
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.errors import DataError
from skygen.evaluation import retrieval
from skygen.evaluation.retrieval import (
    first_positive_ranks,
    gather_captions,
    match,
    random_recall,
    ranking_scores,
    retrieval_scores,
)
from skygen.models.scorer import Scorer
from skygen.seeding import Seeds

SEEDS = Seeds(7)
GALLERY = np.array([[1.0, 0.0], [0.8, 0.6], [0.6, 0.8], [0.0, 1.0]])
"""Four unit vectors from east to north: to an eastern query, the earlier the nearer."""
EAST = np.array([1.0, 0.0])


def places(*positives: tuple[int, ...]) -> list[np.ndarray]:
    return [np.array(own) for own in positives]


def test_the_rank_is_that_of_the_best_positive() -> None:
    queries = np.stack([EAST, EAST, EAST, EAST])
    assert first_positive_ranks(queries, GALLERY, places((0,), (2,), (3, 1), (0, 1, 2, 3))).tolist() == [0, 2, 1, 0]


def test_positives_do_not_stand_in_each_others_way_and_lose_ties() -> None:
    alike = np.stack([EAST] * 5)
    assert first_positive_ranks(alike[:2], alike, places((0,), (1, 4))).tolist() == [4, 3]
    gallery = np.stack([EAST, EAST, GALLERY[3]])
    assert first_positive_ranks(alike[:1], gallery, places((0, 1))).tolist() == [0]


def test_ranks_do_not_depend_on_the_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    draw = SEEDS.numpy("vectors")
    queries, gallery = draw.standard_normal((23, 6)), draw.standard_normal((17, 6))
    positives = [np.sort(draw.permutation(17)[: 1 + index % 3]) for index in range(23)]
    whole = first_positive_ranks(queries, gallery, positives)
    monkeypatch.setattr(retrieval, "_BLOCK", 5)
    assert first_positive_ranks(queries, gallery, positives).tolist() == whole.tolist()
    order = np.argsort(-(queries @ gallery.T), axis=1)
    expected = [min(list(row).index(place) for place in own) for row, own in zip(order, positives, strict=True)]
    assert whole.tolist() == expected
    assert len(set(expected)) > 5


def test_embeddings_that_are_not_finite_find_nothing_but_an_error() -> None:
    with pytest.raises(DataError, match="not finite"):
        first_positive_ranks(np.array([[np.nan, 0.0]]), GALLERY, places((0,)))


def test_texts_are_unique_and_positives_many_to_many() -> None:
    texts, of_images, of_texts = match([["one", "two", "one"], ["two"], ["three", "two"]])
    assert texts == ["one", "two", "three"]
    assert [own.tolist() for own in of_images] == [[0, 1], [1], [1, 2]]
    assert [own.tolist() for own in of_texts] == [[0], [0, 1, 2], [2]]


def test_an_image_on_several_rows_is_one_with_all_their_captions() -> None:
    pairs = [
        Pair("1.jpg", Path("1.jpg"), ("one",)),
        Pair("2.jpg", Path("2.jpg"), ("two",)),
        Pair("1.jpg", Path("1.jpg"), ("uno",)),
    ]
    keys, captions = gather_captions(pairs)
    assert captions == {Path("1.jpg"): ["one", "uno"], Path("2.jpg"): ["two"]}
    assert keys == {Path("1.jpg"): "1.jpg", Path("2.jpg"): "2.jpg"}


@pytest.mark.parametrize("gallery", [5, 7])
def test_random_recall_is_the_mean_over_all_rankings(gallery: int) -> None:
    looked_at = 0
    for k in (1, 2, 4):
        tops = list(combinations(range(gallery), k))
        for positives in range(1, gallery + 1):
            expected = np.mean([min(top) < positives for top in tops])  # the first so many are the positives
            assert random_recall(np.array([positives]), gallery, k) == pytest.approx([expected], abs=1e-12)
            looked_at += 1
    assert looked_at == 3 * gallery


def test_random_recall_of_a_gallery_as_large_as_skyscripts() -> None:
    assert random_recall(np.array([1, 2]), 30_000, 100) == pytest.approx([1 / 300, 1 - (299 / 300) * (29_899 / 29_999)])


def test_recalls_are_shares_of_queries_and_stop_before_the_gallery() -> None:
    ranks = np.array([0, 3, 7, 20])
    scores = ranking_scores("image_to_text", ranks, np.ones(4, int), 50, subset="own", extractor="skyclip:x", seeds=SEEDS)
    own = {score.name: score.value for score in scores if score.model == "scorer"}
    assert own == pytest.approx(
        {
            "image_to_text_recall_at_1": 0.25, "image_to_text_recall_at_5": 0.5, "image_to_text_recall_at_10": 0.75,
            "image_to_text_mean_recall": 0.5,
        }
    )  # fmt: skip
    chance = {score.name: score.value for score in scores if score.model == "random"}
    assert list(chance.values()) == pytest.approx([0.02, 0.1, 0.2, 0.32 / 3])
    assert all((score.interval is None) == (score.model == "random") and score.count == 4 for score in scores)
    small = ranking_scores("text_to_image", ranks[:2], np.ones(2, int), 5, subset="own", extractor="skyclip:x", seeds=SEEDS)
    assert [score.name for score in small] == ["text_to_image_recall_at_1"] * 2


def test_pairs_are_retrieved_by_a_scorer_and_a_bad_image_takes_its_own_texts_along(
    skyclip_folder: Path, tmp_path: Path
) -> None:
    scorer = Scorer.load(str(skyclip_folder), batch_size=3)
    pairs = []
    for index in range(8):
        path = tmp_path / f"{index}.png"
        Image.fromarray(SEEDS.numpy("picture", index).integers(256, size=(64, 64, 3), dtype=np.uint8)).save(path)
        pairs.append(Pair(path.name, path, (f"text {index}", "said of all")))
    (tmp_path / "5.png").write_bytes(b"not an image")
    rejects = Rejects(tmp_path / "rejects.jsonl")
    scores = retrieval_scores(scorer, pairs, subset="own", seeds=SEEDS, rejects=rejects)
    counts = {score.name: score.count for score in scores}
    assert counts == {
        "image_to_text_recall_at_1": 7, "image_to_text_recall_at_5": 7,  # 8 texts: none at 10
        "text_to_image_recall_at_1": 8, "text_to_image_recall_at_5": 8,
    }  # fmt: skip
    assert rejects.count == 1
    by_chance = next(score for score in scores if (score.name, score.model) == ("text_to_image_recall_at_1", "random"))
    assert by_chance.value == pytest.approx((7 * (1 / 7) + 1) / 8)
