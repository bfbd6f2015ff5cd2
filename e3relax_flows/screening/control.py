"""Start, resume and cancel screens, wherever their jobs run."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from jobflow import Flow, Job

from e3relax_flows.core.errors import EngineError
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenLimits, ScreenPhase, ScreenRow
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.failures import can_go_on, check_error_text, is_retried, select_retried
from e3relax_flows.screening.flows import build_chunk_flow
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.local import LocalPlace
from e3relax_flows.screening.place import ScreenPlace, open_place, release
from e3relax_flows.screening.states import OPEN, RESUMED, UNDECIDED, Event, advance
from e3relax_flows.screening.store import (
    ScreenStores,
    count_rows,
    find_rows,
    find_screen,
    list_waiting_chunks,
    open_screen_stores,
    read_chunk,
    save_rows,
    save_screen,
)
from e3relax_flows.stores.pool import SettingsLike

State = CandidateState
TRIED = 5  # structures that are tried for the checks until the engine accepts one

logger = logging.getLogger(__name__)


@dataclass
class ScreenProgress:
    """Result of starting, resuming or cancelling a screen."""

    screen: ScreenDoc  # without its candidates
    lines: list[str] = field(default_factory=list)  # for the terminal
    warnings: list[str] = field(default_factory=list)


def start_screen(screen_id: str, settings: SettingsLike) -> ScreenProgress:
    """Submit a screen to the workers of its place, or continue it there; repeated, nothing is submitted twice.

    Parameters
    ----------
    screen_id
        Of a registered screen whose place is fireworks or remote.
    settings
        For the stores.

    Raises
    ------
    ConfigError
        When a check fails; the message has the remedy. Nothing was submitted.
    StoreError
        When a store or the launchpad cannot be reached.
    """
    with open_workspace(settings) as workspace:
        stores = workspace.get(open_screen_stores)
        screen = find_screen(stores, screen_id)
        with open_place(screen.place, workspace.settings, f"--submit {screen.place}") as place:
            progress = ScreenProgress(screen, warnings=place.check(screen, _make_samples(stores, screen)))
            _settle_ended(workspace, advance_screen(screen_id, workspace), place)
            with hold_submission(workspace, f"screen {screen_id}"):
                progress.lines += place.submit_chunks(screen, list_waiting_chunks(stores, screen_id))
                lost = place.find_lost(find_rows(stores, screen_id, [State.SUBMITTED]))
                claims = workspace.claims if place.frees_claims else None
                release(stores, find_screen(stores, screen_id), lost, claims)
            for line in progress.lines:
                logger.info("screen %s: %s, place %s", screen_id, line, screen.place)
            if lost:
                progress.lines.append(f"{len(lost)} lost candidates are submitted again")
            progress.screen = advance_screen(screen_id, workspace, place)
            if progress.screen.phase == ScreenPhase.PREDICTING and place.advice:
                progress.lines.append(place.advice)
    return progress


def resume_screen(
    screen_id: str,
    settings: SettingsLike,
    limits: ScreenLimits | None = None,
    retry_failed: bool = False,
    error: str | None = None,
) -> ScreenProgress:
    """Requeue candidates that were cancelled, left, lost or have no prediction, and with `retry_failed` failed ones.

    Nothing is submitted: `start_screen` or `run_screen_here` continues.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    limits
        New ones; None: no change.
    retry_failed
        Whether failed relaxations are tried again.
    error
        Only those whose error contains this text, in any case.

    Raises
    ------
    ConfigError
        When no error contains it; nothing was changed.
    """
    with open_workspace(settings) as workspace, hold_submission(workspace, f"screen {screen_id}"):
        stores = workspace.get(open_screen_stores)
        screen = find_screen(stores, screen_id)
        progress = ScreenProgress(screen)
        states = _list_resumed(retry_failed)
        rows = find_rows(stores, screen_id, states)
        check_error_text(rows, error, screen_id)
        if limits is not None:
            screen.limits = limits
        release(stores, screen, _find_killed(stores, screen_id))
        requeued = [row for row in select_retried(rows, error) if can_go_on(row, retry_failed)]
        for row in requeued:
            _requeue(row, error)
        save_rows(stores, requeued, states)
        if requeued:
            progress.lines.append(f"{len(requeued)} candidates are requeued")
            logger.info("screen %s: %s", screen_id, progress.lines[-1])
        if any(row.state == State.WAITING for row in requeued) or screen.phase == ScreenPhase.PREDICTING:
            screen.phase = ScreenPhase.PREDICTING
        elif find_rows(stores, screen_id, list(OPEN), limit=1):
            screen.phase = ScreenPhase.RELAXING
        screen.message = None
        save_screen(stores, screen)
    return progress


def plan_resume(
    screen_id: str, settings: SettingsLike, retry_failed: bool = False, error: str | None = None
) -> list[str]:
    """Report what `resume_screen` and a continued run would requeue; nothing is changed.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    retry_failed
        Whether failed relaxations would be tried again.
    error
        Only those whose error contains this text.
    """
    with open_screen_stores(settings) as stores:
        place = find_screen(stores, screen_id).place
        counts = count_rows(stores, screen_id)
        rows = find_rows(stores, screen_id, _list_resumed(retry_failed))
        check_error_text(rows, error, screen_id)
        requeued = sum(can_go_on(row, retry_failed) for row in select_retried(rows, error))
        requeued += len(_find_killed(stores, screen_id))
        waiting = sum(counts.get(state.value, 0) for state in UNDECIDED - {State.HELD})
    return [
        f"{requeued} candidates would be requeued",
        f"{waiting} without a worker would be predicted and relaxed, place: {place}",
    ]


def plan_cancel(screen_id: str, settings: SettingsLike) -> list[str]:
    """Report what `cancel_screen` would do; nothing is changed, and no launchpad is read.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    """
    with open_screen_stores(settings) as stores:
        counts = count_rows(stores, screen_id)
    waiting = sum(counts.get(state.value, 0) for state in UNDECIDED)
    return [
        f"{waiting} candidates would be cancelled",
        f"{counts.get(State.SUBMITTED.value, 0)} are submitted: those that run would finish",
    ]


def cancel_screen(screen_id: str, settings: SettingsLike) -> ScreenProgress:
    """Cancel a screen: nothing new begins; running jobs finish, and their outcomes are kept.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    """
    with open_workspace(settings) as workspace, hold_submission(workspace, f"screen {screen_id}"):
        stores = workspace.get(open_screen_stores)
        screen = find_screen(stores, screen_id)
        screen.phase, screen.message = ScreenPhase.CANCELLED, "cancelled"
        progress = ScreenProgress(screen)
        rows = find_rows(stores, screen_id, list(UNDECIDED))
        submitted = find_rows(stores, screen_id, [State.SUBMITTED])
        with open_place(screen.place, workspace.settings, "screen cancel") as place:
            stopped = place.withdraw(screen, submitted)
        for row in (*rows, *stopped):
            advance(row, Event.CANCEL)
        save_rows(stores, [*rows, *stopped], list(OPEN))
        save_screen(stores, screen)
        progress.lines.append(f"{len(rows) + len(stopped)} candidates are cancelled")
        logger.info("screen %s: %s", screen_id, progress.lines[-1])
        if running := len(submitted) - len(stopped):
            progress.lines.append(f"{running} are at workers and will finish; their outcomes are kept")
            progress.lines += [place.stopping] if place.stopping else []
    return progress


def refresh_screen(screen_id: str, settings: SettingsLike) -> ScreenDoc:
    """A screen, without its candidates, after ended relaxations were recorded; nothing is submitted.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    """
    with open_workspace(settings) as workspace:
        stores = workspace.get(open_screen_stores)
        screen = advance_screen(screen_id, workspace)
        if screen.phase != ScreenPhase.FINISHED:
            with open_place(screen.place, workspace.settings, "screen status") as place:
                screen = _settle_ended(workspace, screen, place)
                waiting = list_waiting_chunks(stores, screen_id)
                for number in place.find_ended_chunks(screen, waiting):
                    screen = advance_screen(screen_id, workspace, ended=Ended(chunk=number))
        screen.counts = count_rows(stores, screen_id)
    return screen


def _list_resumed(retry_failed: bool) -> list[State]:
    """States of the candidates that `resume_screen` requeues."""
    return [state for state in RESUMED if retry_failed or state != State.FAILED]


def _requeue(row: ScreenRow, error: str | None) -> None:
    """Reset a row to a state from which it can continue."""
    row.attempt += row.state in (State.CANCELLED, State.FAILED)
    for planned in row.outcomes:
        if is_retried(planned, error):
            planned.superseded = planned.recorded
            planned.state, planned.message, planned.recorded = None, None, None
    row.submitted = None
    if row.state not in (State.CANCELLED, State.LEFT):  # theirs is that of the prediction
        row.message = None
    if row.prediction_id is None or row.state == State.ERROR:
        advance(row, Event.PREDICT_AGAIN)
    else:
        advance(row, Event.RELAX_AGAIN if row.outcomes else Event.PLAN_AGAIN)


def _find_killed(stores: ScreenStores, screen_id: str) -> list[ScreenRow]:
    """Rows that are owned by an ended process of this machine."""
    return LocalPlace().find_lost(find_rows(stores, screen_id, [State.SUBMITTED]))


def _settle_ended(workspace: Workspace, screen: ScreenDoc, place: ScreenPlace) -> ScreenDoc:
    """Give a final state to candidates whose flow has ended without outcome."""
    screen_id = str(screen.screen_id)
    ended = place.find_ended(find_rows(workspace.get(open_screen_stores), screen_id, [State.SUBMITTED]))
    keys = tuple(row.row_key for row in ended)
    return advance_screen(screen_id, workspace, ended=Ended(row_keys=keys)) if keys else screen


def _make_samples(stores: ScreenStores, screen: ScreenDoc) -> list[Flow | Job]:
    """Sample flows for the checks, of the first structure that the engine accepts."""
    screen_id, engine = str(screen.screen_id), read_maker(screen).engine
    samples: list[Flow | Job] = [build_chunk_flow(screen_id, 0)]
    for structure in read_chunk(stores, screen_id, 0).unpack()[:TRIED]:
        try:
            return [*samples, engine.make(structure)]
        except EngineError:
            continue
    return samples
