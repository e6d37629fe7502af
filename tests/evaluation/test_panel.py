"""Several scorers: which there are, whether their weights are here, and which of them have seen the data."""

from __future__ import annotations

import logging
from pathlib import Path

import pytest

from skygen.errors import UnavailableError
from skygen.evaluation.panel import list_scorers, load_scorer, log_training, name_data_set, require_scorers
from skygen.models.scorer import Scorer, ScorerSettings


def test_each_scorer_is_listed_once_and_the_first_is_first() -> None:
    assert list_scorers(ScorerSettings("b", also=("a", "b", "c", "a"))) == ["b", "a", "c"]
    assert list_scorers(ScorerSettings()) == ["miniature"]


def test_a_further_scorer_without_weights_is_found_out_before_anything_is_loaded(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("SKYGEN_HOME", str(tmp_path))
    require_scorers(ScorerSettings())
    with pytest.raises(
        UnavailableError, match=r"^--scorer\.name remoteclip-vit-b33: not a scorer that skygen knows \(did you me"
    ):
        require_scorers(ScorerSettings(also=("miniature", "remoteclip-vit-b33")))


def test_a_scorer_is_loaded_by_its_name(skyclip_folder: Path) -> None:
    settings = ScorerSettings(batch_size=3, also=(str(skyclip_folder),))
    first, further = (load_scorer(settings, name, "cpu") for name in list_scorers(settings))
    assert (first.name, further.name) == ("miniature", str(skyclip_folder))
    assert (first.batch_size, further.batch_size) == (3, 3)


def test_a_data_set_is_called_as_its_folder_and_its_lists_are(tmp_path: Path) -> None:
    (tmp_path / "SkyScript_train.csv").touch()
    assert name_data_set(tmp_path) == (tmp_path.name, "SkyScript")
    assert name_data_set(tmp_path / "gone", Path("RSICD_test.csv")) == ("gone", "RSICD")
    assert name_data_set(tmp_path / "images2") == ("images2",)


def test_a_fabricated_world_is_not_taken_for_skyscript(world: Path) -> None:
    assert name_data_set(world) == ("world", "fabricated tiles")
    assert name_data_set(world / "benchmark") == ("benchmark", "fabricated tiles")


def test_a_scorer_that_has_seen_the_data_is_marked(caplog: pytest.LogCaptureFixture, skyclip_folder: Path) -> None:
    scorer = Scorer.load(str(skyclip_folder))
    name = f"skyclip:{skyclip_folder}"
    with caplog.at_level(logging.INFO):
        assert log_training(scorer, ("DATA", "SkyScript")) is False
        scorer.trained_on = ("LAION-2B", "SkyScript")
        assert log_training(scorer, ("DATA", "SkyScript")) is True
        assert log_training(scorer, ("RSICD",)) is False
    assert [record.message for record in caplog.records if record.name.startswith("skygen")] == [
        f"{name}: of unknown training data",
        f"{name}: trained on LAION-2B, SkyScript, so its scores here are in-sample",
        f"{name}: trained on LAION-2B, SkyScript",
    ]
