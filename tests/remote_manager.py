"""jobflow-remote, as far as it is seen here: what it was given is kept, in collections like its own."""

from __future__ import annotations

import sys
from enum import Enum
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any, ClassVar

import mongomock_ng
import pytest
from jobflow import Flow, JobStore

from e3relax_flows.stores.sqlite import SQLiteStore


class Sent(list[Flow]):
    """Flows that were submitted, oldest first, and what the manager says of them."""

    def __init__(self, controller: Any) -> None:
        self.controller = controller
        self.project: Any = None

    def set_state(self, flow: str, state: str, job_state: str | None = None) -> None:
        """Let a flow, and all its jobs, be in a state."""
        self.controller.flows.update_one({"uuid": flow}, {"$set": {"state": state}})
        self.controller.jobs.update_many({"job.hosts": flow}, {"$set": {"state": job_state or state}})


class WorkerOfProject:
    """A worker whose scheduler knows two keys of resources, and that asks for one by itself."""

    resources: ClassVar = {"time": "1:00:00"}

    def get_scheduler_io(self) -> Any:
        return SimpleNamespace(header_template="#SBATCH --time=$${time} #SBATCH --gres=$${gres}")


class Template:
    """As qtoolkit's template lists its identifiers."""

    def __init__(self, text: str) -> None:
        self.text = text

    def get_identifiers(self) -> list[str]:
        return [part.split("}")[0] for part in self.text.split("$${")[1:]]


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Sent:
    """Flows that were submitted, in place of jobflow-remote, which cannot be installed beside a newer pymongo."""
    database = mongomock_ng.MongoClient()["queue"]
    names = ("jobs", "flows", "auxiliary")
    controller = SimpleNamespace(close=lambda: None, **{name: database[name] for name in names})
    flows = Sent(controller)
    file = tmp_path / "project.sqlite"
    stores = JobStore(
        SQLiteStore(file, "outputs", key="uuid"), additional_stores={"data": SQLiteStore(file, "data", key="blob_uuid")}
    )
    project = SimpleNamespace(
        name="metals",
        workers={"gpu": WorkerOfProject(), "cpu": WorkerOfProject()},
        exec_config={"vasp": None},
        get_jobstore=lambda: stores,
        get_job_controller=lambda: controller,
    )

    flows.project = project

    def submit_flow(flow: Flow) -> list[str]:
        flows.append(flow)
        jobs = [job for job, _ in flow.iterflow()]
        number = controller.flows.count_documents({})
        fields = {"state": "READY", "name": flow.name, "metadata": flow.metadata, "created_on": number}
        controller.flows.insert_one({"uuid": flow.uuid, "jobs": [job.uuid for job in jobs], **fields})
        controller.jobs.insert_many([{"job": {"hosts": job.hosts}, "state": "READY", "uuid": job.uuid} for job in jobs])
        return [str(number) for number, _ in enumerate(jobs)]

    def stop_jobs(flow_ids: list[str], states: list[Enum], raise_on_error: bool) -> None:  # noqa: ARG001
        for flow in flow_ids:
            flows.set_state(flow, "STOPPED", "USER_STOPPED")

    controller.stop_jobs = stop_jobs
    error = type("ConfigError", (Exception,), {})
    modules = {
        "jobflow_remote": {
            "ConfigManager": lambda: SimpleNamespace(get_project=lambda _=None: project),
            "submit_flow": submit_flow,
        },
        "jobflow_remote.config.base": {"ConfigError": error, "ProjectUndefinedError": error},
        "jobflow_remote.jobs.state": {"JobState": Enum("JobState", {"READY": "READY"})},
        "qtoolkit.io.base": {"QTemplate": Template},
    }
    for name, content in modules.items():
        module = ModuleType(name)
        vars(module).update(content)
        monkeypatch.setitem(sys.modules, name, module)
    monkeypatch.setenv("E3RELAX_WORKERS", '{"predict": {"worker": "gpu"}, "dft": {"worker": "cpu"}}')
    return flows
