from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from pymatgen.core import Lattice, Structure
from pymatgen.symmetry.analyzer import SpacegroupAnalyzer

from e3relax_flows.core.errors import ModelError, StructureError
from e3relax_flows.graphs.batching import pack_crystals
from e3relax_flows.model.equivariance import Description, describe_otherwise, measure_disagreement, predict_one
from e3relax_flows.model.network import E3RelaxH2, E3RelaxH2Config

RELATIVE = 1e-9  # of the update, in float64
SYMPREC = 1e-5


def make_network(seed: int = 0) -> E3RelaxH2:
    """Random weights everywhere, also where training starts at nought, so that nothing is still by chance."""
    torch.manual_seed(seed)
    network = E3RelaxH2(E3RelaxH2Config(n_scalars=24, n_hidden=24, n_vectors=8, n_densities=6)).double().eval()
    for parameter in network.parameters():
        if parameter.abs().max() == 0:
            torch.nn.init.normal_(parameter, std=0.3)
    return network


def make_crystal(seed: int, n: int) -> Description:
    rng = np.random.default_rng(seed)
    lattice = np.eye(3) * (14.0 * n) ** (1 / 3) + rng.normal(size=(3, 3)) * 0.4
    return Description(rng.integers(1, 95, size=n), rng.random((n, 3)), lattice)


NETWORK = make_network()


@pytest.mark.parametrize("n", [1, 2, 7])
@pytest.mark.parametrize("which", range(9))
def test_prediction_does_not_depend_on_the_description(n, which):
    crystal = make_crystal(n, n)
    retelling = describe_otherwise(crystal, seed=n)[which]
    assert measure_disagreement(NETWORK, crystal, retelling) < RELATIVE, retelling.name


def test_disagreement_is_noticed():
    # the measure itself: a rotation that is not undone must show
    crystal = make_crystal(3, 4)
    rotation = describe_otherwise(crystal)[0]
    assert measure_disagreement(NETWORK, crystal, rotation._replace(turn=np.eye(3))) > 0.1


def test_update_is_not_small_by_accident():
    crystal = make_crystal(5, 6)
    predicted = predict_one(NETWORK, crystal)
    assert np.abs(predicted.lattice - crystal.lattice).max() > 0.05
    assert np.abs((predicted.fractions - crystal.fractions) @ crystal.lattice).max() > 0.01


def test_batch_agrees_with_single():
    crystals = [make_crystal(seed, n) for seed, n in enumerate((1, 5, 3, 9))]
    graphs = [NETWORK.build_crystal(c.numbers, c.fractions @ c.lattice, c.lattice) for c in crystals]
    with torch.inference_mode():
        together = NETWORK(pack_crystals(graphs))[-1]
    first = 0
    for index, crystal in enumerate(crystals):
        alone = predict_one(NETWORK, crystal)
        size = np.abs(alone.lattice - crystal.lattice).max()
        last = first + len(crystal.numbers)
        assert np.abs(together.lattices[index].numpy() - alone.lattice).max() < RELATIVE * size
        positions = together.positions[first:last].numpy()
        assert np.abs(positions - alone.fractions @ alone.lattice).max() < RELATIVE * size * 10
        first = last


PROTOTYPES = {
    "fcc (one atom)": ("Fm-3m", Lattice.cubic(4.0), ["Cu"], [[0, 0, 0]]),
    "bcc (one atom)": ("Im-3m", Lattice.cubic(3.1), ["W"], [[0, 0, 0]]),
    "simple cubic": ("Pm-3m", Lattice.cubic(3.3), ["Po"], [[0, 0, 0]]),
    "hcp": ("P6_3/mmc", Lattice.hexagonal(3.2, 5.3), ["Mg"], [[1 / 3, 2 / 3, 0.25]]),
    "diamond": ("Fd-3m", Lattice.cubic(5.6), ["Si"], [[0, 0, 0]]),
    "rock salt": ("Fm-3m", Lattice.cubic(5.5), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "caesium chloride": ("Pm-3m", Lattice.cubic(4.0), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "zinc blende": ("F-43m", Lattice.cubic(5.5), ["Zn", "S"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "wurtzite": ("P6_3mc", Lattice.hexagonal(3.8, 6.2), ["Zn", "S"], [[1 / 3, 2 / 3, 0], [1 / 3, 2 / 3, 0.37]]),
    "fluorite": ("Fm-3m", Lattice.cubic(5.5), ["Ca", "F"], [[0, 0, 0], [0.25, 0.25, 0.25]]),
    "perovskite": ("Pm-3m", Lattice.cubic(3.9), ["Sr", "Ti", "O"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0]]),
    "rutile": ("P4_2/mnm", Lattice.tetragonal(4.6, 2.95), ["Ti", "O"], [[0, 0, 0], [0.305, 0.305, 0]]),
    "anatase": ("I4_1/amd", Lattice.tetragonal(3.8, 9.5), ["Ti", "O"], [[0, 0, 0.5], [0, 0, 0.29]]),
    "spinel": ("Fd-3m", Lattice.cubic(8.1), ["Mg", "Al", "O"], [[1 / 8] * 3, [1 / 2] * 3, [0.263] * 3]),
    "half-Heusler": ("F-43m", Lattice.cubic(5.9), ["Ti", "Ni", "Sn"], [[0, 0, 0], [0.25] * 3, [0.5] * 3]),
    "corundum": ("R-3c", Lattice.hexagonal(4.8, 13.0), ["Al", "O"], [[0, 0, 0.352], [0.306, 0, 0.25]]),
    "quartz": ("P3_221", Lattice.hexagonal(4.9, 5.4), ["Si", "O"], [[0.47, 0, 2 / 3], [0.41, 0.27, 0.786]]),
}


@pytest.mark.parametrize("name", PROTOTYPES)
def test_space_group_is_kept(name):
    spacegroup, lattice, species, sites = PROTOTYPES[name]
    structure = Structure.from_spacegroup(spacegroup, lattice, species, sites).get_primitive_structure()
    before = SpacegroupAnalyzer(structure, SYMPREC).get_space_group_number()
    crystal = Description(np.array(structure.atomic_numbers), structure.frac_coords, structure.lattice.matrix)
    predicted = predict_one(NETWORK, crystal)
    after = Structure(predicted.lattice, structure.species, predicted.fractions)
    assert abs(after.volume / structure.volume - 1) > 1e-3
    assert SpacegroupAnalyzer(after, SYMPREC).get_space_group_number() == before


def test_continuous_through_a_centrosymmetric_site():
    # titanium moves along a body diagonal through the centre of its octahedron
    numbers = np.array([38, 22, 8, 8, 8])
    ideal = np.array([[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]])
    step = np.array([1.0, 1.0, 1.0]) / 3**0.5 / 3.9

    def move(distance: float) -> np.ndarray:
        fractions = ideal.copy()
        fractions[1] += distance * step
        predicted = predict_one(NETWORK, Description(numbers, fractions, 3.9 * np.eye(3)))
        return (predicted.fractions - fractions)[1] * 3.9

    assert np.abs(move(0.0)).max() < 1e-12
    tiny, small = move(1e-6), move(1e-3)
    assert np.abs(tiny).max() < 1e-4  # no jump away from the centre
    assert np.allclose(tiny / 1e-6, small / 1e-3, rtol=1e-2, atol=1e-6)  # linear, so smooth, there
    assert np.allclose(move(1e-3), -move(-1e-3), rtol=1e-2, atol=1e-8)


def test_continuous_where_neighbours_enter_the_cutoff():
    # fcc: the fourth shell enters at a lattice strain where the cutoff, which follows the volume, meets it
    edges = 4.0 * np.ones((400, 3))
    edges[:, 2] *= np.linspace(0.7, 1.5, len(edges))
    graphs = [NETWORK.build_crystal(np.array([29]), np.zeros((1, 3)), np.diag(edge)) for edge in edges]
    n_edges = {graph.n_edges for graph in graphs}
    with torch.inference_mode():
        lattices = NETWORK(pack_crystals(graphs))[-1].lattices.numpy()
    values = np.diagonal(lattices, axis1=1, axis2=2) / edges
    assert len(n_edges) > 2
    steps = np.abs(np.diff(values, axis=0)).max(axis=1)
    assert steps.max() < 5 * np.median(steps) + 1e-4


@pytest.mark.slow
def test_all_elements_work_and_others_are_refused():
    for number in range(1, 119):
        crystal = Description(np.array([number]), np.zeros((1, 3)), 3.5 * np.eye(3))
        assert np.isfinite(predict_one(NETWORK, crystal).lattice).all()
    for number in (0, 119):
        with pytest.raises(StructureError, match="1 to 118"):
            NETWORK.build_crystal(np.array([number]), np.zeros((1, 3)), 3.5 * np.eye(3))


def test_a_crystal_without_edges_is_predicted():
    lonely, other = Description(np.array([8]), np.zeros((1, 3)), 25.0 * np.eye(3)), make_crystal(1, 3)
    graphs = [NETWORK.build_crystal(c.numbers, c.fractions @ c.lattice, c.lattice) for c in (lonely, other)]
    assert graphs[0].n_edges == 0
    with torch.inference_mode():
        together = NETWORK(pack_crystals(graphs))[-1]
    alone = predict_one(NETWORK, lonely)
    assert np.abs(alone.lattice - together.lattices[0].numpy()).max() < 1e-9
    assert np.abs(alone.lattice - alone.lattice[0, 0] * np.eye(3)).max() < 1e-9


def test_fresh_network_leaves_crystals_alone():
    crystal = make_crystal(2, 5)
    predicted = predict_one(E3RelaxH2().double(), crystal)
    assert np.abs(predicted.lattice - crystal.lattice).max() < 1e-12
    assert np.abs(predicted.fractions - crystal.fractions).max() < 1e-12


def test_gradients_reach_every_parameter():
    crystals = [make_crystal(seed, 4) for seed in range(2)]
    graphs = [NETWORK.build_crystal(c.numbers, c.fractions @ c.lattice, c.lattice) for c in crystals]
    layers = NETWORK(pack_crystals(graphs))
    NETWORK.zero_grad()
    moved = sum((layer.positions**2).sum() + (layer.lattices**2).sum() for layer in layers)
    (moved + layers[-1].expected.sum()).backward()
    without = [name for name, p in NETWORK.named_parameters() if p.grad is None or not p.grad.abs().max() > 0]
    assert without == []


def test_expected_errors_are_invariant_and_leave_the_features_alone():
    crystal = make_crystal(3, 5)
    turned = crystal.lattice @ np.linalg.qr(np.random.default_rng(1).normal(size=(3, 3)))[0]
    shifted = crystal.fractions + np.array([0.3, 1.7, -2.2]) + np.array([[0, 0, 3]] + [[0, 0, 0]] * 4)
    repeats = np.repeat([[0.0, 0, 0], [1, 0, 0]], 5, axis=0)
    doubled = (np.tile(crystal.fractions, (2, 1)) + repeats) / [2, 1, 1]
    forms = [
        (crystal.numbers, crystal.fractions @ crystal.lattice, crystal.lattice),
        (crystal.numbers, shifted @ turned, turned),
        (np.tile(crystal.numbers, 2), doubled @ (crystal.lattice * [[2], [1], [1]]), crystal.lattice * [[2], [1], [1]]),
    ]
    layers = NETWORK(pack_crystals([NETWORK.build_crystal(*form) for form in forms]))
    expected = layers[-1].expected
    assert expected.shape == (3, 4)
    assert (expected - expected[0]).abs().max() < 1e-10
    NETWORK.zero_grad()
    expected.sum().backward()
    shaped = [n for n, p in NETWORK.named_parameters() if p.grad is not None and p.grad.abs().max() > 0]
    assert {name.split(".")[0] for name in shaped} == {"errors"}


def test_a_batch_without_reverse_edges_is_refused():
    crystal = make_crystal(1, 2)
    built = NETWORK.build_crystal(crystal.numbers, crystal.fractions @ crystal.lattice, crystal.lattice)
    batch = pack_crystals([built])
    with pytest.raises(ModelError, match="2 atoms"):
        NETWORK(replace(batch, reverse=None))
