"""The files in configs/, each read by the library that reads it in use; names that must be the same are."""

from __future__ import annotations

from importlib.util import find_spec
from pathlib import Path
from typing import Any, Literal

import pytest
import yaml
from fireworks import FWorker, LaunchPad
from fireworks.user_objects.queue_adapters.common_adapter import CommonAdapter
from fireworks.utilities import fw_serializers
from jobflow import JobStore
from jobflow.settings import JobflowSettings
from maggma.stores import GridFSStore, MongoStore
from pydantic import BaseModel, ConfigDict

from e3relax_flows.core.roles import Role
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.stores.opening import build_store
from e3relax_flows.stores.sqlite import SQLiteStore

CONFIGS = Path(__file__).resolve().parents[2] / "configs"
DURABLE = {"w": "majority", "journal": True}


@pytest.fixture
def example(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch) -> E3RelaxSettings:  # noqa: ARG001
    monkeypatch.setenv("E3RELAX_CONFIG_FILE", str(CONFIGS / "e3relax.yaml"))
    monkeypatch.delenv("E3RELAX_DATA_DIR")
    return load_settings()


def test_the_settings_are_settings(example: E3RelaxSettings) -> None:
    assert Path("/home/me/e3relax_data") == example.DATA_DIR
    assert set(example.WORKERS) == set(Role)
    for spec, key in ((example.PREDICTION_STORE, "predictions"), (example.OUTCOME_STORE, "outcomes")):
        store = build_store(spec, example, "other", "id")
        assert isinstance(store, MongoStore)
        assert (store.collection_name, store.mongoclient_kwargs) == (key, DURABLE)


def test_fireworks_reads_its_files(example: E3RelaxSettings) -> None:
    folder = CONFIGS / "fireworks"
    pad = LaunchPad.from_file(str(folder / "my_launchpad.yaml"))
    assert (pad.host, pad.mongoclient_kwargs["w"], pad.mongoclient_kwargs["journal"]) == (
        "db.example.org", "majority", True,
    )  # fmt: skip
    pad.connection.close()
    workers = [FWorker.from_file(str(folder / f"fworker_{name}.yaml")) for name in ("cpu", "gpu")]
    offered = {category for worker in workers for category in worker.category}
    asked = {worker.express_for_fireworks()["_category"] for worker in example.WORKERS.values()}
    assert asked == offered - {None}
    assert workers[0].query["spec._category"] == {"$in": ["dft", "light", None]}


@pytest.mark.parametrize(
    ("name", "lines"),
    [
        ("dft", ["--nodes=1", "--ntasks-per-node=32", "--time=24:00:00", "--partition=standard"]),
        ("predict", ["--gres=gpu:1", "--cpus-per-task=8", "--time=02:00:00"]),
        ("train", ["--gres=gpu:4", "--signal=B:TERM@600", "--time=24:00:00"]),
    ],
)
def test_slurm_scripts_come_of_the_queue_adapters(name: str, lines: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    # otherwise FireWorks imports all of its modules, its tests too, until it finds the class
    monkeypatch.setitem(fw_serializers.SAVED_FW_MODULES, "CommonAdapter", CommonAdapter.__module__)
    adapter = fw_serializers.load_object_from_file(str(CONFIGS / "fireworks" / f"qadapter_{name}.yaml"))
    assert isinstance(adapter, CommonAdapter)
    script = adapter.get_script_str("/scratch/here")
    for line in lines:
        assert f"#SBATCH {line}\n" in script
    assert "cd /scratch/here\nrlaunch -w /home/me/.fireworks/fworker_" in script
    assert "$${" not in script


def test_fireworks_knows_its_settings() -> None:
    from fireworks import fw_config

    content = yaml.safe_load((CONFIGS / "fireworks" / "FW_config.yaml").read_text())
    assert [name for name in content if not hasattr(fw_config, name)] == []
    assert content["RUN_EXPIRATION_SECS"] >= 4 * content["PING_TIME_SECS"]


@pytest.mark.parametrize("name", ["embedded", "mongodb", "s3"])
def test_jobflow_reads_its_stores(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    if name == "s3":
        pytest.importorskip("boto3", reason="S3Store needs boto3")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(CONFIGS / f"jobflow_{name}.yaml"))
    store = JobflowSettings().JOB_STORE
    assert isinstance(store, JobStore)
    documents, blobs = store.docs_store, store.additional_stores["data"]
    if name == "embedded":
        assert isinstance(documents, SQLiteStore)
        assert isinstance(blobs, SQLiteStore)
        assert (documents.key, blobs.key, blobs.collection_name) == ("uuid", "blob_uuid", "data")
        return
    assert type(documents) is MongoStore
    assert documents.mongoclient_kwargs == DURABLE
    if name == "mongodb":
        assert isinstance(blobs, GridFSStore)
        assert (blobs.host, blobs.mongoclient_kwargs) == ("db.example.org", DURABLE)
    else:
        assert (blobs.bucket, blobs.key, blobs.index.collection_name) == (
            "e3relax-outputs",
            "blob_uuid",
            "outputs_data",
        )


class Worker(BaseModel):
    """What a worker of jobflow-remote has, as far as the example goes; unknown keys are refused there, too."""

    model_config = ConfigDict(extra="forbid")

    type: Literal["local", "remote"]
    scheduler_type: Literal["shell", "slurm"]
    work_dir: Path
    host: str | None = None
    user: str | None = None
    key_filename: str | None = None
    pre_run: str | None = None
    resources: dict[str, Any] | None = None
    max_jobs: int | None = None


class Execution(BaseModel):
    """Its execution configuration."""

    model_config = ConfigDict(extra="forbid")

    modules: list[str] | None = None
    export: dict[str, Any] | None = None


class Project(BaseModel):
    """Its project."""

    model_config = ConfigDict(extra="forbid")

    name: str
    log_level: Literal["error", "warn", "info", "debug"]
    workers: dict[str, Worker]
    exec_config: dict[str, Execution]
    queue: dict[str, Any]
    jobstore: dict[str, Any]


def test_jobflow_remote_reads_its_project(example: E3RelaxSettings) -> None:
    """By its own model where it is installed, which it cannot be beside our pymongo; otherwise by one of our own."""
    content = yaml.safe_load((CONFIGS / "jobflow_remote" / "e3relax.yaml").read_text())
    model: Any = Project
    if find_spec("jobflow_remote"):
        from jobflow_remote.config.base import Project as model  # noqa: N813
    project = model.model_validate(content)
    assert {worker.worker for worker in example.WORKERS.values()} == set(project.workers)
    assert {w.exec_config for w in example.WORKERS.values() if w.exec_config} <= set(project.exec_config)
    assert all(worker.work_dir.is_absolute() for worker in project.workers.values())
    assert isinstance(JobStore.from_dict_spec(content["jobstore"]).docs_store, MongoStore)
    store = dict(content["queue"]["store"])
    assert store.pop("type") == "MongoStore"
    assert MongoStore(**store).mongoclient_kwargs == DURABLE
