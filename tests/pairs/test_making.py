"""Pairs from outcomes, and the pure functions under them, on numbers worked out by hand."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.util import provenance
from scipy.spatial.transform import Rotation

from e3relax_flows.core.functionals import spell_functional
from e3relax_flows.core.geometry import measure_log_strain
from e3relax_flows.pairs.making import (
    LeftOutError,
    Origin,
    Relaxation,
    holds_sites,
    infer_freedom,
    make_pair,
    pair_outcome,
    settle_relaxed,
)
from e3relax_flows.pairs.prototype_label import label_prototype
from e3relax_flows.schemas.outcomes import OutcomeState, RelaxationResult, StartKind
from e3relax_flows.schemas.pairs import Freedom, LeftOut, PairStart, identify_pair


@pytest.fixture
def wurtzite() -> Structure:
    sites = [[1 / 3, 2 / 3, 0], [2 / 3, 1 / 3, 0.5], [1 / 3, 2 / 3, 0.377], [2 / 3, 1 / 3, 0.877]]
    return Structure(Lattice.hexagonal(3.19, 5.19), ["Ga", "Ga", "N", "N"], sites)


def relax(structure: Structure, **update) -> RelaxationResult:
    """A result that grows the lattice by 1 % and moves the first site by 0.1 along c."""
    relaxed = structure.copy()
    relaxed.apply_strain(0.01)
    relaxed.translate_sites([0], [0, 0, 0.1])
    content = {"initial": structure, "relaxed": relaxed, "converged": True, "code": "VASP", "is_dft": True}
    return RelaxationResult(**(content | {"functional": "PBE", "energy": -3.5, "n_ionic_steps": 7} | update))


def pair(structure: Structure, result: RelaxationResult, **origin):
    return make_pair(Relaxation(result, structure, Origin("o-1", "test", **origin)))


def test_the_relaxed_side_is_near_unrotated_and_without_drift(wurtzite):
    moved = wurtzite.copy()
    moved.apply_strain([0.02, 0.02, -0.01])
    shift = np.array([[0, 0, 0.02], [0, 0, 0.02], [0.01, 0, 0], [0.01, 0, 0]])
    fractions = wurtzite.frac_coords + shift + [0.4, 0.7, 0.9] + [[1, 0, 0], [0, -2, 0], [0, 0, 3], [0, 0, 0]]
    turn = Rotation.from_rotvec([0.3, -0.5, 0.8]).as_matrix()
    turned = Structure(moved.lattice.matrix @ turn, wurtzite.species, fractions)
    settled = settle_relaxed(wurtzite, turned)
    np.testing.assert_allclose(settled.lattice.matrix, moved.lattice.matrix, atol=1e-12)
    np.testing.assert_allclose(settled.frac_coords - wurtzite.frac_coords, shift - shift.mean(axis=0), atol=1e-12)


def test_a_sheared_lattice_is_turned_until_the_deformation_is_symmetric(wurtzite):
    deformation = np.array([[1.0, 0.05, 0.0], [0.0, 0.98, 0.02], [0.01, 0.0, 1.03]])
    sheared = Structure(wurtzite.lattice.matrix @ deformation, wurtzite.species, wurtzite.frac_coords)
    settled = settle_relaxed(wurtzite, sheared)
    found = np.linalg.solve(wurtzite.lattice.matrix, settled.lattice.matrix)
    np.testing.assert_allclose(found, found.T, atol=1e-12)
    np.testing.assert_allclose(settled.lattice.parameters, sheared.lattice.parameters, atol=1e-9)
    np.testing.assert_allclose(
        measure_log_strain(wurtzite.lattice.matrix, settled.lattice.matrix),
        measure_log_strain(wurtzite.lattice.matrix, sheared.lattice.matrix),
        atol=1e-12,
    )


def test_a_mirrored_lattice_is_refused(wurtzite):
    mirrored = Structure(wurtzite.lattice.matrix * [1, 1, -1], wurtzite.species, wurtzite.frac_coords)
    with pytest.raises(LeftOutError, match="handedness") as error:
        settle_relaxed(wurtzite, mirrored)
    assert error.value.reason is LeftOut.SITES_DIFFER


def test_a_pair_has_bare_structures_and_its_labels(wurtzite):
    start = wurtzite.copy(site_properties={"magmom": [1.0, -1.0, 0.0, 0.5]})
    start.add_oxidation_state_by_element({"Ga": 3, "N": -3})
    found = pair(start, relax(wurtzite), id="mp-830", hosts=["f"], job_uuids=["a"])
    assert found.pair_id == identify_pair(found)
    assert found.initial == wurtzite
    assert not found.initial.site_properties
    assert found.relaxed.volume / wurtzite.volume == pytest.approx(1.01**3)
    steps = found.relaxed.frac_coords - wurtzite.frac_coords
    np.testing.assert_allclose(steps[:, 2], [0.075, -0.025, -0.025, -0.025], atol=1e-12)
    assert (found.formula, found.chemical_system, found.n_atoms) == ("GaN", "Ga-N", 4)
    assert found.prototype == "AB_hP4_186_b_b"
    assert (found.functional, found.functional_path, found.code, found.is_dft) == ("PBE", ["PBE"], "VASP", True)
    assert (found.energy, found.n_ionic_steps, found.start_kind) == (-3.5, 7, PairStart.RAW)
    assert (found.id, found.hosts, found.job_uuids) == ("mp-830", ["f"], ["a"])
    assert found.free.is_full


def test_the_id_is_of_the_content_not_of_the_way(wurtzite):
    first = pair(wurtzite, relax(wurtzite))
    assert pair(wurtzite, relax(wurtzite, n_ionic_steps=70, energy=None), id="x", hosts=["g"]).pair_id == first.pair_id
    assert pair(wurtzite, relax(wurtzite, functional="PBEsol")).pair_id != first.pair_id
    assert pair(wurtzite, relax(wurtzite, free=Freedom(volume=False))).pair_id != first.pair_id


@pytest.mark.parametrize(
    ("update", "reason", "words"),
    [
        ({"converged": False}, LeftOut.UNCONVERGED, "did not converge"),
        ({"functional": None}, LeftOut.UNREADABLE, "name the functional"),
        (
            {"functional": "PBE+U", "functionals": ["PBE", "PBE+U"]},
            LeftOut.FUNCTIONALS_DIFFER,
            r"PBE then PBE\+U",
        ),
    ],
)
def test_what_teaches_nothing_says_why(wurtzite, update, reason, words):
    with pytest.raises(LeftOutError, match=words) as error:
        pair(wurtzite, relax(wurtzite, **update))
    assert error.value.reason is reason


def test_sites_and_orders_that_do_not_belong_together_are_refused(wurtzite):
    other = wurtzite.copy()
    other.replace(3, "As")
    swapped = Structure.from_sites([wurtzite[i] for i in (2, 1, 0, 3)])
    strange = wurtzite.copy()
    strange.translate_sites([1], [0, 0, 0.05])
    disordered = wurtzite.copy()
    disordered.replace(0, {"Ga": 0.5, "Al": 0.5})
    broken = Structure(wurtzite.lattice, wurtzite.species, wurtzite.frac_coords * [1, 1, np.nan])
    for initial, result, reason in (
        (wurtzite, relax(other), LeftOut.SITES_DIFFER),
        (wurtzite, relax(wurtzite, relaxed=swapped), LeftOut.SITES_DIFFER),
        (wurtzite, relax(strange), LeftOut.SITES_DIFFER),
        (disordered, relax(wurtzite), LeftOut.DISORDERED),
        (wurtzite, relax(wurtzite, relaxed=broken), LeftOut.UNREADABLE),
    ):
        with pytest.raises(LeftOutError) as error:
            pair(initial, result)
        assert error.value.reason is reason


def test_the_label_of_staged_functionals_is_the_last_and_the_path_is_kept(wurtzite):
    found = pair(wurtzite, relax(wurtzite, functional="r2SCAN", functionals=["PBEsol", "r2SCAN"]))
    assert (found.functional, found.functional_path) == ("r2SCAN", ["PBEsol", "r2SCAN"])


def test_a_potential_is_no_functional(wurtzite):
    found = pair(wurtzite, relax(wurtzite, code="CHGNet", functional="CHGNet (not DFT)", is_dft=False))
    assert (found.functional, found.functional_path, found.is_dft) == ("CHGNet", ["CHGNet"], False)


def test_sites_sorted_by_the_code_come_back_in_the_initial_order():
    lattice = Lattice.tetragonal(4.0, 4.4)
    mixed = Structure(lattice, ["Fe", "O", "Fe", "O"], [[0, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.52]])
    ordered = mixed.get_sorted_structure()
    assert [site.specie.symbol for site in ordered] == ["Fe", "Fe", "O", "O"]
    relaxed = ordered.copy()
    relaxed.translate_sites([3], [0, 0, -0.02])  # the last O, at 0.52
    found = pair(mixed, relax(ordered, relaxed=relaxed))
    assert [site.specie.symbol for site in found.relaxed] == ["Fe", "O", "Fe", "O"]
    steps = found.relaxed.frac_coords - mixed.frac_coords
    np.testing.assert_allclose(steps[:, 2], [0.005, 0.005, 0.005, -0.015], atol=1e-12)


def test_what_was_held_is_known_or_seen(wurtzite):
    grown = relax(wurtzite).relaxed
    still = wurtzite.copy()
    still.translate_sites([0], [0, 0, 0.01])
    assert infer_freedom(wurtzite, grown).is_full
    assert infer_freedom(wurtzite, still) == Freedom(volume=False, shape=False, sites=True)
    stated = Freedom(volume=False)
    assert pair(wurtzite, relax(wurtzite, free=stated)).free == stated
    held = wurtzite.copy(
        site_properties={"selective_dynamics": [[True] * 3, [True, True, False], [True] * 3, [True] * 3]}
    )
    assert pair(held, relax(wurtzite, free=Freedom())).free == Freedom(sites=False)
    free = wurtzite.copy(site_properties={"selective_dynamics": [[True] * 3] * 4})
    assert pair(free, relax(wurtzite)).free.is_full


@pytest.mark.parametrize(
    ("switches", "is_held"),
    [
        ([1, 1, 1], False), (np.array([True] * 3), False), (None, False), ([1, 0, 1], True), ("FFF", True),
        (["T", "F", "T"], True), ([True, True], True), (True, True),
    ],
)  # fmt: skip
def test_switches_that_are_not_three_may_hold(wurtzite, switches, is_held):
    flagged = wurtzite.copy(site_properties={"selective_dynamics": [switches, *[[True] * 3] * 3]})
    assert holds_sites(flagged) == is_held


def test_what_the_relaxed_side_holds_was_held(wurtzite):
    result = relax(wurtzite, free=Freedom())
    result.relaxed.add_site_property("selective_dynamics", [[True] * 3, [False] * 3, [True] * 3, [True] * 3])
    assert pair(wurtzite, result).free == Freedom(sites=False)


def test_a_predicted_start_gives_the_raw_initial_structure(make_prediction, make_outcome):
    prediction, outcome = make_prediction(), make_outcome()
    found = pair_outcome(outcome, prediction)
    assert (found.start_kind, found.model_id, found.source) == (PairStart.PREDICTED, "m-1", "screen")
    assert (found.origin_id, found.prediction_id, found.id) == (outcome.outcome_id, prediction.prediction_id, "feo")
    np.testing.assert_allclose(found.initial.lattice.matrix, prediction.initial.lattice.matrix)
    np.testing.assert_allclose(found.initial.frac_coords, prediction.initial.frac_coords)
    # the engine of the fixture moves nothing, so that the relaxed structure is the predicted one
    np.testing.assert_allclose(found.relaxed.lattice.abc, [4.04, 4.04, 4.4 * 0.98])
    steps = found.relaxed.frac_coords - found.initial.frac_coords
    np.testing.assert_allclose(steps[:, 2], [0.005, 0.005, 0.005, -0.015], atol=1e-9)
    assert not found.free.sites  # the slab has selective dynamics


def test_a_polished_start_gives_the_raw_initial_structure(make_prediction, make_outcome):
    """As a predicted one does: polish is a way to the start, not another structure to learn from."""
    prediction, outcome = make_prediction(), make_outcome()
    outcome = outcome.model_copy(update={"start_kind": StartKind.POLISHED})
    prediction = prediction.model_copy(update={"polished": prediction.structure, "n_polish_steps": 2})
    found = pair_outcome(outcome, prediction)
    assert found.start_kind is PairStart.PREDICTED
    assert found.model_id == "m-1"
    np.testing.assert_allclose(found.initial.lattice.matrix, prediction.initial.lattice.matrix)
    with pytest.raises(LeftOutError, match=rf"{outcome.prediction_id}, .*PREDICTION_STORE"):
        pair_outcome(outcome, None)


@pytest.mark.parametrize(
    ("kind", "start"), [(StartKind.INITIAL, PairStart.RAW), (StartKind.CONTROL, PairStart.CONTROL)]
)
def test_other_starts_need_no_prediction(make_prediction, make_outcome, kind, start):
    outcome = make_outcome(kind=kind)
    with_prediction, without = pair_outcome(outcome, make_prediction()), pair_outcome(outcome, None)
    assert with_prediction.start_kind is start
    assert with_prediction.model_id is None
    assert without.initial.lattice == with_prediction.initial.lattice
    # in the code's order, since the initial structure of the prediction is not known
    assert [site.specie.symbol for site in without.initial] == ["Fe", "Fe", "O", "O"]


def test_outcomes_without_a_pair_say_why(make_prediction, make_outcome):
    for outcome, prediction, reason in (
        (make_outcome(), None, LeftOut.START_UNKNOWN),
        (make_outcome(), make_prediction().model_copy(update={"prediction_id": "p-2"}), LeftOut.START_UNKNOWN),
        (make_outcome(ionic=None), make_prediction(), LeftOut.FAILED),
        (make_outcome(converged=False), make_prediction(), LeftOut.UNCONVERGED),
    ):
        with pytest.raises(LeftOutError) as error:
            pair_outcome(outcome, prediction)
        assert error.value.reason is reason
    assert make_outcome(converged=False).state is OutcomeState.UNCONVERGED


def test_siblings_have_one_prototype_whatever_their_cells():
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    oxide = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.2), ["O", "Mg"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    labels = {label_prototype(s) for s in (salt, salt.get_primitive_structure(), oxide, salt * (2, 1, 1))}
    assert labels == {"AB_cF8_225_a_b"}
    assert not provenance.is_valid_bibtex("no reference")  # not checked while pymatgen's prototypes are loaded, only
    cesium = Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.1), ["Cs", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert label_prototype(cesium) == "AB_cP2_221_a_b"
    overlapping = Structure(Lattice.cubic(3), ["Na", "Cl", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert label_prototype(overlapping) == "AB2_3_unknown"
    tiny = Structure(Lattice.cubic(0.3), ["Na", "Cl"], [[0, 0, 0], [0.4, 0.5, 0.3]])  # moyo does not come back from it
    flat = Structure(Lattice([[4, 0, 0], [0, 4, 0], [4, 4, 1e-9]]), ["Na"], [[0, 0, 0]])
    assert [label_prototype(s) for s in (tiny, flat)] == ["AB_2_unknown", "A_1_unknown"]


def test_many_elements_of_equal_numbers_are_labelled_too():
    elements = ["Li", "Na", "K", "Rb", "Cs", "F", "Cl", "Br"]  # 40320 exchanges
    chain = Structure(Lattice.tetragonal(5, 24), elements, [[0, 0, z / 8] for z in range(8)])
    label = label_prototype(chain)
    assert label == label_prototype(Structure.from_sites(list(reversed(chain))))
    assert label.startswith("ABCDEFGH_tP8_99_")


coordinates = st.floats(0.0, 0.99)
numbers = st.one_of(st.floats(-20, 20), st.sampled_from([math.nan, math.inf, -math.inf]))


@settings(max_examples=80, deadline=None)
@given(
    st.lists(st.tuples(coordinates, coordinates, coordinates), min_size=2, max_size=4),
    st.lists(st.floats(-0.3, 0.3), min_size=18, max_size=18),
    st.lists(st.floats(-0.2, 0.2), min_size=12, max_size=12),
    st.fixed_dictionaries(
        {},
        optional={
            "energy": st.one_of(st.none(), numbers),
            "converged": st.booleans(),
            "conditions": st.lists(st.sampled_from(["EFIELD = 1: an electric field", "a charge of +1"]), max_size=2),
            "functional": st.sampled_from([None, "PBE", "PBESol", "R2SCAN+U", "PBE at 5 GPa"]),
            "functionals": st.lists(st.sampled_from(["PBE", "PBE+U", "PBESol"]), max_size=3),
            "is_dft": st.booleans(),
        },
    ),
    st.sampled_from([None, 0, 1]),
)
def test_what_a_relaxation_gives_keeps_the_rules_of_pairs(sites, strains, moves, update, broken):
    """Any relaxation gives a sound pair or a reason; a sound one is spelled, finite, settled and settles no further."""
    first, last = (4.5 * np.eye(3) + np.reshape(part, (3, 3)) for part in (strains[:9], strains[9:]))
    species = ["Ga", "N", "O", "Na"][: len(sites)]
    initial = Structure(first, species, sites)
    end = np.array(sites) + np.reshape(moves, (4, 3))[: len(sites)]
    if broken is not None:
        end[broken] = math.nan
    content = {"converged": True, "code": "VASP", "is_dft": True, "functional": "PBE"} | update
    result = RelaxationResult(initial=initial, relaxed=Structure(last, species, end), **content)
    sound = (
        broken is None
        and (result.energy is None or math.isfinite(result.energy))
        and result.converged
        and not result.conditions
        and (result.functional is not None or not result.is_dft)
    )
    mixed = result.is_dft and len({"+U" in name for name in result.functionals}) > 1
    if not sound or mixed:
        with pytest.raises(LeftOutError):
            make_pair(Relaxation(result, initial, Origin("o-1", "test")))
        return
    pair = make_pair(Relaxation(result, initial, Origin("o-1", "test")))
    assert pair.is_finite
    assert pair.functional == spell_functional(pair.functional)
    assert pair.pair_id == identify_pair(pair)
    drift = (pair.relaxed.frac_coords - pair.initial.frac_coords).mean(axis=0)
    np.testing.assert_allclose(drift, 0, atol=1e-9)
    again = settle_relaxed(pair.initial, pair.relaxed)
    np.testing.assert_allclose(again.lattice.matrix, pair.relaxed.lattice.matrix, atol=1e-7)
    np.testing.assert_allclose(again.frac_coords, pair.relaxed.frac_coords, atol=1e-7)
