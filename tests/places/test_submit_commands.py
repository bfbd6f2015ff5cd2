"""`e3relax screen --submit` and `e3relax screen recover` on a real launchpad."""

from __future__ import annotations

import json
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path

import pytest
from launchpads import Campaign
from pymatgen.core import Lattice, Structure

from e3relax_flows.cli.app import main
from e3relax_flows.engines import register_engine
from e3relax_flows.places.recovery import recover_launchpad
from e3relax_flows.testing import EMT_ENTRY, TablePredictor


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr(sys, "argv", ["e3relax", *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        main()
    return int(stop.value.code or 0)


@pytest.fixture
def metals(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, predictor: TablePredictor) -> Path:  # noqa: ARG001
    """Two structures, a file that is none, and an engine "emt"."""
    register_engine("emt", EMT_ENTRY, overwrite=True)
    folder = tmp_path / "metals"
    folder.mkdir()
    for element, a in (("Cu", 3.7), ("Ag", 4.2)):
        cell = Structure(Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]), [element], [[0, 0, 0]])
        cell.to(str(folder / f"{element}.json"))
    return folder


def test_a_screen_is_submitted_once(
    campaign: Campaign, metals: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("E3RELAX_WORKERS", json.dumps({"predict": {"category": "gpu"}, "light": {"category": "login"}}))
    command = ("screen", metals, "--engine", "emt", "--submit", "fireworks")
    assert run(monkeypatch, *command) == 0
    captured = capsys.readouterr()
    first, second = captured.out.strip().splitlines()
    assert first == "1 prediction jobs are submitted"
    assert "is predicting: 2 waiting; see: e3relax screen status " in second
    assert "e3relax.sqlite is a file: fine as long as" in captured.err.replace("\n", " ")
    assert run(monkeypatch, *command) == 0
    assert capsys.readouterr().out.strip() == second
    # another fraction of controls is another screen
    (metals / "broken.cif").write_text("no crystal")
    assert run(monkeypatch, *command, "--control", "0.5") == 1
    captured = capsys.readouterr()
    assert "is predicting: 2 waiting, 1 error" in captured.out
    assert "broken" in captured.err
    assert run(monkeypatch, *command, "--control", "0.7", "--dry-run") == 1
    assert "2 candidates; 0 duplicates left out, 1 unreadable" in capsys.readouterr().out
    with closing((pad := campaign.open_pad()).connection):
        categories = Counter((item["name"], item["spec"]["_category"]) for item in pad.fireworks.find({}))
        assert categories == {("e3r predict", "gpu"): 2, ("e3r advance", "login"): 2}
        pad.workflows.update_one({"nodes": 1}, {"$set": {"locked": True}})
    quick = {**(recover_launchpad.__kwdefaults__ or {}), "pause_s": 0.2}
    monkeypatch.setattr(recover_launchpad, "__kwdefaults__", quick)
    assert run(monkeypatch, "screen", "recover", "--dry-run") == 0
    assert capsys.readouterr().out == (
        "1 workflows were locked and are unlocked\nnothing was changed: that was a dry run\n"
    )
    capsys.readouterr()
    assert run(monkeypatch, "screen", "recover", "--dry-run", "--json") == 0
    planned = json.loads(capsys.readouterr().out)
    assert (planned["dry_run"], planned["locked"], planned["lost"]) == (True, [1], [])
    assert run(monkeypatch, "screen", "recover") == 0
    assert run(monkeypatch, "screen", "recover") == 0
    assert capsys.readouterr().out == "1 workflows were locked and are unlocked\nnothing to recover\n"
