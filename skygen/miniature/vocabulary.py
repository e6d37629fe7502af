"""The miniature's tokenizers: CLIP's and BERT's classes over small vocabularies that can still spell anything."""

from __future__ import annotations

import gzip
from typing import Any

CONTEXT = 64
VOCABULARY = 4096
CLIP_MERGES = VOCABULARY - 2 * 256 - 2  # what is left beside 256 bytes, 256 bytes that end a word, start and end
WORDPIECE_SPECIALS = ("[PAD]", "[UNK]", "[CLS]", "[SEP]", "[MASK]", "[DEC]")
SIGNS = ".,;:!?'\"()-_/&%+"
LETTERS = "abcdefghijklmnopqrstuvwxyz0123456789"
SUFFIXES = ("al", "ar", "ed", "er", "es", "ing", "ion", "land", "le", "ly", "ment", "or", "th", "way")

# What overhead images are described with, beyond the commonest English words.
OVERHEAD_WORDS = """
aerial aircraft airplane airplanes airport airports apartment apartments apron arc asphalt bare bareland baseball
basketball bays beach beaches beside besides blocks boats bridge bridges brown buildings bushes canal cars center
centre church circular clay closely clouds coast commercial concrete container court courts covered crops
crosswalk crossing curved decorated dense densely desert diamond dirt district docks edge factory farmland
farmlands fence fields flat football footway forest forests freeway grass grassland grassy gravel gray green
greenery greenhouse grey ground gymnasium harbor harbour helipad highway hills houses industrial irregular island
islands junction lake lakes lanes lawn lawns lined lots marina meadow meadows mountain mountains narrow natural
near neat neatly ocean orchard orderly oval overpass panels park parked parking parks parallel path paths piece
pieces pier piers pitch plane planes plant plants playground playgrounds pond ponds pool pools port power railway
railways rectangle rectangular residential resort ripples river rivers road roads rock rocks roof roofs roundabout
rows runway runways sand sandy satellite scattered school sea seawater several shadow ships shore shrubs snow
soccer solar sparse sport square squares stadium station storage straight stream street streets studio surface
surrounded surrounding swimming tank tanks teaching tennis terminal terrain tiny tower track tracks traffic trees
triangle turbine turbines unclassified vegetation vehicles viaduct villas water waterway waves wharf white wide
winding with woods yellow
"""


def clip_tokenizer() -> Any:
    """Return CLIP's byte-pair tokenizer with its most frequent merges only: any text, in 4096 pieces instead of 49408."""
    from transformers import CLIPTokenizer

    merges = _clip_merges()
    letters = _byte_letters()
    pieces = [*letters, *(letter + "</w>" for letter in letters), *("".join(pair) for pair in merges)]
    vocabulary = {piece: index for index, piece in enumerate([*pieces, "<|startoftext|>", "<|endoftext|>"])}
    return CLIPTokenizer(vocab=vocabulary, merges=merges, model_max_length=CONTEXT)


def wordpiece_tokenizer() -> Any:
    """Return a BERT tokenizer, as BLIP has one, of whole words: overhead and common English ones; letters spell the rest."""
    from transformers import BertTokenizer

    common = ("".join(pair).removesuffix("</w>") for pair in _clip_merges() if pair[1].endswith("</w>"))
    words = [word for word in common if word.isascii() and word.isalnum() and len(word) > 1]
    endings = [f"##{ending}" for ending in (*LETTERS, *SUFFIXES)]
    pieces = [*WORDPIECE_SPECIALS, *SIGNS, *LETTERS, *endings, *OVERHEAD_WORDS.split(), *words]
    vocabulary = {piece: index for index, piece in enumerate(dict.fromkeys(pieces))}
    return BertTokenizer(vocab=vocabulary, do_lower_case=True, bos_token="[DEC]", model_max_length=CONTEXT)


def _clip_merges() -> list[tuple[str, str]]:
    """Read CLIP's merges (MIT licence, OpenAI), most frequent first, from the copy that open_clip carries."""
    import open_clip.tokenizer

    with gzip.open(open_clip.tokenizer.default_bpe(), "rt", encoding="utf-8") as file:
        next(file)  # a version line
        pairs = [tuple(next(file).split()) for _ in range(CLIP_MERGES)]
    return [(first, second) for first, second in pairs]


def _byte_letters() -> list[str]:
    """Return one printable letter for each byte, in the order of CLIP's vocabulary."""
    from open_clip.tokenizer import bytes_to_unicode

    return list(bytes_to_unicode().values())
