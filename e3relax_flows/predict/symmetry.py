"""The space group of a crystal, and projections of strains, displacements and positions onto it.

An operation (W, w) takes fractional coordinates x to W·x + w. For the atoms of a primitive cell it is kept as
integers only: W, the permutation p and the shifts n in W·x_i + w = x_p(i) + n_i. Measured from the mean of the
atoms the translation is the mean of the shifts, so that projections carry no noise of the input.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import cached_property

import numpy as np
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from e3relax_flows.predict.constraints import Freedom
from e3relax_flows.predict.operations import Operations, SymmetryError, ask_moyo, ask_spglib

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TIGHT = 1e-5  # Å; the tolerance with which a space group counts as exact
N_PROBES = 4  # atoms on which a translation is tried first
FEW_PAIRS = 2_500  # up to so many distances, computing them all is faster than a tree
# Operations are clear when those within ABOVE times the tolerance deviate by less than BELOW times the tolerance: in
# 2,000 crystals as they are found, and as many with noise of all sizes, moyo and spglib then agree. With 0.5 instead
# of 0.25 they differ in 3 of 4,000 searches, within the tolerance itself in some per cent.
BELOW = 0.25
ABOVE = 4.0


@dataclass(frozen=True)
class PrimitiveCell:
    """Map of the atoms of a cell to those of a primitive one: x_i = (x_orbit(i) + cell_i) · basis."""

    basis: Floats  # [3, 3] rows are the primitive vectors in units of the cell's
    orbits: Integers  # [n_atoms] atom of the primitive cell that an atom repeats
    cells: Integers  # [n_atoms, 3] primitive vectors between the two

    @cached_property
    def is_trivial(self) -> bool:
        """Whether the cell is primitive itself."""
        return len(self.orbits) == self.n_orbits

    @cached_property
    def n_orbits(self) -> int:
        """Number of atoms of the primitive cell."""
        return int(self.orbits.max()) + 1

    @cached_property
    def inverse(self) -> Floats:
        """Inverse [3, 3] of the basis."""
        return np.asarray(np.linalg.inv(self.basis), dtype=np.float64)

    @cached_property
    def _order(self) -> Integers:
        return np.argsort(self.orbits, kind="stable")

    def reduce(self, vectors: Floats) -> Floats:
        """Mean over each orbit [n_orbits, 3] of fractional vectors [n_atoms, 3], in units of the primitive vectors."""
        if self.is_trivial:
            return vectors
        return vectors[self._order].reshape(self.n_orbits, -1, 3).mean(axis=1) @ self.inverse

    def expand(self, vectors: Floats) -> Floats:
        """Vectors [n_atoms, 3] in units of the cell's from those [n_orbits, 3] of the primitive atoms."""
        return vectors if self.is_trivial else vectors[self.orbits] @ self.basis

    def reduce_positions(self, fractions: Floats) -> Floats:
        """Positions [n_orbits, 3] of the primitive atoms, each the mean over its repeats."""
        return fractions if self.is_trivial else self.reduce(fractions - self.cells @ self.basis)

    def expand_positions(self, fractions: Floats) -> Floats:
        """Positions [n_atoms, 3] of all atoms from those of the primitive ones."""
        return fractions if self.is_trivial else (fractions[self.orbits] + self.cells) @ self.basis


@dataclass(frozen=True)
class SpaceGroup:
    """The operations of a crystal and their action on its atoms."""

    number: int
    cell: PrimitiveCell
    rotations: Integers  # [n_operations, 3, 3] in units of the primitive vectors
    inverses: Integers  # [n_operations, 3, 3]
    permutations: Integers  # [n_operations, n_orbits]
    shifts: Integers  # [n_operations, n_orbits, 3]
    deviations: Floats  # [n_operations] Å; the furthest that each takes an atom or lattice vector from its partner

    @property
    def is_trivial(self) -> bool:
        """Whether the identity is the only operation."""
        return len(self.rotations) == 1 and self.cell.is_trivial

    @cached_property
    def deviation(self) -> float:
        """The largest deviation of an operation, Å."""
        return float(self.deviations.max())

    @cached_property
    def _form_projector(self) -> Floats:
        """The mean over all operations [9, 9] for forms in units of the cell's vectors."""
        in_cell = self.cell.inverse @ self.rotations.transpose(0, 2, 1) @ self.cell.basis
        return np.tensordot(in_cell, in_cell, (0, 0)).transpose(0, 2, 1, 3).reshape(9, 9) / len(in_cell)

    def select(self, chosen: NDArray[np.bool_]) -> SpaceGroup:
        """The part of the group with the chosen operations; it keeps the number of the whole group."""
        names = ("rotations", "inverses", "permutations", "shifts", "deviations")
        return replace(self, **{name: getattr(self, name)[chosen] for name in names})

    def project_displacements(self, displacements: Floats) -> Floats:
        """Mean of fractional displacements [n_atoms, 3] over all operations."""
        vectors = self.cell.reduce(displacements)[self.permutations]
        return self.cell.expand(_average(self.inverses, vectors))

    def project_form(self, form: Floats) -> Floats:
        """Mean over all operations of a form [3, 3] such as a metric: its entries are a_k · M · a_l."""
        mean = (self._form_projector @ form.ravel()).reshape(3, 3)
        return 0.5 * (mean + mean.T)

    def project_positions(self, fractions: Floats) -> Floats:
        """Nearest positions [n_atoms, 3], fractional, that have the space group exactly; their mean stays."""
        positions = self.cell.reduce_positions(fractions)
        images = positions[self.permutations] - positions.mean(axis=0) + _center(self.shifts)
        return self.cell.expand_positions(_average(self.inverses, images) + positions.mean(axis=0))


@dataclass(frozen=True)
class Symmetry:
    """The space group to keep: found with the user's tolerance, and the part that holds within 1e-5 Å."""

    loose: SpaceGroup
    tight: SpaceGroup
    symprec: float  # Å; the user's


def find_symmetry(lattice: Floats, fractions: Floats, types: Integers, symprec: float, freedom: Freedom) -> Symmetry:
    """Find the operations of a crystal that commute with its constraints; arguments as in `find_space_group`.

    Raises
    ------
    SymmetryError
        When it cannot be determined.
    """
    masks = {(True, True, True)} if freedom.all_atoms else {tuple(row) for row in freedom.atoms.tolist()}
    masks.add((0 in freedom.axes, 1 in freedom.axes, 2 in freedom.axes))
    kept = [np.diag(mask).astype(float) for mask in masks if 0 < sum(mask) < 3]
    loose = _find(lattice, fractions, types, symprec, kept)
    if loose.deviation < BELOW * TIGHT or symprec <= TIGHT:
        return Symmetry(loose, loose, symprec)
    return Symmetry(loose, _find(lattice, fractions, types, TIGHT, kept, ask_first=False), symprec)


def find_number(lattice: Floats, fractions: Floats, types: Integers, symprec: float) -> int | None:
    """Number of the space group; None if spglib finds none."""
    try:
        return ask_spglib(lattice, fractions, types, symprec).number
    except SymmetryError:
        return None


def find_space_group(
    lattice: Floats, fractions: Floats, types: Integers, symprec: float, kept: Sequence[Floats] = ()
) -> SpaceGroup:
    """Find the space group of a crystal; supercells are reduced first.

    Parameters
    ----------
    lattice
        [3, 3] Å, rows are the vectors; left-handed ones too.
    fractions
        [n_atoms, 3]; need not lie inside the cell, and shifts refer to them as they are.
    types
        [n_atoms]; atoms of different types are never exchanged.
    symprec
        Å.
    kept
        Matrices [3, 3] in fractional coordinates that every operation has to commute with.

    Raises
    ------
    SymmetryError
        When none is found, or the operations do not fit the atoms.
    """
    return _find(lattice, fractions, types, symprec, kept)


def _find(
    lattice: Floats,
    fractions: Floats,
    types: Integers,
    symprec: float,
    kept: Sequence[Floats],
    ask_first: bool = True,
) -> SpaceGroup:
    """The space group; moyo is tried first, unless its result is rarely unambiguous."""
    cell = find_primitive_cell(lattice, fractions, types, symprec)
    basis, positions = cell.basis @ lattice, cell.reduce_positions(fractions)
    arrays = basis, positions, types[np.unique(cell.orbits, return_index=True)[1]]
    repeats = 0.0 if cell.is_trivial else float(np.abs((cell.expand_positions(positions) - fractions) @ lattice).max())
    group = None
    may_be_clear = ask_first and repeats < BELOW * symprec
    if may_be_clear and len(_find_translations(*arrays, 2 * ABOVE * symprec)[0]) <= 1:
        operations = ask_moyo(*arrays, ABOVE * symprec)
        group = None if operations is None else _fit(operations, cell, *arrays)
    if group is None or group.deviation >= BELOW * symprec:
        group = _fit(ask_spglib(*arrays, symprec), cell, *arrays)
    if group is None:
        raise SymmetryError("spglib's operations do not map the atoms onto each other")
    if kept:
        in_cell = cell.basis.T @ group.rotations @ cell.inverse.T
        group = group.select(np.array([all(np.allclose(W @ M, M @ W, atol=1e-6) for M in kept) for W in in_cell]))
    return replace(group, deviations=np.maximum(group.deviations, repeats))


def find_primitive_cell(lattice: Floats, fractions: Floats, types: Integers, symprec: float) -> PrimitiveCell:
    """Find the pure translations of a crystal and a primitive cell; the cell itself if there are none."""
    n_atoms = len(types)
    trivial = PrimitiveCell(np.eye(3), np.arange(n_atoms), np.zeros((n_atoms, 3), dtype=np.int64))
    partners, shifts = _find_translations(lattice, fractions, types, symprec)
    n_translations = len(partners)
    if n_translations <= 1 or n_atoms % n_translations:
        return trivial
    steps = shifts.sum(axis=1) * n_translations / n_atoms
    if not np.allclose(steps, np.round(steps), atol=1e-9):
        return trivial
    rows = np.vstack([np.eye(3, dtype=np.int64) * n_translations, np.round(steps).astype(np.int64)])
    basis = _reduce_rows(rows) / n_translations
    basis *= np.sign(np.linalg.det(basis))  # a cell of the same hand: its space group may have a mirror image
    orbits = np.unique(partners.min(axis=0), return_inverse=True)[1]
    first = np.unique(orbits, return_index=True)[1]
    cells = np.linalg.solve(basis.T, (fractions - fractions[first][orbits]).T).T
    # the volume of the cell has to be that of its translations: otherwise they do not form a group within symprec
    if not np.isclose(abs(np.linalg.det(basis)) * n_translations, 1.0) or len(first) * n_translations != n_atoms:
        return trivial
    return PrimitiveCell(basis, orbits, np.round(cells).astype(np.int64))


def _find_translations(
    lattice: Floats, fractions: Floats, types: Integers, symprec: float
) -> tuple[Integers, Integers]:
    """Partners [n, n_atoms] and shifts [n, n_atoms, 3] of the atoms under translations, including the identity."""
    n_atoms = len(types)
    counts = np.unique(types, return_counts=True)
    if math.gcd(*counts[1].tolist()) == 1:
        return np.arange(n_atoms)[None], np.zeros((1, n_atoms, 3), dtype=np.int64)
    rarest = np.flatnonzero(types == counts[0][np.argmin(counts[1])])
    candidates = fractions[rarest] - fractions[rarest[0]]
    # most candidates fail at a few atoms already; only the others are tried on all of them
    targets = (fractions[rarest[1 : N_PROBES + 1], None] + candidates).reshape(-1, 3)
    distances = _find_nearest(lattice, fractions[rarest], targets)[2].reshape(-1, len(candidates))
    candidates = candidates[(distances < symprec).all(axis=0)]
    targets = (fractions[None] + candidates[:, None]).reshape(-1, 3)
    partners, differences, distances = _find_nearest(lattice, fractions, targets)
    partners, distances = partners.reshape(-1, n_atoms), distances.reshape(-1, n_atoms)
    shifts = np.round(differences).reshape(-1, n_atoms, 3).astype(np.int64)
    good = (
        (distances < symprec).all(axis=1)
        & (types[partners] == types).all(axis=1)
        & (np.sort(partners, axis=1) == np.arange(n_atoms)).all(axis=1)
    )
    return partners[good], shifts[good]


def _fit(
    operations: Operations, cell: PrimitiveCell, lattice: Floats, fractions: Floats, types: Integers
) -> SpaceGroup | None:
    """The action of the operations on the atoms of the primitive cell; None if they do not map them."""
    number, rotations, translations = operations
    targets = fractions @ rotations.transpose(0, 2, 1) + translations[:, None]
    partners, differences, _ = _find_nearest(lattice, fractions, targets.reshape(-1, 3))
    permutations = partners.reshape(len(rotations), -1)
    bijective = np.sort(permutations, axis=1) == np.arange(len(types))
    if not bijective.all() or not (types[permutations] == types).all():
        return None
    shifts = np.round(differences).reshape(*permutations.shape, 3).astype(np.int64)
    inverses = np.round(np.linalg.inv(rotations)).astype(np.int64)
    deviations = _measure_deviations(lattice, fractions, rotations, permutations, shifts)
    return SpaceGroup(number, cell, rotations, inverses, permutations, shifts, deviations)


def _average(inverses: Integers, vectors: Floats) -> Floats:
    """Mean [n, 3] over the operations of W⁻¹ · v for vectors [n_operations, n, 3]."""
    return (vectors @ inverses.transpose(0, 2, 1)).mean(axis=0)


def _find_nearest(lattice: Floats, fractions: Floats, targets: Floats) -> tuple[Integers, Floats, Floats]:
    """Atom nearest to each target [n, 3], the fractional difference to it with its image, and the length left, Å."""
    lengths = np.sqrt(np.square(lattice).sum(axis=1))
    if len(fractions) * len(targets) <= FEW_PAIRS:
        wrapped = targets[:, None] - fractions
        wrapped -= np.rint(wrapped)
        partners = np.square(wrapped * lengths).sum(axis=2).argmin(axis=1)
    else:
        # wrapped twice: -1e-17 % 1.0 is 1.0
        tree = cKDTree((fractions % 1.0 % 1.0) * lengths, boxsize=lengths)
        partners = tree.query((targets % 1.0 % 1.0) * lengths)[1]
    differences = targets - fractions[partners]
    left = (differences - np.rint(differences)) @ lattice
    return partners, differences, np.sqrt(np.square(left).sum(axis=1))


def _center(shifts: Integers) -> Floats:
    """Shifts less the translation, both for atoms measured from their mean."""
    return shifts - shifts.mean(axis=1, keepdims=True)


def _measure_deviations(
    lattice: Floats, fractions: Floats, rotations: Integers, permutations: Integers, shifts: Integers
) -> Floats:
    """Largest deviation [n_operations], Å, of an atom or lattice vector under each operation."""
    centered = fractions - fractions.mean(axis=0)
    images = centered @ rotations.transpose(0, 2, 1)
    misses = (centered[permutations] + _center(shifts) - images) @ lattice
    atoms = np.sqrt(np.square(misses).sum(axis=2).max(axis=1))
    metric = lattice @ lattice.T
    lengths = np.sqrt(np.diagonal(metric))
    changes = (rotations.transpose(0, 2, 1) @ metric @ rotations - metric) / np.outer(lengths, lengths) ** 0.5
    return np.maximum(atoms, np.abs(changes).max(axis=(1, 2)))


def _reduce_rows(rows: Integers) -> Integers:
    """Basis [3, 3] of the integer combinations of rows [n, 3] of rank 3 (Hermite's normal form)."""
    rows = rows.copy()
    for column in range(3):
        while True:
            below = column + np.flatnonzero(rows[column:, column])
            pivot = below[np.argmin(np.abs(rows[below, column]))]
            rows[[column, pivot]] = rows[[pivot, column]]
            if len(below) == 1:
                break
            rows[column + 1 :] -= np.outer(rows[column + 1 :, column] // rows[column, column], rows[column])
    return rows[:3]
