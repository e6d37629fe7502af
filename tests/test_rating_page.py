"""The rating page: what a rater sees and sends, and that nothing in it tells a model."""

from __future__ import annotations

import asyncio
import io
import json
import os
import socket
import subprocess
import sys
import time
import urllib.error
import urllib.request
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gradio as gr
import pytest
from gradio.state_holder import SessionState
from PIL import Image, PngImagePlugin

from demo.rating import HEADINGS, WORDS, Config, add_rating, build, main
from demo.rating_room import RatingRoom
from skygen.errors import ConfigError, DataError
from skygen.evaluation.ratings.ballots import ENDS, BallotSettings, read_questionnaire
from skygen.evaluation.ratings.store import FILE, RatingStore

PAGE = Path(__file__).resolve().parents[1] / "demo" / "rating.py"
SECRETS = ("zebra", "tuned", "base-", "/base", "real-", '"real"', "human", "skyclip", "vendi")
"""Run, models and file names; none may reach a browser."""
PROMPT = "An aerial image. It shows: A winding green river."


def draw(path: Path, size: tuple[int, int], shade: int) -> str:
    """Write a picture that tells its model in its metadata, as generated ones do."""
    notes = PngImagePlugin.PngInfo()
    notes.add_text("skygen", json.dumps({"model": "tuned", "adapter": "zebra"}))
    Image.new("RGB", size, (shade, 120, 60)).save(path, pnginfo=notes)
    return str(path)


@pytest.fixture
def run(tmp_path: Path) -> Path:
    """A run with pictures of two sizes, so that size could tell them apart, and captions."""
    folder = tmp_path / "runs" / "zebra"
    folder.mkdir(parents=True)
    pictures, captions = [], []
    for index in range(3):
        sizes = {"real": (60, 40), "base": (32, 32), "tuned": (32, 32)}
        images = {m: draw(folder / f"{m}-{index}.png", size, 10 * len(m) + index) for m, size in sizes.items()}
        pictures.append({"prompt": PROMPT, "seed": index, "skyclip_score": {"tuned": 0.3}} | images)
        said = {"tuned": f"<b>caption</b> {index}", "base": "a **lake**"}
        captions.append({"key": f"k{index}", "image": images["real"], "references": ["a river"], "captions": said})
    for name, rows in (("pictures", pictures), ("captions", captions)):
        (folder / f"{name}.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    return folder


@pytest.fixture
def room(run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> RatingRoom:
    monkeypatch.setenv("GRADIO_TEMP_DIR", str(tmp_path / "sent"))
    return RatingRoom(read_questionnaire([run], BallotSettings(questions=24, shared=16)), RatingStore(tmp_path / "ratings"))


@pytest.fixture
def runner() -> Iterator[asyncio.Runner]:
    """The event loop of a test."""
    with asyncio.Runner() as one:
        yield one


def open_page(room: RatingRoom, runner: asyncio.Runner) -> gr.Blocks:
    """Build the page where a loop is running: elsewhere gradio makes one of its own, and leaves it open."""

    async def build_inside() -> gr.Blocks:
        return build(room)

    return runner.run(build_inside())


class Browser:
    """One rater's browser: presses buttons, and keeps all that it has ever received.

    Args:
        page: that is looked at.
        runner: answers its requests.
    """

    def __init__(self, page: gr.Blocks, runner: asyncio.Runner) -> None:
        self.page, self.runner, self.session = page, runner, SessionState(page)
        config = page.get_config_file()
        self.received = [json.dumps(config, default=str)]
        self.parts = {part["id"]: part for part in config["components"]}
        self.shown = {number: dict(part["props"]) for number, part in self.parts.items()}

    def press(self, words: str, *inputs: Any) -> None:
        """Press the button with these words, or say so where there is none to be seen."""
        (button,) = [n for n in self.shown if self.parts[n]["type"] == "button" and self.shown[n]["value"] == words
                     and self._is_seen(n)]  # fmt: skip
        (function,) = [fn for fn in self.page.fns.values() if (button, "click") in fn.targets]
        given = inputs or [None if isinstance(one, gr.State) else self.shown[one._id].get("value") for one in function.inputs]
        answer = self.runner.run(self.page.process_api(function, list(given), state=self.session, in_event_listener=True))
        self.received.append(json.dumps(answer["data"], default=str))
        for one, value in zip(function.outputs, answer["data"], strict=True):
            if isinstance(value, dict) and value.get("__type__") == "update":
                self.shown[one._id].update(value)
            else:
                self.shown[one._id]["value"] = value

    def _is_seen(self, number: int) -> bool:
        block = self.page.blocks[number]
        while block is not None and block._id in self.shown:
            if self.shown[block._id].get("visible") is False:
                return False
            block = block.parent
        return True

    def seen(self, kind: str) -> list[Any]:
        """List the values of the components of a kind that can be seen."""
        return [self.shown[n].get("value") for n in self.parts if self.parts[n]["type"] == kind and self._is_seen(n)]

    def buttons(self) -> list[str]:
        return [words for words in self.seen("button") if words not in ("Back", "Begin")]

    def images(self) -> list[Image.Image]:
        paths = [Path(value["path"]) for value in self.seen("image")]
        self.received += [path.read_bytes().decode("latin-1") for path in paths] + list(map(str, paths))
        return [Image.open(io.BytesIO(path.read_bytes())) for path in paths]


def test_a_rater_goes_through_all_questions_and_every_answer_is_kept(room: RatingRoom, runner: asyncio.Runner) -> None:
    browser = Browser(open_page(room, runner), runner)
    browser.press("Begin", "Anna")
    ballot = room.questionnaire.ballot("anna")
    kinds = set()
    for place, asked in enumerate(ballot.asked):
        item, kind = asked.question.item, asked.question.kind
        kinds.add((item.subject, kind))
        assert HEADINGS[item.subject, kind] in browser.seen("markdown")
        assert f"Question {place + 1} of 24<" in browser.seen("html")[0]
        low, high = ENDS[item.subject]
        five = [f"1 · {low}", "2", "3", "4", f"5 · {high}"]
        assert browser.buttons() == (list(WORDS.values()) if kind == "pair" else five)
        assert browser.seen("textbox") == ([PROMPT] if item.subject == "pictures" else list(asked.made))
        images = browser.images()
        assert len(images) == (2 if (item.subject, kind) == ("pictures", "pair") else 1)
        if item.subject == "pictures":
            for image, path in zip(images, asked.made, strict=True):
                with Image.open(path) as original:
                    assert image.getpixel((5, 5)) == original.getpixel((5, 5))
        browser.press(browser.buttons()[place % 3])
    assert len(kinds) == 4
    assert any("Thank you" in str(words) and "24 of 24" in str(words) for words in browser.seen("markdown"))
    kept = room.store.read().kept
    assert [(one.question, one.models) for one in kept] == [(asked.question.id, asked.models) for asked in ballot.asked]
    answers = [("left", "same", "right")[n % 3] if a.question.kind == "pair" else n % 3 + 1 for n, a in enumerate(ballot.asked)]
    assert [one.answer for one in kept] == answers


def test_nothing_that_a_browser_receives_tells_a_model(room: RatingRoom, runner: asyncio.Runner) -> None:
    browser = Browser(open_page(room, runner), runner)
    browser.press("Begin", "anna")
    sizes = set()
    for asked in room.questionnaire.ballot("anna").asked:
        images = browser.images()
        if asked.question.item.subject == "pictures":
            sizes |= {image.size for image in images}
        browser.press(browser.buttons()[0])
    assert len(browser.received) > 80
    told = [(secret, text[:200]) for secret in SECRETS for text in browser.received[1:] if secret in text]
    assert told == []
    assert not any(secret in browser.received[0] for secret in ("zebra", "tuned", "skyclip"))
    assert len(sizes) == 1  # a real image of 60 x 40 pixels is like a drawn one of 32 x 32


def test_two_raters_answer_at_once_each_in_an_order_of_their_own(room: RatingRoom, runner: asyncio.Runner) -> None:
    page = open_page(room, runner)
    anna, bert = Browser(page, runner), Browser(page, runner)
    anna.press("Begin", "anna")
    bert.press("Begin", "bert")
    for _ in range(6):
        for browser in (anna, bert):
            browser.press(browser.buttons()[1])
    kept = room.store.read().kept
    for rater in ("anna", "bert"):
        mine = [one.question for one in kept if one.rater == rater]
        assert mine == [asked.question.id for asked in room.questionnaire.ballot(rater).asked[:6]]


def test_a_rater_who_comes_back_goes_on_and_can_change_the_last_answer(room: RatingRoom, runner: asyncio.Runner) -> None:
    browser = Browser(open_page(room, runner), runner)
    browser.press("Begin", "anna")
    browser.press("Left")
    browser.press("Left")
    again = Browser(open_page(room, runner), runner)
    again.press("Begin", " Anna ")
    assert "Question 3 of 24<" in again.seen("html")[0]
    again.press("Back")
    again.press("Right")
    assert "Question 3 of 24<" in again.seen("html")[0]
    ratings = room.store.read()
    assert sorted(str(one.answer) for one in ratings.kept) == ["left", "right"]
    assert ratings.replaced == 1


def test_a_click_that_comes_too_late_answers_no_question_that_was_not_seen(room: RatingRoom) -> None:
    sitting = room.begin("anna")
    after = room.answer(sitting, 0, "left")
    assert room.answer(after, 0, "right") == after
    assert len(room.store.read().kept) == 1
    with pytest.raises(ConfigError, match="5 is no answer here"):
        room.answer(after, 1, 5)


def test_a_question_whose_picture_turns_out_damaged_is_passed_over_without_a_word_of_its_path(
    room: RatingRoom, runner: asyncio.Runner, caplog: pytest.LogCaptureFixture
) -> None:
    first = room.questionnaire.ballot("anna").asked[0]
    place = first.made[0] if isinstance(first.made[0], Path) else first.question.item.image
    assert place is not None
    place.write_bytes(place.read_bytes()[:60])
    browser = Browser(open_page(room, runner), runner)
    browser.press("Begin", "anna")
    assert "Question 1 of" not in browser.seen("html")[0]
    assert "a question is passed over" in caplog.text
    assert not any("zebra" in text for text in browser.received)
    answered = 0
    while browser.buttons():
        browser.press(browser.buttons()[0])
        answered += 1
    assert 12 < answered < 24
    assert any(f"{answered} of 24" in str(words) for words in browser.seen("markdown"))


def test_a_name_that_is_none_is_refused_in_words(room: RatingRoom, runner: asyncio.Runner) -> None:
    browser = Browser(open_page(room, runner), runner)
    with pytest.raises(gr.Error, match="at least one letter or digit"):
        browser.press("Begin", "  ")
    assert not room.store.path.exists()


def test_rating_can_be_a_tab_of_another_page(room: RatingRoom, runner: asyncio.Runner) -> None:
    async def build_tabs() -> gr.Blocks:
        with gr.Blocks() as page:
            with gr.Tab("Draw"):
                gr.Button("Draw")
            with gr.Tab("Rate"):
                add_rating(room)
        return page.queue(default_concurrency_limit=1)

    browser = Browser(runner.run(build_tabs()), runner)
    browser.press("Begin", "anna")
    browser.press("No difference")
    assert [one.answer for one in room.store.read().kept] == ["same"]


def test_a_small_picture_is_enlarged_pixel_by_pixel_and_a_large_one_made_smaller(run: Path, tmp_path: Path) -> None:
    for model in ("real", "base", "tuned"):
        draw(run / f"{model}-0.png", (2000, 1500), 99)
    room = RatingRoom(read_questionnaire([run], BallotSettings(kinds=("five",), questions=99)), RatingStore(tmp_path))
    sides = set()
    for place, asked in enumerate(room.questionnaire.ballot("anna").asked):
        sitting = room.begin("anna")
        _, view = room.view(type(sitting)(sitting.ballot, place, frozenset()))
        assert view is not None
        sides.add((asked.question.item.subject, asked.question.item.words == "", *view.images[0].size))
    assert {size[2:] for size in sides if size[0] == "pictures"} == {(768, 768), (1024, 1024)}
    assert {size[2:] for size in sides if size[0] == "captions"} == {(1024, 768), (720, 480)}


def test_a_run_without_anything_to_rate_is_refused_before_the_page_opens(tmp_path: Path) -> None:
    config = Config((tmp_path,))
    assert config.server.host == "127.0.0.1"
    with pytest.raises(DataError, match=r"has neither pictures\.jsonl nor captions\.jsonl; give runs of"):
        main(config)


@pytest.fixture
def served(run: Path, tmp_path: Path) -> Iterator[str]:
    """Serve the page as a user does, in a process of its own, and give its address."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    temporary = tmp_path / "temporary"
    temporary.mkdir()
    settings = ["--folder", str(tmp_path / "ratings"), "--ballot.kinds", "pair", "--server.port", str(port)]
    environment = {**os.environ, "TMPDIR": str(temporary)}
    server = subprocess.Popen([sys.executable, PAGE, run, *settings], stderr=subprocess.PIPE, text=True, env=environment)
    try:
        assert server.stderr is not None
        assert server.stderr.readline() == "18 questions, 18 for each rater\n"
        assert server.stderr.readline() == f"The page: http://127.0.0.1:{port} (Ctrl-C ends it)\n"
        end = time.monotonic() + 120
        while time.monotonic() < end:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/").close()
                break
            except urllib.error.URLError:
                time.sleep(0.3)
        yield f"http://127.0.0.1:{port}"
    finally:
        server.terminate()
        server.communicate()
    assert list(temporary.glob("skygen-demo-*")) == []


def call(address: str, config: dict[str, Any], function: dict[str, Any], data: list[Any], session: str) -> str:
    """Ask the served page for something as its script does, and return all that it sends back."""
    asked = {"data": data, "fn_index": function["id"], "session_hash": session}
    request = urllib.request.Request(
        f"{address}{config['api_prefix']}/queue/join", json.dumps(asked).encode(), {"Content-Type": "application/json"}
    )
    urllib.request.urlopen(request).close()
    with urllib.request.urlopen(f"{address}{config['api_prefix']}/queue/data?session_hash={session}") as stream:
        return str(stream.read().decode())


@pytest.mark.slow
def test_the_served_page_keeps_answers_and_tells_no_model(served: str, tmp_path: Path) -> None:
    with urllib.request.urlopen(f"{served}/config") as answer:
        text = answer.read().decode()
    config = json.loads(text)
    received = [text]
    for rater in ("anna", "bert"):
        session = uuid.uuid4().hex[:11]
        begin, back, left, *_ = config["dependencies"]
        assert len(back["inputs"]) == 1
        received.append(call(served, config, begin, [rater], session))
        for place in range(18):
            received.append(call(served, config, left, [None, place], session))
        assert "Thank you" in received[-1]
    assert not any(secret in text for secret in ("zebra", "tuned", "skyclip") for text in received)
    assert not any(secret in text for secret in SECRETS for text in received[1:])
    kept = RatingStore(tmp_path / "ratings").read().kept
    assert [(one.rater, one.answer) for one in kept] == [("anna", "left")] * 18 + [("bert", "left")] * 18
    for path in (f"file={tmp_path / 'runs' / 'zebra' / 'tuned-0.png'}", f"file={tmp_path / 'ratings' / FILE}"):
        with pytest.raises(urllib.error.HTTPError) as refused:
            urllib.request.urlopen(f"{served}{config['api_prefix']}/{path}")
        refused.value.close()
        assert refused.value.code in (403, 404)
