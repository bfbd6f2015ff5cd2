"""The numbered scripts run: on a folder, on two candidates, as a flow that is only printed."""

from __future__ import annotations

import json
import runpy
from pathlib import Path

import pytest
from pymatgen.core import Structure

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


@pytest.fixture
def run_script(settings, monkeypatch, small_model):
    """Run a script of `workflows/` with arguments; gives its exit code."""
    monkeypatch.setenv("E3RELAX_MODEL", str(small_model))
    assert settings.DATA_DIR.is_absolute()

    def run(name: str, *arguments: object) -> int:
        monkeypatch.setattr("sys.argv", [name, *map(str, arguments)])
        with pytest.raises(SystemExit) as stop:
            runpy.run_path(str(WORKFLOWS / name), run_name="__main__")
        return int(stop.value.code or 0)

    return run


def test_scripts_are_numbered_and_say_their_duty_first():
    names = sorted(path.name for path in WORKFLOWS.glob("*.py"))
    assert [name[:3] for name in names] == [f"{number:02d}_" for number in range(1, len(names) + 1)]
    assert all((WORKFLOWS / name).read_text(encoding="utf-8").startswith('"""') for name in names)


def test_a_folder_is_predicted_and_its_accepted_structures_written(run_script, tmp_path, wurtzite, capsys):
    (tmp_path / "in").mkdir()
    wurtzite.to_file(str(tmp_path / "in" / "good.json"))
    (tmp_path / "in" / "bad.cif").write_text("no crystal")
    assert run_script("01_predict_folder.py", tmp_path / "in", "--out", tmp_path / "out") == 1
    assert [path.name for path in (tmp_path / "out").iterdir()] == ["good.vasp"]
    written = Structure.from_file(tmp_path / "out" / "good.vasp")
    assert written.composition == wurtzite.composition
    assert written.volume != pytest.approx(wurtzite.volume, rel=1e-4)
    assert "bad.cif" in capsys.readouterr().out


def test_the_demo_relaxes_candidates_from_both_starts(run_script, tmp_path, capsys):
    pytest.importorskip("chgnet", reason="the demo's engine is an extra: pip install 'e3relax-flows[mlip]'")
    assert run_script("02_screen_substitutions.py", "--n", 1, "--out", tmp_path / "out") == 0
    document = json.loads((tmp_path / "out" / "screen.json").read_text())
    (row,) = document["candidates"]
    assert row["id"] == "rock salt NaBr from NaCl"
    assert {outcome["start_kind"] for outcome in row["outcomes"]} == {"predicted", "control"}
    assert all(1 < outcome["n_ionic_steps"] < 50 for outcome in row["outcomes"])
    output = capsys.readouterr().out
    assert "a potential, not DFT" in output
    assert str(tmp_path / "out" / "report.html") in output


def test_the_demo_says_when_there_is_no_model(run_script, monkeypatch, capsys):
    monkeypatch.setenv("E3RELAX_MODEL", "none-such")
    assert run_script("02_screen_substitutions.py", "--n", 1) == 2
    assert "e3relax models list" in capsys.readouterr().err


def test_a_prediction_takes_the_place_of_the_first_relaxation(run_script, capsys):
    assert run_script("03_prerelax_in_atomate2_flow.py") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:] == ["  e3r predict 1", "  relax 2 after e3r predict 1"]
