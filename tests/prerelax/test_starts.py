"""Which candidates are relaxed and from where, decided on documents alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.electronic_structure.core import Magmom

from e3relax_flows.candidates.duplicates import find_duplicates
from e3relax_flows.core.errors import ConfigError, StructureError
from e3relax_flows.core.ids import draw_uniform, identify_structure
from e3relax_flows.prerelax.starts import (
    StartRules,
    choose_starts,
    describe_prediction,
    fill_outcomes,
    is_reusable,
    plan_outcomes,
    take_start,
)
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, CandidateState


def make_structure(a: float = 4.0, element: str = "Cu", **properties: list) -> Structure:
    return Structure(Lattice.cubic(a), [element, "O"], [[0, 0, 0], [0.5, 0.5, 0.5]], site_properties=properties or None)


def make_prediction(
    initial: Structure, structure: Structure | None = None, verdict: Verdict = Verdict.ACCEPT, **fields: object
) -> PredictionDoc:
    structure_id = identify_structure(initial)
    return PredictionDoc(
        initial=initial,
        structure=structure if structure is not None else initial,
        verdict=verdict,
        model_id="m" * 16,
        prediction_id="p" + structure_id,
        structure_id=structure_id,
        options=PredictOptions(),
        **fields,
    )


def make_outcome(outcome_id: str, state: OutcomeState, kind: StartKind = StartKind.PREDICTED) -> OutcomeDoc:
    return OutcomeDoc(
        outcome_id=outcome_id,
        prediction_id="p",
        structure_id="s",
        model_id="m",
        engine="emt",
        engine_id="e",
        start_kind=kind,
        state=state,
    )


@pytest.mark.parametrize(
    ("verdict", "rules", "starts"),
    [
        (Verdict.ACCEPT, StartRules(control=0), [StartKind.PREDICTED]),
        (Verdict.ACCEPT, StartRules(control=1), [StartKind.CONTROL]),
        (Verdict.ACCEPT, StartRules(control=1, paired_controls=True), [StartKind.PREDICTED, StartKind.CONTROL]),
        (Verdict.REFUSE, StartRules("initial", control=1), [StartKind.INITIAL]),
        (Verdict.REFUSE, StartRules("skip", control=1), []),
        (Verdict.REFUSE, StartRules("fail"), []),
        (Verdict.ERROR, StartRules("initial", control=1), []),
    ],
)
def test_starts_follow_verdict_and_rules(verdict: Verdict, rules: StartRules, starts: list[StartKind]) -> None:
    assert choose_starts(make_prediction(make_structure(), verdict=verdict), rules) == starts


def test_controls_are_the_drawn_fraction_and_depend_on_id_and_seed_only() -> None:
    predictions = [make_prediction(make_structure(3 + 0.001 * i)) for i in range(1000)]

    def draw(seed: int) -> list[bool]:
        rules = StartRules(control=0.1, seed=seed)
        return [choose_starts(p, rules) == [StartKind.CONTROL] for p in predictions]

    controls = draw(0)
    assert controls == [draw_uniform(0, str(p.structure_id)) < 0.1 for p in predictions]
    assert controls == draw(0)
    assert controls != draw(1)
    # four standard deviations of a binomial of 1000 at 0.1
    assert abs(sum(controls) - 100) < 38


@pytest.mark.parametrize("rules", [{"on_refuse": "maybe"}, {"control": 1.1}, {"control": -0.1}])
def test_wrong_rules_are_refused(rules: dict) -> None:
    with pytest.raises(ConfigError, match=r"can be|between 0 and 1"):
        StartRules(**rules)


def test_the_start_is_the_structure_that_its_kind_names() -> None:
    prediction = make_prediction(make_structure(4.0), make_structure(4.2))
    assert take_start(prediction, StartKind.PREDICTED).lattice.a == pytest.approx(4.2)
    assert take_start(prediction, StartKind.INITIAL).lattice.a == pytest.approx(4.0)
    assert take_start(prediction, StartKind.CONTROL).lattice.a == pytest.approx(4.0)


def test_an_error_has_no_start_and_says_why() -> None:
    error = make_prediction(
        make_structure(), verdict=Verdict.ERROR, reasons=[Reason.DISORDERED], message="site 3 has occupancy 0.5"
    )
    with pytest.raises(StructureError, match="site 3 has occupancy") as caught:
        take_start(error, StartKind.INITIAL)
    assert caught.value.code == Reason.DISORDERED


def test_duplicates_among_predictions() -> None:
    """Another origin, cell and initial volume make a duplicate; another volume, element or lattice does not."""
    reference = make_structure(4.0)
    shifted = reference.copy().translate_sites([0, 1], [0.1, 0.2, 0.3])
    doubled = reference.copy().make_supercell([[1, 1, 0], [0, 1, 0], [0, 0, 2]])
    rock_salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(4.6), ["Cu", "O"], [[0, 0, 0], [0.5, 0.5, 0.5]])
    predictions = [
        make_prediction(make_structure(4.1), reference),
        make_prediction(make_structure(4.1, "Ni"), make_structure(4.0, "Ni")),
        make_prediction(make_structure(4.2), shifted),
        None,
        make_prediction(make_structure(4.3), doubled),
        make_prediction(make_structure(4.4), make_structure(4.4)),
        make_prediction(make_structure(4.5), rock_salt),
    ]
    assert find_duplicates(predictions) == {2: 0, 4: 0}
    assert find_duplicates(predictions, compare=False) == {}


def test_equal_ids_are_duplicates_of_what_is_kept() -> None:
    first, second = make_prediction(make_structure(4.1), make_structure()), make_prediction(make_structure(4.2))
    second = second.model_copy(update={"structure": make_structure()})
    assert find_duplicates([first, second, second, first]) == {1: 0, 2: 0, 3: 0}
    assert find_duplicates([first, second, second, first], compare=False) == {2: 1, 3: 0}


def test_magnetic_orders_are_different_candidates() -> None:
    up = make_prediction(make_structure(4.1), make_structure(4.0, magmom=[5.0, 0.0]))
    down = make_prediction(make_structure(4.2), make_structure(4.0, magmom=[-5.0, 0.0]))
    again = make_prediction(make_structure(4.3), make_structure(4.0, magmom=[5.0, 0.0]))
    assert find_duplicates([up, down, again]) == {2: 0}
    assert "spin" not in str(up.structure[0].species)


@pytest.mark.parametrize(
    ("moments", "others", "equal"),
    [
        ([5.0, None], [-5.0, None], False),
        ([5.0, None], [5.0, None], True),
        (np.array([5, 0]), np.array([-5, 0]), False),
        ([Magmom(5.0), Magmom(0.0)], [Magmom(-5.0), Magmom(0.0)], False),
        ([[0, 0, 5], [0, 0, 0]], [[0, 0, -5], [0, 0, 0]], False),
        (["up", "none"], ["down", "none"], False),
    ],
)
def test_moments_of_all_kinds_make_a_difference(moments: Any, others: Any, equal: bool) -> None:
    """A candidate in another magnetic order would be lost if it were taken for a duplicate."""
    first = make_prediction(make_structure(4.1), make_structure(4.0, magmom=moments))
    second = make_prediction(make_structure(4.2), make_structure(4.0, magmom=others))
    assert find_duplicates([first, second]) == ({1: 0} if equal else {})


def test_selective_dynamics_refused_and_errors_are_not_compared() -> None:
    frozen = make_structure(4.0, selective_dynamics=[[True] * 3, [False] * 3])
    predictions = [
        make_prediction(make_structure(4.1)),
        make_prediction(make_structure(4.2), frozen),
        make_prediction(make_structure(4.3), frozen),
        make_prediction(make_structure(4.4), make_structure(4.1), verdict=Verdict.REFUSE),
        make_prediction(make_structure(4.5), make_structure(4.1), verdict=Verdict.ERROR),
    ]
    assert find_duplicates(predictions) == {}


def test_a_small_distortion_is_no_duplicate() -> None:
    """An ion 0.4 Å off centre in a cell of 4 Å: pymatgen's own tolerances would take it for its parent."""
    shifted = make_structure()
    shifted.translate_sites([1], np.array([0, 0, 0.4]) / 4.0)
    assert find_duplicates([make_prediction(make_structure()), make_prediction(make_structure(4.1), shifted)]) == {}


def make_row(prediction: PredictionDoc, rules: StartRules) -> CandidateRow:
    row = CandidateRow(id="a", state=CandidateState.PREDICTED, **describe_prediction(prediction))
    plan_outcomes(row, rules, "engine")
    return row


def test_rows_say_what_is_planned() -> None:
    accepted, refused = make_prediction(make_structure(4.0)), make_prediction(make_structure(5.0), verdict="refuse")
    error = make_prediction(make_structure(6.0), verdict="error", message="zero volume")
    rows = [make_row(prediction, StartRules("skip")) for prediction in (accepted, refused, error)]
    assert rows[0].outcomes[0].outcome_id == identify_outcome(accepted.prediction_id, "engine", StartKind.PREDICTED)
    assert [len(row.outcomes) for row in rows] == [1, 0, 0]
    assert [row.message for row in rows] == [None, None, "zero volume"]
    assert rows[0].formula == "CuO"


def test_outcomes_fill_rows() -> None:
    prediction = make_prediction(make_structure())
    rules = StartRules(control=1, paired_controls=True)
    row = make_row(prediction, rules)
    first, second = (outcome.outcome_id for outcome in row.outcomes)
    fill_outcomes([row], {first: make_outcome(first, OutcomeState.SUCCESSFUL)}, reused=True)
    assert [outcome.state for outcome in row.outcomes] == ["successful", None]
    fill_outcomes([row], {second: make_outcome(second, OutcomeState.UNCONVERGED)}, reused=False)
    assert [outcome.state for outcome in row.outcomes] == ["successful", "unconverged"]
    assert [outcome.reused for outcome in row.outcomes] == [True, False]


def test_only_failures_are_tried_again() -> None:
    failed, done = make_outcome("f", OutcomeState.FAILED), make_outcome("d", OutcomeState.UNCONVERGED)
    assert is_reusable(failed, retry_failed=False)
    assert not is_reusable(failed, retry_failed=True)
    assert is_reusable(done, retry_failed=True)
    assert not is_reusable(None, retry_failed=False)
