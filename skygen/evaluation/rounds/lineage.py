"""Rounds of a closed loop: what each picture came from, what became of it, and which round was trained on it.

A generator that is trained on its own pictures alone loses variety round by round (Alemohammad et al. 2023, "Self-Consuming
Generative Models Go MAD"; Shumailov et al. 2024, "AI models collapse when trained on recursively generated data"). Where the
real data stay and pictures only join them, it does not (Gerstgrasser et al. 2024, "Is Model Collapse Inevitable?"): hence real
pairs are in every round, kept pictures of all earlier rounds join them, and their share has a bound.

A round is a folder whose name ends with its number, such as ``round-1``, with these runs in it:

* ``training``, of ``recipes/finetune_diffusion.py``;
* ``set``, of ``recipes/generate.py``: the pictures that later rounds may learn from;
* ``screen``, of ``recipes/screen_images.py``: the verdict on each of them;
* ``test`` and ``scores``, of ``recipes/generate.py`` and ``recipes/evaluate_images.py``: how good the round is.
"""

from __future__ import annotations

import json
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from hashlib import file_digest
from pathlib import Path
from typing import Any, Final, final

from skygen import plain_json
from skygen.config import read_yaml
from skygen.data.layouts import find_layout
from skygen.data.pair import CLASS_TEMPLATE, Pair
from skygen.data.pairs import read_pairs
from skygen.errors import ConfigError, DataError, UnavailableError
from skygen.seeding import Seeds
from skygen.storage import can_be_named, writing

KEPT: Final = "kept"
"""The verdict of ``recipes/screen_images.py`` on a picture that may be learned from."""
UNREADABLE: Final = "unreadable"
"""Of a picture whose file the screening could not read; its own ledger says why."""
_NUMBER = re.compile(r"(\d+)$")

Row = dict[str, Any]


@final
@dataclass(frozen=True, slots=True)
class Round:
    """One round.

    Args:
        number: 0 for the round that has learned from real pairs alone.
        folder: with the runs of the round in it.
    """

    number: int
    folder: Path

    @property
    def name(self) -> str:
        """What a page calls it."""
        return f"round {self.number}"

    @property
    def samples(self) -> Path:
        """The imagefolder of the pictures that later rounds may learn from."""
        return self.folder / "set" / "samples"


def open_rounds(folders: Sequence[Path]) -> list[Round]:
    """Bring the folders of rounds into their order.

    Raises:
        ConfigError: none is given, one has no number at the end of its name, or two have the same.
        UnavailableError: one is not there.
    """
    if not folders:
        raise ConfigError("no round is given; give the folders of rounds, such as runs/closed_loop/round-*.")
    rounds: dict[int, Round] = {}
    for folder in folders:
        if not folder.is_dir():
            raise UnavailableError(f"{folder}: there is no such folder; give the folders of rounds.")
        number = _NUMBER.search(folder.resolve().name)
        if number is None:
            raise ConfigError(f"{folder}: the name of a round's folder ends with its number, such as round-0.")
        known = rounds.setdefault(int(number[1]), Round(int(number[1]), folder))
        if known.folder.resolve() != folder.resolve():
            raise ConfigError(f"{folder} and {known.folder} are both round {number[1]}; give each round once.")
    return [rounds[number] for number in sorted(rounds)]


def trace(rounds: Sequence[Round]) -> list[Row]:
    """Say of every picture of every round what it came from and what became of it.

    Returns:
        A row a picture, by round and number: ``round``, ``file`` (relative to the folder of the rounds), ``sha256``,
        ``index``, ``prompt``, ``key`` (of the real pair whose caption that is), ``class``, ``seed``; ``base``,
        ``base_fingerprint``, ``adapter`` and ``adapter_sha256``; ``trained_on``, the lists that the adapter has learned from,
        each with its SHA-256; ``skyclip_score``, ``cycle_score``, ``verdict`` and ``reasons`` (None and nothing where the
        round has not been screened); ``used_in``, the rounds that were trained on it.

    Raises:
        UnavailableError: a round has no pictures, or a list that it was trained on is gone.
        DataError: a file is damaged, a picture was screened twice, or drawn by another adapter than the round's.
    """
    top = rounds[0].folder.resolve().parent
    used = _find_uses(rounds)
    rows: list[Row] = []
    for each in rounds:
        verdicts = read_verdicts(each)
        parents = _list_parents(each, top)
        adapters = [_hash(path) for path in sorted((each.folder / "training" / "adapter").glob("*.safetensors"))]
        for record in read_records(each):
            path = each.samples.resolve() / record["file_name"]
            if adapters and record["adapter_sha256"] not in adapters:
                raise DataError(
                    f"{path}: was drawn by another adapter than {each.folder / 'training'} has now; remove "
                    f"{each.samples.parent} and draw the set again."
                )
            told = verdicts.get(record["file_name"], {})
            rows.append(
                {
                    "round": each.number,
                    "file": path.relative_to(top).as_posix(),
                    **{name: record.get(name) for name in ("sha256", "index")},
                    "prompt": record["text"],
                    **{name: record.get(name) for name in ("key", "class", "seed", "base", "base_fingerprint")},
                    **{name: record.get(name) for name in ("adapter", "adapter_sha256")},
                    "trained_on": parents,
                    "skyclip_score": told.get("skyclip_score", record.get("skyclip_score")),
                    "cycle_score": told.get("cycle_score"),
                    "verdict": told.get("verdict"),
                    "reasons": told.get("reasons", []),
                    "used_in": used.get(str(path), []),
                }
            )
    return rows


def write_lineage(rows: Sequence[Row], path: Path) -> None:
    """Write ``lineage.jsonl``, a line a picture.

    Raises:
        StorageError: the disk is full or refuses.
    """
    with writing(path) as temporary:
        temporary.write_text("".join(json.dumps(row) + "\n" for row in rows), encoding="utf-8")


def gather(rounds: Sequence[Round], root: Path, real: int, share: float, seeds: Seeds) -> tuple[list[Pair], int]:
    """Choose what the next round learns from beside real pairs: all kept pictures, or as many as ``share`` allows.

    Which ones does not hang on their scores, since those nearest to their prompts are the least varied; and a picture that
    a smaller number has is also in a larger one.

    Args:
        rounds: that were drawn and screened.
        root: folder above the rounds, which the keys are relative to.
        real: real pairs that they join.
        share: of synthetic ones among all pairs, at most; in (0, 1).
        seeds: of the choice.

    Returns:
        Pairs by round and number, each with its prompt as the caption; and how many there were to choose from.

    Raises:
        ConfigError: the share is out of range, or a round does not lie below ``root``.
        DataError: no picture was kept, the bound leaves none, or a round has not been screened.
    """
    if not 0 < share < 1:
        raise ConfigError(f"--share {share}: give a share above 0 and below 1; 1 would leave no real pair.")
    kept: list[Pair] = []
    for each in rounds:
        if not each.samples.resolve().is_relative_to(root.resolve()):
            raise ConfigError(f"{each.folder} does not lie in {root}, where the list is to be; choose an --output above it.")
        verdicts = read_verdicts(each)
        if not verdicts:
            raise DataError(f"{each.folder / 'screen'}: has no verdicts; run recipes/screen_images.py on {each.samples} first.")
        kept += [_pair(each, record, root) for record in read_records(each) if _is_kept(verdicts, record)]
    most = int(share * real / (1 - share) + 1e-9)  # 0.5 of 0.5 is all, whatever its last bit
    if not kept or not most:
        why = "no picture of them was kept" if not kept else f"--share {share} of {real} real pairs leaves room for none"
        raise DataError(f"{', '.join(str(each.folder) for each in rounds)}: {why}, and there is nothing to add to real pairs.")
    order = sorted(range(len(kept)), key=lambda place: seeds.derive("gathered", kept[place].key))
    return [kept[place] for place in sorted(order[:most])], len(kept)


def read_records(each: Round) -> list[Row]:
    """Read the records of the set of a round, one a picture.

    Raises:
        UnavailableError: there is none.
        DataError: a line is damaged, or a picture has two.
    """
    path = each.samples / "metadata.jsonl"
    needed = ("file_name", "text", "seed", "base_fingerprint", "adapter_sha256")
    return list(_by_file(path, needed, "run recipes/generate.py first").values())


def read_verdicts(each: Round) -> dict[str, Row]:
    """Read what the screening of a round said of each picture, by its name; nothing where it was not screened.

    Raises:
        DataError: a line is damaged, a picture was screened twice, or one that the set does not have.
    """
    path = each.folder / "screen" / "screened.jsonl"
    if not path.exists():
        return {}
    verdicts = _by_file(path, ("file_name", "verdict"), "run recipes/screen_images.py first")
    names = [record["file_name"] for record in read_records(each)]
    if strange := sorted(verdicts.keys() - set(names)):
        raise DataError(
            f"{path}: {len(strange)} screened pictures are not in the set, {strange[0]} first; remove {path.parent} and screen "
            f"{each.samples} again."
        )
    unread: Row = {"verdict": UNREADABLE, "reasons": [f"could not be read: {path.parent / 'rejects.jsonl'}"]}
    return {name: verdicts.get(name, unread) for name in names}


def read_lines(path: Path, needed: Sequence[str], mend: str) -> Iterator[Row]:
    """Yield the lines of a JSONL file in which nothing may be missing.

    Raises:
        UnavailableError: it is not there.
        DataError: a line is not JSON, or lacks one of the ``needed`` names.
    """
    try:
        content = path.read_bytes()
    except OSError as error:
        raise UnavailableError(f"{path} cannot be read ({error.strerror}); {mend}.") from error
    for number, line in enumerate(content.splitlines(), start=1):
        try:
            row = plain_json.parse(line)
        except ValueError:
            row = None
        if not isinstance(row, dict) or (lacking := [name for name in needed if name not in row]):
            what = f"has no {lacking[0]}" if isinstance(row, dict) else "is not JSON"
            raise DataError(f"{path}, line {number}: {what}; {mend}.")
        yield row


def _by_file(path: Path, needed: Sequence[str], mend: str) -> dict[str, Row]:
    rows: dict[str, Row] = {}
    for row in read_lines(path, needed, mend):
        if rows.setdefault(row["file_name"], row) is not row:
            raise DataError(f"{path}: {row['file_name']} stands there twice; {mend}.")
    return rows


def _is_kept(verdicts: Mapping[str, Row], record: Row) -> bool:
    return bool(verdicts[record["file_name"]]["verdict"] == KEPT)


def _pair(each: Round, record: Row, root: Path) -> Pair:
    image = each.samples / record["file_name"]
    key = (each.samples.resolve() / record["file_name"]).relative_to(root.resolve()).as_posix()
    score = record.get("skyclip_score")
    return Pair(key, image, (record["text"],), "train", record.get("class") or None, similarity=score)


def _read_training(each: Round) -> tuple[tuple[Path, Path | None], list[Path]] | None:
    """Return root and list of the pairs that a round was trained on, and what was read beside them; None without a training."""
    path = each.folder / "training" / "config.yaml"
    if not path.exists():
        return None
    pairs = read_yaml(path).get("pairs")
    named: dict[str, Any] = pairs if isinstance(pairs, dict) else {}
    csv, also = named.get("csv"), named.get("also", [])
    places = [named.get("root"), *([] if csv is None else [csv]), *(also if isinstance(also, list) else [None])]
    if any(not isinstance(place, str) or not can_be_named(place) for place in places):
        raise DataError(f"{path}: does not say which pairs the round was trained on; train it again.")
    return (Path(named["root"]), Path(csv) if csv else None), [Path(place) for place in also]


def _split_place(place: Path) -> tuple[Path, Path | None]:
    """Return root and list of an entry of ``--pairs.also``, as ``PairSettings.read`` takes it."""
    return (place.parent, place) if place.suffix in (".csv", ".parquet") else (place, None)


def _list_parents(each: Round, top: Path) -> list[dict[str, str]]:
    """Name and hash the files of the lists that a round was trained on."""
    training = _read_training(each)
    if training is None:
        return []
    first, also = training
    parents = []
    for root, csv in (first, *map(_split_place, also)):
        for path in filter(Path.is_file, find_layout(root, csv, None, None, CLASS_TEMPLATE).files):  # of class folders, none
            place = path.resolve()
            name = place.relative_to(top).as_posix() if place.is_relative_to(top) else place.name
            parents.append({"list": name, "sha256": _hash(path)})
    return parents


def _find_uses(rounds: Sequence[Round]) -> dict[str, list[int]]:
    """Find which rounds were trained on which pictures, by the path of the picture."""
    used: dict[str, list[int]] = {}
    for each in rounds:
        training = _read_training(each)
        for place in training[1] if training else ():
            root, csv = _split_place(place)
            for pair in read_pairs(root, csv=csv):
                used.setdefault(str(pair.image.resolve()), []).append(each.number)
    return used


def _hash(path: Path) -> str:
    with path.open("rb") as file:
        return file_digest(file, "sha256").hexdigest()
