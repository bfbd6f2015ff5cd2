"""Neighbour lists: all periodic images within a cutoff, both directions, from vesin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList


class Neighbors(NamedTuple):
    """Directed edges of one crystal, sorted by centre; both directions of every pair are there."""

    centers: NDArray[np.int64]  # [n_edges]
    neighbors: NDArray[np.int64]  # [n_edges]
    offsets: NDArray[np.int64]  # [n_edges, 3] lattice vectors added to the neighbour


def find_neighbors(positions: NDArray[np.float64], lattice: NDArray[np.float64], cutoff: float) -> Neighbors:
    """All pairs with |x_j + n·lattice - x_i| < cutoff, except an atom with itself at n = 0.

    Parameters
    ----------
    positions
        [n_atoms, 3] Å, Cartesian; need not lie inside the cell.
    lattice
        [3, 3] Å, rows are the vectors; left-handed ones too.
    cutoff
        Å.
    """
    centers, neighbors, offsets = NeighborList(cutoff=cutoff, full_list=True, sorted=True).compute(
        points=positions, box=lattice, periodic=True, quantities="ijS"
    )
    return Neighbors(centers.astype(np.int64), neighbors.astype(np.int64), offsets.astype(np.int64))
