from __future__ import annotations

from collections import Counter
from dataclasses import replace
from pathlib import Path

import numpy as np
import pyarrow as pa
import pytest

from skygen.data.choosing import Choice, choose_rows, require_columns, weigh
from skygen.data.pair import Box, Pair
from skygen.data.pairs import PairSettings, read_pairs
from skygen.data.rejects import Rejects
from skygen.data.table import SCHEMA, to_batch
from skygen.errors import ConfigError, DataError
from skygen.seeding import Seeds


def make(*captions: str, source: str = "CH") -> pa.Table:
    """A pair for each caption."""
    names = [f"images2/a{number}_{source}_{number % 20:02d}.jpg" for number in range(len(captions))]
    pairs = [Pair(name, Path(name), (text,), source=source, year=2000) for name, text in zip(names, captions, strict=True)]
    return pa.Table.from_batches([to_batch(pairs)], SCHEMA)


def every(table: pa.Table) -> np.ndarray:
    return np.ones(len(table), dtype=bool)


def chosen(table: pa.Table, choice: Choice, *, spread: bool = False) -> list[int]:
    return choose_rows(table, every(table), choice, spread=spread).tolist()


def weights_of(table: pa.Table, choice: Choice) -> np.ndarray:
    weights = weigh(table, np.arange(len(table)), choice)
    assert weights is not None
    assert abs(weights.sum() - 1) < 1e-12
    return weights


def test_a_limit_takes_the_first_of_a_list_and_spreads_over_a_folder() -> None:
    table = make(*"abcdefghij")
    assert chosen(table, Choice(limit=3)) == [0, 1, 2]
    assert chosen(table, Choice(limit=3), spread=True) == [0, 3, 6]
    assert chosen(table, Choice(limit=20)) == list(range(10))
    usable = every(table)
    usable[:8] = False
    assert choose_rows(table, usable, Choice(limit=3), spread=False).tolist() == [8, 9]


def test_a_cap_keeps_exactly_so_many_of_each_caption() -> None:
    captions = ["a pier"] * 50 + ["a dam"] * 3 + ["a lake"] * 4 + ["a field"] * 7
    table = make(*captions)
    kept = chosen(table, Choice(max_images_per_caption=4))
    assert Counter(captions[row] for row in kept) == {"a pier": 4, "a dam": 3, "a lake": 4, "a field": 4}
    assert kept == sorted(kept)
    assert kept[:4] != [0, 1, 2, 3]  # no place in the list is preferred
    assert chosen(table, Choice(max_images_per_caption=50)) == list(range(64))


def test_a_cap_does_not_depend_on_the_order_of_the_list() -> None:
    table = make(*["a pier"] * 40, *["a dam"] * 40)
    order = Seeds(3).numpy("order").permutation(80)
    mixed = table.take(pa.array(order))
    keys, others = (some["key"].to_numpy()[chosen(some, Choice(max_images_per_caption=5))] for some in (table, mixed))
    assert len(keys) == 10
    assert set(keys) == set(others)
    fewer = table["key"].to_numpy()[chosen(table, Choice(max_images_per_caption=3))]
    assert set(fewer) < set(keys)  # a smaller cap takes some of the same


def test_weights_by_temperature_in_closed_form() -> None:
    """A caption that n pairs share has the total weight n ** t."""
    table = make(*["a pier"] * 9, *["a dam"] * 4, "a lake")
    assert weigh(table, np.arange(14), Choice()) is None
    for temperature in (0.0, 0.5, 0.75):
        weights = weights_of(table, Choice(caption_temperature=temperature))
        totals = np.array([weights[:9].sum(), weights[9:13].sum(), weights[13]])
        expected = np.array([9.0, 4.0, 1.0]) ** temperature
        np.testing.assert_allclose(totals, expected / expected.sum(), rtol=1e-12)
        assert np.ptp(weights[:9]) == 0


def test_temperature_acts_inside_each_group_of_a_balance() -> None:
    """Each source as often as the other; in it, at temperature 0 each caption as often as the others."""
    table = pa.concat_tables([make(*["a pier"] * 9, "a dam"), make(*["a pier"] * 2, "a dam", "a lake", source="S2")])
    weights = weights_of(table, Choice(balance="source", caption_temperature=0.0))
    first, second = weights[:10], weights[10:]
    np.testing.assert_allclose([first.sum(), second.sum()], [0.5, 0.5], rtol=1e-12)
    np.testing.assert_allclose([first[:9].sum(), first[9]], [1 / 4, 1 / 4], rtol=1e-12)
    np.testing.assert_allclose([second[:2].sum(), second[2], second[3]], [1 / 6] * 3, rtol=1e-12)
    plain = weights_of(table, Choice(balance="source"))
    np.testing.assert_allclose(plain, [0.05] * 10 + [0.125] * 4, rtol=1e-12)


def test_a_balance_counts_the_unknown_as_a_group() -> None:
    table = make(*"abcd")
    column = pa.chunked_array([["Asia", "Asia", "Asia", None]], pa.string())
    table = table.set_column(table.schema.get_field_index("continent"), "continent", column)
    np.testing.assert_allclose(weights_of(table, Choice(balance="continent")), [1 / 6] * 3 + [1 / 2], rtol=1e-12)


@pytest.mark.parametrize(
    ("wrong", "said"),
    [
        ({"limit": -1}, "the limit is -1; it must be a count of pairs, or 0 for all: set --pairs.limit"),
        ({"max_images_per_caption": -2}, "--pairs.max_images_per_caption is -2; give a count of pairs, or 0 for all"),
        ({"caption_temperature": 1.5}, "--pairs.caption_temperature is 1.5; it must be in [0, 1]"),
        ({"caption_temperature": float("nan")}, "--pairs.caption_temperature is nan; it must be in [0, 1]"),
        ({"cell_degrees": 0.0}, "--pairs.cell_degrees is 0.0; it must be in (0, 90]"),
    ],
)
def test_a_wrong_setting_is_named(wrong: dict[str, float], said: str) -> None:
    with pytest.raises(ConfigError) as caught:
        Choice(**wrong)  # type: ignore[arg-type]
    assert str(caught.value) == said


def test_what_the_data_does_not_know_is_refused_with_the_command_that_finds_it_out() -> None:
    table = make(*"abc")
    for choice, said in (
        (Choice(where="width >= 512"), "no pair has a known width: run `skygen check` on the data set first, which opens"),
        (Choice(balance="country"), "no pair has a known country: run `skygen index` on the data set with its metas beside"),
        (Choice(split_by="cell"), "no pair has a known west: run `skygen index` on the data set with its metas beside"),
        (Choice(where="similarity > 0.2"), "no pair of this data set has a known similarity; choose by something else"),
    ):
        with pytest.raises(ConfigError) as caught:
            require_columns(choice, table)
        assert str(caught.value).startswith(said)
    require_columns(Choice(where="year == 2000", balance="source"), table)


@pytest.fixture
def root(tmp_path: Path) -> Path:
    rows = [
        f"images2/a{number}_{'CH' if number % 4 else 'S2'}_{15 + number % 5}.jpg,a satellite image of {name}"
        for number, name in enumerate(["pier"] * 30 + ["dam"] * 8 + ["lake"] * 2)
    ]
    (tmp_path / "SkyScript_train.csv").write_text("".join(f"{line}\n" for line in ["filepath,title", *rows]))
    return tmp_path


def test_choices_go_together(root: Path) -> None:
    def read(**choice: object) -> list[Pair]:
        return list(PairSettings(root, **choice).read(Rejects(None)))  # type: ignore[arg-type]

    assert len(read(where="year >= 2018")) == 16
    assert len(read(where="year >= 2018", sources=("S2",))) == 4
    assert {pair.year for pair in read(where="year >= 2018 and class_name == pier")} == {2018, 2019}
    capped = read(where="year >= 2018", max_images_per_caption=3)
    assert Counter(pair.class_name for pair in capped) == {"pier": 3, "dam": 2, "lake": 2}
    assert read(where="year >= 2018", max_images_per_caption=3, limit=2) == capped[:2]
    with pytest.raises(DataError, match=r"--pairs\.where asks for year >= 2030; change or leave out the filter$"):
        read(where="year >= 2030")
    with pytest.raises(ConfigError, match=r"there is no field `yaer` \(perhaps `year`\)"):
        read(where="yaer >= 2030")


def test_weights_reach_the_list_and_its_fingerprint(root: Path) -> None:
    plain = PairSettings(root).read(Rejects(None))
    weighted = PairSettings(root, caption_temperature=0.0).read(Rejects(None))
    assert plain.weights is None
    assert weighted.weights is not None
    np.testing.assert_allclose(weighted.weights, [1 / 90] * 30 + [1 / 24] * 8 + [1 / 6] * 2)
    assert list(plain) == list(weighted)
    assert plain.fingerprint() != weighted.fingerprint()
    assert plain.split_fingerprint() == weighted.split_fingerprint()


def test_more_data_beside_it_is_drawn_as_often_as_it_is_large(root: Path, tmp_path: Path) -> None:
    other = tmp_path / "other"
    other.mkdir()
    (other / "m.csv").write_text("filepath,title\n1.jpg,one\n2.jpg,two\n")
    settings = PairSettings(root, caption_temperature=0.5, also=(other,))
    pairs = settings.read(Rejects(None))
    assert len(pairs) == 42
    assert pairs.weights is not None
    np.testing.assert_allclose(pairs.weights[:40].sum() / pairs.weights.sum(), 40 / 42)
    assert [pair.image for pair in pairs[40:]] == [other / "1.jpg", other / "2.jpg"]
    assert replace(settings, also=(other / "m.csv",)).read(Rejects(None)) == pairs


def test_a_limit_counts_pairs_that_can_be_used(root: Path) -> None:
    """Not the rows whose chosen caption is empty, nor those of a part that is not here."""
    header, *rows = (root / "SkyScript_train.csv").read_text().splitlines()
    lines = [f"{header},title_multi_objects", *(f"{row},{'' if n % 2 else 'more'}" for n, row in enumerate(rows))]
    lines += [f"images3/a{n}_CH_19.jpg,one,one" for n in range(9000)]
    (root / "SkyScript_train.csv").write_text("".join(f"{line}\n" for line in lines))
    assert len(read_pairs(root, caption_column="title_multi_objects", limit=25)) == 25
    (root / "images3").mkdir()
    pairs = read_pairs(root, limit=60)
    assert len(pairs) == 60
    assert {pair.key.partition("/")[0] for pair in pairs} == {"images3"}


def test_a_box_is_chosen_by_place() -> None:
    pairs = [Pair(f"{n}.jpg", Path(f"{n}.jpg"), ("x",), box=Box(n, 10, n + 0.1, 10.1)) for n in range(5)]
    table = pa.Table.from_batches([to_batch(pairs)], SCHEMA)
    assert chosen(table, Choice(where="box(0.5, 0, 2.5, 20)")) == [1, 2]
