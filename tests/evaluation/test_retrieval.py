"""Retrieval by both protocols: worked by hand, against plain loops, and its random baseline against every ranking there is."""

from __future__ import annotations

from itertools import combinations
from math import comb
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image

from skygen.data.pair import Pair
from skygen.data.rejects import Rejects
from skygen.errors import DataError
from skygen.evaluation import retrieval
from skygen.evaluation.retrieval import (
    Matches,
    find_repeats,
    first_positive_ranks,
    gather_captions,
    match,
    match_each,
    random_recall,
    ranking_scores,
    remoteclip_scores,
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
    matches = match([["one", "two", "one"], ["two"], ["three", "two"]])
    assert matches.texts == ["one", "two", "three"]
    assert [own.tolist() for own in matches.of_images] == [[0, 1], [1], [1, 2]]
    assert [own.tolist() for own in matches.of_texts] == [[0], [0, 1, 2], [2]]


def test_remoteclip_counts_every_caption_and_gives_it_one_image() -> None:
    matches = match_each([["one", "TWO", "one"], ["two"], ["three", "two"]])
    assert matches.texts == ["One", "Two", "One", "Two", "Three", "Two"]
    assert [own.tolist() for own in matches.of_images] == [[0, 1, 2], [3], [4, 5]]
    assert [own.tolist() for own in matches.of_texts] == [[0], [0], [0], [1], [2], [2]]
    texts, columns = find_repeats(matches.texts)
    assert (texts, columns.tolist()) == (["One", "Two", "Three"], [0, 1, 0, 1, 2, 1])


def test_a_repeated_candidate_stands_at_each_of_its_places() -> None:
    columns = np.array([1, 0, 1, 2])  # gallery places: 0.8, 1.0, 0.8, 0.6
    ranks = first_positive_ranks(np.stack([EAST] * 3), GALLERY[:3], places((0,), (1,), (0, 2)), columns)
    assert ranks.tolist() == [2, 0, 1]


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


def test_remoteclips_six_recalls_and_their_mean() -> None:
    captions = [["a", "b"], ["c"]] * 6  # 12 images, 18 captions
    matches = match_each(captions)
    image_ranks = np.array([0, 5, 9, 10] * 3)
    text_ranks = np.array([0, 0, 4, 7, 8, 11] * 3)
    scores = remoteclip_scores(image_ranks, text_ranks, matches, subset="own", extractor="skyclip:x", seeds=SEEDS)
    own = {score.name: score.value for score in scores if score.model == "scorer"}
    assert own == pytest.approx(
        {
            "image_to_text_recall_at_1_remoteclip": 1 / 4, "image_to_text_recall_at_5_remoteclip": 1 / 4,
            "image_to_text_recall_at_10_remoteclip": 3 / 4, "text_to_image_recall_at_1_remoteclip": 2 / 6,
            "text_to_image_recall_at_5_remoteclip": 3 / 6, "text_to_image_recall_at_10_remoteclip": 5 / 6,
            "mean_recall_remoteclip": (5 / 4 + 10 / 6) / 6,
        }
    )  # fmt: skip
    chance = {score.name: score.value for score in scores if score.model == "random"}
    assert chance["text_to_image_recall_at_5_remoteclip"] == pytest.approx(5 / 12)
    assert chance["image_to_text_recall_at_1_remoteclip"] == pytest.approx(1.5 / 18)
    assert chance["mean_recall_remoteclip"] == pytest.approx(np.mean(list(chance.values())[:6]))
    assert [score.count for score in scores] == [12] * 6 + [18] * 6 + [12] * 2
    small = remoteclip_scores(
        image_ranks[:2], text_ranks[:3], match_each(captions[:2]), subset="own", extractor="skyclip:x", seeds=SEEDS
    )
    assert [score.name for score in small[::2]] == [
        f"{way}_recall_at_1_remoteclip" for way in ("image_to_text", "text_to_image")
    ]


def test_the_intervals_of_remoteclip_resample_images_with_all_their_captions() -> None:
    """Five captions that are found together say no more than one: the interval is that of the images."""
    matches = match_each([[f"{image} {caption}" for caption in range(5)] for image in range(200)])
    image_ranks = np.arange(200) % 2 * 50
    scores = remoteclip_scores(
        image_ranks, np.repeat(image_ranks, 5), matches, subset="own", extractor="skyclip:x", seeds=SEEDS
    )
    widths = [score.interval[1] - score.interval[0] for score in scores if score.interval]
    assert len(widths) == 7
    assert widths == pytest.approx([2 * 1.96 * 0.5 / np.sqrt(200)] * 7, rel=0.1)  # of 1,000 captions it would be 0.062


class Table(torch.nn.Module):
    """A CLIP that looks embeddings up: an image by its brightness, a text by its first number."""

    def __init__(self, images: np.ndarray, texts: np.ndarray) -> None:
        super().__init__()
        self.images = torch.nn.Parameter(torch.from_numpy(images).float())
        self.texts = torch.nn.Parameter(torch.from_numpy(texts).float())

    def encode_image(self, places: Any, normalize: bool) -> Any:
        return self.images[places]

    def encode_text(self, places: Any, normalize: bool) -> Any:
        return self.texts[places]


def make_scorer(images: np.ndarray, texts: np.ndarray) -> Scorer:
    return Scorer(
        "table",
        Table(images, texts),
        lambda picture: torch.tensor(picture.convert("L").getpixel((0, 0))),
        lambda texts: torch.tensor([int(text.split()[1]) for text in texts]),
        {},
        batch_size=5,
    )


def rank_by_sorting(query: int, similarity: list[list[float]], right: set[int]) -> int:
    order = sorted(range(len(similarity[query])), key=lambda place: (-similarity[query][place], place in right))
    return min(order.index(place) for place in right)


def score_by_loops(
    rows: list[tuple[int, int]], images: np.ndarray, texts: np.ndarray, protocol: str
) -> dict[tuple[str, str], float]:
    """Write both protocols down once more, in loops: rows of an image's and a text's number."""
    every = protocol == "remoteclip"
    shown = list(dict.fromkeys(image for image, _ in rows))
    rows = [row for image in shown for row in rows if row[0] == image]
    said = [text for _, text in rows] if every else list(dict.fromkeys(text for _, text in rows))
    near = [[float(sum(a * b for a, b in zip(images[i], texts[t], strict=True))) for t in said] for i in shown]
    across = [[near[i][t] for i in range(len(shown))] for t in range(len(said))]
    if every:
        of_texts = [{shown.index(image)} for image, _ in rows]
    else:
        of_texts = [{shown.index(image) for image, text in rows if text == own} for own in said]
    of_images = [{t for t in range(len(said)) if i in of_texts[t]} for i in range(len(shown))]
    values: dict[tuple[str, str], float] = {}
    for direction, similarity, positives in (("image_to_text", near, of_images), ("text_to_image", across, of_texts)):
        size = len(similarity[0])
        ranks = [rank_by_sorting(query, similarity, right) for query, right in enumerate(positives)]
        means: dict[str, list[float]] = {"scorer": [], "random": []}
        for k in (1, 5, 10) if every else (1, 5, 10, 100):
            if k >= size:
                continue
            own = sum(rank < k for rank in ranks) / len(ranks)
            chance = sum(1 - comb(size - len(right), k) / comb(size, k) for right in positives) / len(positives)
            for model, value in (("scorer", own), ("random", chance)):
                values[f"{direction}_recall_at_{k}{'_remoteclip' * every}", model] = value
                means[model] += [value] * (k <= 10)
        for model, found in means.items():
            if len(found) == 3:
                values[f"{direction}_mean_recall", model] = sum(found) / 3
    if every:
        for model in ("scorer", "random"):
            both = [values.pop((f"{way}_mean_recall", model), None) for way in ("image_to_text", "text_to_image")]
            if None not in both:
                values["mean_recall_remoteclip", model] = sum(value or 0 for value in both) / 2
    return values


@pytest.mark.parametrize("protocol", ["skyscript", "remoteclip"])
def test_both_protocols_agree_with_plain_loops(protocol: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Small whole numbers, so that similarities are exact and tie often; texts repeat on an image and across images."""
    monkeypatch.setattr("skygen.evaluation.scores.bootstrap_interval", lambda *_, **__: (0.0, 1.0))
    monkeypatch.setattr(retrieval, "_image_interval", lambda *_: None)
    for brightness in range(24):
        Image.new("L", (8, 8), brightness).save(tmp_path / f"{brightness}.png")
    repeated = shared = tied = with_mean = 0
    for case in range(250):
        draw = SEEDS.numpy("case", case)
        size, words = int(draw.integers(2, 24)), int(draw.integers(2, 40))
        images, texts = draw.integers(-1, 2, size=(size, 3)), draw.integers(-1, 2, size=(words, 3))
        rows = [(int(image), int(draw.integers(words))) for image in draw.permutation(np.repeat(np.arange(size), 3))]
        pairs = [Pair(f"{image}.png", tmp_path / f"{image}.png", (f"text {text}",)) for image, text in rows]
        scores = retrieval_scores(
            make_scorer(images, texts), pairs, subset="own", seeds=SEEDS, rejects=Rejects(None), protocol=protocol
        )
        expected = score_by_loops(rows, images, texts, protocol)
        assert {(score.name, score.model): score.value for score in scores} == pytest.approx(expected, abs=1e-12), case
        repeated += len(set(rows)) < len(rows)
        shared += any(text == other and image != beside for image, text in rows for beside, other in rows)
        tied += len({(images[image] @ texts[text]).item() for image, text in rows}) < len(set(rows))
        with_mean += any("mean_recall" in score.name for score in scores)
    assert min(repeated, shared, tied) > 150 and with_mean > 80


def test_ties_of_a_caption_with_its_own_repeats_on_other_images_are_lost() -> None:
    """The one place where the rule shows: RemoteCLIP's script leaves it to chance which image's copy comes first."""
    matches: Matches = match_each([["same"], ["same"], ["other"]])
    texts, columns = find_repeats(matches.texts)
    words = np.array([[1.0, 0.0], [0.0, 1.0]])
    assert texts == ["Same", "Other"]
    ranks = first_positive_ranks(np.array([[1.0, 0.0], [0.9, 0.1], [0.0, 1.0]]), words, matches.of_images, columns)
    assert ranks.tolist() == [1, 1, 0]
