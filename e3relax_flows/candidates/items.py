"""One structure of a source, or the reason why it cannot be read."""

from __future__ import annotations

from typing import NamedTuple

from pymatgen.core import Structure

MARK = "\ufeff"  # of byte order


class ReadItem(NamedTuple):
    """One structure, or the reason why it cannot be read.

    Examples
    --------
    A structure of your own as a candidate:

    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import ReadItem
    >>> item = ReadItem("copper", Structure(Lattice.rhombohedral(2.7, 60), ["Cu"], [[0, 0, 0]]), None)
    >>> item.id, item.structure.composition.reduced_formula, item.error
    ('copper', 'Cu', None)
    """

    id: str  # unique among the items of one reading
    structure: Structure | None
    error: str | None
    note: str | None = None  # warnings of the parser, if there is a structure
