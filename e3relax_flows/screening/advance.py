"""Advance a screen: settle what has ended, plan when all is predicted, hand out what its limits allow."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Sequence
from dataclasses import dataclass

from maggma.core import Store

from e3relax_flows.candidates.duplicates import find_duplicates
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import find_claims, hold_submission, is_live, open_claim_store, release_claims
from e3relax_flows.ledger.store import find_predictions, open_outcome_store, open_prediction_store
from e3relax_flows.prerelax.starts import MISSING_OUTCOME, fill_outcomes, plan_outcomes
from e3relax_flows.schemas.outcomes import OutcomeState
from e3relax_flows.schemas.predictions import Verdict
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenPhase, ScreenRow
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.store import (
    ScreenStores,
    count_state,
    find_outcome_rows,
    find_rows,
    find_screen,
    has_rows,
    list_row_keys,
    load_rows,
    name_group,
    open_screen_stores,
    save_rows,
    save_screen,
)
from e3relax_flows.stores.opening import validate_document

ROWS_AT_ONCE = 200
REFILL_BELOW = 0.75  # of max_in_flight: one refill for many ends, since each looks through all that is planned
SMALL = 8  # limits up to this are kept full
State = CandidateState
OPEN = (State.WAITING, State.PREDICTED, State.PLANNED, State.SUBMITTED, State.HELD)
LOST_CHUNK = "the prediction job of its chunk failed; mend what its error says, and type `e3relax screen resume`"

Hand = Callable[[list[ScreenRow]], None]


@dataclass(frozen=True)
class Ended:
    """What has ended: the flow of a chunk, by its number, and of candidates, by the keys of their rows."""

    chunk: int | None = None
    row_keys: tuple[str, ...] = ()


def advance_screen(
    screen_id: str,
    settings: E3RelaxSettings,
    hand: Hand | None = None,
    ended: Ended | None = None,
    at_most: int | None = None,
) -> ScreenDoc:
    """Take a screen as far as it can go now; whoever calls it, however often, nothing is handed out twice.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    hand
        Called with rows to be relaxed; it gives their flows to workers, those that have them already excepted. None:
        nothing is handed out.
    ended
        Flows of the screen that have ended, whether well or not.
    at_most
        How many are handed out now.

    Returns
    -------
    screen
        Without its candidates.
    """
    with hold_submission(settings, f"screen {screen_id}"), open_screen_stores(settings) as stores:
        screen = find_screen(stores, screen_id)
        with open_outcome_store(settings) as outcomes:
            if ended is not None and ended.chunk is not None:
                _end_chunk(stores, screen_id, ended.chunk)
            settle(stores, screen, outcomes)
            for row_key in ended.row_keys if ended else ():
                _end_row(stores, row_key, settings)
            if screen.phase == ScreenPhase.PREDICTING and not has_rows(stores, screen_id, State.WAITING):
                plan(stores, screen, outcomes, settings)
                screen.phase = ScreenPhase.RELAXING
                save_screen(stores, screen)
        if screen.phase == ScreenPhase.RELAXING and hand is not None:
            _hand_out(stores, screen, hand, at_most)
        if screen.phase == ScreenPhase.RELAXING:
            conclude(stores, screen)
        save_screen(stores, screen)
        return screen


def settle(stores: ScreenStores, screen: ScreenDoc, outcomes: Store) -> None:
    """Write into the rows the outcomes that have come, and count their hours."""
    screen_id = str(screen.screen_id)
    for state in (State.SUBMITTED, State.HELD):
        rows = find_rows(stores, screen_id, [state])
        for start in range(0, len(rows), ROWS_AT_ONCE):
            part = rows[start : start + ROWS_AT_ONCE]
            missing = {planned.outcome_id: planned for row in part for planned in row.outcomes if planned.state is None}
            found = {
                key: outcome
                for key, outcome in find_outcome_rows(outcomes, missing).items()
                if missing[key].superseded is None or outcome.recorded != missing[key].superseded
            }
            changed = [row for row in part if any(planned.outcome_id in found for planned in row.outcomes)]
            fill_outcomes(changed, found, reused=state == State.HELD)
            for row in changed:
                if row.state == State.PLANNED:  # another relaxation of it is to come
                    row.state = state
            if state == State.SUBMITTED:
                seconds = sum(row.wall_time_s or 0.0 for row in found.values())
                screen.core_hours += seconds / 3600 * screen.limits.cores
            save_rows(stores, changed, [state])


def plan(stores: ScreenStores, screen: ScreenDoc, outcomes: Store, settings: E3RelaxSettings) -> None:
    """Decide what every predicted candidate is relaxed from; find duplicates, and outcomes that are known."""
    maker, screen_id = read_maker(screen), str(screen.screen_id)
    twins = _find_twins(stores, screen_id, settings) if maker.deduplicate else {}
    keys = list_row_keys(stores, screen_id, State.PREDICTED)
    for start in range(0, len(keys), ROWS_AT_ONCE):
        rows = load_rows(stores, keys[start : start + ROWS_AT_ONCE])
        for row in rows:
            row.state = State.PLANNED
            if row.id in twins:
                row.state, row.duplicate_of = State.DUPLICATE, twins[row.id]
            else:
                plan_outcomes(row, maker.rules, screen.engine_id)
        known = find_outcome_rows(outcomes, [planned.outcome_id for row in rows for planned in row.outcomes])
        if maker.retry_failed:
            known = {key: row for key, row in known.items() if row.state != OutcomeState.FAILED}
        fill_outcomes(rows, known, reused=True)
        save_rows(stores, rows, [State.PREDICTED])


def conclude(stores: ScreenStores, screen: ScreenDoc) -> None:
    """Finish a screen whose candidates are all in a final state, or are left since its budget is spent."""
    screen_id = str(screen.screen_id)
    if any(has_rows(stores, screen_id, state) for state in OPEN if state != State.PLANNED):
        return
    if has_rows(stores, screen_id, State.PLANNED):
        reason = find_spent(screen)
        if reason is None:
            return
        rows = find_rows(stores, screen_id, [State.PLANNED])
        for row in rows:
            row.state = State.LEFT
        save_rows(stores, rows, [State.PLANNED])
        screen.message = reason
    screen.phase = ScreenPhase.FINISHED


def find_spent(screen: ScreenDoc) -> str | None:
    """Which part of the budget is spent, in words."""
    limits = screen.limits
    if limits.candidates is not None and screen.n_submitted >= limits.candidates:
        return f"the budget of {limits.candidates} candidates is spent"
    if limits.core_hours is not None and screen.core_hours >= limits.core_hours:
        return f"the budget of {limits.core_hours:g} core hours is spent ({screen.core_hours:.2f})"
    return None


def _hand_out(stores: ScreenStores, screen: ScreenDoc, hand: Hand, at_most: int | None) -> None:
    """Hand out what is planned, the most promising first, up to the limits."""
    room = _find_room(stores, screen, at_most)
    if room is not None and room <= 0:
        return
    keys = list_row_keys(stores, str(screen.screen_id), State.PLANNED, limit=room or 0)
    for start in range(0, len(keys), ROWS_AT_ONCE):
        rows = load_rows(stores, keys[start : start + ROWS_AT_ONCE])
        for row in rows:
            row.state, row.message = State.SUBMITTED, None
        hand(rows)  # before it is noted: what is at the workers twice is found by its id, what is not would be lost
        save_rows(stores, rows, [State.PLANNED])
        screen.n_submitted += len(rows)
        save_screen(stores, screen)


def _find_room(stores: ScreenStores, screen: ScreenDoc, at_most: int | None) -> int | None:
    """How many candidates may be handed out now; None: all."""
    limits = screen.limits
    if find_spent(screen):
        return 0
    rooms = [] if at_most is None else [at_most]
    if limits.candidates is not None:
        rooms.append(limits.candidates - screen.n_submitted)
    if limits.max_in_flight is not None:
        in_flight = count_state(stores, str(screen.screen_id), State.SUBMITTED)
        is_full = limits.max_in_flight > SMALL and in_flight > REFILL_BELOW * limits.max_in_flight
        rooms.append(0 if is_full else limits.max_in_flight - in_flight)
    return min(rooms, default=None)


def _end_chunk(stores: ScreenStores, screen_id: str, number: int) -> None:
    """Rows of a chunk whose job has ended and left them waiting have no prediction."""
    rows = find_rows(stores, screen_id, [State.WAITING], {"chunk": number})
    for row in rows:
        row.state, row.message = State.ERROR, LOST_CHUNK
    save_rows(stores, rows, [State.WAITING])


def _end_row(stores: ScreenStores, row_key: str, settings: E3RelaxSettings) -> None:
    """A candidate whose flow has ended without outcome is relaxed by another flow, or has failed."""
    raw = stores.rows.query_one({"row_key": row_key})
    row = None if raw is None else validate_document(raw, ScreenRow, stores.rows)
    if row is None or row.state != State.SUBMITTED:
        return
    missing = [planned for planned in row.outcomes if planned.state is None]
    with open_claim_store(settings) as claims:
        held = find_claims(claims, [planned.outcome_id for planned in missing])
        own = [key for key, claim in held.items() if claim.flow == row.flow]
        release_claims(claims, own)
    others = [claim for key, claim in held.items() if key not in own and is_live(claim)]
    if others:
        row.state = State.HELD
        row.message = f"is being relaxed by {others[0].describe()}; type `e3relax screen resume` later"
    else:
        fill_outcomes([row], {}, reused=False, lost=MISSING_OUTCOME)
    save_rows(stores, [row], [State.SUBMITTED])


def _find_twins(stores: ScreenStores, screen_id: str, settings: E3RelaxSettings) -> dict[str, str]:
    """Ids of duplicates, and of those that are relaxed in their place; one formula after the other."""
    groups: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    fields = ["id", "number", "formula", "prediction_id"]
    accepted = {"group": name_group(screen_id, State.PREDICTED), "verdict": Verdict.ACCEPT.value}
    for raw in stores.rows.query(accepted, fields):
        groups[raw["formula"]].append((raw["number"], raw["id"], raw["prediction_id"]))
    twins: dict[str, str] = {}
    with open_prediction_store(settings) as store:
        for group in groups.values():
            if len(group) > 1:
                twins |= _compare(sorted(group), store)
    return twins


def _compare(group: Sequence[tuple[int, str, str]], store: Store) -> dict[str, str]:
    found = find_predictions(store, [prediction_id for *_, prediction_id in group])
    duplicates = find_duplicates([found.get(prediction_id) for *_, prediction_id in group])
    return {group[place][1]: group[kept][1] for place, kept in duplicates.items()}
