"""Small networks whose predictions are known in advance."""

from __future__ import annotations

from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import nn

from e3relax_flows.graphs.batching import Crystal, CrystalBatch
from e3relax_flows.graphs.neighbors import find_neighbors
from e3relax_flows.model.interface import Layer, NetworkConfig, RelaxationNetwork

CUTOFF = 3.2


class View(NamedTuple):
    """One crystal of a batch."""

    numbers: np.ndarray
    positions: np.ndarray
    lattice: np.ndarray
    centers: np.ndarray
    neighbors: np.ndarray
    offsets: np.ndarray


class FakeNetwork(RelaxationNetwork):
    """Edges within 3.2 Å; counts its applications and the sizes of its batches."""

    keeps_symmetry = True

    def __init__(self) -> None:
        super().__init__(NetworkConfig())
        self.anchor = nn.Parameter(torch.zeros(1))
        self.batch_sizes: list[int] = []

    def build_crystal(self, numbers, positions, lattice):
        return Crystal(numbers, positions, lattice, find_neighbors(positions, lattice, CUTOFF), CUTOFF)

    def forward(self, batch: CrystalBatch) -> list[Layer]:
        self.batch_sizes.append(batch.n_graphs)
        first = 0
        positions, lattices = [], []
        for graph, n_atoms in enumerate(batch.n_atoms.tolist()):
            rows = slice(first, first + n_atoms)
            inside = (batch.centers >= first) & (batch.centers < first + n_atoms)
            view = View(
                batch.numbers[rows].numpy(),
                batch.positions[rows].numpy(),
                batch.lattices[graph].numpy(),
                (batch.centers[inside] - first).numpy(),
                (batch.neighbors[inside] - first).numpy(),
                batch.offsets[inside].numpy(),
            )
            x, lattice = self.move(view)
            positions.append(torch.from_numpy(x))
            lattices.append(torch.from_numpy(lattice))
            first += n_atoms
        return [Layer(torch.cat(positions), torch.stack(lattices))]

    def move(self, view):
        raise NotImplementedError


class Identity(FakeNetwork):
    def move(self, view):
        return view.positions, view.lattice


class Contraction(FakeNetwork):
    """Takes every crystal a fraction of the way to a volume per atom; atoms scale with the cell."""

    def __init__(self, volume_per_atom: float = 20.0, fraction: float = 0.9) -> None:
        super().__init__()
        self.volume_per_atom, self.fraction = volume_per_atom, fraction

    def move(self, view):
        ratio = self.volume_per_atom * len(view.numbers) / abs(np.linalg.det(view.lattice))
        factor = ratio ** (self.fraction / 3)
        return view.positions * factor, view.lattice * factor


class Springs(FakeNetwork):
    """Pulls atoms along edges towards a bond length, and strains the cell by the mean of the pulls; equivariant."""

    def __init__(self, strength: float = 0.03, bond: float = 2.5) -> None:
        super().__init__()
        self.strength, self.bond = strength, bond

    def move(self, view):
        numbers, positions, lattice, centers, neighbors, offsets = view
        vectors = positions[neighbors] + offsets @ lattice - positions[centers]
        lengths = np.linalg.norm(vectors, axis=1, keepdims=True)
        switch = (1 - (lengths / CUTOFF) ** 2) ** 2 * np.sqrt(numbers[neighbors] * 0.1)[:, None]
        pulls = self.strength * switch * (lengths - self.bond) * vectors / lengths
        shifts = np.zeros_like(positions)
        np.add.at(shifts, centers, pulls)
        strain = (pulls.T @ (vectors / lengths)) / len(positions) if len(vectors) else np.zeros((3, 3))
        deformation = np.eye(3) + 0.5 * (strain + strain.T)
        return (positions + shifts - shifts.mean(axis=0)) @ deformation, lattice @ deformation


class Breaker(FakeNetwork):
    """Moves every atom in its own direction, shears the cell and turns it: breaks every symmetry."""

    keeps_symmetry = False

    def __init__(self, size: float = 0.05) -> None:
        super().__init__()
        self.size = size

    def move(self, view):
        rng = np.random.default_rng(len(view.numbers))
        deformation = np.eye(3) + 0.6 * self.size * rng.normal(size=(3, 3))
        turn = np.linalg.qr(rng.normal(size=(3, 3)))[0]
        turn *= np.sign(np.linalg.det(turn))
        moved = view.positions + self.size * rng.normal(size=view.positions.shape)
        return moved @ deformation @ turn, view.lattice @ deformation @ turn


class Scripted(FakeNetwork):
    """Does to one crystal what a function says: (numbers, positions, lattice) to (positions, lattice)."""

    def __init__(self, script: Callable) -> None:
        super().__init__()
        self.script = script

    def move(self, view):
        return self.script(view.numbers, view.positions, view.lattice)


class SmallMemory(Contraction):
    """Runs out of CUDA memory above a number of atoms."""

    def __init__(self, max_atoms: int) -> None:
        super().__init__()
        self.max_atoms = max_atoms

    def forward(self, batch: CrystalBatch) -> list[Layer]:
        if len(batch.numbers) > self.max_atoms:
            self.batch_sizes.append(-batch.n_graphs)
            raise torch.cuda.OutOfMemoryError("CUDA out of memory")
        return super().forward(batch)


class Allergic(Contraction):
    """Fails on a batch that holds one element."""

    def __init__(self, number: int) -> None:
        super().__init__()
        self.number = number

    def forward(self, batch: CrystalBatch) -> list[Layer]:
        if (batch.numbers == self.number).any():
            raise ValueError(f"cannot stand {self.number}")
        return super().forward(batch)
