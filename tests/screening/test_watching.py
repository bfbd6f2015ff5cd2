"""The live view of a screen: read from the stores, nothing written."""

from __future__ import annotations

import io
import json
from datetime import timedelta

import pytest
from pymatgen.core import Lattice, Structure
from rich.console import Console

from e3relax_flows import Engine
from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.cli.screen_watch import dump_view, render_view, watch
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.store import open_outcome_store
from e3relax_flows.report import console
from e3relax_flows.schemas.screens import CandidateState, ScreenPhase
from e3relax_flows.screening.local import run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import find_rows, find_screen, open_screen_stores, save_rows, save_screen
from e3relax_flows.screening.watching import ScreenView, view_screen
from e3relax_flows.testing import EMT_LATTICES, EmtEngine

METALS = ("Cu", "Ag", "Au")


def make_item(element: str) -> ReadItem:
    half = EMT_LATTICES.get(element, 4.0) * 1.04 / 2
    return ReadItem(
        element, Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), [element], [[0] * 3]), None
    )


@pytest.fixture
def screen_id(settings: E3RelaxSettings, predictor, tmp_path) -> str:  # noqa: ARG001
    """Three metals, each from both starts, and tungsten, which EMT does not know; all are done."""
    engine: Engine = EmtEngine()
    maker = ScreenMaker(engine=engine, control=1.0, paired_controls=True)
    with open_screen_stores(settings) as stores:
        items = [make_item(element) for element in (*METALS, "W")]
        screen, _ = register_screen(stores, maker, items, load_settings(MODEL="table"))
    run_screen_here(str(screen.screen_id), settings, tmp_path / "jobs")
    return str(screen.screen_id)


def look(settings: E3RelaxSettings, screen_id: str, **terms) -> ScreenView:
    with open_screen_stores(settings) as stores, open_outcome_store(settings) as outcomes:
        return view_screen(stores, outcomes, screen_id, **terms)


def test_a_screen_that_has_ended(settings, screen_id, monkeypatch, capsys):
    view = look(settings, screen_id)
    assert view.has_ended
    assert view.counts == {"successful": 3, "failed": 1}
    assert (view.per_hour, view.seconds_left) == (None, None)
    assert view.ionic.n_pairs == 3
    assert 0 < view.ionic.ratio < 1
    assert view.electronic is None
    (failure,) = view.failures
    assert (failure.id, failure.state) == ("W", "failed")
    assert "No EMT-potential for W" in failure.message
    text = io.StringIO()
    Console(file=text, width=120).print(render_view(view))
    shown = text.getvalue()
    assert "finished; engine" in shown
    assert f"took {view.ionic.ratio:.0%} of the ionic steps" in shown
    assert "No EMT-potential for W" in shown
    dumped = json.loads(json.dumps(dump_view(view)))
    assert dumped["savings"]["ionic"]["n_pairs"] == 3
    assert dumped["failures"][0]["moment"] == failure.moment.isoformat()
    with pytest.raises(ConfigError, match="add --once, or --json"):
        watch(screen_id)
    watch(screen_id[:6], as_json=True)
    assert json.loads(capsys.readouterr().out)["counts"] == {"successful": 3, "failed": 1}
    terminal = Console(file=io.StringIO(), force_terminal=True, width=100)
    monkeypatch.setattr(console, "out", terminal)
    watch(screen_id, once=False)  # live; the screen has ended, so the view ends
    assert "last failures" in terminal.file.getvalue()


def test_what_nobody_has_settled_is_counted_and_nothing_is_written(settings, screen_id):
    """As on a launchpad: outcomes have come, and the rows still say submitted."""
    with open_screen_stores(settings) as stores:
        screen = find_screen(stores, screen_id)
        rows = find_rows(stores, screen_id, list(CandidateState))
        ends = sorted(max(planned.recorded for planned in row.outcomes) for row in rows)
        for row in rows:
            row.state = CandidateState.SUBMITTED
            for planned in row.outcomes:
                planned.state = planned.recorded = None
        extra = rows[0].model_copy(update={"id": "new", "row_key": f"{screen_id}:new", "number": 9, "outcomes": []})
        save_rows(stores, rows, list(CandidateState))
        save_rows(stores, [extra], None)
        screen.phase = ScreenPhase.RELAXING
        save_screen(stores, screen)
        before = list(stores.rows.query({}, sort={"number": 1}))
    moment = ends[0] + timedelta(hours=2)
    view = look(settings, screen_id, moment=moment)
    assert view.counts == {"submitted": 1, "successful": 3, "failed": 1}
    assert view.per_hour == pytest.approx(3 / 2)  # three ends after the first one, in two hours
    assert view.seconds_left == pytest.approx(3600 / 1.5)
    assert not view.has_ended
    with open_screen_stores(settings) as stores:
        assert list(stores.rows.query({}, sort={"number": 1})) == before
