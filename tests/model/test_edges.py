"""Sums over edges against loops, with and without gradients; harmonics as tensors; no numbers that slow a CPU."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from e3nn import o3
from plain_network import apply_plainly
from test_network import make_crystal, make_network

from e3relax_flows.graphs.batching import CrystalBatch, pack_crystals
from e3relax_flows.model.edges import DEGREES, NOISE, EdgeTable, arrange_edges, drop_noise, list_shapes
from e3relax_flows.model.network import E3RelaxH2, E3RelaxH2Config

EXACT = 1e-12
ROUNDING = 1e-10  # Å, of a whole network in double precision


def pack(network: E3RelaxH2, sizes: tuple[int, ...]) -> CrystalBatch:
    crystals = [make_crystal(seed, n) for seed, n in enumerate(sizes)]
    return pack_crystals([network.build_crystal(c.numbers, c.fractions @ c.lattice, c.lattice) for c in crystals])


def build_table() -> tuple[EdgeTable, torch.Tensor, CrystalBatch]:
    batch = pack(make_network(), (1, 4, 7))
    assert batch.reverse is not None
    return *arrange_edges(batch.centers, batch.neighbors, batch.reverse, len(batch.numbers)), batch


@pytest.mark.parametrize("with_gradients", [False, True])
def test_spread_and_join_follow_each_edge(with_gradients: bool) -> None:
    (table, half, batch), n = build_table(), 3
    assert batch.reverse is not None
    edges = torch.cat([half, batch.reverse[half]])
    assert sorted(edges.tolist()) == list(range(len(batch.centers)))
    assert torch.equal(table.centers, batch.centers[edges])
    assert torch.equal(table.neighbors, batch.neighbors[edges])
    torch.manual_seed(0)
    values = torch.randn(len(edges), n, dtype=torch.float64)
    wide = torch.randn(*table.shape, 2 * n, dtype=torch.float64)
    with torch.set_grad_enabled(with_gradients):
        spread, joined = table.spread(values), table.join(wide)
    slots = {
        edge: divmod(place, table.shape[1]) for edge, place in zip(edges.tolist(), table.places.tolist(), strict=True)
    }
    filled = torch.zeros(table.shape, dtype=torch.bool)
    for row, edge in enumerate(edges.tolist()):
        slot, other = slots[edge], slots[int(batch.reverse[edge])]
        assert slot[0] == batch.centers[edge]
        assert torch.equal(spread[slot], values[row])
        torch.testing.assert_close(joined[row], wide[slot][:n] + wide[other][n:], rtol=0, atol=EXACT)
        filled[slot] = True
    assert (spread[~filled] == 0).all()
    assert not filled.all()


def test_harmonics_of_degree_two_are_the_tensor_of_a_direction() -> None:
    torch.manual_seed(1)
    u = torch.randn(20, 3, dtype=torch.float64)
    harmonics = o3.spherical_harmonics([0, 1, 2], u, normalize=False, normalization="component")
    trace = u.square().sum(dim=1)[:, None, None] * torch.eye(3, dtype=u.dtype) / 3
    tensors = (harmonics[:, DEGREES[2]] @ list_shapes()).unflatten(1, (3, 3))
    torch.testing.assert_close(tensors, u[:, :, None] * u[:, None, :] - trace, rtol=0, atol=EXACT)
    torch.testing.assert_close(harmonics[:, DEGREES[1]], 3**0.5 * u, rtol=0, atol=EXACT)


@pytest.mark.parametrize("l_max", [0, 1, 2, 4])
@pytest.mark.parametrize("sizes", [(1, 2, 5), (3,)])
def test_all_degrees_give_what_the_definition_gives_without_gradients(l_max: int, sizes: tuple[int, ...]) -> None:
    torch.manual_seed(l_max)
    config = E3RelaxH2Config(n_scalars=8, n_hidden=12, n_vectors=4, n_densities=5, l_max=l_max)
    network = E3RelaxH2(config).double().eval()
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    batch = pack(network, sizes)
    with torch.inference_mode():
        last = network(batch)[-1]
    with_gradients = network(batch)[-1]
    positions, lattices, _ = apply_plainly(network, batch)
    assert (positions - batch.positions).abs().max() > 0.01
    for found in (last, with_gradients):
        torch.testing.assert_close(found.positions, positions, rtol=0, atol=ROUNDING)
        torch.testing.assert_close(found.lattices, lattices, rtol=0, atol=ROUNDING)


def test_noise_of_directions_is_dropped_and_their_gradient_is_not() -> None:
    directions = torch.tensor([[1.0, NOISE / 2, -0.5], [-NOISE / 3, 2 * NOISE, 0.0]], requires_grad=True)
    kept = drop_noise(directions)
    expected = [[1.0, 0.0, -0.5], [0.0, 2 * NOISE, 0.0]]
    assert torch.equal(kept, torch.tensor(expected))
    assert torch.equal(drop_noise(directions.detach()), torch.tensor(expected))
    kept.sum().backward()
    assert torch.equal(directions.grad, torch.ones(2, 3))  # type: ignore[arg-type]


def test_edges_of_a_symmetric_crystal_hold_no_subnormal_numbers(monkeypatch: pytest.MonkeyPatch) -> None:
    network = E3RelaxH2().eval()
    lattice = np.diag([4.2, 4.2, 8.4])
    turn = np.linalg.qr(np.random.default_rng(0).normal(size=(3, 3)))[0]
    positions = np.array([[0, 0, 0], [0.5, 0.5, 0.25], [0, 0, 0.5], [0.5, 0.5, 0.75]]) @ lattice @ turn @ turn.T
    batch = pack_crystals([network.build_crystal(np.array([11, 17, 11, 17]), positions, lattice)])
    seen = []
    forward = type(network.layers[0]).forward

    def watch(layer, state, edges, batch):  # type: ignore[no-untyped-def]
        seen.extend([edges.radial, edges.faded, edges.harmonics])
        return forward(layer, state, edges, batch)

    monkeypatch.setattr(type(network.layers[0]), "forward", watch)
    with torch.inference_mode():
        network(batch)
    assert len(seen) == 9
    for values in seen:
        assert not ((values != 0) & (values.abs() < torch.finfo(torch.float32).tiny)).any()
