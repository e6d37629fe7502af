"""JSON of others: everything that is wrong with it is a ValueError, and what is right is as json reads it."""

from __future__ import annotations

import json

import pytest

from skygen import plain_json


@pytest.mark.parametrize(
    "text",
    [
        "[" * 100_000,
        '{"a":' * 100_000 + "1" + "}" * 100_000,
        '{"a": "\\ud800"}',
        '{"\\uDC00": 1}',
        b'{"a": "\xed\xa0\x80"}',
        b'{"a": "\xff"}',
        "[" + "9" * 400 + "]",
        "",
        b"",
        "{",
        "nothing",
        '{"a": 1}'.encode("utf-16"),
    ],
)
def test_what_is_wrong_is_a_value_error(text: str | bytes) -> None:
    with pytest.raises(ValueError):
        plain_json.parse(text)


@pytest.mark.parametrize(
    "value", [{"a": [1, -2.5, None, True, "ü", "😀", "\n"]}, [], "text", 10**200, {"nested": {"deep": [[[1]]]}}]
)
def test_what_is_right_is_read_as_it_was_written(value: object) -> None:
    for text in (json.dumps(value), json.dumps(value, ensure_ascii=False)):
        assert plain_json.parse(text) == value
        assert plain_json.parse(text.encode()) == value
        assert plain_json.parse(b"\xef\xbb\xbf" + text.encode()) == value
