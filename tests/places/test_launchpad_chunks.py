"""Candidates of a potential, many in one launch of a real launchpad: failures, kills, cancels, limits."""

from __future__ import annotations

import os
import signal
import sqlite3
import time
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from chunk_engine import UNKNOWN, NotedChunkEngine
from fault_engine import FOLDER, HELD, HOLD, count_relaxations
from launchpads import Campaign
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.settings import E3RelaxSettings
from e3relax_flows.ledger.claims import find_claims, open_claim_store
from e3relax_flows.ledger.store import find_outcomes, open_outcome_store, open_prediction_store
from e3relax_flows.places.recovery import recover_launchpad
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenLimits
from e3relax_flows.screening import chunks
from e3relax_flows.screening.control import cancel_screen, refresh_screen, resume_screen, start_screen
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import find_rows, load_screen, open_screen_stores
from e3relax_flows.testing import EMT_LATTICES

METALS = ("Cu", "Ag", "Au", "Pt", "Pd", "Al")
TUNGSTEN = "W"  # which EMT does not know
PATIENCE_S = 120.0
FIZZLED = {"state": "FIZZLED"}


@pytest.fixture(autouse=True)
def folder(campaign: Campaign, tmp_path: Path) -> Path:
    """Of the engine's notes, known to workers."""
    campaign.environment[FOLDER] = str(tmp_path)
    return tmp_path


@pytest.fixture(autouse=True)
def _share_out(monkeypatch: pytest.MonkeyPatch) -> None:
    """What this process submits are two launches."""
    monkeypatch.setattr(chunks, "LAUNCHES", 2)


def start(
    campaign: Campaign,
    settings: E3RelaxSettings,
    elements: tuple[str, ...] = METALS,
    limits: ScreenLimits | None = None,
) -> str:
    """Register a screen, predict it at a worker, submit the relaxations from here; its id."""
    items = []
    for element in elements:
        half = EMT_LATTICES.get(element, 4.0) * 1.03 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        items.append(ReadItem(element, Structure(lattice, [element], [[0, 0, 0]]), None))
    with open_screen_stores(settings) as stores:
        maker = ScreenMaker(engine=NotedChunkEngine(), control=0)
        screen_id = str(register_screen(stores, maker, items, settings, place="fireworks")[0].screen_id)
    resume_screen(screen_id, settings, limits)
    start_screen(screen_id, settings)
    campaign.drain_some(1)
    start_screen(screen_id, settings)
    return screen_id


def load(settings: E3RelaxSettings, screen_id: str) -> ScreenDoc:
    with open_screen_stores(settings) as stores:
        return load_screen(stores, screen_id)


def list_launches(campaign: Campaign) -> list[tuple[str, list[str]]]:
    """State and candidates of the fireworks that relax, in the order of submission."""
    with closing((pad := campaign.open_pad()).connection):
        found = pad.fireworks.find({"name": "e3r candidate"}, {"fw_id": 1, "state": 1, "spec.candidates": 1})
        return [(item["state"], item["spec"]["candidates"]) for item in sorted(found, key=lambda item: item["fw_id"])]


def check_ended(settings: E3RelaxSettings, folder: Path, screen_id: str, failed: tuple[str, ...] = ()) -> None:
    """Every candidate ended with one outcome, those that could be relaxed were so once, nothing is held."""
    rows = {row.id: row for row in load(settings, screen_id).candidates}
    assert {name: row.state.value for name, row in rows.items()} == {
        **dict.fromkeys(METALS, "successful"),
        **dict.fromkeys(failed, "failed"),
    }
    with open_outcome_store(settings) as store, open_claim_store(settings) as claims:
        outcomes = find_outcomes(store)
        assert store.count() == len(rows)
        assert find_claims(claims) == {}
    assert {planned.outcome_id for row in rows.values() for planned in row.outcomes} == set(outcomes)
    assert count_relaxations(folder, "ended") == Counter(METALS)


def test_each_of_a_chunk_ends_by_itself(campaign: Campaign, settings: E3RelaxSettings, folder: Path) -> None:
    """One that the engine refuses, and one that fails while it is relaxed, in one launch with others."""
    screen_id = start(campaign, settings, ("Cu", UNKNOWN, TUNGSTEN, *METALS[1:]))
    assert list_launches(campaign) == [
        ("READY", ["Cu", UNKNOWN, TUNGSTEN, "Ag"]),
        ("READY", ["Au", "Pt", "Pd", "Al"]),
    ]
    campaign.drain(2)
    assert refresh_screen(screen_id, settings).phase == "finished"
    assert [state for state, _ in list_launches(campaign)] == ["COMPLETED"] * 2
    check_ended(settings, folder, screen_id, (UNKNOWN, TUNGSTEN))
    messages = {row.id: str(row.outcomes[0].message) for row in load(settings, screen_id).candidates}
    assert messages[UNKNOWN] == f"emt does not know {UNKNOWN}"
    assert "No EMT-potential for W" in messages[TUNGSTEN]
    before = list_launches(campaign)
    resume_screen(screen_id, settings, retry_failed=True)
    start_screen(screen_id, settings)
    assert list_launches(campaign) == [*before, ("READY", [UNKNOWN]), ("READY", [TUNGSTEN])]
    campaign.drain()
    assert refresh_screen(screen_id, settings).phase == "finished"
    check_ended(settings, folder, screen_id, (UNKNOWN, TUNGSTEN))
    assert count_relaxations(folder, "begun")["W"] == 2


def test_a_worker_killed_in_a_chunk_costs_what_it_was_at(
    campaign: Campaign, settings: E3RelaxSettings, folder: Path
) -> None:
    screen_id = start(campaign, settings, (UNKNOWN, *METALS, TUNGSTEN))
    (folder / HOLD).write_text("Ag")
    worker = campaign.start("rapidfire", "--nlaunches", "0")
    deadline = time.monotonic() + PATIENCE_S
    while not (folder / HELD).exists():
        assert time.monotonic() < deadline
        time.sleep(0.05)
    os.kill(worker.pid, signal.SIGKILL)
    worker.communicate()
    (folder / HOLD).unlink()
    with open_outcome_store(settings) as outcomes, open_claim_store(settings) as claims:
        n_recorded, n_held = outcomes.count(), len(find_claims(claims))
    assert n_recorded + n_held in (4, 8)  # the other launch may have been done before
    assert n_held == 2  # silver and gold
    assert len(recover_launchpad(workers_stopped=True, pause_s=0.2).lost) == 1
    campaign.drain(2)
    assert refresh_screen(screen_id, settings).phase == "finished"
    check_ended(settings, folder, screen_id, (UNKNOWN, TUNGSTEN))
    assert count_relaxations(folder, "begun") == Counter((*METALS, "Ag", TUNGSTEN))


def test_a_chunk_is_cancelled_before_it_begins_and_resumed(
    campaign: Campaign, settings: E3RelaxSettings, folder: Path
) -> None:
    screen_id = start(campaign, settings)
    assert cancel_screen(screen_id, settings).lines == ["6 candidates are cancelled"]
    campaign.drain()
    assert count_relaxations(folder, "begun") == Counter()
    assert load(settings, screen_id).counts == {"cancelled": 6}
    resume_screen(screen_id, settings)
    start_screen(screen_id, settings)
    expected = [list(METALS[:3]), list(METALS[3:])]
    assert list_launches(campaign) == [("DEFUSED", part) for part in expected] + [("READY", part) for part in expected]
    campaign.drain()
    assert refresh_screen(screen_id, settings).phase == "finished"
    check_ended(settings, folder, screen_id)


def test_the_end_of_a_chunk_makes_room_for_others(campaign: Campaign, settings: E3RelaxSettings, folder: Path) -> None:
    """Nobody types anything: the worker that ends a chunk submits what the limit allows."""
    screen_id = start(campaign, settings, limits=ScreenLimits(max_in_flight=4))
    assert [len(names) for _, names in list_launches(campaign)] == [2, 2]
    with closing((pad := campaign.open_pad()).connection):
        pad.set_priority(pad.get_fw_ids({"name": "e3r candidate"})[0], 10)
    campaign.drain_some(1)
    launches = list_launches(campaign)
    assert Counter(state for state, _ in launches) == {"COMPLETED": 1, "READY": 3}
    assert [len(names) for _, names in launches] == [2, 2, 1, 1]  # sixteen launches would be shared out by a worker
    with open_screen_stores(settings) as stores:
        assert len(find_rows(stores, screen_id, [CandidateState.SUBMITTED])) == 4
    campaign.drain(2)
    assert load(settings, screen_id).phase == "finished"
    check_ended(settings, folder, screen_id)


def test_what_the_stores_lose_costs_no_other(campaign: Campaign, settings: E3RelaxSettings, folder: Path) -> None:
    """An outcome that is refused, a prediction that is not there; what was relaxed is not relaxed again."""
    screen_id = start(campaign, settings, limits=ScreenLimits(max_in_flight=6))
    refuse = (
        "CREATE TRIGGER refuse BEFORE INSERT ON outcomes WHEN json_extract(NEW.document, '$.id') = 'Cu' "
        "BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
    )
    file = settings.DATA_DIR / "e3relax.sqlite"
    with closing(sqlite3.connect(file)) as connection:
        connection.execute('CREATE TABLE IF NOT EXISTS "outcomes" (id INTEGER PRIMARY KEY, document TEXT NOT NULL)')
        connection.execute(refuse)
        connection.commit()
    with open_prediction_store(settings) as predictions:
        (platinum,) = predictions.query({"id": "Pt"})
        predictions.remove_docs({"id": "Pt"})
    campaign.drain()
    assert load(settings, screen_id).counts == {"successful": 4, "failed": 2}
    assert count_relaxations(folder, "ended") == Counter(name for name in METALS if name != "Pt")
    assert [state for state, _ in list_launches(campaign)] == ["FIZZLED"] * 2
    with closing((pad := campaign.open_pad()).connection):
        errors = [launch["action"]["stored_data"]["_exception"]["_stacktrace"] for launch in pad.launches.find(FIZZLED)]
        assert "1 of 3 outcomes could not be recorded ('Cu': " in errors[0]
        assert "disk I/O error" in errors[0]
        assert f"prediction '{platinum['prediction_id']}' is not in " in errors[1]
        with closing(sqlite3.connect(file)) as connection:
            connection.execute("DROP TRIGGER refuse")
            connection.commit()
        with open_prediction_store(settings) as predictions:
            predictions.update(platinum, key="prediction_id")
        for number in pad.get_fw_ids(FIZZLED):
            pad.rerun_fw(number)
    campaign.drain()
    resume_screen(screen_id, settings, retry_failed=True)
    start_screen(screen_id, settings)
    assert refresh_screen(screen_id, settings).phase == "finished"
    check_ended(settings, folder, screen_id)
