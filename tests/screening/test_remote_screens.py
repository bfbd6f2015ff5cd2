"""Screens given to jobflow-remote, whose calls are recorded: what it gets, when, and what it must be told again."""

from __future__ import annotations

import sys
from pathlib import Path

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.screening.control import cancel_screen, refresh_screen, resume_screen, start_screen
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import load_screen, open_screen_stores
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


def run(flows: list, settings: E3RelaxSettings, folder: Path) -> list[str]:
    """Run what was submitted, as workers would; the names of the flows."""
    names = [flow.name for flow in flows]
    with open_job_store(settings) as jobs:
        while flows:
            run_flow_locally(flows.pop(0), jobs, folder)
    return names


def test_a_screen_goes_on_when_the_same_is_typed_again(settings: E3RelaxSettings, sent: list, tmp_path: Path) -> None:
    settings = load_settings()
    maker = ScreenMaker(engine=EmtEngine(), control=0, chunk_size=1)
    with open_screen_stores(settings) as stores:
        items = [make_item("Cu"), make_item("Ag")]
        screen_id = str(register_screen(stores, maker, items, settings, place="remote")[0].screen_id)
    progress = start_screen(screen_id, settings)
    assert "type the same again when the predictions are done" in progress.lines[-1]
    assert [flow.name for flow in sent] == ["e3r chunk 0", "e3r chunk 1"]
    assert {job.config.manager_config["worker"] for flow in sent for job in flow.jobs} == {"gpu"}
    start_screen(screen_id, settings)
    assert len(sent) == 2
    run(sent, settings, tmp_path)
    assert start_screen(screen_id, settings).lines == []
    assert [flow.name for flow in sent] == ["e3r candidate Cu", "e3r candidate Ag"]
    cancelled = cancel_screen(screen_id, settings)
    assert "2 are at workers and end by themselves" in " ".join(cancelled.lines)
    resume_screen(screen_id, settings)
    start_screen(screen_id, settings)
    assert run(sent, settings, tmp_path) == ["e3r candidate Cu", "e3r candidate Ag"]
    assert refresh_screen(screen_id, settings).phase == "finished"
    with open_screen_stores(settings) as stores:
        assert load_screen(stores, screen_id).counts == {"successful": 2}


def test_one_bad_structure_does_not_hold_up_the_others(predictor: TablePredictor, sent: list, tmp_path: Path) -> None:
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


def test_a_worker_that_the_project_has_not_is_named_before_anything_is_sent(
    settings: E3RelaxSettings, sent: list, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("E3RELAX_WORKERS", '{"dft": {"worker": "cluster"}}')
    settings = load_settings()
    maker = ScreenMaker(engine=EmtEngine(), control=0)
    with open_screen_stores(settings) as stores:
        screen_id = str(register_screen(stores, maker, [make_item("Cu")], settings, place="remote")[0].screen_id)
    with pytest.raises(ConfigError, match="role dft names worker 'cluster'"):
        start_screen(screen_id, settings)
    assert sent == []


def test_a_job_store_without_a_place_for_large_parts_is_told(settings: E3RelaxSettings, sent: list) -> None:
    sys.modules["jobflow_remote"].ConfigManager().get_project().get_jobstore().additional_stores.clear()
    settings = load_settings()
    with open_screen_stores(settings) as stores:
        maker = ScreenMaker(engine=EmtEngine(), control=0)
        screen_id = str(register_screen(stores, maker, [make_item("Cu")], settings, place="remote")[0].screen_id)
    with pytest.raises(
        ConfigError, match=r"'EMT relax' keeps .* 'data', .* to jobstore in the file of project 'metals'"
    ):
        start_screen(screen_id, settings)
    assert sent == []
