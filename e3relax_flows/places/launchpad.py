"""The launchpad of FireWorks: open it, find flows by their content, add missing ones."""

from __future__ import annotations

import io
import logging
from collections.abc import Iterator, Mapping, Sequence
from contextlib import closing, contextmanager, redirect_stderr
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from pymongo import WriteConcern
from pymongo.errors import PyMongoError

from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.optional import require

CONTENT_KEY, FLOW_KEY = "e3r_content", "e3r_flow"  # in the metadata of workflows
COLLECTIONS = ("fireworks", "launches", "workflows", "fw_id_assigner")
WORKFLOWS_PER_WRITE = 50
IDS_PER_QUERY = 2000
GONE = ("ARCHIVED", "DEFUSED")  # states of workflows that will not run any more
NOT_STARTED = ("READY", "WAITING", "RESERVED", "DEFUSED", "PAUSED")

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class Placed:
    """A workflow on the launchpad."""

    content_id: str
    state: str
    fw_ids: tuple[int, ...]
    is_whole: bool  # every node has its firework; a submission that was killed leaves some without
    flow: str | None = None  # uuid of the flow


@contextmanager
def open_launchpad(purpose: str) -> Iterator[Any]:
    """The launchpad that FireWorks' own configuration names, with durable writes, closed at the end.

    Raises
    ------
    MissingDependencyError
        When FireWorks is not installed; `purpose` is part of the message.
    StoreError
        When the launchpad cannot be reached or was never set up.
    """
    launchpads = require("fireworks", "fireworks", purpose).LaunchPad
    try:
        pad = launchpads.auto_load()
        with closing(pad.connection):
            # a submission that was acknowledged is then on disk
            for name in COLLECTIONS:
                collection = getattr(pad, name)
                setattr(pad, name, collection.with_options(write_concern=WriteConcern(w="majority", j=True)))
            if pad.fw_id_assigner.find_one() is None:
                raise StoreError("the launchpad takes no workflow, since it is not set up; do that with `lpad reset`")
            yield pad
    except PyMongoError as error:
        raise StoreError(
            f"the launchpad cannot be reached ({shorten(str(error), 300)}); write my_launchpad.yaml with `lpad init`, "
            "point FW_CONFIG_FILE at it, and start its MongoDB server"
        ) from error


def find_placed(pad: Any, content_ids: Sequence[str]) -> dict[str, Placed]:
    """Workflows on the launchpad by content id: those that run or have run; of several the last."""
    found: dict[str, Placed] = {}
    ids = list(content_ids)
    for start in range(0, len(ids), IDS_PER_QUERY):
        query = {f"metadata.{CONTENT_KEY}": {"$in": ids[start : start + IDS_PER_QUERY]}, "state": {"$nin": list(GONE)}}
        documents = list(pad.workflows.find(query, {"nodes": 1, "state": 1, "metadata": 1}))
        existing = find_existing(pad, [node for document in documents for node in document["nodes"]])
        for document in sorted(documents, key=lambda item: min(item["nodes"])):
            nodes, flow = tuple(document["nodes"]), document["metadata"].get(FLOW_KEY)
            for content_id in list_content(document):
                found[content_id] = Placed(content_id, document["state"], nodes, existing.issuperset(nodes), flow)
    return found


def list_content(workflow: Mapping[str, Any]) -> list[str]:
    """Content ids of a stored workflow; one with several candidates has several."""
    content = workflow["metadata"][CONTENT_KEY]
    return [content] if isinstance(content, str) else list(content)


def find_existing(pad: Any, fw_ids: Sequence[int]) -> set[int]:
    """Those of `fw_ids` that have a firework."""
    existing: set[int] = set()
    for start in range(0, len(fw_ids), IDS_PER_QUERY):
        part = list(fw_ids[start : start + IDS_PER_QUERY])
        existing |= {document["fw_id"] for document in pad.fireworks.find({"fw_id": {"$in": part}}, {"fw_id": 1})}
    return existing


def convert_flow(flow: Any, content_id: str) -> Any:
    """The workflow of a flow; no store is written into it, workers use their own configuration."""
    convert = require("jobflow.managers.fireworks", "fireworks", "--submit fireworks").flow_to_workflow
    from e3relax_flows.places.one_task import run_once  # needs FireWorks

    # FireWorks numbers new fireworks from -1 downwards by a counter of the process, so that their ids may be mixed
    return run_once(convert(flow, store=None, metadata={CONTENT_KEY: content_id, FLOW_KEY: flow.uuid}))


def add_workflows(pad: Any, workflows: Mapping[str, Any]) -> dict[str, Placed]:
    """Add workflows by content id, and check that they are complete.

    A workflow of the same content that a killed submission has left without some of its fireworks is removed.

    Raises
    ------
    StoreError
        When one of them is not on the launchpad afterwards.
    """
    _index_content(pad)
    for placed in find_placed(pad, list(workflows)).values():
        if not placed.is_whole:
            logger.info("workflow %s: not whole, fireworks %s are removed", placed.content_id, placed.fw_ids)
            remove_workflow(pad, placed.fw_ids)
    expected = {content_id: len(workflow.fws) for content_id, workflow in workflows.items()}
    pending = list({id(workflow): workflow for workflow in workflows.values()}.values())  # one may have several ids
    for start in range(0, len(pending), WORKFLOWS_PER_WRITE):
        with redirect_stderr(io.StringIO()):  # a progress bar for every batch
            pad.bulk_add_wfs(pending[start : start + WORKFLOWS_PER_WRITE])
    placed_now = find_placed(pad, list(workflows))
    broken = [
        content_id
        for content_id, n_jobs in expected.items()
        if content_id not in placed_now
        or not placed_now[content_id].is_whole
        or len(placed_now[content_id].fw_ids) < n_jobs
    ]
    if broken:
        raise StoreError(
            f"{len(broken)} of {len(expected)} workflows are incomplete on the launchpad (content {broken[0]}); "
            "type the same command again: present workflows stay, the rest is added"
        )
    for content_id in expected:
        logger.info("workflow %s: on the launchpad, fireworks %s", content_id, placed_now[content_id].fw_ids)
    return placed_now


def _index_content(pad: Any) -> None:
    """Index the content ids by FireWorks' own function, consistent with `wf_user_indices` of my_launchpad.yaml."""
    field = f"metadata.{CONTENT_KEY}"
    if not any(index["key"][0][0] == field for index in pad.workflows.index_information().values()):
        pad.workflows.create_index(field, background=True)


def remove_workflow(pad: Any, fw_ids: Sequence[int]) -> None:
    """Remove a workflow with its fireworks, the fireworks first, since these could be launched without it."""
    pad.fireworks.delete_many({"fw_id": {"$in": list(fw_ids)}})
    pad.workflows.delete_one({"nodes": {"$in": list(fw_ids)}})


def find_states(pad: Any, names: Sequence[str]) -> dict[str, tuple[str, list[int]]]:
    """State and fireworks of the last workflow of each content id, archived and defused ones too."""
    found: dict[str, tuple[str, list[int]]] = {}
    for start in range(0, len(names), IDS_PER_QUERY):
        query = {f"metadata.{CONTENT_KEY}": {"$in": list(names[start : start + IDS_PER_QUERY])}}
        documents = list(pad.workflows.find(query, {"nodes": 1, "state": 1, "metadata": 1}))
        for document in sorted(documents, key=lambda item: min(item["nodes"])):
            for name in list_content(document):
                found[name] = (document["state"], document["nodes"])
    return found


def defuse(pad: Any, names: Sequence[str]) -> set[str]:
    """Withdraw workflows that have not started; return their content ids, and those of missing ones."""
    states = find_states(pad, names)
    gone = {name for name in names if name not in states}
    stopped = {name: min(nodes) for name, (state, nodes) in states.items() if state in NOT_STARTED}
    for node in sorted(set(stopped.values())):  # one workflow may have several ids
        pad.defuse_wf(node, defuse_all_states=False)
        logger.info("firework %d: its workflow is defused", node)
    return gone | set(stopped)


def rerun(pad: Any, names: Sequence[str]) -> None:
    """Run workflows by these content ids again from their first fireworks."""
    nodes = [node for _, all_nodes in find_states(pad, names).values() for node in all_nodes]
    for document in pad.workflows.find({"nodes": {"$in": nodes}}, {"nodes": 1, "links": 1}):
        children = {child for all_children in document["links"].values() for child in all_children}
        for node in set(document["nodes"]) - children:
            pad.rerun_fw(node)
            logger.info("firework %d: runs again", node)
