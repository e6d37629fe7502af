"""Caption scores against coco-caption's own output, against closed forms, and on input that is not as it should be."""

from __future__ import annotations

import json
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from skygen.errors import DataError
from skygen.evaluation.captions.coco_caption import (
    CaptionScore,
    TokenizedCaptions,
    bleu_from_statistics,
    bleu_statistics,
    score_captions,
    score_tokens,
)
from skygen.evaluation.captions.tokens import tokenize_caption

NAMES = ["bleu_1", "bleu_2", "bleu_3", "bleu_4", "rouge_l", "cider_d"]
ORACLES = {"rsicd_test_class_mode": 1093, "sydney_test_leave_one_out": 58}


@pytest.fixture(params=sorted(ORACLES))
def oracle(request: pytest.FixtureRequest, shared_data: Callable[[str], Path]) -> dict[str, Any]:
    content: dict[str, Any] = json.loads((shared_data("oracle_caption_metrics") / f"{request.param}.json").read_text())
    assert len(content["items"]) == ORACLES[request.param]
    return content


def expect_oracle(scores: dict[str, CaptionScore], oracle: dict[str, Any]) -> None:
    items, corpus = oracle["items"], oracle["corpus"]
    theirs = {f"bleu_{n}": (corpus[f"Bleu_{n}"], [item["Bleu"][n - 1] for item in items]) for n in (1, 2, 3, 4)}
    theirs["rouge_l"] = corpus["ROUGE_L"], [item["ROUGE_L"] for item in items]
    theirs["cider_d"] = corpus["CIDEr"], [item["CIDEr"] for item in items]
    assert list(scores) == NAMES
    for name, score in scores.items():
        assert score.corpus == pytest.approx(theirs[name][0], rel=0, abs=1e-9), name
        np.testing.assert_allclose(score.items, theirs[name][1], rtol=0, atol=1e-9, err_msg=name)


def test_scores_of_the_oracle_tokens_are_those_of_coco_caption(oracle: dict[str, Any]) -> None:
    captions = TokenizedCaptions(
        tuple(tuple(item["hypothesis_tokens"].split()) for item in oracle["items"]),
        tuple(tuple(tuple(text.split()) for text in item["reference_tokens"]) for item in oracle["items"]),
    )
    expect_oracle(score_tokens(captions), oracle)


def test_scores_of_raw_captions_are_those_of_coco_caption(oracle: dict[str, Any]) -> None:
    items = oracle["items"]
    expect_oracle(score_captions([i["hypothesis"] for i in items], [i["references"] for i in items]), oracle)


def test_every_token_is_that_of_the_treebank_tokenizer(oracle: dict[str, Any]) -> None:
    pairs = [(item["hypothesis"], item["hypothesis_tokens"]) for item in oracle["items"]]
    for item in oracle["items"]:
        pairs += zip(item["references"], item["reference_tokens"], strict=True)
    assert len(pairs) >= 5 * len(oracle["items"])
    assert [raw for raw, tokens in pairs if " ".join(tokenize_caption(raw)) != tokens] == []


# What Stanford CoreNLP 3.4.1 answered to the same text, lower-cased and with coco-caption's punctuation list removed.
TREEBANK = {
    "A man can't, won't; it hasn't.": "a man ca n't wo n't it has n't",
    "It's the boy's and the boys' field; they're there": "it 's the boy 's and the boys field they 're there",
    "cannot gonna 'tis": "can not gon na 't is",
    "water\u2019s “quoted” \u2018single\u2019 `tick` 'hot desert'": "water 's quoted single tick hot desert",
    "(round) [square] {curly}": "-lrb- round -rrb- -lsb- square -rsb- -lcb- curly -rcb-",
    "a well-known T-shirt - and -- more": "a well-known t-shirt and more",
    "some_word _lead a__b pond_382(1": "some_word _ lead a __ b pond_382 -lrb- 1",
    "St. Mary's in the U.S. at 5 a.m. near ft. x": "st. mary 's in the u.s. at 5 a.m. near ft. x",
    "no. 5 and no. The approx. size": "no. 5 and no the approx size",
    "trees.The road... is , there": "trees.the road is there",
    "50% of $100 & #1 at 10:30, 1,000 m² or 1.5m": "50 % of $ 100 & # 1 at 10:30 1,000 m ² or 1.5 m",
    "and/or 1/2 8/9": "and/or 1/2 8/9",
    "Really? yes! what?!": "really yes what ?!",
    "10m/px 3.5km/h 45.5°W p#q": "10m/px 3.5 km/h 45.5 ° w p #q",
    "AT&T a&b A.B. Smith": "at&t a & b a.b. smith",
    "café Île-de-France": "café île-de-france",
    " . , ": "",
    "": "",
}


@pytest.mark.parametrize("caption", list(TREEBANK))
def test_tokens_follow_the_treebank(caption: str) -> None:
    assert " ".join(tokenize_caption(caption)) == TREEBANK[caption]


def test_a_caption_equal_to_a_reference_scores_full() -> None:
    hypotheses = ["many green trees are near a lake .", "two planes are parked at the airport ."]
    references = [["A river.", "Many green trees are near a lake"], ["two planes are parked at the airport"]]
    scores = score_captions(hypotheses, references)
    for name in NAMES[:5]:
        assert scores[name].corpus == pytest.approx(1.0, abs=1e-8)
    assert scores["cider_d"].items[1] == pytest.approx(10.0)


def test_a_tiny_corpus_computed_by_hand() -> None:
    scores = score_captions(["a b c", "x"], [["a b d e", "q r"], ["x y"]])
    # Item 0: lengths 4 and 2 are both one token off: the shorter counts, no penalty. 2 of 3 words, 1 of 2 bigrams.
    assert scores["bleu_1"].items[0] == pytest.approx(2 / 3, abs=1e-8)
    assert scores["bleu_2"].items[0] == pytest.approx(math.sqrt(2 / 3 * 1 / 2), abs=1e-8)
    # Item 1: one word against two: the penalty is exp(1 - 2/1).
    assert scores["bleu_1"].items[1] == pytest.approx(math.exp(-1), abs=1e-8)
    # Corpus: 3 of 4 words match, 1 of 2 bigrams; lengths 4 and 2 + 2, so no penalty: not the mean of the items.
    assert scores["bleu_1"].corpus == pytest.approx(3 / 4, abs=1e-8)
    assert scores["bleu_2"].corpus == pytest.approx(math.sqrt(3 / 4 * 1 / 2), abs=1e-8)
    # ROUGE-L of item 0: precision 2/3, recall 2/4.
    assert scores["rouge_l"].items[0] == pytest.approx(2.44 * (2 / 3) * (1 / 2) / (1 / 2 + 1.44 * 2 / 3))
    # CIDEr-D of item 1: all idf are log 2; one word of two matches with cosine 1/sqrt 2; lengths in bigrams are 0 and 1.
    assert scores["cider_d"].items[1] == pytest.approx(10 / 4 / math.sqrt(2) * math.exp(-1 / 72))
    assert scores["cider_d"].corpus == pytest.approx(scores["cider_d"].items.mean())


def test_a_repeated_word_is_clipped() -> None:
    scores = score_captions(["the the the the", "cat"], [["the cat on the mat", "the dog"], ["dog"]])
    assert scores["bleu_1"].items[0] == pytest.approx(2 / 4 * math.exp(1 - 5 / 4), abs=1e-8)


@pytest.mark.parametrize("empty", ["", " ", ".", "\n"])
def test_an_empty_caption_scores_zero_and_spoils_no_other(empty: str) -> None:
    full = score_captions(["a b c d", "e f g h"], [["a b c d"], ["x y z w", ""]])
    half = score_captions(["a b c d", empty], [["a b c d"], ["x y z w", ""]])
    for name in NAMES:
        assert half[name].items[0] == pytest.approx(full[name].items[0])
        assert half[name].items[1] == pytest.approx(0.0, abs=1e-8)
        assert math.isfinite(half[name].corpus)


def test_statistics_of_resampled_items_give_the_score_of_the_resampled_corpus() -> None:
    hypotheses = ["a b c d e", "a b x d", "q w e r t y"]
    references = [["a b c d f", "a b"], ["a b c d e"], ["q w e t y r", "q w e"]]
    statistics = bleu_statistics(TokenizedCaptions.from_text(hypotheses, references))
    picked = [2, 0, 2]
    resampled = score_captions([hypotheses[i] for i in picked], [references[i] for i in picked])
    computed = bleu_from_statistics(statistics[picked].sum(axis=0))
    np.testing.assert_allclose(computed, [resampled[f"bleu_{n}"].corpus for n in (1, 2, 3, 4)], rtol=1e-12)
    counts = np.array([[1, 0, 2], [1, 1, 1]])
    assert bleu_from_statistics(counts @ statistics).shape == (2, 4)


@pytest.mark.parametrize(
    ("hypotheses", "references", "sentence"),
    [
        ([], [], "There is no caption to score; give at least one hypothesis with its references."),
        (
            ["a", "b"],
            [["a"]],
            "There are 2 hypotheses but references for 1 items; "
            "give one list of references for each hypothesis, in the same order.",
        ),
        (
            ["a", "b", "c"],
            [["a"], ["b"], []],
            "Item 2 has no reference caption; give it at least one or leave the item out.",
        ),
        (
            ["a", "b"],
            [["a"], "b"],
            "The references of item 1 are one string; give a list of captions, even of one.",
        ),
    ],
)
def test_captions_that_do_not_belong_together_are_refused(hypotheses: list[str], references: list[Any], sentence: str) -> None:
    with pytest.raises(DataError) as error:
        score_captions(hypotheses, references)
    assert str(error.value) == sentence
