"""E3RelaxH2, the default network: atoms and lattice as coupled nodes, one pass from initial to relaxed.

The ideas are those of arXiv 2603.23941 (messages between atoms and lattice both ways, high-degree high-order
messages, refinement layer by layer) in a form that has no preferred axis, cell or image:

* edges are all images within a smooth cutoff c·(V/N)^(1/3), both directions, no cap on their number;
* messages are gated by contractions of neighbour densities with the spherical harmonics of the edge;
* the lattice node holds scalars and symmetric tensors, fed by means over atoms and edges;
* the lattice is the initial one times exp(ε), ε a symmetric strain that the layers add to, so that no layer
  rotates the crystal; displacements come from edge directions and lose their mean.
"""

from __future__ import annotations

from typing import ClassVar

import numpy as np
import torch
from e3nn import o3
from numpy.typing import NDArray
from pydantic import Field
from torch import Tensor, nn

from e3relax_flows.core.errors import ModelError, StructureError
from e3relax_flows.graphs.batching import Crystal, CrystalBatch
from e3relax_flows.graphs.neighbors import find_neighbors
from e3relax_flows.model.blocks import (
    AtomUpdate,
    BlockSizes,
    DensityInvariants,
    EdgeMessages,
    ErrorHead,
    GaussianBasis,
    LatticeUpdate,
    State,
    exponentiate,
)
from e3relax_flows.model.edges import EdgeGeometry, EdgeTable, arrange_edges, drop_noise, gather, sum_by, switch_off
from e3relax_flows.model.elements import MAX_Z, describe_elements
from e3relax_flows.model.interface import Layer, NetworkConfig, RelaxationNetwork


class E3RelaxH2Config(NetworkConfig):
    """Sizes of the network; stored beside the weights."""

    n_layers: int = Field(3, ge=1)
    n_scalars: int = Field(64, ge=1, description="scalar channels of atoms and of the lattice node")
    n_vectors: int = Field(24, ge=1, description="vector channels of atoms")
    n_tensors: int = Field(8, ge=1, description="symmetric tensor channels of the lattice node")
    n_densities: int = Field(12, ge=1, description="channels of the neighbour densities")
    n_hidden: int = Field(64, ge=1, description="hidden channels of the edges")
    n_radial: int = Field(16, ge=2, description="radial functions, once in Å and once in sums of covalent radii")
    l_max: int = Field(3, ge=0, description="highest degree of the spherical harmonics")
    cutoff_factor: float = Field(2.1, gt=0, description="cutoff over the cube root of the volume per atom")
    max_cutoff: float = Field(6.0, gt=0, description="Å")
    mean_neighbors: float = Field(16.0, gt=0, description="typical sum of edge weights, to normalise sums")


class E3RelaxH2(RelaxationNetwork):
    """The network; equivariant under everything that leaves the crystal the same crystal."""

    kind: ClassVar[str] = "e3relax_h2"
    config_class: ClassVar[type[NetworkConfig]] = E3RelaxH2Config
    keeps_symmetry: ClassVar[bool] = True
    config: E3RelaxH2Config
    element_features: Tensor
    signs: Tensor

    def __init__(self, config: E3RelaxH2Config | None = None) -> None:
        config = config or E3RelaxH2Config()
        super().__init__(config)
        table = torch.tensor(describe_elements(), dtype=torch.get_default_dtype())
        self.register_buffer("element_features", table, persistent=False)
        self.log_radii = nn.Parameter(torch.log(table[:, -2].clamp(min=0.3)))
        self.embedding = nn.Embedding(MAX_Z + 1, config.n_scalars)
        nn.init.normal_(self.embedding.weight, std=0.1)
        self.describe = nn.Linear(table.shape[1], config.n_scalars)
        self.lattice_start = nn.Parameter(torch.zeros(config.n_scalars))
        self.radial = GaussianBasis(0.5, config.max_cutoff, config.n_radial)
        self.radial_scaled = GaussianBasis(0.4, 2.8, config.n_radial)
        l_max = max(config.l_max, 2)
        self.harmonics = o3.SphericalHarmonics(list(range(l_max + 1)), normalize=False, normalization="component")
        signs = [(-1.0) ** degree for degree in range(l_max + 1) for _ in range(2 * degree + 1)]
        self.register_buffer("signs", torch.tensor(signs), persistent=False)
        self.layers = nn.ModuleList(RefinementLayer(config) for _ in range(config.n_layers))
        self.errors = ErrorHead(list_sizes(config))

    def build_crystal(
        self, numbers: NDArray[np.int64], positions: NDArray[np.float64], lattice: NDArray[np.float64]
    ) -> Crystal:
        """Edges within c·(V/N)^(1/3), at most `max_cutoff`: as many neighbours at any density."""
        if numbers.min() < 1 or numbers.max() > MAX_Z:
            raise StructureError(
                "unknown_element", f"atomic numbers {sorted(set(numbers.tolist()))}: only 1 to {MAX_Z} are elements"
            )
        spacing = float((abs(np.linalg.det(lattice)) / len(numbers)) ** (1 / 3))
        cutoff = min(self.config.cutoff_factor * spacing, self.config.max_cutoff)
        return Crystal(numbers, positions, lattice, find_neighbors(positions, lattice, cutoff), cutoff)

    def forward(self, batch: CrystalBatch) -> list[Layer]:
        """Positions and lattices after every layer; the last is the prediction."""
        if batch.reverse is None:
            raise ModelError(
                f"the batch of {len(batch.numbers)} atoms has no reverse edges; build its crystals with this network's "
                "build_crystal"
            )
        state = self._start(batch)
        table, half = arrange_edges(batch.centers, batch.neighbors, batch.reverse, len(batch.numbers))
        n_half = len(half)
        graphs = gather(batch.graph_of_atom, table.centers[:n_half])
        images = (batch.offsets[half][:, :, None] * gather(batch.lattices, graphs)).sum(dim=1)
        radii = gather(torch.exp(self.log_radii), batch.numbers)
        radii = gather(radii, table.centers[:n_half]) + gather(radii, table.neighbors[:n_half])
        strain = batch.lattices.new_zeros((batch.n_graphs, 3, 3))
        deformation = None
        positions = batch.positions
        layers, weights = [], None
        for layer in self.layers:
            vectors = gather(positions, table.neighbors[:n_half]) - gather(positions, table.centers[:n_half]) + images
            if deformation is not None:
                vectors = (vectors[:, None, :] @ gather(deformation, graphs)).squeeze(1)
            if weights is None:
                weights = switch_off(vectors.norm(dim=1) / gather(batch.cutoffs, graphs))
            state, shift, more_strain = layer(state, self._edge_geometry(table, vectors, weights, radii), batch)
            strain = strain + more_strain.to(strain.dtype)
            positions = positions + shift.to(positions.dtype)
            deformation = exponentiate(strain)
            deformed = (positions[:, None, :] @ gather(deformation, batch.graph_of_atom)).squeeze(1)
            layers.append(Layer(deformed, batch.lattices @ deformation))
        moved = positions - batch.positions
        expected = self._expect_errors(batch, state, moved, strain, shift, more_strain)
        counts = batch.n_atoms.to(state.scalars.dtype)[:, None]
        embedding = sum_by(state.scalars, batch.graph_of_atom, batch.n_graphs) / counts
        layers[-1] = layers[-1]._replace(expected=expected, embedding=embedding)
        return layers

    def _expect_errors(self, batch: CrystalBatch, state: State, *moves: Tensor) -> Tensor:
        """Logarithms [G, 4]; `moves` are displacements [N, 3] and strains [G, 3, 3] of all layers and of the last."""
        counts = batch.n_atoms.to(state.scalars.dtype)[:, None]
        sizes = []
        for move in moves:
            lengths = move.flatten(1).norm(dim=1, keepdim=True).to(counts.dtype)
            if move.ndim == 2:
                lengths = sum_by(lengths, batch.graph_of_atom, batch.n_graphs) / counts
            sizes.append(lengths)
        return self.errors(state, torch.cat(sizes, dim=1), batch.graph_of_atom, counts)

    def _start(self, batch: CrystalBatch) -> State:
        scalars = self.embedding(batch.numbers) + self.describe(self.element_features[batch.numbers])
        return State(
            scalars,
            None,
            self.lattice_start.expand(batch.n_graphs, -1),
            scalars.new_zeros((batch.n_graphs, self.config.n_tensors, 9)),
        )

    def _edge_geometry(self, table: EdgeTable, vectors: Tensor, weights: Tensor, radii: Tensor) -> EdgeGeometry:
        """Features of edges [H, 3], Å, with their smooth cutoff [H] and sums of radii [H], Å."""
        vectors = vectors.to(self.log_radii.dtype)
        lengths = torch.sqrt(vectors.square().sum(dim=1) + 1e-6)
        harmonics = self.harmonics(drop_noise(vectors / lengths[:, None]))
        harmonics = torch.cat([harmonics, harmonics * self.signs.to(harmonics.dtype)])
        radial = torch.cat([self.radial(lengths), self.radial_scaled(lengths / radii)], dim=1)
        weights = weights.to(radial.dtype)[:, None]
        return EdgeGeometry(table, radial, torch.cat([radial * weights, weights], dim=1), table.spread(harmonics))


def list_sizes(config: E3RelaxH2Config) -> BlockSizes:
    """Numbers of channels that the blocks share."""
    return BlockSizes(config.n_scalars, config.n_vectors, config.n_tensors, config.n_hidden, 2 * config.n_radial)


class RefinementLayer(nn.Module):
    """One refinement: atoms to atoms, lattice to atoms, atoms to lattice, then new positions and lattice."""

    def __init__(self, config: E3RelaxH2Config) -> None:
        super().__init__()
        self.scale = 1.0 / config.mean_neighbors
        sizes = list_sizes(config)
        self.norm = nn.LayerNorm(config.n_scalars)
        self.invariants = DensityInvariants(
            config.n_scalars, sizes.radial, config.n_densities, config.l_max, config.mean_neighbors**-0.5
        )
        self.messages = EdgeMessages(sizes, self.invariants.n_edge)
        self.atoms = AtomUpdate(sizes, self.invariants.n_atom)
        self.lattice = LatticeUpdate(sizes)
        self.move = nn.Linear(config.n_vectors, 1, bias=False)
        self.pull = nn.Parameter(torch.zeros(1))
        nn.init.zeros_(self.move.weight)

    def forward(self, state: State, edges: EdgeGeometry, batch: CrystalBatch) -> tuple[State, Tensor, Tensor]:
        """New state, displacements [N, 3] Å without drift, and symmetric strain [G, 3, 3]."""
        graphs = batch.graph_of_atom
        counts = batch.n_atoms.to(state.scalars.dtype)[:, None]
        normed = state._replace(scalars=self.norm(state.scalars))
        density, of_atoms, counted = self.invariants(normed.scalars, edges)
        views = density.permute(2, 0, 1) @ self.invariants.turn_weights(self.messages.of_invariants)
        totals, passed_on = self.messages(edges, self.messages.see(normed, views, graphs), state.vectors)
        found = self.messages.read(totals, counted, graphs, batch.n_graphs)
        vectors = (found.vectors if passed_on is None else found.vectors + passed_on) * self.scale**0.5
        if state.vectors is not None:
            vectors = vectors + state.vectors
        scalars = torch.add(state.scalars, found.scalars, alpha=self.scale**0.5)
        scalars, vectors = self.atoms(scalars, vectors, of_atoms, gather(state.lattice_scalars, graphs))
        mean_scalars = sum_by(scalars, graphs, batch.n_graphs) / counts
        tensors = found.tensors * self.scale / counts[:, :, None]
        lattice_scalars, tensors, strain = self.lattice(state, mean_scalars, tensors)
        shift = found.shifts * self.pull * self.scale + self.move(vectors).squeeze(2)
        shift = shift - gather(sum_by(shift, graphs, batch.n_graphs) / counts, graphs)
        return State(scalars, vectors, lattice_scalars, tensors), shift, strain
