"""Checks before a flow is submitted: stores, sizes, data store, POTCARs, workers; nothing is written."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import bson
from jobflow import Flow, Job, JobStore
from jobflow.settings import JobflowSettings
from maggma.stores import JSONStore, MemoryStore, MongoStore
from monty.json import jsanitize

from e3relax_flows.core.errors import E3RelaxError
from e3relax_flows.core.roles import Role, WorkerConfig
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.store import open_stores
from e3relax_flows.places.kinds import PlaceKind
from e3relax_flows.places.remote import list_own_resources, list_resource_keys
from e3relax_flows.stores.opening import describe_store, open_job_store
from e3relax_flows.stores.sqlite import SQLiteStore

LARGEST_MB = 15.5  # MongoDB takes 16; ids, states and links are added
REGISTRY = ("MODEL_STORE", "WEIGHTS_STORE")
LOOPBACK = ("localhost", "127.0.0.1", "::1")
DURABLE = "mongoclient_kwargs: {w: majority, journal: true}"


@dataclass(frozen=True)
class Problem:
    """A problem of a submission, and what to type.

    `is_fatal`: nothing is submitted. `is_first_only`: a warning that is not repeated by later commands.
    """

    message: str
    is_fatal: bool = True
    is_first_only: bool = False


def check_stores(settings: E3RelaxSettings, place: PlaceKind, flows: Sequence[Flow | Job] = ()) -> Iterator[Problem]:
    """Check that the stores can be opened here, and by the workers as far as that is known here.

    Besides predictions and outcomes these are the stores that makers of the flows open: they name the functions that
    open them in `opens`.
    """
    try:
        with open_stores(settings) as stores:
            embedded = [store for store in (stores.predictions, stores.outcomes) if isinstance(store, SQLiteStore)]
            servers = [store for store in (stores.predictions, stores.outcomes) if type(store) is MongoStore]
        for open_one in _list_openers(flows):
            with open_one(settings):
                pass
    except E3RelaxError as error:
        yield Problem(str(error))
        return
    if place.is_here:
        return
    if embedded and settings.PREDICTION_STORE is None and "DATA_DIR" not in settings.model_fields_set:
        yield Problem(
            f"the stores are embedded in {settings.DATA_DIR}, which is below this working directory, and workers have "
            f"others; write `DATA_DIR: {settings.DATA_DIR}` into ~/.e3relax.yaml, here and on the workers"
        )
    elif embedded:
        yield Problem(
            f"{embedded[0].path} is a file: fine as long as all workers run on this machine and have the same "
            "DATA_DIR; otherwise describe a MongoStore as PREDICTION_STORE and OUTCOME_STORE in ~/.e3relax.yaml",
            is_fatal=False,
        )
    yield from _check_hosts(servers, "PREDICTION_STORE and OUTCOME_STORE in ~/.e3relax.yaml")
    missing = [name for name in REGISTRY if getattr(settings, name) is None]
    if servers and missing:
        yield Problem(
            f"{' and '.join(missing)} of ~/.e3relax.yaml {'is' if len(missing) == 1 else 'are'} missing, so that every "
            f"machine registers models in its own {settings.DATA_DIR} and has its own `default`; describe both as "
            "configs/e3relax.yaml does, here and on the workers",
            is_fatal=False,
            is_first_only=True,
        )


def _list_openers(flows: Sequence[Flow | Job]) -> list[Callable[[E3RelaxSettings], AbstractContextManager[Any]]]:
    """Functions that open the stores to which jobs of flows write, each once."""
    makers = {type(job.maker) for flow in flows for job in iterate_jobs(flow)}
    return list(dict.fromkeys(opener for maker in makers for opener in getattr(maker, "opens", ())))


def check_job_store(settings: E3RelaxSettings, place: PlaceKind, flows: Sequence[Flow | Job]) -> Iterator[Problem]:
    """Check that other processes can read outputs, and that the stores for large parts exist.

    jobflow-remote has a job store of its own, see `check_remote_store`.
    """
    if place.own_job_store:
        return
    configured = JobflowSettings()
    if not place.is_here and "JOB_STORE" not in configured.model_fields_set:
        yield Problem(
            "jobs of a launchpad run in processes that share only the job store, and none is configured; "
            "describe one as JOB_STORE in ~/.jobflow.yaml (configs/jobflow_mongodb.yaml is one), here and on the "
            "workers"
        )
        return
    try:
        with open_job_store(settings) as store:
            yield from _check_job_store(store, place, flows)
    except E3RelaxError as error:
        yield Problem(str(error))


def check_remote_store(project: Any, flows: Sequence[Flow | Job]) -> Iterator[Problem]:
    """Check that the job store of a project of jobflow-remote has the stores for large parts of outputs."""
    yield from _check_large_parts(project.get_jobstore(), flows, f"jobstore in the file of project {project.name!r}")


def _check_large_parts(store: JobStore, flows: Sequence[Flow | Job], setting: str) -> Iterator[Problem]:
    wanted: dict[str, str] = {}
    for flow in flows:
        for job in iterate_jobs(flow):
            wanted |= dict.fromkeys(job._kwargs, job.name)
    missing = set(wanted) - set(store.additional_stores)  # type: ignore[has-type]
    for name in sorted(missing):
        yield Problem(
            f"job {wanted[name]!r} keeps large parts of its output in the additional store {name!r}, which the job "
            f"store lacks; add additional_stores with {name} to {setting} "
            "(configs/jobflow_mongodb.yaml shows how)"
        )


def _check_job_store(store: JobStore, place: PlaceKind, flows: Sequence[Flow | Job]) -> Iterator[Problem]:
    yield from _check_large_parts(store, flows, "JOB_STORE in ~/.jobflow.yaml, here and on the workers")
    if place.is_here:
        return
    documents = store.docs_store
    if isinstance(documents, MemoryStore):
        kind = type(documents).__name__
        reason = "rewrites its file and may lose it" if isinstance(documents, JSONStore) else "is seen by one process"
        yield Problem(
            f"the job store is a {kind}, which {reason}; use a MongoStore, or the SQLiteStore of "
            "configs/jobflow_embedded.yaml where all workers run on one machine"
        )
    elif isinstance(documents, SQLiteStore):
        yield Problem(
            f"the job store is the file {documents.path}: fine as long as all workers run on this machine; otherwise "
            "describe a MongoStore as JOB_STORE in ~/.jobflow.yaml",
            is_fatal=False,
        )
    elif type(documents) is MongoStore:
        yield from _check_hosts([documents], "JOB_STORE in ~/.jobflow.yaml")
        if not _is_durable(documents.mongoclient_kwargs) and documents.uri is None:
            yield Problem(
                f"what {describe_store(documents)} acknowledges may be lost with its server; add `{DURABLE}` to "
                "JOB_STORE in ~/.jobflow.yaml",
                is_fatal=False,
            )


def check_potcars(place: PlaceKind, flows: Sequence[Flow | Job]) -> Iterator[Problem]:
    """Check that pymatgen finds POTCAR files, if there are jobs of VASP."""
    if not any("atomate2.vasp" in type(job.maker).__module__ for flow in flows for job in iterate_jobs(flow)):
        return
    from pymatgen.core import SETTINGS

    folder = SETTINGS.get("PMG_VASP_PSP_DIR")
    if folder and any(Path(folder).glob("POT_*")):
        return
    where = f"its PMG_VASP_PSP_DIR is {folder}, which has no folder POT_*" if folder else "PMG_VASP_PSP_DIR is not set"
    yield Problem(
        f"pymatgen finds no POTCAR files ({where}); type `pmg config --add PMG_VASP_PSP_DIR FOLDER`"
        + ("" if place.is_here else ", on the DFT workers if they have another home than this one"),
        is_fatal=place.is_here,
    )


def check_sizes(documents: Mapping[str, Sequence[Mapping[str, Any]]]) -> Iterator[Problem]:
    """Check that documents, given by name, are small enough for MongoDB."""
    for name, group in documents.items():
        size = max(len(bson.encode(document)) for document in group) / 2**20
        if size > LARGEST_MB:
            yield Problem(
                f"{name} is {size:.1f} MB, and a document of MongoDB has 16 MB at most; give it fewer structures "
                f"(chunk_size of a screen: {LARGEST_MB / size:.0%} of what it is)"
            )


def list_job_documents(flow: Flow | Job) -> dict[str, list[dict[str, Any]]]:
    """Documents of the jobs of a flow, by the names of the jobs."""
    documents: dict[str, list[dict[str, Any]]] = {}
    for job in iterate_jobs(flow):
        documents.setdefault(f"job {job.name!r}", []).append(jsanitize(job.as_dict(), allow_bson=True))
    return documents


def check_launchpad(pad: Any, workers: Mapping[Role, WorkerConfig]) -> Iterator[Problem]:
    """Check that there were workers of the categories and names that the roles require."""
    if not _is_durable(pad.mongoclient_kwargs) and not pad.uri_mode:
        yield Problem(
            f"what workers write to the launchpad may be lost with its server; add `{DURABLE}` to my_launchpad.yaml",
            is_fatal=False,
        )
    known = {name: pad.launches.distinct(f"fworker.{name}") for name in ("category", "name")}
    if not known["name"]:  # a new launchpad
        return
    for role, worker in workers.items():
        for asked, field in ((worker.category, "category"), (worker.fworker, "name")):
            if asked is not None and asked not in known[field]:
                seen = ", ".join(sorted(filter(None, known[field]))) or "none"
                yield Problem(
                    f"jobs of role {role} wait for a worker of {field} {asked!r}, and there was none so far (known: "
                    f"{seen}); write `{field}: {asked}` into its my_fworker.yaml and start "
                    "`rlaunch -w my_fworker.yaml rapidfire --nlaunches infinite`",
                    is_fatal=False,
                )


def check_remote_project(project: Any, workers: Mapping[Role, WorkerConfig]) -> Iterator[Problem]:
    """Check that a project of jobflow-remote has the workers and execution configurations of the roles."""
    for role, worker in workers.items():
        if worker.worker is not None and worker.worker not in project.workers:
            yield Problem(
                f"role {role} names worker {worker.worker!r}, which project {project.name!r} lacks (known: "
                f"{', '.join(project.workers) or 'none'}); correct WORKERS in ~/.e3relax.yaml, or see "
                "`jf project check`"
            )
        elif worker.resources:
            yield from _check_resources(project, role, worker)
        if isinstance(worker.exec_config, str) and worker.exec_config not in project.exec_config:
            yield Problem(
                f"role {role} names exec_config {worker.exec_config!r}, which project {project.name!r} lacks "
                f"(known: {', '.join(project.exec_config) or 'none'}); correct WORKERS in ~/.e3relax.yaml"
            )


def _check_resources(project: Any, role: Role, worker: WorkerConfig) -> Iterator[Problem]:
    known = list_resource_keys(project, worker)
    unknown = sorted(set(worker.resources or {}) - set(known))
    if unknown:
        yield Problem(
            f"role {role} gives the resources {', '.join(unknown)}, which the scheduler of worker "
            f"{worker.worker or next(iter(project.workers))!r} of project {project.name!r} does not know (known: "
            f"{', '.join(known) or 'none'}); correct `resources` of {role} in WORKERS of ~/.e3relax.yaml"
        )
        return
    left_out = sorted(set(list_own_resources(project, worker)) - set(worker.resources or {}))
    if left_out:
        yield Problem(
            f"role {role} gives resources without {', '.join(left_out)}, and jobflow-remote uses them instead of "
            f"those of its worker; write {', '.join(left_out)} into `resources` of {role} in WORKERS "
            "of ~/.e3relax.yaml, or leave `resources` out there",
            is_fatal=False,
            is_first_only=True,
        )


def iterate_jobs(flow: Flow | Job) -> Iterator[Job]:
    """Jobs of a flow and of the flows in it."""
    if isinstance(flow, Job):
        yield flow
    else:
        for node in flow.jobs:
            yield from iterate_jobs(node)


def _check_hosts(stores: Sequence[MongoStore], setting: str) -> Iterator[Problem]:
    for store in stores:
        if store.uri is None and store.host in LOOPBACK:
            yield Problem(
                f"{describe_store(store)} is on this machine, and workers on other machines would look for it on "
                f"theirs; give its name in the network as host of {setting}, unless all workers run here",
                is_fatal=False,
                is_first_only=True,
            )
            return


def _is_durable(arguments: Mapping[str, Any] | None) -> bool:
    options = arguments or {}
    return options.get("w") == "majority" and bool(options.get("journal", options.get("j")))
