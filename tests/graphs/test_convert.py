"""Structures to arrays."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import DummySpecies, Lattice, Structure

from e3relax_flows.core.errors import StructureError
from e3relax_flows.graphs.convert import structure_to_arrays

LATTICE = Lattice.from_parameters(4.0, 5.0, 6.0, 80, 95, 100)


def test_sites_keep_their_order_and_images() -> None:
    structure = Structure(LATTICE, ["O2-", "Fe3+", "Og"], [[-0.25, 1.5, 0], [0.5, 0, 0.25], [0, 0, 0]])
    numbers, positions, lattice = structure_to_arrays(structure)
    assert numbers.tolist() == [8, 26, 118]
    assert numbers.dtype == np.int64
    assert positions == pytest.approx(np.array([[-0.25, 1.5, 0], [0.5, 0, 0.25], [0, 0, 0]]) @ LATTICE.matrix)
    assert np.array_equal(lattice, LATTICE.matrix)
    lattice[:] = 0  # a copy
    assert structure.lattice.a == pytest.approx(4.0)


def test_a_structure_without_sites_has_empty_arrays() -> None:
    numbers, positions, _ = structure_to_arrays(Structure(LATTICE, [], []))
    assert numbers.shape == (0,)
    assert positions.shape == (0, 3)


@pytest.mark.parametrize(
    ("species", "code", "message"),
    [
        (
            {"Fe": 0.5, "Ni": 0.5},
            "disordered",
            "site 1 is Fe:0.5, Ni:0.5; only ordered structures .*order it first",
        ),
        ({"Fe": 0.5}, "disordered", "site 1 is Fe:0.5; only ordered"),
        (DummySpecies("X"), "unknown_element", r"site 1 is X.* replace it with one of H to Og"),
    ],
)
def test_sites_that_are_no_atoms_are_refused(species: object, code: str, message: str) -> None:
    structure = Structure(LATTICE, ["O", species], [[0, 0, 0], [0.5, 0.5, 0.5]])
    with pytest.raises(StructureError, match=message) as caught:
        structure_to_arrays(structure)
    assert caught.value.code == code
