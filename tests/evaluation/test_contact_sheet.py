"""The contact sheet: a PNG of a known size, a page that stands by itself, and a placeholder where an image is missing."""

from __future__ import annotations

import re
import zipfile
from pathlib import Path

import pytest
from PIL import Image

from skygen.errors import ConfigError
from skygen.evaluation.search.contact_sheet import (
    CAPTION_LINES,
    COLUMNS,
    GAP,
    MARGIN,
    THUMBNAIL,
    Found,
    Match,
    _font,
    draw_sheet,
    wrap_text,
    write_sheet,
)

RED, BLUE, PLACEHOLDER = (200, 20, 20), (20, 20, 200), (223, 227, 228)


@pytest.fixture
def results(tmp_path: Path) -> list[Found]:
    Image.new("RGB", (600, 300), RED).save(tmp_path / "wide.png")
    Image.new("RGB", (20, 20), BLUE).save(tmp_path / "small.png")
    with zipfile.ZipFile(tmp_path / "images2.zip", "w") as archive:
        archive.write(tmp_path / "small.png", "images2/small.png")
    zipped, gone = tmp_path / "images2.zip" / "images2" / "small.png", tmp_path / "gone.png"
    matches = [
        Match(tmp_path / "wide.png", "a <b>red</b> field & a pond", 0.8765),
        Match(zipped, "", 0.5),
        Match(gone, "gone", -0.25),
    ]
    return [Found("red", None, (*matches, *matches)), Found("small.png", tmp_path / "small.png", (matches[1],))]


def test_the_png_has_its_size_and_the_images_are_where_they_belong(results: list[Found], tmp_path: Path) -> None:
    write_sheet(results, tmp_path / "below" / "sheet.png", "red, small.png", "6 images")
    with Image.open(tmp_path / "below" / "sheet.png") as sheet:
        assert sheet.format == "PNG"
        line = THUMBNAIL + 10 + 21 * (1 + CAPTION_LINES) + GAP
        height = 2 * MARGIN + 54 + (52 + 2 * line) + (112 + 24 + line)  # six pictures under a text, one under a picture
        assert sheet.size == (2 * MARGIN + COLUMNS * THUMBNAIL + (COLUMNS - 1) * GAP, height) == (1288, 1403)
        top = MARGIN + 54 + 52
        middles = [MARGIN + column * (THUMBNAIL + GAP) + THUMBNAIL // 2 for column in range(COLUMNS)]
        row = [sheet.getpixel((x, top + THUMBNAIL // 2 - 20)) for x in middles]
        assert row == [RED, BLUE, PLACEHOLDER, RED, BLUE]
        assert sheet.getpixel((middles[0], top + 3)) == PLACEHOLDER  # beside a wide picture, which is not cut
        box = (middles[2] - THUMBNAIL // 2, top, middles[2] + THUMBNAIL // 2, top + THUMBNAIL)
        assert len(set(sheet.crop(box).get_flattened_data())) > 5  # the words in the placeholder
        beneath = sheet.crop((MARGIN, top + THUMBNAIL + 1, MARGIN + THUMBNAIL, top + THUMBNAIL + 60))
        assert len(set(beneath.get_flattened_data())) > 20


def test_a_png_that_no_viewer_opens_is_refused(results: list[Found], tmp_path: Path) -> None:
    many = Found("red", None, results[0].matches * 100)
    with pytest.raises(
        ConfigError, match=r"^the PNG would be 43,738 pixels high, more than 30,000; give a smaller --count, or"
    ):
        draw_sheet([many], "red")
    with pytest.raises(
        ConfigError, match=r"^--output sheet\.jpg: a contact sheet is a \.png or an \.html file; let the name end"
    ):
        write_sheet(results, Path("sheet.jpg"), "red")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["images2.zip", "small.png", "wide.png"]


def test_the_page_stands_by_itself_and_escapes_what_it_is_told(results: list[Found], tmp_path: Path) -> None:
    write_sheet(results, tmp_path / "sheet.html", "red, <small>", "6 images of x")
    page = (tmp_path / "sheet.html").read_text()
    assert "<title>red, &lt;small&gt;</title>" in page
    assert "a &lt;b&gt;red&lt;/b&gt; field &amp; a pond" in page
    assert page.count("<figure>") == 7
    sources = re.findall(r'src="([^"]{20})', page)
    assert len(sources) == 6  # 4 pictures of the first query, the second query's own, and its match
    assert all(source.startswith("data:image/") for source in sources)
    assert page.count(">no image</span>") == 2
    assert [word for word in ("<script", "http:", "https:", "@import", "url(") if word in page] == []
    assert page.count("<b>0.876</b>") + page.count("<b>0.877</b>") == 2
    assert page.count("<b>-0.250</b>") == 2


def test_captions_wrap_at_words_and_end_with_an_ellipsis() -> None:
    font = _font(16)
    lines = wrap_text("a satellite image of " + "very " * 50 + "much", font, THUMBNAIL, CAPTION_LINES)
    assert len(lines) == CAPTION_LINES
    assert all(font.getlength(line) <= THUMBNAIL for line in lines)
    assert lines[-1].endswith("very…")
    path = wrap_text("images7/" + "x" * 90 + ".jpg and more", font, THUMBNAIL, 9)
    assert "".join(path).replace(" ", "") == "images7/" + "x" * 90 + ".jpgandmore"
    assert all(font.getlength(line) <= THUMBNAIL for line in path)
    assert wrap_text("", font, THUMBNAIL, 3) == [""]
    assert wrap_text("Gebäude, дом, σπίτι", font, THUMBNAIL, 3) == ["Gebäude, дом, σπίτι"]
