from __future__ import annotations

import json
import math
import re
from collections import Counter
from collections.abc import Callable
from datetime import datetime
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest

from skygen.data import geography
from skygen.data.table import SCHEMA
from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.evaluation.audits import tallies
from skygen.evaluation.audits.audit import audit
from skygen.evaluation.audits.page import read_audits, write_audit
from skygen.evaluation.audits.records import Audit, Breakdown, compare
from skygen.evaluation.audits.tallies import Quantiles, Tally, count_covering, describe, effective_number, inverse_simpson
from skygen.evaluation.audits.truncation import count_tokens, is_truncated

LONG = "a " * 70 + "runway beside a runway"  # 74 words, 74 tokens
BOXES = {
    "Bern": (7.44, 46.94, 7.46, 46.96),
    "Nairobi": (36.81, -1.30, 36.83, -1.28),
    "the Atlantic": (-30.01, -0.01, -29.99, 0.02),
    "Fiji": (179.9, -16.9, -179.8, -16.7),  # over the antimeridian
}


def row(place: str | None = None, **columns: Any) -> dict[str, Any]:
    west, south, east, north = BOXES[place] if place else (None,) * 4
    return {"west": west, "south": south, "east": east, "north": north} | columns


def table(*rows: dict[str, Any]) -> pa.Table:
    rows = tuple({"key": f"{number}.jpg"} | row for number, row in enumerate(rows))
    return pa.table([pa.array([row.get(field.name) for row in rows], field.type) for field in SCHEMA], schema=SCHEMA)


@pytest.fixture
def pairs() -> pa.Table:
    return table(
        row("Bern", captions=["a farm", "a barn"], source="CH", gsd=0.1, year=2019, split="train", class_name="farm",
            object_type="area", center_tags=[("building", "barn"), ("name", "Hof")], width=400, height=600),
        row("Bern", captions=["a farm"], source="CH", gsd=0.1, year=2020, split="train", class_name="farm",
            object_type="area", center_tags=[("building", "barn")], width=512, height=512),
        row("Nairobi", captions=["a farm"], source="S2", gsd=10.0, time=datetime(2021, 3, 5), split="test",
            class_name="field", object_type="way", center_tags=[("landuse", "farmland")], width=800, height=700),
        row("the Atlantic", captions=["open water in sunshine"], source="L8", gsd=30.0, time=datetime(2021, 12, 31)),
        row("Fiji", captions=["a reef"], gsd=float("nan"), center_tags=[], problem="truncated file"),
        row(None, captions=["a reef"], country="US"),
        row(None, key="0.jpg", captions=None, center_tags=None),
        {"west": 8.0, "south": 47.0, "east": 188.0, "north": 48.0, "captions": [LONG + " a a"]},  # 76 tokens
    )  # fmt: skip


def part(audited: Audit, name: str) -> Breakdown:
    return next(breakdown for breakdown in audited.breakdowns if breakdown.name == name)


def counts(audited: Audit, name: str) -> list[tuple[str, int]]:
    return [(row.value, row.count) for row in part(audited, name).rows]


def test_counts_of_a_table_made_by_hand(pairs: pa.Table) -> None:
    found = audit(pairs, "hand")
    assert (found.name, found.pairs, found.images) == ("hand", 8, 7)
    assert counts(found, "country") == [("CH", 2), ("FJ", 1), ("KE", 1), ("US", 1)]
    assert counts(found, "continent") == [("Europe", 2), ("Africa", 1), ("North America", 1), ("Oceania", 1)]
    assert counts(found, "latitude") == [
        ("40° to 50° north", 2), ("0° to 10° north", 1), ("0° to 10° south", 1), ("10° to 20° south", 1),
    ]  # fmt: skip
    assert counts(found, "source") == [("CH", 2), ("L8", 1), ("S2", 1)]
    assert counts(found, "gsd") == [("to 1 m (VHR1)", 2), ("4 to 10 m (HR1)", 1), ("10 to 30 m (HR2)", 1)]
    assert counts(found, "year") == [("2019", 1), ("2020", 1), ("2021", 2)]
    assert counts(found, "month") == [("March", 1), ("December", 1)]
    assert counts(found, "split") == [("train", 2), ("test", 1)]
    assert counts(found, "object_type") == [("area", 2), ("way", 1)]
    assert counts(found, "class_name") == [("farm", 2), ("field", 1)]
    assert counts(found, "tag_key") == [("building", 2), ("landuse", 1), ("name", 1)]
    assert counts(found, "tag") == [("building=barn", 2), ("landuse=farmland", 1), ("name=Hof", 1)]
    assert counts(found, "problem") == [("truncated file", 1)]
    assert [part(found, name).missing for name in ("country", "gsd", "year", "month", "tag", "problem")] == [3, 4, 4, 6, 5, 7]
    assert part(found, "source").rows[0].share == 2 / 8
    assert part(found, "country").effective == pytest.approx(math.exp(-0.4 * math.log(0.4) - 0.6 * math.log(0.2)))
    assert part(found, "country").inverse_simpson == pytest.approx(25 / 7)


def test_places_of_a_table_made_by_hand(pairs: pa.Table) -> None:
    places = audit(pairs, "hand").geography
    assert (places.without_box, places.in_no_country) == (3, 1)
    assert (places.top_country, places.top_country_share) == ("CH", 2 / 5)
    assert sorted(places.cells) == [(-180, -18, 1), (-30, 0, 1), (6, 46, 2), (36, -2, 1)]
    assert places.land_cells is not None
    assert 330 < places.land_cells < 360
    assert places.land_cells_covered == 3  # of the four cells of 10 degrees, the Atlantic's has no land


def test_captions_of_a_table_made_by_hand(pairs: pa.Table) -> None:
    captions = audit(pairs, "hand").captions
    assert (captions.count, captions.distinct) == (8, 5)
    assert captions.repeated_share == 5 / 8
    assert (captions.covering_half, captions.covering_three_quarters) == (2, 3)
    shares = np.array([3, 2, 1, 1, 1]) / 8
    assert captions.effective == pytest.approx(math.exp(-(shares * np.log(shares)).sum()))
    assert captions.inverse_simpson == pytest.approx(64 / 16)
    assert captions.words == Quantiles(8, (6 * 2 + 4 + 76) / 8, 2, 2, 2, 2, 2, 76, 76)
    assert [(row.value, row.count) for row in captions.top[:2]] == [("a farm", 3), ("a reef", 2)]
    assert (captions.truncated_share, captions.truncated_distinct_share) == (1 / 8, 1 / 5)
    assert captions.texts_tokenized == 5


def test_pixels_and_notes_of_a_table_made_by_hand(pairs: pa.Table) -> None:
    found = audit(pairs, "hand")
    assert found.pixels.known == 3
    assert found.pixels.upsampled_share == 1 / 3
    assert found.pixels.width == Quantiles(3, 1712 / 3, 400, 400, 400, 512, 800, 800, 800)
    assert found.notes == (
        "1 boxes are not within -180 to 180 and -90 to 90 degrees, or have south above north; they count as none.",
    )


def test_batches_do_not_change_the_audit(pairs: pa.Table, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(tallies, "PENDING_TEXTS", 2)  # texts are merged after every batch
    whole, seen = audit(pairs, "hand"), []
    batches = pairs.to_batches(max_chunksize=3)
    assert len(batches) == 3
    assert audit(iter(batches), "hand", lambda done, total: seen.append((done, total)), total=8) == whole
    assert seen == [(3, 8), (6, 8), (8, 8)]


def test_columns_that_are_absent_are_unknown_and_other_encodings_are_read() -> None:
    rows = pa.record_batch(
        {
            "key": pa.array(["a", "b"], pa.large_string()),
            "captions": pa.array([["x"], ["y"]], pa.large_list(pa.large_string())),
            "source": pa.array(["S2", "S2"]).dictionary_encode(),
        }
    )
    found = audit([rows], "thin")
    assert counts(found, "source") == [("S2", 2)]
    assert [breakdown.name for breakdown in found.breakdowns if breakdown.rows] == ["source"]
    assert (found.geography.without_box, found.geography.top_country, found.pixels.width) == (2, None, None)


def test_an_empty_set_and_a_wrong_column_are_told() -> None:
    with pytest.raises(DataError) as caught:
        audit(table().slice(0, 0), "none")
    assert str(caught.value) == "none: there is no pair to audit; give another folder, or a wider --where."
    with pytest.raises(DataError) as caught:
        audit([pa.record_batch({"key": ["a"], "year": ["long ago"]})], "odd")
    assert str(caught.value) == "odd: the column year holds string; it must hold int16."


def test_without_timezonefinder_the_audit_says_what_it_could_not_look_up(
    pairs: pa.Table, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    from skygen.evaluation.audits import audit as module
    from skygen.evaluation.audits import figures as audit_figures

    def refuse(*_: object) -> None:
        raise UnavailableError("country look-up needs timezonefinder: pip install 'skygen[geo]'")

    for name in ("locate", "land_grid"):
        monkeypatch.setattr(module, name, refuse)
    monkeypatch.setattr(audit_figures, "land_grid", refuse)
    audit_figures._land_shape.cache_clear()
    found = audit(pairs, "hand")
    assert counts(found, "country") == [("US", 1)]
    assert (found.geography.land_cells, found.geography.land_cells_covered) == (None, None)
    assert found.notes[0] == (
        "Countries that the list does not give are not looked up: country look-up needs timezonefinder: "
        "pip install 'skygen[geo]'"
    )
    assert "country look-up needs timezonefinder" in write_audit([found], tmp_path).read_text(encoding="utf-8")
    audit_figures._land_shape.cache_clear()


def test_effective_numbers_are_those_of_hill() -> None:
    even, skewed = np.array([5, 5, 5, 5]), np.array([8, 1, 1])
    assert effective_number(even) == pytest.approx(4.0)
    assert inverse_simpson(even) == pytest.approx(4.0)
    assert effective_number(skewed) == pytest.approx(math.exp(-0.8 * math.log(0.8) - 0.2 * math.log(0.1)))
    assert inverse_simpson(skewed) == pytest.approx(1 / 0.66)
    assert effective_number(np.array([7])) == inverse_simpson(np.array([7])) == 1.0
    nothing = np.array([], dtype=np.int64)
    assert effective_number(nothing) == inverse_simpson(nothing) == count_covering(nothing, 0.5) == 0


def test_quantiles_are_those_of_numpy() -> None:
    from skygen.seeding import Seeds

    numbers = Seeds(3).numpy("numbers").poisson(9.0, size=1234)
    found = describe(Counter(numbers.tolist()))
    assert found is not None
    wanted = np.quantile(numbers, [0, 0.05, 0.25, 0.5, 0.75, 0.95, 1], method="inverted_cdf")
    assert [found.minimum, found.p05, found.p25, found.median, found.p75, found.p95, found.maximum] == wanted.tolist()
    assert found.mean == pytest.approx(numbers.mean())
    assert describe({}) is None


def test_concentration() -> None:
    skewed = np.array([1, 5, 1, 3])
    assert [count_covering(skewed, share) for share in (0.5, 0.51, 0.75, 0.8, 1.0)] == [1, 2, 2, 2, 4]


def test_a_tally_finds_the_most_frequent_texts_and_a_sample_of_all(monkeypatch: pytest.MonkeyPatch) -> None:
    from skygen.seeding import Seeds

    monkeypatch.setattr(tallies, "PENDING_TEXTS", 64)
    texts = [f"text {number}" for number in Seeds(5).numpy("texts").zipf(1.4, size=6000) % 3000]
    wanted = Counter(texts)
    assert len(wanted) > 300
    tally, in_another_order = Tally(top=6, sample=40), Tally(top=6, sample=40)
    for start in range(0, 6000, 50):
        tally.add(*tallies.count_values(pa.array(texts[start : start + 50])))
    in_another_order.add(*tallies.count_values(pa.array(texts[::-1])))
    assert tally.most_frequent() == in_another_order.most_frequent() == wanted.most_common(6)
    assert tally.sampled() == in_another_order.sampled()
    assert len({text for text, _ in tally.sampled()}) == 40
    assert all(wanted[text] == count for text, count in tally.sampled())
    assert sorted(tally.counts.tolist()) == sorted(wanted.values())


def test_tokens_are_those_of_clip() -> None:
    from open_clip.tokenizer import SimpleTokenizer

    from skygen.seeding import Seeds

    tokenizer, numbers = SimpleTokenizer(), Seeds(2).numpy("characters")
    letters = np.array(list("aaabdeeegiilmnnoorrssttuwy'!.,-09 <>/"))
    texts = ["".join(numbers.choice(letters, size=40)) for _ in range(300)]
    texts += [
        "a farm's barn, they're 12 km off",
        "<start_of_text> x <end_of_text>",
        "caf\u00e9 \u201cNord\u201d",
        "a &amp; b",
        "",
    ]
    assert [count_tokens(text) for text in texts] == [len(tokenizer.encode(text)) for text in texts]


def test_a_caption_is_cut_beyond_75_tokens_of_its_own() -> None:
    assert count_tokens(LONG + " a") == 75
    assert is_truncated([LONG + " a", LONG + " a a", "a farm", "é" * 90]).tolist() == [False, True, False, True]


def test_more_distinct_captions_than_are_tokenized_give_an_estimate_that_says_so(monkeypatch: pytest.MonkeyPatch) -> None:
    from skygen.evaluation.audits import audit as module

    monkeypatch.setattr(module, "TOKENIZED_TEXTS", 200)
    captions = [f"{LONG} number {number}" if number % 4 == 0 else f"farm {number}" for number in range(2000)]
    found = audit(table(*[row(captions=[caption]) for caption in captions]), "many")
    assert (found.captions.distinct, found.captions.texts_tokenized) == (2000, 200)
    assert found.captions.truncated_distinct_share == pytest.approx(0.25, abs=0.12)  # 4 standard errors
    assert found.notes == (
        "CLIP's tokenizer was asked about 200 of 2,000 distinct captions, chosen at random by their hashes; the shares of "
        "truncated captions are estimates.",
    )


def test_side_by_side_gives_percentage_points(pairs: pa.Table) -> None:
    first, second = audit(pairs, "all"), audit(pairs.slice(0, 4), "some")
    compared = {comparison.name: comparison for comparison in compare([first, second])}
    countries = {row.value: row for row in compared["country"].rows}
    assert countries["CH"].counts == (2, 2)
    assert countries["CH"].shares == (0.25, 0.5)
    assert countries["CH"].differences == (0.0, 25.0)
    assert countries["FJ"].differences == (0.0, -12.5)
    assert [row.value for row in compared["year"].rows] == ["2019", "2020", "2021"]
    assert compared["problem"].rows[0].shares == (1 / 8, None)  # of the second set no problem is known


def test_years_of_several_sets_stand_in_order() -> None:
    sets = [audit(table(*[row(year=year, captions=["x"]) for year in years]), "x") for years in ((2015, 2019), (2016, 2021))]
    compared = next(comparison for comparison in compare(sets) if comparison.name == "year")
    assert [row.value for row in compared.rows] == ["2015", "2016", "2019", "2021"]


class Reader(HTMLParser):
    """Collects ids, headings and addresses, and checks that elements close in order."""

    VOID = frozenset({"meta", "link", "br", "img", "col", "path"})

    def __init__(self) -> None:
        super().__init__()
        self.open: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.text: list[str] = []

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        if tag not in self.VOID:
            self.open.append(tag)
        for name, value in attributes:
            if name == "id":
                self.ids.append(value or "")
            if name in ("href", "src"):
                self.addresses.append(value or "")

    def handle_startendtag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        assert tag == "path"

    def handle_endtag(self, tag: str) -> None:
        assert self.open.pop() == tag

    def handle_data(self, data: str) -> None:
        self.text.append(data)


def test_the_page_has_every_section_and_asks_for_nothing(pairs: pa.Table, tmp_path: Path) -> None:
    odd = pairs.set_column(1, SCHEMA.field(1), pa.array([["<b>bold</b> & co"]] * 8, SCHEMA.field(1).type))
    path = write_audit([audit(pairs, "real"), audit(odd, "drawn <i>")], tmp_path / "out")
    page = path.read_text(encoding="utf-8")
    reader = Reader()
    reader.feed(page)
    assert path == tmp_path / "out" / "audit.html"
    assert reader.open == []
    assert reader.ids == ["overview", "map", "places", "sensors-and-time", "objects", "captions"]
    assert [address for address in reader.addresses if not address.startswith("#")] == ["data:,"]
    assert sorted(address[1:] for address in reader.addresses if address.startswith("#")) == sorted(reader.ids)
    assert re.findall(r"https?:|url\(|@import|<script|//[a-z]", page) == []
    assert "default-src 'none'" in page
    assert page.count("<svg") == 2
    words = "".join(reader.text)
    for wanted in ("Switzerland (CH)", "40° to 50° north", "VHR1", "December", "building=barn", "<b>bold</b> & co", "+0.0"):
        assert wanted in words, wanted


def test_json_comes_back_as_it_was(pairs: pa.Table, tmp_path: Path) -> None:
    audits = [audit(pairs, "real"), audit(table(row(captions=["x"])), "bare")]
    write_audit(audits, tmp_path)
    tree = json.loads((tmp_path / "audit.json").read_text(encoding="utf-8"))
    assert tree["audits"][0]["captions"]["top"][0] == {"value": "a farm", "count": 3, "share": 0.375}
    assert read_audits(tmp_path / "audit.json") == audits


def test_the_page_is_the_same_for_the_same_audits(pairs: pa.Table, tmp_path: Path) -> None:
    once, again = (write_audit([audit(pairs, "x")], tmp_path / name).read_bytes() for name in ("once", "again"))
    assert once == again


def test_nothing_to_write_and_no_audit_to_read_are_told(tmp_path: Path) -> None:
    with pytest.raises(ConfigError) as caught:
        write_audit([], tmp_path)
    assert str(caught.value) == "no audit to write; give a folder of pairs."
    (tmp_path / "audit.json").write_text('{"audits": [{}]}', encoding="utf-8")
    with pytest.raises(DataError) as unreadable:
        read_audits(tmp_path / "audit.json")
    assert (
        str(unreadable.value) == f"{tmp_path / 'audit.json'}: cannot be read as an audit; write it again with `skygen audit`."
    )


def test_real_sentinel_2_images_are_counted_as_by_hand(shared_data: Callable[[str], Path], tmp_path: Path) -> None:
    rows = []
    for path in sorted(shared_data("ecomapper_sentinel2").glob("*.json")):
        sidecar = json.loads(path.read_text(encoding="utf-8"))
        latitude, longitude = sidecar["center_coordinates"]
        box = {"west": longitude - 0.02, "east": longitude + 0.02, "south": latitude - 0.02, "north": latitude + 0.02}
        date = datetime.strptime(sidecar["date"], "%Y-%m")
        rows.append(box | {"key": path.stem, "captions": [sidecar["type"]], "class_name": sidecar["type"], "time": date})
    assert len(rows) == 48
    found = audit(table(*rows), "ecomapper")
    # eight places with six months each: British Columbia, California, Salta, Ukraine, Krasnoyarsk, Algeria, Ethiopia, Congo
    assert counts(found, "country") == [(code, 6) for code in ("AR", "CA", "CD", "DZ", "ET", "RU", "UA", "US")]
    assert counts(found, "continent") == [("Africa", 18), ("Europe", 12), ("North America", 12), ("South America", 6)]
    names = [path.stem.split("_")[1] for path in shared_data("ecomapper_sentinel2").glob("*.png")]  # 13259_2021-01
    assert dict(counts(found, "year")) == Counter(name[:4] for name in names)
    months = dict(zip(geography_months(), range(1, 13), strict=True))
    assert {months[value]: count for value, count in counts(found, "month")} == Counter(int(name[5:]) for name in names)
    assert part(found, "class_name").effective == pytest.approx(8.0)
    assert part(found, "country").inverse_simpson == pytest.approx(8.0)
    assert (found.geography.without_box, found.geography.in_no_country, found.geography.land_cells_covered) == (0, 0, 8)
    assert found.captions.repeated_share == 1.0
    assert write_audit([found], tmp_path).exists()


def geography_months() -> list[str]:
    return [datetime(2000, month, 1).strftime("%B") for month in range(1, 13)]


def test_the_land_of_the_map_is_plausible() -> None:
    land = geography.land_grid()
    share = float(
        (land.mean(axis=1) * np.cos(np.radians(np.arange(-89.5, 90)))).sum() / np.cos(np.radians(np.arange(-89.5, 90))).sum()
    )
    assert 0.29 < share < 0.37  # 29.2 % of the Earth, and coastal waters
