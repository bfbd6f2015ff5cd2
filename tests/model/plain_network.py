"""The default network written edge by edge, from its definition: slow, and without any exchange of sums."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.nn.functional import silu

from e3relax_flows.graphs.batching import CrystalBatch
from e3relax_flows.model.blocks import State, exponentiate
from e3relax_flows.model.edges import switch_off
from e3relax_flows.model.network import E3RelaxH2, RefinementLayer


def apply_plainly(network: E3RelaxH2, batch: CrystalBatch) -> tuple[Tensor, Tensor, Tensor]:
    """Last positions and lattices of a batch, and the scalars of its atoms."""
    config, graphs = network.config, batch.graph_of_atom
    scalars = network.embedding(batch.numbers) + network.describe(network.element_features[batch.numbers])
    state = State(
        scalars,
        scalars.new_zeros((len(scalars), 3, config.n_vectors)),
        network.lattice_start.expand(batch.n_graphs, -1),
        scalars.new_zeros((batch.n_graphs, config.n_tensors, 9)),
    )
    positions, strain = batch.positions, batch.lattices.new_zeros((batch.n_graphs, 3, 3))
    weights = None
    for layer in network.layers:
        images = (batch.offsets[:, :, None] * batch.lattices[graphs[batch.centers]]).sum(dim=1)
        vectors = positions[batch.neighbors] - positions[batch.centers] + images
        vectors = (vectors[:, :, None] * exponentiate(strain)[graphs[batch.centers]]).sum(dim=1)
        if weights is None:
            weights = switch_off(vectors.norm(dim=1) / batch.cutoffs[graphs[batch.centers]])
        state, shift, more = _refine(network, layer, state, batch, vectors.to(scalars.dtype), weights.to(scalars.dtype))
        positions, strain = positions + shift, strain + more
    deformation = exponentiate(strain)
    return (
        (positions[:, :, None] * deformation[graphs]).sum(dim=1),
        batch.lattices @ deformation,
        state.scalars,
    )


def _refine(
    network: E3RelaxH2, layer: RefinementLayer, state: State, batch: CrystalBatch, vectors: Tensor, weights: Tensor
) -> tuple[State, Tensor, Tensor]:
    """One layer: new state, displacements and strain."""
    graphs, centers, neighbors = batch.graph_of_atom, batch.centers, batch.neighbors
    n, n_vectors, n_tensors = len(graphs), network.config.n_vectors, network.config.n_tensors
    counts = batch.n_atoms.to(vectors.dtype)[:, None]

    def per_atom(values: Tensor) -> Tensor:
        return values.new_zeros((n, *values.shape[1:])).index_add(0, centers, values)

    def per_crystal(values: Tensor) -> Tensor:
        return values.new_zeros((batch.n_graphs, *values.shape[1:])).index_add(0, graphs, values)

    lengths = torch.sqrt(vectors.square().sum(dim=1) + 1e-6)
    u = vectors / lengths[:, None]
    radii = torch.exp(network.log_radii)[batch.numbers]
    scaled = lengths / (radii[centers] + radii[neighbors])
    radial = torch.cat([network.radial(lengths), network.radial_scaled(scaled)], dim=1)
    outer = (u[:, :, None] * u[:, None, :]).flatten(1)
    trace = u.square().sum(dim=1, keepdim=True) * torch.eye(3, dtype=u.dtype).flatten()
    shapes = torch.cat([outer - trace / 3, u], dim=1)
    harmonics, normed = network.harmonics(u), layer.norm(state.scalars)

    parts = layer.invariants
    harmonics = harmonics[:, : len(parts.sums)]
    densities = parts.from_radial(radial) * parts.from_atom(normed)[neighbors] * weights[:, None]
    density = per_atom(densities[:, :, None] * harmonics[:, None, :]) * parts.scale
    of_center = ((density[centers] * harmonics[:, None, :]) @ parts.sums.to(u.dtype)).flatten(1)
    of_neighbor = of_center[batch.reverse] * parts.parity.to(u.dtype).repeat(density.shape[1])
    seen = (state.lattice_tensors[graphs[centers]] * shapes[:, None, :9]).sum(dim=2)

    messages = layer.messages
    hidden = messages.of_edge(torch.cat([radial, of_center, of_neighbor, seen], dim=1))
    hidden = hidden + messages.of_center(normed)[centers] + messages.of_neighbor(normed)[neighbors]
    found = messages.out(silu(hidden) * messages.filter(radial)) * weights[:, None]
    add, gate, push, stretch, pull = found.split([normed.shape[1], n_vectors, n_vectors, n_tensors, 1], dim=1)
    passed = gate[:, None, :] * state.vectors[neighbors] + push[:, None, :] * u[:, :, None]
    vectors_new = state.vectors + per_atom(passed) * layer.scale**0.5
    scalars = state.scalars + per_atom(add) * layer.scale**0.5
    power = (density.square() @ parts.sums.to(u.dtype)).flatten(1)
    scalars, vectors_new = layer.atoms(scalars, vectors_new, power, state.lattice_scalars[graphs])
    tensors = per_crystal(per_atom(stretch[:, :, None] * shapes[:, None, :9])) * layer.scale / counts[:, :, None]
    lattice_scalars, tensors, strain = layer.lattice(state, per_crystal(scalars) / counts, tensors)
    shift = per_atom(pull * u) * layer.pull * layer.scale + layer.move(vectors_new).squeeze(2)
    shift = shift - (per_crystal(shift) / counts)[graphs]
    return State(scalars, vectors_new, lattice_scalars, tensors), shift, strain
