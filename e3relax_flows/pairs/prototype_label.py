"""AFLOW-style prototype label of a structure, to group structures of one type."""

from __future__ import annotations

import math
import warnings
from collections import Counter
from functools import cache
from types import ModuleType

import numpy as np
from pymatgen.core import Structure

from e3relax_flows.core.geometry import reduce_lattices
from e3relax_flows.core.notes import drop_moyo_notes

SYMPREC = 0.1  # Å; an atom this far from its ideal position does not make another prototype
SMALLEST_VOLUME = 0.5  # Å^3 per atom; solids have five and more
SHORTEST_DISTANCE = 0.5  # Å; a hydrogen molecule has 0.74
MOST_EXCHANGES = 5040  # permutations of elements of equal numbers that are compared, each in some 10 µs


def label_prototype(structure: Structure) -> str:
    """Anonymous formula, Pearson symbol, space group and Wyckoff sites, such as AB_cF8_225_a_b for rock salt.

    The label depends neither on the elements nor on cell, origin and order of the sites. Where no space group can
    be found it is the anonymous formula and the number of atoms, such as AB_8_unknown.

    Parameters
    ----------
    structure
        Ordered; symmetry is looked for within `SYMPREC`.

    Examples
    --------
    >>> from pymatgen.core import Lattice, Structure
    >>> from e3relax_flows import label_prototype
    >>> salt = Structure(Lattice.rhombohedral(3.99, 60), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    >>> label_prototype(salt)
    'AB_cF8_225_a_b'
    """
    prototypes = _load_prototypes()
    anonymous = structure.composition.anonymized_formula
    unknown = f"{anonymous}_{len(structure)}_unknown"
    if not _is_possible(structure):
        return unknown
    drop_moyo_notes()
    with warnings.catch_warnings():
        warnings.filterwarnings("ignore", message="gcd is deprecated", category=FutureWarning)  # pymatgen's own call
        try:
            label = prototypes.get_protostructure_label(structure, "moyopy", raise_errors=True, symprec=SYMPREC)
            if label is None:
                return unknown
            if _count_exchanges(structure) > MOST_EXCHANGES:  # letters in their order
                return label.partition(":")[0].replace(label.partition("_")[0], anonymous, 1)
            return str(prototypes.get_prototype_from_protostructure(label))
        except (ValueError, KeyError, RuntimeError):  # overlapping atoms, cells that are almost flat
            return unknown


@cache
def _load_prototypes() -> ModuleType:
    """Pymatgen's module, without the seconds in which it parses the references of its own library as BibTeX."""
    from pymatgen.util import provenance

    check = provenance.is_valid_bibtex
    provenance.is_valid_bibtex = lambda reference: True  # noqa: ARG005
    try:
        from pymatgen.analysis import prototypes
    finally:
        provenance.is_valid_bibtex = check
    return prototypes


def _is_possible(structure: Structure) -> bool:
    """Whether atoms are separate; moyo may not terminate for overlapping ones."""
    if not structure.volume > SMALLEST_VOLUME * len(structure):
        return False
    matrix = structure.lattice.matrix
    shortest = np.linalg.norm(reduce_lattices(matrix[None])[0] @ matrix, axis=1).min()
    return bool(shortest > SHORTEST_DISTANCE) and structure.is_valid(SHORTEST_DISTANCE)


def _count_exchanges(structure: Structure) -> int:
    counts = Counter(structure.composition.reduced_composition.values())
    return math.prod(math.factorial(count) for count in counts.values())
