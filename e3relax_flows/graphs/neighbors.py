"""Neighbour lists: all periodic images within a cutoff, both directions, from vesin."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from vesin import NeighborList

from e3relax_flows.core.errors import StructureError

MAX_SHORT = 2**16  # atoms that an integer of two bytes can number
MAX_IMAGES = 10_000  # cells in one direction that the cutoff may span
MAX_CELLS_OUTSIDE = 1e6
MAX_MEAN_NEIGHBORS = 100_000


class Neighbors(NamedTuple):
    """Directed edges of one crystal, sorted by centre."""

    centers: NDArray[np.int64]  # [n_edges]
    neighbors: NDArray[np.int64]  # [n_edges]
    offsets: NDArray[np.int64]  # [n_edges, 3] lattice vectors added to the neighbour
    reverse: NDArray[np.int64] | None = None  # [n_edges] index of the same edge in the other direction


def find_neighbors(positions: NDArray[np.float64], lattice: NDArray[np.float64], cutoff: float) -> Neighbors:
    """All pairs with |x_j + n·lattice - x_i| < cutoff in both directions, except an atom with itself at n = 0.

    Parameters
    ----------
    positions
        [n_atoms, 3] Å, Cartesian; need not lie inside the cell.
    lattice
        [3, 3] Å, rows are the vectors; left-handed ones too.
    cutoff
        Å.

    Raises
    ------
    StructureError
        When a number is not finite (`not_finite`), or the cell has no or almost no volume (`zero_volume`).
    """
    _check_geometry(positions, lattice, cutoff)
    first, second, shifts = NeighborList(cutoff=cutoff, full_list=False).compute(
        points=positions, box=lattice, periodic=True, quantities="ijS"
    )
    centers = np.concatenate([first, second]).astype(np.int64)
    neighbors = np.concatenate([second, first]).astype(np.int64)
    offsets = np.concatenate([shifts, -shifts]).astype(np.int64)
    # short integers are sorted by their digits
    order = np.argsort(centers.astype(np.uint16) if len(positions) <= MAX_SHORT else centers, kind="stable")
    place = np.empty_like(order)
    place[order] = np.arange(len(order))
    reverse = np.concatenate([place[len(first) :], place[: len(first)]])[order]
    return Neighbors(centers[order], neighbors[order], offsets.take(order, axis=0), reverse)


def measure_pairs(
    positions: NDArray[np.float64], lattice: NDArray[np.float64], cutoff: float
) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
    """Atoms [n_pairs, 2] of the pairs of `find_neighbors`, in one direction only, and their distances [n_pairs], Å."""
    _check_geometry(positions, lattice, cutoff)
    pairs, distances = NeighborList(cutoff=cutoff, full_list=False).compute(
        points=positions, box=lattice, periodic=True, quantities="Pd"
    )
    return pairs.astype(np.int64), distances


def _check_geometry(positions: NDArray[np.float64], lattice: NDArray[np.float64], cutoff: float) -> None:
    """Refuse input that would crash the neighbour search, overflow an offset or fill the memory."""
    if not (np.isfinite(lattice).all() and np.isfinite(positions).all()):
        raise StructureError(
            "not_finite", "a position or lattice vector is not a finite number; look at the input file"
        )
    volume = abs(float(np.linalg.det(lattice)))
    inverse = np.linalg.inv(lattice) if volume > 0 else np.full((3, 3), np.inf)
    n_images = cutoff * float(np.linalg.norm(inverse, axis=0).max())  # cutoff over the smallest height of the cell
    mean_neighbors = 4 / 3 * np.pi * cutoff**3 * len(positions) / volume if volume > 0 else np.inf
    if not n_images <= MAX_IMAGES or not mean_neighbors <= MAX_MEAN_NEIGHBORS:
        raise StructureError(
            "zero_volume",
            f"the cell is flat or collapsed: {volume:.3g} Å³, {len(positions)} atoms, height {cutoff / n_images:.3g} Å "
            f"({mean_neighbors:.3g} neighbours within {cutoff:.3g} Å); give a cell with a volume",
        )
    if np.abs(positions @ inverse).max(initial=0.0) > MAX_CELLS_OUTSIDE:
        raise StructureError(
            "not_finite",
            f"an atom lies more than {MAX_CELLS_OUTSIDE:.0e} cells away from the origin; wrap it into the cell",
        )
