"""Compare structures as a screen does: equal ones need one relaxation, and almost equal ones two."""

from __future__ import annotations

from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import StructureMatcher
from pymatgen.core import Structure

# stol 0.05 is about 0.12 Å; pymatgen's defaults would take a ferroelectric for its parent, which costs its place
DUPLICATE_TOLERANCES: dict[str, Any] = {
    "ltol": 0.05, "stol": 0.05, "angle_tol": 2, "scale": False, "primitive_cell": False
}  # fmt: skip
DUPLICATE_VOLUME = 0.05  # of duplicates, relative, per atom


class CellMatcher:
    """StructureMatcher with the tolerances of duplicates, for cells that `reduce_cell` has made."""

    def __init__(self) -> None:
        self._matcher = StructureMatcher(**DUPLICATE_TOLERANCES)

    def match(self, first: Structure, second: Structure) -> bool:
        """Whether two primitive cells of the same formula and charge are the same crystal; up to 50 ms for 20 atoms."""
        return abs(first.volume / second.volume - 1) < DUPLICATE_VOLUME and bool(self._matcher.fit(first, second))


def is_comparable(structure: Structure) -> bool:
    """Whether equality with another structure can be judged: no selective dynamics, one moment per site or none."""
    return (
        structure.is_ordered
        and "selective_dynamics" not in structure.site_properties
        and _list_moments(structure) is not None
    )


def reduce_cell(structure: Structure) -> Structure:
    """Primitive cell whose species carry the magnetic moments, which StructureMatcher then tells apart."""
    moments = _list_moments(structure)
    if moments and any(moments):
        structure = structure.copy()
        structure.add_spin_by_site(moments)
    return structure.get_primitive_structure()


def _list_moments(structure: Structure) -> list[float] | None:
    """Moment of each site, 0 where it has none; empty without moments, None where they are not one number each."""
    moments = structure.site_properties.get("magmom", ())
    try:
        values = np.array([0.0 if m is None else getattr(m, "moment", m) for m in moments], dtype=float)
    except (TypeError, ValueError):  # words, or vectors beside numbers
        return None
    return values.tolist() if values.ndim == 1 else None
