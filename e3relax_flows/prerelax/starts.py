"""Decide where candidates are relaxed from: refusals, controls, outcomes that exist already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any, Literal

from pymatgen.core import Structure

from e3relax_flows.core.errors import ConfigError, StructureError
from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.schemas.outcomes import OutcomeDoc, OutcomeState, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, OutcomeRow

DISPATCH_JOB = "e3r dispatch"
OnRefuse = Literal["initial", "skip", "fail"]
MISSING_OUTCOME = "its outcome job left no document"
ON_REFUSE = ("initial", "skip", "fail")
PREDICTED_FIELDS = (
    "structure_id", "prediction_id", "model_id", "verdict", "reasons", "score", "expected_error", "harm_probability",
    "is_polished",
)  # fmt: skip


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


def plan_outcomes(row: CandidateRow, rules: StartRules, engine_id: str) -> None:
    """Write into the row of a prediction which outcomes are to be had; none for refusals that are not relaxed."""
    row.outcomes = [
        OutcomeRow(outcome_id=identify_outcome(str(row.prediction_id), engine_id, kind), start_kind=kind)
        for kind in choose_starts(row, rules)
    ]


def fill_outcomes(
    rows: Iterable[CandidateRow],
    outcomes: Mapping[str, OutcomeDoc] | Mapping[str, OutcomeRow],
    reused: bool,
) -> None:
    """Write what is known of the planned outcomes into the rows.

    Parameters
    ----------
    rows
        Changed in place.
    outcomes
        Outcome documents, or their rows, by id.
    reused
        Whether these were in the store before.
    """
    for row in rows:
        for i, planned in enumerate(row.outcomes):
            if planned.state is not None:
                continue
            if (found := outcomes.get(planned.outcome_id)) is not None:
                known = found if isinstance(found, OutcomeRow) else OutcomeRow.from_outcome(found)
                row.outcomes[i] = known.model_copy(update={"reused": reused})


def is_reusable(outcome: OutcomeDoc | None, retry_failed: bool) -> bool:
    """Whether an outcome need not be computed again."""
    return outcome is not None and not (retry_failed and outcome.state == OutcomeState.FAILED)


def describe_prediction(prediction: PredictionDoc) -> dict[str, Any]:
    """The fields of a candidate's row that its prediction gives."""
    return {
        "message": prediction.message,
        "formula": prediction.initial.composition.reduced_formula if prediction.initial is not None else None,
        **{name: getattr(prediction, name) for name in PREDICTED_FIELDS},
    }
