"""Screens on a launchpad: workflows of chunks and candidates, and the firetasks that relax one and advance a screen.

This module needs FireWorks; see `place.open_place`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

from fireworks import FireTaskBase, Firework, FWAction, LaunchPad, Workflow
from jobflow import SETTINGS, Flow, Job

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.roles import Role
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.ledger.workspace import Workspace, open_workspace
from e3relax_flows.places.activity import describe_launchpad_activity
from e3relax_flows.places.checks import check_launchpad
from e3relax_flows.places.kinds import FIREWORKS
from e3relax_flows.places.launchpad import (
    CONTENT_KEY,
    FLOW_KEY,
    Placed,
    add_workflows,
    convert_flow,
    defuse,
    find_placed,
    find_states,
    open_launchpad,
    rerun,
)
from e3relax_flows.places.local import JobReport
from e3relax_flows.places.one_task import OnceJobTask
from e3relax_flows.places.roles import assign_roles
from e3relax_flows.places.submission import check_flows, judge_problems
from e3relax_flows.prerelax.relax import make_uuid
from e3relax_flows.schemas.outcomes import StartKind
from e3relax_flows.schemas.screens import ScreenDoc, ScreenRow, Submitted
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.chunks import relax_rows, split_rows
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
from e3relax_flows.screening.store import find_screen, load_row, load_rows, open_screen_stores

ADVANCE_NAME, CANDIDATE_NAME = "e3r advance", "e3r candidate"
ENDED, NEVER = ("COMPLETED", "FIZZLED"), ("ARCHIVED", "DEFUSED")  # states of workflows
GONE: tuple[str, list[int]] = ("ARCHIVED", [])


class AdvanceTask(FireTaskBase):
    """Record ended flows of a screen, and submit the next ones to the launchpad.

    Parameters
    ----------
    screen_id
        Of the screen.
    chunk, row_key
        The ended chunk, by its number, or candidate, by the key of its row.
    """

    _fw_name = "{{e3relax_flows.screening.launchpad.AdvanceTask}}"
    required_params = ("screen_id",)
    optional_params = ("chunk", "row_key")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Run the task; without a launchpad (offline) only ended flows are recorded."""
        ended = Ended(self.get("chunk"), tuple(filter(None, [self.get("row_key")])))
        with open_workspace() as workspace:
            screen = find_screen(workspace.get(open_screen_stores), self["screen_id"])
            _advance(workspace, screen, ended, self.launchpad)


class CandidateJobTask(OnceJobTask):
    """Run a job of a candidate of a screen, and advance its screen after the last job.

    Parameters
    ----------
    screen_id
        Of the screen.
    row_key
        Of the candidate's row.
    """

    _fw_name = "{{e3relax_flows.screening.launchpad.CandidateJobTask}}"
    optional_params = (*OnceJobTask.optional_params, "screen_id", "row_key")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> FWAction:
        """Run the task; its screen advances even if it fails."""
        follows = False
        try:
            action = super().run_task(fw_spec)
            for workflow in action.detours:
                follows = True
                take_on(workflow, self["screen_id"], self["row_key"])
        finally:
            if not follows:
                self._advance()
        return action

    def _advance(self) -> None:
        kind = StartKind(self["job"].metadata["start_kind"])
        with open_workspace() as workspace:
            screen = find_screen(workspace.get(open_screen_stores), self["screen_id"])
            _advance(workspace, screen, Ended(row_keys=(self["row_key"],), start_kind=kind), self.launchpad)


def take_on(workflow: Workflow, screen_id: str, row_key: str) -> None:
    """Let the last jobs of a workflow (changed in place) advance a screen."""
    for number in workflow.leaf_fw_ids:
        firework = workflow.id_fw[number]
        firework.spec["_add_launchpad_and_fw_id"] = True
        firework.tasks = [
            CandidateJobTask({**task, "screen_id": screen_id, "row_key": row_key}) for task in firework.tasks
        ]


class ChunkTask(FireTaskBase):
    """Relax some candidates of a screen in this launch, and advance its screen.

    Launched again after its worker was killed, it continues after the last recorded outcome.

    Parameters
    ----------
    screen_id
        Of the screen.
    row_keys
        Of the candidates' rows.
    advance
        Whether to submit further candidates at its end.
    """

    _fw_name = "{{e3relax_flows.screening.launchpad.ChunkTask}}"
    required_params = ("screen_id", "row_keys", "advance")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Run the task; a failed relaxation is an outcome.

        Raises
        ------
        EngineError
            When a candidate has no prediction, or its outcome could not be recorded; after all others have ended.
        """
        with open_workspace() as workspace:
            stores = workspace.get(open_screen_stores)
            screen, rows = find_screen(stores, self["screen_id"]), load_rows(stores, self["row_keys"])
            jobs = SETTINGS.JOB_STORE  # as in jobflow's own firetask: open as long as the worker lives
            jobs.connect()
            broken = relax_rows(screen, rows, workspace, jobs, _print_failure)
            if self["advance"]:
                _advance(workspace, screen, Ended(row_keys=tuple(self["row_keys"])), self.launchpad)
        if broken:
            raise EngineError(f"{broken[0].error}; correct that, and type `lpad rerun_fws -s FIZZLED`")


class CandidateTask(FireTaskBase):
    """Relax a candidate of a screen, from each of its starts, in this launch, and advance its screen.

    Launched again after its worker was killed, it continues after the last calculation in the job store.

    Parameters
    ----------
    screen_id
        Of the screen.
    row_key
        Of the candidate's row.
    advance
        Whether to submit further candidates at its end.
    """

    _fw_name = "{{e3relax_flows.screening.launchpad.CandidateTask}}"
    required_params = ("screen_id", "row_key", "advance")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Run the task.

        Raises
        ------
        EngineError
            When an outcome could not be recorded; a failed calculation is an outcome.
        """
        with open_workspace() as workspace:
            stores = workspace.get(open_screen_stores)
            screen, row = find_screen(stores, self["screen_id"]), load_row(stores, self["row_key"])
            jobs = SETTINGS.JOB_STORE  # as in jobflow's own firetask: open as long as the worker lives
            jobs.connect()
            run = relax_here(screen, row, jobs, Path.cwd(), _print_failure)
            if self["advance"]:
                _advance(workspace, screen, Ended(row_keys=(self["row_key"],)), self.launchpad)
        broken = [report for report in run.failures if report.name.startswith("e3r ")]
        if broken:
            raise EngineError(
                f"{broken[0].name} of candidate {row.id} failed ({broken[0].error}); correct that, and type "
                "`lpad rerun_fws -s FIZZLED`"
            )


def _print_failure(report: JobReport) -> None:
    """Record an error in the output of the launch."""
    if report.error is not None:
        print(f"{report.name} failed:\n{report.traceback}", file=sys.stderr)


def _advance(workspace: Workspace, screen: ScreenDoc, ended: Ended, pad: LaunchPad | None) -> None:
    place = None if pad is None else FireworksPlace(pad, workspace.settings)
    advance_screen(str(screen.screen_id), workspace, place, ended)


class FireworksPlace(ScreenPlace):
    """Workers of a launchpad.

    Parameters
    ----------
    pad
        The launchpad, connected.
    settings
        For the workers of the roles.
    """

    kind = FIREWORKS

    def __init__(self, pad: LaunchPad, settings: E3RelaxSettings) -> None:
        self.pad = pad
        self.settings = settings

    def check(self, screen: ScreenDoc, samples: Sequence[Flow | Job]) -> list[str]:
        """As `ScreenPlace.check`."""
        problems = [
            *check_flows(samples, FIREWORKS, self.settings),
            *check_launchpad(self.pad, self.settings.WORKERS),
        ]
        is_first = not find_states(self.pad, [name_chunk(str(screen.screen_id), 0)])
        return judge_problems(problems, is_first)

    def submit_chunks(self, screen: ScreenDoc, numbers: Sequence[int]) -> list[str]:
        """As `ScreenPlace.submit_chunks`."""
        screen_id = str(screen.screen_id)
        names = {number: name_chunk(screen_id, number) for number in numbers}
        states = find_states(self.pad, list(names.values()))
        ended = [name for name, (state, _) in states.items() if state in ENDED]
        rerun(self.pad, ended)
        self._add({name: partial(self._build_chunk, screen_id, number) for number, name in names.items()})
        n_new = sum(states.get(name, GONE)[0] in NEVER for name in names.values())
        return [
            *([f"{n_new} prediction jobs are submitted"] if n_new else []),
            *([f"{len(ended)} prediction jobs run again"] if ended else []),
        ]

    def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:
        """As `ScreenPlace.submit`."""
        maker = read_maker(screen)
        # without a limit nothing follows the end of a candidate, and `e3relax screen status` records it
        is_limited = screen.limits.max_in_flight is not None

        def build(row: ScreenRow) -> Any:
            if maker.relaxes_in_one_launch:
                return _build_launch(row, is_limited, self.settings)
            workflow = self._convert(build_candidate_flow(screen, row), name_candidate(row))
            if is_limited:
                take_on(workflow, row.screen_id, row.row_key)
            return workflow

        if maker.relaxes_in_one_launch and maker.engine.relaxes_chunks:
            placed = self._add_launches(screen, maker, rows, is_limited)
        else:
            placed = self._add({name_candidate(row): partial(build, row) for row in rows})
        for row in rows:
            row.submitted = Submitted(place=self.name, flow=placed[name_candidate(row)].flow)

    def find_ended(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """Those whose last workflow has ended."""
        return self._select(rows, ENDED)

    def find_lost(self, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """Those without a workflow, or with one that will not run."""
        return self._select(rows, NEVER)

    def describe_activity(self) -> list[str]:
        """As `ScreenPlace.describe_activity`."""
        return describe_launchpad_activity(self.pad)

    def withdraw(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> list[ScreenRow]:
        """As `ScreenPlace.withdraw`."""
        screen_id = str(screen.screen_id)
        defuse(self.pad, [name_chunk(screen_id, number) for number in range(screen.n_chunks)])
        gone = defuse(self.pad, [name_candidate(row) for row in rows])
        return [row for row in rows if name_candidate(row) in gone]

    def _select(self, rows: Sequence[ScreenRow], wanted: tuple[str, ...]) -> list[ScreenRow]:
        states = find_states(self.pad, [name_candidate(row) for row in rows])
        return [row for row in rows if states.get(name_candidate(row), GONE)[0] in wanted]

    def _build_chunk(self, screen_id: str, number: int) -> Any:
        workflow = self._convert(build_chunk_flow(screen_id, number), name_chunk(screen_id, number))
        return _add_end(workflow, screen_id, {"chunk": number}, self.settings)

    def _convert(self, flow: Flow, content_id: str) -> Any:
        assign_roles(flow, self.settings.WORKERS, FIREWORKS)
        return convert_flow(flow, content_id)

    def _add_launches(
        self, screen: ScreenDoc, maker: Any, rows: Sequence[ScreenRow], advance: bool
    ) -> dict[str, Placed]:
        """Add the workflows of candidates that share a launch; return the placed ones by candidate."""
        with hold_submission(self.settings):
            names = {name_candidate(row): row for row in rows}
            known = {key: placed for key, placed in find_placed(self.pad, list(names)).items() if placed.is_whole}
            workflows: dict[str, Any] = {}
            for part in split_rows(screen, maker, [row for key, row in names.items() if key not in known]):
                workflow = _build_chunk_launch(part, advance, self.settings)
                workflows |= {name_candidate(row): workflow for row in part}
            return {**known, **add_workflows(self.pad, workflows)} if workflows else known

    def _add(self, builders: Mapping[str, Callable[[], Any]]) -> dict[str, Placed]:
        """Add missing workflows, by content id; return all that are on the launchpad."""
        with hold_submission(self.settings):
            known = {key: placed for key, placed in find_placed(self.pad, list(builders)).items() if placed.is_whole}
            workflows = {key: build() for key, build in builders.items() if key not in known}
            return {**known, **add_workflows(self.pad, workflows)} if workflows else known


@contextmanager
def open_fireworks_place(settings: E3RelaxSettings, purpose: str) -> Iterator[FireworksPlace]:
    """The launchpad that FireWorks' own configuration names; see `open_launchpad`."""
    with open_launchpad(purpose) as pad:
        yield FireworksPlace(pad, settings)


def _build_launch(row: ScreenRow, advance: bool, settings: E3RelaxSettings) -> Any:
    """The workflow of a candidate that is relaxed in one launch."""
    task = CandidateTask(screen_id=row.screen_id, row_key=row.row_key, advance=advance)
    spec = {
        "_add_launchpad_and_fw_id": True,
        "prediction_id": row.prediction_id,
        "structure_id": row.structure_id,
        "candidate": row.id,
        **_express(Role.DFT, settings),
    }
    firework = Firework([task], spec, CANDIDATE_NAME)
    metadata = {CONTENT_KEY: name_candidate(row), FLOW_KEY: name_launch_flow(row)}
    return Workflow([firework], name=f"{CANDIDATE_NAME} {row.id}", metadata=metadata)


def _build_chunk_launch(rows: Sequence[ScreenRow], advance: bool, settings: E3RelaxSettings) -> Any:
    """The workflow of candidates that are relaxed in one launch; it is found by the content id of each."""
    task = ChunkTask(screen_id=rows[0].screen_id, row_keys=[row.row_key for row in rows], advance=advance)
    names = [name_candidate(row) for row in rows]
    spec = {"_add_launchpad_and_fw_id": True, "candidates": [row.id for row in rows], **_express(Role.DFT, settings)}
    firework = Firework([task], spec, CANDIDATE_NAME)
    metadata = {CONTENT_KEY: names, FLOW_KEY: make_uuid(" ".join(names))}
    return Workflow([firework], name=f"{CANDIDATE_NAME}s {rows[0].id} ... {rows[-1].id}", metadata=metadata)


def _add_end(workflow: Any, screen_id: str, end: dict[str, Any], settings: E3RelaxSettings) -> Any:
    """The workflow with one more firework, which runs after all others, also after failures."""
    spec = {"_allow_fizzled_parents": True, "_add_launchpad_and_fw_id": True, **_express(Role.LIGHT, settings)}
    task = AdvanceTask(screen_id=screen_id, **end)
    leaves = [workflow.id_fw[number] for number in workflow.leaf_fw_ids]
    last = Firework([task], spec, ADVANCE_NAME, parents=leaves)
    links = {parent: list(children) for parent, children in workflow.links.items()}
    return Workflow([*workflow.fws, last], links, workflow.name, workflow.metadata)


def _express(role: Role, settings: E3RelaxSettings) -> dict[str, Any]:
    """Entries of a firework's spec for the workers of a role."""
    worker = settings.WORKERS.get(role)
    return worker.express_for_fireworks() if worker else {}
