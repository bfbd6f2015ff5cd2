"""Advance a screen: record ended relaxations, plan when all is predicted, submit within the limits."""

from __future__ import annotations

import logging
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass

from maggma.core import Store

from e3relax_flows.candidates.duplicates import find_duplicates
from e3relax_flows.ledger.claims import find_claims, hold_submission, is_live, release_claims
from e3relax_flows.ledger.store import find_predictions
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.prerelax.starts import MISSING_OUTCOME, fill_outcomes, plan_outcomes
from e3relax_flows.schemas.outcomes import OutcomeState, StartKind
from e3relax_flows.schemas.predictions import Verdict
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenPhase
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.place import ScreenPlace
from e3relax_flows.screening.states import OPEN, Event, advance, end
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
from e3relax_flows.stores.pool import SettingsLike

ROWS_AT_ONCE = 200
REFILL_BELOW = 0.75  # of max_in_flight: one refill for many ends, since each scans all planned candidates
SMALL = 8  # limits up to this are refilled at every end
State = CandidateState
LOST_CHUNK = "the prediction job of its chunk failed; correct the cause of its error, and type `e3relax screen resume`"

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Ended:
    """Ended flows: of a chunk, by its number, and of candidates, by the keys of their rows."""

    chunk: int | None = None
    row_keys: tuple[str, ...] = ()
    start_kind: StartKind | None = None  # of the relaxations that have ended; None: all of these candidates


def advance_screen(
    screen_id: str,
    settings: SettingsLike,
    place: ScreenPlace | None = None,
    ended: Ended | None = None,
    at_most: int | None = None,
    chunk: int | None = None,
) -> ScreenDoc:
    """Advance a screen as far as possible; called repeatedly, by several processes too, it submits nothing twice.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    place
        Place to which candidates are submitted; None: nothing is submitted.
    ended
        Flows of the screen that have ended, successfully or not.
    at_most
        Largest number of candidates to submit now.
    chunk
        Number of the chunk whose candidates are submitted; None: all chunks.

    Returns
    -------
    screen
        Without its candidates.
    """
    with open_workspace(settings) as workspace, hold_submission(workspace, f"screen {screen_id}"):
        stores = workspace.get(open_screen_stores)
        screen = find_screen(stores, screen_id)
        phase = screen.phase
        if ended is not None and ended.chunk is not None:
            _end_chunk(stores, screen_id, ended.chunk)
        settle(stores, screen, workspace.outcomes)
        for row_key in ended.row_keys if ended else ():
            _end_row(workspace, row_key, ended.start_kind if ended else None)
        if screen.phase == ScreenPhase.PREDICTING and not has_rows(stores, screen_id, State.WAITING):
            plan(workspace, screen)
            screen.phase = ScreenPhase.RELAXING
            save_screen(stores, screen)
        if screen.phase == ScreenPhase.RELAXING and place is not None:
            _submit(stores, screen, place, at_most, chunk)
        if screen.phase == ScreenPhase.RELAXING:
            conclude(stores, screen)
        save_screen(stores, screen)
        if screen.phase != phase:
            logger.info("screen %s: %s -> %s", screen_id, phase, screen.phase)
        return screen


def settle(stores: ScreenStores, screen: ScreenDoc, outcomes: Store) -> None:
    """Write new outcomes into the rows, and count their hours."""
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
                end(row)
            if state == State.SUBMITTED:
                seconds = sum(row.wall_time_s or 0.0 for row in found.values())
                screen.core_hours += seconds / 3600 * screen.limits.cores
            save_rows(stores, changed, [state])


def plan(workspace: Workspace, screen: ScreenDoc) -> None:
    """Decide the starts of every predicted candidate; find duplicates and known outcomes."""
    stores, screen_id = workspace.get(open_screen_stores), str(screen.screen_id)
    maker = read_maker(screen)
    duplicates = _find_duplicates(stores, screen_id, workspace.predictions) if maker.deduplicate else {}
    keys = list_row_keys(stores, screen_id, State.PREDICTED)
    for start in range(0, len(keys), ROWS_AT_ONCE):
        rows = load_rows(stores, keys[start : start + ROWS_AT_ONCE])
        for row in rows:
            if row.id in duplicates:
                row.duplicate_of = duplicates[row.id]
            else:
                plan_outcomes(row, maker.rules, screen.engine_id)
        known = find_outcome_rows(workspace.outcomes, [planned.outcome_id for row in rows for planned in row.outcomes])
        if maker.retry_failed:
            known = {key: row for key, row in known.items() if row.state != OutcomeState.FAILED}
        fill_outcomes(rows, known, reused=True)
        for row in rows:
            if row.duplicate_of is not None:
                advance(row, Event.MATCH)
            elif not row.outcomes:
                advance(row, Event.SKIP if maker.on_refuse == "skip" else Event.REJECT)
            elif not end(row):
                advance(row, Event.PLAN)
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
            advance(row, Event.LEAVE)
        save_rows(stores, rows, [State.PLANNED])
        screen.message = reason
        logger.info("screen %s: %s, %d candidates are left", screen_id, reason, len(rows))
    screen.phase = ScreenPhase.FINISHED


def find_spent(screen: ScreenDoc) -> str | None:
    """The part of the budget that is spent, in words."""
    limits = screen.limits
    if limits.candidates is not None and screen.n_submitted >= limits.candidates:
        return f"the budget of {limits.candidates} candidates is spent"
    if limits.core_hours is not None and screen.core_hours >= limits.core_hours:
        return f"the budget of {limits.core_hours:g} core hours is spent ({screen.core_hours:.2f})"
    return None


def _submit(
    stores: ScreenStores, screen: ScreenDoc, place: ScreenPlace, at_most: int | None, chunk: int | None
) -> None:
    """Submit planned candidates, the most promising first, up to the limits."""
    room = _find_room(stores, screen, at_most)
    if room is not None and room <= 0:
        return
    criteria = {} if chunk is None else {"chunk": chunk}
    keys = list_row_keys(stores, str(screen.screen_id), State.PLANNED, criteria, limit=room or 0)
    for start in range(0, len(keys), ROWS_AT_ONCE):
        rows = load_rows(stores, keys[start : start + ROWS_AT_ONCE])
        for row in rows:
            advance(row, Event.SUBMIT)
        place.submit(screen, rows)  # before it is recorded: a second submission is found by its id
        save_rows(stores, rows, [State.PLANNED])
        screen.n_submitted += len(rows)
        save_screen(stores, screen)
        logger.info("screen %s: %d candidates submitted, place %s", screen.screen_id, len(rows), place.name)


def _find_room(stores: ScreenStores, screen: ScreenDoc, at_most: int | None) -> int | None:
    """Number of candidates that may be submitted now; None: all."""
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
    """Mark rows of a chunk that are still waiting after its job ended: they have no prediction."""
    rows = find_rows(stores, screen_id, [State.WAITING], {"chunk": number})
    for row in rows:
        advance(row, Event.LOSE_PREDICTION)
        row.message = LOST_CHUNK
    if n_lost := save_rows(stores, rows, [State.WAITING]):
        logger.warning(
            "screen %s: chunk %d left %d candidates without prediction; %s", screen_id, number, n_lost, LOST_CHUNK
        )


def _end_row(workspace: Workspace, row_key: str, kind: StartKind | None) -> None:
    """Settle a candidate whose relaxations ended without outcome: another flow relaxes it, or it has failed."""
    stores = workspace.get(open_screen_stores)
    row = next(iter(load_rows(stores, [row_key])), None)
    if row is None or row.state != State.SUBMITTED:
        return
    missing = [planned for planned in row.outcomes if planned.state is None and kind in (None, planned.start_kind)]
    held = find_claims(workspace.claims, [planned.outcome_id for planned in missing])
    flow = row.submitted.flow if row.submitted else None
    own = [key for key, claim in held.items() if claim.flow == flow]
    release_claims(workspace.claims, own)
    others = [claim for key, claim in held.items() if key not in own and is_live(claim)]
    if others:
        advance(row, Event.HOLD)
        row.message = f"is being relaxed by {others[0].describe()}; type `e3relax screen resume` later"
    else:
        for planned in missing:
            planned.state, planned.message = OutcomeState.FAILED, planned.message or MISSING_OUTCOME
        end(row)
    save_rows(stores, [row], [State.SUBMITTED])


def _find_duplicates(stores: ScreenStores, screen_id: str, predictions: Store) -> dict[str, str]:
    """Ids of duplicates, and of the candidates that are relaxed instead; one formula after the other."""
    groups: dict[str, list[tuple[int, str, str]]] = defaultdict(list)
    fields = ["id", "number", "formula", "prediction_id"]
    accepted = {"group": name_group(screen_id, State.PREDICTED), "verdict": Verdict.ACCEPT.value}
    for raw in stores.rows.query(accepted, fields):
        groups[raw["formula"]].append((raw["number"], raw["id"], raw["prediction_id"]))
    found: dict[str, str] = {}
    for group in groups.values():
        if len(group) > 1:
            found |= _compare(sorted(group), predictions)
    return found


def _compare(group: Sequence[tuple[int, str, str]], predictions: Store) -> dict[str, str]:
    found = find_predictions(predictions, [prediction_id for *_, prediction_id in group])
    duplicates = find_duplicates([found.get(prediction_id) for *_, prediction_id in group])
    return {group[place][1]: group[kept][1] for place, kept in duplicates.items()}
