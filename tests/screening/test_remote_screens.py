"""Screens given to jobflow-remote, whose calls are recorded: what it gets, when, and what it must be told again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from jobflow import Flow
from pymatgen.core import Lattice, Structure
from remote_manager import Sent

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.roles import Role, WorkerConfig
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import ClaimDoc, open_claim_store, take_claim
from e3relax_flows.ledger.workspace import open_workspace
from e3relax_flows.places.checks import check_remote_project
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.places.submission import submit_many
from e3relax_flows.schemas.screens import CandidateState
from e3relax_flows.screening.control import cancel_screen, refresh_screen, resume_screen, start_screen
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import find_rows, load_screen, open_screen_stores
from e3relax_flows.screening.watching import describe_workers
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor


@pytest.fixture(autouse=True)
def _use_table(predictor: TablePredictor) -> None:
    """No network is loaded."""


def make_item(element: str) -> ReadItem:
    half = EMT_LATTICES[element] * 1.03 / 2
    return ReadItem(
        element, Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), [element], [[0] * 3]), None
    )


def run(flows: Sent, settings: E3RelaxSettings, folder: Path) -> list[str]:
    """Run what was submitted before, as workers would; the names of the flows. What follows from it is submitted."""
    names = [flow.name for flow in flows]
    with open_job_store(settings) as jobs:
        for _ in names:
            flow = flows.pop(0)
            failures = run_flow_locally(flow, jobs, folder).failures
            flows.set_state(flow.uuid, "FAILED" if failures else "COMPLETED")
    return names


def test_a_screen_goes_on_when_the_same_is_typed_again(settings: E3RelaxSettings, sent: Sent, tmp_path: Path) -> None:
    settings = load_settings()
    maker = ScreenMaker(engine=EmtEngine(), control=0, chunk_size=1)
    with open_screen_stores(settings) as stores:
        items = [make_item("Cu"), make_item("Ag")]
        screen_id = str(register_screen(stores, maker, items, settings, place="remote")[0].screen_id)
    progress = start_screen(screen_id, settings)
    assert "relaxations follow by themselves" in progress.lines[-1]
    assert [flow.name for flow in sent] == ["e3r chunk 0", "e3r chunk 1"]
    assert [flow.jobs[0].config.manager_config["worker"] for flow in sent] == ["gpu", "gpu"]
    start_screen(screen_id, settings)
    assert len(sent) == 2
    run(sent, settings, tmp_path)  # and the light job after the last prediction submits what follows
    assert start_screen(screen_id, settings).lines == []
    assert [flow.name for flow in sent] == ["e3r candidate Cu", "e3r candidate Ag"]
    assert [[job.name for job in flow.jobs] for flow in sent] == [["e3r candidate"]] * 2  # one launch each
    assert {job.config.manager_config["worker"] for flow in sent for job in flow.jobs} == {"cpu"}
    sent.set_state(sent[0].uuid, "RUNNING")
    running = sent.pop(0)
    cancelled = " ".join(cancel_screen(screen_id, settings).lines)
    assert "1 candidates are cancelled" in cancelled
    assert "1 are at workers and will finish" in cancelled
    sent[:] = [running]
    assert run(sent, settings, tmp_path) == ["e3r candidate Cu"]
    resume_screen(screen_id, settings)
    start_screen(screen_id, settings)
    assert run(sent, settings, tmp_path) == ["e3r candidate Ag"]
    assert refresh_screen(screen_id, settings).phase == "finished"
    with open_screen_stores(settings) as stores:
        assert load_screen(stores, screen_id).counts == {"successful": 2}


def test_one_bad_structure_does_not_hold_up_the_others(predictor: TablePredictor, sent: Sent, tmp_path: Path) -> None:
    """Its error is final: the same command relaxes the rest, and never predicts it again."""
    settings = load_settings()
    predictor.unknown = ["Al"]
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    with open_screen_stores(settings) as stores:
        items = [make_item("Cu"), make_item("Al")]
        screen_id = str(register_screen(stores, maker, items, settings, place="remote")[0].screen_id)
    start_screen(screen_id, settings)
    run(sent, settings, tmp_path)
    for _ in range(2):  # as the command does
        resume_screen(screen_id, settings)
        start_screen(screen_id, settings)
        assert [flow.name for flow in sent] == ["e3r candidate Cu"]
    run(sent, settings, tmp_path)
    assert refresh_screen(screen_id, settings).phase == "finished"
    resume_screen(screen_id, settings, retry_failed=True)
    with open_screen_stores(settings) as stores:
        assert load_screen(stores, screen_id).counts == {"successful": 1, "error": 1}


@pytest.mark.parametrize("state", ["FAILED", "REMOTE_ERROR", "deleted"])
def test_a_prediction_that_failed_is_sent_again_by_the_same_command(
    settings: E3RelaxSettings, sent: Sent, tmp_path: Path, state: str
) -> None:
    """A worker's error is not the input's: the same command sends its chunk again, and no other."""
    settings = load_settings()
    maker = ScreenMaker(engine=EmtEngine(), control=0, chunk_size=1)
    with open_screen_stores(settings) as stores:
        items = [make_item("Cu"), make_item("Ag")]
        screen_id = str(register_screen(stores, maker, items, settings, place="remote")[0].screen_id)
    start_screen(screen_id, settings)
    lost = sent.pop(0)
    if state == "deleted":
        sent.controller.flows.delete_one({"uuid": lost.uuid})
    else:
        sent.set_state(lost.uuid, "FAILED" if state == "FAILED" else "RUNNING", state)
    counts = refresh_screen(screen_id, settings).counts
    assert counts == ({"waiting": 2} if state == "deleted" else {"waiting": 1, "error": 1})
    for expected in (["e3r chunk 1", "e3r chunk 0"], ["e3r chunk 1", "e3r chunk 0"]):  # typed twice
        resume_screen(screen_id, settings)
        start_screen(screen_id, settings)
        assert [flow.name for flow in sent] == expected
    run(sent, settings, tmp_path)
    start_screen(screen_id, settings)
    assert sorted(run(sent, settings, tmp_path)) == ["e3r candidate Ag", "e3r candidate Cu"]
    assert refresh_screen(screen_id, settings).counts == {"successful": 2}


@pytest.mark.parametrize("state", ["FAILED", "REMOTE_ERROR", "deleted"])
def test_a_relaxation_that_its_worker_lost_is_sent_again_by_the_same_command(
    settings: E3RelaxSettings, sent: Sent, tmp_path: Path, state: str
) -> None:
    settings = load_settings()
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    with open_screen_stores(settings) as stores:
        items = [make_item("Cu"), make_item("Ag")]
        screen_id = str(register_screen(stores, maker, items, settings, place="remote")[0].screen_id)
    start_screen(screen_id, settings)
    run(sent, settings, tmp_path)
    start_screen(screen_id, settings)
    lost = sent.pop(0)
    outcome_id, flow = identify_lost(settings, screen_id)
    with open_claim_store(settings) as claims:  # its first job has run
        take_claim(claims, ClaimDoc(claim_id=outcome_id, owner="its claim", flow=flow, manager="remote"))
    if state == "deleted":
        sent.controller.flows.delete_one({"uuid": lost.uuid})
    else:
        sent.set_state(lost.uuid, "FAILED" if state == "FAILED" else "RUNNING", state)
    screen = refresh_screen(screen_id, settings)
    assert screen.counts == {"submitted": 2}  # nobody counts it as failed
    with open_workspace(settings) as workspace:
        lines = describe_workers(screen, workspace)
    assert lines[-1].startswith("the jobs of 1 submitted candidates were killed")
    resume_screen(screen_id, settings)
    progress = start_screen(screen_id, settings)
    assert progress.lines == ["1 lost candidates are submitted again"]
    assert progress.screen.n_submitted == 2  # what was lost has spent no budget
    assert [flow.name for flow in sent] == ["e3r candidate Ag", "e3r candidate Cu"]
    run(sent, settings, tmp_path)
    assert refresh_screen(screen_id, settings).counts == {"successful": 2}


def identify_lost(settings: E3RelaxSettings, screen_id: str) -> tuple[str, str | None]:
    """The outcome that the first candidate is to have, and the flow that claims it."""
    with open_screen_stores(settings) as stores:
        (row,) = find_rows(stores, screen_id, [CandidateState.SUBMITTED], {"id": "Cu"})
    return row.outcomes[0].outcome_id, row.submitted.flow if row.submitted else None


def test_resources_that_the_scheduler_does_not_know_are_named_before_anything_is_sent(
    settings: E3RelaxSettings, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv(
        "E3RELAX_WORKERS", '{"dft": {"worker": "cpu", "resources": {"walltime": "1:00", "gres": "gpu"}}}'
    )
    settings = load_settings()
    with open_screen_stores(settings) as stores:
        maker = ScreenMaker(engine=EmtEngine(), control=0)
        screen_id = str(register_screen(stores, maker, [make_item("Cu")], settings, place="remote")[0].screen_id)
    with pytest.raises(ConfigError, match=r"role dft .* walltime, .*'cpu'.*known: gres, time"):
        start_screen(screen_id, settings)
    assert sent == []


def test_resources_that_take_those_of_the_worker_away_are_warned_of(sent: Sent) -> None:
    workers = {Role.DFT: WorkerConfig(worker="cpu", resources={"gres": "gpu:1"})}
    (problem,) = check_remote_project(sent.project, workers)
    assert problem.message.startswith("role dft gives resources without time")
    assert (problem.is_fatal, problem.is_first_only) == (False, True)


def test_a_worker_that_the_project_has_not_is_named_before_anything_is_sent(
    settings: E3RelaxSettings, sent: Sent, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E3RELAX_WORKERS", '{"dft": {"worker": "cluster"}}')
    settings = load_settings()
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    with open_screen_stores(settings) as stores:
        screen_id = str(register_screen(stores, maker, [make_item("Cu")], settings, place="remote")[0].screen_id)
    with pytest.raises(ConfigError, match=r"role dft .*'cluster', .*known: gpu, cpu.*WORKERS"):
        start_screen(screen_id, settings)
    assert sent == []


def test_a_job_store_without_a_place_for_large_parts_is_told(settings: E3RelaxSettings, sent: Sent) -> None:
    sys.modules["jobflow_remote"].ConfigManager().get_project().get_jobstore().additional_stores.clear()
    settings = load_settings()
    with open_screen_stores(settings) as stores:
        maker = ScreenMaker(engine=EmtEngine(), control=0)
        screen_id = str(register_screen(stores, maker, [make_item("Cu")], settings, place="remote")[0].screen_id)
    with pytest.raises(ConfigError, match=r"'EMT relax' .*'data', .* jobstore .*'metals'"):
        start_screen(screen_id, settings)
    assert sent == []


def test_flows_submitted_twice_are_there_once(settings: E3RelaxSettings, sent: Sent) -> None:
    """Typed again after an interruption, what is missing is added."""
    settings = load_settings()
    flows = {name: Flow([EmtEngine().make(make_item(name).structure)]) for name in ("Cu", "Ag")}
    first = submit_many({"Cu": flows["Cu"]}, "remote", settings=settings)
    both = submit_many(flows, "remote", settings=settings)
    assert (first.added, both.added, list(both.known), len(sent)) == (["Cu"], ["Ag"], ["Cu"], 2)
    assert "1 flows had been submitted before (READY)" in both.describe()
    sent.set_state(sent[0].uuid, "RUNNING", "REMOTE_ERROR")
    assert submit_many(flows, "remote", settings=settings).added == ["Cu"]
