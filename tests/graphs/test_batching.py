"""Packing crystals into batches."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from e3relax_flows.graphs.batching import Crystal, pack_crystals, plan_batches
from e3relax_flows.graphs.neighbors import find_neighbors


def make_crystal(seed: int, n_atoms: int, cutoff: float = 4.0) -> Crystal:
    rng = np.random.default_rng(seed)
    lattice = np.diag(rng.uniform(3, 5, 3)) + rng.normal(0, 0.3, (3, 3))
    positions = rng.uniform(0, 1, (n_atoms, 3)) @ lattice
    numbers = rng.integers(1, 119, n_atoms)
    return Crystal(numbers, positions, lattice, find_neighbors(positions, lattice, cutoff), cutoff)


def test_packing_keeps_every_distance_in_its_own_crystal() -> None:
    crystals = [make_crystal(1, 2), make_crystal(2, 5, 3.0), make_crystal(3, 1, 6.0)]
    batch = pack_crystals(crystals)
    assert batch.n_graphs == 3
    assert batch.n_atoms.tolist() == [2, 5, 1]
    assert batch.graph_of_atom.tolist() == [0, 0, 1, 1, 1, 1, 1, 2]
    assert batch.cutoffs.tolist() == [4.0, 3.0, 6.0]
    assert {batch.positions.dtype, batch.lattices.dtype, batch.offsets.dtype} == {torch.float64}
    assert {batch.numbers.dtype, batch.centers.dtype, batch.neighbors.dtype} == {torch.int64}
    graphs = batch.graph_of_atom[batch.centers]
    assert torch.equal(graphs, batch.graph_of_atom[batch.neighbors])
    images = torch.einsum("ei,eij->ej", batch.offsets, batch.lattices[graphs])
    lengths = (batch.positions[batch.neighbors] + images - batch.positions[batch.centers]).norm(dim=1).numpy()
    expected = []
    for crystal in crystals:
        edges = crystal.edges
        vectors = crystal.positions[edges.neighbors] + edges.offsets @ crystal.lattice
        expected.append(np.linalg.norm(vectors - crystal.positions[edges.centers], axis=1))
    assert lengths == pytest.approx(np.concatenate(expected), abs=1e-12)
    assert np.array_equal(batch.numbers, np.concatenate([crystal.numbers for crystal in crystals]))


def test_a_batch_is_a_copy_of_its_crystals() -> None:
    crystal = make_crystal(4, 3)
    before = crystal.positions.copy()
    pack_crystals([crystal]).positions.add_(1.0)
    assert np.array_equal(crystal.positions, before)


def test_moving_a_batch_moves_everything() -> None:
    batch = pack_crystals([make_crystal(5, 2)]).to("meta")
    assert {getattr(batch, name).device.type for name in vars(batch)} == {"meta"}


sizes = st.lists(st.tuples(st.integers(1, 60), st.integers(0, 900)), max_size=40)


@given(sizes, st.integers(1, 100), st.integers(1, 1500))
def test_plans_cover_everything_once_in_order_within_the_limits(
    crystals: list[tuple[int, int]], max_atoms: int, max_edges: int
) -> None:
    batches = list(plan_batches(crystals, max_atoms, max_edges))
    assert [index for batch in batches for index in batch] == list(range(len(crystals)))
    totals = [tuple(map(sum, zip(*(crystals[i] for i in batch), strict=True))) for batch in batches]
    for batch, (atoms, edges) in zip(batches, totals, strict=True):
        assert len(batch) == 1 or (atoms <= max_atoms and edges <= max_edges)
    for here, (atoms, edges), following in zip(batches, totals, batches[1:], strict=False):
        more_atoms, more_edges = crystals[following[0]]
        # no batch ends although the next crystal would have fitted
        assert here
        assert atoms + more_atoms > max_atoms or edges + more_edges > max_edges


def test_a_plan_by_hand() -> None:
    assert list(plan_batches([(4, 10), (4, 10), (4, 10), (20, 10), (1, 90), (1, 10)], 10, 100)) == [
        [0, 1],
        [2],
        [3],
        [4, 5],
    ]
    assert list(plan_batches([], 10, 100)) == []
