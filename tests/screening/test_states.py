"""The state table of a candidate: whatever happens in whatever order, a candidate is in one state and is not lost."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from e3relax_flows.core.errors import StateError
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind
from e3relax_flows.schemas.screens import CandidateRow, CandidateState, OutcomeRow, ScreenRow, Submitted
from e3relax_flows.screening.states import OPEN, RESUMED, TABLE, Event, advance, end

State = CandidateState
UUID = "5d1f4c35-6ad5-4d3c-8a1b-1f0f4f0f6a53"
AGAIN = {Event.PREDICT_AGAIN, Event.PLAN_AGAIN, Event.RELAX_AGAIN}
FINAL = set(State) - OPEN


def make_row(state: State = State.WAITING, *outcomes: OutcomeState | None) -> CandidateRow:
    rows = [
        OutcomeRow(outcome_id=f"o{number}", start_kind=StartKind.PREDICTED, state=outcome)
        for number, outcome in enumerate(outcomes)
    ]
    return CandidateRow(id="copper", state=state, outcomes=rows)


@given(st.lists(st.sampled_from(Event), max_size=40))
def test_any_events_in_any_order_follow_the_table(events: list[Event]) -> None:
    """What cannot happen is refused and changes nothing; a final state is left by a resumption alone."""
    row = make_row()
    for event in events:
        before, (origins, target) = row.state, TABLE[event]
        if before not in origins:
            with pytest.raises(StateError, match="candidate 'copper' is"):
                advance(row, event)
            assert row.state == before
            continue
        advance(row, event)
        assert row.state == target
        if before in FINAL:
            assert event in AGAIN
            assert before in RESUMED
            assert row.state in OPEN
        if event in AGAIN:
            assert before in RESUMED


def test_every_state_can_be_reached_and_every_open_one_can_end() -> None:
    reached, pending = {State.WAITING}, {State.WAITING}
    while pending:
        pending = {target for origins, target in TABLE.values() if origins & pending} - reached
        reached |= pending
    assert reached == set(State)
    ending = set(FINAL)
    while True:
        more = {state for origins, target in TABLE.values() if target in ending for state in origins} - ending
        if not more:
            break
        ending |= more
    assert ending >= OPEN
    assert set(TABLE) == set(Event)


@given(st.lists(st.sampled_from([None, *OutcomeState]), max_size=4), st.sampled_from(sorted(OPEN - {State.WAITING})))
def test_the_worst_of_all_outcomes_counts(outcomes: list[OutcomeState | None], state: State) -> None:
    row = make_row(state, *outcomes)
    ended = end(row)
    assert ended == (bool(outcomes) and None not in outcomes)
    if not ended:
        assert row.state == state
    else:
        worst = [OutcomeState.FAILED, OutcomeState.UNCONVERGED, OutcomeState.SUCCESSFUL]
        assert row.state == next(known for known in worst if known in outcomes).value


@pytest.mark.parametrize(
    ("text", "submitted"),
    [
        ("process node7 4711", Submitted(place="local", host="node7", pid=4711)),
        ("sent", Submitted(place="remote", flow="sent")),
        (UUID, Submitted(place="fireworks", flow=UUID)),
        (None, None),
    ],
)
def test_rows_of_earlier_releases_are_read(text: str | None, submitted: Submitted | None) -> None:
    fields = {"id": "a", "state": "submitted", "row_key": "s:a", "screen_id": "s", "group": "s:submitted"}
    row = ScreenRow.model_validate({**fields, "number": 0, "rank": 0.0, "flow": text})
    assert row.submitted == submitted
