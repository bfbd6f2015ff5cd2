"""Commands against places: `doctor --place`, `retrain --submit`, `data build` where jobflow-remote has the jobs."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from remote_manager import Sent

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

Command = Callable[..., Any]


def read_rows(result: Any) -> dict[str, dict[str, str]]:
    return {row["what"]: row for row in json.loads(result.stdout)}


def test_doctor_fails_where_the_project_is_not_set_up(e3relax: Command, sent: Sent) -> None:
    found = e3relax("doctor", "--place", "remote", "--json")
    assert found.code == 1
    assert read_rows(found)["project"]["hint"] == "set it up with `jf admin reset`"
    sent.controller.auxiliary.insert_one({"next_id": 1})
    found = e3relax("doctor", "--place", "remote", "--json")
    rows = read_rows(found)
    assert rows["project"]["state"] == "ok"
    assert rows["project"]["detail"] == "metals; project 'metals': jobs ready: none; 0 running"
    assert rows["store of pairs"]["state"] == "ok"


def test_doctor_fails_for_a_role_that_the_project_cannot_fill(
    e3relax: Command, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    sent.controller.auxiliary.insert_one({"next_id": 1})
    monkeypatch.setenv("E3RELAX_WORKERS", '{"dft": {"worker": "cpu", "resources": {"walltime": 3}}}')
    found = e3relax("doctor", "--place", "remote", "--json")
    assert found.code == 1
    assert "gives the resources walltime" in read_rows(found)["roles"]["detail"]


def test_doctor_without_the_manager(e3relax: Command) -> None:
    found = e3relax("doctor", "--place", "remote", "--json")
    assert found.code == 1
    assert read_rows(found)["remote"]["hint"] == "pip install 'e3relax-flows[remote]'"
    assert "'nowhere' is not a place" in e3relax("doctor", "--place", "nowhere").stdout.replace("\n", " ")


def test_a_retraining_without_its_holdout_is_not_submitted(
    e3relax: Command, sent: Sent, settings: E3RelaxSettings
) -> None:
    assert settings
    Path("retrain.yaml").write_text(yaml.safe_dump({"name": "first", "holdout": "nothing"}))
    found = e3relax("retrain", "retrain.yaml", "--submit", "remote")
    assert (found.code, sent) == (2, [])
    assert "holdout" in found.stderr


def test_pairs_are_built_of_the_jobs_of_jobflow_remote(
    e3relax: Command, sent: Sent, settings: E3RelaxSettings, tmp_path: Path
) -> None:
    """Where jobflow names no job store, without a word more."""
    from pymatgen.core import Lattice, Structure

    copper = Structure.from_spacegroup("Fm-3m", Lattice.cubic(1.02 * EMT_LATTICES["Cu"]), ["Cu"], [[0, 0, 0]])
    with sent.project.get_jobstore() as jobs:
        assert run_flow_locally(EmtEngine().make(copper), jobs, tmp_path / "jobs").failures == []
    found = e3relax("data", "build", "--json")
    assert (found.code, json.loads(found.stdout)["n_pairs"]) == (0, 1)
    assert "job store of jobflow-remote's project" in found.stderr
    assert not (settings.DATA_DIR / "jobs.sqlite").exists()
