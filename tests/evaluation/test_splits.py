"""The fingerprint tells any change of what is scored, and published splits are known by their file names."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from skygen.evaluation.splits import OFFICIAL, EvaluatedSplit, fingerprint_references, hash_file_names, identify_split

KEYS = ["a.jpg", "b.jpg"]
REFERENCES = [["a lake", "a pond"], ["a road"]]


def test_every_change_of_keys_references_or_order_is_another_fingerprint() -> None:
    fingerprints = [
        fingerprint_references(KEYS, REFERENCES),
        fingerprint_references(KEYS[::-1], REFERENCES),
        fingerprint_references(KEYS[::-1], REFERENCES[::-1]),
        fingerprint_references(KEYS, [["a pond", "a lake"], ["a road"]]),
        fingerprint_references(KEYS, [["a lake", "a pond", "a pond"], ["a road"]]),
        fingerprint_references(KEYS, [["a lake"], ["a pond", "a road"]]),
        fingerprint_references(KEYS, [["a lakea pond"], ["a road"]]),
    ]
    assert len(set(fingerprints)) == 7
    assert all(len(one) == 16 and int(one, 16) >= 0 for one in fingerprints)
    assert fingerprint_references(tuple(KEYS), REFERENCES) == fingerprints[0]


def test_a_set_of_ones_own_is_no_official_split_and_it_is_said(caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO):
        split = identify_split("test", KEYS, REFERENCES)
    assert split == EvaluatedSplit("test", 2, fingerprint_references(KEYS, REFERENCES), None)
    assert split.to_json() == {"name": "test", "images": 2, "fingerprint": split.fingerprint, "official": None}
    assert caplog.messages == [
        f"split test: 2 images, not an official split that is known here; fingerprint {split.fingerprint}"
    ]


def test_file_names_count_without_their_folder_and_order() -> None:
    assert hash_file_names(["x/a.jpg", "b.jpg"]) == hash_file_names(["b.jpg", "y/z/a.jpg"]) != hash_file_names(["a.jpg"])


@pytest.mark.parametrize(
    ("folder", "file", "name"),
    [
        ("rsicd_captions", "dataset_rsicd.json", "RSICD"),
        ("captioning_samples_rsicd_ucm_sydney", "captions/dataset_sydney_modified.json", "Sydney-captions"),
    ],
)
def test_published_splits_are_known(shared_data: Callable[[str], Path], folder: str, file: str, name: str) -> None:
    images = json.loads((shared_data(folder) / file).read_text())["images"]
    for split in ("train", "val", "test"):
        keys = [f"images/{image['filename']}" for image in images if image["split"] == split]
        assert OFFICIAL[hash_file_names(keys)] == (f"{name} {split}", len(keys))
        identified = identify_split(split, keys, [["a lake"]] * len(keys))
        assert identified.official == f"{name} {split} ({len(keys):,} images)"
        assert identify_split(split, keys[1:], [["a lake"]] * (len(keys) - 1)).official is None
