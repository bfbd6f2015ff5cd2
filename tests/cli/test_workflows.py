"""The numbered scripts run: on a folder, on two candidates, as a flow that is only printed."""

from __future__ import annotations

import json
import re
import sys
from importlib.util import find_spec
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest
from pymatgen.core import Lattice, Structure
from pymatgen.entries.computed_entries import ComputedEntry

from e3relax_flows.candidates import materials_project as sources_mp
from e3relax_flows.core.model_folders import read_model_folder
from e3relax_flows.core.settings import load_settings
from e3relax_flows.pairs.dataset_store import find_dataset, list_holdouts, open_dataset_stores
from e3relax_flows.pairs.store import iter_pairs, open_pair_store
from e3relax_flows.registry.judgements import find_gates, open_judgements
from e3relax_flows.registry.store import find_alias, find_model_doc

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"


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


def test_elastic_constants_follow_a_relaxation_from_the_prediction(run_script, capsys):
    assert run_script("03_prerelax_in_atomate2_flow.py", "--kind", "elastic") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:4] == [
        "  e3r predict 1",
        "  tight relax 2 after e3r predict 1",
        "  generate_elastic_deformations after tight relax 2",
    ]
    assert lines[-1].startswith("  fit_elastic_tensor after ")


def test_phonons_follow_it_too_where_their_packages_are(run_script, capsys):
    if not all(map(find_spec, ("phonopy", "seekpath"))):
        assert run_script("03_prerelax_in_atomate2_flow.py", "--kind", "phonon") == 2
        assert "pip install 'atomate2[phonons]'" in capsys.readouterr().err
        return
    assert run_script("03_prerelax_in_atomate2_flow.py", "--kind", "phonon") == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[1:3] == ["  e3r predict 1", "  tight relax 2 after e3r predict 1"]
    assert any("generate_phonon_displacements" in line for line in lines)


def test_materials_are_asked_for_exchanged_screened_and_ranked(run_script, tmp_path, monkeypatch, capsys):
    pytest.importorskip("chgnet", reason="the engine is an extra: pip install 'e3relax-flows[mlip]'")
    asked = play_materials_project(monkeypatch)
    options = ("Na-Cl", "--exchange", "Na=K", "--n", 1, "--out", tmp_path / "out")
    assert run_script("05_screen_materials_project.py", *options) == 0
    output = capsys.readouterr().out
    assert "1 candidates of Na-Cl" in output
    last = output.splitlines()[-1].split()
    assert (last[0], last[2:6]) == ("1", ["eV/atom", "above", "hull", "KCl"])
    assert "mp-1" in last
    assert asked == [{"chemsys": ["Na-Cl"], "energy_above_hull": (0, 0.05), "num_sites": (1, 40)}, ["Cl", "K"]]
    (row,) = json.loads((tmp_path / "out" / "screen.json").read_text())["candidates"]
    assert row["state"] == "successful"

    # all is kept: the server is not asked again, nothing is relaxed again
    assert run_script("05_screen_materials_project.py", *options) == 0
    assert len(asked) == 2
    assert run_script("05_screen_materials_project.py", "Na-Cl", "--exchange", "Si=Ge") == 2
    assert "has an element to exchange by Si=Ge" in capsys.readouterr().err


def play_materials_project(monkeypatch):
    """A server with rock salt and the entries of its system in the place of mp-api; gives what it is asked."""
    asked = []
    salt = Structure.from_spacegroup("Fm-3m", Lattice.cubic(5.64), ["Na", "Cl"], [[0, 0, 0], [0.5] * 3])
    salt = salt.get_primitive_structure()

    class Client:
        def __init__(self, **_):
            self.materials = SimpleNamespace(summary=self)

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def search(self, *, fields, all_fields, num_chunks, chunk_size, _page, _sort_fields, deprecated, **terms):
            assert (fields, all_fields, num_chunks, _page, deprecated) == (
                ["material_id", "structure"],
                False,
                1,
                1,
                False,
            )
            assert (chunk_size, _sort_fields) == (sources_mp.PAGE_SIZE, "material_id")
            asked.append(terms)
            return [{"material_id": "mp-1", "structure": salt}]

        def get_entries_in_chemsys(self, elements, additional_criteria):
            assert additional_criteria == {"thermo_types": ["GGA_GGA+U"]}
            asked.append(elements)
            energies = {"K": -1.1, "Cl": -1.8}
            return [ComputedEntry(element, energies[element], entry_id=f"mp-{element}") for element in elements]

    monkeypatch.setitem(sys.modules, "mp_api", ModuleType("mp_api"))
    monkeypatch.setitem(sys.modules, "mp_api.client", SimpleNamespace(MPRester=Client))
    monkeypatch.setattr(sources_mp, "PAUSE_S", 0)
    monkeypatch.setenv("MP_API_KEY", "k" * 32)
    return asked


def test_costs_from_both_starts_are_measured_side_by_side(run_script, tmp_path, capsys):
    pytest.importorskip("chgnet", reason="the engine is an extra: pip install 'e3relax-flows[mlip]'")
    options = ("--engine", "chgnet", "--n", 2, "--out", tmp_path / "out")
    assert run_script("07_measure_dft_savings.py", *options) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "CHGNet-0.3.0, which is a potential and not DFT; predicted | initial"
    for line, name in zip(lines[1:3], ("rock salt NaBr from NaCl", "zinc blende GaP from GaAs"), strict=True):
        predicted, initial = map(int, re.match(rf"  {name}: (\d+) \| (\d+) ionic steps, ", line).groups())
        assert 1 <= predicted < 50
        assert 1 < initial < 50
    assert "potential, not of DFT" in lines[-1]


def test_real_dft_is_what_measures_savings_unless_said_otherwise(run_script, tmp_path, capsys):
    if find_spec("gpaw"):
        assert 'default="gpaw"' in (WORKFLOWS / "07_measure_dft_savings.py").read_text(encoding="utf-8")
        return
    assert run_script("07_measure_dft_savings.py", "--out", tmp_path / "out") == 2
    assert "e3relax-flows[gpaw]" in capsys.readouterr().err


def test_the_loop_of_retraining_runs_and_is_found_again(
    run_script, settings, small_model, tmp_path, monkeypatch, capsys
):
    pytest.importorskip("chgnet", reason="the engine is an extra: pip install 'e3relax-flows[mlip]'")
    monkeypatch.setenv("JOBFLOW_CONFIG_FILE", str(tmp_path / "none.yaml"))
    options = ("--n", 6, "--n-common", 0, "--max-atoms", 3, "--steps", 20, "--model", small_model)
    assert run_script("04_retrain.py", *options, "--out", tmp_path / "proof") == 1
    first = capsys.readouterr().out
    assert "pairs: 6 new; held out: 2 of 2 chemical systems" in first
    assert first.count("the holdout has 2 pairs, at least 20 are needed") == 2
    assert not settings.DATA_DIR.exists()

    own = load_settings()
    assert own.DATA_DIR.parent == tmp_path / "proof"
    alias = find_alias("proof", own)
    assert [move.model_id for move in alias.history] == [read_model_folder(small_model).model_id]
    with open_judgements(own) as judgements, open_dataset_stores(own) as datasets, open_pair_store(own) as store:
        gates = find_gates(judgements, {})
        good, bad = (find_model_doc(gate.challenger_id, own) for gate in gates)
        trained = [find_dataset(datasets, model.dataset_id) for model in (good, bad)]
        (holdout,) = list_holdouts(datasets)
        pairs = list(iter_pairs(store))
    assert [(gate.decision, gate.n_looks) for gate in gates] == [("incomplete", 1), ("incomplete", 2)]
    assert [set(dataset.sources) for dataset in trained] == [{"interstitial"}, {"corrupted"}]
    assert [len(dataset.train + dataset.val) for dataset in trained] == [4, 4]
    assert [dataset.n_quarantined for dataset in trained] == [0, 2]
    true, stretched = (
        {pair.formula: pair for pair in pairs if pair.source == source} for source in ("interstitial", "corrupted")
    )
    assert len(pairs) == 12
    for formula, pair in true.items():
        assert stretched[formula].relaxed.volume == pytest.approx(1.05**3 * pair.relaxed.volume)
        assert stretched[formula].initial == pair.initial
    assert {pair.chemical_system for pair in pairs if pair.pair_id in holdout.pair_ids} == set(holdout.groups)

    assert run_script("04_retrain.py", *options, "--out", tmp_path / "proof") == 1
    again = capsys.readouterr().out
    assert "pairs: nothing new; held out: 2 of 2 chemical systems" in again
    assert all(f"gate {gate.gate_id}: incomplete" in again for gate in gates)
