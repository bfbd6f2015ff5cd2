from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

ase = pytest.importorskip("ase")

from ase import Atoms  # noqa: E402
from ase import constraints as ase_constraints  # noqa: E402
from ase.calculators.singlepoint import SinglePointCalculator  # noqa: E402

from e3relax_flows.core.ase_atoms import combine_switches, convert_atoms, express_constraints  # noqa: E402
from e3relax_flows.core.errors import StructureError  # noqa: E402

FREE, HELD = [True] * 3, [False] * 3
CUBE = np.diag([4.0, 4.0, 4.0])
HEXAGON = np.array([[3.0, 0, 0], [-1.5, 1.5 * np.sqrt(3), 0], [0, 0, 5.0]])  # a along x, c along z
MONOCLINIC = np.array([[5.0, 0, 0], [0, 6.0, 0], [-1.0, 0, 7.0]])  # b along y
LEANING = np.array([[5.0, 0, 0], [1.0, 6.0, 0], [2.0, 1.0, 7.0]])  # a along x, a and b in the plane z = 0
TURNED = CUBE @ np.linalg.qr(np.array([[1.0, 2, 3], [0, 1, 4], [5, 6, 0]]))[0]


def make(cell=CUBE, *constraints) -> Atoms:
    return Atoms("MgOMgO", scaled_positions=[[0, 0, 0], [0.5, 0, 0], [0, 0.5, 0], [0, 0, 0.5]], cell=cell, pbc=True,
                 constraint=list(constraints))  # fmt: skip


c = ase_constraints
SAME = {
    "FixAtoms": (CUBE, [c.FixAtoms([1, 3])], [FREE, HELD, FREE, HELD]),
    "FixAtoms of a mask": (CUBE, [c.FixAtoms(mask=[True, False, False, False])], [HELD, FREE, FREE, FREE]),
    "FixAtoms counted from the end": (CUBE, [c.FixAtoms([-1])], [FREE, FREE, FREE, HELD]),
    "FixAtoms of nothing": (CUBE, [c.FixAtoms([])], [FREE] * 4),
    "FixScaled": (LEANING, [c.FixScaled([0, 1])], [HELD, HELD, FREE, FREE]),
    "FixScaled along b": (LEANING, [c.FixScaled([2], (False, True, False))], [FREE, FREE, [True, False, True], FREE]),
    "FixCartesian": (LEANING, [c.FixCartesian([0])], [HELD, FREE, FREE, FREE]),
    "FixCartesian along x": (CUBE, [c.FixCartesian([0], (True, False, False))], [[False, True, True], *[FREE] * 3]),
    "FixCartesian along z of a hexagon": (
        HEXAGON, [c.FixCartesian([0], (False, False, True))], [[True, True, False], *[FREE] * 3],
    ),
    "FixCartesian along x and y of a hexagon": (
        HEXAGON, [c.FixCartesian([0], (True, True, False))], [[False, False, True], *[FREE] * 3],
    ),
    "FixCartesian along y of a monoclinic cell": (
        MONOCLINIC, [c.FixCartesian([3], (False, True, False))], [*[FREE] * 3, [True, False, True]],
    ),
    "FixCartesian along x and z of a monoclinic cell": (
        MONOCLINIC, [c.FixCartesian([3], (True, False, True))], [*[FREE] * 3, [False, True, False]],
    ),
    "FixCartesian of nothing": (CUBE, [c.FixCartesian([0], (False, False, False))], [FREE] * 4),
    "FixedPlane across c": (HEXAGON, [c.FixedPlane([0, 2], (0, 0, 1))], [[True, True, False], FREE] * 2),
    "FixedPlane across c of a cell that leans": (
        LEANING, [c.FixedPlane([0], (0, 0, -2))], [[True, True, False], *[FREE] * 3],
    ),
    "FixedLine along c": (HEXAGON, [c.FixedLine([1], (0, 0, 1))], [FREE, [False, False, True], FREE, FREE]),
    "FixedLine along a of a cell that leans": (
        LEANING, [c.FixedLine([1], (1, 0, 0))], [FREE, [True, False, False], FREE, FREE],
    ),
    "FixedLine along c of a cell that leans": (
        LEANING, [c.FixedLine([1], (2, 1, 7))], [FREE, [False, False, True], FREE, FREE],
    ),
    "FixedLine along b of a cell that is turned": (
        TURNED, [c.FixedLine([1], TURNED[1])], [FREE, [False, True, False], FREE, FREE],
    ),
    "two of one atom": (
        CUBE, [c.FixScaled([0], (True, False, False)), c.FixedPlane([0, 1], (0, 0, 1))],
        [[False, True, False], [True, True, False], FREE, FREE],
    ),
    "FixAtoms before FixCartesian": (
        CUBE, [c.FixAtoms([0]), c.FixCartesian([0, 1], (True, False, False))], [HELD, [False, True, True], FREE, FREE],
    ),
    "two Cartesian ones that make a plane of the cell": (
        HEXAGON, [c.FixCartesian([0], (True, False, False)), c.FixCartesian([0], (False, True, False))],
        [[False, False, True], *[FREE] * 3],
    ),
}  # fmt: skip
OTHERS = {
    "FixBondLengths": (CUBE, c.FixBondLengths([[0, 1]]), "remove it with atoms.set_constraint()"),
    "FixInternals": (CUBE, c.FixInternals(bonds=[[2.0, [0, 1]]]), "FixAtoms"),
    "FixLinearTriatomic": (CUBE, c.FixLinearTriatomic([(0, 1, 2)]), "FixAtoms"),
    "FixedMode": (CUBE, c.FixedMode(np.ones((4, 3))), "FixAtoms"),
    "Hookean": (CUBE, c.Hookean(0, 1, 5.0, rt=2.0), "FixAtoms"),
    "ExternalForce": (CUBE, c.ExternalForce(0, 1, 0.5), "FixAtoms"),
    "FixCom": (CUBE, c.FixCom(), "does not drift"),
    "FixSubsetCom": (CUBE, c.FixSubsetCom([0, 1]), "no origin"),
    "FixSymmetry": (CUBE, c.FixSymmetry(Atoms("Cu", cell=CUBE, pbc=True)), "--symmetry keep"),
    "FixScaledParametricRelations": (
        CUBE, c.FixScaledParametricRelations.from_expressions([0], ["x"], ["x", "0", "0"]), "FixAtoms",
    ),
    "FixCartesian": (LEANING, c.FixCartesian([0], (True, False, False)), "of site 0 holds directions"),
    "FixedPlane": (HEXAGON, c.FixedPlane([2], (1, 0, 0)), "of site 2 holds directions"),
    "FixedLine": (CUBE, c.FixedLine([1], (1, 1, 0)), "of site 1 holds directions"),
}  # fmt: skip


@pytest.mark.parametrize("name", SAME)
def test_constraints_that_are_selective_dynamics(name):
    cell, constraints, switches = SAME[name]
    atoms = make(cell, *constraints)
    assert express_constraints(atoms).tolist() == switches
    structure = convert_atoms(atoms)
    found = structure.site_properties.get("selective_dynamics")
    assert found == (switches if switches != [FREE] * 4 else None)
    assert len(atoms.constraints) == len(constraints)


@pytest.mark.parametrize("name", SAME)
def test_switches_hold_what_the_constraint_holds(name):
    """ASE's own projection of random displacements is the one that the switches make, for those of a single kind."""
    cell, constraints, switches = SAME[name]
    atoms = make(cell, *constraints)
    steps = np.random.default_rng(7).normal(scale=0.1, size=(4, 3))
    moved = atoms.positions + steps
    for constraint in atoms.constraints:
        constraint.adjust_positions(atoms, moved)
    fractions = (moved - atoms.positions) @ np.linalg.inv(cell)
    assert np.abs(fractions[~np.array(switches)]).max(initial=0) < 1e-12
    assert np.linalg.matrix_rank(np.eye(12)[np.array(switches).ravel()]) == 12 - (~np.array(switches)).sum()


@pytest.mark.parametrize("name", OTHERS)
def test_other_constraints_are_refused_by_name(name):
    cell, constraint, words = OTHERS[name]
    with pytest.raises(StructureError, match=name) as caught:
        convert_atoms(make(cell, c.FixAtoms([3]), constraint))
    assert caught.value.code == "constraint"
    assert words in str(caught.value)


def test_all_else_of_atoms_comes_along():
    atoms = make(CUBE, c.FixScaled([0]))
    atoms.set_initial_magnetic_moments([1.0, 0, -1.0, 0])
    atoms.info["name"] = "oxide"
    atoms.calc = SinglePointCalculator(atoms, magmoms=[0.9, 0, -0.9, 0], energy=-3.0)
    structure = convert_atoms(atoms)
    assert structure.site_properties["magmom"] == [1.0, 0, -1.0, 0]
    assert structure.site_properties["final_magmom"] == [0.9, 0, -0.9, 0]
    assert structure.properties["name"] == "oxide"
    assert structure.lattice == Lattice(CUBE)
    assert type(structure) is Structure


def test_atoms_without_a_cell_are_refused():
    with pytest.raises(StructureError, match="no cell") as caught:
        convert_atoms(Atoms("H2", positions=[[0, 0, 0], [0, 0, 0.74]]))
    assert caught.value.code == "not_a_structure"


def test_what_any_frame_holds_is_held():
    frames = [make(CUBE, c.FixAtoms([0])), make(CUBE), make(CUBE, c.FixScaled([1], (True, False, False)))]
    assert combine_switches(frames).tolist() == [HELD, [False, True, True], FREE, FREE]
