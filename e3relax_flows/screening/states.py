"""The state table of a candidate: which event takes it from which states to which."""

from __future__ import annotations

from enum import StrEnum

from e3relax_flows.core.errors import StateError
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.schemas.screens import CandidateRow, CandidateState

State = CandidateState


class Event(StrEnum):
    """What happens to a candidate."""

    PREDICT = "its prediction was made"
    LOSE_PREDICTION = "it has no prediction"
    PLAN = "its relaxations were planned"
    MATCH = "another candidate has the same prediction"
    SKIP = "its prediction was refused, and the screen skips these"
    REJECT = "its prediction was refused, and that counts as failed"
    SUBMIT = "its relaxations were submitted"
    RELEASE = "its relaxations were submitted and lost"
    HOLD = "another flow relaxes it"
    SUCCEED = "its relaxations succeeded"
    STOP = "a relaxation did not converge"
    FAIL = "a relaxation failed"
    LEAVE = "the budget was spent before"
    CANCEL = "the user cancelled it"
    PREDICT_AGAIN = "it is to be predicted again"
    PLAN_AGAIN = "it is to be planned again"
    RELAX_AGAIN = "it is to be relaxed again"


UNDECIDED = frozenset({State.WAITING, State.PREDICTED, State.PLANNED, State.HELD})  # not at a worker
OPEN = UNDECIDED | {State.SUBMITTED}  # not final
RELAXED = frozenset({State.PREDICTED, State.PLANNED, State.SUBMITTED, State.HELD})  # an outcome may arrive, or be known
RESUMED = frozenset({State.LEFT, State.CANCELLED, State.HELD, State.ERROR, State.FAILED})
TABLE: dict[Event, tuple[frozenset[State], State]] = {
    Event.PREDICT: (frozenset({State.WAITING}), State.PREDICTED),
    Event.LOSE_PREDICTION: (frozenset({State.WAITING}), State.ERROR),
    Event.PLAN: (frozenset({State.PREDICTED}), State.PLANNED),
    Event.MATCH: (frozenset({State.PREDICTED}), State.DUPLICATE),
    Event.SKIP: (frozenset({State.PREDICTED}), State.SKIPPED),
    Event.REJECT: (frozenset({State.PREDICTED}), State.FAILED),
    Event.SUBMIT: (frozenset({State.PLANNED}), State.SUBMITTED),
    Event.RELEASE: (frozenset({State.SUBMITTED}), State.PLANNED),
    Event.HOLD: (frozenset({State.SUBMITTED}), State.HELD),
    Event.SUCCEED: (RELAXED, State.SUCCESSFUL),
    Event.STOP: (RELAXED, State.UNCONVERGED),
    Event.FAIL: (RELAXED, State.FAILED),
    Event.LEAVE: (frozenset({State.PLANNED}), State.LEFT),
    Event.CANCEL: (OPEN, State.CANCELLED),
    Event.PREDICT_AGAIN: (RESUMED, State.WAITING),
    Event.PLAN_AGAIN: (RESUMED, State.PREDICTED),
    Event.RELAX_AGAIN: (RESUMED, State.PLANNED),
}
_ENDS = {
    OutcomeState.FAILED: Event.FAIL,
    OutcomeState.UNCONVERGED: Event.STOP,
    OutcomeState.SUCCESSFUL: Event.SUCCEED,
}  # the worst first


def advance(row: CandidateRow, event: Event) -> None:
    """Change a candidate, in place, to the state that follows an event.

    Raises
    ------
    StateError
        When the event is not allowed in its state.
    """
    origins, target = TABLE[event]
    if row.state not in origins:
        raise StateError(f"candidate {row.id!r} is {row.state}; {event.value!r} is not allowed")
    row.state = target


def end(row: CandidateRow) -> bool:
    """Change a candidate whose outcomes are all known to the state of the worst; False while one is missing."""
    states = {outcome.state for outcome in row.outcomes}
    if not states or None in states:
        return False
    advance(row, next(event for state, event in _ENDS.items() if state in states))
    return True
