"""Who works at a place: what `e3relax screen status` says of workers, and which warnings are repeated."""

from __future__ import annotations

import json
import re
from contextlib import closing
from datetime import UTC, datetime, timedelta

import fireworks.core.launchpad
import pytest
from launchpads import Campaign
from remote_manager import Sent
from test_launchpad_screens import load, register

from e3relax_flows.cli.screen_watch import watch
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.places.activity import find_last_ping
from e3relax_flows.places.checks import check_stores
from e3relax_flows.places.kinds import FIREWORKS
from e3relax_flows.screening.control import resume_screen, start_screen
from e3relax_flows.screening.place import open_place


def describe_activity(name: str) -> list[str]:
    with open_place(name, load_settings(), "this test") as place:
        return place.describe_activity()


def test_a_launchpad_without_workers_is_named(
    campaign: Campaign,
    settings: E3RelaxSettings,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """Jobs ready by category; since when nobody has pinged; nothing of it once a worker runs."""
    monkeypatch.setenv("E3RELAX_WORKERS", '{"predict": {"category": "gpu"}, "light": {"category": "light"}}')
    settings = load_settings()
    screen_id = register(settings)
    first = start_screen(screen_id, settings)
    ready, nobody = describe_activity("fireworks")
    assert ready == "launchpad: jobs ready: 2 gpu; 0 running"
    watch(screen_id, as_json=True)
    assert json.loads(capsys.readouterr().out)["workers"] == [ready, nobody]
    watch(screen_id, once=True)
    assert "launchpad: jobs ready: 2 gpu; 0 running" in capsys.readouterr().out
    assert "no worker has ever run here" in nobody
    campaign.drain_some(1)
    ready, nobody = describe_activity("fireworks")
    assert ready == "launchpad: jobs ready: 1 gpu, 1 light; 0 running"
    assert re.search(r"no worker has pinged since 20..-..-.. ..:.. UTC \(\d min ago\): start workers", nobody)
    with closing((pad := campaign.open_pad()).connection):
        last = find_last_ping(pad)
        assert last is not None
        assert abs((datetime.now(UTC) - last).total_seconds()) < 120
        pad.launches.update_many({}, {"$set": {"state": "RUNNING"}})
    assert describe_activity("fireworks")[1].startswith("a worker has last pinged")
    with monkeypatch.context() as elsewhere:  # a machine with another launchpad, which was never set up
        pad_file = campaign.folder / "my_launchpad.yaml"
        pad_file.write_text(json.dumps(json.loads(campaign.pad_file.read_text()) | {"name": "e3r_nothing"}))
        elsewhere.setattr(fireworks.core.launchpad, "LAUNCHPAD_LOC", str(pad_file))
        watch(screen_id, as_json=True)
    assert json.loads(capsys.readouterr().out)["workers"][0].startswith("workers are not known: the launchpad takes no")
    resume_screen(screen_id, settings)
    again = start_screen(screen_id, settings)
    assert load(settings, screen_id).phase == "predicting"
    assert not any("is on this machine" in warning for warning in again.warnings)
    assert any("is a file: fine as long as" in warning for warning in first.warnings)


def test_stores_on_a_server_without_a_registry_there_are_warned_of_once(
    campaign: Campaign, server: tuple[str, int], settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert campaign
    assert settings
    store = f'{{"type": "MongoStore", "database": "e3r_registry", "host": "{server[0]}", "port": {server[1]}}}'
    for name in ("PREDICTION_STORE", "OUTCOME_STORE"):
        monkeypatch.setenv(f"E3RELAX_{name}", store)
    (loopback, registry) = check_stores(load_settings(), FIREWORKS)
    assert "is on this machine" in loopback.message
    assert "MODEL_STORE and WEIGHTS_STORE of ~/.e3relax.yaml are missing" in registry.message
    assert (loopback.is_first_only, registry.is_first_only, registry.is_fatal) == (True, True, False)
    monkeypatch.setenv("E3RELAX_MODEL_STORE", store)
    monkeypatch.setenv("E3RELAX_WEIGHTS_STORE", store.replace("MongoStore", "GridFSStore"))
    assert [problem.message for problem in check_stores(load_settings(), FIREWORKS)] == [loopback.message]


def test_a_project_of_jobflow_remote_without_a_runner_is_named(settings: E3RelaxSettings, sent: Sent) -> None:
    assert settings
    jobs = [{"state": "READY", "worker": "gpu"}, {"state": "READY", "worker": "gpu"}, {"state": "REMOTE_ERROR"}]
    sent.controller.jobs.insert_many(jobs)
    ready, failed, runner = describe_activity("remote")
    assert ready == "project 'metals': jobs ready: 2 gpu; 0 running"
    assert failed.startswith("1 jobs could not be sent to their worker")
    assert "start it with `jf runner start`" in runner
    sent.controller.auxiliary.insert_one({"running_runner": {"last_pinged": datetime.now(UTC)}})
    assert "its runner has last pinged" in describe_activity("remote")[2]
    an_hour_ago = datetime.now(UTC) - timedelta(hours=1)
    sent.controller.jobs.update_one({"worker": "gpu"}, {"$set": {"lock_id": "killed", "lock_time": an_hour_ago}})
    assert "1 jobs are locked for more than 10 min" in describe_activity("remote")[2]
