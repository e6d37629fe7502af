"""What becomes of new captions: a line an image, and a pair list on which new captions stand in for old ones or beside them.

Captions by a model, filtered by how well text and image match, are the CapFilt of BLIP (Li et al. 2022, section 3.3).
"""

from __future__ import annotations

import csv
import json
import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any, Literal, NamedTuple, final

from skygen.data.pair import Pair
from skygen.errors import ConfigError
from skygen.generation.caption_writing import Subject, Written
from skygen.storage import writing

Keep = Literal["new", "better", "both"]
_LINE_BREAK = re.compile(r"\s*[\r\n]+\s*")


class Kept(NamedTuple):
    """A caption of the new list.

    Args:
        text: as it was written, or as the data set has it.
        similarity: to the image, in [-1, 1]; None without a scorer.
        is_new: whether the captioner wrote it.
    """

    text: str
    similarity: float | None
    is_new: bool


@dataclass(slots=True)
class Counts:
    """How many captions were kept, and of how many images none.

    Args:
        captioned: images that have a new caption, kept or not.
        unreadable: images that have none.
        new: new captions in the list.
        old: old captions in the list.
        dropped: pairs that are not in the list, unreadable ones not counted.
    """

    captioned: int = 0
    unreadable: int = 0
    new: int = 0
    old: int = 0
    dropped: int = 0


@final
@dataclass(frozen=True, slots=True)
class KeepRule:
    """Which captions of a pair go into the new list.

    Args:
        keep: ``new``, the new caption; ``better``, that one of the old and new captions which is nearest to the image, of
            equals the old one; ``both``, all of them.
        min_similarity: captions below are left out, and with its last caption the pair; None leaves none out.
        has_scorer: whether similarities are known.

    Raises:
        ConfigError: the rule needs a scorer and there is none, or ``new`` is given a threshold.
    """

    keep: Keep = "new"
    min_similarity: float | None = None
    has_scorer: bool = False

    def __post_init__(self) -> None:
        if self.keep == "new" and self.min_similarity is not None:
            raise ConfigError(
                "--min_similarity leaves out captions of --keep better or both; --keep new takes every new caption"
            )
        if not self.has_scorer and (self.keep == "better" or self.min_similarity is not None):
            what = "--keep better compares" if self.keep == "better" else "--min_similarity asks for"
            raise ConfigError(f"{what} similarities to the image, which a CLIP computes: name one with --scorer.name")

    def choose(self, old: Sequence[str], written: Written) -> list[Kept]:
        """Choose among the captions of one pair; a blank one is never taken, and of a text that is both, the old one.

        Args:
            old: captions that the pair came with.
            written: what the captioner wrote about its image.

        Returns:
            In the order old, new; empty where the pair is dropped.
        """
        text = written.text.strip()
        score = written.scores[written.best] if written.scores else None
        new = [Kept(text, score, True)] if text else []
        if self.keep == "new":
            return new
        before = [Kept(each, value, False) for each, value in zip(old, written.old_scores or (None,) * len(old), strict=True)]
        captions = before + [each for each in new if each.text not in old]
        if self.min_similarity is not None:
            captions = [each for each in captions if (each.similarity or 0.0) >= self.min_similarity]
        return captions if self.keep == "both" else sorted(captions, key=_from_best)[:1]


def _from_best(caption: Kept) -> float:
    return -(caption.similarity or 0.0)


@final
@dataclass(frozen=True, slots=True)
class CaptionLists:
    """Writes ``captions.jsonl``, and of pairs ``captions.csv``, each whole or not at all.

    Args:
        folder: of the run.
        rule: which captions the CSV gets.
        scorer: the name of the CLIP; empty without one.
    """

    folder: Path
    rule: KeepRule
    scorer: str = ""

    def write_images(self, subjects: Sequence[Subject], written: Iterator[Written]) -> Counts:
        """Write ``captions.jsonl`` alone, of images that nothing was said of."""
        counts = Counts()
        with writing(self.folder / "captions.jsonl") as temporary, temporary.open("w", encoding="utf-8") as lines:
            for each in written:
                self._write_line(lines, subjects[each.row], each, counts)
        return counts

    def write_pairs(self, pairs: Sequence[Pair], written: Iterator[Written]) -> Counts:
        """Write ``captions.jsonl``, and ``captions.csv`` in SkyScript's schema, a row a caption.

        ``--pairs.csv`` reads the latter; rows on one image become one pair with several captions. Beside SkyScript's columns
        it has ``kept`` (new or old), ``caption_old`` (of several the nearest to the image, or else the first), ``caption_new``,
        ``similarity_old`` and ``similarity_new``.

        Args:
            pairs: all that were captioned.
            written: what was written about them, in their order.

        Raises:
            StorageError: the disk is full or refuses.
        """
        counts = Counts()
        with ExitStack() as stack:
            paths = [stack.enter_context(writing(self.folder / name)) for name in ("captions.jsonl", "captions.csv")]
            lines, table = (stack.enter_context(path.open("w", newline="", encoding="utf-8")) for path in paths)
            rows = csv.writer(table, lineterminator="\n")
            similarity = "similarity_" + re.sub(r"\W+", "_", self.scorer) if self.scorer else "similarity"
            known = ["filepath", "title", "label", "split", similarity]
            rows.writerow([*known, "kept", "caption_old", "caption_new", "similarity_old", "similarity_new"])
            for each in written:
                pair = pairs[each.row]
                if self._write_line(lines, pair, each, counts):
                    rows.writerows(self._rows_of(pair, each, counts))
        return counts

    def _write_line(self, lines: IO[str], subject: Subject, each: Written, counts: Counts) -> bool:
        """Write the line of an image, and say whether it has one."""
        if each.reason:
            counts.unreadable += 1
            return False
        line: dict[str, Any] = {"file_name": str(subject.image), "text": each.text}
        if subject.captions:
            line["old"] = list(subject.captions)
        if len(each.candidates) > 1:
            line["candidates"] = list(each.candidates)
        if each.scores:
            line |= {"scores": list(each.scores)} | ({"old_scores": list(each.old_scores)} if subject.captions else {})
        lines.write(json.dumps(line) + "\n")
        counts.captioned += 1
        return True

    def _rows_of(self, pair: Pair, each: Written, counts: Counts) -> Iterator[list[str]]:
        kept = self.rule.choose(pair.captions, each)
        counts.dropped += not kept
        scores = each.old_scores or (0.0,) * len(pair.captions)
        place = max(range(len(scores)), key=lambda number: (scores[number], -number))
        old_score = each.old_scores[place] if each.old_scores else None
        new_score = each.scores[each.best] if each.scores else None
        compared = [_cell(pair.captions[place]), _cell(each.text), _number(old_score), _number(new_score)]
        for caption in kept:
            counts.new += caption.is_new
            counts.old += not caption.is_new
            row = [pair.key, _cell(caption.text), pair.class_name or "", pair.split or "", _number(caption.similarity)]
            yield [*row, "new" if caption.is_new else "old", *compared]


def _cell(text: str) -> str:
    """Put a caption on one line, since a row is a line."""
    return _LINE_BREAK.sub(" ", text)


def _number(value: float | None) -> str:
    return "" if value is None else repr(value)
