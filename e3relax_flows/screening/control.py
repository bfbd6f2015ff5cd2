"""Start, resume and cancel screens, wherever their jobs run."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any

from jobflow import Flow, Job

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.places.checks import check_launchpad, check_remote_project, check_remote_store
from e3relax_flows.places.launchpad import open_launchpad
from e3relax_flows.places.remote import open_remote
from e3relax_flows.places.submission import check_flows, judge_problems
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenLimits, ScreenPhase, ScreenRow
from e3relax_flows.screening import remote
from e3relax_flows.screening.advance import OPEN, Ended, advance_screen
from e3relax_flows.screening.failures import can_go_on, check_error_text, is_retried, select_retried
from e3relax_flows.screening.flows import build_chunk_flow, name_candidate, name_chunk
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.local import find_lost, give_back
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

State = CandidateState
CANCELLED = (State.WAITING, State.PREDICTED, State.PLANNED, State.HELD)  # states that `cancel_screen` ends
TRIED = 5  # structures of which the engine has to take one, for the checks
ENDED, NEVER = ("COMPLETED", "FIZZLED"), ("ARCHIVED", "DEFUSED")  # states of workflows
GONE: tuple[str, list[int]] = ("ARCHIVED", [])


@dataclass
class Progress:
    """What starting, resuming or cancelling has done."""

    screen: ScreenDoc  # without its candidates
    lines: list[str] = field(default_factory=list)  # for a person
    warnings: list[str] = field(default_factory=list)


def start_screen(screen_id: str, settings: E3RelaxSettings) -> Progress:
    """Give a screen to the workers of its place, or go on with it there; typed twice, it is done once.

    Parameters
    ----------
    screen_id
        Of a registered screen whose place is fireworks or remote.
    settings
        For the stores.

    Raises
    ------
    ConfigError
        When a check fails; the message says what to type. Nothing was submitted.
    StoreError
        When a store or the launchpad cannot be reached.
    """
    with open_screen_stores(settings) as stores:
        screen = find_screen(stores, screen_id)
        samples = _make_samples(stores, screen)
    if screen.place == "remote":
        return _start_remote(screen, samples, settings)
    with open_launchpad("--submit fireworks") as pad:
        from e3relax_flows.screening import launchpad  # needs FireWorks

        problems = check_flows(samples, "fireworks", settings)
        progress = Progress(screen, warnings=judge_problems([*problems, *check_launchpad(pad, settings.WORKERS)]))
        _end_ended(pad, advance_screen(screen_id, settings), settings)
        _verify(pad, progress, settings)
        progress.screen = advance_screen(screen_id, settings, launchpad.hand_to_launchpad(pad, screen, settings))
    return progress


def resume_screen(
    screen_id: str,
    settings: E3RelaxSettings,
    limits: ScreenLimits | None = None,
    retry_failed: bool = False,
    error: str | None = None,
) -> Progress:
    """Take up what was cancelled, left, lost or has no prediction, and with `retry_failed` what has failed.

    Nothing is submitted by this: `start_screen` or `run_screen_here` goes on.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    limits
        New ones; none: as they are.
    retry_failed
        Whether failed relaxations are tried again.
    error
        Only those whose error contains this text, in capitals or not.

    Raises
    ------
    ConfigError
        When no error contains it; nothing was changed.
    """
    with hold_submission(settings, f"screen {screen_id}"), open_screen_stores(settings) as stores:
        screen = find_screen(stores, screen_id)
        progress = Progress(screen)
        states = _list_resumed(retry_failed)
        rows = find_rows(stores, screen_id, states)
        check_error_text(rows, error, screen_id)
        if limits is not None:
            screen.limits = limits
        killed = find_lost(stores, screen_id)
        give_back(stores, killed)
        screen.n_submitted -= len(killed)
        taken_up = [row for row in select_retried(rows, error) if can_go_on(row, retry_failed)]
        for row in taken_up:
            _take_up(row, error)
        save_rows(stores, taken_up, states)
        if taken_up:
            progress.lines.append(f"{len(taken_up)} candidates are taken up again")
        if any(row.state == State.WAITING for row in taken_up) or screen.phase == ScreenPhase.PREDICTING:
            screen.phase = ScreenPhase.PREDICTING
        elif find_rows(stores, screen_id, OPEN, limit=1):
            screen.phase = ScreenPhase.RELAXING
        screen.message = None
        save_screen(stores, screen)
    return progress


def plan_resume(
    screen_id: str, settings: E3RelaxSettings, retry_failed: bool = False, error: str | None = None
) -> list[str]:
    """What `resume_screen` and running on would take up, in words; nothing is changed.

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
        taken_up = sum(can_go_on(row, retry_failed) for row in select_retried(rows, error))
        taken_up += len(find_lost(stores, screen_id))
        waiting = sum(counts.get(state.value, 0) for state in CANCELLED if state != State.HELD)
    return [
        f"{taken_up} candidates would be taken up again",
        f"{waiting} that nobody has begun would be predicted and relaxed, place: {place}",
    ]


def plan_cancel(screen_id: str, settings: E3RelaxSettings) -> list[str]:
    """What `cancel_screen` would do, in words; nothing is changed, and no launchpad is asked.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    """
    with open_screen_stores(settings) as stores:
        counts = count_rows(stores, screen_id)
    waiting = sum(counts.get(state.value, 0) for state in CANCELLED)
    return [
        f"{waiting} candidates would be cancelled",
        f"{counts.get(State.SUBMITTED.value, 0)} are handed out: those that run would end by themselves",
    ]


def cancel_screen(screen_id: str, settings: E3RelaxSettings) -> Progress:
    """Let nothing more begin; what runs at workers ends by itself, and its outcome is kept.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    """
    with hold_submission(settings, f"screen {screen_id}"), open_screen_stores(settings) as stores:
        screen = find_screen(stores, screen_id)
        screen.phase, screen.message = ScreenPhase.CANCELLED, "cancelled"
        progress = Progress(screen)
        states = list(CANCELLED)
        rows = find_rows(stores, screen_id, states)
        submitted = find_rows(stores, screen_id, [State.SUBMITTED])
        if screen.place == "fireworks":
            with open_launchpad("screen cancel") as pad:
                from e3relax_flows.screening import launchpad  # needs FireWorks

                launchpad.defuse(pad, [name_chunk(screen_id, number) for number in range(screen.n_chunks)])
                gone = launchpad.defuse(pad, [name_candidate(row) for row in submitted])
            stopped = [row for row in submitted if name_candidate(row) in gone]
        elif screen.place == "remote":
            with open_remote("screen cancel") as place:
                stopped = remote.stop_flows(place, screen, submitted)
        else:
            stopped = find_lost(stores, screen_id)
        for row in (*rows, *stopped):
            row.state = State.CANCELLED
        save_rows(stores, [*rows, *stopped], [*states, State.SUBMITTED])
        save_screen(stores, screen)
        progress.lines.append(f"{len(rows) + len(stopped)} candidates are cancelled")
        if running := len(submitted) - len(stopped):
            progress.lines.append(f"{running} are at workers and end by themselves; their outcomes are kept")
        if running and screen.place == "remote":
            progress.lines.append("jobflow-remote's jobs are stopped with `jf flow list` and `jf job stop`")
    return progress


def refresh_screen(screen_id: str, settings: E3RelaxSettings) -> ScreenDoc:
    """A screen, without its candidates, after what has ended was settled; nothing is handed out.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    """
    screen = advance_screen(screen_id, settings)
    if screen.place == "fireworks" and screen.phase != ScreenPhase.FINISHED:
        with open_launchpad("screen status") as pad:
            screen = _end_ended(pad, screen, settings)
    elif screen.place == "remote" and screen.phase != ScreenPhase.FINISHED:
        with open_remote("screen status") as place:
            remote.end_candidates(place, screen_id, settings)
            remote.end_chunks(place, screen_id, settings)
        screen = advance_screen(screen_id, settings)
    with open_screen_stores(settings) as stores:
        screen.counts = count_rows(stores, screen_id)
    return screen


def _list_resumed(retry_failed: bool) -> list[State]:
    """States of the candidates that `resume_screen` takes up."""
    return [State.LEFT, State.CANCELLED, State.HELD, State.ERROR, *([State.FAILED] if retry_failed else [])]


def _take_up(row: ScreenRow, error: str | None) -> None:
    """Put a row back to where it can go on."""
    row.attempt += row.state in (State.CANCELLED, State.FAILED)
    for planned in row.outcomes:
        if is_retried(planned, error):
            planned.superseded = planned.recorded
            planned.state, planned.message, planned.recorded = None, None, None
    row.message = None
    if row.prediction_id is None or row.state == State.ERROR:
        row.state = State.WAITING
    else:
        row.state = State.PLANNED if row.outcomes else State.PREDICTED


def _end_ended(pad: Any, screen: ScreenDoc, settings: E3RelaxSettings) -> ScreenDoc:
    """Give a final state to candidates whose workflow has ended without outcome."""
    from e3relax_flows.screening import launchpad  # needs FireWorks

    screen_id = str(screen.screen_id)
    with open_screen_stores(settings) as stores:
        submitted = {name_candidate(row): row for row in find_rows(stores, screen_id, [State.SUBMITTED])}
    states = launchpad.find_states(pad, list(submitted))
    ended = [row.row_key for name, row in submitted.items() if states.get(name, ("", []))[0] in ENDED]
    return advance_screen(screen_id, settings, ended=Ended(row_keys=tuple(ended))) if ended else screen


def _verify(pad: Any, progress: Progress, settings: E3RelaxSettings) -> None:
    """Compare a screen with the launchpad: submit chunks that are not there, plan anew candidates that are lost."""
    from e3relax_flows.screening import launchpad  # needs FireWorks

    screen, screen_id = progress.screen, str(progress.screen.screen_id)
    with hold_submission(settings, f"screen {screen_id}"), open_screen_stores(settings) as stores:
        numbers = list_waiting_chunks(stores, screen_id)
        states = launchpad.find_states(pad, [name_chunk(screen_id, number) for number in numbers])
        ended = [name for name, (state, _) in states.items() if state in ENDED]
        launchpad.rerun(pad, ended)
        launchpad.place_chunks(pad, screen, numbers, settings)
        new = [name for name in map(partial(name_chunk, screen_id), numbers) if states.get(name, GONE)[0] in NEVER]
        if new:
            progress.lines.append(f"{len(new)} prediction jobs are submitted")
        if ended:
            progress.lines.append(f"{len(ended)} prediction jobs run again")
        submitted = find_rows(stores, screen_id, [State.SUBMITTED])
        states = launchpad.find_states(pad, [name_candidate(row) for row in submitted])
        lost = [row for row in submitted if states.get(name_candidate(row), GONE)[0] in NEVER]
        give_back(stores, lost)
        if lost:
            progress.lines.append(f"{len(lost)} candidates were at no worker and are submitted again")


def _start_remote(screen: ScreenDoc, samples: Sequence[Flow | Job], settings: E3RelaxSettings) -> Progress:
    """Give jobflow-remote what can run now and is not there: typed again after the predictions, relaxations follow."""
    screen_id = str(screen.screen_id)
    with open_remote("--submit remote") as place:
        problems = [*check_flows(samples, "remote", settings), *check_remote_store(place.project, samples)]
        problems += check_remote_project(place.project, settings.WORKERS)
        progress = Progress(screen, warnings=judge_problems(problems))
        advance_screen(screen_id, settings)
        remote.end_candidates(place, screen_id, settings)
        with hold_submission(settings, f"screen {screen_id}"), open_screen_stores(settings) as stores:
            new, again = remote.send_chunks(place, stores, screen_id, settings)
            lost = remote.plan_lost(place, stores, screen_id, settings)
        progress.screen = advance_screen(screen_id, settings, remote.hand_to_remote(place, screen, settings))
    lines = {
        f"{new} prediction jobs are submitted": new,
        f"{again} prediction jobs had failed or were lost, and are submitted again": again,
        f"{lost} candidates were at no worker and are submitted again": lost,
        "jobflow-remote's jobs submit none: type the same again when the predictions are done": (
            progress.screen.phase == ScreenPhase.PREDICTING
        ),
    }
    progress.lines += [line for line, count in lines.items() if count]
    return progress


def _make_samples(stores: ScreenStores, screen: ScreenDoc) -> list[Flow | Job]:
    """Flows like those to come, for the checks: one of the first structures that the engine takes shows its jobs."""
    screen_id, engine = str(screen.screen_id), read_maker(screen).engine
    samples: list[Flow | Job] = [build_chunk_flow(screen_id, 0)]
    for structure in read_chunk(stores, screen_id, 0).unpack()[:TRIED]:
        try:
            return [*samples, engine.make(structure)]
        except EngineError:
            continue
    return samples
