"""Edges as the released E3Relax-H2 takes them: the nearest 50 within 6 Å, and six fixed self-images per atom."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from e3relax_flows.graphs.neighbors import Neighbors, find_neighbors

SELF_IMAGES = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=np.int64)
DISTANCE_DIGITS = 6


def find_released_neighbors(
    positions: NDArray[np.float64], lattice: NDArray[np.float64], cutoff: float = 6.0, max_neighbors: int = 50
) -> Neighbors:
    """Edges of the released network, sorted by centre; not every one of them has its reverse.

    Per centre the `max_neighbors` nearest are kept, of these the ones to other atoms (not to its own images), and
    the six images `SELF_IMAGES` of the atom itself are added, however far they are. The cap may cut through a shell
    of equal distances: which of them stay is decided by the neighbour's index and offset. (The released code counts
    an atom as its own neighbour wherever rounding makes the distance to itself differ from zero, and then keeps one
    edge less; this is not reproduced.)

    Parameters
    ----------
    positions
        [n_atoms, 3] Å, Cartesian.
    lattice
        [3, 3] Å, rows are the vectors.
    cutoff
        Å.
    """
    n_atoms = len(positions)
    edges = find_neighbors(positions, lattice, cutoff)
    vectors = positions[edges.neighbors] + edges.offsets @ lattice - positions[edges.centers]
    distances = np.linalg.norm(vectors, axis=1).round(DISTANCE_DIGITS)
    order = np.lexsort((*edges.offsets.T, edges.neighbors, distances, edges.centers))
    centers, neighbors, offsets = edges.centers[order], edges.neighbors[order], edges.offsets[order]
    rank = np.arange(len(centers)) - np.searchsorted(centers, centers)
    keep = (rank < max_neighbors) & (centers != neighbors)

    atoms = np.repeat(np.arange(n_atoms), len(SELF_IMAGES))
    centers = np.concatenate([centers[keep], atoms])
    neighbors = np.concatenate([neighbors[keep], atoms])
    offsets = np.concatenate([offsets[keep], np.tile(SELF_IMAGES, (n_atoms, 1))])
    order = np.argsort(centers, kind="stable")
    return Neighbors(centers[order], neighbors[order], offsets[order])
