"""One structure of a source, or why there is none."""

from __future__ import annotations

from typing import NamedTuple

from pymatgen.core import Structure

MARK = "\ufeff"  # of byte order


class ReadItem(NamedTuple):
    """One structure, or why there is none."""

    id: str  # unique among the items of one reading
    structure: Structure | None
    error: str | None
    note: str | None = None  # what the parser warned of, where there is a structure
