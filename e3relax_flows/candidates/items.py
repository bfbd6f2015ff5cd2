"""One structure of a source, or the reason why it cannot be read."""

from __future__ import annotations

from typing import NamedTuple

from pymatgen.core import Structure

MARK = "\ufeff"  # of byte order


class ReadItem(NamedTuple):
    """One structure, or the reason why it cannot be read."""

    id: str  # unique among the items of one reading
    structure: Structure | None
    error: str | None
    note: str | None = None  # warnings of the parser, if there is a structure
