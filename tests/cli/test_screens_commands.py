"""`e3relax screen status | resume | cancel`, and the word `run` that may be left out."""

from __future__ import annotations

import json
import re

import pytest
from pymatgen.core import Lattice, Structure

from e3relax_flows.candidates.items import ReadItem
from e3relax_flows.core.errors import ConfigError
from e3relax_flows.core.settings import load_settings
from e3relax_flows.engines import get_engine, register_engine
from e3relax_flows.ledger.store import open_outcome_store
from e3relax_flows.schemas.screens import CandidateState
from e3relax_flows.screening import local
from e3relax_flows.screening.maker import ScreenMaker
from e3relax_flows.screening.place import open_place
from e3relax_flows.screening.register import register_screen
from e3relax_flows.screening.store import find_rows, open_screen_stores
from e3relax_flows.testing import EMT_ENTRY, EMT_LATTICES


@pytest.fixture
def metals(tmp_path):
    """Cu and Ag, strained by 4 %, and an engine "emt"."""
    register_engine("emt", EMT_ENTRY, overwrite=True)
    folder = tmp_path / "metals"
    folder.mkdir()
    for element in ("Cu", "Ag"):
        half = EMT_LATTICES[element] * 1.04 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        Structure(lattice, [element], [[0, 0, 0]]).to_file(str(folder / f"{element}.json"))
    return folder


@pytest.mark.slow
@pytest.mark.usefixtures("predictor")
def test_a_budget_then_the_rest(e3relax, metals, tmp_path):
    arguments = (metals, "--engine", "emt", "--control", 0, "--out", tmp_path / "out")
    assert "no screens" in e3relax("screen", "status").stdout
    dry = e3relax("screen", "run", *arguments, "--budget", 1, "--dry-run")
    assert dry.code == 0
    assert "2 candidates; 0 duplicates left out, 0 unreadable" in dry.stdout
    assert "at most 1 candidates relaxed with emt" in dry.stdout
    plan = json.loads(e3relax("screen", "run", *arguments, "--budget", 1, "--dry-run", "--json").stdout)
    assert (plan["candidates"], plan["relaxed_at_most"], plan["engine"]) == (2, 1, "emt")
    assert "no screens" in e3relax("screen", "status").stdout
    assert e3relax("screen", "run", *arguments, "--budget", 1).code == 0
    (found,) = json.loads(e3relax("screen", "status", "--json").stdout)
    screen_id = found["screen_id"]
    assert (found["phase"], found["counts"]) == ("finished", {"successful": 1, "left": 1})
    assert screen_id in e3relax("screen", "status").stdout
    told = e3relax("screen", "status", screen_id[:8]).stdout
    assert "finished, the budget of 1 candidates is spent" in told
    assert "2 candidates: 1 successful, 1 left" in told
    assert "1 candidates submitted of 1" in told
    assert f"e3relax screen resume {screen_id} (--budget N" in told
    for command, words in (("resume", "1 candidates would be requeued"), ("cancel", "0 candidates would be")):
        dry = e3relax("screen", command, "screen", "--dry-run")
        assert words in dry.stdout
        assert "nothing was done" in dry.stdout
        told = json.loads(e3relax("screen", command, "screen", "--dry-run", "--json").stdout)
        assert told["would"][0].startswith(words)
        assert told["counts"] == found["counts"]
    (same,) = json.loads(e3relax("screen", "status", "--json").stdout)
    assert (same["phase"], same["counts"]) == (found["phase"], found["counts"])
    result = e3relax("screen", "resume", "screen", "--budget", 2, "--out", tmp_path / "out")
    assert result.code == 0
    assert "1 candidates are requeued" in result.stderr
    assert "2 relaxed" in result.stdout
    assert json.loads(e3relax("screen", "status", screen_id, "--json").stdout)["counts"] == {"successful": 2}
    assert "Cu" in e3relax("table", screen_id).stdout
    for again in (("run", *arguments), ("resume", screen_id, "--out", tmp_path / "out")):
        told = json.loads(e3relax("screen", *again, "--json").stdout)
        assert (told["screen_id"], told["counts"]) == (screen_id, {"successful": 2})
        assert told["page"] == str(tmp_path / "out" / "report.html")


@pytest.mark.slow
@pytest.mark.usefixtures("predictor")
def test_an_interrupt_says_how_to_go_on_and_cancelling_stops(e3relax, metals, monkeypatch, tmp_path):
    arguments = ("screen", metals, "--engine", "emt", "--control", 0, "--out", tmp_path / "out")
    run = local.run_flow_locally

    def interrupt(flow, *others):
        if flow.name.startswith("e3r candidate"):
            raise KeyboardInterrupt
        return run(flow, *others)

    with monkeypatch.context() as patch:
        patch.setattr(local, "run_flow_locally", interrupt)
        result = e3relax(*arguments)
    assert result.code == 130
    (screen_id,) = re.findall(r"interrupted; `e3relax screen resume (\w+) --out \S+` continues it", result.stderr)
    told = json.loads(e3relax("screen", "cancel", screen_id, "--json").stdout)
    assert (told["phase"], told["counts"]) == ("cancelled", {"cancelled": 2})
    assert json.loads(e3relax("screen", "resume", screen_id, "--dry-run", "--json").stdout)["would"][0].startswith("2 ")
    cancelled = e3relax("screen", "cancel", screen_id).stdout
    assert "0 candidates are cancelled" in cancelled
    assert f"screen {screen_id} is cancelled (cancelled): 2 cancelled" in cancelled
    assert e3relax("screen", "resume", screen_id, "--out", tmp_path / "out").code == 0
    assert json.loads(e3relax("screen", "status", screen_id, "--json").stdout)["counts"] == {"successful": 2}


@pytest.mark.usefixtures("predictor")
def test_a_dry_run_does_not_count_what_was_never_read(e3relax, metals, tmp_path):
    (metals / "Xx.json").write_text("no crystal")
    result = e3relax("screen", metals, "--engine", "emt", "--control", 0, "--out", tmp_path / "out", "--json")
    told = json.loads(result.stdout)
    assert told["counts"] == {"successful": 2, "error": 1}
    dry = e3relax("screen", "resume", told["screen_id"], "--dry-run")
    assert "0 candidates would be requeued" in dry.stdout


@pytest.mark.usefixtures("predictor")
def test_an_unknown_screen_is_one_message(e3relax):
    for command in ("status", "resume", "cancel"):
        result = e3relax("screen", command, "nothing")
        assert result.code == 2
        assert "screen 'nothing' is not in" in result.stderr
    assert "run" in e3relax("screen", "--help").stdout


@pytest.mark.slow
@pytest.mark.usefixtures("predictor")
def test_only_what_failed_with_a_text_in_its_error_is_retried(e3relax, metals, settings, tmp_path):
    for element in ("W", "Mo"):  # EMT has no potential for these, and names the element
        half = EMT_LATTICES["Cu"] * 1.04 / 2
        lattice = Lattice([[0, half, half], [half, 0, half], [half, half, 0]])
        Structure(lattice, [element], [[0, 0, 0]]).to_file(str(metals / f"{element}.json"))
    ran = e3relax("screen", metals, "--engine", "emt", "--control", 0, "--out", tmp_path / "out", "--json")
    found = json.loads(ran.stdout)
    assert found["counts"] == {"successful": 2, "failed": 2}
    screen_id = found["screen_id"]

    def read_rows():
        with open_screen_stores(settings) as stores:
            return {row.id: row for row in find_rows(stores, screen_id, list(CandidateState))}

    before = read_rows()
    assert "for Mo" in before["Mo"].outcomes[0].message
    resume = ("screen", "resume", screen_id, "--out", tmp_path / "out")
    alone = e3relax(*resume, "--error", "for Mo")
    assert (alone.code, "add --retry-failed" in alone.stderr) == (2, True)
    wrong = e3relax(*resume, "--retry-failed", "--error", "out of memory")
    assert wrong.code == 2
    assert "has 'out of memory' in its error (2 failed: 1 × " in wrong.stderr
    dry = e3relax(*resume, "--retry-failed", "--error", "FOR mo", "--dry-run")
    assert dry.stdout.startswith("1 candidates would be requeued")
    assert read_rows() == before
    again = e3relax(*resume, "--retry-failed", "--error", "FOR mo")
    assert (again.code, "1 candidates are requeued" in again.stderr) == (1, True)
    after = read_rows()
    assert {name: row for name, row in after.items() if name != "Mo"} == {
        name: row for name, row in before.items() if name != "Mo"
    }
    assert after["Mo"].state == "failed"
    assert after["Mo"].outcomes[0].recorded > before["Mo"].outcomes[0].recorded


@pytest.mark.usefixtures("predictor")
def test_a_screen_of_a_flow_that_ended_early_goes_on_here(e3relax, metals, tmp_path):
    """The flow has registered the screen; `resume` predicts and relaxes, and typed twice it does nothing twice."""
    items = [ReadItem(path.stem, Structure.from_file(path), None) for path in sorted(metals.iterdir())]
    settings = load_settings()
    with open_screen_stores(settings) as stores:
        maker = ScreenMaker(engine=get_engine("emt"), control=0.0)
        screen, _ = register_screen(stores, maker, items, settings, place="flow")
    for _ in range(2):
        result = e3relax("screen", "resume", screen.screen_id, "--out", tmp_path / "out")
        assert result.code == 0
        (found,) = json.loads(e3relax("screen", "status", "--json").stdout)
        assert (found["phase"], found["counts"]) == ("finished", {"successful": 2})
    with open_outcome_store(settings) as store:
        assert store.count() == 2


def test_a_place_that_is_none_is_refused(settings):
    message = r"'cluster' .*known: local, fireworks, remote, flow"
    with pytest.raises(ConfigError, match=message), open_place("cluster", settings, "a test"):
        pass
