"""Equivariance test: other descriptions of the same crystal, and the difference of their predictions.

A tool for tests of networks: `describe_otherwise` lists the descriptions, `measure_disagreement` gives the
difference of a network's predictions for two of them.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from e3relax_flows.graphs.batching import pack_crystals
from e3relax_flows.model.interface import RelaxationNetwork

Array = NDArray[np.float64]


class Description(NamedTuple):
    """A way to write a crystal: numbers [n], fractional coordinates [n, 3], lattice [3, 3] Å."""

    numbers: NDArray[np.int64]
    fractions: Array
    lattice: Array


class Retelling(NamedTuple):
    """Another description, and how to go back: original = (fractions[atoms] - shift) · cell, turned back by `turn`."""

    name: str
    description: Description
    atoms: NDArray[np.int64]  # [n] where the original atoms are
    shift: Array  # [n, 3] added to the fractional coordinates, in the new cell
    cell: Array  # [3, 3] integers: new lattice = cell · lattice
    turn: Array  # [3, 3] orthogonal: new Cartesian = old · turn


def describe_otherwise(crystal: Description, seed: int = 0) -> list[Retelling]:
    """Rotation, reflection, origin with wrapping, images, axes, cells, supercell, order and handedness."""
    rng = np.random.default_rng(seed)
    n, same = len(crystal.numbers), np.eye(3)
    rotation = np.linalg.qr(rng.normal(size=(3, 3)))[0]
    rotation *= np.sign(np.linalg.det(rotation))
    mirror = rotation @ np.diag([1.0, 1.0, -1.0])
    relabel = np.eye(3)[[2, 0, 1]]
    swap = np.eye(3)[[1, 0, 2]]
    unimodular = np.array([[1.0, 1.0, 0.0], [0.0, 1.0, 0.0], [0.0, -2.0, 1.0]])
    origin = rng.random(3)
    wrapped = (crystal.fractions + origin) % 1.0 - crystal.fractions
    images = rng.integers(-2, 3, size=(n, 3)).astype(float)
    still = np.zeros((n, 3))

    def retell(name: str, shift: Array = still, cell: Array = same, turn: Array = same) -> Retelling:
        fractions = (crystal.fractions + shift) @ np.linalg.inv(cell)
        return Retelling(
            name,
            Description(crystal.numbers, fractions, cell @ crystal.lattice @ turn),
            np.arange(n),
            shift @ np.linalg.inv(cell),
            cell,
            turn,
        )

    order = rng.permutation(n)
    double = np.diag([2.0, 1.0, 1.0])
    fractions = np.concatenate([crystal.fractions, crystal.fractions + np.eye(3)[0]]) @ np.linalg.inv(double)
    return [
        retell("rotation", turn=rotation),
        retell("reflection", turn=mirror),
        retell("origin, wrapped", wrapped),
        retell("images", images),
        retell("relabelled axes", cell=relabel),
        retell("swapped axes (other hand)", cell=swap),
        retell("unimodular cell", cell=unimodular),
        Retelling(
            "2x1x1 supercell",
            Description(np.tile(crystal.numbers, 2), fractions, double @ crystal.lattice),
            np.arange(n), still, double, same,
        ),
        Retelling(
            "atom order",
            Description(crystal.numbers[order], crystal.fractions[order], crystal.lattice),
            np.argsort(order), still, same, same,
        ),
    ]  # fmt: skip


def predict_one(network: RelaxationNetwork, crystal: Description) -> Description:
    """One application of the network."""
    graph = network.build_crystal(crystal.numbers, crystal.fractions @ crystal.lattice, crystal.lattice)
    with torch.inference_mode():
        layer = network(pack_crystals([graph]))[-1]
    lattice = layer.lattices[0].numpy()
    return Description(crystal.numbers, np.linalg.solve(lattice.T, layer.positions.numpy().T).T, lattice)


def measure_disagreement(network: RelaxationNetwork, crystal: Description, retelling: Retelling) -> float:
    """Largest difference, Å, of the two predictions in the original description, over the size of the update."""
    plain, other = predict_one(network, crystal), predict_one(network, retelling.description)
    lattice = np.linalg.solve(retelling.cell, other.lattice) @ retelling.turn.T
    fractions = (other.fractions[retelling.atoms] - retelling.shift) @ retelling.cell
    size = max(
        np.abs(plain.lattice - crystal.lattice).max(),
        np.abs((plain.fractions - crystal.fractions) @ crystal.lattice).max(),
    )
    apart = max(np.abs(plain.lattice - lattice).max(), np.abs((plain.fractions - fractions) @ plain.lattice).max())
    return float(apart / size)
