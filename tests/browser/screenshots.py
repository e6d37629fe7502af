"""Takes the pictures of docs/demo.md from a page that is being served, with the adapters of the quickstart.

python demo/app.py --diffusion.adapter runs/quickstart/diffusion/adapter --captioner.adapter runs/quickstart/captioner/adapter &
python tests/browser/screenshots.py http://127.0.0.1:7860 docs
"""

from __future__ import annotations

import io
import sys
from pathlib import Path

from PIL import Image

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # run as a script; tests/ is not installed

from browser_client import Visit, browsing, visiting

PROMPT = "a satellite image of sport of tennis, surface of clay"
"""The adapter of the quickstart has learned such things, and the base model has never seen any."""
TEXTS = [f"a satellite image of a {name}" for name in ("harbour", "beach", "river")]
LARGEST = 120_000
"""Bytes of a picture in the repository."""


def generate(visit: Visit) -> None:
    visit.fill("What is to be seen", PROMPT)
    visit.fill("number input for Candidates each", "4")
    visit.press("Draw")
    visit.wait_for("All candidates of this picture", 300)


def score(visit: Visit) -> None:
    visit.open_tab("Score")
    visit.page.locator(".gallery-item").locator("visible=true").first.click()
    visit.page.get_by_role("button", name="Fullscreen").locator("visible=true").first.wait_for()
    visit.fill("Texts, one a line", "\n".join(TEXTS))
    visit.press("Score")
    visit.page.locator(".caption-label").locator("visible=true").nth(3).wait_for()


TAKEN = {
    "demo_generate": (generate, "light", 1280),
    "demo_score": (score, "dark", 1280),
    "demo_narrow": (generate, "light", 400),
}


def keep(content: bytes, path: Path) -> None:
    """Write a JPEG at the best quality that fits."""
    image = Image.open(io.BytesIO(content)).convert("RGB")
    for quality in range(90, 20, -5):
        image.save(path, quality=quality, optimize=True)
        if path.stat().st_size <= LARGEST:
            return


def main(address: str, folder: str) -> None:
    with browsing() as browser:
        for name, (do, scheme, width) in TAKEN.items():
            looks = {"viewport": {"width": width, "height": 900}, "color_scheme": scheme}
            with visiting(browser, address.rstrip("/"), **looks) as visit:
                do(visit)
                visit.page.wait_for_function("[...document.images].every(image => image.complete)")
                visit.page.locator("body").click(position={"x": 2, "y": 2})  # takes the focus off the button
                keep(visit.page.screenshot(full_page=True), Path(folder) / f"{name}.jpg")


if __name__ == "__main__":
    main(*sys.argv[1:])
