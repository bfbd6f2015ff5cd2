"""Flows handed to a launchpad on a real server, and what is said when there is none."""

from __future__ import annotations

import json
import sys
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
import yaml
from jobflow import Flow, job

from e3relax_flows.core.errors import ConfigError, MissingDependencyError, StoreError
from e3relax_flows.submit.places import submit_flow


@job
def add(a: int, b: int) -> int:
    return a + b


@pytest.fixture
def flow() -> Flow:
    first = add(1, 2)
    return Flow([first, add(first.output, 3)])


@pytest.fixture
def configure(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """Point jobflow and FireWorks at a server."""
    import fireworks.core.launchpad
    from jobflow.settings import JobflowSettings

    def set_up(port: int) -> None:
        place = {"host": "127.0.0.1", "port": port}
        store = {"docs_store": {"type": "MongoStore", "database": "jobs", "collection_name": "outputs", **place}}
        (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump({"JOB_STORE": store}))
        monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
        assert "JOB_STORE" in JobflowSettings().model_fields_set
        pad = tmp_path / "my_launchpad.yaml"
        quick = {"mongoclient_kwargs": {"serverSelectionTimeoutMS": 300}}
        pad.write_text(json.dumps({"name": "fireworks", "uri_mode": False, "authsource": None, **place, **quick}))
        monkeypatch.setattr(fireworks.core.launchpad, "LAUNCHPAD_LOC", str(pad))

    return set_up


def test_a_launchpad_gets_the_flow(flow: Flow, configure) -> None:
    secantus = pytest.importorskip("secantus", reason="needs a server: pip install secantusdb==0.7.0b3")
    from fireworks import LaunchPad

    with secantus.SecantusDBServer(host="127.0.0.1", port=0, storage_path=":memory:") as server:
        configure(server.port)
        with pytest.raises(StoreError, match="`lpad reset`"):
            submit_flow(flow, "fireworks")
        pad = LaunchPad.auto_load()
        pad.reset("", require_password=False)
        said = submit_flow(flow, "fireworks")
        with closing(pad.connection):
            assert pad.get_fw_ids(count_only=True) == 2
            text = json.dumps([pad.get_fw_dict_by_id(number)["spec"] for number in pad.get_fw_ids()], default=str)
    assert "password" not in text
    assert said == "2 fireworks on the launchpad; see: lpad get_wflows -i 1 -d more"


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")  # FireWorks leaves its client open
def test_a_launchpad_that_does_not_answer_is_one_message(flow: Flow, configure) -> None:
    configure(9)
    with pytest.raises(StoreError, match=r"my_launchpad\.yaml"):
        submit_flow(flow, "fireworks")


def test_outputs_must_go_where_others_see_them(flow: Flow, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "absent.yaml"))
    with pytest.raises(ConfigError, match=r"JOB_STORE in ~/\.jobflow\.yaml"):
        submit_flow(flow, "fireworks")


def test_jobflow_remote_gets_the_flow(flow: Flow, monkeypatch: pytest.MonkeyPatch) -> None:
    module = ModuleType("jobflow_remote")
    module.submit_flow = lambda given: ["7", "8"] if given is flow else []  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "jobflow_remote", module)
    assert submit_flow(flow, "remote") == "2 jobs submitted to jobflow-remote; see: jf flow list -did 7"
    monkeypatch.setitem(sys.modules, "jobflow_remote", None)
    with pytest.raises(MissingDependencyError, match=r"e3relax-flows\[remote\]"):
        submit_flow(flow, "remote")
