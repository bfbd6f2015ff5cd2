"""Structures to arrays."""

from __future__ import annotations

from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.errors import StructureError

if TYPE_CHECKING:
    from pymatgen.core import Structure


def structure_to_arrays(
    structure: Structure,
) -> tuple[NDArray[np.int64], NDArray[np.float64], NDArray[np.float64]]:
    """Atomic numbers [n_atoms], Cartesian positions [n_atoms, 3] Å and lattice [3, 3] Å (rows are the vectors).

    Site order and periodic images stay as they are; the arrays are copies.

    Raises
    ------
    StructureError
        When a site holds more than one species or a vacancy (`disordered`), or something else than a chemical element
        (`unknown_element`).
    """
    numbers = np.empty(len(structure), dtype=np.int64)
    for index, site in enumerate(structure):
        if not site.is_ordered:
            raise StructureError(
                "disordered",
                f"{structure.formula}: site {index} is {site.species_string}; only ordered structures can be relaxed "
                "(order it first, e.g. with pymatgen's OrderDisorderedStructureTransformation)",
            )
        number = getattr(site.specie, "Z", None)
        if not isinstance(number, int) or not 1 <= number <= 118:  # the number of a dummy species is a hash
            raise StructureError(
                "unknown_element",
                f"{structure.formula}: site {index} is {site.species_string}, which is not a chemical element; "
                "replace it with one of H to Og",
            )
        numbers[index] = number
    positions = np.array(structure.cart_coords, dtype=np.float64).reshape(-1, 3)
    return numbers, positions, np.array(structure.lattice.matrix, dtype=np.float64)
