"""How many captions are too long for CLIP, whose tokenizer cuts them at 77 tokens without a word.

Plain text is counted here, from the merges that come with open_clip, for to import open_clip takes 800 MB and seconds;
anything else is left to open_clip's own tokenizer.
"""

from __future__ import annotations

import gzip
import importlib.util
import re
from collections.abc import Callable, Mapping, Sequence
from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import Final

import numpy as np
from jaxtyping import Bool

from skygen.errors import UnavailableError

CONTEXT: Final = 77
"""Tokens that CLIP reads, start and end of text included (Radford et al. 2021)."""
MERGES: Final = 49152 - 256 - 2
"""Pairs of CLIP's vocabulary; the file lists more."""
_PIECE: Final = re.compile(r"<start_of_text>|<end_of_text>|'s|'t|'re|'ve|'m|'ll|'d|[a-z]+|[0-9]|[^\sa-z0-9]+")
_SPECIAL: Final = frozenset({"<start_of_text>", "<end_of_text>"})


def is_truncated(texts: Sequence[str]) -> Bool[np.ndarray, " count"]:
    """Tell which texts CLIP's tokenizer cuts.

    Args:
        texts: as a scorer or a text-to-image model would get them.

    Returns:
        True where a text has more than 75 tokens of its own.
    """
    room = CONTEXT - 2
    # a token is at least one byte, and without entities the tokenizer's cleaning adds none
    long = (len(text.encode()) > room or "&" in text for text in texts)
    found = (over and count_tokens(text) > room for over, text in zip(long, texts, strict=True))
    return np.fromiter(found, np.bool_, len(texts))


def count_tokens(text: str) -> int:
    """Count the tokens of CLIP's byte-pair encoding, without those of start and end.

    Raises:
        UnavailableError: open_clip is not installed.
    """
    if not text.isascii() or not text.replace("\n", " ").isprintable() or "&" in text:  # the tokenizer would clean it first
        return len(_full_tokenizer()(text))
    return sum(1 if piece in _SPECIAL else _count_pieces(piece) for piece in _PIECE.findall(text.lower()))


@cache
def _count_pieces(word: str) -> int:
    """Merge the letters of a word, the earliest learnt pair first, and count what is left."""
    ranks = _ranks()
    parts = [*word[:-1], word[-1] + "</w>"]
    while len(parts) > 1:
        best = min(pairwise(parts), key=lambda pair: ranks.get(pair, MERGES))
        if best not in ranks:
            break
        merged: list[str] = []
        for part in parts:
            # what has just been joined is longer than the pair's first half, so that it is not joined again
            if merged and (merged[-1], part) == best:
                merged[-1] += part
            else:
                merged.append(part)
        parts = merged
    return len(parts)


@cache
def _ranks() -> Mapping[tuple[str, ...], int]:
    spec = importlib.util.find_spec("open_clip")
    if spec is None or not spec.submodule_search_locations:
        raise UnavailableError("open_clip_torch is not installed; install skygen again with its dependencies.")
    path = Path(spec.submodule_search_locations[0]) / "bpe_simple_vocab_16e6.txt.gz"
    lines = gzip.decompress(path.read_bytes()).decode("utf-8").split("\n")[1 : MERGES + 1]
    return {tuple(line.split()): rank for rank, line in enumerate(lines)}


@cache
def _full_tokenizer() -> Callable[[str], list[int]]:
    from open_clip.tokenizer import SimpleTokenizer

    return SimpleTokenizer().encode
