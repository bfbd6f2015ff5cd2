from __future__ import annotations

import numpy as np
import pytest
from crystals import build_prototypes
from fake_networks import Breaker, Springs
from pymatgen.core import Lattice, Structure

from e3relax_flows import Constraints, PredictOptions, Predictor
from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.predict import items, operations, symmetry
from e3relax_flows.predict.constraints import resolve_constraints
from e3relax_flows.predict.inputs import read_types
from e3relax_flows.predict.moves import Geometry, Rules, make_move
from e3relax_flows.predict.symmetry import SymmetryError, find_primitive_cell, find_space_group, find_symmetry
from e3relax_flows.schemas.predictions import Reason, Verdict

NAMES = sorted(build_prototypes())
TOLERANCE = 1e-9


def find_number(structure: Structure, symprec: float) -> int:
    return structure.get_space_group_info(symprec)[1]


def find_rules(structure: Structure, symprec: float = 1e-2) -> Rules:
    geometry = Geometry(np.array(structure.lattice.matrix), np.array(structure.frac_coords))
    freedom = resolve_constraints(structure, Constraints())
    types = read_types(structure, freedom.atoms)
    found = find_symmetry(geometry.lattice, geometry.fractions, types, symprec, freedom)
    return Rules(geometry, freedom, types, found)


@pytest.fixture(scope="module")
def broken():
    """All prototypes through a network that breaks every symmetry, once kept and once free."""
    predictor = Predictor(Breaker(size=0.05), "m-1", {}, "cpu")
    cells = [build_prototypes()[name] for name in NAMES]
    kept = predictor.predict(cells, PredictOptions(passes=2))
    free = predictor.predict(cells, PredictOptions(passes=2, symmetry="free"))
    return {name: pair for name, *pair in zip(NAMES, kept, free, strict=True)}


@pytest.mark.parametrize("name", NAMES)
def test_keeps_the_space_group_whatever_the_network_says(broken, name):
    kept, free = broken[name]
    number = find_number(build_prototypes()[name], 1e-2)
    assert find_number(kept.structure, 1e-5) == number
    assert find_number(kept.structure, 1e-2) == number
    assert kept.n_passes == 2
    assert kept.strain > 0.01
    # one of the triclinic groups survives anything that moves atoms in pairs; none of the others does
    assert find_number(free.structure, 1e-2) < min(number, 3)


def test_moves_what_symmetry_allows(broken):
    assert broken["quartz"][0].displacement > 0.01
    assert broken["rutile"][0].displacement > 0.005
    assert broken["rock salt"][0].displacement < TOLERANCE


@pytest.mark.parametrize("name", NAMES)
def test_projections_are_projections(name):
    """Idempotent, and a symmetric field stays as it is."""
    cell = build_prototypes()[name]
    group = find_rules(cell).symmetry.loose
    rng = np.random.default_rng(1)
    field = group.project_displacements(rng.normal(size=(len(cell), 3)))
    assert np.abs(group.project_displacements(field) - field).max() < TOLERANCE
    form = rng.normal(size=(3, 3))
    form = group.project_form(form + form.T)
    assert np.abs(group.project_form(form) - form).max() < TOLERANCE * np.abs(form).max()
    positions = group.project_positions(cell.frac_coords + 0.01 * rng.normal(size=(len(cell), 3)))
    assert np.abs(group.project_positions(positions) - positions).max() < TOLERANCE
    assert np.abs(positions.mean(axis=0) - group.project_positions(positions + 0.25).mean(axis=0) + 0.25).max() < 1e-12


@pytest.mark.parametrize("name", ["quartz", "spinel", "left-handed wurtzite", "fcc, 1x2x3", "triclinic"])
def test_leaves_a_symmetric_prediction_alone(name):
    cell = build_prototypes()[name]
    options = PredictOptions(stop_below=0.0)
    kept = Predictor(Springs(), "m-1", {}, "cpu").predict([cell], options)[0]
    free = Predictor(Springs(), "m-1", {}, "cpu").predict([cell], options.model_copy(update={"symmetry": "free"}))[0]
    assert np.abs(kept.structure.lattice.matrix - free.structure.lattice.matrix).max() < TOLERANCE
    assert np.abs(kept.structure.frac_coords - free.structure.frac_coords).max() < TOLERANCE
    assert kept.strain > 1e-3


def test_strain_of_a_cubic_crystal_is_its_mean():
    """The mean of a symmetric strain over the cubic group is a third of its trace, times one."""
    cell = build_prototypes()["rock salt, skewed cell of 3"]
    rules = find_rules(cell)
    assert len(rules.symmetry.loose.rotations) == 48
    strain = np.array([[0.06, 0.02, -0.01], [0.02, -0.03, 0.04], [-0.01, 0.04, 0.03]])
    values, vectors = np.linalg.eigh(strain)
    deformed = cell.lattice.matrix @ (vectors * np.exp(values)) @ vectors.T
    moved, size = make_move(rules.initial, cell.frac_coords @ deformed, deformed, rules)
    assert np.allclose(measure_log_strain(cell.lattice.matrix, moved.lattice), 0.02 * np.eye(3), atol=1e-12)
    assert size == pytest.approx(0.02 * np.sqrt(3) * (cell.volume / 6) ** (1 / 3), rel=1e-9)


def test_supercells_are_reduced():
    cell = build_prototypes()["quartz"].make_supercell([[2, 0, 0], [1, 2, 0], [0, 0, 3]], in_place=False)
    cell.translate_sites([3, 5], [1, -2, 0], to_unit_cell=False)
    types = np.array([site.specie.Z for site in cell])
    found = find_primitive_cell(cell.lattice.matrix, cell.frac_coords, types, 1e-2)
    assert abs(np.linalg.det(found.basis)) == pytest.approx(1 / 12)
    assert np.bincount(found.orbits).tolist() == [12] * 9
    assert np.allclose(found.expand_positions(found.reduce_positions(cell.frac_coords)), cell.frac_coords, atol=1e-9)
    for orbit in range(9):
        assert len(set(types[found.orbits == orbit])) == 1
    group = find_space_group(cell.lattice.matrix, cell.frac_coords, types, 1e-2)
    assert group.number == 154
    assert len(group.rotations) == 6


def test_rough_symmetry_is_kept_roughly():
    """The group at 1e-2 and the lower one at 1e-5 both come out as they went in."""
    cell = build_prototypes()["rutile"].copy()
    cell.translate_sites([2], [0.0006, 0.0, 0.0])  # 3e-3 Å
    assert (find_number(cell, 1e-2), find_number(cell, 1e-5)) == (136, 6)
    prediction = Predictor(Breaker(), "m-1", {}, "cpu").predict([cell])[0]
    assert (find_number(prediction.structure, 1e-2), find_number(prediction.structure, 1e-5)) == (136, 6)


def test_rough_symmetry_survives_expansion():
    """A deviation just below the tolerance that the strain lifts above it is projected away."""
    cell = Structure(Lattice.tetragonal(3.0, 3.4), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5 + 0.0014]])
    assert find_number(cell, 1e-2) == 123

    class Expansion(Breaker):
        def move(self, view):
            return view.positions * 1.15, view.lattice * 1.15

    options = PredictOptions(passes=1)
    kept, free = (
        Predictor(Expansion(), "m-1", {}, "cpu").predict([cell], options.model_copy(update={"symmetry": how}))[0]
        for how in ("keep", "free")
    )
    assert find_number(free.structure, 1e-2) == 99
    assert find_number(kept.structure, 1e-2) == 123
    assert kept.volume_ratio == pytest.approx(1.15**3, rel=1e-9)


def test_magnetic_order_is_part_of_the_symmetry():
    """Layers of opposite moments along c: the cell may become tetragonal, although its elements are cubic."""
    cell = Structure.from_spacegroup("Im-3m", Lattice.cubic(2.9), ["Fe"], [[0, 0, 0]])

    def count(moments):
        return len(find_rules(cell.copy(site_properties={"magmom": moments})).symmetry.loose.rotations)

    assert count([2.1, 2.13]) == 48  # one atom in the primitive cell: the same moment but for noise
    assert count([2.1, -2.1]) == 48  # one after the other along every axis: cubic, but two atoms
    layers = cell * (2, 1, 1)
    assert len(find_rules(layers).symmetry.loose.rotations) == 48
    layers.add_site_property("magmom", [2.0 if site.frac_coords[0] < 0.4 else -2.0 for site in layers])
    group = find_rules(layers).symmetry.loose
    assert group.number == 129  # double layers along a, with a glide between them
    rng = np.random.default_rng(0)
    form = group.project_form(layers.lattice.matrix @ np.diag(rng.normal(size=3)) @ layers.lattice.matrix.T)
    strain = np.linalg.inv(layers.lattice.matrix) @ form @ np.linalg.inv(layers.lattice.matrix).T
    assert strain[1, 1] == pytest.approx(strain[2, 2], abs=1e-12)
    assert abs(strain[0, 0] - strain[1, 1]) > 0.01


def test_oxidation_states_are_not_exchanged():
    cell = Structure(Lattice.cubic(4.0), ["Fe2+", "Fe3+"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    plain = Structure(Lattice.cubic(4.0), ["Fe", "Fe"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert find_rules(cell).symmetry.loose.number == 221
    assert find_rules(plain).symmetry.loose.number == 229


def test_without_a_space_group_only_networks_that_keep_it_go_on(monkeypatch):
    def find_nothing(*_):
        raise SymmetryError("spglib found no space group")

    monkeypatch.setattr(items, "find_symmetry", find_nothing)
    cell = build_prototypes()["rutile"]
    keeping = Predictor(Springs(), "m-1", {}, "cpu").predict([cell])[0]
    assert keeping.verdict == Verdict.ACCEPT
    breaking = Predictor(Breaker(), "m-1", {}, "cpu")
    prediction = breaking.predict([cell], ids=["r"])[0]
    assert prediction.verdict == Verdict.ERROR
    assert prediction.reasons == [Reason.FAILED]
    assert "symmetry='free'" in prediction.message
    assert breaking.predict([cell], PredictOptions(symmetry="free"))[0].verdict == Verdict.ACCEPT


def test_finding_nothing_is_an_error_of_ours(monkeypatch):
    monkeypatch.setattr(symmetry, "ask_moyo", lambda *_: None)
    monkeypatch.setattr(operations.spglib, "get_symmetry_dataset", lambda *_, **__: None)
    with pytest.raises(SymmetryError, match=r"symprec 0\.01"):
        find_rules(build_prototypes()["rutile"])
