"""Batches of a SevenNet potential against its own calculator, crystal by crystal."""

from __future__ import annotations

from functools import cache

import numpy as np
import pytest
from ase import Atoms
from ase.build import bulk
from sevenn.calculator import SevenNetCalculator

from e3relax_flows.core.errors import EngineError
from e3relax_flows.engines.batches import EvaluatedCalculator
from e3relax_flows.engines.potentials import find_potential
from e3relax_flows.engines.sevennet_batches import SevenNetBatches

ENERGY, FORCE, STRESS = 2e-6, 5e-5, 2e-6  # eV/atom, eV/Å, eV/Å³: single precision in another order

OWN = {"enable_flash": False}  # arguments of SevenNet's own calculator need that one


@cache
def load_batches(checkpoint: str, modal: str | None) -> SevenNetBatches:
    """The potential, loaded once."""
    weights = find_potential("SevenNet", checkpoint, modal).weights
    assert weights is not None
    return SevenNetBatches(weights, modal)


def make_crystals() -> list[Atoms]:
    """One atom with images of its own only, cells of several sizes, distorted ones, a left-handed one."""
    rng = np.random.default_rng(0)
    zinc = bulk("ZnS", "wurtzite", a=3.9, c=6.1)
    oxide = bulk("MgO", "rocksalt", a=4.3, cubic=True)
    fluoride = bulk("CaF2", "fluorite", a=5.5)
    for atoms in (zinc, oxide, fluoride):
        atoms.set_cell(atoms.cell.array @ (np.eye(3) + 0.03 * rng.normal(size=(3, 3))), scale_atoms=True)
        atoms.rattle(0.1, rng=rng)
    fluoride.set_cell(fluoride.cell.array[[1, 0, 2]], scale_atoms=False)
    assert np.linalg.det(fluoride.cell.array) < 0
    return [bulk("Cu", "fcc", a=3.7), zinc, oxide, fluoride, bulk("W", "bcc", a=3.1)]


@pytest.mark.parametrize(("checkpoint", "modal"), [("7net-l3i5", None), ("7net-mf-0", "PBE")])
def test_batches_give_what_the_calculator_gives(checkpoint: str, modal: str | None) -> None:
    calculator = find_potential("SevenNet", checkpoint, modal, OWN).load("cpu")
    assert isinstance(calculator, SevenNetCalculator)
    found = load_batches(checkpoint, modal).evaluate(make_crystals())
    for atoms, evaluation in zip(make_crystals(), found, strict=True):
        atoms.calc = calculator
        assert evaluation.energy == pytest.approx(atoms.get_potential_energy(), abs=ENERGY * len(atoms))
        np.testing.assert_allclose(evaluation.forces, atoms.get_forces(), atol=FORCE)
        np.testing.assert_allclose(evaluation.stress, atoms.get_stress(voigt=False), atol=STRESS)
    largest = max(np.abs(evaluation.forces).max() for evaluation in found)
    assert largest > 1.0  # otherwise the tolerance shows nothing


def test_crystals_of_screens_are_evaluated_per_pair_on_the_cpu() -> None:
    calculator = find_potential("SevenNet", "7net-mf-0", "PBE").load("cpu")
    atoms = make_crystals()[3]
    (expected,) = load_batches("7net-mf-0", "PBE").evaluate([atoms])
    atoms.calc = calculator
    assert isinstance(calculator, EvaluatedCalculator)
    assert atoms.get_potential_energy(force_consistent=True) == expected.energy
    np.testing.assert_array_equal(atoms.get_stress(voigt=False), expected.stress)
    np.testing.assert_array_equal(atoms.get_forces(), expected.forces)


def test_what_cannot_be_evaluated_is_named() -> None:
    batches = load_batches("7net-mf-0", "PBE")
    with pytest.raises(EngineError, match=r"numbers \[88\]"):
        batches.evaluate([bulk("Cu"), Atoms("Ra", cell=np.eye(3) * 3, pbc=True)])
    with pytest.raises(EngineError, match=r"^CuAu: site 0 .* 5 Å"):
        batches.evaluate([bulk("Cu"), Atoms("CuAu", [[0, 0, 0], [8, 8, 8]], cell=np.eye(3) * 16, pbc=True)])
