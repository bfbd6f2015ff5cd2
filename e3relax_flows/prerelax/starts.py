"""Decide the starts of relaxations: refusals, arms, outcomes that exist already."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from typing import Any, Literal

from pymatgen.core import Structure

from e3relax_flows.core.errors import ConfigError, StructureError
from e3relax_flows.core.ids import draw_uniform
from e3relax_flows.schemas.outcomes import DEFAULT_CONTROL, OutcomeDoc, OutcomeState, StartKind, identify_outcome
from e3relax_flows.schemas.predictions import PredictionDoc, Reason, Verdict
from e3relax_flows.schemas.screens import CandidateRow, OutcomeRow

DISPATCH_JOB = "e3r dispatch"
OnRefuse = Literal["initial", "skip", "fail"]
Served = Literal["predicted", "initial"]
MISSING_OUTCOME = "its outcome job left no document"
ON_REFUSE = ("initial", "skip", "fail")
SERVED = ("predicted", "initial")
ARMS = ("initial", "predicted", "polished")
# the guard expects these predictions to be worse starts; others may not be crystals, or may end a calculation
TRIED_REASONS = frozenset({Reason.HARM, Reason.NO_SAVING, Reason.SCORE})
PREDICTED_FIELDS = (
    "structure_id", "prediction_id", "model_id", "verdict", "reasons", "score", "expected_error", "harm_probability",
    "is_polished",
)  # fmt: skip


@dataclass(frozen=True)
class StartRules:
    """Rules for the starts of relaxations.

    Parameters
    ----------
    on_refuse
        What follows a refused prediction: a relaxation from the initial structure, nothing, or a failure.
    arms
        Fraction of the candidates that are also relaxed from this start: initial, predicted, polished. A candidate has
        one random number for all arms, so that those of a small arm are in the larger ones, and are compared in pairs.
        Predictions that were refused because they may be worse starts are in the arm `predicted`; others are not.
    paired_controls
        Whether a candidate of the arm `initial` is also relaxed from the served structure.
    seed
        Seed of the drawing, which otherwise depends only on the structure's id.
    served
        Start of every candidate: its prediction (polished, if it is), or its initial structure.
    """

    on_refuse: OnRefuse = "initial"
    arms: Mapping[str, float] = field(default_factory=dict)
    paired_controls: bool = True
    seed: int = 0
    served: Served = "predicted"

    def __post_init__(self) -> None:
        for name, value, known in (("on_refuse", self.on_refuse, ON_REFUSE), ("served", self.served, SERVED)):
            if value not in known:
                raise ConfigError(f"{name} is {value!r}; it can be {', '.join(map(repr, known))}")
        for arm, fraction in self.arms.items():
            if arm not in ARMS:
                raise ConfigError(f"unknown arm {arm!r}; known: {', '.join(ARMS)}")
            if isinstance(fraction, bool) or not isinstance(fraction, int | float) or not 0 <= fraction <= 1:
                raise ConfigError(f"the arm {arm!r} is {fraction!r}; it is a fraction between 0 and 1, such as 0.1")


def merge_arms(control: float, arms: Mapping[str, float] | None) -> dict[str, float]:
    """Arms of a screen; `control` is the short form of the arm `initial`.

    Raises
    ------
    ConfigError
        When both are given and contradict each other.
    """
    if arms is None:
        return {"initial": control}
    if control not in (DEFAULT_CONTROL, arms.get("initial", 0.0)):
        raise ConfigError(
            f"control is {control:g} and arms are {dict(arms)}; give the fraction once: arms: {{initial: {control:g}}}"
        )
    return {arm: arms[arm] for arm in (*ARMS, *arms) if arm in arms}


def choose_starts(prediction: PredictionDoc | CandidateRow, rules: StartRules) -> list[StartKind]:
    """Starts of the relaxations of one prediction; empty for errors and for refusals that are not relaxed."""
    served = _find_served(prediction, rules)
    if served is None:
        return []
    draw = draw_uniform(rules.seed, str(prediction.structure_id))
    drawn = [
        kind for arm in ARMS if draw < rules.arms.get(arm, 0.0) and (kind := _find_start(prediction, arm)) is not None
    ]
    is_replaced = StartKind.CONTROL in drawn and not rules.paired_controls
    return list(dict.fromkeys(drawn if is_replaced else [served, *drawn]))


def _find_served(prediction: PredictionDoc | CandidateRow, rules: StartRules) -> StartKind | None:
    if prediction.verdict == Verdict.ERROR:
        return None
    if rules.served == "initial":
        return _find_start(prediction, "initial")
    if prediction.verdict == Verdict.REFUSE:
        return StartKind.INITIAL if rules.on_refuse == "initial" else None
    return StartKind.POLISHED if prediction.is_polished else StartKind.PREDICTED


def _find_start(prediction: PredictionDoc | CandidateRow, arm: str) -> StartKind | None:
    """The start of an arm; None if this candidate does not have it."""
    is_refused = prediction.verdict == Verdict.REFUSE
    if arm == "initial":
        return StartKind.INITIAL if is_refused else StartKind.CONTROL
    if arm == "polished":
        return StartKind.POLISHED if prediction.is_polished else None
    return StartKind.PREDICTED if not is_refused or TRIED_REASONS.issuperset(prediction.reasons) else None


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
    """Write the planned outcomes into the row of a prediction; none for refusals that are not relaxed."""
    row.outcomes = [
        OutcomeRow(outcome_id=identify_outcome(str(row.prediction_id), engine_id, kind), start_kind=kind)
        for kind in choose_starts(row, rules)
    ]


def fill_outcomes(
    rows: Iterable[CandidateRow],
    outcomes: Mapping[str, OutcomeDoc] | Mapping[str, OutcomeRow],
    reused: bool,
) -> None:
    """Write the known results of the planned outcomes into the rows.

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
    """The fields of a candidate's row from its prediction."""
    return {
        "message": prediction.message,
        "formula": prediction.initial.composition.reduced_formula if prediction.initial is not None else None,
        **{name: getattr(prediction, name) for name in PREDICTED_FIELDS},
    }
