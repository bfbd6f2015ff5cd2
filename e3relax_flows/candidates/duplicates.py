"""Compare structures as a screen does: equal ones need one relaxation, and almost equal ones two."""

from __future__ import annotations

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np
from pymatgen.analysis.structure_matcher import SpeciesComparator, StructureMatcher
from pymatgen.core import Composition, Structure

from e3relax_flows.core.ids import canonicalize
from e3relax_flows.schemas.predictions import PredictionDoc, Verdict

# stol 0.05 is about 0.12 Å; pymatgen's defaults would match a ferroelectric with its parent
DUPLICATE_TOLERANCES: dict[str, Any] = {
    "ltol": 0.05, "stol": 0.05, "angle_tol": 2, "scale": False, "primitive_cell": False
}  # fmt: skip
DUPLICATE_VOLUME = 0.05  # of duplicates, relative, per atom


class BothWaysComparator(SpeciesComparator):
    """Compare species: in pymatgen an element equals its species with spins, but not the reverse."""

    def are_equal(self, sp1: Composition, sp2: Composition) -> bool:
        """Whether the species of two sites are the same, spins and oxidation states included."""
        return bool(sp1 == sp2 and sp2 == sp1)


class CellMatcher:
    """StructureMatcher with the tolerances of duplicates, for cells that `reduce_cell` has made."""

    def __init__(self) -> None:
        self._matcher = StructureMatcher(**DUPLICATE_TOLERANCES, comparator=BothWaysComparator())

    def match(self, first: Structure, second: Structure) -> bool:
        """Whether two primitive cells of the same formula and charge are the same crystal; up to 50 ms for 20 atoms."""
        return abs(first.volume / second.volume - 1) < DUPLICATE_VOLUME and bool(self._matcher.fit(first, second))


def is_comparable(structure: Structure) -> bool:
    """Whether equality with another structure can be judged by StructureMatcher.

    That is so for finite crystals with one element on each site, no selective dynamics, and moments (and spins of
    species) that are one number each: it does not compare directions.
    """
    return (
        len(structure) > 0
        and structure.is_ordered
        and all(structure.lattice.pbc)
        and bool(np.isfinite(structure.lattice.matrix).all() and np.isfinite(structure.frac_coords).all())
        and "selective_dynamics" not in structure.site_properties
        and _list_moments(structure) is not None
        and _read_numbers([getattr(site.specie, "spin", None) for site in structure]) is not None
    )


def reduce_cell(structure: Structure) -> Structure:
    """Primitive cell whose species carry the magnetic moments, which StructureMatcher then distinguishes."""
    moments = _list_moments(structure)
    if moments and any(moments):
        structure = structure.copy()
        structure.add_spin_by_site(moments)
    return structure.get_primitive_structure()


def _list_moments(structure: Structure) -> list[float] | None:
    """Moment of each site, 0 where it has none; empty without moments, None where they are not one number each."""
    return _read_numbers(structure.site_properties.get("magmom", ()))


def _read_numbers(values: Iterable[Any]) -> list[float] | None:
    """Finite numbers, 0 for None; None where one is anything else."""
    plain = [canonicalize(0 if value is None else value) for value in values]
    are_numbers = all(isinstance(value, int | float) and math.isfinite(value) for value in plain)
    return [float(value) for value in plain] if are_numbers else None


def find_duplicates(predictions: Sequence[PredictionDoc | None], compare: bool = True) -> dict[int, int]:
    """Find predictions that duplicate an earlier one.

    The same prediction id is always a duplicate. The primitive cells of accepted predictions of equal formula and
    charge are compared by StructureMatcher, which needs at most 50 ms for a pair of 20 atoms. Magnetic
    moments that are numbers make a difference; candidates with other moments, or with selective dynamics, never
    count as equal.

    Parameters
    ----------
    predictions
        In the order of preference: the first of equal ones is kept.
    compare
        False: by id only.

    Returns
    -------
    duplicates
        Index of the kept one, by index of the duplicate.
    """
    matcher = CellMatcher()
    by_id: dict[str, int] = {}
    kept: dict[Any, list[tuple[int, Structure]]] = {}
    duplicates: dict[int, int] = {}
    for index, prediction in enumerate(predictions):
        if prediction is None or prediction.verdict == Verdict.ERROR:
            continue
        original = by_id.setdefault(prediction.prediction_id, index)
        if original == index and compare and (structure := _find_comparable(prediction)) is not None:
            cell = reduce_cell(structure)
            group = kept.setdefault((cell.formula, cell.charge), [])
            original = next((other for other, seen in group if matcher.match(seen, cell)), index)
            if original == index:
                group.append((index, cell))
        if original != index:
            # the candidate of an id may itself be a duplicate
            duplicates[index] = duplicates.get(original, original)
    return duplicates


def _find_comparable(prediction: PredictionDoc) -> Structure | None:
    """The structure of an accepted prediction, if its equality with others can be judged."""
    structure = prediction.structure
    is_usable = prediction.verdict == Verdict.ACCEPT and structure is not None and is_comparable(structure)
    return structure if is_usable else None
