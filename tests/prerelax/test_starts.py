"""Which candidates are relaxed and from where, decided on documents alone."""

from __future__ import annotations

from typing import Any

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from pymatgen.core import Lattice, Structure
from pymatgen.electronic_structure.core import Magmom

from e3relax_flows.candidates.duplicates import find_duplicates
from e3relax_flows.core.errors import ConfigError, StructureError
from e3relax_flows.core.ids import draw_uniform, identify_structure
from e3relax_flows.prerelax.starts import (
    ARMS,
    ON_REFUSE,
    SERVED,
    OnRefuse,
    Served,
    StartRules,
    choose_starts,
    describe_prediction,
    fill_outcomes,
    is_reusable,
    merge_arms,
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
        (Verdict.ACCEPT, StartRules(), [StartKind.PREDICTED]),
        (Verdict.ACCEPT, StartRules(arms={"initial": 1}), [StartKind.PREDICTED, StartKind.CONTROL]),
        (Verdict.ACCEPT, StartRules(arms={"initial": 1}, paired_controls=False), [StartKind.CONTROL]),
        (
            Verdict.ACCEPT,
            StartRules(arms={"initial": 1}, paired_controls=True),
            [StartKind.PREDICTED, StartKind.CONTROL],
        ),
        (Verdict.REFUSE, StartRules("initial", {"initial": 1}), [StartKind.INITIAL]),
        (Verdict.REFUSE, StartRules("skip", {"initial": 1}), []),
        (Verdict.REFUSE, StartRules("fail"), []),
        (Verdict.ERROR, StartRules("initial", {"initial": 1}), []),
    ],
)
def test_starts_follow_verdict_and_rules(verdict: Verdict, rules: StartRules, starts: list[StartKind]) -> None:
    assert choose_starts(make_prediction(make_structure(), verdict=verdict), rules) == starts


def test_controls_are_the_drawn_fraction_and_depend_on_id_and_seed_only() -> None:
    predictions = [make_prediction(make_structure(3 + 0.001 * i)) for i in range(1000)]

    def draw(seed: int) -> list[bool]:
        rules = StartRules(arms={"initial": 0.1}, seed=seed)
        return [StartKind.CONTROL in choose_starts(p, rules) for p in predictions]

    controls = draw(0)
    assert controls == [draw_uniform(0, str(p.structure_id)) < 0.1 for p in predictions]
    assert controls == draw(0)
    assert controls != draw(1)
    # four standard deviations of a binomial of 1000 at 0.1
    assert abs(sum(controls) - 100) < 38


@pytest.mark.parametrize(
    ("rules", "message"),
    [
        ({"on_refuse": "maybe"}, "on_refuse .*'maybe'; .*'initial', "),
        ({"served": "polished"}, "served .*'polished'; .*'predicted', 'initial'"),
        ({"arms": {"initial": 1.1}}, r"'initial' .* 1\.1; .* 0 and 1"),
        ({"arms": {"predicted": -0.1}}, r"'predicted' .* -0\.1;"),
        ({"arms": {"predicted": True}}, "'predicted' .* True;"),
        ({"arms": {"relaxed": 0.1}}, "unknown arm 'relaxed'; known: initial, predicted, polished"),
    ],
)
def test_wrong_rules_are_refused(rules: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        StartRules(**rules)


def test_control_is_the_short_form_of_an_arm() -> None:
    assert merge_arms(0.2, None) == {"initial": 0.2}
    assert list(merge_arms(0.1, {"predicted": 0.3, "initial": 0.2})) == ["initial", "predicted"]
    assert merge_arms(0.1, {"predicted": 0.3}) == {"predicted": 0.3}
    assert merge_arms(0.2, {"initial": 0.2}) == {"initial": 0.2}
    with pytest.raises(ConfigError, match=r"0\.3 .*\{'initial': 0\.2\}; .*\{initial: 0\.3\}"):
        merge_arms(0.3, {"initial": 0.2})


@given(
    st.sampled_from([Verdict.ACCEPT, Verdict.REFUSE, Verdict.ERROR]),
    st.booleans(),
    st.sets(st.sampled_from([Reason.HARM, Reason.NO_SAVING, Reason.SCORE, Reason.CLOSE_ATOMS])),
    st.dictionaries(st.sampled_from(ARMS), st.floats(0, 1)),
    st.sampled_from(ON_REFUSE),
    st.sampled_from(SERVED),
    st.text("0123456789abcdef", min_size=4, max_size=4),
)
def test_a_candidate_starts_where_it_is_served_and_from_the_arms_it_is_drawn_for(
    verdict: Verdict, polished: bool, reasons: set, arms: dict, on_refuse: OnRefuse, served: Served, structure_id: str
) -> None:
    is_refused = verdict == Verdict.REFUSE
    row = CandidateRow(
        id="a",
        state=CandidateState.PREDICTED,
        verdict=verdict,
        reasons=list(reasons) if is_refused else [],
        is_polished=polished and not is_refused,
        structure_id=structure_id,
    )
    starts = choose_starts(row, StartRules(on_refuse, arms, True, 3, served))
    assert len(set(starts)) == len(starts)
    if verdict == Verdict.ERROR or (is_refused and on_refuse != "initial" and served == "predicted"):
        assert starts == []
        return
    initial = StartKind.INITIAL if is_refused else StartKind.CONTROL
    own = StartKind.POLISHED if row.is_polished else StartKind.PREDICTED
    assert starts[0] == (initial if is_refused or served == "initial" else own)
    draw = draw_uniform(3, structure_id)
    for arm, kind in (("initial", initial), ("predicted", StartKind.PREDICTED), ("polished", StartKind.POLISHED)):
        has_it = arm == "initial" or (row.is_polished if arm == "polished" else Reason.CLOSE_ATOMS not in row.reasons)
        is_drawn = has_it and draw < arms.get(arm, 0)
        assert (kind in starts) == (is_drawn or kind == starts[0])
    # what is drawn for a small arm is in the larger ones
    more = choose_starts(
        row, StartRules(on_refuse, {arm: min(1, 2 * share) for arm, share in arms.items()}, True, 3, served)
    )
    assert set(starts) <= set(more)
    # in place of the served start, not beside it
    alone = choose_starts(row, StartRules(on_refuse, arms, False, 3, served))
    replaced = StartKind.CONTROL in starts[1:]
    assert set(alone) == set(starts[1:] if replaced and draw >= arms.get(starts[0].value, 0) else starts)


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
    rules = StartRules(arms={"initial": 1}, paired_controls=True)
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
