"""The one writer of pages: a template, the style that all share, and what is to be shown."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import jinja2

from skygen.storage import remove_halves, writing


def write_page(path: Path, template: str, values: Mapping[str, Any]) -> None:
    """Write a page; whatever the values say stays text.

    Args:
        path: of the HTML file.
        template: name of a file beside this module, such as ``report.html.jinja``.
        values: every name that the template uses.

    Raises:
        StorageError: the disk is full or refuses.
    """
    environment = jinja2.Environment(
        loader=jinja2.PackageLoader("skygen.evaluation.pages", "."),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    page = environment.get_template(template).render(**values)
    remove_halves(path.parent, path.name)
    with writing(path) as temporary:
        temporary.write_bytes(page.encode("utf-8", errors="replace"))  # half a surrogate pair in a caption is no reason to fail
