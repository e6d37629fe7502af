"""What the validations of a run have found, line by line in ``validation/scores.jsonl``."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final

from skygen import plain_json
from skygen.errors import DataError
from skygen.evaluation.scores import Score, from_metrics
from skygen.runs import Run

FOLDER: Final = "validation"
SCORES: Final = "validation/scores.jsonl"


def drop_later(run: Run, step: int) -> None:
    """Drop the lines and grids of a step and later: what an earlier process wrote after the checkpoint that is continued."""
    path = run.folder / SCORES
    if path.exists():
        records = read_scores(run.folder)
        run.write_lines(SCORES, [record for record in records if record["step"] < step])
    for grid in sorted((run.folder / FOLDER).glob("grid-step-*.png")):
        if grid.stem.rpartition("-")[2].isdecimal() and int(grid.stem.rpartition("-")[2]) >= step:
            grid.unlink(missing_ok=True)


def read_scores(folder: Path) -> list[dict[str, Any]]:
    """Read the lines of a run's ``validation/scores.jsonl``, less a last one that a kill cut short."""
    path = folder / SCORES
    if not path.is_file():
        return []
    try:
        lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
        return [plain_json.parse(line) for line in lines if line.endswith("\n") and line.strip()]
    except ValueError as error:
        raise DataError(f"{path}: damaged ({error}); remove it, and the same command goes on without its lines.") from error


def last_scores(folder: Path) -> tuple[int, list[Score]]:
    """Return the step and the scores of the last validation of a run that did not fail; step 0 and none without one."""
    for record in reversed(read_scores(folder)):
        if "failed" not in record:
            return int(record["step"]), from_metrics(record)
    return 0, []
