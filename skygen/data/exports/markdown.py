"""Cards in Markdown: whose they are; texts of any origin shown as they are, without the places of this machine."""

from __future__ import annotations

import re
from pathlib import Path, PureWindowsPath

CARD = "README.md"
MARK = "<!-- written by skygen; the next export to this folder writes it anew -->"
"""Stands in every card that skygen writes, so that it never writes over another's."""
_PLACE = re.compile(r"(?<![\w./:~])~?(?:/[^\s/:\"'=,;]+){2,}/?")
"""An absolute path inside a text; those of an address follow a colon or a slash."""
_PUNCTUATION = re.compile(r"([!-/:-@\[-`{-~])")
"""What CommonMark takes a backslash before."""


def is_foreign(card: Path) -> bool:
    """Say whether there is a card that somebody else has written."""
    return card.exists() and MARK not in card.read_text(encoding="utf-8", errors="replace")


def escape(text: str) -> str:
    """Make a text that Markdown shows as it is, in one line."""
    return _PUNCTUATION.sub(r"\\\1", " ".join(str(text).split()))


def quote(text: object) -> str:
    """Make a code span of a text, in one line, whatever backticks it has."""
    line = " ".join(str(text).split()) or " "
    marks = "`" * (1 + max(map(len, re.findall("`+", line)), default=0))
    padding = " " if line.startswith("`") or line.endswith("`") else ""
    return f"{marks}{padding}{line}{padding}{marks}"


def quote_in_table(text: object) -> str:
    """Make a code span that keeps within its cell; an empty text is an empty cell."""
    return quote(str(text).replace("|", "\\|")) if str(text).strip() else ""


def fence(text: str, language: str) -> str:
    """Make a block of code, whatever backticks it has."""
    marks = "`" * max(3, 1 + max(map(len, re.findall("`+", text)), default=0))
    return f"{marks}{language}\n{text.rstrip()}\n{marks}"


def name_without_place(text: str) -> str:
    """Return the name alone of a path of this machine; what is none, such as a hub id, stays, but for paths inside it."""
    option, equals, value = text.partition("=")
    if equals and option.startswith("-"):
        return f"{option}={name_without_place(value)}"
    windows = PureWindowsPath(text)
    if windows.drive and windows.root:
        return windows.name
    path = Path(text)
    is_place = path.is_absolute() or text.startswith(("~", "./", "../")) or ("/" in text and _exists(path))
    if is_place and not any(character in text for character in "\n\r"):
        return path.name
    return _PLACE.sub(lambda match: Path(match.group()).name, text)


def _exists(path: Path) -> bool:
    try:
        return path.exists()
    except (OSError, ValueError):  # too long for a name, or with a zero in it: a text
        return False
