"""Screens on a launchpad: workflows of chunks and candidates, and the firetasks that relax one and advance a screen.

This module needs FireWorks; see `control.load_launchpad`.
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any

from fireworks import FireTaskBase, Firework, LaunchPad, Workflow
from jobflow import SETTINGS, Flow

from e3relax_flows.core.errors import EngineError
from e3relax_flows.core.roles import Role
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import hold_submission
from e3relax_flows.places.launchpad import CONTENT_KEY, FLOW_KEY, Placed, add_workflows, convert_flow, find_placed
from e3relax_flows.places.local import JobReport
from e3relax_flows.places.roles import assign_roles
from e3relax_flows.schemas.screens import ScreenDoc, ScreenRow
from e3relax_flows.screening.advance import Ended, Hand, advance_screen
from e3relax_flows.screening.flows import (
    build_candidate_flow,
    build_chunk_flow,
    name_candidate,
    name_chunk,
    name_launch_flow,
)
from e3relax_flows.screening.jobs import read_maker
from e3relax_flows.screening.local import relax_here
from e3relax_flows.screening.store import find_screen, load_row, open_screen_stores
from e3relax_flows.stores.opening import IDS_PER_QUERY

ADVANCE_NAME, CANDIDATE_NAME = "e3r advance", "e3r candidate"
NOT_STARTED = ("READY", "WAITING", "RESERVED", "DEFUSED", "PAUSED")


class AdvanceTask(FireTaskBase):
    """Settle what has ended in a screen, and give the launchpad what may follow.

    Parameters
    ----------
    screen_id
        Of the screen.
    chunk, row_key
        What has just ended: a chunk by its number, or a candidate by the key of its row.
    """

    _fw_name = "{{e3relax_flows.screening.launchpad.AdvanceTask}}"
    required_params = ("screen_id",)
    optional_params = ("chunk", "row_key")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Do it; without a launchpad (offline) only what has ended is settled."""
        ended = Ended(self.get("chunk"), tuple(filter(None, [self.get("row_key")])))
        _advance(self["screen_id"], ended, self.launchpad, load_settings())


class CandidateTask(FireTaskBase):
    """Relax a candidate of a screen, from each of its starts, in this launch, and take its screen on.

    Launched again after its worker was killed, it goes on after the last calculation that is in the job store.

    Parameters
    ----------
    screen_id
        Of the screen.
    row_key
        Of the candidate's row.
    advance
        Whether more is to be handed out at its end.
    """

    _fw_name = "{{e3relax_flows.screening.launchpad.CandidateTask}}"
    required_params = ("screen_id", "row_key", "advance")

    launchpad: LaunchPad | None = None  # set by the worker

    def run_task(self, fw_spec: dict[str, Any]) -> None:  # noqa: ARG002
        """Do it.

        Raises
        ------
        EngineError
            When an outcome could not be recorded; that a calculation failed is an outcome.
        """
        settings = load_settings()
        with open_screen_stores(settings) as stores:
            screen, row = find_screen(stores, self["screen_id"]), load_row(stores, self["row_key"])
        jobs = SETTINGS.JOB_STORE  # as jobflow's own firetask has it: open as long as the worker lives
        jobs.connect()
        run = relax_here(screen, row, jobs, Path.cwd(), _tell)
        if self["advance"]:
            _advance(self["screen_id"], Ended(row_keys=(self["row_key"],)), self.launchpad, settings)
        broken = [report for report in run.failures if report.name.startswith("e3r ")]
        if broken:
            raise EngineError(
                f"{broken[0].name} of candidate {row.id} failed ({broken[0].error}); mend that, and type "
                "`lpad rerun_fws -s FIZZLED`"
            )


def _tell(report: JobReport) -> None:
    """Leave what went wrong in the output of the launch."""
    if report.error is not None:
        print(f"{report.name} failed:\n{report.traceback}", file=sys.stderr)


def _advance(screen_id: str, ended: Ended, pad: LaunchPad | None, settings: E3RelaxSettings) -> None:
    with open_screen_stores(settings) as stores:
        screen = find_screen(stores, screen_id)
    hand = None if pad is None else hand_to_launchpad(pad, screen, settings)
    advance_screen(screen_id, settings, hand, ended)


def place_chunks(pad: Any, screen: ScreenDoc, numbers: Sequence[int], settings: E3RelaxSettings) -> dict[str, Placed]:
    """Give the prediction of chunks to the launchpad, those that are there excepted; what is there now."""
    screen_id = str(screen.screen_id)

    def build(number: int) -> Any:
        flow = build_chunk_flow(screen_id, number)
        return _add_end(_convert(flow, name_chunk(screen_id, number), settings), screen_id, {"chunk": number}, settings)

    builders = {name_chunk(screen_id, number): partial(build, number) for number in numbers}
    return _place(pad, builders, settings)


def hand_to_launchpad(pad: Any, screen: ScreenDoc, settings: E3RelaxSettings) -> Hand:
    """The function that gives candidates to the launchpad."""
    is_whole = read_maker(screen).relaxes_in_one_launch
    # without a limit nothing follows from the end of a candidate, and `e3relax screen status` sees it
    is_limited = screen.limits.max_in_flight is not None

    def build(row: ScreenRow) -> Any:
        if is_whole:
            return _build_launch(row, is_limited, settings)
        workflow = _convert(build_candidate_flow(screen, row), name_candidate(row), settings)
        return _add_end(workflow, row.screen_id, {"row_key": row.row_key}, settings) if is_limited else workflow

    def hand(rows: list[ScreenRow]) -> None:
        placed = _place(pad, {name_candidate(row): partial(build, row) for row in rows}, settings)
        for row in rows:
            row.flow = placed[name_candidate(row)].flow

    return hand


def find_states(pad: Any, names: Sequence[str]) -> dict[str, tuple[str, list[int]]]:
    """State and fireworks of the last workflow of each content id, archived and defused ones too."""
    found: dict[str, tuple[str, list[int]]] = {}
    for start in range(0, len(names), IDS_PER_QUERY):
        query = {f"metadata.{CONTENT_KEY}": {"$in": list(names[start : start + IDS_PER_QUERY])}}
        documents = list(pad.workflows.find(query, {"nodes": 1, "state": 1, "metadata": 1}))
        for document in sorted(documents, key=lambda item: min(item["nodes"])):
            found[document["metadata"][CONTENT_KEY]] = (document["state"], document["nodes"])
    return found


def defuse(pad: Any, names: Sequence[str]) -> set[str]:
    """Take workflows that have not started from the workers; the content ids of these, and of what is not there."""
    states = find_states(pad, names)
    gone = {name for name in names if name not in states}
    for name, (state, nodes) in states.items():
        if state in NOT_STARTED:
            pad.defuse_wf(min(nodes), defuse_all_states=False)
            gone.add(name)
    return gone


def rerun(pad: Any, names: Sequence[str]) -> None:
    """Run workflows by these content ids again from their first fireworks."""
    nodes = [node for _, all_nodes in find_states(pad, names).values() for node in all_nodes]
    for document in pad.workflows.find({"nodes": {"$in": nodes}}, {"nodes": 1, "links": 1}):
        children = {child for all_children in document["links"].values() for child in all_children}
        for node in set(document["nodes"]) - children:
            pad.rerun_fw(node)


def _place(pad: Any, builders: Mapping[str, Callable[[], Any]], settings: E3RelaxSettings) -> dict[str, Placed]:
    """Add the workflows, by content id, that are not there."""
    with hold_submission(settings):
        known = {name: placed for name, placed in find_placed(pad, list(builders)).items() if placed.is_whole}
        workflows = {name: build() for name, build in builders.items() if name not in known}
        return {**known, **add_workflows(pad, workflows)} if workflows else known


def _convert(flow: Flow, content_id: str, settings: E3RelaxSettings) -> Any:
    assign_roles(flow, settings.WORKERS, "fireworks")
    return convert_flow(flow, content_id)


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


def _add_end(workflow: Any, screen_id: str, end: dict[str, Any], settings: E3RelaxSettings) -> Any:
    """The workflow with one more firework, which runs after all others, however they ended."""
    spec = {"_allow_fizzled_parents": True, "_add_launchpad_and_fw_id": True, **_express(Role.LIGHT, settings)}
    task = AdvanceTask(screen_id=screen_id, **end)
    leaves = [workflow.id_fw[number] for number in workflow.leaf_fw_ids]
    last = Firework([task], spec, ADVANCE_NAME, parents=leaves)
    links = {parent: list(children) for parent, children in workflow.links.items()}
    return Workflow([*workflow.fws, last], links, workflow.name, workflow.metadata)


def _express(role: Role, settings: E3RelaxSettings) -> dict[str, Any]:
    """What the workers of a role want in a firework's spec."""
    worker = settings.WORKERS.get(role)
    return worker.express_for_fireworks() if worker else {}
