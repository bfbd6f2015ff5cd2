"""One server with MongoDB's protocol for all tests of a process, with a database for each that asks."""

from __future__ import annotations

import os
from collections.abc import Iterator
from typing import Any

import pytest
from secantus_locked import lock_find_and_modify

SERVER_URI = "E3RELAX_TEST_MONGODB"  # mongodb://HOST:PORT of a real server, on which databases e3r_* are made


@pytest.fixture(scope="session")
def server() -> Iterator[tuple[str, int]]:
    """Host and port."""
    if uri := os.environ.get(SERVER_URI):
        host, _, port = uri.removeprefix("mongodb://").rstrip("/").partition(":")
        yield host, int(port or 27017)
        return
    secantus = pytest.importorskip("secantus", reason="needs a server: pip install secantusdb==0.7.0b3")
    lock_find_and_modify()
    with secantus.SecantusDBServer(host="127.0.0.1", port=0, storage_path=":memory:") as server:
        yield "127.0.0.1", server.port


@pytest.fixture
def database(server: tuple[str, int], request: pytest.FixtureRequest) -> dict[str, Any]:
    """Where a store of this test is, as its settings say it."""
    name = f"e3r_{abs(hash(request.node.nodeid)) % 10**8}"
    return {"type": "MongoStore", "host": server[0], "port": server[1], "database": name}
