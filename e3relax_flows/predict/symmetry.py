"""The space group of a crystal, and projections of strains, displacements and positions onto it.

An operation (W, w) takes fractional coordinates x to W·x + w. For the atoms of a primitive cell it is kept as
integers only: W, the permutation p and the shifts n in W·x_i + w = x_p(i) + n_i. Measured from the mean of the
atoms the translation is the mean of the shifts, so that projections carry no noise of the input.
"""

from __future__ import annotations

import math
import os
import warnings
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import spglib
from numpy.typing import NDArray
from scipy.spatial import cKDTree

from e3relax_flows.predict.constraints import Freedom

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

TIGHT = 1e-5  # Å; the tolerance with which a space group counts as exact
ANGLE_TOLERANCE = 5.0  # degrees, between lattice vectors; that of pymatgen's SpacegroupAnalyzer
N_PROBES = 4  # atoms on which a translation is tried first
EXACT = 2.5e-6  # Å; with deviations below this, spglib finds the same operations within 1e-5 Å


class SymmetryError(Exception):
    """The space group of a crystal could not be found."""


@dataclass(frozen=True)
class PrimitiveCell:
    """How the atoms of a cell repeat those of a primitive one: x_i = (x_orbit(i) + cell_i) · basis."""

    basis: Floats  # [3, 3] rows are the primitive vectors in units of the cell's
    orbits: Integers  # [n_atoms] atom of the primitive cell that an atom repeats
    cells: Integers  # [n_atoms, 3] primitive vectors between the two

    def reduce(self, vectors: Floats) -> Floats:
        """Mean over each orbit [n_orbits, 3] of fractional vectors [n_atoms, 3], in units of the primitive vectors."""
        sums = np.zeros((self.orbits.max() + 1, 3))
        np.add.at(sums, self.orbits, np.linalg.solve(self.basis.T, vectors.T).T)
        return sums / np.bincount(self.orbits)[:, None]

    def reduce_positions(self, fractions: Floats) -> Floats:
        """Positions [n_orbits, 3] of the primitive atoms, each the mean over its repeats."""
        return self.reduce(fractions - self.cells @ self.basis)

    def expand_positions(self, fractions: Floats) -> Floats:
        """Positions [n_atoms, 3] of all atoms from those of the primitive ones."""
        return (fractions[self.orbits] + self.cells) @ self.basis


@dataclass(frozen=True)
class SpaceGroup:
    """The operations of a crystal as they act on its atoms."""

    number: int
    cell: PrimitiveCell
    rotations: Integers  # [n_operations, 3, 3] in units of the primitive vectors
    inverses: Integers  # [n_operations, 3, 3]
    permutations: Integers  # [n_operations, n_orbits]
    shifts: Integers  # [n_operations, n_orbits, 3]
    deviation: float  # Å; the furthest that an operation takes an atom or lattice vector from its partner

    @property
    def is_trivial(self) -> bool:
        """Whether the identity is all there is."""
        return len(self.rotations) == 1 and len(self.cell.orbits) == self.permutations.shape[1]

    def project_displacements(self, displacements: Floats) -> Floats:
        """Mean of fractional displacements [n_atoms, 3] over all operations."""
        vectors = self.cell.reduce(displacements)[self.permutations]
        mean = np.einsum("gab,gnb->na", self.inverses, vectors) / len(self.inverses)
        return mean[self.cell.orbits] @ self.cell.basis

    def project_form(self, form: Floats) -> Floats:
        """Mean over all operations of a form [3, 3] such as a metric: its entries are a_k · M · a_l."""
        primitive = self.cell.basis @ form @ self.cell.basis.T
        mean = np.einsum("gba,bc,gcd->ad", self.rotations, primitive, self.rotations) / len(self.rotations)
        inverse = np.linalg.inv(self.cell.basis)
        mean = inverse @ mean @ inverse.T
        return 0.5 * (mean + mean.T)

    def project_positions(self, fractions: Floats) -> Floats:
        """Nearest positions [n_atoms, 3], fractional, that have the space group exactly; their mean stays."""
        positions = self.cell.reduce_positions(fractions)
        images = positions[self.permutations] - positions.mean(axis=0) + _center(self.shifts)
        mean = np.einsum("gab,gnb->na", self.inverses, images) / len(self.inverses)
        return self.cell.expand_positions(mean + positions.mean(axis=0))


@dataclass(frozen=True)
class Symmetry:
    """The space group to keep, as found with the user's tolerance and as it holds within 1e-5 Å."""

    loose: SpaceGroup
    tight: SpaceGroup
    symprec: float  # Å; the user's


def find_symmetry(lattice: Floats, fractions: Floats, types: Integers, symprec: float, freedom: Freedom) -> Symmetry:
    """Find the operations of a crystal that commute with its constraints; arguments as in `find_space_group`.

    Raises
    ------
    SymmetryError
        When there is no telling.
    """
    masks = {tuple(row) for row in freedom.atoms.tolist()}
    masks.add(tuple(axis in freedom.axes for axis in range(3)))
    kept = [np.diag(mask).astype(float) for mask in masks if 0 < sum(mask) < 3]
    loose = find_space_group(lattice, fractions, types, symprec, kept)
    if loose.deviation < EXACT or symprec <= TIGHT:
        return Symmetry(loose, loose, symprec)
    return Symmetry(loose, find_space_group(lattice, fractions, types, TIGHT, kept), symprec)


def find_number(lattice: Floats, fractions: Floats, types: Integers, symprec: float) -> int | None:
    """Number of the space group; None where spglib finds none."""
    try:
        return _call_spglib(lattice, fractions, types, symprec)[0]
    except SymmetryError:
        return None


def find_space_group(
    lattice: Floats, fractions: Floats, types: Integers, symprec: float, kept: Sequence[Floats] = ()
) -> SpaceGroup:
    """Find the space group of a crystal with spglib; supercells are reduced first.

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
        When spglib finds none or its operations do not fit the atoms.
    """
    cell = find_primitive_cell(lattice, fractions, types, symprec)
    basis = cell.basis @ lattice
    positions = cell.reduce_positions(fractions)
    first = np.unique(cell.orbits, return_index=True)[1]
    number, rotations, translations = _call_spglib(basis, positions, types[first], symprec)
    if kept:
        in_cell = cell.basis.T @ rotations @ np.linalg.inv(cell.basis.T)
        commutes = [all(np.allclose(W @ M, M @ W, atol=1e-6) for M in kept) for W in in_cell]
        rotations, translations = rotations[commutes], translations[commutes]
    permutations, shifts = _match_atoms(basis, positions, types[first], rotations, translations)
    inverses = np.round(np.linalg.inv(rotations)).astype(np.int64)
    deviation = _measure_deviation(basis, positions, rotations, permutations, shifts)
    deviation = max(deviation, float(np.abs((cell.expand_positions(positions) - fractions) @ lattice).max()))
    return SpaceGroup(number, cell, rotations, inverses, permutations, shifts, deviation)


def find_primitive_cell(lattice: Floats, fractions: Floats, types: Integers, symprec: float) -> PrimitiveCell:
    """Find the pure translations of a crystal and a primitive cell; the cell itself where there are none."""
    n_atoms = len(types)
    trivial = PrimitiveCell(np.eye(3), np.arange(n_atoms), np.zeros((n_atoms, 3), dtype=np.int64))
    counts = np.unique(types, return_counts=True)
    if math.gcd(*counts[1].tolist()) == 1:
        return trivial
    rarest = np.flatnonzero(types == counts[0][np.argmin(counts[1])])
    candidates = fractions[rarest] - fractions[rarest[0]]
    # most candidates fail at the next few atoms already; only the others are tried on all of them
    for probe in rarest[1 : N_PROBES + 1]:
        candidates = candidates[_find_nearest(lattice, fractions, fractions[probe] + candidates)[2] < symprec]
    targets = (fractions[None] + candidates[:, None]).reshape(-1, 3)
    partners, differences, distances = _find_nearest(lattice, fractions, targets)
    partners, distances = partners.reshape(-1, n_atoms), distances.reshape(-1, n_atoms)
    shifts = np.round(differences).reshape(-1, n_atoms, 3).astype(np.int64)
    good = (
        (distances < symprec).all(axis=1)
        & (types[partners] == types).all(axis=1)
        & (np.sort(partners, axis=1) == np.arange(n_atoms)).all(axis=1)
    )
    n_translations = int(good.sum())
    if n_translations == 1 or n_atoms % n_translations:
        return trivial
    steps = shifts[good].sum(axis=1) * n_translations / n_atoms
    if not np.allclose(steps, np.round(steps), atol=1e-9):
        return trivial
    rows = np.vstack([np.eye(3, dtype=np.int64) * n_translations, np.round(steps).astype(np.int64)])
    basis = _reduce_rows(rows) / n_translations
    basis *= np.sign(np.linalg.det(basis))  # a cell of the same hand: its space group may have a mirror image
    orbits = np.unique(partners[good].min(axis=0), return_inverse=True)[1]
    first = np.unique(orbits, return_index=True)[1]
    cells = np.linalg.solve(basis.T, (fractions - fractions[first][orbits]).T).T
    # the volume of the cell has to be that of its translations: otherwise they are no group within symprec
    if not np.isclose(abs(np.linalg.det(basis)) * n_translations, 1.0) or len(first) * n_translations != n_atoms:
        return trivial
    return PrimitiveCell(basis, orbits, np.round(cells).astype(np.int64))


def _call_spglib(lattice: Floats, fractions: Floats, types: Integers, symprec: float) -> tuple[int, Integers, Floats]:
    """Space group number, rotations and translations; left-handed cells are no matter to spglib."""
    os.environ.setdefault("SPGLIB_WARNING", "OFF")  # it would write to stderr what is returned as an error too
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)  # spglib's note on its old way to report errors
        try:
            dataset = spglib.get_symmetry_dataset(
                (lattice, fractions, types),  # type: ignore[arg-type]
                symprec=symprec,
                angle_tolerance=ANGLE_TOLERANCE,
            )
        except spglib.SpglibError as error:
            raise SymmetryError(f"spglib found no space group with symprec {symprec:g} Å: {error}") from error
    if dataset is None:
        raise SymmetryError(f"spglib found no space group with symprec {symprec:g} Å")
    return int(dataset.number), dataset.rotations.astype(np.int64), dataset.translations


def _match_atoms(
    lattice: Floats, fractions: Floats, types: Integers, rotations: Integers, translations: Floats
) -> tuple[Integers, Integers]:
    """Permutations [n_operations, n_atoms] and shifts [n_operations, n_atoms, 3] of operations."""
    targets = np.einsum("gab,nb->gna", rotations, fractions) + translations[:, None]
    partners, differences, _ = _find_nearest(lattice, fractions, targets.reshape(-1, 3))
    permutations = partners.reshape(len(rotations), -1)
    bijective = np.sort(permutations, axis=1) == np.arange(len(types))
    if not bijective.all() or not (types[permutations] == types).all():
        raise SymmetryError("spglib's operations do not map the atoms onto each other")
    return permutations, np.round(differences).reshape(*permutations.shape, 3).astype(np.int64)


def _find_nearest(lattice: Floats, fractions: Floats, targets: Floats) -> tuple[Integers, Floats, Floats]:
    """Atom nearest to each target [n, 3], the fractional difference to it with its image, and the length left, Å."""
    lengths = np.linalg.norm(lattice, axis=1)
    # wrapped twice: -1e-17 % 1.0 is 1.0
    tree = cKDTree((fractions % 1.0 % 1.0) * lengths, boxsize=lengths)
    partners = tree.query((targets % 1.0 % 1.0) * lengths)[1]
    differences = targets - fractions[partners]
    return partners, differences, np.linalg.norm((differences - np.round(differences)) @ lattice, axis=1)


def _center(shifts: Integers) -> Floats:
    """Shifts less the translation, both for atoms measured from their mean."""
    return shifts - shifts.mean(axis=1, keepdims=True)


def _measure_deviation(
    lattice: Floats, fractions: Floats, rotations: Integers, permutations: Integers, shifts: Integers
) -> float:
    centered = fractions - fractions.mean(axis=0)
    images = np.einsum("gab,nb->gna", rotations, centered)
    atoms = np.linalg.norm((centered[permutations] + _center(shifts) - images) @ lattice, axis=-1).max()
    metric = lattice @ lattice.T
    changes = np.einsum("gba,bc,gcd->gad", rotations, metric, rotations) - metric
    lengths = np.linalg.norm(lattice, axis=1)
    return float(max(atoms, np.abs(changes / np.sqrt(np.outer(lengths, lengths))).max()))


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
