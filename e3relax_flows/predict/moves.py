"""Turn an output of the network into a move: continuous, without rotation, symmetric, within constraints."""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.core.errors import StructureError
from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.predict.constraints import Freedom
from e3relax_flows.predict.symmetry import SpaceGroup, Symmetry, find_number
from e3relax_flows.schemas.predictions import Reason

Floats = NDArray[np.float64]

NEAR_TOLERANCE = 0.25  # of the tolerance; deviations of the input above this are checked in the prediction
DETERMINANTS = (1e-6, 1e6)  # of the predicted lattice over that of the one before; outside, the cell is lost


@dataclass(frozen=True)
class Geometry:
    """Geometry of a crystal."""

    lattice: Floats  # [3, 3] Å, rows are the vectors
    fractions: Floats  # [n_atoms, 3] unwrapped, so that an atom moves continuously from its input position

    @property
    def positions(self) -> Floats:
        """Cartesian positions [n_atoms, 3], Å."""
        return self.fractions @ self.lattice

    @property
    def spacing(self) -> float:
        """Mean atomic spacing, Å: the cube root of the volume per atom."""
        return math.cbrt(abs(np.linalg.det(self.lattice)) / len(self.fractions))


@dataclass(frozen=True)
class Rules:
    """Rules of every move of one crystal."""

    initial: Geometry
    freedom: Freedom
    types: NDArray[np.int64] | None  # [n_atoms] atoms that symmetry may exchange have the same; None: free
    symmetry: Symmetry | None  # None: free, or not found


def make_move(current: Geometry, positions: Floats, lattice: Floats, rules: Rules) -> tuple[Geometry, float]:
    """Turn an application of the network into the next geometry and the size of the step.

    The displacements are the changes of the fractional coordinates, the strain is the symmetric logarithmic one;
    both are averaged over the space group and then held within the constraints (operations that do not commute with
    the constraints are excluded from that group). The size is the mean length of the displacements plus the Frobenius
    norm of the strain times the mean atomic spacing, Å.

    Parameters
    ----------
    current
        Input of the network.
    positions
        [n_atoms, 3] Å, its output.
    lattice
        [3, 3] Å, its output.
    rules
        Symmetry and constraints, with the initial geometry from which rotations are counted.

    Raises
    ------
    StructureError
        With reason not_finite or determinant when the output of the network is not a crystal.
    """
    _check_output(current, positions, lattice)
    displacements = positions @ np.linalg.inv(lattice) - current.fractions
    strain = measure_log_strain(current.lattice, lattice)
    if len(rules.freedom.axes) < 3:
        strain = _restrict(strain, rules.freedom.span(current.lattice))
    form = _blank(current.lattice @ strain @ current.lattice.T, rules.freedom.axes)
    group = rules.symmetry.loose if rules.symmetry and not rules.symmetry.loose.is_trivial else None
    if group:
        displacements = group.project_displacements(displacements)
        form = group.project_form(form)
    displacements = rules.freedom.constrain_displacements(displacements)
    new_lattice, strain_norm = _strain_lattice(current.lattice, form, rules)
    lengths = np.sqrt(np.square(displacements @ current.lattice).sum(axis=1))
    size = float(lengths.mean()) + strain_norm * current.spacing
    return Geometry(new_lattice, current.fractions + displacements), size


def finish_symmetry(geometry: Geometry, rules: Rules) -> Geometry:
    """Remove rounding from a prediction, and ensure that its space group is still found with the same tolerance.

    Symmetry that the input has within 1e-5 Å is exact in the prediction. Larger deviations move with
    the atoms; if they are near the tolerance and the strain has lifted them above it, the prediction is projected
    onto the space group, deviations included.
    """
    symmetry, types = rules.symmetry, rules.types
    if symmetry is None or types is None or geometry is rules.initial:
        return geometry
    if not symmetry.tight.is_trivial:
        geometry = _project(geometry, rules, symmetry.tight)
    if not rules.freedom.all_atoms or len(rules.freedom.axes) < 3 or symmetry.loose is symmetry.tight:
        return geometry
    growth = float(np.linalg.norm(np.linalg.solve(rules.initial.lattice, geometry.lattice), ord=2))
    if symmetry.loose.deviation * max(growth, 1.0) < NEAR_TOLERANCE * symmetry.symprec:
        return geometry
    if find_number(geometry.lattice, geometry.fractions, types, symmetry.symprec) == symmetry.loose.number:
        return geometry
    return _project(geometry, rules, symmetry.loose)


def _check_output(current: Geometry, positions: Floats, lattice: Floats) -> None:
    if not (np.isfinite(positions).all() and np.isfinite(lattice).all()):
        raise StructureError(Reason.NOT_FINITE, "the network gave numbers that are not finite")
    ratio = np.linalg.det(lattice) / np.linalg.det(current.lattice)
    if not DETERMINANTS[0] < ratio < DETERMINANTS[1]:
        raise StructureError(
            Reason.DETERMINANT,
            f"the network gave a lattice whose determinant is {ratio:.3g} times that of its input "
            f"(limits {DETERMINANTS[0]:g} to {DETERMINANTS[1]:g})",
        )


def _restrict(strain: Floats, span: Floats) -> Floats:
    """The part of a strain [3, 3] within the space of the rows of `span`."""
    projector = span.T @ span
    return projector @ strain @ projector


def _blank(form: Floats, axes: tuple[int, ...]) -> Floats:
    """A form [3, 3] with the entries of all lattice vectors but `axes` set to zero."""
    if len(axes) == 3:
        return form
    kept = np.zeros(3)
    kept[list(axes)] = 1.0
    return form * np.outer(kept, kept)


def _strain_lattice(lattice: Floats, form: Floats, rules: Rules) -> tuple[Floats, float]:
    """Strain the free lattice vectors; also the norm of that strain.

    `form` holds a_k · ε · a_l. The result is the initial lattice deformed without rotation, with the metric
    that follows; the other vectors stay exactly as they are.
    """
    axes = list(rules.freedom.axes)
    if not axes:
        return lattice, 0.0
    span = rules.freedom.span(rules.initial.lattice)
    vectors = lattice[axes] @ span.T
    inverse = np.linalg.inv(vectors)
    strain = inverse @ form[np.ix_(axes, axes)] @ inverse.T
    strain = rules.freedom.constrain_strain(0.5 * (strain + strain.T))
    eigenvalues, directions = np.linalg.eigh(strain)
    strained = vectors @ (directions * np.exp(eigenvalues)) @ directions.T
    if lattice is not rules.initial.lattice:  # one symmetric strain after another rotates
        strained = _remove_rotation(rules.initial.lattice[axes] @ span.T, strained @ strained.T)
    result = lattice.copy()
    result[axes] = strained @ span
    return rules.freedom.hold_cell(result, rules.initial.lattice), math.sqrt(np.square(eigenvalues).sum())


def _remove_rotation(initial: Floats, metric: Floats) -> Floats:
    """The lattice with this metric that is `initial` under a symmetric deformation; handedness stays."""
    inverse = np.linalg.inv(initial)
    eigenvalues, directions = np.linalg.eigh(inverse @ metric @ inverse.T)
    return initial @ (directions * np.sqrt(eigenvalues)) @ directions.T


def _project(geometry: Geometry, rules: Rules, group: SpaceGroup) -> Geometry:
    """The nearest geometry that has the space group exactly; fixed coordinates do not change."""
    fractions = geometry.fractions
    if rules.freedom.all_atoms:
        fractions = group.project_positions(fractions)
    axes = list(rules.freedom.axes)
    if not axes:
        return Geometry(geometry.lattice, fractions)
    span = rules.freedom.span(rules.initial.lattice)
    vectors = geometry.lattice[axes] @ span.T
    metric = np.zeros((3, 3))
    metric[np.ix_(axes, axes)] = vectors @ vectors.T
    metric = group.project_form(metric)[np.ix_(axes, axes)]
    lattice = geometry.lattice.copy()
    lattice[axes] = _remove_rotation(rules.initial.lattice[axes] @ span.T, metric) @ span
    return Geometry(rules.freedom.hold_cell(lattice, rules.initial.lattice), fractions)
