"""Splits a caption into the tokens that published caption scores are computed on, without Java.

BLEU, ROUGE-L and CIDEr of the literature are taken over tokens of the Penn Treebank convention (Marcus et al. 1993)
as Stanford's tokenizer writes them, lower-cased and rid of a fixed list of punctuation. The tables here were written
from the convention and from what that tokenizer (CoreNLP 3.4.1) was seen to answer. Not followed are smileys, ISO
dates, and a lone letter at the very end of a caption ("shaped like an L."), whose period that tokenizer keeps or
drops by the first word of the *next* caption in the file: here it is dropped.
"""

from __future__ import annotations

import re
from typing import Final

DROPPED: Final = frozenset(
    ["''", "'", "``", "`", '"', "«", "»", "\u2039", "\u203a", ".", "?", "!", ",", ":", ";", "-", "--", "..."]
)
"""Tokens that are removed. A run such as ``?!`` is not on the list and stays, as in coco-caption."""

SPELLINGS: Final = {
    **dict.fromkeys("\u2018\u2019\u201a\u201b", "'"),  # curly single quotes
    **dict.fromkeys("\u201c\u201d\u201e\u201f", '"'),  # curly double quotes
    **dict.fromkeys("\u2013\u2014\u2015", "--"),  # en dash, em dash, horizontal bar
    "…": "...",
    "½": " 1/2",
    "¼": " 1/4",
    "¾": " 3/4",
    "€": "$",
    "£": "#",
    "¢": " cents ",
    "&amp;": "&",
    "&lt;": "<",
    "&gt;": ">",
    "&quot;": '"',
    "&apos;": "'",
}
"""What is respelt before a caption is split; the currencies are the tokenizer's own choice."""

BRACKETS: Final = {"(": "-lrb-", ")": "-rrb-", "[": "-lsb-", "]": "-rsb-", "{": "-lcb-", "}": "-rcb-"}
"""The treebank's names. coco-caption means to drop some of them, but lists them in capitals, so that they stay."""

ABBREVIATIONS: Final = (
    "mr|mrs|ms|dr|prof|gen|col|sgt|capt|lt|maj|sen|rep|gov|pres|hon|rev|jr|sr|esq|messrs|mme|adm|adj|ph|"
    "st|ave|blvd|rd|mt|ft|sq|ct|ste|bldg|inc|ltd|co|corp|dept|est|bros|assn|univ|cie|intl|tel|elec|mfg|natl|"
    "jan|feb|mar|apr|jun|jul|aug|sep|sept|oct|nov|dec|mon|tue|tues|wed|thu|thurs|fri|vs|etc|al|cf|alex|"
    "ala|ariz|calif|colo|conn|fla|ga|ind|kan|ky|md|mich|minn|mo|mont|neb|nev|okla|penn|tenn|va|vt|wis|wyo"
)
"""Keep their period."""

CAPITALISED_ABBREVIATIONS: Final = "Ark|Del|Ill|La|Mass|Miss|Ore|Pa|Tex|Wash"
"""Keep their period only with a capital, for without one most are words."""

NUMBERED_ABBREVIATIONS: Final = "no|nos|fig|figs|ca|pp|art|op"
"""Keep their period only before a number."""

LETTER: Final = "[^\\W\\d_²³¹½¼¾⁰-₟]"
PIECE: Final = f"(?:{LETTER}|\\d)+"
WORD: Final = f"{LETTER}(?:{LETTER}|\\d)*"
COMPOUND: Final = f"{PIECE}(?:[-_]{PIECE})*"
DECIMAL: Final = "\\d*(?:[.,:]\\d+)+"
END: Final = f"(?!{LETTER}|\\d)"

RULES: Final = {
    "address": r"(?:https?://|www\.)[^\s\"<>]*[^\s\"<>.,;:!?')\]}]",
    "mail": r"[\w.+-]+@\w[\w-]*(?:\.\w+)*",
    "markup": r"</?[a-z][^<>]*>",
    "company": rf"(?-i:[A-Z]+(?:&[A-Z]+)+){END}",
    "verb before n't": rf"{LETTER}+?(?=n't{END})",
    "first half": rf"(?:can(?=not{END})|(?:gon|wan)(?=na{END})|got(?=ta{END})|(?:lem|gim)(?=me{END})|y'(?=all{END}))",
    "negation": rf"n't{END}",
    "clitic": rf"'(?:s|m|d|re|ve|ll|em|til|cause){END}|'t(?=(?:is|was){END})|'n{END}'?|(?<!\d)'\d\ds?{END}",
    "elided word": rf"(?:(?:o|d|l|c|j|qu)'{LETTER}{{2,}}|ol'{END}|ma'am{END}|[djl]'(?={LETTER}))",
    "acronym": rf"{LETTER}(?:\.{LETTER})+{END}(?:\.(?:-{COMPOUND})?)?|ph\.d\.",
    "abbreviation": rf"(?:{ABBREVIATIONS})\.(?!\w)(?:-{COMPOUND})?",
    "capitalised abbreviation": rf"(?-i:{CAPITALISED_ABBREVIATIONS})\.(?!\w)",
    "numbered abbreviation": rf"(?:{NUMBERED_ABBREVIATIONS})\.(?=\s*\d)",
    "initial": rf"{LETTER}\.(?=\s+\S*\w)",
    "word before comma": rf"(?:{WORD}|\d+)\.(?=[,;:])",
    "decimal": rf"[-+]?{DECIMAL}(?:-{COMPOUND})*",
    "alternatives": rf"{PIECE}(?:-{PIECE})*(?:/{PIECE}(?:-{PIECE})*)+",
    "hyphenated": rf"{PIECE}(?:[-_]{PIECE})+",
    "dotted": rf"{WORD}(?:[.!?]{WORD})+",
    "plain": PIECE,
    "signed number": r"[-+]\d+",
    "tag": rf"[#@]{LETTER}+",
    "run": r"\.{2,}|-{2,}|[!?]+|_+|\*+|#+|''|``",
    "symbol": r"\S",
}
"""Tried in this order at every place of a caption; the first that fits makes the token."""

TOKEN: Final = re.compile("|".join(f"(?:{pattern})" for pattern in RULES.values()), re.IGNORECASE)
RESPELT: Final = re.compile("|".join(map(re.escape, SPELLINGS)))


def tokenize_caption(caption: str) -> tuple[str, ...]:
    """Split a caption as coco-caption does before it scores: Penn Treebank tokens, lower-cased, without punctuation.

    Args:
        caption: one caption, of any case, with any white space.

    Returns:
        The tokens; none for a caption that is empty or all punctuation.
    """
    respelt = RESPELT.sub(lambda match: SPELLINGS[match.group()], caption)
    found = (BRACKETS.get(token, token.lower()) for token in TOKEN.findall(respelt))
    return tuple(token for token in found if token not in DROPPED and not token.startswith(("--", "..")))
