"""The network's exchanged sums against the same formulas edge by edge: outputs, gradients, and the bundled weights."""

from __future__ import annotations

import numpy as np
import pytest
import torch
from plain_network import apply_plainly
from test_network import make_crystal, make_network

from e3relax_flows import Predictor
from e3relax_flows.graphs.batching import CrystalBatch, pack_crystals
from e3relax_flows.model.network import E3RelaxH2

SINGLE = 1e-5  # Å, single precision


def pack(network: E3RelaxH2, sizes: tuple[int, ...] = (1, 2, 5, 9)) -> CrystalBatch:
    crystals = [make_crystal(seed, n) for seed, n in enumerate(sizes)]
    return pack_crystals([network.build_crystal(c.numbers, c.fractions @ c.lattice, c.lattice) for c in crystals])


def test_outputs_and_gradients_are_those_of_the_definition() -> None:
    found = {}
    for name in ("fast", "plain"):
        network = make_network(seed=3)
        batch = pack(network)
        if name == "fast":
            last = network(batch)[-1]
            positions, lattices = last.positions, last.lattices
        else:
            positions, lattices, _ = apply_plainly(network, batch)
        assert (positions - batch.positions).abs().max() > 0.05
        (positions.square().sum() + lattices.square().sum()).backward()
        gradients = {key: value.grad for key, value in network.named_parameters() if value.grad is not None}
        found[name] = positions, lattices, gradients
    (positions, lattices, gradients), (expected, expected_lattices, expected_gradients) = found.values()
    torch.testing.assert_close(positions, expected, rtol=0, atol=1e-10)
    torch.testing.assert_close(lattices, expected_lattices, rtol=0, atol=1e-10)
    assert gradients.keys() == expected_gradients.keys()
    for key, gradient in gradients.items():
        torch.testing.assert_close(gradient, expected_gradients[key], rtol=1e-7, atol=1e-8, msg=key)


@pytest.mark.parametrize("seed", range(3))
def test_bundled_weights_give_what_the_definition_gives(seed: int) -> None:
    network = Predictor.load(device="cpu").network
    assert isinstance(network, E3RelaxH2)
    rng = np.random.default_rng(seed)
    batch = pack(network, tuple(rng.integers(1, 12, size=4).tolist()))
    with torch.no_grad():
        last = network(batch)[-1]
        positions, lattices, _ = apply_plainly(network, batch)
    assert (last.lattices - batch.lattices).abs().max() > 1e-2
    torch.testing.assert_close(last.positions, positions, rtol=0, atol=SINGLE)
    torch.testing.assert_close(last.lattices, lattices, rtol=0, atol=SINGLE)
