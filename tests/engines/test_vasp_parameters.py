"""What corrections of energies look at, read from VASP's documents."""

from __future__ import annotations

import gzip
from pathlib import Path
from types import SimpleNamespace

import pytest
from jobflow import JobStore, run_locally
from maggma.stores import MemoryStore
from pymatgen.io.vasp import Poscar
from task_documents import build_salt, relax_salt, vasp_output

from e3relax_flows.engines import get_engine
from e3relax_flows.engines.vasp_documents import read_parameters, read_vasp_documents
from e3relax_flows.ledger.energies import Correction, correct_energy, make_entry
from e3relax_flows.ledger.joining import join_outcome
from e3relax_flows.schemas.outcomes import StartKind
from e3relax_flows.schemas.predictions import PredictionDoc, PredictOptions, Verdict

RECORDED = Path(__file__).resolve().parents[2].parent / "shared" / "vasp"
POTCARS = [{"titel": "PAW_PBE Na_pv 19Sep2006", "hash": "a"}, {"titel": "PAW_PBE Cl 06Sep2000", "hash": "b"}]
CHLORIDE_CORRECTION = -0.614  # eV per chlorine atom, MP2020Compatibility.yaml


def make_document(cutoff: int = 520) -> dict:
    start = build_salt()
    used = {"structure": start.as_dict(), "potcar_spec": POTCARS, "hubbards": {}, "is_hubbard": False}
    document = vasp_output(start, relax_salt(start), input__parameters={"ISIF": 3, "ENCUT": cutoff})
    document["calcs_reversed"][0]["input"] = used
    return document


def test_parameters_are_those_of_the_run_that_gave_the_energy():
    document = make_document()
    assert read_parameters(document) == {"hubbards": {}, "potcar_spec": POTCARS, "encut": 520}
    objects = [SimpleNamespace(**spec, summary_stats={}) for spec in POTCARS]
    document["calcs_reversed"][0]["input"]["potcar_spec"] = objects
    document["calcs_reversed"][0]["input"]["hubbards"] = {"Na": 2.0}
    assert read_parameters(document) == {"hubbards": {"Na": 2.0}, "potcar_spec": POTCARS, "encut": 520}
    assert read_parameters(vasp_output(build_salt(), build_salt())) == {"hubbards": {}, "potcar_spec": []}


@pytest.mark.parametrize(("cutoff", "correction"), [(520, CHLORIDE_CORRECTION), (680, None)])
def test_a_relaxation_with_the_settings_of_the_materials_project_gets_its_corrections(cutoff, correction):
    start = build_salt()
    prediction = PredictionDoc(
        prediction_id="p", structure_id="s", initial=start, structure=start, verdict=Verdict.ACCEPT, model_id="m",
        options=PredictOptions(),
    )  # fmt: skip
    result = read_vasp_documents([make_document(cutoff)])
    outcome = join_outcome(prediction, StartKind.PREDICTED, "vasp-mp-gga", "e", result, None)
    energy = correct_energy(make_entry(outcome), Correction.MP2020)
    assert energy.is_comparable == (correction is not None)
    assert energy.correction == pytest.approx(correction or 0.0)
    assert energy.entry.energy == pytest.approx(-6.75 + (correction or 0.0))


@pytest.mark.skipif(not RECORDED.is_dir(), reason=f"recorded VASP runs are not at {RECORDED}")
def test_a_recorded_run_of_the_materials_project_flow_is_comparable(tmp_path, monkeypatch):
    from atomate2.utils.testing.vasp import monkeypatch_vasp

    folders = {"MP GGA relax 1": "Si_mp_gga_relax/GGA_Relax_1", "MP GGA relax 2": "Si_mp_gga_relax/GGA_Relax_2"}
    with gzip.open(RECORDED / folders["MP GGA relax 1"] / "inputs" / "POSCAR.gz", "rt") as file:
        start = Poscar.from_str(file.read()).structure
    engine, store = get_engine("vasp-mp-gga"), JobStore(MemoryStore(), additional_stores={"data": MemoryStore()})
    monkeypatch.chdir(tmp_path)
    for set_folders in monkeypatch_vasp(monkeypatch, RECORDED, nelect=8):
        set_folders(folders, {job: {"check_inputs": ("kpoints",), "incar_settings": ()} for job in folders})
        flow = engine.make(start)
        run_locally(flow, store=store, create_folders=True, raise_immediately=True, log=False)
        result = engine.read([reference.resolve(store) for reference in engine.collect_outputs(flow)])
    assert result.parameters["encut"] == 520
    assert [spec["titel"].split()[:2] for spec in result.parameters["potcar_spec"]] == [["PAW_PBE", "Si"]]
    assert result.parameters["hubbards"] == {}
