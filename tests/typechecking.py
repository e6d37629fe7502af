"""The run-time type checker of the suite: every skygen function's types and array shapes are checked at every call."""

from __future__ import annotations

from typing import Any

from beartype import BeartypeConf, beartype

check_types: Any = beartype(conf=BeartypeConf(is_pep484_tower=True))  # an int is also a float, as in mypy
