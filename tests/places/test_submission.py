"""Flows handed to a launchpad on a real server: once, whole, checked; and what is said when there is none."""

from __future__ import annotations

import json
import socket
import sys
import threading
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
import yaml
from jobflow import Flow, job
from launchpads import Campaign
from remote_manager import Sent

from e3relax_flows import CampaignMaker, RetrainMaker
from e3relax_flows.core.errors import ConfigError, MissingDependencyError, StoreError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger import claims as ledger_claims
from e3relax_flows.ledger.claims import ClaimDoc, open_claim_store, take_claim
from e3relax_flows.places.submission import identify_flow, submit, submit_many
from e3relax_flows.testing import EmtEngine

IMPATIENT = {"serverSelectionTimeoutMS": 100}


@job
def add(a: int, b: int, payload: str = "") -> int:
    return a + b + len(payload)


@job(data="large")
def make_large(n: int) -> dict[str, Any]:
    return {"large": [0] * n}


def make_flow(start: int = 1, payload: str = "") -> Flow:
    first = add(start, 2, payload)
    return Flow([first, add(first.output, 3)])


@pytest.fixture(autouse=True)
def _fixed_data_dir(settings: E3RelaxSettings) -> None:
    """Stores of this test's own, named in the environment as on a worker."""
    assert "DATA_DIR" in settings.model_fields_set


def test_the_content_of_a_flow_names_it() -> None:
    assert identify_flow(make_flow()) == identify_flow(make_flow()) != identify_flow(make_flow(2))
    ids = []
    for parent in (0, 1, 0):  # the same jobs in the same order, connected otherwise
        both = [add(1, 2), add(1, 2)]
        ids.append(identify_flow(Flow([*both, add(both[parent].output, 3)])))
    assert ids[0] == ids[2] != ids[1]


def test_here_a_flow_is_run(tmp_path: Path) -> None:
    flow = make_flow()
    names: list[str] = []
    submission = submit(flow, "local", out=tmp_path / "jobs", on_job_finished=lambda report: names.append(report.name))
    assert submission.run is not None
    assert submission.run.responses[flow.jobs[1].uuid][1].output == 6
    assert (submission.n_jobs, names) == (2, ["add", "add"])
    assert submission.describe() == "2 jobs in 1 flows run"


def test_a_launchpad_gets_the_flow_once_until_it_is_done(campaign: Campaign) -> None:
    flow = make_flow()
    with closing((pad := campaign.open_pad()).connection):
        said = submit(flow, "fireworks")
        assert (said.n_jobs, len(said.added), said.known) == (2, 1, {})
        assert said.describe() == "2 jobs in 1 flows submitted; see: lpad get_wflows -i 1 -d more"
        again = submit(make_flow(), "fireworks")
        assert (again.n_jobs, again.added, [placed.state for placed in again.known.values()]) == (0, [], ["READY"])
        assert again.describe() == "1 flows had been submitted before (READY); see: lpad get_wflows -i 1 -d more"
        workflow = pad.workflows.find_one({})
        assert workflow["metadata"] == {"e3r_content": identify_flow(flow), "e3r_flow": flow.uuid}
        campaign.drain()
        assert pad.workflows.find_one({})["state"] == "COMPLETED"
        # what is completed may be wanted again, as a retraining is; of many flows only what is missing
        flows = {identify_flow(item): item for item in (make_flow(), make_flow(5))}
        many = submit_many(flows, "fireworks")
        assert many.added == [identify_flow(make_flow(5))]
        assert pad.workflows.count_documents({}) == 2
        assert submit(make_flow(), "fireworks").n_jobs == 2
        assert pad.workflows.count_documents({}) == 3
        specs = json.dumps([pad.get_fw_dict_by_id(number)["spec"] for number in pad.get_fw_ids()], default=str)
        assert "password" not in specs


@pytest.mark.parametrize("setting", ["PAIR_STORE", "MODEL_STORE", "WEIGHTS_STORE"])
@pytest.mark.parametrize("kind", ["retraining", "campaign"])
def test_stores_that_a_flow_writes_are_opened_before_it_is_submitted(
    sent: Sent, monkeypatch: pytest.MonkeyPatch, setting: str, kind: str
) -> None:
    """Their names are in the message; a flow that does not write them is submitted."""
    with socket.create_server(("127.0.0.1", 0)) as unused:
        place = {"host": "127.0.0.1", "port": unused.getsockname()[1], "database": "gone", "collection_name": "gone"}
    store = {"type": "GridFSStore" if setting == "WEIGHTS_STORE" else "MongoStore", **place}
    monkeypatch.setenv(f"E3RELAX_{setting}", json.dumps(store | {"mongoclient_kwargs": IMPATIENT}))
    retrain = RetrainMaker(config={"holdout": "mine"})
    config = {"engine": "emt", "inputs": ["pool"], "labels": 4, "retraining": {"holdout": "mine"}}
    campaign = CampaignMaker(config=config, engine=EmtEngine(), retrain=retrain)
    flow = retrain.make() if kind == "retraining" else campaign.make("an id")
    with pytest.raises(ConfigError, match=rf"(?s)/gone/gone .*{setting}"):
        submit(flow, "remote")
    assert sent == []
    submit(make_flow(), "remote")
    assert len(sent) == 1


def test_a_killed_submission_is_mended(campaign: Campaign) -> None:
    """Workflows are inserted first: a kill leaves some without their fireworks, which nobody would ever run."""
    flows = {identify_flow(flow): flow for flow in (make_flow(n) for n in range(4))}
    with closing((pad := campaign.open_pad()).connection):
        assert submit_many(dict(list(flows.items())[:3]), "fireworks").n_jobs == 6
        assert pad.fireworks.delete_many({"fw_id": {"$in": [3, 5, 6]}}).deleted_count == 3
        said = submit_many(flows, "fireworks")
        assert (len(said.known), len(said.added), said.n_jobs) == (1, 3, 6)
        assert pad.workflows.count_documents({}) == 4
        nodes = [node for workflow in pad.workflows.find({}) for node in workflow["nodes"]]
        assert sorted(nodes) == sorted(pad.get_fw_ids())
        assert len(nodes) == 8


def test_typed_twice_at_once_it_is_submitted_once(campaign: Campaign) -> None:
    start = threading.Barrier(3)
    added: list[int] = []

    def work() -> None:
        start.wait()
        added.append(len(submit_many({identify_flow(make_flow(n)): make_flow(n) for n in range(5)}, "fireworks").added))

    threads = [threading.Thread(target=work) for _ in range(3)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert sorted(added) == [0, 0, 5]
    with closing((pad := campaign.open_pad()).connection):
        assert pad.workflows.count_documents({}) == 5


def test_another_submission_is_named(
    campaign: Campaign, settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert campaign
    monkeypatch.setattr(ledger_claims, "PATIENCE_S", 0.1)
    with open_claim_store(settings) as claims:
        take_claim(claims, ClaimDoc(claim_id="submission", owner="somebody", host="elsewhere"))
    with pytest.raises(StoreError, match=r"\(somebody .*elsewhere .*process \d+\)"):
        submit(make_flow(), "fireworks")


def test_what_is_missing_is_said_before_anything_is_inserted(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E3RELAX_WORKERS", json.dumps({"dft": {"category": "cpu"}}))
    config = yaml.safe_load((tmp_path / "jobflow.yaml").read_text())
    del config["JOB_STORE"]["additional_stores"], config["JOB_STORE"]["docs_store"]["mongoclient_kwargs"]
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump(config))
    with closing((pad := campaign.open_pad()).connection):
        with pytest.raises(ConfigError, match=r"job 'make_large' .*'data'.* JOB_STORE "):
            submit(make_flow(), "fireworks", samples=[make_large(3)])
        with pytest.raises(ConfigError, match=r"job 'add' .* 16\.0 MB, .* 16 MB .*chunk_size"):
            submit(make_flow(payload="x" * 2**24), "fireworks")
        assert pad.workflows.count_documents({}) == pad.fireworks.count_documents({}) == 0
        # a new launchpad has seen no worker, which is nothing to be said
        said = submit(make_flow(), "fireworks")
        warned = "\n".join(said.warnings)
        assert "e3relax.sqlite is a file: fine as long as" in warned
        assert "mongoclient_kwargs: {w: majority, journal: true}` to JOB_STORE" in warned
        assert "category" not in warned
        assert pad.fireworks.find_one({"fw_id": 1})["spec"]["_category"] == "cpu"
        campaign.drain()
        (warning,) = [text for text in submit(make_flow(7), "fireworks").warnings if "category" in text]
        assert "role dft wait for a worker of category 'cpu'" in warning
        assert "rlaunch -w my_fworker.yaml" in warning


def test_stores_that_workers_do_not_see_are_refused(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert campaign
    monkeypatch.delenv("E3RELAX_DATA_DIR")
    with pytest.raises(ConfigError, match=rf"(?s)write `DATA_DIR: {tmp_path}/e3relax_data` into ~/\.e3relax\.yaml"):
        submit(make_flow(), "fireworks")
    memory = {"JOB_STORE": {"docs_store": {"type": "MemoryStore"}}}
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump(memory))
    with pytest.raises(ConfigError, match=r"job store .* MemoryStore, .*configs/jobflow_embedded\.yaml"):
        submit(make_flow(), "fireworks")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match=r"JOB_STORE in ~/\.jobflow\.yaml"):
        submit(make_flow(), "fireworks")
    spec = {"type": "MongoStore", "host": "127.0.0.1", "port": 9, "database": "d"}
    spec["mongoclient_kwargs"] = {"serverSelectionTimeoutMS": 300}
    monkeypatch.setenv("E3RELAX_OUTCOME_STORE", json.dumps(spec))
    with pytest.raises(ConfigError, match=r"mongodb://127\.0\.0\.1:9/d/.*OUTCOME_STORE"):
        submit(make_flow(), "fireworks")


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # FireWorks leaves its client open
def test_a_launchpad_that_does_not_answer_or_is_empty_is_one_message(campaign: Campaign) -> None:
    with closing((pad := campaign.open_pad()).connection):
        pad.fw_id_assigner.delete_many({})
    with pytest.raises(StoreError, match="`lpad reset`"):
        submit(make_flow(), "fireworks")
    content = json.loads(campaign.pad_file.read_text())
    content |= {"port": 9, "mongoclient_kwargs": {"serverSelectionTimeoutMS": 300}}
    campaign.pad_file.write_text(json.dumps(content))
    with pytest.raises(StoreError, match=r"my_launchpad\.yaml"):
        submit(make_flow(), "fireworks")


@pytest.mark.parametrize("folder", [None, "empty", "filled"])
def test_jobs_of_vasp_want_potcars(folder: str | None, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from atomate2.vasp.jobs.core import RelaxMaker
    from pymatgen.core import SETTINGS, Lattice, Structure

    from e3relax_flows.places.checks import check_potcars
    from e3relax_flows.places.kinds import FIREWORKS, LOCAL

    (tmp_path / "empty").mkdir()
    (tmp_path / "filled" / "POT_GGA_PAW_PBE_54").mkdir(parents=True)
    monkeypatch.setitem(SETTINGS, "PMG_VASP_PSP_DIR", folder and str(tmp_path / folder))
    sample = RelaxMaker().make(Structure(Lattice.cubic(3.6), ["Cu"], [[0, 0, 0]]))
    found = list(check_potcars(LOCAL, [sample]))
    assert [problem.is_fatal for problem in found] == ([] if folder == "filled" else [True])
    if found:
        assert "pmg config --add PMG_VASP_PSP_DIR FOLDER" in found[0].message
        assert [problem.is_fatal for problem in check_potcars(FIREWORKS, [sample])] == [False]
    assert list(check_potcars(LOCAL, [make_flow()])) == []


def test_jobflow_remote_gets_the_flow(
    settings: E3RelaxSettings,  # noqa: ARG001
    sent: Sent,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Its calls only: it cannot be installed beside the pymongo of the other packages."""
    monkeypatch.setenv("E3RELAX_WORKERS", json.dumps({"dft": {"worker": "cpu", "exec_config": "vasp"}}))
    assert submit(make_flow(), "remote").describe() == "2 jobs in 1 flows submitted; see: jf flow list -did 0"
    assert [item.config.manager_config for item in sent[0].jobs] == [{"worker": "cpu", "exec_config": "vasp"}] * 2
    monkeypatch.setenv("E3RELAX_WORKERS", json.dumps({"dft": {"worker": "clutser", "exec_config": "gpaw"}}))
    with pytest.raises(ConfigError, match=r"(?s)'clutser'.*known: gpu, cpu.*'gpaw'.*known: vasp"):
        submit(make_flow(), "remote")
    assert len(sent) == 1
    monkeypatch.setitem(sys.modules, "jobflow_remote", None)
    with pytest.raises(MissingDependencyError, match=r"e3relax-flows\[remote\]"):
        submit(make_flow(), "remote")
