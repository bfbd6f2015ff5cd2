"""Run a screen in this process: chunk after chunk, then candidate after candidate, the most promising first."""

from __future__ import annotations

import os
import platform
from collections.abc import Callable, Sequence
from pathlib import Path

from jobflow import Flow, Job, JobStore

from e3relax_flows.ledger.claims import hold_submission, is_process_gone
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.places.kinds import LOCAL
from e3relax_flows.places.local import JobReport, LocalRun, run_flow_locally
from e3relax_flows.schemas.screens import ScreenDoc, ScreenRow, Submitted
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.chunks import relax_rows, split_rows
from e3relax_flows.screening.flows import build_chunk_flow, build_launch_flow
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.place import ScreenPlace, release
from e3relax_flows.screening.store import (
    count_rows,
    find_screen,
    list_waiting_chunks,
    open_screen_stores,
)
from e3relax_flows.stores.pool import SettingsLike

OnJob = Callable[[JobReport], None]
AT_ONCE = 20  # candidates that are read from the store together


class LocalPlace(ScreenPlace):
    """The local process, which relaxes the candidates that it owns."""

    kind = LOCAL

    def __init__(self) -> None:
        self.taken: list[ScreenRow] = []

    def check(self, screen: ScreenDoc, samples: Sequence[Flow | Job]) -> list[str]:  # noqa: ARG002
        """No checks: a missing requirement is an error of the run."""
        return []

    def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:  # noqa: ARG002
        """Make this process the owner of candidates, which `run_screen_here` relaxes."""
        for row in rows:
            row.submitted = Submitted(place=self.name, host=platform.node(), pid=os.getpid())
        self.taken += rows

    def find_lost(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """Rows that are owned by an ended process of this machine."""
        owners = [(row, row.submitted) for row in rows]
        return [
            row for row, owner in owners if owner and owner.host and is_process_gone(owner.host, int(owner.pid or 0))
        ]

    def withdraw(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> list[ScreenRow]:  # noqa: ARG002
        """Those without a running process."""
        return self.find_lost(rows)


def run_screen_here(screen_id: str, settings: SettingsLike, jobs_dir: Path, on_job: OnJob | None = None) -> ScreenDoc:
    """Predict and relax the remaining candidates of a screen.

    Stopped at any moment, it continues when it is called again; two processes that run it at once share the
    candidates.

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
    with open_workspace(settings) as workspace:
        jobs = workspace.jobs
        for number in list_waiting_chunks(workspace.get(open_screen_stores), screen_id):
            run_flow_locally(build_chunk_flow(screen_id, number), jobs, jobs_dir, on_job)
            advance_screen(screen_id, workspace, ended=Ended(chunk=number))
        while True:
            here = LocalPlace()
            screen = advance_screen(screen_id, workspace, here, at_most=AT_ONCE)
            if not here.taken:
                screen.counts = count_rows(workspace.get(open_screen_stores), screen_id)
                return screen
            try:
                for part in split_rows(screen, read_maker(screen), here.taken[:]):
                    if len(part) == 1:
                        relax_here(screen, part[0], jobs, jobs_dir, on_job)
                    else:
                        relax_rows(screen, part, workspace, jobs, on_job)
                    del here.taken[: len(part)]
                    screen = advance_screen(screen_id, workspace, ended=Ended(row_keys=tuple(r.row_key for r in part)))
            finally:
                if here.taken:  # interrupted
                    _release_taken(screen_id, workspace, here.taken)


def relax_here(
    screen: ScreenDoc, row: ScreenRow, jobs: JobStore, jobs_dir: Path, on_job: OnJob | None = None
) -> LocalRun:
    """Relax one candidate in this process; finished parts of a killed process are not repeated."""
    flow = build_launch_flow(screen, row)
    return LocalRun({}) if flow is None else run_flow_locally(flow, jobs, jobs_dir, on_job)


def _release_taken(screen_id: str, workspace: Workspace, rows: list[ScreenRow]) -> None:
    """Plan owned candidates that did not end again."""
    stores = workspace.get(open_screen_stores)
    with hold_submission(workspace, f"screen {screen_id}"):
        release(stores, find_screen(stores, screen_id), rows)
