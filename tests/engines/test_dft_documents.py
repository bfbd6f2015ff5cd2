"""Documents of CP2K, FHI-aims and JDFTx after atomate2's schemas, and of ABINIT as its real runs left them."""

from __future__ import annotations

import copy
import gzip
import json
from pathlib import Path
from typing import Any

import pytest
from dft_documents import aims_output, cp2k_output, jdftx_output
from task_documents import MINIMUM, build_salt, vasp_output

from e3relax_flows.core.errors import EngineError, StartUnknownError
from e3relax_flows.engines.dft_documents import find_form, read_dft_documents
from e3relax_flows.engines.dft_functionals import identify_functional
from e3relax_flows.engines.task_reader import TaskReader
from e3relax_flows.schemas.pairs import Freedom

RAW, NEAR, RELAXED = build_salt(5.9), build_salt(5.63), build_salt(MINIMUM)


def test_an_aims_relaxation_is_read():
    result = read_dft_documents([aims_output(RAW, RELAXED, n_steps=4)], "FHI-aims")
    assert (result.code, result.functional, result.is_dft, result.converged) == ("FHI-aims", "PBEsol", True, True)
    assert (result.n_ionic_steps, result.n_electronic_steps, result.energy) == (4, None, -16900.5)
    assert (result.initial.volume, result.relaxed.volume) == pytest.approx((RAW.volume, RELAXED.volume))
    assert result.free == Freedom()
    held = read_dft_documents([aims_output(RAW, RAW, relax_unit_cell="none")], "FHI-aims")
    assert held.free == Freedom(volume=False, shape=False)
    angles = read_dft_documents([aims_output(RAW, RAW, relax_unit_cell="fixed_angles")], "FHI-aims")
    assert angles.free == Freedom(shape=False)


def test_a_jdftx_relaxation_is_read():
    result = read_dft_documents([jdftx_output(RAW, RELAXED, n_steps=5)], "JDFTx")
    assert (result.code, result.functional, result.is_dft, result.converged) == ("JDFTx", "PBE", True, True)
    assert (result.n_ionic_steps, result.energy, result.wall_time_s) == (5, -410.25, 81.5)
    ionic = jdftx_output(RAW, RAW, task_type="Ionic Optimization")
    ionic["calc_outputs"]["parameters"]["converged"] = False
    result = read_dft_documents([ionic], "JDFTx")
    assert (result.converged, result.free) == (False, Freedom(volume=False, shape=False))


def test_a_cp2k_relaxation_is_read():
    result = read_dft_documents([cp2k_output(RAW, RELAXED, n_steps=6)], "CP2K")
    assert (result.code, result.functional, result.is_dft, result.converged) == ("CP2K", "PBE", True, True)
    assert (result.n_ionic_steps, result.n_electronic_steps, result.energy) == (6, None, -215.25)
    counted = {**cp2k_output(RAW, RELAXED), "n_ionic_steps": 7, "n_electronic_steps": 54, "has_relaxed": True}
    result = read_dft_documents([counted], "CP2K")
    assert (result.n_ionic_steps, result.n_electronic_steps, result.converged) == (7, 54, True)
    assert not read_dft_documents([counted | {"has_relaxed": False}], "CP2K").converged
    assert (result.wall_time_s, result.free) == (92.0, Freedom())
    assert TaskReader().read(cp2k_output(RAW, RELAXED)) == read_dft_documents([cp2k_output(RAW, RELAXED)], "CP2K")
    angles = cp2k_output(RAW, RAW, motion="    KEEP_ANGLES TRUE\n")
    assert read_dft_documents([angles], "CP2K").free == Freedom(shape=False)
    ionic = cp2k_output(RAW, RAW, run_type="GEO_OPT")
    assert read_dft_documents([ionic], "CP2K").free == Freedom(volume=False, shape=False)
    # CP2K ends in good order at its last allowed step, 20
    assert not read_dft_documents([cp2k_output(RAW, RELAXED, n_steps=21)], "CP2K").converged
    assert TaskReader().read(cp2k_output(RAW, RAW, run_type="ENERGY_FORCE")) is None


def test_two_relaxations_are_one_result_and_a_static_gives_its_energy():
    static = aims_output(RELAXED, RELAXED, n_steps=1)
    static["input"]["parameters"].pop("relax_geometry")
    static["output"]["energy"] = -16901.0
    documents = [aims_output(RAW, NEAR, n_steps=4), aims_output(NEAR, RELAXED, n_steps=2), static]
    result = read_dft_documents(documents, "FHI-aims")
    assert (result.n_ionic_steps, result.energy, result.converged) == (6, -16901.0, True)
    assert result.initial.volume == pytest.approx(RAW.volume)
    assert not read_dft_documents([*documents[:2], None], "FHI-aims").converged


def test_codes_are_told_apart():
    assert find_form(aims_output(RAW, RELAXED)).code == "FHI-aims"
    assert find_form(jdftx_output(RAW, RELAXED)).code == "JDFTx"
    assert find_form(cp2k_output(RAW, RELAXED)).code == "CP2K"
    assert find_form({"input": {"structure": {}}, "output": {}}) is None
    vasp = vasp_output(RAW, RELAXED)
    assert TaskReader().read(vasp).code == "VASP"


def test_documents_without_a_relaxation_are_errors():
    with pytest.raises(EngineError, match=r" 1 .*FHI-aims .*\(1 "):
        read_dft_documents([aims_output(RAW, RAW, relax_geometry="none")], "FHI-aims")
    with pytest.raises(EngineError, match="first JDFTx "):
        read_dft_documents([None, jdftx_output(RAW, RELAXED)], "JDFTx")
    broken = aims_output(RAW, RELAXED)
    broken["output"]["energy"] = None
    with pytest.raises(EngineError, match=r"host:/scratch/aims .* None eV"):
        read_dft_documents([broken], "FHI-aims")


def read_recorded(code: str) -> list[dict[str, Any]]:
    """Documents of our own runs of a code."""
    folder = Path(__file__).resolve().parents[1] / "files"
    return json.loads((folder / f"{code.lower()}_documents.json").read_text())


RECORDED = read_recorded("ABINIT")


@pytest.mark.parametrize(
    ("code", "place", "kind", "ionic", "electronic", "volumes", "energy"),
    [
        ("ABINIT", 0, "predicted", 7, 31, (40.132, 40.910), -230.25117),
        ("ABINIT", 1, "control", 10, 42, (46.026, 40.902), -230.25117),
        ("CP2K", 0, "predicted", 13, 82, (41.093, 44.136), -235.44305),
        ("CP2K", 1, "control", 13, 90, (40.354, 44.154), -235.44168),
    ],
)
def test_real_relaxations_are_read(code, place, kind, ionic, electronic, volumes, energy):
    record = read_recorded(code)[place]
    assert record["metadata"]["start_kind"] == kind
    document = record["output"]
    assert find_form(document).code == code
    result = TaskReader().read(document)
    assert (result.code, result.functional, result.converged) == (code, "PBE", True)
    assert (result.n_ionic_steps, result.n_electronic_steps) == (ionic, electronic)
    assert (result.initial.volume, result.relaxed.volume) == pytest.approx(volumes, abs=1e-3)
    assert result.energy == pytest.approx(energy, abs=1e-4)
    assert result.free == Freedom()
    assert result.wall_time_s > 1


def test_what_abinit_leaves_free_and_its_restarts_are_seen():
    document = copy.deepcopy(RECORDED[0]["output"])
    arguments = document["input"]["abinit_input"]["abi_args"]

    def change(**values):
        changed = copy.deepcopy(document)
        kept = [pair for pair in arguments if pair[0] not in values]
        changed["input"]["abinit_input"]["abi_args"] = [*kept, *([name, value] for name, value in values.items())]
        return changed

    expected = {0: (False, False), 1: (True, False), 2: (True, True), 3: (False, True)}
    for optcell, (volume, shape) in expected.items():
        free = TaskReader().read(change(optcell=optcell)).free
        assert (free.volume, free.shape) == (volume, shape), optcell
    assert TaskReader().read(change(optcell=0, ionmov=0)) is None  # a static
    with pytest.raises(StartUnknownError, match=r"host:/scratch/abinit/0 .*ATOMATE2_ABINIT_MAX_RESTARTS=0"):
        TaskReader().read(change(irdwfk=1))
    unconverged = document | {"state": "unconverged"}
    assert not TaskReader().read(unconverged).converged


def test_abinit_is_counted_by_its_output(tmp_path):
    output = tmp_path / "run.abo"
    output.write_text(ABINIT_OUTPUT)
    pytest.importorskip("abipy", reason="the job's module needs it: pip install 'atomate2[abinit]'")
    from e3relax_flows.engines.abinit_jobs import count_abinit_steps

    assert count_abinit_steps(output) == {"n_ionic_steps": 2, "n_electronic_steps": 5, "wall_time_s": 64.3}
    assert count_abinit_steps(tmp_path / "none") == {}


def test_cp2k_is_counted_by_its_output(tmp_path):
    from e3relax_flows.engines.cp2k_jobs import count_cp2k_steps

    assert count_cp2k_steps(tmp_path) == {}
    (tmp_path / "cp2k.out").write_text(CP2K_OUTPUT)
    assert count_cp2k_steps(tmp_path) == {"n_ionic_steps": 3, "n_electronic_steps": 434, "has_relaxed": False}
    (tmp_path / "cp2k.out").unlink()
    completed = CP2K_OUTPUT + " *** GEOMETRY OPTIMIZATION COMPLETED ***\n"
    (tmp_path / "cp2k.out.gz").write_bytes(gzip.compress(completed.encode()))
    assert count_cp2k_steps(tmp_path)["has_relaxed"]


# lines of CP2K 2023.1
CP2K_OUTPUT = """
     8 Broy./Diag. 0.30E+00   10.0     0.00000327        -8.6501253845  8.36E-05

  *** SCF run converged in     8 steps ***
 OPTIMIZATION STEP:      1
  Leaving inner SCF loop after reaching   400 steps.
  *** SCF run converged in    20 steps ***
 OPTIMIZATION STEP:      2
  *** SCF run converged in     6 steps ***
"""

ABINIT_OUTPUT = """
--- Iteration: ( 1/40) Internal Cycle: (1/1)
--------------------------------------------------------------------------------

     iter   Etot(hartree)      deltaE(h)  residm     vres2
 ETOT  1  -8.4398425265846    -8.440E+00 4.129E-03 5.519E+00
 ETOT  2  -8.4461241412301    -6.282E-03 2.131E-07 1.353E-01
 ETOT  3  -8.4461614313014    -3.729E-05 6.231E-06 6.120E-03

--- Iteration: ( 2/40) Internal Cycle: (1/1)
 ETOT  1  -8.4476425265846    -8.440E+00 4.129E-03 5.519E+00
 ETOT 12  -8.4491241412301    -6.282E-03 2.131E-07 1.353E-01
+Overall time at end (sec) : cpu=         60.1  wall=         64.3
"""


@pytest.mark.parametrize(
    ("parameters", "functional", "words"),
    [
        ({"xc": "pbe", "vdw_correction_hirshfeld": True}, "PBE+TS", None),
        ({"xc": "pbe", "many_body_dispersion": ""}, "PBE+MBD", None),
        ({"charge": 1.0}, "PBEsol", "charge = 1.0: a charge"),
        ({"charge": 0.0, "external_pressure": 0.0}, "PBEsol", None),
        ({"external_pressure": 0.01}, "PBEsol", "an outer pressure"),
        ({"homogeneous_field": [0.0, 0.0, 0.1]}, "PBEsol", "an electric field"),
    ],
)
def test_conditions_of_aims_are_told(parameters, functional, words):
    result = TaskReader().read(aims_output(RAW, RELAXED, **parameters))
    assert result.functional == functional
    assert len(result.conditions) == (words is not None)
    assert words is None or words in result.conditions[0]


@pytest.mark.parametrize(
    ("tags", "words"),
    [
        ({"fluid": {"type": "LinearPCM"}}, "an implicit solvent"),
        ({"fluid": {"type": "None"}}, None),
        ({"elec-initial-charge": {"charge": 1}}, "a charge"),
        ({"target-mu": {"mu": -0.2}}, "a constant electron potential"),
        ({"van-der-waals": "D3"}, "dispersion"),
    ],
)
def test_conditions_of_jdftx_are_told(tags, words):
    document = jdftx_output(RAW, RELAXED)
    document["calc_inputs"]["jdftxinfile"] |= tags
    result = TaskReader().read(document)
    assert (result.functional, len(result.conditions)) == ("PBE", words is not None)
    assert words is None or words in result.conditions[0]


@pytest.mark.parametrize(
    ("variables", "functional", "words"),
    [
        ({"vdw_xc": 7}, "PBE+D3-BJ", None),
        ({"usepawu": 1, "cellcharge": [0.0], "spinmagntarget": -99.99}, "PBE+U", None),
        ({"vdw_xc": 14}, "PBE", "vdw_xc = 14"),
        ({"strtarget": [-1e-4] * 3 + [0.0] * 3}, "PBE", "an outer stress"),
        ({"spinmagntarget": 2.0}, "PBE", "a fixed total moment"),
        ({"nspinor": 2}, "PBE", "moments of any direction"),
        ({"cellcharge": [1.0]}, "PBE", "a charge"),
    ],
)
def test_conditions_of_abinit_are_told(variables, functional, words):
    document = {"input": {"xc": "PBE", "abinit_input": {"abi_args": [list(item) for item in variables.items()]}}}
    name, conditions = identify_functional("ABINIT", document, "PBE")
    assert (name, len(conditions)) == (functional, words is not None)
    assert words is None or words in conditions[0]


def make_section(keywords: dict[str, Any], **subsections: Any) -> dict[str, Any]:
    """A section of CP2K's input in pymatgen's form."""
    words = {name: {"name": name, "values": [value]} for name, value in keywords.items()}
    return {"keywords": words, "subsections": subsections}


@pytest.mark.parametrize(
    ("dft", "motion", "functional", "words"),
    [
        (make_section({}), {}, "PBE", None),
        (make_section({"CHARGE": 0}), {"EXTERNAL_PRESSURE": 100.0}, "PBE", None),
        (make_section({"CHARGE": 1}), {}, "PBE", "CHARGE = 1: a charge"),
        (make_section({}, XC=make_section({}, VDW=make_section({"TYPE": "DFTD3(BJ)"}))), {}, "PBE+D3-BJ", None),
        (make_section({}, EFIELD=make_section({})), {}, "PBE", "an electric field"),
        (make_section({}), {"EXTERNAL_PRESSURE": 500000.0}, "PBE", "an outer pressure"),
    ],
)
def test_conditions_of_cp2k_are_told(dft, motion, functional, words):
    tree = make_section({}, FORCE_EVAL=make_section({"METHOD": "QS"}, DFT=dft), MOTION=make_section(motion))
    name, conditions = identify_functional("CP2K", {"calcs_reversed": [{"input": {"cp2k_input": tree}}]}, "PBE")
    assert (name, len(conditions)) == (functional, words is not None)
    assert words is None or words in conditions[0]
