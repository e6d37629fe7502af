"""The small networks as fixtures: each is written and loaded once a session, when it is first asked for."""

from __future__ import annotations

import copy
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
from models.captioners.small_networks import NETWORKS

from skygen.models.captioner import Captioner


@pytest.fixture(scope="session")
def folder_of(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], Path]:
    """Where the network of a kind lies, which is only read."""
    root = tmp_path_factory.mktemp("captioners")

    @cache
    def write(kind: str) -> Path:
        NETWORKS[kind].build(root / kind)
        return root / kind

    return write


@pytest.fixture(scope="session")
def captioner_of(folder_of: Callable[[str], Path]) -> Callable[[str], Captioner]:
    """A loaded captioner of a kind, which sees squares of the side that tests show it."""

    @cache
    def load(kind: str) -> Captioner:
        captioner = Captioner.load(str(folder_of(kind)))
        captioner.family.use_resolution(NETWORKS[kind].side)
        return captioner

    return load


@pytest.fixture(scope="module", params=NETWORKS)
def kind(request: pytest.FixtureRequest) -> str:
    """Every kind in turn; the tests of one family put their own kinds in its place."""
    return str(request.param)


@pytest.fixture
def folder(kind: str, folder_of: Callable[[str], Path]) -> Path:
    """The folder of this kind."""
    return folder_of(kind)


@pytest.fixture
def captioner(kind: str, captioner_of: Callable[[str], Captioner]) -> Captioner:
    """The captioner that all tests of this kind share, and leave as it is."""
    return captioner_of(kind)


@pytest.fixture
def own(captioner: Captioner) -> Captioner:
    """A captioner that a test may change: copying takes a fifth of the time of loading."""
    return copy.deepcopy(captioner)
