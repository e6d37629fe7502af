"""Human ratings: what is asked, that no answer is lost, and what the answers come to."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections import Counter
from dataclasses import asdict, replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from PIL import Image

from skygen.commands.rating import rate as rate_command
from skygen.errors import ConfigError, DataError, StorageError
from skygen.evaluation.ratings.ballots import BallotSettings, Questionnaire, read_questionnaire
from skygen.evaluation.ratings.store import FILE, Rating, RatingStore, check_rater, rate
from skygen.evaluation.ratings.summary import Summary, summarise, write_summary
from skygen.evaluation.reports.report import merge_metrics
from skygen.evaluation.scores import Score, from_metrics
from skygen.seeding import Seeds

PROMPTS = [f"An aerial image. It shows: scene {index}." for index in range(10)]


def write_lines(path: Path, rows: list[dict[str, Any]]) -> None:
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def draw(path: Path, shade: int = 90) -> str:
    path.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (16, 16), (shade, 90, 60)).save(path)
    return str(path)


def make_pictures(run: Path, models: tuple[str, ...] = ("real", "base", "tuned"), shade: int = 0) -> Path:
    rows = []
    for index, prompt in enumerate(PROMPTS):
        images = {m: draw(run / f"{m}-{index}.png", shade + 10 * place) for place, m in enumerate(models)}
        rows.append({"prompt": prompt, "seed": index, "skyclip_score": {}} | images)
    write_lines(run / "pictures.jsonl", rows)
    return run


def make_captions(run: Path, data: Path) -> Path:
    rows = []
    for index in range(6):
        said = {"tuned": f"caption {index}", "base": "always this", "shuffled": "anything", "constant": "a court"}
        image = draw(data / f"{index}.png")
        rows.append({"key": f"k{index}", "image": image, "references": [f"people say {index}"], "captions": said})
    write_lines(run / "captions.jsonl", rows)
    return run


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return make_pictures(tmp_path / "runs" / "zebra")


@pytest.fixture
def captions(tmp_path: Path) -> Path:
    return make_captions(tmp_path / "runs" / "yak", tmp_path / "data")


def ask(*runs: Path, **settings: Any) -> Questionnaire:
    return read_questionnaire(runs, BallotSettings(**settings))


def ids(questionnaire: Questionnaire, rater: str) -> list[str]:
    return [asked.question.id for asked in questionnaire.ballot(rater).asked]


def test_every_pair_and_every_picture_can_be_asked_about(pictures: Path) -> None:
    questionnaire = ask(pictures)
    kinds = Counter((question.kind, question.models) for question in questionnaire.questions)
    assert kinds == {
        ("pair", ("real", "zebra/base")): 10,
        ("pair", ("real", "zebra/tuned")): 10,
        ("pair", ("zebra/base", "zebra/tuned")): 10,
        ("five", ("real",)): 10,
        ("five", ("zebra/base",)): 10,
        ("five", ("zebra/tuned",)): 10,
    }
    assert len({question.id for question in questionnaire.questions}) == 60
    assert (questionnaire.missing, questionnaire.equal, questionnaire.notes) == (0, 0, ())
    assert {question.item.words for question in questionnaire.questions} == set(PROMPTS)


def test_captions_are_asked_about_beside_peoples_and_without_those_that_look_at_no_image(captions: Path) -> None:
    questionnaire = ask(captions)
    assert {model for question in questionnaire.questions for model in question.models} == {"human", "yak/base", "yak/tuned"}
    one = next(asked for asked in questionnaire.ballot("anna").asked if asked.question.kind == "pair")
    assert all(isinstance(caption, str) for caption in one.made)
    assert one.question.item.image is not None
    named = ask(captions, models=("tuned", "shuffled"))
    assert {model for question in named.questions for model in question.models} == {"yak/shuffled", "yak/tuned"}
    with pytest.raises(ConfigError, match=r"No run has a model 'tunde'; there are human, yak/base"):
        ask(captions, models=("tunde",))


def test_a_list_of_mere_captions_can_be_rated(tmp_path: Path) -> None:
    write_lines(tmp_path / "written" / "captions.jsonl", [{"file_name": draw(tmp_path / "a.png"), "text": "a lake"}])
    (question,) = ask(tmp_path / "written").questions
    assert (question.kind, question.models) == ("five", ("written/caption",))


def test_a_ballot_follows_from_contents_seed_and_rater(pictures: Path, tmp_path: Path) -> None:
    first = ask(pictures, seed=3).ballot("anna")
    assert ask(pictures, seed=3).ballot("anna") == first
    assert ask(pictures, seed=3).ballot("bert") != first
    assert ask(pictures, seed=4).ballot("anna") != first
    rows = (pictures / "pictures.jsonl").read_text().splitlines(keepends=True)
    (pictures / "pictures.jsonl").write_text("".join(rows[:-1]))
    assert ask(pictures, seed=3).ballot("anna") != first


def test_everybody_is_asked_the_shared_questions_first_and_has_others_after(pictures: Path) -> None:
    questionnaire = ask(pictures, questions=24, shared=12)
    ballots = [ids(questionnaire, rater) for rater in ("anna", "bert", "carla")]
    assert {len(set(ballot)) for ballot in ballots} == {24}
    assert len({frozenset(ballot[:12]) for ballot in ballots}) == 1
    assert len({tuple(ballot[:12]) for ballot in ballots}) == 3  # each in an order of its own
    assert len({frozenset(ballot[12:]) for ballot in ballots}) == 3
    assert len(ids(ask(pictures, questions=500), "anna")) == 60


def test_what_is_compared_is_compared_equally_often_and_one_kind_after_the_other(pictures: Path) -> None:
    asked = ask(pictures, questions=36, shared=18).ballot("anna").asked
    assert set(Counter((one.question.kind, one.question.models) for one in asked).values()) == {6}
    kinds = [one.question.kind for one in asked]
    assert kinds == ["pair"] * 9 + ["five"] * 9 + ["pair"] * 9 + ["five"] * 9


def test_the_side_is_a_coin_of_rater_and_question(pictures: Path) -> None:
    questionnaire = ask(pictures, questions=60, kinds=("pair",))
    turned = [asked.models != asked.question.models for rater in "abcdefghijkl" for asked in questionnaire.ballot(rater).asked]
    assert len(turned) == 12 * 30
    assert 0.4 < sum(turned) / len(turned) < 0.6
    one = [asked.models for rater in "abcdefghijkl" for asked in questionnaire.ballot(rater).asked[:1]]
    assert len(set(one)) > 2


def test_two_runs_are_told_apart_and_real_images_belong_to_neither(tmp_path: Path) -> None:
    first, second = (make_pictures(tmp_path / "runs" / name, shade=shade) for name, shade in (("zebra", 0), ("yak", 70)))
    questionnaire = ask(first, second, kinds=("five",))
    names = {model for question in questionnaire.questions for model in question.models}
    assert names == {"real", "zebra/base", "zebra/tuned", "yak/base", "yak/tuned"}
    pairs = ask(first, second, kinds=("pair",))
    assert len(pairs.questions) == 10 * 10  # of five models
    assert ids(pairs, "anna") == ids(ask(second, first, kinds=("pair",)), "anna")  # whichever was named first


def test_a_question_has_the_same_id_beside_other_runs_and_another_one_when_its_run_is_made_anew(tmp_path: Path) -> None:
    first, second = make_pictures(tmp_path / "runs" / "zebra"), make_pictures(tmp_path / "runs" / "yak", shade=70)
    alone = {question.id for question in ask(first).questions}
    assert alone < {question.id for question in ask(first, second).questions}
    text = (first / "pictures.jsonl").read_text()
    (first / "pictures.jsonl").write_text(text.replace('"skyclip_score": {}', '"skyclip_score": {"base": 0.25}'))
    assert {question.id for question in ask(first).questions if question.models != ("real",)}.isdisjoint(alone)


def test_a_missing_image_costs_its_questions_and_a_damaged_line_a_note(pictures: Path) -> None:
    (pictures / "tuned-3.png").unlink()
    with (pictures / "pictures.jsonl").open("a") as file:
        file.write('{"prompt": "cut sho')
    questionnaire = ask(pictures)
    assert questionnaire.missing == 3  # two pairs, and the picture alone
    assert len(questionnaire.questions) == 57
    assert questionnaire.notes == ("zebra: pictures.jsonl: 1 line could not be read and was left out, the first is line 11.",)


def test_two_that_are_the_same_are_not_laid_side_by_side(captions: Path) -> None:
    text = (captions / "captions.jsonl").read_text()
    (captions / "captions.jsonl").write_text(text.replace("always this", "caption 2"))
    questionnaire = ask(captions)
    assert questionnaire.equal == 1
    assert len(questionnaire.questions) == 6 * 6 - 1


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"questions": 0}, "questions is 0; ask every rater at least 1."),
        ({"shared": -1}, "shared is -1; give 0 or more"),
        ({"kinds": ()}, "kinds is empty; name pair, five"),
        ({"kinds": ("pair", "pair")}, "kinds is pair pair; name pair, five"),
    ],
)
def test_settings_that_cannot_be_meant_are_refused(pictures: Path, settings: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        ask(pictures, **settings)


def test_folders_without_anything_to_rate_are_refused(tmp_path: Path, pictures: Path) -> None:
    with pytest.raises(DataError, match="no such folder"):
        ask(tmp_path / "nowhere")
    (tmp_path / "bare").mkdir()
    with pytest.raises(DataError, match=r"bare: has neither pictures\.jsonl nor captions\.jsonl"):
        ask(pictures, tmp_path / "bare")
    for path in pictures.glob("*.png"):
        path.unlink()
    with pytest.raises(DataError, match="nothing can be asked; 60 questions lack an image"):
        ask(pictures)


# The store


def rating(question: str = "q", rater: str = "anna", answer: str | int = "left", **changed: Any) -> Rating:
    kind = "pair" if isinstance(answer, str) else "five"
    models = ("r/tuned", "r/base") if kind == "pair" else ("r/tuned",)
    usual: dict[str, Any] = {"subject": "pictures", "item": question, "models": models, "runs": {"r": "c0ffee"}}
    time = "2026-01-02T03:04:05+00:00"
    return Rating(**{"question": question, "kind": kind, "rater": rater, "answer": answer, "time": time, **usual, **changed})


def test_what_is_added_is_read_back(tmp_path: Path) -> None:
    store, given = RatingStore(tmp_path / "new" / "ratings"), [rating(), rating("r", answer=4), rating("s", "bert", "same")]
    for one in given:
        store.add(one)
    ratings = store.read()
    assert ratings.kept == tuple(given)
    assert (ratings.replaced, ratings.damaged) == (0, ())
    assert store.answered("anna") == {"q", "r"}
    assert RatingStore(tmp_path / "empty").answered("anna") == frozenset()


def test_an_answer_says_what_was_shown_where_and_when(pictures: Path, tmp_path: Path) -> None:
    asked = ask(pictures, kinds=("pair",)).ballot("anna").asked[0]
    RatingStore(tmp_path).add(rate(asked, "Anna", "right"))
    (line,) = map(json.loads, (tmp_path / FILE).read_text().splitlines())
    assert line["models"] == list(asked.models)
    assert (line["answer"], line["rater"], line["kind"], line["subject"]) == ("right", "anna", "pair", "pictures")
    assert line["item"] == asked.question.item.key
    assert line["runs"] == dict(asked.question.runs)
    given = datetime.fromisoformat(line["time"])
    assert given.tzinfo == UTC
    assert given.microsecond == 0
    assert abs((datetime.now(UTC) - given).total_seconds()) < 60
    with pytest.raises(ConfigError, match="3 is no answer here; give one of left, right, same"):
        rate(asked, "anna", 3)


def test_a_second_answer_replaces_the_first(tmp_path: Path) -> None:
    store = RatingStore(tmp_path)
    for one in (rating(answer="left"), rating("r"), rating(rater="bert"), rating(answer="right")):
        store.add(one)
    ratings = store.read()
    assert [(one.rater, one.question, one.answer) for one in ratings.kept] == [
        ("anna", "r", "left"), ("bert", "q", "left"), ("anna", "q", "right"),
    ]  # fmt: skip
    assert ratings.replaced == 1
    assert len((tmp_path / FILE).read_text().splitlines()) == 4  # nothing is taken away


def test_a_line_that_was_cut_short_spoils_no_other(tmp_path: Path) -> None:
    store = RatingStore(tmp_path)
    store.add(rating())
    whole = (tmp_path / FILE).read_bytes()
    (tmp_path / FILE).write_bytes(whole + whole[: len(whole) // 2])
    assert store.read().damaged == ("line 2: cut short, or no JSON",)
    store.add(rating("r"))
    ratings = store.read()
    assert [one.question for one in ratings.kept] == ["q", "r"]
    assert ratings.damaged == ("line 2: cut short, or no JSON",)


def changed(**fields: Any) -> str:
    return json.dumps(asdict(rating()) | fields)


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        ("\xff\xfe not text", "cut short, or no JSON"),
        ("[" * 100_000, "cut short, or no JSON"),
        ("[1, 2]", "it is not laid out as skygen writes it"),
        ("7", "it is not laid out as skygen writes it"),
        ('{"kind": "pair"}', "it has no 'subject'"),
        (changed(kind="six"), "'six' or 'pictures' is not known"),
        (changed(kind=["pair"]), "['pair'] or 'pictures' is not known"),
        (changed(models=["r/tuned"]), "a pair has 2 models"),
        (changed(models=["r/tuned", "r/tuned"]), "a pair has 2 models"),
        (changed(models=[["r"], "r/tuned"]), "it is not laid out as skygen writes it"),
        (changed(answer=True), "the answer True is none of left, right, same"),
        (changed(answer=4), "the answer 4 is none of left, right, same"),
        (changed(kind="five", models=["r/tuned"], answer=True), "the answer True is none of 1, 2, 3, 4, 5"),
        (changed(kind="five", models=["r/tuned"], answer=6), "the answer 6 is none of 1, 2, 3, 4, 5"),
        (changed(rater="  "), "Give a name with at least one letter or digit, the same one each time"),
        (changed(time="yesterday"), "Invalid isoformat string: 'yesterday'"),
        (changed(runs=["r"]), "it is not laid out as skygen writes it"),
    ],
)
def test_a_damaged_line_is_named_and_not_fatal(tmp_path: Path, line: str, reason: str) -> None:
    store = RatingStore(tmp_path)
    store.add(rating())
    with (tmp_path / FILE).open("ab") as file:
        file.write(line.encode("latin-1") + b"\n")
    store.add(rating("r"))
    ratings = store.read()
    assert [one.question for one in ratings.kept] == ["q", "r"]
    assert ratings.damaged == (f"line 2: {reason}",)


def test_two_processes_lose_no_answer(tmp_path: Path) -> None:
    script = (
        "import sys; from pathlib import Path\n"
        "from skygen.evaluation.ratings.store import Rating, RatingStore\n"
        "store, rater, time = RatingStore(Path(sys.argv[1])), sys.argv[2], '2026-01-01T00:00:00'\n"
        "for n in range(200):\n"
        "    store.add(Rating(f'q{n}', 'five', 'captions', 'i' * n, rater, ('r/tuned',), 1 + n % 5, {}, time))\n"
    )
    writers = [subprocess.Popen([sys.executable, "-c", script, str(tmp_path), rater]) for rater in ("anna", "bert")]
    assert [writer.wait() for writer in writers] == [0, 0]
    ratings = RatingStore(tmp_path).read()
    assert (ratings.damaged, ratings.replaced) == ((), 0)
    for rater in ("anna", "bert"):
        mine = [one for one in ratings.kept if one.rater == rater]
        assert [(one.question, one.answer, len(one.item)) for one in mine] == [(f"q{n}", 1 + n % 5, n) for n in range(200)]


def test_capitals_and_spaces_make_no_other_rater() -> None:
    assert check_rater("  Anna \t Lee ") == check_rater("anna lee") == "anna lee"
    assert check_rater("E\N{COMBINING ACUTE ACCENT}va") == check_rater("\N{LATIN SMALL LETTER E WITH ACUTE}va")
    assert check_rater("../etc") == "../etc"  # a name like any other: it is no part of a path


@pytest.mark.parametrize("name", ["", "  ", "...", "a" * 41, "anna\x00", "an\N{RIGHT-TO-LEFT OVERRIDE}na", "\udc80a"])
def test_a_name_that_is_none_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match="name"):
        check_rater(name)


def test_a_folder_that_cannot_be_written_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(StorageError, match=r"ratings\.jsonl: cannot be written"):
        RatingStore(tmp_path / "file").add(rating())
    with pytest.raises(DataError, match="no ratings there; collect some with"):
        RatingStore(tmp_path).read()
    (tmp_path / FILE).mkdir()
    with pytest.raises(StorageError, match="cannot be read"):
        RatingStore(tmp_path).read()


# The summary


def sum_up(tmp_path: Path, ratings: list[Rating]) -> Summary:
    store = RatingStore(tmp_path)
    for one in ratings:
        store.add(one)
    return summarise(store.read(), seeds=Seeds(5))


def find(summary: Summary, name: str) -> dict[str, Score]:
    return {score.model: score for score in summary.scores if score.name == name}


def test_preferences_ratings_and_strengths_are_those_of_the_answers(tmp_path: Path) -> None:
    pairs = ["left", "left", "left", "same", "right"]  # tuned on the left: 3 wins, a tie, a defeat
    given = [rating(f"q{n}", answer=answer) for n, answer in enumerate(pairs)]
    given += [rating("q5", answer="right", models=("r/base", "r/tuned"))]  # a win on the right
    given += [rating(f"f{n}", answer=answer) for n, answer in enumerate((5, 4, 3))]
    given += [rating("f3", answer=1, models=("r/base",))]
    summary = sum_up(tmp_path, given)
    assert (summary.raters, summary.ratings, summary.replaced, summary.damaged) == (1, 10, 0, 0)
    preference, strength = find(summary, "human_preference"), find(summary, "bradley_terry")
    assert preference["tuned"].value == pytest.approx(4.5 / 6)
    assert preference["base"].value == pytest.approx(1.5 / 6)
    assert preference["tuned"].count == 6
    odds = (5.0 / 2.0) ** 0.5  # half a win and half a defeat more; the mean model lies halfway on the scale of logarithms
    assert strength["tuned"].value == pytest.approx(odds / (1 + odds))
    assert find(summary, "human_rating")["tuned"].value == pytest.approx(4.0)
    assert find(summary, "human_rating")["base"] == Score("human_rating", 1.0, 1, None, "base", "pictures")
    for score in (preference["tuned"], strength["tuned"], find(summary, "human_rating")["tuned"]):
        assert score.interval is not None
        assert score.interval[0] < score.value < score.interval[1]
    assert find(summary, "ratings")["pair"].value == 6
    assert summary.notes == (
        "krippendorff_alpha of pictures, pair, is left out: no question has been answered by two raters.",
        "krippendorff_alpha of pictures, five, is left out: no question has been answered by two raters.",
    )


def test_the_latest_answer_counts(tmp_path: Path) -> None:
    summary = sum_up(tmp_path, [rating(answer="left"), rating(answer="right")])
    assert find(summary, "human_preference")["tuned"].value == 0.0
    assert (summary.ratings, summary.replaced) == (1, 1)


def test_raters_who_choose_the_same_pictures_agree_wherever_these_stood(tmp_path: Path) -> None:
    best = {f"q{n}": "r/tuned" if n % 4 else "r/base" for n in range(40)}
    given = []
    for question, model in best.items():
        for rater, models in (("anna", ("r/tuned", "r/base")), ("bert", ("r/base", "r/tuned"))):
            given.append(rating(question, rater, "left" if models[0] == model else "right", models=models))
    alpha = find(sum_up(tmp_path / "same", given), "krippendorff_alpha")["pair"]
    assert alpha.value == pytest.approx(1.0)
    assert alpha.count == 40
    sides = find(sum_up(tmp_path / "sides", [replace(one, answer="left") for one in given]), "krippendorff_alpha")["pair"]
    assert sides.value < -0.9  # who always takes the left one contradicts the other each time


def test_raters_who_all_like_one_model_better_do_agree(tmp_path: Path) -> None:
    given = [rating(f"q{n}", rater, "left") for n in range(40) for rater in ("anna", "bert", "carla")]
    given += [rating(f"f{n}", rater, 1 + n % 5) for n in range(10) for rater in ("anna", "bert")]
    alphas = find(sum_up(tmp_path, given), "krippendorff_alpha")
    assert [alphas[kind].value for kind in ("pair", "five")] == pytest.approx([1.0, 1.0])


def test_pictures_and_captions_are_summed_up_apart(tmp_path: Path) -> None:
    given = [rating("q"), rating("q2", answer="right", subject="captions", runs={"r": "decaf"})]
    summary = sum_up(tmp_path, given)
    shares = {
        score.subset: score.value for score in summary.scores if (score.name, score.model) == ("human_preference", "tuned")
    }
    assert shares == {"pictures": 1.0, "captions": 0.0}
    assert not any("made anew" in note for note in summary.notes)  # the lists of both have fingerprints of their own


def test_models_of_several_runs_keep_their_full_names_and_groups_without_a_common_scale_are_named(tmp_path: Path) -> None:
    other = {"models": ("s/tuned", "s/base"), "runs": {"s": "abc"}}
    summary = sum_up(tmp_path, [rating("q"), rating("q2", **other)])
    assert set(find(summary, "human_preference")) == {"r/tuned", "r/base", "s/tuned", "s/base"}
    assert find(summary, "bradley_terry") == {}
    note = "bradley_terry of pictures is left out: No pair joins these groups of models, which have no common scale: "
    assert note + "r/base, r/tuned; s/base, s/tuned. Rate pairs across them." in summary.notes


def test_a_run_that_was_made_anew_and_damaged_lines_are_noted(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("nothing\n" * 5)
    summary = sum_up(tmp_path, [rating("q"), rating("q2", runs={"r": "decaf"})])
    damaged, anew, *_ = summary.notes
    assert damaged == (
        "ratings.jsonl: 5 damaged lines were passed over: line 1: cut short, or no JSON; line 2: cut short, or no JSON; "
        "line 3: cut short, or no JSON; and 2 more."
    )
    assert anew == "r was rated before and after it was made anew; both are summed up together."
    assert summary.damaged == 5


def test_answers_about_one_item_do_not_narrow_the_interval(tmp_path: Path) -> None:
    answers = ["left", "right", "left", "left", "right", "left", "left", "left"]
    once = [rating(f"q{n}", "anna", answer) for n, answer in enumerate(answers)]
    often = [replace(one, rater=rater) for one in once for rater in ("anna", "bert", "carla", "dora")]
    alone, many = (find(sum_up(tmp_path / str(len(some)), some), "human_preference")["tuned"] for some in (once, often))
    assert (alone.value, alone.interval, alone.count) == (many.value, many.interval, many.count)


def test_nothing_to_sum_up_is_told(tmp_path: Path) -> None:
    (tmp_path / FILE).write_text("nothing\n")
    with pytest.raises(DataError, match=r"There is no rating to sum up \(damaged lines: 1\)"):
        write_summary(tmp_path, seeds=Seeds(0))


def test_the_command_prints_a_table_writes_metrics_and_the_report_reads_them(tmp_path: Path) -> None:
    for one in (rating("q"), rating("q2", answer="same"), rating("q2", "bert", "left")):
        RatingStore(tmp_path).add(one)
    answer = rate_command(tmp_path)
    heading, columns, _, *rows = answer.text.splitlines()
    assert heading == f"{tmp_path}: 3 ratings of 2 raters, 0 earlier answers replaced"
    assert columns.startswith("metric")
    assert rows[-1] == str(tmp_path / "metrics.json")
    assert re.search(r"^human_preference +tuned +0\.8333 ", answer.text, re.MULTILINE)
    written = json.loads((tmp_path / "metrics.json").read_text())
    assert json.loads(rate_command(tmp_path, as_json=True).text) == written
    assert written["protocol"] == "skygen-human-1"
    assert written["ratings"]["raters"] == 2
    merged = merge_metrics([tmp_path])
    assert from_metrics(json.loads(json.dumps(merged))) == from_metrics(written)
    assert merged["protocol"] == "skygen-human-1"


def test_the_same_seed_gives_the_same_bytes(tmp_path: Path) -> None:
    for n in range(12):
        RatingStore(tmp_path).add(rating(f"q{n}", answer="left" if n % 3 else "right"))
    texts = []
    for _ in range(2):
        write_summary(tmp_path, seeds=Seeds(1))
        texts.append((tmp_path / "metrics.json").read_bytes())
    assert texts[0] == texts[1]
