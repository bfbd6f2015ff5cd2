"""Faults of screens in this process, done; the others are in tests/places/test_faults_*.py; see docs/faults.md."""

from __future__ import annotations

import os
import signal
import sqlite3
import sys
import time
from contextlib import closing
from dataclasses import dataclass, field
from pathlib import Path

import fault_engine
import pytest
from atomate2.ase.jobs import EmtRelaxMaker
from fault_engine import ELEMENTS, FOLDER, HELD, HOLD, check_ledger, count_relaxations, make_items, register
from forked import Forked
from jobflow import Maker
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import StoreError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.store import open_outcome_store, open_prediction_store
from e3relax_flows.places.local import run_flow_locally
from e3relax_flows.registry.aliases import promote
from e3relax_flows.registry.models import register_model
from e3relax_flows.schemas.screens import CandidateState
from e3relax_flows.screening import register as registering
from e3relax_flows.screening import store as screenstores
from e3relax_flows.screening.advance import Ended, advance_screen
from e3relax_flows.screening.control import resume_screen
from e3relax_flows.screening.flows import build_chunk_flow
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import find_rows, find_screen, load_screen, open_screen_stores
from e3relax_flows.stores.opening import open_job_store
from e3relax_flows.testing import EMT_LATTICES, EmtEngine


@pytest.fixture(autouse=True)
def folder(settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:  # noqa: ARG001
    """Of the engine's notes."""
    monkeypatch.setenv(FOLDER, str(tmp_path))
    return tmp_path


@pytest.fixture
def table(settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch) -> E3RelaxSettings:
    """Settings in which no network is loaded."""
    monkeypatch.setitem(sys.modules, "e3relax_flows.predict.predictor", None)  # given back at the end
    fault_engine.use_table(settings)
    monkeypatch.setenv("E3RELAX_MODEL", "table")
    return load_settings()


def type_command(folder: Path, place: str) -> Forked:
    """Type a command in a process of its own."""
    return Forked(fault_engine.type_command, place, folder=folder, environment=os.environ)


def test_the_same_typed_twice_at_once(table: E3RelaxSettings, folder: Path) -> None:
    """And one of two that run is killed in the middle of a relaxation: what it had, the next one takes up."""
    (folder / HOLD).touch()
    both = [type_command(folder, "local"), type_command(folder, "local")]
    deadline = time.monotonic() + 120
    while sum(count_relaxations(folder, "begun").values()) < 1:
        assert time.monotonic() < deadline, "".join(each.communicate()[1] for each in both)
        time.sleep(0.05)
    screen_id = register(table)
    with open_screen_stores(table) as stores:  # the one that owns none may have ended
        owners = {
            row.submitted.pid for row in find_rows(stores, screen_id, [CandidateState.SUBMITTED]) if row.submitted
        }
    killed, other = sorted(both, key=lambda each: each.pid not in owners)
    os.kill(killed.pid, signal.SIGKILL)
    killed.communicate()
    (folder / HOLD).unlink()
    _, errors = other.communicate(timeout=120)
    assert other.returncode == 0, errors
    again = type_command(folder, "local")
    _, errors = again.communicate(timeout=120)
    assert again.returncode == 0, errors
    assert (folder / HELD).exists()
    check_ledger(table, folder, screen_id)


@pytest.mark.parametrize("written", [0, 1])
def test_a_registration_that_fails_half_way(
    table: E3RelaxSettings, folder: Path, monkeypatch: pytest.MonkeyPatch, written: int
) -> None:
    """The store refuses after some chunks; typed again, every candidate is there once."""
    save = screenstores.save_rows
    calls: list[int] = []

    def fail(*arguments: object) -> int:
        calls.append(1)
        if len(calls) > written:
            raise StoreError("the disk is full; make room")
        return save(*arguments)  # type: ignore[arg-type]

    with monkeypatch.context() as patch:
        patch.setattr(registering, "save_rows", fail)
        with pytest.raises(StoreError, match="the disk is full"):
            register(table)
    with open_screen_stores(table) as stores:
        assert stores.rows.count() == 4 * written
    screen_id = register(table)
    with open_screen_stores(table) as stores:
        assert stores.rows.count() == len(make_items())
    run_screen_here(screen_id, table, folder / "jobs")
    check_ledger(table, folder, screen_id)


@pytest.mark.parametrize("step", ["_describe", "_write_candidates"])
def test_a_registration_leaves_what_another_has_begun(
    table: E3RelaxSettings, folder: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Before a step of a registration another process registers the same screen and runs it to its end."""
    original = getattr(registering, step)

    def run_other(*arguments: object) -> object:
        monkeypatch.setattr(registering, step, original)
        run_screen_here(register(table), table, folder / "jobs")
        return original(*arguments)

    monkeypatch.setattr(registering, step, run_other)
    screen_id = register(table)
    with open_screen_stores(table) as stores:
        screen = find_screen(stores, screen_id)
    assert (screen.phase, screen.n_chunks) == ("finished", 2)
    check_ledger(table, folder, screen_id)


def test_predictions_are_written_all_or_none(table: E3RelaxSettings, folder: Path) -> None:
    """The store fails at the third document of a chunk."""
    screen_id = register(table)
    with open_prediction_store(table), closing(sqlite3.connect(table.DATA_DIR / "e3relax.sqlite")) as connection:
        connection.execute(
            "CREATE TRIGGER refuse BEFORE INSERT ON predictions WHEN (SELECT COUNT(*) FROM predictions) = 2 "
            "BEGIN SELECT RAISE(FAIL, 'disk I/O error'); END"
        )
        connection.commit()
    run_screen_here(screen_id, table, folder / "jobs")
    with open_prediction_store(table) as store, open_screen_stores(table) as stores:
        assert store.count() == 0
        assert load_screen(stores, screen_id).counts == {"error": len(make_items())}
    with closing(sqlite3.connect(table.DATA_DIR / "e3relax.sqlite")) as connection:
        connection.execute("DROP TRIGGER refuse")
        connection.commit()
    resume_screen(screen_id, table)
    run_screen_here(screen_id, table, folder / "jobs")
    check_ledger(table, folder, screen_id)


def test_an_alias_that_moves_while_a_screen_runs(settings: E3RelaxSettings, folder: Path) -> None:
    """The documents keep the model that it meant when the screen was registered, and the screen goes on with that."""
    from e3relax_flows.model.files import save_model
    from e3relax_flows.model.network import E3RelaxH2

    sizes = {"n_layers": 1, "n_scalars": 8, "n_vectors": 4, "n_tensors": 2, "n_densities": 2, "n_hidden": 8, "l_max": 1}
    models = []
    for number in (6, 7):
        network = E3RelaxH2.from_config({**sizes, "n_scalars": number})
        models.append(register_model(save_model(folder / f"net{number}", network, ""), settings).model_id)
    promote("default", models[0], "first", settings=settings)
    screen_id = register(settings)
    with open_job_store(settings) as jobs:
        run_flow_locally(build_chunk_flow(screen_id, 0), jobs, folder / "jobs")
    advance_screen(screen_id, settings, ended=Ended(chunk=0))
    promote("default", models[1], "second", settings=settings)
    run_screen_here(screen_id, settings, folder / "jobs")
    screen = check_ledger(settings, folder, screen_id)
    assert {row.model_id for row in screen.candidates if row.outcomes} == {models[0]}
    with open_prediction_store(settings) as store:
        assert store.distinct("model_id") == [models[0]]
    assert register(settings) != screen_id  # typed again it is a screen of the other model


@dataclass
class HastyEngine(EmtEngine):
    """Gives up after one step."""

    maker: Maker = field(default_factory=lambda: EmtRelaxMaker(steps=2, relax_kwargs={"fmax": 1e-9}))


def make_crooked_items() -> list[ReadItem]:
    """Metals with an atom out of its place."""
    corners = [[0.08, 0, 0], [0.5, 0.5, 0], [0.5, 0, 0.5], [0, 0.5, 0.5]]
    cells = {name: Structure(Lattice.cubic(EMT_LATTICES[name]), [name] * 4, corners) for name in ELEMENTS[:3]}
    return [ReadItem(name, cell, None) for name, cell in cells.items()]


def test_relaxations_that_never_converge(table: E3RelaxSettings, folder: Path) -> None:
    """They end as unconverged, with the document of what there is, and are not tried again by themselves."""
    maker = ScreenMaker(engine=HastyEngine(), control=0)
    with open_screen_stores(table) as stores:
        screen_id = str(register_screen(stores, maker, make_crooked_items(), table)[0].screen_id)
    for _ in range(2):
        run_screen_here(screen_id, table, folder / "jobs")
        with open_screen_stores(table) as stores:
            counts = load_screen(stores, screen_id).counts
        assert counts == {"unconverged": 3}
        resume_screen(screen_id, table)
    with open_outcome_store(table) as outcomes:
        assert outcomes.count({"state": "unconverged"}) == outcomes.count() == 3
    with open_job_store(table) as jobs:
        assert jobs.count({"name": EmtRelaxMaker().name}) == 3
