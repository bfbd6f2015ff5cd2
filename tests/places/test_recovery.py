"""Recovery after real kills of workers, and from each state that a kill can leave."""

from __future__ import annotations

import os
import random
import signal
import threading
import time
from collections import Counter
from contextlib import closing
from pathlib import Path
from typing import Any

import pytest
from jobflow import Flow, Response, job
from launchpads import Campaign

from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import ClaimDoc, find_claims, open_claim_store, take_claim
from e3relax_flows.places.recovery import recover_launchpad
from e3relax_flows.places.submission import identify_flow, submit_many
from e3relax_flows.stores.opening import open_job_store

PAUSE_S = 0.3


@job
def wait_once(marker: str) -> str:
    """Take for ever the first time, no time the second."""
    path = Path(marker)
    if not path.exists():
        path.touch()
        time.sleep(600)
    return "done"


@job
def double(n: int) -> int:
    return 2 * n


@job
def double_twice(n: int) -> Response:
    inner = double(n)
    return Response(replace=Flow([inner], output=inner.output))


def submit_flows(n: int) -> dict[str, Flow]:
    flows = {}
    for number in range(n):
        first = double_twice(number)
        flow = Flow([first, double(first.output)])
        flows[identify_flow(flow)] = flow
    submit_many(flows, "fireworks")
    return flows


def wait_for(condition: Any) -> None:
    deadline = time.monotonic() + 90
    while not condition():
        assert time.monotonic() < deadline, "it did not happen"
        time.sleep(0.1)


def read_outputs(settings: E3RelaxSettings, flows: dict[str, Flow]) -> list[int]:
    with open_job_store(settings) as store:
        return sorted(store.get_output(flow.jobs[1].uuid) for flow in flows.values())


def test_a_killed_worker_is_recovered_once_it_is_silent(campaign: Campaign, settings: E3RelaxSettings) -> None:
    flow = Flow([first := wait_once(str(campaign.folder / "marker"))])
    submit_many({"one": flow}, "fireworks")
    with closing((pad := campaign.open_pad()).connection):
        worker = campaign.start("rapidfire", "--nlaunches", "0")
        wait_for((campaign.folder / "marker").exists)
        os.kill(worker.pid, signal.SIGKILL)
        worker.communicate()
        # it may be alive, for all that the launchpad knows
        with pytest.raises(StoreError, match=r" 14400 s \(firework 1 .*`e3relax screen recover --workers-stopped`"):
            recover_launchpad(pause_s=PAUSE_S)
        told = recover_launchpad(workers_stopped=True, dry_run=True, pause_s=PAUSE_S)
        assert (told.lost, pad.get_fw_dict_by_id(1)["state"]) == ([1], "RUNNING")
        recovery = recover_launchpad(silent_s=0.1, pause_s=PAUSE_S)
        assert recovery.describe() == ["1 jobs were lost: they run again"]
        assert pad.get_fw_dict_by_id(1)["state"] == "READY"
        campaign.drain()
        assert pad.workflows.find_one({})["state"] == "COMPLETED"
    with open_job_store(settings) as store:
        assert store.get_output(first.uuid) == "done"


def test_workers_that_ping_are_not_robbed(campaign: Campaign) -> None:
    """Not even on the user's word that they are stopped."""
    submit_flows(1)
    with closing((pad := campaign.open_pad()).connection):
        from fireworks import FWorker

        firework, launch_id = pad.checkout_fw(FWorker(), str(campaign.folder))
        assert firework.fw_id
        later = threading.Timer(0.5, lambda: pad.ping_launch(launch_id))
        later.start()
        with pytest.raises(StoreError, match="have pinged"):
            recover_launchpad(workers_stopped=True, pause_s=3)
        later.join()
        assert pad.get_fw_dict_by_id(firework.fw_id)["state"] == "RUNNING"


def test_every_state_that_a_kill_leaves_is_mended(campaign: Campaign, settings: E3RelaxSettings) -> None:
    flows = submit_flows(6)
    with closing((pad := campaign.open_pad()).connection):
        from fireworks import Firework, FWorker, ScriptTask

        firsts = sorted(min(workflow["nodes"]) for workflow in pad.workflows.find({}))
        # checked out, not launched
        pad.fireworks.update_one({"fw_id": firsts[0]}, {"$set": {"state": "RESERVED"}})
        # locked while being run
        lost, _ = pad.checkout_fw(FWorker(), str(campaign.folder), fw_id=firsts[1])
        pad.workflows.update_one({"nodes": firsts[1]}, {"$set": {"locked": True}})
        # failed for its launch, running for itself: what `lpad detect_lostruns --rerun` leaves at a lock
        _, launch_id = pad.checkout_fw(FWorker(), str(campaign.folder), fw_id=firsts[2])
        pad.launches.update_one({"launch_id": launch_id}, {"$set": {"state": "FIZZLED"}})
        # done for itself, not for its workflow, and what replaces it without workflow
        pad.fireworks.update_one({"fw_id": firsts[3]}, {"$set": {"state": "COMPLETED"}})
        pad.workflows.update_one({"nodes": firsts[3]}, {"$set": {"locked": True, f"fw_states.{firsts[3]}": "RUNNING"}})
        orphan = Firework([ScriptTask.from_str("true")], fw_id=1000)
        orphan.state = "READY"
        pad.fireworks.insert_one(orphan.to_db_dict())
        # half submitted
        pad.fireworks.delete_one({"fw_id": firsts[4] + 1})
        recovery = recover_launchpad(workers_stopped=True, pause_s=PAUSE_S)
        assert recovery.reserved == [firsts[0]]
        assert recovery.locked == [firsts[1], firsts[3]]
        assert recovery.lost == [firsts[1]] == [lost.fw_id]
        assert sorted(recovery.unapplied) == [firsts[2], firsts[3]]
        assert (recovery.orphaned, recovery.incomplete) == ([1000], [firsts[4]])
        assert recover_launchpad(workers_stopped=True, pause_s=PAUSE_S).describe() == []
        assert pad.workflows.count_documents({}) == 5
        assert submit_many(flows, "fireworks").n_jobs == 2
        campaign.drain(2)
        assert {workflow["state"] for workflow in pad.workflows.find({})} == {"COMPLETED"}
    assert read_outputs(settings, flows) == [0, 4, 8, 12, 16, 20]


def test_nothing_is_lost_when_workers_are_killed_at_random(campaign: Campaign, settings: E3RelaxSettings) -> None:
    flows = submit_flows(6)
    draw = random.Random(3)
    with closing((pad := campaign.open_pad()).connection):
        for _ in range(2):
            before = pad.launches.count_documents({})
            worker = campaign.start("rapidfire", "--nlaunches", "0")
            wait_for(lambda: pad.launches.count_documents({}) > before or worker.poll() is not None)  # noqa: B023
            time.sleep(draw.uniform(0, 1.5))
            worker.kill()
            worker.communicate()
        recover_launchpad(workers_stopped=True, pause_s=PAUSE_S)
        campaign.drain(2)
        assert Counter(workflow["state"] for workflow in pad.workflows.find({})) == {"COMPLETED": 6}
        assert pad.fireworks.count_documents({"state": {"$ne": "COMPLETED"}}) == 0
    assert read_outputs(settings, flows) == [4 * n for n in range(6)]


def test_claims_of_flows_that_are_over_are_given_back(campaign: Campaign, settings: E3RelaxSettings) -> None:
    over, alive = list(submit_flows(2).values())
    with closing((pad := campaign.open_pad()).connection):
        pad.archive_wf(min(pad.workflows.find_one({"metadata.e3r_flow": over.uuid})["nodes"]))
    with open_claim_store(settings) as claims:
        for name, flow in (("over", over.uuid), ("alive", alive.uuid), ("elsewhere", "u")):
            take_claim(claims, ClaimDoc(claim_id=name, owner=name, flow=flow, manager="fireworks"))
        take_claim(claims, ClaimDoc(claim_id="here", owner="a process"))
    recovery = recover_launchpad(workers_stopped=True, pause_s=PAUSE_S)
    assert (recovery.claims, recovery.unknown_claims) == (["over"], ["elsewhere"])
    with open_claim_store(settings) as claims:
        assert set(find_claims(claims)) == {"alive", "elsewhere", "here"}
    assert recover_launchpad(workers_stopped=True, release_unknown=True, pause_s=PAUSE_S).claims == ["elsewhere"]
    assert campaign.folder.exists()
