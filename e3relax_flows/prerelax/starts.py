"""Decide which candidates are relaxed and from where: refusals, controls, duplicates, outcomes that exist already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Literal

from pymatgen.core import Structure

from e3relax_flows.candidates.duplicates import find_duplicates
from e3relax_flows.core.errors import ConfigError, StructureError
from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, OutcomeRow

PLAN_JOB, DISPATCH_JOB, SUMMARY_JOB = "e3r plan", "e3r dispatch", "e3r summary"
OnRefuse = Literal["initial", "skip", "fail"]
MISSING_OUTCOME = "its outcome job left no document"
ON_REFUSE = ("initial", "skip", "fail")


@dataclass(frozen=True)
class StartRules:
    """Where relaxations start.

    Parameters
    ----------
    on_refuse
        What follows a refused prediction: a relaxation from the initial structure, nothing, or a failure.
    control
        Fraction of the accepted candidates that start from the initial structure.
    paired_controls
        Whether a control is relaxed from its prediction, too.
    seed
        Seed of the drawing of controls, which depends on nothing else but the structure's id.
    """

    on_refuse: OnRefuse = "initial"
    control: float = 0.0
    paired_controls: bool = False
    seed: int = 0

    def __post_init__(self) -> None:
        if self.on_refuse not in ON_REFUSE:
            raise ConfigError(f"on_refuse is {self.on_refuse!r}; it can be {', '.join(map(repr, ON_REFUSE))}")
        if not 0 <= self.control <= 1:
            raise ConfigError(f"control is {self.control}; it is a fraction between 0 and 1")


def choose_starts(prediction: PredictionDoc | CandidateRow, rules: StartRules) -> list[StartKind]:
    """Where the relaxations of one prediction start; none for errors and for refusals that are not relaxed."""
    if prediction.verdict == Verdict.ERROR:
        return []
    if prediction.verdict == Verdict.REFUSE:
        return [StartKind.INITIAL] if rules.on_refuse == "initial" else []
    own = StartKind.POLISHED if prediction.is_polished else StartKind.PREDICTED
    if draw_uniform(rules.seed, str(prediction.structure_id)) >= rules.control:
        return [own]
    return [own, StartKind.CONTROL] if rules.paired_controls else [StartKind.CONTROL]


def take_start(prediction: PredictionDoc, kind: StartKind) -> Structure:
    """Structure that a relaxation of this kind starts from.

    Raises
    ------
    StructureError
        When the prediction is an error, with its reason.
    """
    structure = kind.pick(prediction)
    if prediction.verdict == Verdict.ERROR or structure is None:
        reason = prediction.reasons[0] if prediction.reasons else Reason.FAILED
        raise StructureError(reason, prediction.message or f"there is no prediction ({reason})")
    return structure


def plan_candidates(
    ids: Sequence[str], predictions: Sequence[PredictionDoc | None], rules: StartRules, engine_id: str, compare: bool
) -> list[CandidateRow]:
    """Row of every candidate, with the outcomes that are to be had; None stands for a lost prediction job."""
    duplicates = find_duplicates(predictions, compare)
    rows = []
    for index, (name, prediction) in enumerate(zip(ids, predictions, strict=True)):
        row = describe_candidate(name, prediction)
        if prediction is not None and index in duplicates:
            row.state, row.duplicate_of = CandidateState.DUPLICATE, ids[duplicates[index]]
        elif prediction is not None:
            plan_outcomes(row, rules, engine_id)
        rows.append(row)
    return rows


def plan_outcomes(row: CandidateRow, rules: StartRules, engine_id: str) -> None:
    """Write into the row of a prediction which outcomes are to be had, or why there are none."""
    row.outcomes = [
        OutcomeRow(outcome_id=identify_outcome(str(row.prediction_id), engine_id, kind), start_kind=kind)
        for kind in choose_starts(row, rules)
    ]
    if row.verdict == Verdict.REFUSE and not row.outcomes:
        row.state = CandidateState.SKIPPED if rules.on_refuse == "skip" else CandidateState.FAILED


def fill_outcomes(
    rows: Iterable[CandidateRow],
    outcomes: Mapping[str, OutcomeDoc] | Mapping[str, OutcomeRow],
    reused: bool,
    lost: str | None = None,
) -> None:
    """Write what is known of the planned outcomes into the rows, and the state that follows from it.

    Parameters
    ----------
    rows
        Changed in place.
    outcomes
        Outcome documents, or their rows, by id.
    reused
        Whether these were in the store before.
    lost
        Message of an outcome that is not among `outcomes`; none: it is still to come.
    """
    for row in rows:
        for i, planned in enumerate(row.outcomes):
            if planned.state is not None:
                continue
            if (found := outcomes.get(planned.outcome_id)) is not None:
                known = found if isinstance(found, OutcomeRow) else OutcomeRow.from_outcome(found)
                row.outcomes[i] = known.model_copy(update={"reused": reused})
            elif lost is not None and planned.message is None:
                row.outcomes[i] = planned.model_copy(update={"state": OutcomeState.FAILED, "message": lost})
        if row.outcomes:
            row.state = _combine_states([outcome.state for outcome in row.outcomes])


def mark_claimed(rows: Iterable[CandidateRow], holders: Mapping[str, str]) -> None:
    """Write into the rows which planned outcomes another flow is at, by outcome id; they stay planned."""
    for row in rows:
        for planned in row.outcomes:
            if planned.state is None and planned.outcome_id in holders:
                planned.message = f"is being relaxed by {holders[planned.outcome_id]}; run the screen again later"
                row.message = row.message or planned.message


def is_reusable(outcome: OutcomeDoc | None, retry_failed: bool) -> bool:
    """Whether an outcome need not be computed again."""
    return outcome is not None and not (retry_failed and outcome.state == OutcomeState.FAILED)


def _combine_states(states: Sequence[OutcomeState | None]) -> CandidateState:
    """Worst of the states; planned as long as one of them is to come."""
    if None in states:
        return CandidateState.PLANNED
    order = (OutcomeState.FAILED, OutcomeState.UNCONVERGED, OutcomeState.SUCCESSFUL)
    return CandidateState(next(state for state in order if state in states).value)


def describe_candidate(name: str, prediction: PredictionDoc | None) -> CandidateRow:
    """Row of a candidate by its prediction alone; None stands for a lost prediction job."""
    if prediction is None:
        return CandidateRow(id=name, state=CandidateState.ERROR, message="the prediction job of its chunk failed")
    return CandidateRow(
        id=name,
        state=CandidateState.ERROR if prediction.verdict == Verdict.ERROR else CandidateState.PLANNED,
        message=prediction.message,
        formula=prediction.initial.composition.reduced_formula if prediction.initial is not None else None,
        structure_id=prediction.structure_id,
        prediction_id=prediction.prediction_id,
        model_id=prediction.model_id,
        verdict=prediction.verdict,
        reasons=prediction.reasons,
        score=prediction.score,
        expected_error=prediction.expected_error,
        harm_probability=prediction.harm_probability,
        is_polished=prediction.is_polished,
    )
