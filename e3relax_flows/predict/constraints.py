"""Constraints of the user: fixed cell, vacuum of a layer, fixed atoms or coordinates."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from pymatgen.core import Structure

from e3relax_flows.core.errors import StructureError
from e3relax_flows.schemas.predictions import Constraints, Free, Reason

AXES = "abc"
SELECTIVE_DYNAMICS = "selective_dynamics"


@dataclass(frozen=True)
class Freedom:
    """Coordinates that may change under the constraints of a crystal."""

    atoms: NDArray[np.bool_]  # [n_atoms, 3] whether a fractional coordinate may change
    axes: tuple[int, ...]  # lattice vectors that may be strained, within the space they span
    cell: Free = "all"  # of that strain: all; shape: none of its trace; volume: its trace alone

    @cached_property
    def all_atoms(self) -> bool:
        """Whether every coordinate may change."""
        return bool(self.atoms.all())

    def constrain_displacements(self, displacements: NDArray[np.float64]) -> NDArray[np.float64]:
        """Fractional displacements [n_atoms, 3] that do not change fixed coordinates.

        A crystal has no origin, so displacements are counted from the fixed coordinates along an axis where there
        are some (from their mean, then these are set to zero), and from the mean of all atoms otherwise.
        """
        if self.all_atoms:
            return displacements - displacements.mean(axis=0)
        fixed = ~self.atoms
        n_fixed = fixed.sum(axis=0)
        from_fixed = np.where(fixed, displacements, 0.0).sum(axis=0) / np.maximum(n_fixed, 1)
        origin = np.where(n_fixed > 0, from_fixed, displacements.mean(axis=0))
        return np.where(self.atoms, displacements - origin, 0.0)

    def constrain_strain(self, strain: NDArray[np.float64]) -> NDArray[np.float64]:
        """The part of a symmetric strain [n_axes, n_axes] that is free, in the space of the free vectors."""
        uniform = np.eye(len(strain)) * np.trace(strain) / len(strain)
        return {"all": strain, "shape": strain - uniform, "volume": uniform}[self.cell]

    def hold_cell(self, lattice: NDArray[np.float64], initial: NDArray[np.float64]) -> NDArray[np.float64]:
        """The lattice with exactly the volume, or exactly the shape, of the initial one, where these are held."""
        if self.cell == "all":
            return lattice
        axes = list(self.axes)
        scale = abs(np.linalg.det(lattice) / np.linalg.det(initial)) ** (1 / len(axes))
        held = lattice.copy()
        held[axes] = initial[axes] * scale if self.cell == "volume" else lattice[axes] / scale
        return held

    def span(self, lattice: NDArray[np.float64]) -> NDArray[np.float64]:
        """Orthonormal rows [n_axes, 3] that span the lattice vectors that may be strained."""
        if len(self.axes) == 3:
            return np.eye(3)
        return np.linalg.qr(lattice[list(self.axes)].T)[0].T


def resolve_constraints(structure: Structure, constraints: Constraints) -> Freedom:
    """Read a structure's constraints from the options and from its selective dynamics.

    Raises
    ------
    StructureError
        When an index is out of range or `selective_dynamics` is not three switches per site.
    """
    n_atoms = len(structure)
    atoms = np.ones((n_atoms, 3), dtype=bool)
    outside = sorted(index for index in set(constraints.fixed_atoms) if not -n_atoms <= index < n_atoms)
    if outside:
        raise StructureError(
            Reason.CONSTRAINT,
            f"fixed_atoms names site {outside[0]}, but there are {n_atoms} sites; give indices from 0 to {n_atoms - 1}",
        )
    atoms[list(constraints.fixed_atoms)] = False
    if constraints.selective_dynamics:
        atoms &= _read_selective_dynamics(structure)
    axes: tuple[int, ...] = (0, 1, 2)
    if constraints.vacuum_axis:
        axes = tuple(axis for axis in axes if axis != AXES.index(constraints.vacuum_axis))
    if constraints.holds_cell:
        axes = ()
    return Freedom(atoms, axes, constraints.free if axes else "all")


def _read_selective_dynamics(structure: Structure) -> NDArray[np.bool_]:
    switches = np.ones((len(structure), 3), dtype=bool)
    for index, site in enumerate(structure):
        value = site.properties.get(SELECTIVE_DYNAMICS)
        if value is None:
            continue
        if np.shape(value) != (3,) or not set(np.unique(value)) <= {False, True}:
            raise StructureError(
                Reason.CONSTRAINT,
                f"site {index} has selective_dynamics {value!r}; give three booleans, one per lattice vector, "
                "or ignore them with Constraints(selective_dynamics=False)",
            )
        switches[index] = np.asarray(value, dtype=bool)
    return switches
