from __future__ import annotations

import numpy as np
import pytest
from crystals import build_prototypes
from fake_networks import Breaker, Springs
from pymatgen.core import Lattice, Structure

from e3relax_flows import Constraints, PredictOptions, Predictor
from e3relax_flows.predict.constraints import Freedom, resolve_constraints
from e3relax_flows.predict.items import start_passes
from e3relax_flows.schemas.predictions import Reason, Verdict

BREAKER = Predictor(Breaker(size=0.05), "m-1", {}, "cpu")


def make_layer(tilt: float = 0.0) -> Structure:
    """A hexagonal MX2 layer with vacuum along c, which may lean."""
    lattice = np.array([[3.2, 0, 0], [-1.6, 1.6 * np.sqrt(3), 0], [tilt, 0, 18.0]])
    return Structure(Lattice(lattice), ["Mo", "S", "S"], [[0, 0, 0.5], [1 / 3, 2 / 3, 0.587], [1 / 3, 2 / 3, 0.413]])


def predict(structure: Structure, symmetry: str = "keep", **constraints):
    return BREAKER.predict([structure], PredictOptions(constraints=Constraints(**constraints), symmetry=symmetry))[0]


@pytest.mark.parametrize("symmetry", ["keep", "free"])
@pytest.mark.parametrize("name", ["quartz", "left-handed wurtzite", "fcc, 1x2x3", "triclinic"])
def test_fixed_cell_is_exactly_fixed(name, symmetry):
    cell = build_prototypes()[name]
    prediction = predict(cell, symmetry, fix_cell=True)
    assert np.array_equal(prediction.structure.lattice.matrix, cell.lattice.matrix)
    assert prediction.volume_ratio == 1.0
    if symmetry == "free":
        assert prediction.displacement > 0.01
    else:
        number = cell.get_space_group_info(1e-5)[1]
        assert prediction.structure.get_space_group_info(1e-5)[1] == number


@pytest.mark.parametrize("symmetry", ["keep", "free"])
@pytest.mark.parametrize("tilt", [0.0, 0.7])
def test_vacuum_is_kept(tilt, symmetry):
    layer = make_layer(tilt)
    prediction = predict(layer, symmetry, vacuum_axis="c")
    before, after = layer.lattice.matrix, prediction.structure.lattice.matrix
    assert np.array_equal(after[2], before[2])
    assert np.abs(after[:2, 2]).max() < 1e-12  # still in the plane
    assert np.abs(after[:2] - before[:2]).max() > 0.01
    # no turn within the plane: the deformation is symmetric
    deformation = np.linalg.solve(before[:2, :2], after[:2, :2])
    assert deformation[0, 1] == pytest.approx(deformation[1, 0], abs=1e-12)
    if symmetry == "keep" and tilt == 0.0:
        assert prediction.structure.get_space_group_info(1e-5) == layer.get_space_group_info(1e-5) == ("P-6m2", 187)
        heights = prediction.structure.frac_coords[:, 2]
        assert heights[1] - heights[0] == pytest.approx(heights[0] - heights[2], abs=1e-12)
        assert abs(heights[1] - 0.587) > 1e-5


@pytest.mark.parametrize("axis", ["a", "b"])
def test_vacuum_along_the_other_axes(axis):
    order = {"a": [2, 0, 1], "b": [1, 2, 0]}[axis]
    layer = make_layer()
    turned = Structure(layer.lattice.matrix[order], layer.species, layer.frac_coords[:, order])
    index = "abc".index(axis)
    assert np.linalg.norm(turned.lattice.matrix[index]) == pytest.approx(18.0)
    prediction = predict(turned, vacuum_axis=axis)
    assert np.array_equal(prediction.structure.lattice.matrix[index], turned.lattice.matrix[index])
    assert prediction.strain > 0.005


def test_vacuum_of_a_cubic_cell_restricts_its_group():
    """Rotations that take c to another axis are no symmetries of a crystal whose c is kept."""
    cell = build_prototypes()["cesium chloride"]
    prediction = predict(cell, vacuum_axis="c")
    lengths = prediction.structure.lattice.abc
    assert lengths[2] == pytest.approx(4.1, abs=1e-12)
    assert lengths[0] == pytest.approx(lengths[1], abs=1e-10)
    assert abs(lengths[0] - 4.1) > 0.001
    assert prediction.structure.get_space_group_info(1e-5)[1] == 123


@pytest.mark.parametrize("symmetry", ["keep", "free"])
def test_fixed_atoms_stay_exactly(symmetry):
    cell = build_prototypes()["quartz"]
    prediction = predict(cell, symmetry, fixed_atoms=(0, 4, -1))
    before, after = cell.frac_coords, prediction.structure.frac_coords
    assert np.array_equal(after[[0, 4, 8]], before[[0, 4, 8]])
    moved = np.abs(after - before).max(axis=1)
    assert (moved[[1, 2, 3, 5, 6, 7]] > 1e-4).all()
    assert prediction.strain > 0.005


def test_fixed_atoms_keep_the_operations_that_map_them_onto_themselves():
    """Fluorite with its calcium fixed keeps all; with one fluorine fixed it keeps those about that site."""
    cell = build_prototypes()["fluorite"].get_primitive_structure()
    calcium, fluorine = (
        tuple(index for index, site in enumerate(cell) if site.specie.symbol == symbol) for symbol in ("Ca", "F")
    )

    def count(*fixed):
        options = PredictOptions(constraints=Constraints(fixed_atoms=fixed))
        return len(start_passes(cell, options, keeps_symmetry=False).rules.symmetry.loose.rotations)

    assert (count(), count(*calcium), count(*fluorine), count(fluorine[0])) == (48, 48, 48, 24)
    assert predict(cell, fixed_atoms=calcium).structure.get_space_group_info(1e-5)[1] == 225


@pytest.mark.parametrize("symmetry", ["keep", "free"])
def test_selective_dynamics_hold_single_axes(symmetry):
    cell = build_prototypes()["triclinic"].copy()
    switches = [[True, True, True], [True, False, True], [False, False, False]] + [[True] * 3] * 2
    cell.add_site_property("selective_dynamics", switches)
    prediction = predict(cell, symmetry)
    changed = prediction.structure.frac_coords != cell.frac_coords
    assert not changed[~np.array(switches)].any()
    assert changed[np.array(switches)].all()
    assert prediction.structure.site_properties["selective_dynamics"] == switches
    ignored = predict(cell, "free", selective_dynamics=False)
    assert np.abs(ignored.structure.frac_coords - cell.frac_coords).min() > 0


def test_displacements_are_counted_from_fixed_coordinates():
    """Along a: from the fixed atom. Along b and c: from the mean of all."""
    atoms = np.array([[False, True, True], [True, True, True], [True, True, True]])
    given = np.array([[0.1, 0.1, 0.0], [0.3, 0.2, 0.0], [0.0, 0.3, 0.6]])
    constrained = Freedom(atoms, (0, 1, 2)).constrain_displacements(given)
    assert np.allclose(constrained, [[0, -0.1, -0.2], [0.2, 0, -0.2], [-0.1, 0.1, 0.4]], atol=1e-15)
    everything = Freedom(np.zeros((3, 3), dtype=bool), ()).constrain_displacements(given)
    assert np.array_equal(everything, np.zeros((3, 3)))


def test_all_fixed_is_the_input():
    cell = build_prototypes()["quartz"]
    prediction = predict(cell, fixed_atoms=tuple(range(9)), fix_cell=True)
    assert np.array_equal(prediction.structure.frac_coords, cell.frac_coords)
    assert prediction.score == 0.0
    assert prediction.n_passes == 1


def test_constrained_score_counts_only_what_may_move():
    cell = build_prototypes()["rock salt"]
    springs = Predictor(Springs(), "m-1", {}, "cpu")
    options = PredictOptions(stop_below=0.0)
    free = springs.predict([cell], options)[0]
    fixed = springs.predict([cell], options.model_copy(update={"constraints": Constraints(fix_cell=True)}))[0]
    assert free.score > 1e-3
    assert fixed.score < 1e-12


def test_bad_constraints_are_errors_of_their_item():
    good, small = build_prototypes()["quartz"], build_prototypes()["cesium chloride"]
    options = PredictOptions(constraints=Constraints(fixed_atoms=(5,)))
    predictions = BREAKER.predict([good, small], options, ids=["q", "c"])
    assert [p.verdict for p in predictions] == [Verdict.ACCEPT, Verdict.ERROR]
    assert predictions[1].reasons == [Reason.CONSTRAINT]
    assert "c: fixed_atoms names site 5, but there are 2 sites" in predictions[1].message
    bad = small.copy(site_properties={"selective_dynamics": [[True, True, True], "TF"]})
    prediction = BREAKER.predict([bad])[0]
    assert prediction.reasons == [Reason.CONSTRAINT]
    assert "site 1 has selective_dynamics 'TF'" in prediction.message


def test_sites_without_switches_are_free():
    cell = build_prototypes()["cesium chloride"].copy(
        site_properties={"selective_dynamics": [None, [False, True, True]]}
    )
    freedom = resolve_constraints(cell, Constraints())
    assert freedom.atoms.tolist() == [[True] * 3, [False, True, True]]
    assert resolve_constraints(cell, Constraints(fix_cell=True, vacuum_axis="b")).axes == ()
    assert resolve_constraints(cell, Constraints(vacuum_axis="b")).axes == (0, 2)


@pytest.mark.parametrize("symmetry", ["keep", "free"])
@pytest.mark.parametrize("name", ["quartz", "left-handed wurtzite", "fcc, 1x2x3", "triclinic", "rock salt"])
def test_volume_is_kept_and_the_shape_changes(name, symmetry):
    cell = build_prototypes()[name]
    prediction = predict(cell, symmetry, free="shape")
    assert prediction.structure.volume == pytest.approx(cell.volume, rel=1e-13)
    is_cubic = cell.get_space_group_info(1e-5)[1] >= 195
    assert (prediction.strain < 1e-9) == (is_cubic and symmetry == "keep")
    if symmetry == "keep":
        assert prediction.structure.get_space_group_info(1e-5) == cell.get_space_group_info(1e-5)


@pytest.mark.parametrize("symmetry", ["keep", "free"])
@pytest.mark.parametrize("name", ["quartz", "left-handed wurtzite", "fcc, 1x2x3", "triclinic"])
def test_shape_is_kept_and_the_volume_changes(name, symmetry):
    cell = build_prototypes()[name]
    prediction = predict(cell, symmetry, free="volume")
    ratio = prediction.structure.lattice.matrix / np.where(cell.lattice.matrix == 0, np.nan, cell.lattice.matrix)
    assert np.nanmax(np.abs(ratio - np.nanmean(ratio))) < 1e-14
    assert abs(prediction.volume_ratio - 1) > 1e-3
    assert np.nanmean(ratio) ** 3 == pytest.approx(prediction.volume_ratio, rel=1e-12)


def test_a_layer_keeps_its_area_or_its_shape_beside_its_vacuum():
    layer = make_layer()
    same_area = predict(layer, "free", vacuum_axis="c", free="shape").structure.lattice.matrix
    before = layer.lattice.matrix
    assert np.array_equal(same_area[2], before[2])
    assert np.linalg.det(same_area[:2, :2]) == pytest.approx(np.linalg.det(before[:2, :2]), rel=1e-13)
    assert np.abs(same_area - before).max() > 0.01
    scaled = predict(layer, "free", vacuum_axis="c", free="volume").structure.lattice.matrix
    assert np.array_equal(scaled[2], before[2])
    assert scaled[0, 0] / before[0, 0] == pytest.approx(scaled[1, 1] / before[1, 1], rel=1e-14)
    assert abs(scaled[0, 0] - before[0, 0]) > 0.01


def test_ids_do_not_depend_on_how_the_cell_is_held():
    held, sites = Constraints(fix_cell=True), Constraints(free="sites")
    assert held.model_dump() == sites.model_dump()
    assert "free" not in Constraints().model_dump()  # ids of predictions from before the word stay
    assert Constraints.model_validate(sites.model_dump()).holds_cell
    assert Constraints.model_validate(Constraints(free="shape").model_dump()).free == "shape"
    with pytest.raises(ValueError, match=r"error, fix_cell .*free='shape'"):
        Constraints(fix_cell=True, free="shape")
    cell = build_prototypes()["quartz"]
    assert np.array_equal(predict(cell, free="sites").structure.lattice.matrix, cell.lattice.matrix)
