"""ASE's atoms as pymatgen's structures, with their constraints as selective dynamics; others are refused."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.errors import StructureError
from e3relax_flows.core.optional import require

if TYPE_CHECKING:
    from pymatgen.core import Structure

SELECTIVE_DYNAMICS = "selective_dynamics"
ALIGNED = 1e-4  # largest sine of the angle between what a constraint holds and what a switch holds
# what makes a constraint superfluous, where something does
ADVICE = {
    "FixSymmetry": "a prediction keeps the space group as it is (--symmetry keep)",
    "FixCom": "a prediction does not drift",
    "FixSubsetCom": "a prediction of a crystal has no origin but its held atoms",
}


def convert_atoms(atoms: Any, switches: NDArray[np.bool_] | None = None) -> Structure:
    """Turn ASE's atoms into a structure; what is held becomes its selective dynamics.

    Parameters
    ----------
    atoms
        With a cell of three vectors.
    switches
        [n_atoms, 3] whether a fractional coordinate may change; None: as the constraints of `atoms` require.

    Raises
    ------
    StructureError
        When there is no cell, sites are shared, or a constraint cannot be expressed.
    """
    if atoms.cell.rank < 3:
        raise StructureError("not_a_structure", "it has no cell, so it is a molecule; give a crystal with its cell")
    shares = [share for kind in (atoms.info.get("occupancy") or {}).values() for share in kind.values()]
    if any(share < 1 for share in shares):
        raise StructureError(
            "disordered",
            f"its info lists shared sites ({atoms.info['occupancy']}), and each has one element only; order it "
            "first, or take `occupancy` out of atoms.info",
        )
    switches = express_constraints(atoms) if switches is None else switches
    bare = atoms.copy()
    bare.set_constraint()  # pymatgen takes Cartesian axes for lattice vectors and the first of two constraints for both
    bare.calc = atoms.calc
    structure: Structure = require("pymatgen.io.ase", "mlip", "reading atoms of ASE").AseAtomsAdaptor.get_structure(
        bare
    )
    if not switches.all():
        structure.add_site_property(SELECTIVE_DYNAMICS, switches.tolist())
    return structure


def express_constraints(atoms: Any) -> NDArray[np.bool_]:
    """Switches [n_atoms, 3] of selective dynamics that are equivalent to the constraints of ASE's atoms.

    FixAtoms, FixScaled, FixCartesian, FixedPlane and FixedLine each hold displacements of single atoms along some
    covectors. They can be expressed where these span the same space as some of the reciprocal lattice vectors, since
    a switch holds the fractional coordinate, which is the component along one of those.

    Raises
    ------
    StructureError
        When a constraint is of another kind, or holds another direction; with its name and what to do.
    """
    n_atoms = len(atoms)
    if not atoms.constraints:
        return np.ones((n_atoms, 3), dtype=bool)
    reciprocal = np.linalg.inv(atoms.cell.array).T
    held: list[list[NDArray[np.float64]]] = [[] for _ in range(n_atoms)]
    names: list[set[str]] = [set() for _ in range(n_atoms)]
    for constraint in atoms.constraints:
        covectors = _list_covectors(constraint, reciprocal)
        if covectors is None:
            raise StructureError("constraint", _describe(constraint))
        for index in np.arange(n_atoms)[constraint.get_indices()].tolist():
            held[index].append(covectors)
            names[index].add(type(constraint).__name__)
    switches = np.ones((n_atoms, 3), dtype=bool)
    for index, parts in enumerate(held):
        if parts and len(rows := np.concatenate(parts)):
            switches[index] = _express(rows, reciprocal, f"{' with '.join(sorted(names[index]))} of site {index}")
    return switches


def _list_covectors(constraint: Any, reciprocal: NDArray[np.float64]) -> NDArray[np.float64] | None:
    """Directions that a constraint holds of the displacements of its atoms [n, 3]; None for other kinds."""
    name = type(constraint).__name__
    if name == "FixAtoms":
        return np.eye(3)
    if name == "FixCartesian":
        return np.eye(3)[np.asarray(constraint.mask, dtype=bool)]
    if name == "FixScaled":
        return reciprocal[np.asarray(constraint.mask, dtype=bool)]
    if name == "FixedPlane":
        return np.asarray(constraint.dir, dtype=float).reshape(1, 3)
    if name == "FixedLine":
        return np.linalg.svd(np.asarray(constraint.dir, dtype=float).reshape(1, 3))[2][1:]
    return None


def _express(covectors: NDArray[np.float64], reciprocal: NDArray[np.float64], what: str) -> NDArray[np.bool_]:
    """Switches [3] of one atom."""
    _, weights, directions = np.linalg.svd(covectors / np.linalg.norm(covectors, axis=1, keepdims=True))
    span = directions[: int((weights > ALIGNED).sum())]
    units = reciprocal / np.linalg.norm(reciprocal, axis=1, keepdims=True)
    outside = np.linalg.norm(units - units @ span.T @ span, axis=1)
    is_held = outside < ALIGNED
    if is_held.sum() != len(span):
        raise StructureError(
            "constraint",
            f"{what} holds directions that are not those of the cell, and a prediction holds coordinates along lattice "
            "vectors; give a cell with vectors along and across them, hold whole atoms with FixAtoms or --constrain "
            "fix-atoms=0,1, or remove it with atoms.set_constraint()",
        )
    return ~is_held


def _describe(constraint: Any) -> str:
    name = type(constraint).__name__
    because = f": {ADVICE[name]}" if name in ADVICE else ", or hold atoms with FixAtoms or --constrain fix-atoms=0,1"
    return f"the constraint {name} cannot be kept; remove it with atoms.set_constraint(){because}"


def combine_switches(frames: Iterable[Any]) -> NDArray[np.bool_]:
    """Switches [n_atoms, 3] of a trajectory: true where no frame holds the coordinate; see `express_constraints`."""
    found: Sequence[NDArray[np.bool_]] = [express_constraints(frame) for frame in frames]
    return np.logical_and.reduce(found)
