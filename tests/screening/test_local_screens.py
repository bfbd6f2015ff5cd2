"""Screens of this process: registered, run, limited, interrupted, cancelled, requeued."""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.reading import ReadItem
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import E3RelaxSettings, load_settings
from e3relax_flows.ledger.claims import ClaimDoc, open_claim_store, release_claims, take_claim
from e3relax_flows.ledger.store import find_outcomes, open_outcome_store
from e3relax_flows.prerelax.predict import PrerelaxMaker
from e3relax_flows.schemas.candidates import RankByTable
from e3relax_flows.schemas.screens import CandidateState, ScreenDoc, ScreenLimits, ScreenRow, Submitted
from e3relax_flows.screening.advance import advance_screen
from e3relax_flows.screening.control import cancel_screen, refresh_screen, resume_screen
from e3relax_flows.screening.local import LocalPlace, run_screen_here
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import (
    find_rows,
    find_screen,
    list_screens,
    load_screen,
    open_screen_stores,
    read_chunk,
)
from e3relax_flows.testing import EMT_LATTICES, EmtEngine, TablePredictor

ELEMENTS = ("Cu", "Ag", "Au", "Pt", "Pd")


def make_cell(element: str, strain: float = 1.03) -> Structure:
    half = EMT_LATTICES[element] * strain / 2
    return Structure(Lattice([[0, half, half], [half, 0, half], [half, half, 0]]), [element], [[0, 0, 0]])


def make_items() -> list[ReadItem]:
    """Five metals, the first twice, and a file that could not be read."""
    items = [ReadItem(element, make_cell(element), None) for element in ELEMENTS]
    return [*items, ReadItem("again", make_cell("Cu"), None), ReadItem("bad", None, "bad.cif: no crystal")]


def register(settings: E3RelaxSettings, items: list[ReadItem] | None = None, **changes: Any) -> str:
    maker = ScreenMaker(**{"engine": EmtEngine(), "control": 0, "chunk_size": 2, **changes})
    with open_screen_stores(settings) as stores:
        screen, _ = register_screen(stores, maker, items or make_items(), load_settings(MODEL="table"))
    return str(screen.screen_id)


def limit(settings: E3RelaxSettings, screen_id: str, **limits: Any) -> None:
    resume_screen(screen_id, settings, ScreenLimits(**limits))


def load(settings: E3RelaxSettings, screen_id: str) -> ScreenDoc:
    with open_screen_stores(settings) as stores:
        return load_screen(stores, screen_id)


@pytest.fixture(autouse=True)
def _use_table(predictor: TablePredictor) -> None:
    """No network is loaded."""


def test_a_screen_is_registered_once_by_its_content(settings: E3RelaxSettings) -> None:
    first = register(settings)
    assert register(settings) == first
    assert register(settings, control=0.5) != first
    assert register(settings, make_items()[1:]) != first
    assert register(settings, retry_failed=True) == first  # what is tried again decides on no result
    assert register(settings, chunk_size=3) == first  # nor does how many are predicted by one job
    assert register(settings, one_launch=True, prerelax=PrerelaxMaker(name="other", device="cuda:1")) == first
    with open_screen_stores(settings) as stores:
        assert {screen.screen_id for screen in list_screens(stores)} >= {first}
        assert stores.rows.count({"screen_id": first}) == 7
        chunks = [read_chunk(stores, first, number) for number in range(3)]
        assert [chunk.ids for chunk in chunks] == [["Cu", "Ag"], ["Au", "Pt"], ["Pd"]]
        assert chunks[1].unpack()[0] == make_cell("Au")
    screen = load(settings, first)
    assert [row.id for row in screen.candidates] == [*ELEMENTS, "again", "bad"]
    assert screen.candidates[-1].message == "bad.cif: no crystal"
    assert screen.counts == {"waiting": 5, "duplicate": 1, "error": 1}


def test_what_a_parser_warned_of_stands_in_the_row_of_the_candidate(settings: E3RelaxSettings, tmp_path: Path) -> None:
    noted = ReadItem("Cu", make_cell("Cu"), None, "Cu.cif: Defaulting to P1")
    screen_id = register(settings, [noted, ReadItem("Ag", make_cell("Ag"), None)])
    assert [row.note for row in load(settings, screen_id).candidates] == ["Cu.cif: Defaulting to P1", None]
    run_screen_here(screen_id, settings, tmp_path / "jobs")
    rows = {row.id: row for row in load(settings, screen_id).candidates}
    assert (rows["Cu"].note, rows["Ag"].note) == ("Cu.cif: Defaulting to P1", None)
    assert rows["Cu"].state == "successful"


def test_a_registration_that_was_killed_is_completed(
    settings: E3RelaxSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    from e3relax_flows.screening import register as module

    save_rows, calls = module.save_rows, []

    def die(*arguments: Any) -> int:
        calls.append(arguments)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return save_rows(*arguments)

    with monkeypatch.context() as patch:
        patch.setattr(module, "save_rows", die)
        with pytest.raises(KeyboardInterrupt):
            register(settings)
    screen_id = register(settings)
    assert load(settings, screen_id).counts == {"waiting": 5, "duplicate": 1, "error": 1}
    assert load(settings, screen_id).n_chunks == 3


def test_nothing_to_screen_is_an_error_with_its_reason(settings: E3RelaxSettings) -> None:
    with pytest.raises(ConfigError, match=r"\(bad\.cif: no crystal\)"):
        register(settings, make_items()[-1:])


def test_screens_are_found_by_id_digits_and_name(settings: E3RelaxSettings) -> None:
    first, second = register(settings, name="metals"), register(settings, name="others")
    with open_screen_stores(settings) as stores:
        for name in (first, first[:6], "metals"):
            assert find_screen(stores, name).screen_id == first
        with pytest.raises(ConfigError, match=r"screen 'nothing' .*metals.*others"):
            find_screen(stores, "nothing")
        register(settings, name="metals", seed=1)
        with pytest.raises(ConfigError, match=rf"'metals' .*{first} \(metals\), [0-9a-f]{{16}} \(metals\);"):
            find_screen(stores, "metals")
    assert first != second


def test_a_screen_runs_to_its_end_and_nothing_runs_again(
    settings: E3RelaxSettings, tmp_path: Path, predictor: TablePredictor
) -> None:
    screen_id = register(settings, control=1.0, paired_controls=True)
    names: Counter[str] = Counter()
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs", lambda report: names.update([report.name]))
    assert screen.phase == "finished"
    assert screen.counts == {"successful": 5, "duplicate": 1, "error": 1}
    assert names == {"e3r predict": 3, "e3r claim": 10, "EMT relax": 10, "e3r outcome": 10}
    assert screen.core_hours > 0
    found = load(settings, screen_id)
    rows = {row.id: row for row in found.candidates}
    assert rows["again"].duplicate_of == "Cu"
    for element in ELEMENTS:
        steps = {outcome.start_kind: outcome.n_ionic_steps for outcome in rows[element].outcomes}
        assert 1 <= steps["predicted"] <= steps["control"]
    with open_outcome_store(settings) as store:
        outcomes = find_outcomes(store)
    assert len(outcomes) == 10
    assert {outcome.id for outcome in outcomes.values()} == set(ELEMENTS)
    assert predictor.n_predicted == 5
    names.clear()
    again = run_screen_here(screen_id, settings, tmp_path / "jobs", lambda report: names.update([report.name]))
    assert again.counts == screen.counts
    assert not names
    # another screen of the same finds all outcomes
    other = register(settings, control=1.0, paired_controls=True, name="other")
    run_screen_here(other, settings, tmp_path / "jobs")
    found = load(settings, other)
    assert all(outcome.reused for row in found.candidates for outcome in row.outcomes)
    assert (found.n_submitted, found.core_hours) == (0, 0)


def test_equal_predictions_are_found_across_chunks(settings: E3RelaxSettings, tmp_path: Path) -> None:
    """The network scales to the same cell what was strained differently."""
    items = [ReadItem(f"{element}-{strain}", make_cell(element, strain), None) for strain in (1.03, 0.97, 1.06)
             for element in ("Cu", "Ag")]  # fmt: skip
    screen_id = register(settings, items)
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert screen.counts == {"successful": 2, "duplicate": 4}
    duplicates = {row.id: row.duplicate_of for row in load(settings, screen_id).candidates if row.duplicate_of}
    assert duplicates == {"Cu-0.97": "Cu-1.03", "Cu-1.06": "Cu-1.03", "Ag-0.97": "Ag-1.03", "Ag-1.06": "Ag-1.03"}
    apart = register(settings, items, deduplicate=False)
    assert run_screen_here(apart, settings, tmp_path / "jobs").counts == {"successful": 6}


def test_a_budget_of_candidates_and_a_larger_one(settings: E3RelaxSettings, tmp_path: Path) -> None:
    numbers = tmp_path / "numbers.json"
    numbers.write_text(json.dumps({"Cu": 3, "Ag": 1, "Au": 5, "Pt": 4, "Pd": 2}))
    with open_screen_stores(settings) as stores:
        maker = ScreenMaker(engine=EmtEngine(), control=0, chunk_size=2)
        ranking = RankByTable(by="table", file=numbers)
        screen_id = str(
            register_screen(stores, maker, make_items(), load_settings(MODEL="table"), ranking)[0].screen_id
        )
    limit(settings, screen_id, candidates=2)
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert (screen.phase, screen.message) == ("finished", "the budget of 2 candidates is spent")
    states = {row.id: str(row.state) for row in load(settings, screen_id).candidates}
    assert {name for name, state in states.items() if state == "successful"} == {"Ag", "Pd"}
    assert {name for name, state in states.items() if state == "left"} == {"Cu", "Pt", "Au"}
    limit(settings, screen_id, candidates=3)
    assert run_screen_here(screen_id, settings, tmp_path / "jobs").counts["left"] == 2
    assert {row.id: row.state for row in load(settings, screen_id).candidates}["Cu"] == "successful"


def test_a_budget_of_core_hours_ends_a_screen(settings: E3RelaxSettings, tmp_path: Path) -> None:
    items = [ReadItem(f"Cu{n}", make_cell("Cu", 1 + 0.001 * n), None) for n in range(30)]
    screen_id = register(settings, items, deduplicate=False, chunk_size=30)
    limit(settings, screen_id, core_hours=1e-9)
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert "the budget of 1e-09 core hours is spent" in str(screen.message)
    assert 0 < screen.counts["successful"] < 30
    assert screen.counts["successful"] + screen.counts["left"] == 30


def test_what_was_interrupted_goes_on(
    settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from e3relax_flows.screening import local

    screen_id, runs = register(settings), []
    run = local.run_flow_locally

    def interrupt(flow: Any, *arguments: Any) -> Any:
        runs.append(flow.name)
        if len(runs) == 6:
            raise KeyboardInterrupt
        return run(flow, *arguments)

    with monkeypatch.context() as patch:
        patch.setattr(local, "run_flow_locally", interrupt)
        with pytest.raises(KeyboardInterrupt):
            run_screen_here(screen_id, settings, tmp_path / "jobs")
    interrupted = load(settings, screen_id)
    assert interrupted.counts == {"planned": 3, "successful": 2, "duplicate": 1, "error": 1}
    assert interrupted.n_submitted == 2  # the three that were taken and did not end spend no budget
    names: Counter[str] = Counter()
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs", lambda report: names.update([report.name]))
    assert (screen.phase, names["EMT relax"], names["e3r predict"]) == ("finished", 3, 0)
    assert load(settings, screen_id).n_submitted == 5


def test_rows_of_a_process_that_is_gone_are_taken_up(settings: E3RelaxSettings, tmp_path: Path) -> None:
    import platform
    import subprocess
    import sys

    gone = subprocess.Popen([sys.executable, "-c", ""])
    gone.wait()
    screen_id = register(settings)
    limit(settings, screen_id, candidates=0)
    run_screen_here(screen_id, settings, tmp_path / "jobs")
    limit(settings, screen_id)

    class OtherProcesses(LocalPlace):
        def submit(self, screen: ScreenDoc, rows: Sequence[ScreenRow]) -> None:  # noqa: ARG002
            for row, host, pid in zip(rows, (platform.node(), "elsewhere"), (gone.pid, 1), strict=True):
                row.submitted = Submitted(place="local", host=host, pid=pid)

    advance_screen(screen_id, settings, OtherProcesses(), at_most=2)
    assert load(settings, screen_id).counts["submitted"] == 2
    resume_screen(screen_id, settings)
    with open_screen_stores(settings) as stores:
        (row,) = find_rows(stores, screen_id, [CandidateState.SUBMITTED])
        assert row.submitted == Submitted(place="local", host="elsewhere", pid=1)
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert (screen.phase, screen.counts["submitted"], screen.counts["successful"]) == ("relaxing", 1, 4)


def test_what_another_flow_relaxes_is_held_and_its_outcome_taken(settings: E3RelaxSettings, tmp_path: Path) -> None:
    screen_id = register(settings)
    limit(settings, screen_id, candidates=0)
    run_screen_here(screen_id, settings, tmp_path / "jobs")
    row = next(row for row in load(settings, screen_id).candidates if row.id == "Pt")
    outcome_id = row.outcomes[0].outcome_id
    with open_claim_store(settings) as claims:
        take_claim(claims, ClaimDoc(claim_id=outcome_id, owner="other", flow="other", manager="fireworks"))
    limit(settings, screen_id)
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert (screen.phase, screen.counts["held"], screen.counts["successful"]) == ("relaxing", 1, 4)
    assert "is being relaxed by other on" in str(
        next(row for row in load(settings, screen_id).candidates if row.id == "Pt").message
    )
    with open_claim_store(settings) as claims:
        release_claims(claims, [outcome_id])
    other = register(settings, name="the other flow")
    run_screen_here(other, settings, tmp_path / "jobs")
    screen = refresh_screen(screen_id, settings)
    assert (screen.phase, screen.counts["successful"]) == ("finished", 5)
    assert next(row for row in load(settings, screen_id).candidates if row.id == "Pt").outcomes[0].reused


def test_cancelled_and_resumed(settings: E3RelaxSettings, tmp_path: Path) -> None:
    screen_id = register(settings)
    assert cancel_screen(screen_id, settings).lines == ["5 candidates are cancelled"]
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert (screen.phase, screen.counts["cancelled"]) == ("cancelled", 5)
    assert resume_screen(screen_id, settings).lines == ["5 candidates are requeued"]
    assert run_screen_here(screen_id, settings, tmp_path / "jobs").counts["successful"] == 5


def test_failures_are_tried_again_when_asked(
    settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from e3relax_flows.testing import EmtEngine as Engine

    screen_id = register(settings, control=1.0, paired_controls=True)
    with monkeypatch.context() as patch:
        patch.setattr(Engine, "read", lambda *_: 1 / 0)
        screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert (screen.phase, screen.counts["failed"]) == ("finished", 5)
    assert resume_screen(screen_id, settings).lines == []
    assert run_screen_here(screen_id, settings, tmp_path / "jobs").counts["failed"] == 5
    resume_screen(screen_id, settings, retry_failed=True)
    assert run_screen_here(screen_id, settings, tmp_path / "jobs").counts["successful"] == 5


def test_a_failed_prediction_job_costs_its_chunk_and_is_tried_again(
    settings: E3RelaxSettings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    screen_id, predict = register(settings), TablePredictor.predict

    def fail(self: TablePredictor, structures: Any, *arguments: Any, **options: Any) -> Any:
        if any(structure[0].specie.symbol == "Au" for structure in structures):
            raise RuntimeError("out of memory")
        return predict(self, structures, *arguments, **options)

    with monkeypatch.context() as patch:
        patch.setattr(TablePredictor, "predict", fail)
        screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert screen.counts == {"successful": 3, "duplicate": 1, "error": 3}
    lost = {row.id: str(row.message) for row in load(settings, screen_id).candidates if row.id in ("Au", "Pt")}
    assert all("the prediction job of its chunk failed" in message for message in lost.values())
    assert resume_screen(screen_id, settings).lines == ["2 candidates are requeued"]
    screen = run_screen_here(screen_id, settings, tmp_path / "jobs")
    assert screen.counts == {"successful": 5, "duplicate": 1, "error": 1}
