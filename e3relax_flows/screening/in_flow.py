"""Jobs of a screen that one flow runs from registration to summary; see `ScreenMaker.make`."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from jobflow import CURRENT_JOB, Flow, Job, JobConfig, OnMissing, Response, job

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.engines.base import iterate_jobs
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.places.kinds import FLOW
from e3relax_flows.prerelax.ordering import DepthFirstFlow
from e3relax_flows.prerelax.starts import DISPATCH_JOB
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenRow, Submitted
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.control import resume_screen
from e3relax_flows.screening.flows import build_candidate_flow
from e3relax_flows.screening.place import ScreenPlace, release
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import (
    find_rows,
    find_screen,
    list_row_keys,
    list_waiting_chunks,
    load_screen,
    open_screen_stores,
)

if TYPE_CHECKING:
    from e3relax_flows.screening.maker import ScreenMaker

REGISTER_JOB, PLAN_JOB, SUMMARY_JOB = "e3r register", "e3r plan", "e3r summary"
# these jobs continue after failures, and do not pin the relaxations to their own worker
COLLECTOR = JobConfig(on_missing_references=OnMissing.NONE, pass_manager_config=False)


class FlowPlace(ScreenPlace):
    """The flow that runs the screen, to which relaxations are added."""

    kind = FLOW

    def __init__(self) -> None:
        self.flows: list[Flow | Job] = []

    def check(self, screen: ScreenDoc, samples: Sequence[Flow | Job]) -> list[str]:  # noqa: ARG002
        """No checks: the flow runs already."""
        return []

    def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:
        """Add the relaxations."""
        for row in rows:
            row.submitted = Submitted(place=self.name, flow=CURRENT_JOB.job.hosts[-1])
            self.flows.append(build_candidate_flow(screen, row))

    def find_lost(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """All that this flow has not submitted: claims protect those of another flow."""
        return [row for row in rows if row.submitted is None or row.submitted.place == self.name]

    def withdraw(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> list[ScreenRow]:  # noqa: ARG002
        """None: a flow is stopped at its place."""
        return []


def register_flow(maker: ScreenMaker, items: Sequence[ReadItem]) -> str:
    """Register the screen of a flow, or requeue unfinished candidates of an earlier one; return its id."""
    with open_workspace() as workspace:
        stores, settings = workspace.get(open_screen_stores), workspace.settings
        screen, is_new = register_screen(stores, maker, items, settings, place=FLOW.name)
        screen_id = str(screen.screen_id)
        if not is_new:
            with hold_submission(settings, f"screen {screen_id}"):
                lost = FlowPlace().find_lost(find_rows(stores, screen_id, [CandidateState.SUBMITTED]))
                release(stores, find_screen(stores, screen_id), lost)
            resume_screen(screen_id, settings, retry_failed=maker.retry_failed)
    return screen_id


@job(name=PLAN_JOB, config=COLLECTOR)
def plan_screen(screen_id: str, chunks: list[Any]) -> str:  # noqa: ARG001
    """Plan the relaxations when all chunks have ended; return the id of the screen.

    Parameters
    ----------
    screen_id
        Of the screen.
    chunks
        Outputs of the prediction jobs, which this job waits for.
    """
    with open_workspace() as workspace:
        for number in list_waiting_chunks(workspace.get(open_screen_stores), screen_id):
            advance_screen(screen_id, workspace, ended=Ended(chunk=number))
        advance_screen(screen_id, workspace)
    return screen_id


@job(name=DISPATCH_JOB, config=COLLECTOR)
def dispatch_chunk(screen_id: str, number: int) -> Response[Any] | None:
    """Replace this job by the planned relaxations of one chunk."""
    place = FlowPlace()
    with open_workspace() as workspace:
        advance_screen(screen_id, workspace, place, chunk=number)
    if not place.flows:
        return None
    # an output, so that every manager lets the summary wait for the relaxations
    claims = [claim.output for flow in place.flows for claim in iterate_jobs(flow)]
    return Response(replace=DepthFirstFlow(place.flows, output=claims, name=f"e3r chunk {number}"))


@job(name=SUMMARY_JOB, output_schema=ScreenDoc, config=COLLECTOR)
def summarize_screen(screen_id: str, dispatches: list[Any]) -> ScreenDoc:  # noqa: ARG001
    """Record ended relaxations; return the screen with its candidates.

    Parameters
    ----------
    screen_id
        Of the screen.
    dispatches
        Outputs of the jobs that relaxed the chunks, which this job waits for.
    """
    with open_workspace() as workspace:
        stores = workspace.get(open_screen_stores)
        keys = tuple(list_row_keys(stores, screen_id, CandidateState.SUBMITTED))
        advance_screen(screen_id, workspace, ended=Ended(row_keys=keys))
        return load_screen(stores, screen_id)
