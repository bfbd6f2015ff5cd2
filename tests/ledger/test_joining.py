"""Joins of predictions with results: site orders, errors with known values, basins, savings."""

from __future__ import annotations

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.core.errors import EngineError
from e3relax_flows.ledger.joining import (
    align_sites,
    join_outcome,
    measure_errors,
    reorder_sites,
    share_basin,
)
from e3relax_flows.ledger.savings import summarize_savings
from e3relax_flows.schemas.outcomes import OutcomeState, RelaxationResult, StartKind, identify_outcome

EXACT = 1e-9


@pytest.fixture
def mixed() -> Structure:
    """Four sites of two elements in alternating order, none symmetric to another."""
    return Structure(
        Lattice.from_parameters(4.0, 4.6, 5.3, 80, 95, 100),
        ["Fe3+", "O2-", "Fe3+", "O2-"],
        [[0.01, 0.02, 0.03], [0.5, 0.47, 0.1], [0.52, 0.1, 0.55], [0.0, 0.5, 0.49]],
        site_properties={"magmom": [1.0, 2.0, 3.0, 4.0]},
    )


def make_result(initial: Structure, relaxed: Structure, **fields) -> RelaxationResult:
    return RelaxationResult(
        initial=initial, relaxed=relaxed, **{"converged": True, "code": "T", "is_dft": True} | fields
    )


# -- sites ---------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("seed", range(5))
def test_align_sites_undoes_any_order_image_and_rotation(mixed, seed):
    random = np.random.default_rng(seed)
    order = random.permutation(4)
    rotation = np.linalg.qr(random.normal(size=(3, 3)))[0]
    images = random.integers(-2, 3, size=(4, 3))
    noise = random.normal(scale=1e-5, size=(4, 3))
    shuffled = Structure(
        mixed.lattice.matrix @ rotation,
        [mixed[i].specie.element for i in order],
        (mixed.frac_coords + images + noise)[order],
    )
    assert align_sites(mixed, shuffled) == np.argsort(order).tolist()


def test_align_sites_takes_the_best_assignment_of_close_atoms():
    """Each atom's nearest neighbour alone would give one partner to both."""
    lattice = Lattice.cubic(10)
    reference = Structure(lattice, ["H", "H"], [[0.100, 0, 0], [0.104, 0, 0]])
    moved = Structure(lattice, ["H", "H"], [[0.107, 0, 0], [0.103, 0, 0]])
    assert align_sites(reference, moved) == [1, 0]


def test_align_sites_refuses_another_crystal(mixed):
    other = mixed.copy()
    other.replace(0, "Co")
    with pytest.raises(EngineError, match=r"relaxed Fe1 Co1 O2|relaxed Co1 Fe1 O2|relaxed .*Co1.*given"):
        align_sites(mixed, other)
    moved = mixed.copy()
    moved.translate_sites([1], [0.0, 0.0, 0.3], frac_coords=False)
    with pytest.raises(EngineError, match=r"0\.30 Å away"):
        align_sites(mixed, moved)
    assert align_sites(mixed, moved, tolerance=0.31) == [0, 1, 2, 3]
    strained = mixed.copy()
    strained.apply_strain([0.01, 0, 0])
    with pytest.raises(EngineError, match=r"strained by 0\.01"):
        align_sites(mixed, strained)


def test_reorder_sites_keeps_what_belongs_to_the_structure(mixed):
    mixed.set_charge(2)
    mixed.properties["note"] = "kept"
    back = reorder_sites(mixed, [3, 1, 0, 2])
    assert back.site_properties["magmom"] == [4.0, 2.0, 1.0, 3.0]
    assert (back.charge, back.properties) == (2, {"note": "kept"})
    assert np.array_equal(back.lattice.matrix, mixed.lattice.matrix)


# -- errors --------------------------------------------------------------------------------------------------------


def test_errors_have_their_textbook_values():
    """One of two atoms 0.2 Å away is 0.1 Å for both without drift; 1 % on one axis is ln 1.01."""
    relaxed = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    moved = relaxed.copy()
    moved.translate_sites([1], [0.2, 0, 0], frac_coords=False)
    errors = measure_errors(moved, relaxed)
    assert errors.displacement == pytest.approx(0.1, abs=EXACT)
    assert errors.strain == pytest.approx(0, abs=EXACT)
    assert errors.volume == pytest.approx(0, abs=EXACT)

    stretched = relaxed.copy()
    stretched.apply_strain([0.01, 0, 0])
    errors = measure_errors(stretched, relaxed)
    assert errors.displacement == pytest.approx(0, abs=EXACT)
    assert errors.strain == pytest.approx(np.log(1.01), abs=EXACT)
    assert errors.volume == pytest.approx(0.01, abs=EXACT)

    swollen = relaxed.copy()
    swollen.scale_lattice(relaxed.volume * 1.2)
    errors = measure_errors(swollen, relaxed)
    assert errors.strain == pytest.approx(np.log(1.2) / np.sqrt(3), abs=EXACT)
    assert errors.volume == pytest.approx(0.2, abs=EXACT)


def test_displacements_are_measured_in_the_relaxed_lattice():
    relaxed = Structure(Lattice.cubic(5.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.52]])
    predicted = Structure(Lattice.cubic(4.0), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    assert measure_errors(predicted, relaxed).displacement == pytest.approx(0.02 * 5.0 / 2, abs=EXACT)


def test_share_basin_ignores_charges_and_volume_but_not_the_structure():
    cesium_chloride = Structure.from_spacegroup("Pm-3m", Lattice.cubic(4.0), ["Cs+", "Cl-"], [[0] * 3, [0.5] * 3])
    plain = cesium_chloride.copy().remove_oxidation_states()
    plain.scale_lattice(plain.volume * 1.3)
    assert share_basin(cesium_chloride, plain)
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Cs", "Cl"], [[0] * 3, [0.5] * 3])
    assert not share_basin(cesium_chloride, rock_salt.get_primitive_structure())


# -- joins ---------------------------------------------------------------------------------------------------------


def sort_and_strip(structure: Structure) -> Structure:
    """As MP's input sets do."""
    plain = structure.copy()
    plain.unset_charge()
    return plain.remove_oxidation_states().get_sorted_structure()


def test_join_maps_the_engine_order_back(make_prediction):
    """Relaxed is predicted with one oxygen moved by 0.4 Å; zipping the orders would give more than 1 Å."""
    prediction = make_prediction()
    relaxed = prediction.structure.copy()
    relaxed.translate_sites([3], [0.4, 0, 0], frac_coords=False)
    result = make_result(sort_and_strip(prediction.structure), sort_and_strip(relaxed), n_ionic_steps=7)
    assert [site.specie.symbol for site in result.initial] == ["Fe", "Fe", "O", "O"]

    doc = join_outcome(prediction, StartKind.PREDICTED, "vasp", "e-1", result, job_uuids=["u-1"])
    assert doc.outcome_id == identify_outcome(prediction.prediction_id, "e-1", StartKind.PREDICTED)
    assert (doc.id, doc.model_id, doc.structure_id) == ("feo", "m-1", prediction.structure_id)
    assert (doc.engine, doc.engine_id, doc.job_uuids) == ("vasp", "e-1", ["u-1"])
    assert doc.state is OutcomeState.SUCCESSFUL
    # drift of a quarter removed: three atoms move 0.1, one 0.3
    assert doc.prediction_errors.displacement == pytest.approx(0.4 * (3 / 4 + 3 / 4) / 4, abs=EXACT)
    assert doc.prediction_errors.strain == pytest.approx(0, abs=EXACT)
    assert doc.initial_errors.strain == pytest.approx(np.linalg.norm(np.log([1.01, 1.01, 0.98])), abs=1e-6)
    assert doc.same_basin is True
    assert doc.result == result


def test_join_of_a_control_starts_at_the_initial_structure(make_prediction):
    prediction = make_prediction()
    result = make_result(sort_and_strip(prediction.initial), sort_and_strip(prediction.structure))
    doc = join_outcome(prediction, StartKind.CONTROL, "vasp", "e-1", result)
    assert doc.prediction_errors.displacement == pytest.approx(0, abs=EXACT)
    assert doc.prediction_errors.volume == pytest.approx(0, abs=EXACT)
    assert doc.initial_errors.volume == pytest.approx(abs(1 / (1.01**2 * 0.98) - 1), abs=EXACT)
    with pytest.raises(EngineError, match="strained by"):
        join_outcome(prediction, StartKind.PREDICTED, "vasp", "e-1", result)


def test_join_of_a_polished_start_measures_every_start(make_prediction):
    """Initial, predicted and polished are all kept; the relaxation began at the last of them."""
    prediction = make_prediction()
    polished = prediction.structure.copy()
    polished.apply_strain([0.0, 0.0, 0.01])
    prediction = prediction.model_copy(update={"polished": polished, "n_polish_steps": 4})
    start = sort_and_strip(polished)
    outcome = join_outcome(prediction, StartKind.POLISHED, "fake", "e-1", make_result(start, start))
    assert outcome.state == "successful"
    assert outcome.polished_errors.strain == pytest.approx(0.0, abs=1e-9)
    assert outcome.prediction_errors.strain == pytest.approx(np.log(1.01))
    assert outcome.initial_errors.strain > outcome.prediction_errors.strain
    assert outcome.outcome_id == identify_outcome(prediction.prediction_id, "e-1", StartKind.POLISHED)
    with pytest.raises(EngineError, match=rf"{make_prediction().prediction_id} .* polished "):
        join_outcome(make_prediction(), StartKind.POLISHED, "fake", "e-1", None)


def test_a_polished_start_saves_as_a_predicted_one_does(make_outcome):
    polished = make_outcome(ionic=4, electronic=40).model_copy(update={"start_kind": StartKind.POLISHED})
    control = make_outcome(kind=StartKind.CONTROL, ionic=8, electronic=80)
    summary = summarize_savings([polished, control])
    assert (summary.n_predicted, summary.n_control) == (1, 1)
    assert (summary.ionic.n_pairs, summary.ionic.ratio) == (1, 0.5)


def test_join_tells_unconverged_and_failed_from_successful(make_prediction):
    prediction = make_prediction()
    start = sort_and_strip(prediction.structure)
    doc = join_outcome(
        prediction, StartKind.PREDICTED, "v", "e", make_result(start, start, converged=False), "time is up"
    )
    assert (doc.state, doc.message, doc.same_basin) == (OutcomeState.UNCONVERGED, "time is up", None)
    assert doc.prediction_errors is None
    assert doc.initial_errors is None
    assert doc.result is not None
    doc = join_outcome(prediction, StartKind.PREDICTED, "v", "e", None)
    assert (doc.state, doc.message, doc.result) == (OutcomeState.FAILED, "the engine left no structure", None)


def test_join_refuses_what_does_not_belong_together(make_prediction):
    prediction = make_prediction()
    start = sort_and_strip(prediction.structure)
    with pytest.raises(EngineError, match=r"Fe2 O2 .* order "):
        join_outcome(prediction, StartKind.PREDICTED, "v", "e", make_result(start, reorder_sites(start, [3, 2, 1, 0])))
    without = prediction.model_copy(update={"structure": None})
    with pytest.raises(EngineError, match=rf"{prediction.prediction_id} .* predicted "):
        join_outcome(without, StartKind.PREDICTED, "v", "e", None)
    assert join_outcome(without, StartKind.INITIAL, "v", "e", None).state is OutcomeState.FAILED


# -- savings -------------------------------------------------------------------------------------------------------


def test_savings_without_controls_state_no_saving(make_outcome):
    summary = summarize_savings([make_outcome(str(n), 4 + n / 10, ionic=n) for n in (2, 3, 10)])
    assert (summary.n_candidates, summary.n_predicted, summary.n_control) == (3, 3, 0)
    assert summary.predicted.mean_ionic_steps == pytest.approx(5)
    assert summary.predicted.median_ionic_steps == 3
    assert summary.control is None
    assert summary.ionic is None
    assert summary.electronic is None
    assert summary.is_dft is True
    empty = summarize_savings([])
    assert (empty.n_candidates, empty.predicted, empty.is_dft, empty.engines) == (0, None, None, [])


def test_savings_are_measured_on_pairs(make_outcome):
    """Steps 4/10, 6/10, 20 alone, and a pair whose control failed: only the first two make the ratio."""
    pairs = [(4.0, 4, 10), (4.1, 6, 10)]
    outcomes = [make_outcome("p", length, ionic=steps, electronic=10 * steps) for length, steps, _ in pairs]
    outcomes += [
        make_outcome("c", length, StartKind.CONTROL, ionic=steps, electronic=20 * steps) for length, _, steps in pairs
    ]
    outcomes += [make_outcome("alone", 4.2, ionic=20, electronic=None)]
    outcomes += [make_outcome("x", 4.3, ionic=9), make_outcome("x", 4.3, StartKind.CONTROL, ionic=None)]
    outcomes += [make_outcome("refused", 4.4, StartKind.INITIAL, ionic=30)]
    outcomes += [make_outcome("slow", 4.5, ionic=99, converged=False)]

    summary = summarize_savings(outcomes)
    assert summary.n_candidates == 6
    assert (summary.n_predicted, summary.n_control, summary.n_initial) == (5, 3, 1)
    assert (summary.n_failed, summary.n_unconverged, summary.n_broken_pairs) == (1, 1, 1)
    assert summary.predicted.n == 4
    assert summary.predicted.mean_ionic_steps == pytest.approx((4 + 6 + 20 + 9) / 4)
    assert summary.predicted.mean_electronic_steps == pytest.approx((40 + 60 + 50) / 3)
    assert summary.control.mean_ionic_steps == 10
    assert summary.ionic.n_pairs == 2
    assert summary.ionic.ratio == pytest.approx(0.5)
    # resampling two pairs gives 0.4, 0.5 or 0.6, the outer ones a quarter of the time each
    assert (summary.ionic.low, summary.ionic.high) == (pytest.approx(0.4), pytest.approx(0.6))
    assert summary.electronic.ratio == pytest.approx(0.25)
    assert summarize_savings(outcomes) == summary


def test_the_bootstrap_interval_covers_what_it_should(make_outcome):
    """Of 40 pairs with controls of 20 steps: the interval is near mean ± 1.96 standard errors, and seeded."""
    random = np.random.default_rng(3)
    steps = random.integers(5, 16, 40)
    template, control = make_outcome(ionic=1), make_outcome(kind=StartKind.CONTROL, ionic=20)
    outcomes = []
    for n, count in enumerate(steps):
        result = template.result.model_copy(update={"n_ionic_steps": int(count)})
        outcomes.append(template.model_copy(update={"structure_id": str(n), "result": result}))
        outcomes.append(control.model_copy(update={"structure_id": str(n)}))
    saving = summarize_savings(outcomes, seed=1).ionic
    ratio, error = steps.mean() / 20, steps.std() / 20 / np.sqrt(40)
    assert saving.ratio == pytest.approx(ratio)
    assert saving.low == pytest.approx(ratio - 1.96 * error, abs=0.2 * error)
    assert saving.high == pytest.approx(ratio + 1.96 * error, abs=0.2 * error)
    assert summarize_savings(outcomes, seed=1).ionic == saving
    assert summarize_savings(outcomes, seed=2).ionic != saving


def test_pairs_need_the_same_engine(make_outcome):
    predicted, control = make_outcome(), make_outcome(kind=StartKind.CONTROL, ionic=10)
    assert summarize_savings([predicted, control]).ionic.ratio == pytest.approx(0.5)
    assert summarize_savings([predicted, control]).ionic.low is None
    other = control.model_copy(update={"engine_id": "engine-2"})
    assert summarize_savings([predicted, other]).ionic is None


def test_a_result_as_plain_json_comes_back() -> None:
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.6), ["Na", "Cl"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    result = RelaxationResult(initial=salt, relaxed=salt * (2, 1, 1), converged=True, code="VASP", is_dft=True)
    assert RelaxationResult.model_validate_json(result.model_dump_json()) == result


@pytest.mark.parametrize(("strain", "shift", "is_near"), [(0.02, 0.1, True), (0.02, 0.5, False), (0.3, 0.0, False)])
def test_what_is_near_in_its_order_is_one_basin_as_the_matcher_says(strain, shift, is_near):
    from pymatgen.analysis.structure_matcher import ElementComparator, StructureMatcher

    from e3relax_flows.ledger.joining import _is_near

    random = np.random.default_rng(3)
    matcher = StructureMatcher(primitive_cell=False, comparator=ElementComparator())
    for number in range(6):
        lattice = Lattice.from_parameters(4.0, 4.6, 5.3, 81 + number, 97, 104)
        start = Structure(lattice, ["Na", "Cl", "Na", "Cl"], random.random((4, 3)) * 0.3 + [[0, 0, 0], [0.5, 0.5, 0.5],
            [0.5, 0, 0.5], [0, 0.5, 0]])  # fmt: skip
        shear = np.array([[1, strain, 0], [0, 1, 0], [0, 0, 1]])
        steps = random.normal(size=(4, 3))
        steps *= shift / np.linalg.norm(steps, axis=1, keepdims=True)
        end = Structure(start.lattice.matrix @ shear * 1.05, start.species, start.frac_coords)
        end.translate_sites([1], steps[1], frac_coords=False)
        assert _is_near(start, end) is is_near
        if is_near:
            assert matcher.fit(start, end)
        assert not _is_near(start, Structure.from_sites(list(end)[::-1]))
