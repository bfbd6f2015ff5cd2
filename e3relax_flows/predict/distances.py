"""Distances between atoms, in units of the sum of their covalent radii."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.graphs.neighbors import find_neighbors, measure_pairs
from e3relax_flows.model.elements import COVALENT_RADII

# Å, by atomic number (index 0 is unused)
RADII: NDArray[np.float64] = np.array([np.nan, *COVALENT_RADII])
QUICK_CUTOFF = 2.0  # Å; a search within less sorts the atoms into more, smaller boxes and takes longer
ROUNDING = 1e-9  # of a distance; the search for the closest pair begins this much above the limit


class ClosePair(NamedTuple):
    """Two atoms, or an atom and its own image, that are nearer than allowed."""

    first: int
    second: int
    distance: float  # Å
    ratio: float  # of the distance to the sum of the covalent radii


def find_close_pair(
    numbers: NDArray[np.int64],
    positions: NDArray[np.float64],
    lattice: NDArray[np.float64],
    min_ratio: float,
    min_distance: float = 0.0,
) -> ClosePair | None:
    """Find the pair that falls furthest below `min_ratio` or `min_distance`, over all periodic images.

    Parameters
    ----------
    numbers
        [n_atoms] atomic numbers.
    positions
        [n_atoms, 3] Å, Cartesian.
    lattice
        [3, 3] Å, rows are the vectors.
    min_ratio
        Smallest allowed distance over the sum of the covalent radii.
    min_distance
        Å; smallest allowed distance.
    """
    radii = RADII[numbers]
    cutoff = max(2 * min_ratio * float(radii.max()), min_distance)
    if cutoff <= 0:
        return None
    pairs, distances = measure_pairs(positions, lattice, max(cutoff, QUICK_CUTOFF))
    if (distances >= (1 + ROUNDING) * np.maximum(min_ratio * radii[pairs].sum(axis=1), min_distance)).all():
        return None
    edges = find_neighbors(positions, lattice, cutoff)
    vectors = positions[edges.neighbors] + edges.offsets @ lattice - positions[edges.centers]
    distances = np.linalg.norm(vectors, axis=1)
    sums = radii[edges.centers] + radii[edges.neighbors]
    allowed = np.maximum(min_ratio * sums, min_distance)
    if not len(distances) or (worst := int(np.argmin(distances / allowed))) < 0 or distances[worst] >= allowed[worst]:
        return None
    return ClosePair(
        int(edges.centers[worst]),
        int(edges.neighbors[worst]),
        float(distances[worst]),
        float(distances[worst] / sums[worst]),
    )
