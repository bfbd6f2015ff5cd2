from __future__ import annotations

import numpy as np
import pytest
import torch

from e3relax_flows.core.geometry import measure_displacements, measure_log_strain
from e3relax_flows.graphs.batching import pack_crystals
from e3relax_flows.model.interface import Layer
from e3relax_flows.model.losses import compute_loss, measure_deviations
from e3relax_flows.model.network import E3RelaxH2
from e3relax_flows.schemas.training import LossWeights

NETWORK = E3RelaxH2()
EXACT = 1e-9


def make_batch(seed=0, counts=(3, 1, 5)):
    rng = np.random.default_rng(seed)
    graphs, fractions, lattices = [], [], []
    for n in counts:
        lattice = np.eye(3) * (15 * n) ** (1 / 3) + rng.normal(size=(3, 3)) * 0.3
        start = rng.random((n, 3))
        graphs.append(NETWORK.build_crystal(rng.integers(1, 90, n), start @ lattice, lattice))
        fractions.append(start + 0.03 * rng.normal(size=(n, 3)))
        lattices.append(lattice @ (np.eye(3) + 0.05 * rng.normal(size=(3, 3))))
    batch = pack_crystals(graphs)
    return batch, torch.tensor(np.concatenate(fractions)), torch.tensor(np.stack(lattices))


def initial_layer(batch):
    return Layer(batch.positions, batch.lattices)


def test_agrees_with_the_metrics_one_crystal_at_a_time():
    batch, fractions, lattices = make_batch()
    errors = measure_deviations(initial_layer(batch), batch, fractions, lattices)
    first = 0
    for index, n in enumerate(batch.n_atoms.tolist()):
        atoms = slice(first, first + n)
        lattice = batch.lattices[index].numpy()
        start = batch.positions[atoms].numpy() @ np.linalg.inv(lattice)
        relaxed = lattices[index].numpy()
        moves = measure_displacements(start, fractions[atoms].numpy(), relaxed)
        assert errors.displacement[index] == pytest.approx(moves.mean(), abs=2e-5)
        strain = measure_log_strain(relaxed, lattice)
        assert errors.strain[index] == pytest.approx(np.linalg.norm(strain), rel=0.15)
        assert errors.volume[index] == pytest.approx(abs(np.trace(strain)), abs=EXACT)
        first += n


def test_zero_at_the_relaxed_crystal_and_gradient_finite_there():
    batch, fractions, lattices = make_batch()
    positions = torch.einsum("ni,nij->nj", fractions, lattices[batch.graph_of_atom]).requires_grad_()
    cells = lattices.clone().requires_grad_()
    loss, errors = compute_loss([Layer(positions, cells)], batch, fractions, lattices, LossWeights())
    assert max(float(e.detach().max()) for e in errors) < 2e-5  # the rounding of the norm at nought
    loss.backward()
    assert torch.isfinite(positions.grad).all()
    assert torch.isfinite(cells.grad).all()


def test_blind_to_images_origin_and_rotation():
    batch, fractions, lattices = make_batch()
    plain = measure_deviations(initial_layer(batch), batch, fractions, lattices)
    rng = np.random.default_rng(7)
    images = torch.tensor(rng.integers(-3, 4, fractions.shape), dtype=torch.float64)
    origin = torch.tensor(rng.random((batch.n_graphs, 3)))[batch.graph_of_atom]
    turn = torch.tensor(np.linalg.qr(rng.normal(size=(3, 3)))[0])
    for name, other in {
        "images": (fractions + images, lattices),
        "origin": (fractions + origin, lattices),
        "rotation": (fractions, lattices @ turn),
    }.items():
        errors = measure_deviations(initial_layer(batch), batch, *other)
        for mine, theirs in zip(plain, errors, strict=True):
            assert torch.allclose(mine, theirs, atol=EXACT), name


def test_nearest_images_are_found_in_skewed_cells():
    # the same crystals in cells whose nearest images are up to six lattice vectors away
    batch, fractions, lattices = make_batch()
    plain = measure_deviations(initial_layer(batch), batch, fractions, lattices)
    skew = np.array([[1.0, 6, 0], [0, 1, 0], [3, -4, 1]])
    turned, skewed = torch.tensor(np.linalg.inv(skew)), torch.tensor(skew)
    layer = Layer(batch.positions, skewed @ batch.lattices)
    errors = measure_deviations(layer, batch, fractions @ turned, skewed @ lattices)
    for mine, theirs in zip(plain, errors, strict=True):
        assert torch.allclose(mine, theirs, atol=EXACT)
    rng = np.random.default_rng(3)
    for lattice in lattices.numpy():
        start = rng.random((6, 3))
        end = start + 0.03 * rng.normal(size=(6, 3))
        moves = measure_displacements(start, end, lattice)
        same = measure_displacements(start @ turned.numpy(), end @ turned.numpy() + [1, -2, 5], skew @ lattice)
        assert same == pytest.approx(moves, abs=EXACT)
        drift = (end - start).mean(axis=0)
        assert moves == pytest.approx(np.linalg.norm((end - start - drift) @ lattice, axis=1), abs=EXACT)


def test_sums_over_layers_and_weighs():
    batch, fractions, lattices = make_batch()
    layer = initial_layer(batch)
    errors = measure_deviations(layer, batch, fractions, lattices)
    once, _ = compute_loss([layer], batch, fractions, lattices, LossWeights(2.0, 3.0, 0.25))
    thrice, _ = compute_loss([layer] * 3, batch, fractions, lattices, LossWeights(2.0, 3.0, 0.25))
    assert float(once) == pytest.approx(float((2 * errors[0] + 3 * errors[1] + 0.25 * errors[2]).mean()))
    assert float(thrice) == pytest.approx(3 * float(once))


def test_gradient_is_that_of_finite_differences():
    batch, fractions, lattices = make_batch(counts=(2, 3))

    def loss_of(positions, cells):
        return compute_loss([Layer(positions, cells)], batch, fractions, lattices, LossWeights())[0]

    positions, cells = batch.positions.clone().requires_grad_(), batch.lattices.clone().requires_grad_()
    assert torch.autograd.gradcheck(loss_of, (positions, cells), eps=1e-6, atol=1e-5)
