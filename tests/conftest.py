"""What several tests share."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest

_SHARED_DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture
def shared_data() -> Callable[[str], Path]:
    """Find a real data set that lies beside the repository, not in it; the test is skipped where it is absent."""

    def find(name: str) -> Path:
        folder = _SHARED_DATA / name
        if not folder.is_dir():
            pytest.skip(f"the data set {name} is not beside this repository (shared/data/{name})")
        return folder

    return find
