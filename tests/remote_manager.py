"""jobflow-remote, as far as it is seen here: what it was given is kept."""

from __future__ import annotations

import sys
from types import ModuleType, SimpleNamespace

import pytest
from jobflow import Flow


@pytest.fixture
def sent(monkeypatch: pytest.MonkeyPatch) -> list:
    """Flows that were submitted, in place of jobflow-remote, which cannot be installed beside a newer pymongo."""
    flows: list = []
    module = ModuleType("jobflow_remote")
    stores = SimpleNamespace(additional_stores={"data": None})
    project = SimpleNamespace(
        name="metals", workers={"gpu": None, "cpu": None}, exec_config={}, get_jobstore=lambda: stores
    )
    module.ConfigManager = lambda: SimpleNamespace(get_project=lambda: project)

    def submit_flow(flow: Flow) -> list[str]:
        flows.append(flow)
        return [str(number) for number, _ in enumerate(flow.iterflow())]

    module.submit_flow = submit_flow
    monkeypatch.setitem(sys.modules, "jobflow_remote", module)
    monkeypatch.setenv("E3RELAX_WORKERS", '{"predict": {"worker": "gpu"}, "dft": {"worker": "cpu"}}')
    return flows
