"""Cache of pages from databases, each in a compressed file, so that an interrupted query continues where it stopped."""

from __future__ import annotations

import gzip
import json
import os
from pathlib import Path
from typing import Any

from e3relax_flows.core.errors import E3RelaxError


def name_page(folder: Path, number: int) -> Path:
    """File of a page, counted from 1."""
    return folder / f"page-{number:05d}.json.gz"


def write_page(file: Path, content: Any) -> None:
    """Write a page atomically."""
    file.parent.mkdir(parents=True, exist_ok=True)
    part = file.with_name(f"{file.name}.{os.getpid()}.part")
    with gzip.open(part, "wt", encoding="utf-8") as stream:
        json.dump(content, stream)
    part.replace(file)


def read_page(file: Path) -> Any:
    """Read a page.

    Raises
    ------
    E3RelaxError
        When it is broken.
    """
    try:
        with gzip.open(file, "rt", encoding="utf-8") as stream:
            return json.load(stream)
    except (OSError, ValueError, EOFError) as error:
        raise E3RelaxError(f"{file} cannot be read ({error}); remove it, and it is requested again") from error
