"""Roles: by the names of jobs, in the words of each manager, also in jobs that are born while a flow runs."""

from __future__ import annotations

import importlib
import json
import pkgutil
from pathlib import Path
from typing import Any

import pytest
from jobflow import Flow, JobStore, Response, job
from jobflow.managers.fireworks import flow_to_workflow
from maggma.stores import MemoryStore
from pydantic import ValidationError
from pymatgen.core import Lattice, Structure

import e3relax_flows
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.roles import Role, WorkerConfig, find_role
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.places.kinds import FIREWORKS, LOCAL, REMOTE
from e3relax_flows.places.roles import assign_roles
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.testing import EmtEngine

WORKERS = {
    Role.PREDICT: WorkerConfig(category="gpu", priority=5, worker="gpu-node", resources={"gres": "gpu:1"}),
    Role.DFT: WorkerConfig(category="cpu", queueadapter={"nodes": 2}, worker="cluster", exec_config="vasp"),
    Role.LIGHT: WorkerConfig(category="login", priority=9),
}


def test_every_job_of_ours_has_a_role() -> None:
    names: dict[str, str] = {}
    for module in pkgutil.walk_packages(e3relax_flows.__path__, "e3relax_flows."):
        if module.name.split(".")[1] not in ("prerelax", "screening", "retraining", "campaigns"):
            continue
        content = vars(importlib.import_module(module.name))
        names |= {name: value for name, value in content.items() if name.endswith("_JOB") and isinstance(value, str)}
    roles = {name: find_role(value) for name, value in names.items()}
    heavy = {name: role for name, role in roles.items() if role != Role.LIGHT}
    assert heavy == {
        "PREDICT_JOB": Role.PREDICT, "EVALUATE_JOB": Role.PREDICT, "TRAIN_JOB": Role.TRAIN, "CLAIM_JOB": Role.DFT,
        "CANDIDATE_JOB": Role.DFT,
    }  # fmt: skip
    assert len(roles) > 10
    assert find_role("MP GGA relax 1") == find_role("predict bands") == Role.DFT
    assert find_role("store_inputs") == Role.LIGHT


def test_each_manager_reads_its_own_words() -> None:
    worker = WorkerConfig(
        priority=3, category="c", fworker="f", queueadapter={"walltime": "1:00:00"}, worker="w", resources={"nodes": 1}
    )
    assert worker.express_for_fireworks() == {
        "_priority": 3, "_category": "c", "_fworker": "f", "_queueadapter": {"walltime": "1:00:00"},
    }  # fmt: skip
    assert worker.express_for_remote() == {"priority": 3, "worker": "w", "resources": {"nodes": 1}}
    with pytest.raises(ValidationError, match="catgory"):
        WorkerConfig.model_validate({"catgory": "gpu"})


def test_settings_name_workers(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    assert settings.WORKERS == {}
    monkeypatch.setenv("E3RELAX_WORKERS", json.dumps({"dft": {"category": "cpu"}}))
    workers = load_settings().WORKERS
    assert workers == {Role.DFT: WorkerConfig(category="cpu")}
    monkeypatch.setenv("E3RELAX_WORKERS", json.dumps({"gpu": {"category": "cpu"}}))
    with pytest.raises(ConfigError, match="predict"):
        load_settings()


@job
def work() -> int:
    return 1


@job
def spawn() -> Response:
    inner = work()
    return Response(replace=Flow([inner], output=inner.output))


@job
def fan_out(names: list[str]) -> Response:
    """Make jobs of several names, one of which makes another in its turn."""
    jobs = []
    for name in names:
        made = spawn()
        made.name = name
        jobs.append(made)
    return Response(replace=Flow(jobs, output=[made.output for made in jobs]))


def read_specs(flow: Any) -> dict[str, dict[str, Any]]:
    workflow = flow_to_workflow(flow, store=None)
    return {firework.name: json.loads(json.dumps(firework.to_dict()["spec"], default=str)) for firework in workflow.fws}


def pick(spec: dict[str, Any]) -> dict[str, Any]:
    names = ("_category", "_priority", "_queueadapter", "_fworker", "worker", "resources", "exec_config")
    return {name: spec[name] for name in names if name in spec}


DFT_SPEC = {"_category": "cpu", "_queueadapter": {"nodes": 2}}
LIGHT_SPEC = {"_category": "login", "_priority": 9}


def test_jobs_born_anywhere_go_to_the_workers_of_their_role() -> None:
    """From a light job, and from one on a GPU; and what is born of those, too."""
    with JobStore(MemoryStore()) as store:
        for name in ("e3r dispatch", "e3r predict"):
            parent = fan_out(["my relax", "e3r train", "e3r outcome"])
            parent.name = name
            flow = Flow([parent])
            assign_roles(flow, WORKERS, FIREWORKS)
            assert pick(read_specs(flow)[name])["_category"] == {"e3r predict": "gpu"}.get(name, "login")
            born = parent.run(store).replace
            specs = read_specs(born)
            assert pick(specs["my relax"]) == DFT_SPEC
            assert pick(specs["e3r train"]) == {}
            assert pick(specs["e3r outcome"]) == pick(specs["store_inputs"]) == LIGHT_SPEC
            for made in born.jobs[:2]:
                again = read_specs(made.run(store).replace)
                assert (pick(again["work"]), pick(again["store_inputs"])) == (DFT_SPEC, LIGHT_SPEC)


def test_a_screen_for_jobflow_remote_and_for_this_machine() -> None:
    maker = ScreenMaker(engine=EmtEngine())
    copper = Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])
    flow = maker.make([copper])
    assign_roles(flow, WORKERS, REMOTE)
    configs = {made.name: made.config.manager_config for made in flow.jobs}
    assert configs["e3r predict"] == {"priority": 5, "worker": "gpu-node", "resources": {"gres": "gpu:1"}}
    assert configs["e3r plan"] == {"priority": 9}
    for place, workers in ((LOCAL, WORKERS), (FIREWORKS, {})):
        flow = maker.make([copper])
        assign_roles(flow, workers, place)
        assert [(made.config.manager_config, made.config_updates) for made in flow.jobs] == [({}, [])] * 5


def test_secrets_stay_out_of_fireworks(
    settings: E3RelaxSettings,  # noqa: ARG001
    monkeypatch: pytest.MonkeyPatch,
    tmp_path: Path,
) -> None:
    """Neither the stores of the settings nor the job store of the configuration travel with a flow."""
    secret = "hunter-two"
    spec = {"type": "MongoStore", "database": "d", "collection_name": "c", "username": "u", "password": secret}
    monkeypatch.setenv("E3RELAX_OUTCOME_STORE", json.dumps(spec))
    (tmp_path / "jobflow.yaml").write_text(json.dumps({"JOB_STORE": {"docs_store": spec}}))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    assert load_settings().OUTCOME_STORE["password"] == secret
    flow = ScreenMaker(engine=EmtEngine()).make([Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]])])
    assign_roles(flow, WORKERS, FIREWORKS)
    text = json.dumps(read_specs(flow))
    assert secret not in text
    assert "password" not in text
