"""The demo's candidates are the compounds they say they are, in cells that are realistically wrong."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Composition
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from e3relax_flows.candidates.builtin import SUBSTITUTIONS, build_candidates

# shortest distances of the known compounds' cells, Å, from their measured bond lengths
BONDS = {
    "rock salt NaBr from NaCl": 2.820,
    "zinc blende GaP from GaAs": 2.448,
    "wurtzite AlN from GaN": 1.948,
    "polar perovskite PbTiO3 from BaTiO3": 1.841,
    "pyrite RuS2 from FeS2": 2.158,
    "spinel MgGa2O4 from MgAl2O4": 1.923,
    "ilmenite CdTiO3 from MgTiO3": 1.870,
}


@pytest.fixture(scope="module")
def candidates():
    return dict(build_candidates())


def test_names_are_unique_and_sizes_small(candidates):
    assert len(candidates) == len(SUBSTITUTIONS) == 24
    assert {len(structure) for structure in candidates.values()} == {2, 3, 4, 5, 6, 8, 10, 12, 14}


@pytest.mark.parametrize("substitution", SUBSTITUTIONS, ids=lambda s: s.name)
def test_candidate_has_the_compound_and_the_symmetry_it_names(substitution, candidates):
    structure = candidates[substitution.name]
    assert structure.composition.reduced_formula == Composition(substitution.candidate).reduced_formula
    group = SpacegroupAnalyzer(structure, symprec=1e-4).get_space_group_symbol()
    assert group == substitution.space_group.partition(":")[0]
    assert np.linalg.det(structure.lattice.matrix) > 0
    distances = structure.distance_matrix + 9 * np.eye(len(structure))
    assert 1.8 < distances.min() < 3.6


@pytest.mark.parametrize(("name", "length"), BONDS.items())
def test_shortest_bond_is_the_known_compounds(name, length, candidates):
    distances = candidates[name].distance_matrix + 9 * np.eye(len(candidates[name]))
    assert distances.min() == pytest.approx(length, abs=0.002)


def test_nothing_is_left_of_the_element_that_was_exchanged(candidates):
    for substitution in SUBSTITUTIONS:
        old, new = substitution.exchange
        symbols = set(candidates[substitution.name].symbol_set)
        assert old not in symbols
        assert new in symbols
