"""The authors' E3Relax-H2 (arXiv 2603.23941) as they released it, for their checkpoints.

It predicts what their code predicts, its faults included: writing an atom in another periodic image, relabelling the
lattice vectors or, as long as `as_released` is set, rotating the crystal changes the prediction. `E3RelaxH2` is the
network without these faults.
"""

from __future__ import annotations

from typing import ClassVar, NamedTuple, cast

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from e3relax_flows.core.errors import StructureError
from e3relax_flows.graphs.batching import Crystal, CrystalBatch
from e3relax_flows.graphs.neighbors import Neighbors, find_neighbors
from e3relax_flows.model.interface import Layer, NetworkConfig, RelaxationNetwork
from e3relax_flows.model.released_layers import (
    DIVISION_GUARD,
    AxisBlock,
    NeighborMessage,
    Perceptron,
    SelfInteraction,
    average_groups,
    expand_radially,
    measure_lengths,
)

SELF_IMAGES = np.array([[0, 0, 1], [0, 1, 0], [1, 0, 0], [0, 1, 1], [1, 0, 1], [1, 1, 0]], dtype=np.int64)
DISTANCE_DIGITS = 6

N_AXES = 3


class ReleasedConfig(NetworkConfig):
    """Sizes of the released network; the defaults are those of the published checkpoints."""

    n_channels: int = Field(512, ge=2, multiple_of=2)
    n_layers: int = Field(4, ge=1)
    n_radial: int = Field(128, ge=2)
    n_elements: int = Field(118, ge=2, description="atomic numbers below this are known")
    radial_cutoff: float = Field(30.0, gt=0, description="Å; where the envelope of the radial basis ends")
    cutoff: float = Field(6.0, gt=0, description="Å; neighbours of the initial crystal within it")
    max_neighbors: int = Field(50, ge=1, description="the nearest of these are edges")
    as_released: bool = Field(True, description="add the transposed lattice update; False: the equivariant one")


class AtomState(NamedTuple):
    """Features of the atoms."""

    scalars: Tensor  # [N, H]
    vectors: Tensor  # [N, 3, H]


class AxisState(NamedTuple):
    """Features of the three lattice axes."""

    scalars: Tensor  # [G, 3 axes, H]
    vectors: Tensor  # [G, 3 axes, 3, H]


class ReleasedLayer(nn.Module):
    """One round: lattice to atoms, atoms to atoms, positions, atoms to lattice, lattice."""

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__()
        self.config = config
        n_channels, n_radial = config.n_channels, config.n_radial
        self.place = Perceptron(2 * n_radial, n_radial, n_radial, nn.SiLU())
        self.axes = nn.ModuleList(AxisBlock(n_channels, n_radial) for _ in range(N_AXES))
        self.mix_scalars = nn.Linear(N_AXES, N_AXES)
        self.mix_vectors = nn.Linear(N_AXES, N_AXES, bias=False)
        self.message = NeighborMessage(n_channels, n_radial)
        self.interaction = SelfInteraction(n_channels)
        self.step = nn.Linear(n_channels, 1, bias=False)
        self.step_scale = nn.Parameter(torch.ones(()))

    @property
    def axis_blocks(self) -> list[AxisBlock]:
        """The blocks of a, b and c."""
        return [cast(AxisBlock, block) for block in self.axes]

    def forward(
        self, batch: CrystalBatch, layer: Layer, atoms: AtomState, axes: AxisState
    ) -> tuple[Layer, AtomState, AxisState]:
        """Crystals and states after this layer."""
        dtype = atoms.scalars.dtype
        atoms, axes = self._lattice_to_atoms(batch, layer, atoms, axes)
        directions, lengths = measure_edges(batch, layer)
        radial = expand_radially(lengths.to(dtype), self.config.radial_cutoff, self.config.n_radial)
        edges = (batch.centers, batch.neighbors)
        atoms = AtomState(*self.message(*atoms, directions.to(dtype), radial, edges))
        atoms = AtomState(*self.interaction(*atoms))
        steps = self.step_scale * self.step(atoms.vectors).squeeze(-1)
        axes = self._atoms_to_lattice(batch, atoms, axes)
        changes = torch.stack(
            [block.change(axes.vectors[:, k]).squeeze(-1) for k, block in enumerate(self.axis_blocks)], 1
        )
        if self.config.as_released:
            changes = changes.mT  # a fault of the released code: the changes of the vectors become columns
        layer = Layer(layer.positions + steps.to(torch.float64), layer.lattices + changes.to(torch.float64))
        return layer, atoms, axes

    def _lattice_to_atoms(
        self, batch: CrystalBatch, layer: Layer, atoms: AtomState, axes: AxisState
    ) -> tuple[AtomState, AxisState]:
        dtype, graph = atoms.scalars.dtype, batch.graph_of_atom
        along, across, directions = measure_places(batch, layer)
        basis = [expand_radially(x.to(dtype), self.config.radial_cutoff, self.config.n_radial) for x in (along, across)]
        features = self.place(torch.cat(basis, dim=-1))
        directions = directions.to(dtype)
        for k, block in enumerate(self.axis_blocks):
            axis = (axes.scalars[graph, k], axes.vectors[graph, k])
            atoms = AtomState(*block.inform_atoms(*atoms, features[:, k], directions[:, k], axis))
        return atoms, self._mix(axes)

    def _atoms_to_lattice(self, batch: CrystalBatch, atoms: AtomState, axes: AxisState) -> AxisState:
        means = [average_groups(x, batch.graph_of_atom, batch.n_atoms) for x in atoms]
        states = [
            block.listen_to_atoms(axes.scalars[:, k], axes.vectors[:, k], *means)
            for k, block in enumerate(self.axis_blocks)
        ]
        scalars, vectors = zip(*states, strict=True)
        return self._mix(AxisState(torch.stack(scalars, 1), torch.stack(vectors, 1)))

    def _mix(self, axes: AxisState) -> AxisState:
        """Mix the axes with each other."""
        return AxisState(
            self.mix_scalars(axes.scalars.movedim(1, -1)).movedim(-1, 1),
            self.mix_vectors(axes.vectors.movedim(1, -1)).movedim(-1, 1),
        )


def measure_edges(batch: CrystalBatch, layer: Layer) -> tuple[Tensor, Tensor]:
    """Directions [E, 3], from the neighbour to the centre, and lengths [E], Å, of the edges in the moved crystals."""
    lattices = layer.lattices[batch.graph_of_atom[batch.centers]]
    images = torch.einsum("en,enc->ec", batch.offsets, lattices)
    vectors = layer.positions[batch.neighbors] + images - layer.positions[batch.centers]
    lengths = measure_lengths(vectors)
    return -vectors / (lengths + DIVISION_GUARD).unsqueeze(-1), lengths


def measure_places(batch: CrystalBatch, layer: Layer) -> tuple[Tensor, Tensor, Tensor]:
    """Positions of the atoms along and across each axis.

    Returns
    -------
    along, across
        [N, 3 axes] Å, from the mean of the graph's positions as given.
    directions
        [N, 3 axes, 3] unit vectors from the end of the axis to the atom.
    """
    centroids = average_groups(layer.positions, batch.graph_of_atom, batch.n_atoms)
    places = (layer.positions - centroids[batch.graph_of_atom]).unsqueeze(1)
    axes = layer.lattices[batch.graph_of_atom]
    lengths = measure_lengths(axes) + DIVISION_GUARD
    along = (places * axes).sum(-1) / lengths
    across = measure_lengths(torch.linalg.cross(places.expand_as(axes), axes)) / lengths
    ends = axes - places
    return along, across, -ends / (measure_lengths(ends) + DIVISION_GUARD).unsqueeze(-1)


class ReleasedE3RelaxH2(RelaxationNetwork):
    """The authors' network.

    Lattice axes are nodes that exchange messages with all atoms of their crystal; atoms exchange messages along a
    list of edges that stays as it was found in the initial crystal, while distances follow the moved atoms.
    """

    kind: ClassVar[str] = "released"
    config_class: ClassVar[type[NetworkConfig]] = ReleasedConfig
    keeps_symmetry: ClassVar[bool] = False

    config: ReleasedConfig

    def __init__(self, config: ReleasedConfig) -> None:
        super().__init__(config)
        self.atom_embedding = nn.Embedding(config.n_elements, config.n_channels)
        nn.init.uniform_(self.atom_embedding.weight, -(3**0.5), 3**0.5)
        self.axis_embedding = nn.Embedding(N_AXES, config.n_channels)
        self.layers = nn.ModuleList(ReleasedLayer(config) for _ in range(config.n_layers))

    def build_crystal(
        self, numbers: NDArray[np.int64], positions: NDArray[np.float64], lattice: NDArray[np.float64]
    ) -> Crystal:
        """Find the edges as the released code does; see `find_released_neighbors`.

        Raises
        ------
        StructureError
            When an atomic number is not among those that the weights have an entry for.
        """
        unknown = sorted({int(number) for number in numbers if not 0 < number < self.config.n_elements})
        if unknown:
            raise StructureError(
                "unknown_element",
                f"atomic number {', '.join(map(str, unknown))}: the released network knows 1 to "
                f"{self.config.n_elements - 1}; take a model that knows all elements, e.g. model='default'",
            )
        edges = find_released_neighbors(positions, lattice, self.config.cutoff, self.config.max_neighbors)
        return Crystal(numbers, positions, lattice, edges, self.config.cutoff)

    def forward(self, batch: CrystalBatch) -> list[Layer]:
        """Crystals after every layer; the last one is the prediction."""
        scalars = self.atom_embedding(batch.numbers)
        atoms = AtomState(scalars, scalars.new_zeros(len(scalars), 3, self.config.n_channels))
        axis_scalars = self.axis_embedding.weight.expand(batch.n_graphs, -1, -1)
        axes = AxisState(axis_scalars, scalars.new_zeros(batch.n_graphs, N_AXES, 3, self.config.n_channels))
        layer = Layer(batch.positions, batch.lattices)
        layers = []
        for block in self.layers:
            layer, atoms, axes = block(batch, layer, atoms, axes)
            layers.append(layer)
        return layers


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
