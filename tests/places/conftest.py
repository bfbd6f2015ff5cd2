"""A server, with a launchpad and the configuration of workers, for tests that submit."""

from __future__ import annotations

import json
import os
from collections.abc import Iterator
from pathlib import Path

import pytest
import yaml
from launchpads import Campaign
from secantus_locked import lock_find_and_modify

from e3relax_flows.core.settings import E3RelaxSettings

SERVER_URI = "E3RELAX_TEST_MONGODB"  # mongodb://HOST:PORT of a real server, on which databases e3r_* are made


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, int]]:
    """Host and port of a server with MongoDB's protocol."""
    if uri := os.environ.get(SERVER_URI):
        host, _, port = uri.removeprefix("mongodb://").rstrip("/").partition(":")
        yield host, int(port or 27017)
        return
    secantus = pytest.importorskip("secantus", reason="needs a server: pip install secantusdb==0.7.0b3")
    lock_find_and_modify()
    with secantus.SecantusDBServer(host="127.0.0.1", port=0, storage_path=":memory:") as server:
        yield "127.0.0.1", server.port


@pytest.fixture
def campaign(
    server: tuple[str, int],
    settings: E3RelaxSettings,  # noqa: ARG001
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    request: pytest.FixtureRequest,
) -> Campaign:
    """An empty launchpad; this process and its children are configured for it, with embedded stores of results."""
    import fireworks.core.launchpad

    host, port = server
    name = f"e3r_{abs(hash(request.node.nodeid)) % 10**8}"
    durable = {"mongoclient_kwargs": {"w": "majority", "journal": True}}
    place = {"host": host, "port": port, **durable}
    documents = {"type": "MongoStore", "database": name, "collection_name": "outputs", **place}
    blobs = {"type": "MongoStore", "database": name, "collection_name": "blobs", "key": "blob_uuid", **place}
    store = {"JOB_STORE": {"docs_store": documents, "additional_stores": {"data": blobs}}}
    (tmp_path / "jobflow.yaml").write_text(yaml.safe_dump(store))
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "jobflow.yaml"))
    pad_file = tmp_path / "my_launchpad.yaml"
    pad_file.write_text(json.dumps({"name": name, "uri_mode": False, "authsource": None, **place}))
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
