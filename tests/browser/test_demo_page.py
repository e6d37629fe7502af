"""The demo in a browser, tab by tab, as somebody uses it who has never seen it."""

from __future__ import annotations

import json
import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from browser_client import Visit, browsing, find_browser, visiting
from fabricated_runs import make_evaluation
from PIL import Image
from serving_client import ROOT, free_port, serving

from skygen import cli
from skygen.models.adapters import LoraSettings
from skygen.models.diffusion import Diffusion
from skygen.seeding import Seeds

pytest.importorskip("playwright", reason="the browser's tests need playwright: pip install -e '.[test]'")
pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(find_browser() is None, reason="the browser's tests need the system's Chromium: apt install chromium"),
]
TABS = ("Generate", "Caption", "Score", "Search", "Compare", "Rate", "About")
RIVER = "A winding green river."
PROMPT = f"An aerial image. It shows: {RIVER}"
CONTRASTS = """
() => {
  const parse = text => (text.match(/[0-9.]+/g) || []).map(Number);
  const light = colour => {
    const [r, g, b] = colour.map(part => part / 255).map(v => v <= 0.04045 ? v / 12.92 : ((v + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const behind = one => {
    for (; one; one = one.parentElement) {
      const colour = parse(getComputedStyle(one).backgroundColor);
      if (colour.length === 3 || colour[3] === 1) return colour;
    }
    return [255, 255, 255];
  };
  const weak = [];
  let tried = 0;
  const texts = document.createTreeWalker(document.body, NodeFilter.SHOW_TEXT);
  while (texts.nextNode()) {
    const one = texts.currentNode.parentElement, words = texts.currentNode.textContent.trim();
    if (!/[a-z]{2}/i.test(words) || !one.checkVisibility({opacityProperty: true, visibilityProperty: true})) continue;
    if (!one.getClientRects().length || one.closest("[disabled], style, script, svg")) continue;
    const [a, b] = [light(parse(getComputedStyle(one).color)), light(behind(one))];
    const contrast = (Math.max(a, b) + 0.05) / (Math.min(a, b) + 0.05);
    tried += 1;
    if (contrast < 4.5) weak.push([words.slice(0, 40), Math.round(10 * contrast) / 10]);
  }
  return {tried, weak};
}
"""
"""Finds words whose contrast with what is behind them is below 4.5 to 1, as WCAG 2 defines it."""
TOO_WIDE = """
() => {
  const scrolls = one => /auto|scroll/.test(getComputedStyle(one).overflowX);
  const isInside = one => {
    for (let up = one.parentElement; up && up.tagName !== "MAIN"; up = up.parentElement) if (scrolls(up)) return true;
    return false;
  };
  const all = [...document.querySelectorAll("main *")].filter(one => one.checkVisibility() && one.getClientRects().length);
  const reaching = all.filter(one => one.getBoundingClientRect().right > innerWidth + 1);
  const wide = reaching.filter(one => !one.closest("svg, .tab-container") && !isInside(one));
  return {tried: all.length, wide: wide.map(one => `${one.tagName}.${one.className}: ${one.textContent.trim().slice(0, 40)}`)};
}
"""
"""Finds what reaches beyond the right edge of the window, and is not in something that scrolls by itself."""
REFUSED = ("Traceback", 'File "', str(ROOT))
"""What no page may say."""


@dataclass(frozen=True)
class Opened:
    """The page that is served, what it was given, and the browser."""

    browser: Any
    address: str
    folder: Path

    def pictures(self) -> list[Path]:
        return sorted((self.folder / "images").glob("*.png"))


def make_adapter(folder: Path) -> None:
    """Save an adapter of the miniature's generator that acts, and has learned nothing."""
    trained = Diffusion.load("miniature").attach(LoraSettings(rank=2), Seeds(1), base="miniature")
    with torch.no_grad():
        for name, parameter in trained.parameters.items():
            parameter.copy_(0.1 * torch.randn(parameter.shape, generator=Seeds(2).generator(name)))
    trained.save(folder)


@pytest.fixture(scope="session")
def opened(world: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Opened]:
    """Start the demo as a user does, with something to show on every tab."""
    from skygen.studio.examples import draw_examples

    folder, port = tmp_path_factory.mktemp("browser"), free_port()
    (folder / "images").mkdir()
    draw_examples(folder / "images")
    make_adapter(folder / "adapter")
    for name, raised in (("first", 0.0), ("second", 0.02), ("third", -0.02)):
        make_evaluation(folder / "runs" / name, folder, raised=raised)
    cli.main(["audit", str(world), "--output", str(folder / "audit")])
    settings = [f"--server.port={port}", f"--diffusion.adapter={folder / 'adapter'}", f"--runs={folder / 'runs'}"]
    settings += ["--rate", str(folder / "runs" / "first"), f"--ratings={folder / 'ratings'}", f"--audit={folder / 'audit'}"]
    settings += [f"--studio.images={folder / 'images'}", f"--studio.training={folder / 'images'}"]
    with serving(ROOT / "demo" / "app.py", folder, *settings, port=port) as served, browsing() as browser:
        yield Opened(browser, served.address, folder)


@pytest.fixture
def visit(opened: Opened) -> Iterator[Visit]:
    """Somebody has the page open, which neither complains nor asks for anything elsewhere."""
    with visiting(opened.browser, opened.address) as visitor:
        yield visitor
        assert visitor.complaints == []
        assert visitor.foreign == []
        assert visitor.asked > 20
        assert not any(words in visitor.text() for words in REFUSED)


def shown_states(visit: Visit) -> list[list[list[str]]]:
    """Return what the gallery of drawn pictures has shown, in order: words and address of each picture."""
    states: list[list[list[str]]] = visit.page.evaluate("window.seen")
    return [state for state in states if state]


def read_record(path: Path) -> dict[str, Any]:
    with Image.open(path) as image:
        found: dict[str, Any] = json.loads(image.info["skygen"])
        assert "trainedAlgorithmicMedia" in image.info["XML:com.adobe.xmp"]
    return found


def test_every_tab_opens(visit: Visit) -> None:
    names = visit.page.get_by_role("tab").all_inner_texts()
    assert tuple(dict.fromkeys(names)) == TABS
    for name in TABS:
        visit.open_tab(name)
        assert visit.page.get_by_role("tab", name=name, exact=True).first.get_attribute("aria-selected") == "true"


def test_a_picture_is_seen_while_it_is_drawn_and_its_file_says_that_it_is_synthetic(visit: Visit, tmp_path: Path) -> None:
    visit.choose_example(RIVER, PROMPT)
    visit.expand("How they are drawn")
    visit.fill("number input for Pictures", "1")
    visit.fill("number input for Candidates each", "2")
    visit.fill("number input for Steps", "60")
    visit.press("Draw")
    visit.wait_for("All candidates of this picture")
    states = shown_states(visit)
    previews = [state[0] for state in states if state[0][0].startswith("drawing, ")]
    done = [int(words.split()[1]) for words, _ in previews]
    assert len({address for _, address in previews}) >= 2
    assert done == sorted(done)
    assert re.fullmatch(r"SkyCLIP -?0\.\d{3}", states[-1][0][0])

    ranks = visit.page.locator(".caption-label", has_text=re.compile(r"^\d\. SkyCLIP")).all_inner_texts()
    scores = [float(words.split()[-1]) for words in ranks]
    assert [words.partition(".")[0] for words in ranks] == ["1", "2"]
    assert scores == sorted(scores, reverse=True)
    beside = visit.wait_for("| tuned ").inner_text()
    assert f"tuned {scores[0]:.3f}" in beside
    halves = visit.page.get_by_test_id("imageslider-image").evaluate_all("all => all.map(one => one.src)")
    assert len(set(halves)) == 2

    visit.page.get_by_role("button", name="Thumbnail 1 of 1").locator("visible=true").first.click()
    with visit.page.expect_download() as download:
        visit.page.get_by_role("button", name="Download", exact=True).locator("visible=true").first.click()
    download.value.save_as(tmp_path / "kept.png")
    record = read_record(tmp_path / "kept.png")
    assert (record["text"], record["synthetic"], record["skyclip_score"]) == (PROMPT, True, pytest.approx(scores[0], abs=6e-4))


def test_who_waits_is_told_and_stop_ends_the_drawing(visit: Visit, opened: Opened) -> None:
    visit.choose_example(RIVER, PROMPT)
    visit.expand("How they are drawn")
    visit.fill("number input for Pictures", "8")
    visit.fill("number input for Steps", "100")
    visit.press("Draw")
    visit.page.wait_for_function("window.seen.some(state => state.length)")
    with visiting(opened.browser, opened.address) as other:
        other.choose_example(RIVER, PROMPT)
        other.fill("number input for Pictures", "1")
        other.press("Draw")
        other.wait_for(re.compile(r"queue: \d+/\d+"))
        visit.press("Stop")
        other.wait_for(re.compile(r"^SkyCLIP -?0\.\d{3}$"))  # one thing computes at a time: what was stopped has ended
        assert (other.complaints, other.foreign) == ([], [])
    visit.page.wait_for_function("!document.querySelector('.thumbnail-lg img[alt^=drawing]')")
    assert visit.page.locator(".thumbnail-lg").locator("visible=true").count() < 8
    visit.fill("number input for Pictures", "1")
    visit.fill("number input for Steps", "2")
    visit.press("Draw")
    visit.wait_for("| tuned ")
    assert len(shown_states(visit)[-1]) == 1


def test_what_cannot_be_drawn_is_told_on_the_page(visit: Visit) -> None:
    visit.press("Draw")
    visit.wait_for("Write a prompt of 1 to 300 characters; this one has 0.")
    visit.fill("What is to be seen", PROMPT)
    visit.fill("Seed", "-1")
    visit.press("Draw")
    visit.wait_for("The seed is -1; choose 0 to 2147483647.")
    visit.expand("How they are drawn")
    visit.fill("Width", "33")
    visit.fill("Seed", "3")
    visit.press("Draw")
    visit.wait_for("The width is 33; choose a multiple of ")


def test_a_prompt_that_is_too_long_for_the_model_is_shown_cut(visit: Visit) -> None:
    visit.fill("What is to be seen", f"{'a ' * 90}green river beside a lake")
    visit.expand("How they are drawn")
    visit.fill("number input for Pictures", "1")
    visit.fill("number input for Steps", "2")
    visit.press("Draw")
    assert "The prompt is cut at 64 tokens." in visit.wait_for("The prompt is cut at").inner_text()
    assert "green river beside a lake" in visit.wait_for("The model has not read its end").inner_text()


def test_a_picture_is_described_and_many_at_once(visit: Visit, opened: Opened) -> None:
    first, second, *_ = opened.pictures()
    broken = opened.folder / "broken.png"
    broken.write_bytes(b"\x89PNG\r\n\x1a\nnothing more")
    visit.open_tab("Caption")
    visit.press("Describe")
    visit.wait_for("Choose a picture first.")
    visit.upload(first)
    visit.press("Describe")
    visit.wait_for("Agreement of the candidates")
    caption = visit.page.locator("label", has_text="Caption").locator("textarea").first.input_value()
    assert len(caption.split()) > 3
    assert caption in visit.text()  # it leads the ranking too
    visit.expand("Many pictures at once")
    visit.upload(first, second, broken, button=1)
    visit.press("Describe all")
    visit.wait_for("cannot be read: ")
    assert visit.page.locator("tbody tr", has_text=".png").locator("visible=true").count() == 3


def test_a_picture_is_scored_and_what_is_nearest_is_shown(visit: Visit, opened: Opened) -> None:
    harbour = opened.folder / "images" / "harbour.png"
    visit.open_tab("Score")
    visit.upload(harbour)
    visit.fill("Texts, one a line", "a satellite image of a harbour\na satellite image of a river")
    visit.press("Score")
    visit.wait_for(re.compile(r"^1\.00 · harbour$"))
    said = visit.text()
    assert said.index("a satellite image of a harbour\n") < said.index("a satellite image of a river\n")
    classes = said.partition("Classes\n")[2]
    assert re.match(r"\s*harbour\s+\d", classes)
    assert "Nearest: Images" in said
    assert "Nearest: Training images" in said
    found = visit.page.locator(".caption-label").locator("visible=true").all_inner_texts()
    assert [words for words in found if words == "1.00 · harbour"] == ["1.00 · harbour"] * 2
    assert len(found) == 8


def test_images_are_found_by_words_and_by_a_picture(visit: Visit, opened: Opened) -> None:
    visit.open_tab("Search")
    visit.choose_example("a harbour with boats", "a harbour with boats")
    visit.press("Search by words")
    visit.wait_for(re.compile(r"^0\.\d\d · harbour$"))
    labels = visit.page.locator(".caption-label").locator("visible=true")
    assert labels.count() == len(opened.pictures())
    assert labels.first.inner_text().endswith("harbour")
    visit.upload(opened.folder / "images" / "island.png")
    visit.press("Search by picture")
    visit.wait_for(re.compile(r"^1\.00 · island$"))
    assert labels.first.inner_text() == "1.00 · island"


def test_runs_stand_side_by_side_with_their_paired_differences(visit: Visit) -> None:
    visit.open_tab("Compare")
    visit.press("Compare")
    visit.wait_for("Paired differences")
    visit.wait_for("each stands against the first")
    said = visit.text()
    assert said.index("With 95 % confidence intervals.") < said.index("Paired differences")
    assert len(re.findall(r"^(?:first|second|third): tuned minus (?:first|second|third): tuned$", said, re.MULTILINE)) == 1
    assert len(re.findall(r"^(?:first|second|third): tuned minus base$", said, re.MULTILINE)) == 2
    assert "12 of 16 prompts" in said
    assert visit.page.locator("table img").locator("visible=true").count() == 12 * 7


def test_an_answer_of_a_rater_is_kept(visit: Visit, opened: Opened) -> None:
    visit.open_tab("Rate")
    visit.fill("Your name", "anna")
    visit.press("Begin")
    visit.wait_for("Question 1 of ")
    answer = visit.page.get_by_role("button", name=re.compile(r"^(No difference|3)$")).locator("visible=true").first
    answer.click()
    visit.wait_for("Question 2 of ")
    (line,) = (opened.folder / "ratings" / "ratings.jsonl").read_text(encoding="utf-8").splitlines()
    assert "anna" in line


def test_the_page_says_what_is_real_and_where_the_data_lie(visit: Visit) -> None:
    visit.open_tab("About")
    said = visit.wait_for("What is real, and what is not").inner_text() and visit.text()
    assert "A model drew them; they show no real place." in said
    assert "drawn by rules" in said
    maps = visit.page.locator("svg[role=img][aria-label^='map of the world']")
    assert maps.count() == 1
    colours = maps.locator("path").evaluate_all("all => all.map(one => getComputedStyle(one).fill)")
    assert len(colours) > 2
    assert "rgb(0, 0, 0)" not in colours  # a colour that the page does not know is drawn black


@pytest.mark.parametrize(("scheme", "width"), [("dark", 1280), ("light", 400)])
def test_nothing_is_wider_than_the_screen_and_words_stand_out(opened: Opened, scheme: str, width: int) -> None:
    looks = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
    with visiting(opened.browser, opened.address, **looks) as visit:
        for name in TABS:
            visit.open_tab(name)
            if name == "Compare":
                visit.press("Compare")
                visit.wait_for("Paired differences")
            edges = visit.page.evaluate(TOO_WIDE)
            assert edges["tried"] > 30, name
            assert edges["wide"] == [], name
            weak = visit.page.evaluate(CONTRASTS)
            assert weak["tried"] > 5, name
            assert weak["weak"] == [], name
