"""Whether a picture says back what it was asked for: its prompt beside what a captioner says of it.

The cycle prompt -> picture -> caption is closed by a CLIP's text network: the cosine of the two texts. It sees the picture
through the captioner alone, and so fails in other ways than the similarity of picture and prompt does, which looks at the
picture itself. Hong et al. (2018, "Inferring Semantic Layout for Hierarchical Text-to-Image Synthesis") judged generators by
captioning their pictures, and compared by BLEU, METEOR and CIDEr; a cosine forgives other words for the same thing. Like every
cosine of a CLIP it has no meaning by itself: hold it against that of real pictures, or of captions dealt to the wrong prompts.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
from jaxtyping import Float

from skygen import plain_json
from skygen.data.captions import strip_view_prefix
from skygen.errors import DataError, UnavailableError
from skygen.models.scorer import Scorer
from skygen.storage import can_be_named


def cycle_scores(scorer: Scorer, prompts: Sequence[str], captions: Sequence[str]) -> Float[np.ndarray, " count"]:
    """Compare what was asked for with what is seen, picture by picture; each distinct text is embedded once.

    A view prefix ("a satellite image of") is left out on both sides: prompts have it and a captioner's captions mostly do not,
    and a picture that says back its prompt word for word is to score 1.

    Args:
        scorer: the CLIP whose text network compares.
        prompts: what each picture was drawn from.
        captions: what a captioner says of each picture, in the same order.

    Returns:
        Cosines in [-1, 1], float32.

    Raises:
        DataError: the counts differ, or there is none.
    """
    if len(prompts) != len(captions):
        raise DataError(f"There are {len(prompts)} prompts but {len(captions)} captions; give one for each, in the same order.")
    if not prompts:
        raise DataError("There is no prompt to compare; give at least one.")
    from skygen.evaluation.pair_scores.embedding import embed_texts

    sides = [[strip_view_prefix(text) for text in texts] for texts in (prompts, captions)]
    distinct = {text: row for row, text in enumerate(dict.fromkeys(chain(*sides)))}
    embedded = embed_texts(scorer, list(distinct), scorer.batch_size)
    asked, seen = (embedded[[distinct[text] for text in texts]] for texts in sides)
    cosines: Float[np.ndarray, " count"] = np.clip((asked * seen).sum(axis=1), -1.0, 1.0).astype(np.float32)
    return cosines


def read_captions(path: Path, folder: Path, file_names: Sequence[str]) -> list[str]:
    """Read what ``recipes/caption.py`` has written of the pictures of a set.

    A line belongs to a picture if its file is the picture's, or, where set or captions have been moved since and no such file
    is there, if the end of its path is the picture's name in the set. Lines on other images are passed over.

    Args:
        path: ``captions.jsonl``.
        folder: of the set, ``runs/NAME/samples``.
        file_names: of the pictures as their records have them, such as ``images/000001.png``.

    Returns:
        A caption a picture, in the order of ``file_names``.

    Raises:
        UnavailableError: there is no such file.
        DataError: a line cannot be read, a picture has no caption, or two that differ.
    """
    places = {str(folder.resolve() / name): name for name in file_names}
    depths = {name.count("/") + 1 for name in file_names}
    names = set(file_names)
    found: dict[str, str] = {}
    for number, image, text in _read_lines(path):
        name = places.get(str(image.resolve()))
        if name is None and not image.exists():
            ends = ("/".join(image.parts[-depth:]) for depth in sorted(depths, reverse=True))
            name = next((end for end in ends if end in names), None)
        if name is not None and found.setdefault(name, text) != text:
            raise DataError(
                f"{path}, line {number}: {name} has two captions; give the captions of one run of recipes/caption.py."
            )
    if missing := [name for name in file_names if name not in found]:
        raise DataError(
            f"{path} has no caption for {len(missing):,} of {len(file_names):,} pictures of {folder}, {missing[0]} first; "
            f"caption the set: recipes/caption.py --images {folder / 'images'}"
        )
    return [found[name] for name in file_names]


def _read_lines(path: Path) -> Iterator[tuple[int, Path, str]]:
    """Yield the number, the image and the caption of each line."""
    try:
        content = path.read_bytes()
    except OSError as error:
        how = "recipes/caption.py writes captions.jsonl into its run's folder"
        raise UnavailableError(f"{path} cannot be read ({error.strerror}); {how}.") from error
    for number, line in enumerate(content.splitlines(), start=1):
        if not line.strip():
            continue
        try:
            row: dict[str, Any] = plain_json.parse(line)
            image, text = row["file_name"], row["text"]
        except (ValueError, KeyError, TypeError) as error:
            raise DataError(f"{path}, line {number}: not a line of recipes/caption.py; caption the set again.") from error
        if not isinstance(image, str) or not isinstance(text, str):
            raise DataError(f"{path}, line {number}: file_name and text must be texts; caption the set again.")
        if not can_be_named(image):
            raise DataError(f"{path}, line {number}: {image[:60]!r} is no file's name; caption the set again.")
        yield number, Path(image), text
