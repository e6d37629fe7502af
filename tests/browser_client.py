"""A browser on a page of the demo, as people have it: it notes what the page asks for, and what it complains of."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

NAMES = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
ALSO_HARMLESS = ("data:", "blob:")
WATCHING = """
() => {
  window.seen = [];
  const note = () => {
    const shown = [...document.querySelectorAll(".thumbnail-lg img")].map(image => [image.alt, image.src])
      .filter(([words]) => /^(drawing|SkyCLIP)/.test(words));
    const last = window.seen[window.seen.length - 1];
    if (JSON.stringify(shown) !== JSON.stringify(last)) window.seen.push(shown);
  };
  new MutationObserver(note).observe(document.body, {subtree: true, childList: true, attributes: true});
}
"""
"""Notes every state of a page's large pictures: the words beneath and the address of each."""


def find_browser() -> str | None:
    """Return where the system's own Chromium is; playwright's would have to be downloaded."""
    return next((found for name in NAMES if (found := shutil.which(name))), None)


@contextmanager
def browsing() -> Iterator[Any]:
    """Start a browser without a window."""
    from playwright.sync_api import sync_playwright

    with sync_playwright() as playwright:
        # without a sandbox of its own, as containers allow none; no page but this machine's own is opened
        browser = playwright.chromium.launch(executable_path=find_browser(), args=["--no-sandbox", "--disable-gpu"])
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Visit:
    """Somebody who has the page open.

    Args:
        page: of playwright.
        complaints: of the browser's console, and errors of the page's scripts.
        foreign: addresses beyond the page that it has asked for; none is let through.
        asked: requests of the page itself.
    """

    page: Any
    complaints: list[str] = field(default_factory=list)
    foreign: list[str] = field(default_factory=list)
    asked: int = 0

    def open_tab(self, name: str) -> None:
        """Go to a tab, by the menu where the screen is too small for its name."""
        tab = self.page.get_by_role("tab", name=name, exact=True)
        if not tab.first.is_visible():
            self.page.locator(".overflow-menu button").first.click()
            self.page.locator(".overflow-dropdown button", has_text=name).click()
        else:
            tab.first.click()

    def press(self, name: str) -> None:
        self.page.get_by_role("button", name=name, exact=True).locator("visible=true").click()

    def expand(self, name: str) -> None:
        """Open a part of the page that is closed; the button's name ends in an arrow."""
        self.page.get_by_role("button", name=name).locator("visible=true").click()

    def fill(self, label: str, text: str) -> None:
        self.page.get_by_label(label).locator("visible=true").first.fill(text)

    def choose_example(self, label: str, words: str) -> None:
        """Press an example, and wait until its words are in the field."""
        self.press(label)
        filled = "words => [...document.querySelectorAll('textarea, input')].some(one => one.value === words)"
        self.page.wait_for_function(filled, arg=words)

    def upload(self, *files: Path, button: int = 0) -> None:
        """Give files to one of the fields for files that are seen, and wait until they are there."""
        with self.page.expect_response(lambda answer: "/upload?" in answer.url):
            fields = self.page.get_by_role("tabpanel").locator("visible=true").locator("input[type=file]")
            fields.nth(button).set_input_files(files)

    def wait_for(self, words: str, seconds: float = 60.0) -> Any:
        """Wait until words are seen, and return their element."""
        found = self.page.get_by_text(words).locator("visible=true").first
        found.wait_for(timeout=1000 * seconds)
        return found

    def text(self) -> str:
        """Return all that is to be read on the page now."""
        return str(self.page.inner_text("body"))


@contextmanager
def visiting(browser: Any, address: str, **looks: Any) -> Iterator[Visit]:
    """Open a page in a window of its own.

    Args:
        browser: from ``browsing``.
        address: of the page; every request to another host is broken off.
        looks: of the window, such as ``viewport`` and ``color_scheme``.
    """
    context = browser.new_context(**{"viewport": {"width": 1280, "height": 900}, **looks})
    visit = Visit(context.new_page())

    def let_through(route: Any) -> None:
        if route.request.url.startswith((f"{address}/", *ALSO_HARMLESS)):
            visit.asked += 1
            route.continue_()
        else:
            visit.foreign.append(route.request.url)
            route.abort()

    def note(message: Any) -> None:
        # gradio's own script says so of the stream that tells how far an upload is
        if message.type in ("error", "warning") and message.text != "Method not implemented.":
            visit.complaints.append(f"{message.type}: {message.text} ({message.location.get('url', '')})")

    context.route("**/*", let_through)
    visit.page.on("console", note)
    visit.page.on("pageerror", lambda error: visit.complaints.append(f"error: {error}"))
    try:
        visit.page.goto(f"{address}/")
        visit.page.get_by_role("button", name="Draw", exact=True).wait_for()
        visit.page.evaluate(WATCHING)
        yield visit
    finally:
        context.unroute_all(behavior="ignoreErrors")
        context.close()
