from __future__ import annotations

import numpy as np
import pytest
from crystals import build_prototypes
from fake_networks import Breaker, Contraction, Identity
from pymatgen.core import Lattice, Structure

from e3relax_flows import Constraints, GuardLimits, PredictOptions, Predictor
from e3relax_flows.predict.vacuum import Vacuum, find_vacuum
from e3relax_flows.schemas.predictions import Reason, Verdict

PREDICTOR = Predictor(Identity(), "m-1", {}, "cpu")
WATER = [[0, 0, 0], [0.76, 0.59, 0], [-0.76, 0.59, 0]]
CARBON_DIOXIDE = [[0, 0, 0], [0, 0, 1.16], [0, 0, -1.16]]


def make_box(species: list[str], positions: list[list[float]], size: float) -> Structure:
    return Structure(Lattice.cubic(size), species, np.add(positions, size / 3), coords_are_cartesian=True)


def make_layers(heights: list[float], c: float, tilt: tuple[float, float] = (0.0, 0.0)) -> Structure:
    """Layers of MoS2 whose molybdenum stands at `heights`, Å, in a cell whose c leans by `tilt`, Å."""
    lattice = [[3.19, 0, 0], [-1.595, 2.763, 0], [*tilt, c]]
    atoms = [(0.0, 0.0, 0.0, "Mo"), (1.595, 0.921, 1.56, "S"), (1.595, 0.921, -1.56, "S")]
    positions = [[x, y, z + height] for height in heights for x, y, z, _ in atoms]
    return Structure(lattice, [atom[3] for atom in atoms] * len(heights), positions, coords_are_cartesian=True)


def turn_axes(structure: Structure, order: list[int]) -> Structure:
    """The same crystal with its lattice vectors in another order."""
    return Structure(structure.lattice.matrix[order], structure.species, structure.frac_coords[:, order])


def make_platinum_slab(vacuum: float) -> Structure:
    """Four layers of Pt(111)."""
    height = 3 * 2.263 + vacuum
    third = 1 / 3
    sites = [(0, 0), (third, 2 * third), (2 * third, third), (0, 0)]
    fractions = [[x, y, layer * 2.263 / height] for layer, (x, y) in enumerate(sites)]
    return Structure(Lattice.hexagonal(2.772, height), ["Pt"] * 4, fractions)


def make_polyethylene(period: float) -> Structure:
    """A chain along c in a square cell."""
    carbon = [[0, 0.42, 0.0], [0, -0.42, 1.28]]
    hydrogen = [[side * 0.88, sign * 1.05, z] for sign, z in ((1, 0.0), (-1, 1.28)) for side in (1, -1)]
    lattice = Lattice.tetragonal(period, 2.56)
    return Structure(lattice, ["C"] * 2 + ["H"] * 4, carbon + hydrogen, coords_are_cartesian=True)


def make_tube(radius: float, period: float) -> Structure:
    """Rings of twelve carbons along c."""
    angles = np.arange(12) * np.pi / 6
    rings = [(radius * np.cos(t + shift), radius * np.sin(t + shift), z) for z, shift in ((0, 0), (1.25, np.pi / 12))
             for t in angles]  # fmt: skip
    lattice = Lattice.tetragonal(period, 2.5)
    return Structure(lattice, ["C"] * 24, np.add(rings, [period / 2, period / 2, 0]), coords_are_cartesian=True)


def make_net(period: float) -> Structure:
    """A framework as a MOF's: zinc at the corners of a cube, carbon along its edges, nothing inside."""
    steps = np.arange(1, round(period / 1.5)) / round(period / 1.5)
    edges = [np.eye(3)[axis] * step for axis in range(3) for step in steps]
    return Structure(Lattice.cubic(period), ["Zn"] + ["C"] * len(edges), [[0, 0, 0], *edges])


def make_cage() -> Structure:
    """Silica sodalite: cages of 24 tetrahedra."""
    return Structure.from_spacegroup("Im-3m", Lattice.cubic(8.9), ["Si", "O"], [[0.25, 0.5, 0], [0.354, 0.354, 0]])


def find(structure: Structure) -> Vacuum | None:
    numbers = np.array([site.specie.Z for site in structure])
    return find_vacuum(numbers, structure.cart_coords, structure.lattice.matrix)


make = Structure.from_spacegroup
IN_VACUUM = {
    "water in 12 Å": (make_box(["O", "H", "H"], WATER, 12.0), Vacuum(0, None)),
    "CO2 in 12 Å": (make_box(["C", "O", "O"], CARBON_DIOXIDE, 12.0), Vacuum(0, None)),
    "CO2 in 8 Å": (make_box(["C", "O", "O"], CARBON_DIOXIDE, 8.0), Vacuum(0, None)),
    "water dimer": (
        make_box(["O", "H", "H"] * 2, [*WATER, *np.add(WATER, [0, 0, 2.9]).tolist()], 15.0), Vacuum(0, None),
    ),
    "an atom": (make_box(["Ar"], [[0, 0, 0]], 10.0), Vacuum(0, None)),
    "a cluster of gold": (
        Structure.from_spacegroup("Fm-3m", Lattice.cubic(20), ["Au", "Au"], [[0, 0, 0], [0.102, 0.102, 0]])
        .get_primitive_structure(), Vacuum(0, None),
    ),
    "polyethylene": (make_polyethylene(15.0), Vacuum(1, None)),
    "a nanotube": (make_tube(4.0, 20.0), Vacuum(1, None)),
    "MoS2": (make_layers([9.0], 18.0), Vacuum(2, "c")),
    "MoS2 at the border of the cell": (make_layers([0.0], 18.0), Vacuum(2, "c")),
    "MoS2 in a cell that leans": (make_layers([9.0], 18.0, (4.0, 3.0)), Vacuum(2, "c")),
    "two layers that touch": (make_layers([6.0, 12.2], 25.0), Vacuum(2, "c")),
    "two layers apart": (make_layers([0.0, 15.0], 30.0), Vacuum(2, "c")),
    "15 Å along c": (make_platinum_slab(15.0), Vacuum(2, "c")),
    "15 Å along b": (turn_axes(make_platinum_slab(15.0), [1, 2, 0]), Vacuum(2, "b")),
    "15 Å along a": (turn_axes(make_platinum_slab(15.0), [2, 0, 1]), Vacuum(2, "a")),
    "a slab in a left-handed cell": (turn_axes(make_platinum_slab(15.0), [2, 1, 0]), Vacuum(2, "a")),
    "a slab 3x2": (make_platinum_slab(15.0).make_supercell([3, 2, 1], in_place=False), Vacuum(2, "c")),
    "a layer across two lattice vectors": (
        make_layers([9.0], 18.0).make_supercell([[1, 0, 0], [0, 1, 1], [0, 0, 1]], in_place=False), Vacuum(2, None),
    ),
}  # fmt: skip
CRYSTALS = {
    "graphite": make(194, Lattice.hexagonal(2.46, 6.71), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]),
    "graphite, stretched along c by 30 %": make(
        194, Lattice.hexagonal(2.46, 8.72), ["C", "C"], [[0, 0, 0.25], [1 / 3, 2 / 3, 0.25]]
    ),
    "MoS2": make(194, Lattice.hexagonal(3.16, 12.3), ["Mo", "S"], [[1 / 3, 2 / 3, 0.25], [1 / 3, 2 / 3, 0.621]]),
    "CdI2": make(164, Lattice.hexagonal(4.24, 6.86), ["Cd", "I"], [[0, 0, 0], [1 / 3, 2 / 3, 0.249]]),
    "dry ice": make("Pa-3", Lattice.cubic(5.62), ["C", "O"], [[0, 0, 0], [0.118] * 3]),
    "xenon": make("Fm-3m", Lattice.cubic(6.2), ["Xe"], [[0, 0, 0]]),
    "helium": make(194, Lattice.hexagonal(3.57, 5.83), ["He"], [[1 / 3, 2 / 3, 0.25]]),
    "caesium, stretched by 40 %": make("Im-3m", Lattice.cubic(6.14 * 1.4), ["Cs"], [[0, 0, 0]]),
    "LiF in the cell of CsI": Structure(Lattice.cubic(4.56), ["Li", "F"], [[0, 0, 0], [0.5, 0.5, 0.5]]),
    "copper, 256 atoms": make("Fm-3m", Lattice.cubic(3.61), ["Cu"], [[0, 0, 0]]) * [4, 4, 4],
    "sodalite": make_cage(),
    "a framework with pores of 15 Å": make_net(15.0),
    "a framework with pores of 30 Å": make_net(30.0),
    "chains of polyethylene side by side": make_polyethylene(4.5),
    **build_prototypes(),
}


@pytest.mark.parametrize("name", IN_VACUUM)
def test_vacuum_is_recognised_with_what_stands_in_it(name):
    structure, expected = IN_VACUUM[name]
    assert find(structure) == expected


@pytest.mark.parametrize("name", CRYSTALS)
def test_crystals_have_no_vacuum(name):
    assert find(CRYSTALS[name]) is None


@pytest.mark.parametrize("shift", [0.0, 0.37, -5.2])
def test_the_origin_and_whole_lattice_vectors_change_nothing(shift):
    layer = make_layers([9.0], 18.0)
    moved = Structure(layer.lattice, layer.species, layer.frac_coords + shift + [[0, 0, 0], [3, 0, 1], [0, -2, 0]])
    assert find(moved) == Vacuum(2, "c")
    salt = build_prototypes()["rock salt"]
    assert find(Structure(salt.lattice, salt.species, salt.frac_coords + shift + [[0, 7, 0]] * 8)) is None


@pytest.mark.parametrize(("gap", "is_vacuum"), [(7.6, False), (7.8, True)])
def test_a_gap_counts_between_covalent_spheres(gap, is_vacuum):
    """Platinum has a radius of 1.36 Å, so that 5 Å between spheres are 7.72 Å between nuclei that face each other."""
    square = Structure(Lattice.tetragonal(2.8, gap), ["Pt"], [[0, 0, 0]])
    assert (find(square) is not None) == is_vacuum


@pytest.mark.parametrize("name", [name for name, (_, vacuum) in IN_VACUUM.items() if vacuum.rank < 2])
def test_molecules_and_chains_are_refused_whatever_is_asked(name):
    structure, _ = IN_VACUUM[name]
    for options in (
        PredictOptions(guards=GuardLimits(max_harm=1.0, allow_untrained=True)),
        PredictOptions(constraints=Constraints(vacuum_axis="c")),
        PredictOptions(constraints=Constraints(fix_cell=True), symmetry="free"),
    ):
        prediction = PREDICTOR.predict([structure], options, ids=["it"])[0]
        assert (prediction.verdict, prediction.reasons) == (Verdict.REFUSE, [Reason.VACUUM])
        assert "the model is for crystals" in prediction.message
        assert prediction.message.startswith("it: the cell holds a ")


@pytest.mark.parametrize("axis", ["a", "b", "c"])
def test_a_layer_is_refused_with_its_axis_and_predicted_when_that_is_given(axis):
    layer = IN_VACUUM[f"15 Å along {axis}"][0]
    prediction = PREDICTOR.predict([layer], guards=GuardLimits(max_harm=1.0))[0]
    assert (prediction.verdict, prediction.reasons) == (Verdict.REFUSE, [Reason.VACUUM])
    assert f"along {axis}; type --constrain vacuum-{axis} to keep it" in prediction.message
    for constraints in (Constraints(vacuum_axis=axis), Constraints(fix_cell=True)):
        kept = PREDICTOR.predict([layer], constraints=constraints)[0]
        assert (kept.verdict, kept.reasons, kept.message) == (Verdict.ACCEPT, [], None)
    for other in {"a", "b", "c"} - {axis}:
        wrong = PREDICTOR.predict([layer], constraints=Constraints(vacuum_axis=other))[0]
        assert wrong.reasons == [Reason.VACUUM]
        assert f"along {axis}, not along {other}; type --constrain vacuum-{axis}" in wrong.message


def test_a_layer_across_two_vectors_needs_another_cell():
    layer = IN_VACUUM["a layer across two lattice vectors"][0]
    prediction = PREDICTOR.predict([layer], constraints=Constraints(vacuum_axis="c"))[0]
    assert prediction.reasons == [Reason.VACUUM]
    assert "no two lattice vectors lie in the layer" in prediction.message


def test_a_constraint_on_vacuum_does_not_change_what_is_predicted():
    layer, predictor = make_layers([9.0], 18.0), Predictor(Breaker(size=0.05), "m-1", {}, "cpu")
    prediction = predictor.predict([layer], constraints=Constraints(vacuum_axis="c"))[0]
    assert prediction.verdict == Verdict.ACCEPT
    assert np.array_equal(prediction.structure.lattice.matrix[2], layer.lattice.matrix[2])
    assert prediction.strain > 0.005


def test_a_refused_layer_keeps_its_numbers_beside_other_reasons():
    layer = make_layers([9.0], 18.0)
    predictor = Predictor(Contraction(volume_per_atom=4.0, fraction=1.0), "m-1", {}, "cpu")
    prediction = predictor.predict([layer])[0]
    assert prediction.reasons[0] == Reason.VACUUM
    assert {Reason.VOLUME, Reason.STRAIN} & set(prediction.reasons)
    assert prediction.volume_ratio < 0.25


def test_a_network_that_fails_on_vacuum_leaves_the_reason():
    class Fails(Identity):
        def build_crystal(self, *_):
            raise RuntimeError("no edges")

    atom, salt = IN_VACUUM["an atom"][0], build_prototypes()["rock salt"]
    refused, error = Predictor(Fails(), "m-1", {}, "cpu").predict([atom, salt])
    assert (refused.verdict, refused.reasons) == (Verdict.REFUSE, [Reason.VACUUM, Reason.FAILED])
    assert (error.verdict, error.reasons) == (Verdict.ERROR, [Reason.FAILED])


def test_molecules_do_not_reach_others_in_their_batch():
    salt = build_prototypes()["rock salt"]
    water = IN_VACUUM["water in 12 Å"][0]
    assert [p.verdict for p in PREDICTOR.predict([salt, water, salt])] == [
        Verdict.ACCEPT,
        Verdict.REFUSE,
        Verdict.ACCEPT,
    ]
