"""Run a screen in this process: chunk after chunk, then candidate after candidate, the most promising first."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable
from functools import partial
from pathlib import Path

from jobflow import JobStore

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import hold_submission, is_process_gone
from e3relax_flows.places.local import JobReport, LocalRun, run_flow_locally
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenRow
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.flows import build_chunk_flow, build_launch_flow
from e3relax_flows.screening.store import (
    ScreenStores,
    count_rows,
    find_rows,
    find_screen,
    list_waiting_chunks,
    open_screen_stores,
    save_rows,
    save_screen,
)
from e3relax_flows.stores.opening import open_job_store

OnJob = Callable[[JobReport], None]
AT_ONCE = 20  # candidates that are taken from the store together
OWNER = "process"  # of rows that are relaxed here: process HOST PID


def run_screen_here(
    screen_id: str, settings: E3RelaxSettings, jobs_dir: Path, on_job: OnJob | None = None
) -> ScreenDoc:
    """Predict and relax what is left of a screen.

    Stopped at any moment, it goes on when it is called again; of two processes that run it at once each takes what the
    other has not.

    Parameters
    ----------
    screen_id
        Of the screen.
    settings
        For the stores.
    jobs_dir
        Folder of the jobs' own folders.
    on_job
        Called after each job.

    Returns
    -------
    screen
        Without its candidates.
    """
    with open_job_store(settings) as jobs:
        with open_screen_stores(settings) as stores:
            waiting = list_waiting_chunks(stores, screen_id)
        for number in waiting:
            run_flow_locally(build_chunk_flow(screen_id, number), jobs, jobs_dir, on_job)
            advance_screen(screen_id, settings, ended=Ended(chunk=number))
        while True:
            taken: list[ScreenRow] = []
            screen = advance_screen(screen_id, settings, partial(_take, taken), at_most=AT_ONCE)
            if not taken:
                with open_screen_stores(settings) as stores:
                    screen.counts = count_rows(stores, screen_id)
                return screen
            try:
                while taken:
                    relax_here(screen, taken[0], jobs, jobs_dir, on_job)
                    screen = advance_screen(screen_id, settings, ended=Ended(row_keys=(taken.pop(0).row_key,)))
            finally:  # interrupted
                if taken:
                    with hold_submission(settings, f"screen {screen_id}"), open_screen_stores(settings) as stores:
                        give_back(stores, taken)
                        screen = find_screen(stores, screen_id)
                        screen.n_submitted -= len(taken)  # what did not end spends no budget
                        save_screen(stores, screen)


def relax_here(
    screen: ScreenDoc, row: ScreenRow, jobs: JobStore, jobs_dir: Path, on_job: OnJob | None = None
) -> LocalRun:
    """Relax one candidate in this process; what a killed one has done of it is not done again."""
    flow = build_launch_flow(screen, row)
    return LocalRun({}) if flow is None else run_flow_locally(flow, jobs, jobs_dir, on_job)


def find_lost(stores: ScreenStores, screen_id: str) -> list[ScreenRow]:
    """Rows that a process of this machine has taken, which is no more."""
    lost = []
    for row in find_rows(stores, screen_id, [CandidateState.SUBMITTED]):
        kind, *place = (row.flow or "").split(" ")
        if kind == OWNER and len(place) == 2 and is_process_gone(place[0], int(place[1])):
            lost.append(row)
    return lost


def give_back(stores: ScreenStores, rows: list[ScreenRow]) -> None:
    """Plan rows anew that were taken and not relaxed."""
    for row in rows:
        row.state, row.flow = CandidateState.PLANNED, None
    save_rows(stores, rows, [CandidateState.SUBMITTED])


def _take(taken: list[ScreenRow], rows: list[ScreenRow]) -> None:
    for row in rows:
        row.flow = f"{OWNER} {platform.node()} {os.getpid()}"
    taken += rows
