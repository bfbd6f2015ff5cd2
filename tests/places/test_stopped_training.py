"""A training that a user stops by a signal: a failed job on a launchpad, the end of a local run; both continue."""

from __future__ import annotations

import json
import os
import signal
import threading
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest
from emt_campaigns import CONFIG, prepare
from jobflow import SETTINGS, JobStore
from launchpads import Campaign
from maggma.stores import MemoryStore

from e3relax_flows.core.errors import StoppedError
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.places.local import JobReport, run_flow_locally
from e3relax_flows.places.submission import submit
from e3relax_flows.retraining.maker import RetrainMaker
from e3relax_flows.schemas.retraining import RetrainDoc
from e3relax_flows.stores.opening import open_job_store

if TYPE_CHECKING:
    from collections.abc import Iterator

    from fireworks import LaunchPad

N_STEPS = 60


def make_flow() -> Any:
    return RetrainMaker(config=CONFIG["retraining"] | {"seeds": [0, 1], "promote": False}).make()


@contextmanager
def signal_once(number: signal.Signals) -> Iterator[None]:
    """Send a signal to this process as soon as a training in it watches for that."""
    unwatched, entered = signal.getsignal(number), threading.Event()

    def send() -> None:
        while signal.getsignal(number) is unwatched and not entered.wait(0.001):
            pass
        if not entered.is_set():
            os.kill(os.getpid(), number)

    sender = threading.Thread(target=send)
    sender.start()
    try:
        yield
    finally:
        entered.set()
        sender.join()


def read_events(settings: E3RelaxSettings) -> list[list[tuple[str, int]]]:
    """Starts and ends of each run, with their steps."""
    found = []
    for log in sorted((settings.DATA_DIR / "training").glob("*/log.jsonl"), key=lambda path: path.stat().st_mtime):
        records = [json.loads(line) for line in log.read_text().splitlines()]
        kept = [record for record in records if record.get("event") in ("start", "resume", "stop", "end")]
        found.append([(record["event"], record["step"]) for record in kept])
    return found


@pytest.fixture(autouse=True)
def _outside_a_batch_job(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("SLURM_JOB_ID", "PBS_JOBID", "LSB_JOBID", "JOB_ID"):
        monkeypatch.delenv(name, raising=False)
    prepare(settings)


@pytest.fixture
def pad(campaign: Campaign) -> Iterator[LaunchPad]:
    opened = campaign.open_pad()
    yield opened
    opened.connection.close()


def test_a_local_run_ends_and_is_continued(settings: E3RelaxSettings, tmp_path: Path) -> None:
    reports: list[JobReport] = []
    with (
        signal_once(signal.SIGINT),
        pytest.raises(StoppedError, match=r" SIGINT .* step \d+ .*/training/[0-9a-f]{16};"),
    ):
        run_flow_locally(make_flow(), JobStore(MemoryStore()), tmp_path / "jobs", reports.append)
    assert [report.name for report in reports] == ["e3r snapshot"]  # neither the second training nor the choice
    flow, jobs = make_flow(), JobStore(MemoryStore())
    assert run_flow_locally(flow, jobs, tmp_path / "again").failures == []
    done = RetrainDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))
    assert [training.step for training in done.trainings] == [N_STEPS, N_STEPS]
    first, second = read_events(settings)
    assert [event for event, _ in first] == ["start", "stop", "resume", "end"]
    assert first[1][1] == first[2][1] < N_STEPS
    assert [event for event, _ in second] == ["start", "end"]


def test_a_job_on_a_launchpad_fails_and_its_rerun_continues(
    campaign: Campaign, pad: LaunchPad, settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from fireworks import FWorker
    from fireworks.core.rocket_launcher import rapidfire

    flow = make_flow()
    submit(flow, "fireworks")
    drain = {"fworker": FWorker(), "m_dir": str(campaign.folder), "nlaunches": 0, "strm_lvl": "ERROR"}
    with open_job_store(settings) as jobs:
        monkeypatch.setattr(SETTINGS, "JOB_STORE", jobs)  # which a worker of its own reads as it starts
        with signal_once(signal.SIGTERM):
            rapidfire(pad, **drain)
        (number,) = pad.get_fw_ids({"name": "e3r train", "state": "FIZZLED"})
        error = pad.get_fw_by_id(number).launches[-1].action.stored_data["_exception"]["_stacktrace"]
        assert "StoppedError: training was stopped by SIGTERM" in error
        pad.rerun_fw(number)
        rapidfire(pad, **drain)
        assert pad.get_fw_ids({"state": {"$ne": "COMPLETED"}}) == []
        done = RetrainDoc.model_validate(jobs.get_output(flow.output.uuid, load=True))
    assert [(training.state, training.step) for training in done.trainings] == [("finished", N_STEPS)] * 2
    second, first = read_events(settings)
    assert [event for event, _ in first] == ["start", "stop", "resume", "end"]
    assert [event for event, _ in second] == ["start", "end"]
