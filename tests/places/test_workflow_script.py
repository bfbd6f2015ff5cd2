"""The script that submits flows, against a real launchpad."""

from __future__ import annotations

import runpy
from contextlib import closing
from pathlib import Path

import pytest
from launchpads import Campaign
from pymatgen.core import Lattice, Structure

from e3relax_flows.engines import register_engine
from e3relax_flows.testing import EMT_ENTRY

SCRIPT = Path(__file__).resolve().parents[2] / "workflows" / "08_submit_to_launchpad.py"


def run(monkeypatch: pytest.MonkeyPatch, *arguments: object) -> int:
    monkeypatch.setattr("sys.argv", [SCRIPT.name, *map(str, arguments)])
    with pytest.raises(SystemExit) as stop:
        runpy.run_path(str(SCRIPT), run_name="__main__")
    return int(stop.value.code or 0)


@pytest.mark.usefixtures("predictor")
def test_each_structure_is_a_flow_that_is_submitted_once(
    campaign: Campaign, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    register_engine("emt", EMT_ENTRY, overwrite=True)
    folder = tmp_path / "metals"
    folder.mkdir()
    for element, a in (("Cu", 3.7), ("Ag", 4.2)):
        cell = Structure(Lattice([[0, a / 2, a / 2], [a / 2, 0, a / 2], [a / 2, a / 2, 0]]), [element], [[0, 0, 0]])
        cell.to(str(folder / f"{element}.json"))
    command = (folder, "--engine", "emt")
    with closing((pad := campaign.open_pad()).connection):
        assert run(monkeypatch, *command, "--dry-run") == 0
        assert "2 flows would be submitted" in capsys.readouterr().out
        assert pad.workflows.count_documents({}) == 0
        assert run(monkeypatch, *command) == 0
        assert "4 jobs in 2 flows submitted" in capsys.readouterr().out
        assert run(monkeypatch, *command) == 0
        assert "2 flows had been submitted before (READY)" in capsys.readouterr().out
        assert sorted(each["name"] for each in pad.workflows.find({})) == ["Ag", "Cu"]
        (folder / "broken.cif").write_text("no crystal")
        assert run(monkeypatch, *command) == 1
        assert "broken.cif" in capsys.readouterr().err
    assert run(monkeypatch, folder / "broken.cif") == 2
    assert "no structure" in capsys.readouterr().err
