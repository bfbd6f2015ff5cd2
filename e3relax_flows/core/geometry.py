"""Strains and displacements between two descriptions of a crystal, in numpy.

Lattices are 3x3, rows are the vectors, Å. Deformations act from the right: lattice_b = lattice_a · F.
"""

from __future__ import annotations

import itertools

import numpy as np
from numpy.typing import NDArray

Array = NDArray[np.float64]

IMAGES = np.array(list(itertools.product((-1, 0, 1), repeat=3)), dtype=float)


def measure_log_strain(lattice_a: Array, lattice_b: Array) -> Array:
    """Symmetric logarithmic strain ½ ln(F·Fᵀ) [3, 3] that takes `lattice_a` to `lattice_b`, in the frame of a.

    A rotation of `lattice_b` does not change it; its trace is ln(V_b / V_a).
    """
    deformation = np.linalg.solve(lattice_a, lattice_b)
    eigenvalues, vectors = np.linalg.eigh(deformation @ deformation.T)
    return (vectors * (0.5 * np.log(eigenvalues))) @ vectors.T


def find_nearest_images(differences: Array, lattice: Array) -> Array:
    """Fractional differences [n, 3] moved by whole lattice vectors to their shortest Cartesian length."""
    wrapped = differences - np.round(differences)
    candidates = wrapped[:, None, :] + IMAGES
    lengths = np.linalg.norm(candidates @ lattice, axis=-1)
    # the first image within rounding of the shortest, so that equal lengths do not depend on noise
    choice = np.argmax(lengths <= lengths.min(axis=1, keepdims=True) + 1e-9, axis=1)
    return candidates[np.arange(len(candidates)), choice]


def measure_displacements(fractions_a: Array, fractions_b: Array, lattice: Array) -> Array:
    """Lengths [n], Å, of b - a in `lattice`: nearest images, mean drift removed (a crystal has no origin)."""
    differences = find_nearest_images(fractions_b - fractions_a, lattice)
    # nearest images again around the drift, which may itself be near half a lattice vector
    drift = differences.mean(axis=0)
    differences = find_nearest_images(differences - drift, lattice)
    return np.linalg.norm((differences - differences.mean(axis=0)) @ lattice, axis=1)
