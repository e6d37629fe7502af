"""JSON that others have written: whatever is wrong with it is a ValueError, which a reader puts into words."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

from skygen.errors import DataError

MOST_DIGITS = 300
"""Of a whole number: a float holds no more than 308."""


def parse(text: str | bytes) -> Any:
    """Parse JSON.

    Args:
        text: or its bytes, in UTF-8.

    Returns:
        What it says, in plain values; its texts can be written as UTF-8.

    Raises:
        ValueError: it is no JSON, no UTF-8, nested too deeply, an escape stands for half of a character, or a number has more
            digits than a float can hold.
    """
    try:
        # json itself takes bytes for UTF-16 where they look so, and lets half characters pass
        content = json.loads(text.decode("utf-8-sig") if isinstance(text, bytes) else text, parse_int=_read_whole)
        if ("\\ud" in text or "\\uD" in text) if isinstance(text, str) else (b"\\ud" in text or b"\\uD" in text):
            json.dumps(content, ensure_ascii=False).encode()
    except RecursionError as error:
        raise ValueError("nested too deeply") from error
    return content


def read(path: Path, mend: str) -> Any:
    """Read a JSON file that skygen has written.

    Args:
        path: of the file, which must be there.
        mend: what to do about one that is damaged, as the last words of the error.

    Raises:
        DataError: it is damaged.
    """
    try:
        return parse(path.read_bytes())
    except ValueError as error:
        raise DataError(f"{path}: damaged ({' '.join(str(error).split())[:200]}); {mend}.") from error


def _read_whole(digits: str) -> int:
    if len(digits) > MOST_DIGITS:
        raise ValueError(f"a number of {len(digits):,} digits")
    return int(digits)
