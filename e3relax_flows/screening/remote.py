"""Screens on jobflow-remote: chunks and candidates as flows of a project, submitted again if they are lost."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any

from jobflow import Flow, Job, JobConfig, OnMissing, job

from e3relax_flows.core.errors import ConfigError, EngineError, MissingDependencyError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.places.activity import describe_remote_activity
from e3relax_flows.places.checks import check_remote_project, check_remote_store
from e3relax_flows.places.kinds import REMOTE
from e3relax_flows.places.remote import ENDED, FAILED, LOST, RemotePlace, open_remote, open_remote_jobs
from e3relax_flows.places.submission import check_flows, judge_problems
from e3relax_flows.schemas.screens import ScreenDoc, ScreenRow, Submitted
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.flows import (
    build_candidate_flow,
    build_chunk_flow,
    name_candidate,
    name_chunk,
    name_launch_flow,
)
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.local import relax_here
from e3relax_flows.screening.place import ScreenPlace
from e3relax_flows.screening.store import find_screen, load_row, open_screen_stores
from e3relax_flows.stores.opening import is_job_store_configured

ADVANCE_JOB, CANDIDATE_JOB = "e3r advance", "e3r candidate"
ANYHOW = JobConfig(on_missing_references=OnMissing.NONE, pass_manager_config=False)


@job(name=ADVANCE_JOB, config=ANYHOW)
def advance_remote(project: str, screen_id: str, chunk: int | None, row_key: str | None, after: Any) -> str:  # noqa: ARG001
    """Record ended flows of a screen, and submit the next ones to the project; return the phase of the screen."""
    with open_workspace() as workspace:
        return _advance(workspace, project, screen_id, Ended(chunk, tuple(filter(None, [row_key]))))


@job(name=CANDIDATE_JOB, config=JobConfig(pass_manager_config=False))
def relax_remote(project: str, screen_id: str, row_key: str, advance: bool) -> dict[str, int]:
    """Relax a candidate from each of its starts in this job; run again, it continues after the last stored calculation.

    The jobs of the engine write their documents into jobflow's store of the worker's configuration, else into that of
    the project if the worker can open it, else into the embedded one.

    Raises
    ------
    EngineError
        When an outcome could not be recorded; a failed calculation is an outcome.
    """
    with open_workspace() as workspace, ExitStack() as stack:
        stores = workspace.get(open_screen_stores)
        screen, row = find_screen(stores, screen_id), load_row(stores, row_key)
        jobs = None if is_job_store_configured() else stack.enter_context(open_remote_jobs(project))
        run = relax_here(screen, row, jobs or workspace.jobs, Path.cwd())
        if advance:
            _advance(workspace, project, screen_id, Ended(row_keys=(row_key,)))
    broken = [report for report in run.failures if report.name.startswith("e3r ")]
    if broken:
        raise EngineError(
            f"{broken[0].name} of candidate {row.id} failed ({broken[0].error}); correct that, and type "
            f"`e3relax screen resume {screen_id}`"
        )
    return {"n_finished": run.n_finished, "n_failed": len(run.failures)}


def _advance(workspace: Workspace, project: str, screen_id: str, ended: Ended) -> str:
    """Advance a screen as far as it can go; a worker without access to the project only records ended flows."""
    with ExitStack() as stack:
        try:
            remote = stack.enter_context(open_remote("the next jobs of a screen", project))
        except (ConfigError, MissingDependencyError):
            place = None
        else:
            place = RemoteScreenPlace(remote, workspace.settings)
        return str(advance_screen(screen_id, workspace, place, ended).phase)


class RemoteScreenPlace(ScreenPlace):
    """Workers of a project of jobflow-remote.

    Parameters
    ----------
    remote
        The project, connected.
    settings
        For the workers of the roles.
    """

    kind = REMOTE
    advice = (
        "relaxations follow by themselves where the worker of role light sees ~/.jfremote; elsewhere type the same "
        "again when the predictions are done"
    )
    stopping = "jobflow-remote's jobs are stopped with `jf flow list` and `jf job stop`"
    frees_claims = True

    def __init__(self, remote: RemotePlace, settings: E3RelaxSettings) -> None:
        self.remote = remote
        self.settings = settings

    def check(self, screen: ScreenDoc, samples: Sequence[Flow | Job]) -> list[str]:
        """As `ScreenPlace.check`."""
        project = self.remote.project
        problems = [*check_flows(samples, REMOTE, self.settings), *check_remote_store(project, samples)]
        problems += check_remote_project(project, self.settings.WORKERS)
        is_first = not self.remote.find_placed([name_chunk(str(screen.screen_id), 0)])
        return judge_problems(problems, is_first)

    def submit_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[str]:
        """As `ScreenPlace.submit_chunks`."""
        names = {name_chunk(str(screen.screen_id), number): number for number in numbers}
        placed = self.remote.find_placed(list(names))
        again = [name for name, flow in placed.items() if flow.state in (*ENDED, LOST)]
        new = [name for name in names if name not in placed]
        for name in (*new, *again):
            flow = build_chunk_flow(str(screen.screen_id), names[name])
            after = flow.jobs[0].output
            flow.add_jobs(advance_remote(self.project, str(screen.screen_id), names[name], None, after))
            self.remote.send(flow, name, self.settings.WORKERS)
        return [
            *([f"{len(new)} prediction jobs are submitted"] if new else []),
            *([f"{len(again)} prediction jobs had failed or were lost, and are submitted again"] if again else []),
        ]

    def find_ended_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[int]:
        """As `ScreenPlace.find_ended_chunks`."""
        names = {name_chunk(str(screen.screen_id), number): number for number in numbers}
        placed = self.remote.find_placed(list(names))
        return [names[name] for name, flow in placed.items() if flow.state in (*ENDED, LOST)]

    def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:
        """As `ScreenPlace.submit`."""
        placed = self.remote.find_placed([name_candidate(row) for row in rows])
        is_whole = read_maker(screen).relaxes_in_one_launch
        for row in rows:
            name = name_candidate(row)
            flow = None
            if name not in placed or placed[name].state == LOST or (is_whole and placed[name].state == FAILED):
                flow = self._build_launch(screen, row) if is_whole else self._build_flow(screen, row)
                self.remote.send(flow, name, self.settings.WORKERS)
            # the flow that has the claims
            holder = name_launch_flow(row) if is_whole else flow.uuid if flow else placed[name].flow
            row.submitted = Submitted(place=self.name, flow=holder)

    @property
    def project(self) -> str:
        """Its name, by which jobs find it."""
        return str(self.remote.project.name)

    def _build_launch(self, screen: ScreenDoc, row: ScreenRow) -> Flow:
        """All calculations of a candidate in one job."""
        relax = relax_remote(self.project, row.screen_id, row.row_key, _is_limited(screen))
        relax.update_metadata({"screen_id": row.screen_id, "candidate": row.id})
        return Flow([relax], name=f"{CANDIDATE_JOB} {row.id}")

    def _build_flow(self, screen: ScreenDoc, row: ScreenRow) -> Flow:
        """A job for each calculation of a candidate."""
        flow = build_candidate_flow(screen, row)
        if _is_limited(screen):
            ends = [claim.output for claim in flow.jobs]
            flow.add_jobs(advance_remote(self.project, row.screen_id, None, row.row_key, ends))
        return flow

    def find_ended(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """As `ScreenPlace.find_ended`."""
        return [row for row, state in self._find_states(rows) if state in ENDED]

    def find_lost(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """As `ScreenPlace.find_lost`."""
        return [row for row, state in self._find_states(rows) if state in (None, LOST)]

    def describe_activity(self) -> list[str]:
        """As `ScreenPlace.describe_activity`."""
        return describe_remote_activity(self.remote)

    def withdraw(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """As `ScreenPlace.withdraw`."""
        chunks = [name_chunk(str(screen.screen_id), number) for number in range(screen.n_chunks)]
        placed = self.remote.find_placed([*chunks, *map(name_candidate, rows)])
        stopped = self.remote.stop(list(placed.values()))
        return [row for row in rows if name_candidate(row) in stopped or name_candidate(row) not in placed]

    def _find_states(self, rows: Sequence[ScreenRow]) -> Iterator[tuple[ScreenRow, str | None]]:
        """States of the flows of candidates; None for those that are not in the project."""
        placed = self.remote.find_placed([name_candidate(row) for row in rows])
        for row in rows:
            flow = placed.get(name_candidate(row))
            state = flow.state if flow else None
            # a job that relaxes a whole candidate fails if it was killed or could not record, never by its input
            is_launch = row.submitted is not None and row.submitted.flow == name_launch_flow(row)
            yield row, LOST if is_launch and state == FAILED else state


def _is_limited(screen: ScreenDoc) -> bool:
    """Whether the end of a candidate triggers a submission; otherwise `e3relax screen status` records it."""
    return screen.limits.max_in_flight is not None


@contextmanager
def open_remote_place(settings: E3RelaxSettings, purpose: str) -> Iterator[RemoteScreenPlace]:
    """The current project of jobflow-remote; see `open_remote`."""
    with open_remote(purpose) as remote:
        yield RemoteScreenPlace(remote, settings)
