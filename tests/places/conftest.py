"""A launchpad on a server and the configuration of workers, for tests that submit."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from launchpads import Campaign

from e3relax_flows.core.settings import E3RelaxSettings


@pytest.fixture
def campaign(
    database: dict[str, Any],
    settings: E3RelaxSettings,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
) -> Campaign:
    """An empty launchpad; this process and its children are configured for it, with embedded stores of results."""
    import fireworks.core.launchpad

    host, port, name = (database[key] for key in ("host", "port", "database"))
    durable = {"mongoclient_kwargs": {"w": "majority", "journal": True}}
    place = {"host": host, "port": port, **durable}
    documents = {"type": "MongoStore", "database": name, "collection_name": "outputs", **place}
    blobs = {"type": "MongoStore", "database": name, "collection_name": "blobs", "key": "blob_uuid", **place}
    store = {"JOB_STORE": {"docs_store": documents, "additional_stores": {"data": blobs}}}
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump(store))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    pad_file = tmp_path / "my_launchpad.yaml"
    indices = ["metadata.e3r_content", "metadata.e3r_flow"]  # those of configs/fireworks/my_launchpad.yaml
    pad_file.write_text(json.dumps({"name": name, "authsource": None, "wf_user_indices": indices, **place}))
    monkeypatch.setattr(fireworks.core.launchpad, "LAUNCHPAD_LOC", str(pad_file))
    here, folder = Path(__file__).parent, tmp_path / "launches"
    folder.mkdir()
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join([str(here), str(here.parent), os.environ.get("PYTHONPATH", "")]))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    made = Campaign(folder, pad_file, dict(os.environ))
    pad = made.open_pad()
    pad.reset("", require_password=False)
    pad.connection.close()
    return made
