"""Crystals for tests: prototypes in many space groups, built in code."""

from __future__ import annotations

import functools

import numpy as np
from pymatgen.core import Lattice, Structure

third = 1 / 3


@functools.cache
def build_prototypes() -> dict[str, Structure]:
    """Name to structure; conventional cells where not said otherwise. Shared, so never to be changed."""
    make = Structure.from_spacegroup
    cells = {
        "rock salt": make("Fm-3m", Lattice.cubic(5.9), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "cesium chloride": make("Pm-3m", Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
        "zinc blende": make("F-43m", Lattice.cubic(5.4), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        "wurtzite": make(
            "P6_3mc", Lattice.hexagonal(3.8, 6.3), ["Zn", "S"], [[third, 2 * third, 0], [third, 2 * third, 0.37]]
        ),
        "fluorite": make("Fm-3m", Lattice.cubic(5.4), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
        "perovskite": make("Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
        "orthorhombic perovskite": make(
            "Pnma",
            Lattice.orthorhombic(5.44, 7.64, 5.38),
            ["Ca", "Ti", "O", "O"],
            [[0.035, 0.25, 0.993], [0, 0, 0.5], [0.484, 0.25, 0.071], [0.289, 0.037, 0.711]],
        ),
        "rutile": make("P4_2/mnm", Lattice.tetragonal(4.6, 2.96), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
        "half-Heusler": make(
            "F-43m", Lattice.cubic(5.9), ["Ti", "Ni", "Sn"], [[0, 0, 0], [0.25, 0.25, 0.25], [0.5, 0.5, 0.5]]
        ),
        "quartz": make(
            "P3_221", Lattice.hexagonal(4.91, 5.4), ["Si", "O"], [[0.47, 0, 2 * third], [0.413, 0.266, 0.785]]
        ),
        "corundum": make("R-3c", Lattice.hexagonal(4.76, 12.99), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]),
        "pyrite": make("Pa-3", Lattice.cubic(5.42), ["Fe", "S"], [[0, 0, 0], [0.385, 0.385, 0.385]]),
        "spinel": make(
            "Fd-3m", Lattice.cubic(8.08), ["Mg", "Al", "O"], [[0] * 3, [0.625] * 3, [0.3874] * 3]
        ).get_primitive_structure(),
        "monoclinic": make(
            "P2_1/c",
            Lattice.monoclinic(5.15, 5.2, 5.32, 99.2),
            ["Zr", "O", "O"],
            [[0.276, 0.041, 0.208], [0.07, 0.332, 0.345], [0.449, 0.758, 0.479]],
        ),
        "triclinic": make(
            "P-1",
            Lattice.from_parameters(4.1, 5.2, 6.3, 80, 95, 103),
            ["Cu", "O", "F"],
            [[0, 0, 0], [0.31, 0.22, 0.17], [0.4, 0.7, 0.61]],
        ),
        "fcc, one atom": make("Fm-3m", Lattice.cubic(3.9), ["Au"], [[0, 0, 0]]).get_primitive_structure(),
        "bcc, one atom": make("Im-3m", Lattice.cubic(3.2), ["W"], [[0, 0, 0]]).get_primitive_structure(),
    }
    salt = cells["rock salt"]
    cells["rock salt, 2x1x1"] = salt.get_primitive_structure().make_supercell([2, 1, 1], in_place=False)
    cells["rock salt, skewed cell of 3"] = salt.get_primitive_structure().make_supercell(
        [[1, 1, 0], [0, 1, 1], [1, 0, 2]], in_place=False
    )
    cells["fcc, 1x2x3"] = cells["fcc, one atom"].make_supercell([1, 2, 3], in_place=False)
    cells["left-handed wurtzite"] = flip_hand(cells["wurtzite"])
    cells["left-handed quartz"] = flip_hand(cells["quartz"])
    return cells


def flip_hand(structure: Structure) -> Structure:
    """The same crystal with its first two lattice vectors exchanged."""
    swap = [1, 0, 2]
    flipped = Structure(
        structure.lattice.matrix[swap], structure.species, structure.frac_coords[:, swap], labels=structure.labels
    )
    assert np.linalg.det(flipped.lattice.matrix) * np.linalg.det(structure.lattice.matrix) < 0
    return flipped
