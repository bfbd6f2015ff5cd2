"""Strains and displacements between two descriptions of a crystal, in numpy.

Lattices are 3x3, rows are the vectors, Å. Deformations act from the right: lattice_b = lattice_a · F.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

STRAIN_WEIGHT_ANGSTROM = 2.5  # of a strain against a displacement, as in the calibrated error

Array = NDArray[np.float64]

IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=float)
PLANE_STEPS = np.array([(0, 0), *(step for step in itertools.product((-1, 0, 1), repeat=2) if any(step))])
AXIS_STEPS = [np.insert(PLANE_STEPS, axis, 1, axis=1).astype(float) for axis in range(3)]
SWAP = [1, 0, 2]  # exchanging two axes turns a left-handed cell into a right-handed description of the same crystal
SHORTER = 1 - 1e-9  # a squared length has to shrink by this factor to count as shorter


def make_right_handed(lattice: Array, fractions: Array) -> tuple[Array, Array]:
    """Lattice [3, 3] and fractions [n, 3] of the same crystal, two axes exchanged where the cell is left-handed."""
    if np.linalg.det(lattice) < 0:
        return lattice[SWAP], fractions[:, SWAP]
    return lattice, fractions


def measure_log_strain(lattice_a: Array, lattice_b: Array) -> Array:
    """Symmetric logarithmic strain ½ ln(F·Fᵀ) [3, 3] that takes `lattice_a` to `lattice_b`, in the frame of a.

    A rotation of `lattice_b` does not change it; its trace is ln(V_b / V_a).

    Examples
    --------
    A cube that grows by 2 % along each axis:

    >>> import numpy as np
    >>> from e3relax_flows import measure_log_strain
    >>> strain = measure_log_strain(4 * np.eye(3), 4.08 * np.eye(3))
    >>> strain.diagonal().round(4).tolist(), round(float(np.exp(np.trace(strain))), 4) == round(1.02**3, 4)
    ([0.0198, 0.0198, 0.0198], True)
    """
    deformation = np.linalg.solve(lattice_a, lattice_b)
    eigenvalues, vectors = np.linalg.eigh(deformation @ deformation.T)
    return (vectors * (0.5 * np.log(eigenvalues))) @ vectors.T


def reduce_lattices(lattices: Array) -> Array:
    """Integer matrices [n, 3, 3] with determinant ±1 that turn `lattices` [n, 3, 3] into Minkowski-reduced ones.

    In a reduced cell the nearest image of a wrapped difference is at most one lattice vector away along each axis; in
    a skewed one it may be any number of them. A cell that is reduced already gets the identity.
    """
    cells = np.tile(np.eye(3), (len(lattices), 1, 1))
    rows = np.arange(len(lattices))
    is_reduced = len(lattices) == 0
    while not is_reduced:
        is_reduced = True
        for axis, steps in enumerate(AXIS_STEPS):
            candidates = steps @ cells  # the axis, and the axis plus or minus the other two
            lengths = np.square(candidates @ lattices).sum(axis=2)
            best = lengths.argmin(axis=1)
            is_shorter = lengths[rows, best] < SHORTER * lengths[:, 0]
            if not is_shorter.any():
                continue
            cells[is_shorter, axis] = candidates[rows, best][is_shorter]
            is_reduced = False
    return cells


def find_nearest_images(differences: Array, lattice: Array) -> Array:
    """Fractional differences [n, 3] moved by whole lattice vectors to their shortest Cartesian length.

    Examples
    --------
    The shorter way from 0.05 to 0.95 is across the boundary of the cell:

    >>> import numpy as np
    >>> from e3relax_flows import find_nearest_images
    >>> moved = find_nearest_images(np.array([[0.9, 0.0, 0.0]]), 4 * np.eye(3))
    >>> moved.round(6).tolist()
    [[-0.1, 0.0, 0.0]]
    """
    wrapped = differences - np.round(differences)
    height = 1 / np.sqrt(np.square(np.linalg.inv(lattice)).sum(axis=0).max())  # no lattice vector is shorter
    if 2.001 * np.sqrt(np.square(wrapped @ lattice).sum(axis=1).max(initial=0.0)) < height:
        return wrapped  # shorter than half of any lattice vector
    cell = reduce_lattices(lattice[None])[0]
    differences = differences @ np.round(np.linalg.inv(cell))
    wrapped = differences - np.round(differences)
    candidates = wrapped[:, None, :] + IMAGES
    lengths = np.linalg.norm(candidates @ cell @ lattice, axis=-1)
    # the first image within rounding of the shortest, so that equal lengths do not depend on noise
    choice = np.argmax(lengths <= lengths.min(axis=1, keepdims=True) + 1e-9, axis=1)
    return candidates[np.arange(len(candidates)), choice] @ cell


def measure_displacements(fractions_a: Array, fractions_b: Array, lattice: Array) -> Array:
    """Lengths [n], Å, of b - a in `lattice`: nearest images, mean drift removed (a crystal has no origin).

    Examples
    --------
    One of two atoms moved by 0.1 Å: without the drift, each moved by half of it.

    >>> import numpy as np
    >>> from e3relax_flows import measure_displacements
    >>> before, after = np.array([[0, 0, 0], [0.5, 0.5, 0.5]]), np.array([[0, 0, 0], [0.5, 0.5, 0.525]])
    >>> measure_displacements(before, after, 4 * np.eye(3)).round(6).tolist()
    [0.05, 0.05]
    """
    differences = find_nearest_images(fractions_b - fractions_a, lattice)
    # nearest images again around the drift, which may itself be near half a lattice vector
    drift = differences.mean(axis=0)
    differences = find_nearest_images(differences - drift, lattice)
    return np.linalg.norm((differences - differences.mean(axis=0)) @ lattice, axis=1)
