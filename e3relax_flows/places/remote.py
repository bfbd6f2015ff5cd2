"""jobflow-remote: its project, the states of our flows in it, and submission of each flow once."""

from __future__ import annotations

import logging
from collections.abc import Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from textwrap import shorten
from typing import Any

from jobflow import Flow, JobStore
from pymongo.errors import PyMongoError

from e3relax_flows.core.errors import ConfigError, MissingDependencyError, StoreError
from e3relax_flows.core.optional import require
from e3relax_flows.core.roles import Role, WorkerConfig
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import find_claims, open_claim_store, release_claims
from e3relax_flows.places.kinds import REMOTE
from e3relax_flows.places.launchpad import CONTENT_KEY, IDS_PER_QUERY, Placed
from e3relax_flows.places.roles import assign_roles

LOST = "LOST"  # state of a flow with a job that could not be sent to its worker or retrieved, or was stopped
FAILED = "FAILED"  # state of a flow with a failed job, and no job that continues
ENDED = ("COMPLETED", FAILED, "STOPPED")  # states of flows
WAITING = ("READY", "WAITING")  # states of flows that have not begun
ABANDONED = ("USER_STOPPED", "REMOTE_ERROR")  # states of jobs that continue only after a command of the user
OVER = ("COMPLETED", "FAILED", "STOPPED", "WAITING", "PAUSED", *ABANDONED)  # of jobs that do not run
GENERATED = ("job_name", "qout_path", "qerr_path")  # resources that jobflow-remote writes itself

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class RemotePlace:
    """A project of jobflow-remote, connected."""

    project: Any
    controller: Any

    def find_placed(self, content_ids: Sequence[str]) -> dict[str, Placed]:
        """Flows of the project by content id; of several the last."""
        found: dict[str, Placed] = {}
        ids = list(content_ids)
        for start in range(0, len(ids), IDS_PER_QUERY):
            query = {f"metadata.{CONTENT_KEY}": {"$in": ids[start : start + IDS_PER_QUERY]}}
            fields = {"uuid": 1, "state": 1, "metadata": 1, "jobs": 1}
            documents = list(self.controller.flows.find(query, fields, sort=[("created_on", 1)]))
            states = self._find_states(documents)
            for document in documents:
                content_id, flow = document["metadata"][CONTENT_KEY], document["uuid"]
                found[content_id] = Placed(content_id, states[flow], tuple(document["jobs"]), True, flow)
        return found

    def _find_states(self, flows: Sequence[dict[str, Any]]) -> dict[str, str]:
        """States of flows by uuid: those of jobflow-remote, LOST, and RUNNING while a job of a failed flow runs."""
        states = {flow["uuid"]: flow["state"] for flow in flows}
        query = {
            "job.hosts": {"$in": list(states)},
            "state": {"$nin": [word for word in OVER if word not in ABANDONED]},
        }
        for job in self.controller.jobs.find(query, {"job.hosts": 1, "state": 1}):
            for flow in states.keys() & set(job["job"]["hosts"]):
                if job["state"] in ABANDONED and states[flow] not in ("COMPLETED", "FAILED"):
                    states[flow] = LOST
                elif job["state"] not in ABANDONED and states[flow] == "FAILED":
                    states[flow] = "RUNNING"
        return states

    def find_over(self, flows: Iterable[str]) -> set[str]:
        """Flows of the project, by uuid, that have no running job and will not run one without the user."""
        ids = list(flows)
        documents = list(self.controller.flows.find({"uuid": {"$in": ids}}, {"uuid": 1, "state": 1}))
        at_work = {"job.hosts": {"$in": ids}, "state": {"$nin": list(OVER)}}
        busy = {host for job in self.controller.jobs.find(at_work, {"job.hosts": 1}) for host in job["job"]["hosts"]}
        states = self._find_states(documents)
        return {flow for flow, state in states.items() if state in (*ENDED, LOST) and flow not in busy}

    def release_lost_claims(self, settings: E3RelaxSettings) -> None:
        """Release claims on relaxations of flows that are over: their jobs were lost, and will not release them."""
        with open_claim_store(settings) as claims:
            held = [claim for claim in find_claims(claims).values() if claim.manager == REMOTE.name and claim.flow]
            over = self.find_over({str(claim.flow) for claim in held})
            lost = [claim for claim in held if claim.flow in over]
            for claim in lost:
                logger.info("claim %s: its flow %s is over", claim.claim_id, claim.flow)
            release_claims(claims, [claim.claim_id for claim in lost])

    def stop(self, placed: Sequence[Placed]) -> set[str]:
        """Withdraw those of the flows that have not begun; return their content ids."""
        waiting = [flow for flow in placed if flow.state in WAITING]
        states = require("jobflow_remote.jobs.state", "remote", "screen cancel").JobState
        if waiting:
            flows = [str(flow.flow) for flow in waiting]
            self.controller.stop_jobs(flow_ids=flows, states=[states.READY], raise_on_error=False)
            logger.info("project %s: flows stopped: %s", self.project.name, ", ".join(flows))
        return {flow.content_id for flow in waiting}

    def send(self, flow: Flow, content_id: str, workers: Mapping[Role, WorkerConfig]) -> list[str]:
        """Add a flow to the project, with its content id; return the database ids of its jobs."""
        assign_roles(flow, workers, REMOTE)
        flow.metadata = {**(flow.metadata or {}), CONTENT_KEY: content_id}
        ids: list[str] = require("jobflow_remote", "remote", "--submit remote").submit_flow(flow)
        logger.info(
            "workflow %s: in project %s, flow %s, jobs %s", content_id, self.project.name, flow.uuid, ", ".join(ids)
        )
        return ids


@contextmanager
def open_remote(purpose: str, name: str | None = None) -> Iterator[RemotePlace]:
    """A project of jobflow-remote, connected, closed at the end; without a name the current one.

    Raises
    ------
    ConfigError
        When no project is configured.
    MissingDependencyError
        When jobflow-remote is not installed; `purpose` is part of the message.
    StoreError
        When its database cannot be reached.
    """
    project = load_project(purpose, name)
    try:
        controller = project.get_job_controller()
        try:
            yield RemotePlace(project, controller)
        finally:
            controller.close()
    except PyMongoError as error:
        raise StoreError(
            f"the database of project {project.name!r} of jobflow-remote cannot be used ({shorten(str(error), 300)}); "
            "see `jf project check --errors`, and type the same again"
        ) from error


def load_project(purpose: str, name: str | None = None) -> Any:
    """A project of jobflow-remote, not connected; without a name the current one.

    Raises
    ------
    ConfigError
        When none is configured, or its file is wrong.
    """
    remote = require("jobflow_remote", "remote", purpose)
    kinds = require("jobflow_remote.config.base", "remote", purpose)
    try:
        return remote.ConfigManager().get_project(name)
    except (kinds.ConfigError, kinds.ProjectUndefinedError, ValueError, OSError) as error:
        raise ConfigError(
            f"jobflow-remote finds no project ({shorten(str(error), 300)}); write one like "
            "configs/jobflow_remote/e3relax.yaml into ~/.jfremote, and see `jf project check --errors`"
        ) from error


@contextmanager
def open_remote_jobs(name: str | None = None) -> Iterator[JobStore | None]:
    """The job store of a project of jobflow-remote; None if that is not installed or has no such project."""
    try:
        project = load_project("the job store", name)
    except (ConfigError, MissingDependencyError):
        yield None
        return
    with project.get_jobstore() as store:
        yield store


def list_resource_keys(project: Any, worker: WorkerConfig) -> list[str]:
    """Keys of resources that the scheduler of a role's worker knows."""
    config = _find_worker(project, worker)
    template = require("qtoolkit.io.base", "remote", "--submit remote").QTemplate
    known = template(config.get_scheduler_io().header_template).get_identifiers()
    return sorted(set(known) - set(GENERATED))


def list_own_resources(project: Any, worker: WorkerConfig) -> list[str]:
    """Keys of resources that the project gives to jobs of a role's worker without resources of their own."""
    return sorted(_find_worker(project, worker).resources or {})


def _find_worker(project: Any, worker: WorkerConfig) -> Any:
    return project.workers[worker.worker or next(iter(project.workers))]
