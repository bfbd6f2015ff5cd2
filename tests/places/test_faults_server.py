"""The server of the launchpad and of the job store is killed under a worker, and started again; see docs/faults.md."""

from __future__ import annotations

import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from fault_engine import FOLDER, HELD, HOLD, check_ledger, register
from launchpads import Campaign

from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.screening.control import refresh_screen, start_screen
from e3relax_flows.stores.opening import open_job_store

PATIENCE_S = 120.0


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


class Server:
    """SecantusDB on disk, in a process of its own."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        with socket.socket() as probe:
            probe.bind(("127.0.0.1", 0))
            self.port = int(probe.getsockname()[1])
        self.start()

    def start(self) -> None:
        program = Path(__file__).resolve().parents[1] / "secantus_locked.py"
        options = ("--host", "127.0.0.1", "--port", str(self.port), "--storage-path", str(self.folder))
        self.process = subprocess.Popen([sys.executable, str(program), *options, "--log-level", "ERROR"])
        wait_for(self.answers)

    def answers(self) -> bool:
        with socket.socket() as probe:
            return probe.connect_ex(("127.0.0.1", self.port)) == 0

    def kill(self) -> None:
        self.process.kill()
        self.process.wait()


@pytest.fixture
def own(tmp_path: Path) -> Iterator[Server]:
    """A server that may be killed."""
    pytest.importorskip("secantus", reason="needs a server: pip install secantusdb==0.7.0b3")
    made = Server(tmp_path / "server")
    yield made
    made.kill()


@pytest.fixture
def server(own: Server) -> tuple[str, int]:
    """The one that the campaign uses."""
    return "127.0.0.1", own.port


def list_done(campaign: Campaign, settings: E3RelaxSettings) -> set[Any]:
    """What was acknowledged: completed fireworks, and documents of jobs."""
    with closing((pad := campaign.open_pad()).connection), open_job_store(settings) as store:
        done = {item["fw_id"] for item in pad.fireworks.find({"state": "COMPLETED"}, {"fw_id": 1})}
        return done | {raw["uuid"] for raw in store.query({}, ["uuid"])}


def test_the_server_is_killed_and_started_again(
    own: Server, campaign: Campaign, settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The worker waits for it and goes on; with journaled writes nothing that was acknowledged is gone."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    campaign.environment[FOLDER] = str(tmp_path)
    screen_id = register(settings, "fireworks")
    start_screen(screen_id, settings)
    (tmp_path / HOLD).touch()
    worker = campaign.start("rapidfire", "--nlaunches", "0")
    wait_for((tmp_path / HELD).exists)
    before = list_done(campaign, settings)
    assert len(before) >= 6  # at least the chunks of predictions, as fireworks and as documents
    own.kill()
    time.sleep(0.5)
    own.start()
    assert list_done(campaign, settings) >= before
    (tmp_path / HOLD).unlink()
    text, _ = worker.communicate(timeout=PATIENCE_S)
    assert worker.returncode == 0, text
    assert refresh_screen(screen_id, settings).phase == "finished"
    check_ledger(settings, tmp_path, screen_id)
