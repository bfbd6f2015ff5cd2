"""Random crystals: which elements, parents and systems occur, and that they can be drawn again."""

from __future__ import annotations

from itertools import islice

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.aflow import list_prototypes
from e3relax_flows.candidates.random_crystals import UNKNOWN, CrystalRules, draw_crystals
from e3relax_flows.core.errors import ConfigError


def draw(n: int, **rules) -> list[tuple[str, Structure]]:
    return list(islice(draw_crystals(CrystalRules(**rules)), n))


def test_the_same_rules_draw_the_same_crystals_and_another_seed_others():
    first, again, other = draw(6, max_atoms=6, seed=3), draw(6, max_atoms=6, seed=3), draw(6, max_atoms=6, seed=4)
    assert first == again
    assert {name for name, _ in first}.isdisjoint(name for name, _ in other)


def test_crystals_are_of_the_elements_and_sizes_of_the_rules_and_right_handed():
    crystals = [structure for _, structure in draw(60, max_atoms=8, elements=["Na", "K", "Cl", "O", "He"], seed=1)]
    assert set().union(*(structure.symbol_set for structure in crystals)) == {"Na", "K", "Cl", "O"}
    assert max(map(len, crystals)) <= 8
    assert min(np.linalg.det(structure.lattice.matrix) for structure in crystals) > 0
    all_elements = set().union(*(structure.symbol_set for _, structure in draw(150, max_atoms=8)))
    assert len(all_elements) > 60
    assert UNKNOWN.isdisjoint(all_elements)


def test_nothing_is_drawn_of_an_excluded_system():
    rules = {"max_atoms": 4, "elements": ["Na", "K", "Cl"], "seed": 2}
    assert "Cl-Na" in {structure.chemical_system for _, structure in draw(40, **rules)}
    left = {structure.chemical_system for _, structure in draw(40, **rules, excluded=["Cl-Na", "Cl"])}
    assert left
    assert left.isdisjoint({"Cl-Na", "Cl"})


def test_volumes_fit_the_elements_and_cells_and_sites_are_scattered():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    parents = [("salt", salt.get_primitive_structure())]
    crystals = [s for _, s in draw(300, parents=parents, elements=["Na", "Cl"], seed=5)]
    volumes = np.array([structure.volume / len(structure) for structure in crystals])
    assert np.log(volumes).std() == pytest.approx(0.12, abs=0.03)
    assert 15 < np.median(volumes) < 30  # 22.6 Å^3 per atom in salt
    is_strained = [np.ptp(structure.lattice.abc) > 1e-6 for structure in crystals]
    is_displaced = [abs((s.frac_coords[1] - s.frac_coords[0]) % 1 - 0.5).max() > 1e-6 for s in crystals]
    assert np.mean(is_strained) == pytest.approx(0.45, abs=0.1)
    assert np.mean(is_displaced) == pytest.approx(0.30, abs=0.1)


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"max_atoms": 0}, "no parent has at most 0 atoms"),
        ({"elements": ["Na"], "excluded": ["Na"], "max_atoms": 2}, "allow more elements"),
    ],
)
def test_rules_that_allow_nothing_are_refused(rules: dict, message: str):
    with pytest.raises(ConfigError, match=message):
        draw(1, **rules)


def test_prototypes_are_ordered_and_named_by_their_labels():
    prototypes = dict(list_prototypes())
    assert prototypes["AB_cP2_221_b_a"].composition.reduced_formula == "CsCl"
    assert all(structure.is_ordered for structure in prototypes.values())
    assert len(prototypes) > 200
