"""Crystals with their edges, and batches of them packed into flat tensors."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields
from functools import cached_property
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from e3relax_flows.graphs.neighbors import Neighbors


@dataclass(frozen=True)
class Crystal:
    """One crystal as arrays, with the edges that a network requires."""

    numbers: NDArray[np.int64]  # [n_atoms] atomic numbers
    positions: NDArray[np.float64]  # [n_atoms, 3] Å, Cartesian
    lattice: NDArray[np.float64]  # [3, 3] Å, rows are the vectors
    edges: Neighbors
    cutoff: float  # Å, with which the edges were found

    @property
    def n_atoms(self) -> int:
        """Number of atoms."""
        return len(self.numbers)

    @property
    def n_edges(self) -> int:
        """Number of directed edges."""
        return len(self.edges.centers)

    @cached_property
    def most_edges(self) -> int:
        """Number of edges of the atom that has most."""
        return int(np.bincount(self.edges.centers, minlength=1).max())


@dataclass
class CrystalBatch:
    """Several crystals as one graph. Geometry is float64, in any precision of the network."""

    numbers: Tensor  # [n_atoms] int64
    positions: Tensor  # [n_atoms, 3] Å, float64
    lattices: Tensor  # [n_graphs, 3, 3] Å, float64
    graph_of_atom: Tensor  # [n_atoms] int64
    n_atoms: Tensor  # [n_graphs] int64
    centers: Tensor  # [n_edges] int64
    neighbors: Tensor  # [n_edges] int64
    offsets: Tensor  # [n_edges, 3] float64
    cutoffs: Tensor  # [n_graphs] Å, float64
    reverse: Tensor | None = None  # [n_edges] int64, the same edges in the other direction; if the network needs it

    @property
    def n_graphs(self) -> int:
        """Number of crystals."""
        return len(self.n_atoms)

    def to(self, device: torch.device | str) -> CrystalBatch:
        """The same batch on another device."""
        parts: dict[str, Any] = {f.name: getattr(self, f.name) for f in fields(self)}
        moved = {name: part.to(device) for name, part in parts.items() if part is not None}
        return CrystalBatch(**moved)


def pack_crystals(crystals: Sequence[Crystal]) -> CrystalBatch:
    """Concatenate crystals; edges point into the concatenated atoms."""
    n_atoms = np.array([crystal.n_atoms for crystal in crystals])
    first = np.concatenate([[0], np.cumsum(n_atoms)[:-1]])
    n_edges = np.array([crystal.n_edges for crystal in crystals])
    shift = np.repeat(first, n_edges)
    reverse = [crystal.edges.reverse for crystal in crystals if crystal.edges.reverse is not None]
    shift_edges = np.repeat(np.concatenate([[0], np.cumsum(n_edges)[:-1]]), n_edges)

    def join(parts: Sequence[NDArray]) -> Tensor:
        return torch.from_numpy(np.concatenate(parts))

    return CrystalBatch(
        numbers=join([crystal.numbers for crystal in crystals]),
        positions=join([crystal.positions for crystal in crystals]),
        lattices=torch.from_numpy(np.stack([crystal.lattice for crystal in crystals])),
        graph_of_atom=torch.from_numpy(np.repeat(np.arange(len(crystals)), n_atoms)),
        n_atoms=torch.from_numpy(n_atoms),
        centers=join([crystal.edges.centers for crystal in crystals]) + torch.from_numpy(shift),
        neighbors=join([crystal.edges.neighbors for crystal in crystals]) + torch.from_numpy(shift),
        offsets=join([crystal.edges.offsets for crystal in crystals]).to(torch.float64),
        cutoffs=torch.tensor([crystal.cutoff for crystal in crystals], dtype=torch.float64),
        reverse=join(reverse) + torch.from_numpy(shift_edges) if len(reverse) == len(crystals) else None,
    )


def plan_batches(sizes: Sequence[tuple[int, int]], max_atoms: int, max_edges: int) -> Iterator[list[int]]:
    """Indices of batches, in order, none above either limit unless a single crystal is.

    Parameters
    ----------
    sizes
        (number of atoms, number of edges) of every crystal.
    """
    batch: list[int] = []
    atoms = edges = 0
    for index, (n_atoms, n_edges) in enumerate(sizes):
        if batch and (atoms + n_atoms > max_atoms or edges + n_edges > max_edges):
            yield batch
            batch, atoms, edges = [], 0, 0
        batch.append(index)
        atoms, edges = atoms + n_atoms, edges + n_edges
    if batch:
        yield batch
