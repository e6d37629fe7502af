"""The command that looks for images: search."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from tyro.conf import Positional, arg

from skygen.commands.answer import Answer, showing

if TYPE_CHECKING:
    import numpy as np

    from skygen.evaluation.search.embedded_set import EmbeddedSet
    from skygen.models.scorer import Scorer

MOST = 1000
"""Images for one query: more than anybody looks at."""


def search(
    place: Annotated[Positional[Path], arg(metavar="RUN|DIR")],
    /,
    text: tuple[str, ...] = (),
    image: tuple[Path, ...] = (),
    count: int = 20,
    template: str = "{}",
    kept: bool = False,
    scorer: str = "",
    output: Path = Path("search.html"),
) -> Answer:
    """Find the images that are nearest to texts or to other images, and lay them out on a contact sheet.

    A run of recipes/score_pairs.py with `--scoring.save_embeddings True` is searched as it is, whatever its size. The images of
    a folder are embedded first, and remembered.

    Args:
        place: `runs/NAME` of recipes/score_pairs.py, or a folder of images.
        text: what to look for, such as "tennis court"; several make several sections.
        image: pictures to look for others like them.
        count: images a query.
        template: put around each text, such as "a satellite image of {}", which is how SkyScript's captions begin.
        kept: search only the pairs that the run has kept.
        scorer: the CLIP that embeds a folder, by default the miniature; a run is searched with its own.
        output: the contact sheet, .html or .png.
    """
    from skygen.errors import ConfigError
    from skygen.evaluation.search.contact_sheet import Found, Match, check_suffix, write_sheet
    from skygen.evaluation.search.nearest import search as find

    if not text and not image:
        raise ConfigError('nothing to look for; give --text "tennis court" or --image PATH, or several of each.')
    if "{}" not in template:
        raise ConfigError(
            f'--template {template}: has no {{}}, where the text goes; write it like "a satellite image of {{}}".'
        )
    if not 1 <= count <= MOST:
        raise ConfigError(f"--count {count}: must be from 1 to {MOST:,}.")
    check_suffix(output)
    searched, judge = _open(place, scorer)
    among = searched.kept() if kept else None
    queries = _embed(judge, [template.replace("{}", words) for words in text], image)
    with showing("images") as progress:
        rows, cosines = find(searched.embeddings, queries, count, among=among, progress=progress)
    asked: list[tuple[str, Path | None]] = [*((words, None) for words in text), *((path.name, path) for path in image)]
    results = []
    shown = searched.show(rows.reshape(-1))  # of all queries at once: each look-up may have to read the whole set
    for number, (words, picture) in enumerate(asked):
        own = shown[number * rows.shape[1] : (number + 1) * rows.shape[1]]
        own_cosines = cosines[number].tolist()
        matches = [Match(one.image, one.caption or one.image.name, c) for one, c in zip(own, own_cosines, strict=True)]
        results.append(Found(words, picture, tuple(matches)))
    size = f"{searched.embeddings.count:,} images" if among is None else f"{int(among.sum()):,} kept images"
    note = f"{size} of {searched.name}, by {judge.name}" + (f", texts as “{template}”" if text and template != "{}" else "")
    write_sheet(results, output, ", ".join(words for words, _ in asked), note)
    lines = [
        f"{found.query}\n" + "\n".join(f"  {match.cosine:.4f}  {match.caption}  ({match.image})" for match in found.matches)
        for found in results
    ]
    return Answer("\n".join([*lines, str(output)]))


def _open(place: Path, name: str) -> tuple[EmbeddedSet, Scorer]:
    """Open a run, or embed a folder, and load the scorer that goes with it."""
    from skygen.errors import ConfigError
    from skygen.evaluation.search.embedded_set import embed_folder, open_run
    from skygen.models.device import pick_device
    from skygen.models.scorer import Scorer

    run = open_run(place)
    if run is not None:
        if name not in ("", run.scorer):
            raise ConfigError(f"--scorer {name}: the embeddings of {place} are by {run.scorer}; leave out --scorer.")
        return run, Scorer.load(run.scorer, device=pick_device(), architecture=run.architecture)
    scorer = Scorer.load(name or "miniature", device=pick_device())
    with showing("images embedded") as progress:
        return embed_folder(place, scorer, progress), scorer


def _embed(scorer: Scorer, texts: list[str], images: tuple[Path, ...]) -> np.ndarray:
    import numpy as np

    from skygen.data.images import open_image
    from skygen.errors import DataError, ImageError

    pictures = []
    for path in images:
        try:
            pictures.append(open_image(path))
        except ImageError as error:
            raise DataError(f"--image {path}: cannot be used ({error}); give another picture.") from error
    return np.concatenate([part for part in (scorer.embed_texts(texts), scorer.embed_images(pictures)) if len(part)])
