"""Faults on a launchpad, done: workers killed, two at once, a store that refuses; see docs/faults.md."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections import Counter
from collections.abc import Callable
from contextlib import closing
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from fault_engine import FOLDER, HELD, HOLD, check_ledger, count_relaxations, register
from fireworks import FWorker
from forked import Forked
from launchpads import Campaign

from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.places.recovery import recover_launchpad
from e3relax_flows.screening.control import refresh_screen, resume_screen, start_screen
from e3relax_flows.stores.opening import open_job_store

PATIENCE_S = 120.0


@pytest.fixture(autouse=True)
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Path:
    """Of the engine's notes, known to workers."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    if "campaign" in request.fixturenames:
        request.getfixturevalue("campaign").environment[FOLDER] = str(tmp_path)
    return tmp_path


def wait_for(condition: Callable[[], Any]) -> None:
    deadline = time.monotonic() + PATIENCE_S
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.05)


def kill(worker: Forked) -> None:
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()


def recover() -> list[int]:
    return recover_launchpad(workers_stopped=True, pause_s=0.2).lost


def find_running(pad: Any, name: str) -> bool:
    return pad.fireworks.find_one({"name": name, "state": "RUNNING"}) is not None


BOTH = pytest.mark.parametrize("one_launch", [True, False])


@BOTH
def test_workers_killed_in_a_chunk_and_in_a_relaxation(
    campaign: Campaign, settings: E3RelaxSettings, folder: Path, one_launch: bool
) -> None:
    """Then two workers at once. Also a bad candidate in a chunk, and one that the engine does not know."""
    screen_id = register(settings, "fireworks", one_launch=one_launch)
    start_screen(screen_id, settings)
    with closing((pad := campaign.open_pad()).connection):
        worker = campaign.start("rapidfire", "--nlaunches", "0")
        wait_for(lambda: find_running(pad, "e3r predict"))
        kill(worker)
        assert len(recover()) == 1
        (folder / HOLD).touch()
        worker = campaign.start("rapidfire", "--nlaunches", "0")
        wait_for((folder / HELD).exists)
        kill(worker)
        assert sum(count_relaxations(folder, "begun").values()) == 1
        (folder / HOLD).unlink()
        assert len(recover()) == 1
        assert refresh_screen(screen_id, settings).counts["submitted"] == 7
        campaign.drain(2)
        assert refresh_screen(screen_id, settings).phase == "finished"
        names = Counter(item["name"] for item in pad.fireworks.find({}, {"name": 1}))
    counts = {"e3r candidate" if one_launch else "e3r claim": 7}
    assert {name: names[name] for name in counts} == counts
    screen = check_ledger(settings, folder, screen_id)
    messages = {
        row.id: row.message or row.outcomes[0].message for row in screen.candidates if row.state != "successful"
    }
    assert "W" in messages
    assert messages["unreadable"] == "no structure"
    assert "site 0 is occupied by" in str(messages["disordered"])
    begun = count_relaxations(folder, "begun")
    assert sum(begun.values()) == 8  # six, the one that was killed once more, and tungsten


@BOTH
def test_an_outcome_that_could_not_be_stored(
    campaign: Campaign, settings: E3RelaxSettings, folder: Path, one_launch: bool
) -> None:
    """A store that fails for one document; the relaxation is done, and is not done again."""
    screen_id = register(settings, "fireworks", one_launch=one_launch)
    start_screen(screen_id, settings)
    file = settings.DATA_DIR / "e3relax.sqlite"
    refuse = (
        "CREATE TRIGGER refuse BEFORE INSERT ON outcomes WHEN json_extract(NEW.document, '$.id') = 'Ag' "
        "BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
    )
    with open_job_store(settings), closing(sqlite3.connect(file)) as connection:
        connection.execute('CREATE TABLE IF NOT EXISTS "outcomes" (id INTEGER PRIMARY KEY, document TEXT NOT NULL)')
        connection.execute(refuse)
        connection.commit()
    campaign.drain()
    counts = refresh_screen(screen_id, settings).counts
    assert (counts["successful"], counts["failed"]) == (5, 2)
    with closing(sqlite3.connect(file)) as connection:
        connection.execute("DROP TRIGGER refuse")
        connection.commit()
    with closing((pad := campaign.open_pad()).connection):
        name = "e3r candidate" if one_launch else "e3r claim"
        (fizzled,) = pad.fireworks.find({"name": name, "state": "FIZZLED"}, {"fw_id": 1})
        pad.rerun_fw(fizzled["fw_id"])  # lpad rerun_fws -s FIZZLED -n "e3r candidate"
    campaign.drain()
    resume_screen(screen_id, settings, retry_failed=True)
    start_screen(screen_id, settings)
    campaign.drain()
    assert refresh_screen(screen_id, settings).phase == "finished"
    check_ledger(settings, folder, screen_id)


def test_pings_from_the_future_do_not_hold_recovery_up(campaign: Campaign, settings: E3RelaxSettings) -> None:
    """A worker whose clock was six hours ahead was killed: its last ping is still to come, by our clock."""
    screen_id = register(settings, "fireworks")
    start_screen(screen_id, settings)
    with closing((pad := campaign.open_pad()).connection):
        firework, launch_id = pad.checkout_fw(FWorker(), str(campaign.folder))
        later = (datetime.now(UTC) + timedelta(hours=6)).isoformat()
        history = {"state_history.0.created_on": later, "state_history.0.updated_on": later}
        assert pad.launches.update_one({"launch_id": launch_id}, {"$set": history}).matched_count == 1
        with pytest.raises(StoreError, match="have pinged"):
            recover_launchpad(pause_s=0.2)
        assert recover() == [firework.fw_id]
        assert pad.get_fw_dict_by_id(firework.fw_id)["state"] == "READY"
